//! A cursor over untrusted bytes: every read is checked, nothing is copied, nothing panics.

use super::message::Malformed;

/// Reads a message from front to back. Numbers are big-endian, as everywhere in Postgres's protocol.
pub(super) struct Reader<'a> {
    tag: u8,
    length: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of `bytes` and the tag that they begin with.
    pub(super) fn new(bytes: &'a [u8]) -> Result<(u8, Self), Malformed> {
        let mut reader = Reader {
            tag: b'?',
            length: bytes.len(),
            rest: bytes,
        };
        let tag = reader.u8("the message is empty")?;
        reader.tag = tag;
        Ok((tag, reader))
    }

    /// The error for what has just been read.
    #[cold]
    pub(super) fn malformed(&self, what: &'static str) -> Malformed {
        Malformed {
            tag: match self.tag {
                b'!'..=b'~' => char::from(self.tag),
                0..=b' ' | 0x7F.. => char::REPLACEMENT_CHARACTER,
            },
            offset: self.length - self.rest.len(),
            what,
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(self.malformed(what)),
        }
    }

    #[inline]
    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn i16(&mut self, what: &'static str) -> Result<i16, Malformed> {
        self.array(what).map(i16::from_be_bytes)
    }

    #[inline]
    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, Malformed> {
        self.array(what).map(i32::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_be_bytes)
    }

    #[inline]
    pub(super) fn i64(&mut self, what: &'static str) -> Result<i64, Malformed> {
        self.array(what).map(i64::from_be_bytes)
    }

    #[inline]
    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// `length` bytes.
    #[inline]
    pub(super) fn bytes(
        &mut self,
        length: usize,
        what: &'static str,
    ) -> Result<&'a [u8], Malformed> {
        match self.rest.split_at_checked(length) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(self.malformed(what)),
        }
    }

    /// Bytes up to a NUL, which is consumed and not part of the answer.
    pub(super) fn c_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(0, self.rest).ok_or_else(|| self.malformed(what))?;
        let text = self.bytes(end, what)?;
        self.u8(what)?;
        Ok(text)
    }

    /// UTF-8 up to a NUL.
    pub(super) fn c_str(&mut self, what: &'static str) -> Result<&'a str, Malformed> {
        let bytes = self.c_bytes(what)?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed("a name is not UTF-8"))
    }

    /// What has not been read.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may be left behind a whole message.
    #[inline]
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed("bytes follow the end of the message"))
        }
    }
}
