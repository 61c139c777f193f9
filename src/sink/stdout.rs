//! Change events on standard output, one line a change: JSON, or `readable` for people.
//!
//! `{"op":"u","table":"public.a","position":"0/15F2A30:0","before":null,"after":{"id":1,"name":"x"}}`.
//! Values are as in the records' envelope: booleans and numbers where JSON holds them exactly, else
//! Postgres's text. Columns about which nothing is known are left out. Lines of a transaction are kept
//! back until it is committed, up to a bound; a stream cannot take back what it has shown.

mod readable;

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::json::write_string;
use super::{Sink, Wants, Work};
use crate::config::{StdoutForm, StdoutSinkSettings};
use crate::error::{Error, Result};
use crate::model::{
    Cell, Change, Checkpoint, Chunk, ColumnKind, Op, RowRef, Rows, TableChanges, TableName,
    TableSchema,
};

/// Lines kept back at most; a larger transaction is shown as it comes.
const KEPT_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Standard output.
pub struct StdoutSink {
    out: Arc<Mutex<dyn Write + Send>>,
    form: StdoutForm,
    lines: Vec<u8>,
}

impl StdoutSink {
    /// Nothing is connected yet. Where the stream begins (`from`) is for the worker to see to.
    pub fn new(settings: StdoutSinkSettings) -> Self {
        StdoutSink::to(std::io::stdout(), settings.form)
    }

    fn to(out: impl Write + Send + 'static, form: StdoutForm) -> Self {
        StdoutSink {
            out: Arc::new(Mutex::new(out)),
            form,
            lines: Vec::new(),
        }
    }

    fn write(&mut self, table: &TableChanges, change: &Change) {
        match self.form {
            StdoutForm::Json => write_change(&table.schema, &table.rows, change, &mut self.lines),
            StdoutForm::Readable => {
                readable::write_change(&table.schema, &table.rows, change, &mut self.lines);
            }
        }
    }

    /// Writes on a thread of its own: whoever reads may be slow.
    async fn show(&mut self) -> Result<()> {
        let lines = std::mem::take(&mut self.lines);
        let out = Arc::clone(&self.out);
        let write = move || {
            let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
            out.write_all(&lines)?;
            out.flush()
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(written) => written.map_err(not_taken),
            Err(error) => Err(not_taken(error.into())),
        }
    }
}

/// Whether a session ended because nobody reads standard output any more, as with `| head`.
pub fn reader_has_gone(error: &Error) -> bool {
    let cause = std::error::Error::source(error);
    let io = cause.and_then(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

fn not_taken(error: std::io::Error) -> Error {
    Error::halt(
        "standard output takes no more lines",
        "start walferry again with a reader on its standard output",
    )
    .caused_by(error)
}

#[async_trait]
impl Sink for StdoutSink {
    fn wants(&self) -> Wants {
        Wants::Changes
    }

    fn takes_copies(&self) -> bool {
        false
    }

    async fn open(&mut self) -> Result<Option<Checkpoint>> {
        self.lines.clear();
        Ok(None)
    }

    async fn prepare_table(
        &mut self,
        _schema: &TableSchema,
        _newest: Option<&TableSchema>,
    ) -> Result<()> {
        Ok(())
    }

    async fn begin(&mut self, _from: Option<&Checkpoint>) -> Result<()> {
        self.lines.clear();
        Ok(())
    }

    async fn empty(&mut self, _table: &TableName) -> Result<()> {
        Ok(())
    }

    async fn load(&mut self, rows: &TableChanges, _before: u64) -> Result<()> {
        for change in &rows.changes {
            self.write(rows, change);
        }
        Ok(())
    }

    async fn apply(&mut self, work: Work, _more: bool) -> Result<()> {
        match work {
            Work::Changes(Chunk { tables }) => {
                for (table, change) in in_order(&tables) {
                    self.write(table, change);
                    if self.lines.len() > KEPT_MAX_BYTES {
                        self.show().await?;
                    }
                }
                Ok(())
            }
            Work::Net(_plans) => unreachable!("standard output asks for every change"),
        }
    }

    async fn commit(&mut self, _to: &Checkpoint) -> Result<()> {
        self.show().await
    }

    async fn rollback(&mut self) -> Result<()> {
        self.lines.clear();
        Ok(())
    }
}

/// All changes of a chunk in the leader's order, across tables.
fn in_order(tables: &[TableChanges]) -> Vec<(&TableChanges, &Change)> {
    let mut all: Vec<_> = tables
        .iter()
        .flat_map(|table| table.changes.iter().map(move |change| (table, change)))
        .collect();
    all.sort_by_key(|(_, change)| change.position);
    all
}

fn write_change(schema: &TableSchema, rows: &Rows, change: &Change, out: &mut Vec<u8>) {
    let op = match change.op {
        Op::Insert => b'c',
        Op::Update => b'u',
        Op::Delete => b'd',
        Op::Read => b'r',
        Op::Truncate => b't',
    };
    out.extend_from_slice(b"{\"op\":\"");
    out.push(op);
    out.extend_from_slice(b"\",\"table\":");
    write_string(schema.table.to_string().as_bytes(), out);
    out.extend_from_slice(b",\"position\":");
    write_string(change.position.to_string().as_bytes(), out);
    out.extend_from_slice(b",\"before\":");
    write_row(schema, rows, change.before, out);
    out.extend_from_slice(b",\"after\":");
    write_row(schema, rows, change.after, out);
    out.extend_from_slice(b"}\n");
}

fn write_row(schema: &TableSchema, rows: &Rows, row: Option<RowRef>, out: &mut Vec<u8>) {
    let Some(row) = row else {
        out.extend_from_slice(b"null");
        return;
    };
    out.push(b'{');
    let mut first = true;
    for (column, &cell) in schema.columns.iter().zip(rows.row(row)) {
        if cell == Cell::Absent {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        write_string(column.name.as_bytes(), out);
        out.push(b':');
        match rows.text(cell) {
            Some(text) => write_value(column.kind, text, out),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
}

fn write_value(kind: ColumnKind, text: &[u8], out: &mut Vec<u8>) {
    match kind {
        ColumnKind::Bool if text == b"t" => out.extend_from_slice(b"true"),
        ColumnKind::Bool if text == b"f" => out.extend_from_slice(b"false"),
        ColumnKind::Integer => out.extend_from_slice(text),
        // NaN and the infinities are no JSON numbers.
        ColumnKind::Float if text.ends_with(b"N") || text.ends_with(b"y") => {
            write_string(text, out)
        }
        ColumnKind::Float => out.extend_from_slice(text),
        ColumnKind::Bool | ColumnKind::Text => write_string(text, out),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Column, Lsn, Oid, Position, ReplicaIdentity};

    fn schema() -> Arc<TableSchema> {
        let column = |name: &str, oid: u32| Column {
            name: name.to_owned(),
            type_oid: Oid(oid),
            type_modifier: -1,
            type_name: String::new(),
            kind: ColumnKind::of(Oid(oid)),
            not_null: false,
            number: None,
            fill: None,
        };
        Arc::new(TableSchema {
            table: TableName::new("public", "odd \"name\""),
            relation: Oid(1),
            columns: vec![
                column("id", 23),
                column("ok", 16),
                column("x", 701),
                column("note", 25),
            ],
            key: vec![0],
            primary_key: vec![0],
            identity: ReplicaIdentity::Default,
            partitions: 1,
            types: vec![],
            dropped: Vec::new(),
            rewritten: None,
            unpublished: Vec::new(),
            exact: false,
        })
    }

    #[test]
    fn a_change_is_one_line_of_valid_json_with_exact_values() {
        let mut rows = Rows::new(4);
        let mut row = |cells: [Option<&str>; 4]| {
            let row = rows.add_row();
            for (n, text) in cells.iter().enumerate() {
                let cell = text.map_or(Cell::Null, |text| rows.push_text(text.as_bytes()));
                rows.row_mut(row)[n] = cell;
            }
            row
        };
        let before = row([Some("7"), Some("f"), Some("NaN"), None]);
        let after = row([Some("7"), Some("t"), Some("1e+300"), Some("a\"\\\n\u{1}ü")]);
        rows.row_mut(before)[1] = Cell::Absent;
        let change = Change {
            op: Op::Update,
            position: Position {
                commit: Lsn(0x1_0000_00AB),
                ordinal: 3,
            },
            before: Some(before),
            after: Some(after),
            moved: None,
        };
        let mut out = Vec::new();
        write_change(&schema(), &rows, &change, &mut out);
        let line = String::from_utf8(out).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "op": "u", "table": "public.odd \"name\"", "position": "1/AB:3",
            "before": {"id": 7, "x": "NaN", "note": null},
            "after": {"id": 7, "ok": true, "x": 1e300, "note": "a\"\\\n\u{1}ü"},
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_readable_line_names_table_operation_and_row() {
        let mut rows = Rows::new(4);
        let mut keyed = |id: &str| {
            let row = rows.add_row();
            let cell = rows.push_text(id.as_bytes());
            rows.row_mut(row)[0] = cell;
            row
        };
        let (old, new) = (keyed("7"), keyed("8"));
        let change = |op, before, after, moved| Change {
            op,
            position: Position::default(),
            before,
            after,
            moved,
        };
        let mut out = Vec::new();
        for change in [
            change(Op::Delete, Some(old), None, None),
            change(Op::Delete, Some(old), None, Some(new)),
            change(Op::Insert, None, Some(new), Some(old)),
            change(Op::Truncate, None, None, None),
        ] {
            readable::write_change(&schema(), &rows, &change, &mut out);
        }
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text
            .lines()
            .map(|line| &line["00:00:00 ".len()..])
            .collect();
        assert_eq!(
            lines,
            [
                "public.odd \"name\" delete {\"id\":7}",
                "public.odd \"name\" rekey {\"id\":7} -> {\"id\":8}",
                "public.odd \"name\" truncate",
            ]
        );
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_halts_the_sink() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut sink = StdoutSink::to(writer, StdoutForm::Json);
        sink.lines.extend_from_slice(b"{}\n");
        let error = sink.show().await.unwrap_err();
        assert_eq!(error.class(), crate::error::Class::Halt);
        assert!(reader_has_gone(&error));
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(!reader_has_gone(&not_taken(full)));
        assert!(!reader_has_gone(&Error::halt("another", "remedy")));
    }
}
