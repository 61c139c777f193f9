//! Tuples of pgoutput: a column count and, for each column, a kind byte and perhaps a value.
//!
//! A [`Tuple`] exists only after each of its lengths has been checked against the message, so that
//! walking it later is a walk over known bounds that cannot fail.

use super::message::Malformed;
use super::reader::Reader;

/// One column of a tuple, as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// `n`: SQL NULL.
    Null,
    /// `u`: an unchanged TOAST value that was not sent.
    Unchanged,
    /// `t`: Postgres's text.
    Text(&'a [u8]),
    /// `b`: the binary form.
    Binary(&'a [u8]),
}

/// A tuple whose columns have been checked to lie inside the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    /// Number of columns.
    pub(super) columns: u16,
    /// The columns' bytes, checked.
    pub(super) bytes: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// Checks the tuple at the reader's place and moves the reader behind it.
    #[inline]
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = reader.i16("the column count is cut off")?;
        let columns =
            u16::try_from(count).map_err(|_| reader.malformed("the column count is negative"))?;
        let before = reader.rest();
        for _ in 0..columns {
            match reader.u8("a column is cut off")? {
                b'n' | b'u' => {}
                b't' | b'b' => {
                    let length = reader.i32("a column's length is cut off")?;
                    let length = usize::try_from(length)
                        .map_err(|_| reader.malformed("a column's length is negative"))?;
                    reader.bytes(length, "a column's value is cut off")?;
                }
                0..b'b' | b'c'..b'n' | b'o'..b't' | b'v'.. => {
                    return Err(reader.malformed("a column is of no known kind"));
                }
            }
        }
        let length = before.len() - reader.rest().len();
        Ok(Tuple {
            columns,
            bytes: before.split_at(length).0,
        })
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Whether it has no column.
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The columns in order: exactly [`Tuple::len`] of them.
    #[inline]
    pub fn iter(&self) -> Datums<'a> {
        Datums {
            left: self.columns,
            rest: self.bytes,
        }
    }
}

impl<'a> IntoIterator for Tuple<'a> {
    type Item = Datum<'a>;
    type IntoIter = Datums<'a>;

    fn into_iter(self) -> Datums<'a> {
        self.iter()
    }
}

/// Iterator over a tuple's columns.
#[derive(Clone, Debug)]
pub struct Datums<'a> {
    left: u16,
    rest: &'a [u8],
}

impl<'a> Datums<'a> {
    /// Takes a length and as many bytes; [`Tuple::read`] has seen that they are there.
    #[inline]
    fn value(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        self.rest = rest;
        Some(value)
    }
}

impl<'a> Iterator for Datums<'a> {
    type Item = Datum<'a>;

    #[inline]
    fn next(&mut self) -> Option<Datum<'a>> {
        let (&kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.left = self.left.saturating_sub(1);
        match kind {
            b'n' => Some(Datum::Null),
            b'u' => Some(Datum::Unchanged),
            b't' => self.value().map(Datum::Text),
            b'b' => self.value().map(Datum::Binary),
            0..b'b' | b'c'..b'n' | b'o'..b't' | b'v'.. => {
                unreachable!("kind {kind:#x} in a checked tuple")
            }
        }
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Datums<'_> {}
