//! Native: rows as ClickHouse keeps them, column by column, so that it need not take them apart. Pure.
//!
//! The format: <https://clickhouse.com/docs/interfaces/formats/Native>, and `NativeReader.cpp` for what that leaves out.
//! A block is the number of its columns and of its rows as varints, and of each column name and type as Strings, and
//! the values. Those stand one after the other, each as in RowBinary; before those of a `Nullable` column stands a byte
//! for each (1: NULL), and before the elements of arrays where each array ends among them, in 64 bits.

use super::row_binary::{self, Unheld};
use super::types::{Kind, Type};

/// The values of a column.
#[derive(Default)]
pub(super) struct Column {
    /// Of each value whether it is NULL, if the type is `Nullable`.
    nulls: Vec<u8>,
    /// The values; of arrays where they end.
    values: Vec<u8>,
    /// Of arrays.
    elements: Option<Box<Elements>>,
}

#[derive(Default)]
struct Elements {
    values: Column,
    count: u64,
}

impl Column {
    /// Adds a value from the text that Postgres prints, or NULL, or what stands for it: the empty array.
    ///
    /// # Errors
    /// Why the type cannot hold it. The column is of no use then.
    pub(super) fn text(&mut self, of: &Type, text: Option<&[u8]>) -> Result<(), Unheld> {
        match (&of.kind, text) {
            (Kind::Array(_), _) => {
                let mut value = Vec::new();
                row_binary::value(of, text, &mut value)?;
                self.value(of, &value);
                Ok(())
            }
            (kind, None) if of.nullable => {
                self.null(kind);
                Ok(())
            }
            (_, None) => row_binary::value(of, None, &mut self.values),
            (kind, Some(text)) => {
                if of.nullable {
                    self.nulls.push(0);
                }
                row_binary::plain(kind, text, &mut self.values)
            }
        }
    }

    /// Adds what a column has that says nothing: NULL, zero, or nothing at all.
    pub(super) fn nothing(&mut self, of: &Type) {
        if let Kind::Array(_) = of.kind {
            self.array(0);
            return;
        }
        match of.nullable {
            true => self.null(&of.kind),
            false => row_binary::zero(&of.kind, &mut self.values),
        }
    }

    fn null(&mut self, kind: &Kind) {
        self.nulls.push(1);
        row_binary::zero(kind, &mut self.values);
    }

    /// Adds a value of which RowBinary has these bytes.
    pub(super) fn value(&mut self, of: &Type, bytes: &[u8]) {
        let bytes = match (of.nullable, bytes) {
            (true, [0, bytes @ ..]) => {
                self.nulls.push(0);
                bytes
            }
            (true, _null) => return self.null(&of.kind),
            (false, bytes) => bytes,
        };
        let Kind::Array(element) = &of.kind else {
            return self.plain(bytes);
        };
        const WHOLE: &str = "an array has all of its bytes";
        let of = element.of_element();
        let (count, mut at) = row_binary::read_varint(bytes).expect(WHOLE);
        let elements = self.array(count as u64);
        for _ in 0..count {
            let length = row_binary::length(&of, &bytes[at..]).expect(WHOLE);
            elements.value(&of, &bytes[at..at + length]);
            at += length;
        }
    }

    /// Adds a value that is neither `Nullable` nor an array.
    pub(super) fn plain(&mut self, bytes: &[u8]) {
        self.values.extend_from_slice(bytes);
    }

    /// Adds a `Nullable` value; that of NULL is zero.
    pub(super) fn optional(&mut self, value: Option<i64>) {
        self.nulls.push(u8::from(value.is_none()));
        self.plain(&value.unwrap_or(0).to_le_bytes());
    }

    /// Adds a String.
    pub(super) fn string(&mut self, bytes: &[u8]) {
        row_binary::string(bytes, &mut self.values);
    }

    /// Adds an array; its elements are to be added to what is returned.
    pub(super) fn array(&mut self, count: u64) -> &mut Column {
        let elements = self.elements.get_or_insert_default();
        elements.count += count;
        let end = elements.count.to_le_bytes();
        self.values.extend_from_slice(&end);
        &mut elements.values
    }

    /// How many bytes its values have.
    pub(super) fn size_bytes(&self) -> usize {
        let elements = self.elements.as_ref();
        let of_elements = elements.map_or(0, |elements| elements.values.size_bytes());
        self.nulls.len() + self.values.len() + of_elements
    }

    /// Moves its values behind its head.
    pub(super) fn take(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.nulls);
        out.append(&mut self.values);
        if let Some(elements) = &mut self.elements {
            elements.count = 0;
            elements.values.take(out);
        }
    }
}

/// What stands before the values of a column. What a server keeps in another form than its values have, it is sent as
/// what it makes that of: Strings.
pub(super) fn head(name: &str, type_name: &str) -> Vec<u8> {
    let sent = type_name
        .replace("LowCardinality(Nullable(String))", "Nullable(String)")
        .replace("LowCardinality(String)", "String")
        .replace("JSON", "String");
    let mut head = Vec::new();
    row_binary::string(name.as_bytes(), &mut head);
    row_binary::string(sent.as_bytes(), &mut head);
    head
}

/// Begins a block of so many columns and rows.
pub(super) fn begin(columns: usize, rows: usize, out: &mut Vec<u8>) {
    row_binary::varint(columns, out);
    row_binary::varint(rows, out);
}

#[cfg(test)]
#[path = "native_tests.rs"]
mod tests;
