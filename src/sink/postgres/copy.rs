//! COPY … FROM STDIN in text format, streamed from rows in memory.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, pin_mut};
use tokio_postgres::{Client, Statement};

use super::pipeline::{Cause, within};
use crate::model::{RowRef, Rows};

/// Encoded rows are handed to the connection in pieces of about this size.
const PIECE_BYTES: usize = 128 * 1024;

/// Sends `refs` through the COPY `statement`, whose columns are `columns`; how many rows were taken.
pub(super) async fn copy_rows(
    client: &Client,
    statement: &Statement,
    columns: &[usize],
    rows: &Rows,
    refs: impl Iterator<Item = RowRef>,
    limit: Duration,
) -> Result<u64, Cause> {
    let sink = within(limit, client.copy_in::<_, Bytes>(statement)).await?;
    pin_mut!(sink);
    let mut piece = BytesMut::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
    for row in refs {
        encode_row(rows, row, columns, &mut piece);
        if piece.len() >= PIECE_BYTES {
            within(limit, sink.send(piece.split().freeze())).await?;
            piece.reserve(PIECE_BYTES + PIECE_BYTES / 4);
        }
    }
    if !piece.is_empty() {
        within(limit, sink.send(piece.freeze())).await?;
    }
    within(limit, sink.finish()).await
}

/// Appends one line of COPY's text format.
fn encode_row(rows: &Rows, row: RowRef, columns: &[usize], out: &mut BytesMut) {
    let cells = rows.row(row);
    for (n, &column) in columns.iter().enumerate() {
        if n > 0 {
            out.extend_from_slice(b"\t");
        }
        match rows.text(cells[column]) {
            Some(text) => encode_text(text, out),
            None => out.extend_from_slice(b"\\N"),
        }
    }
    out.extend_from_slice(b"\n");
}

/// The escape letter of a byte that has a meaning in COPY's text format.
fn escape_of(byte: u8) -> Option<u8> {
    match byte {
        b'\\' => Some(b'\\'),
        b'\t' => Some(b't'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        _plain => None,
    }
}

fn encode_text(mut text: &[u8], out: &mut BytesMut) {
    while let Some(at) = text.iter().position(|&byte| escape_of(byte).is_some()) {
        out.extend_from_slice(&text[..at]);
        if let Some(letter) = escape_of(text[at]) {
            out.extend_from_slice(&[b'\\', letter]);
        }
        text = &text[at + 1..];
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Cell;

    #[test]
    fn bytes_with_a_meaning_are_escaped_and_null_differs_from_its_letters() {
        let mut rows = Rows::new(5);
        let row = rows.add_row();
        for (column, text) in [(0, "a\tb\nc\rd\\e"), (2, "\\N"), (3, "\\."), (4, "ü\u{b}")] {
            let cell = rows.push_text(text.as_bytes());
            rows.row_mut(row)[column] = cell;
        }
        rows.row_mut(row)[1] = Cell::Null;
        let mut out = BytesMut::new();
        encode_row(&rows, row, &[0, 1, 2, 3, 4], &mut out);
        assert_eq!(
            std::str::from_utf8(&out),
            Ok("a\\tb\\nc\\rd\\\\e\t\\N\t\\\\N\t\\\\.\tü\u{b}\n")
        );
    }
}
