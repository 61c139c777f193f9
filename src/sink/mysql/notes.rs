//! Which versions of a table the follower has shown, in `walferry_columns`: [`shape`] says what is noted.

use super::MySqlSink;
use super::catalog::Found;
use super::ddl::{KEEPING, run};
use super::failure::{plain_error, unreadable};
use super::shape::{self, Note};
use super::wire::literal;
use crate::error::Result;
use crate::model::{TableName, TableSchema};

impl MySqlSink {
    /// What is noted of a table, oldest first.
    pub(super) async fn notes(&mut self, table: &TableName) -> Result<Vec<Note>> {
        let of = self.note_of(table);
        let sql = format!("SELECT leader FROM walferry_columns WHERE {of} ORDER BY noted");
        let rows = self.session()?.wire.rows(&sql).await;
        let rows = rows.map_err(|cause| plain_error(&cause, "reading walferry_columns"))?;
        let notes = rows.into_iter().map(|mut row| {
            let text = row.pop().flatten().unwrap_or_default();
            serde_json::from_str(&text)
                .map_err(|error| unreadable("walferry_columns").caused_by(error))
        });
        notes.collect()
    }

    fn note_of(&self, table: &TableName) -> String {
        format!(
            "{} AND table_schema = {} AND table_name = {}",
            self.me.is_mine(),
            literal(&table.schema),
            literal(&table.name)
        )
    }

    /// Forgets, in the open transaction, the versions behind the one that rows of a copy have: they are met again, and
    /// whether these rows can follow is asked again.
    pub(super) async fn forget_later_notes(&mut self, schema: &TableSchema) -> Result<()> {
        let of = self.note_of(&schema.table);
        // MySQL reads no table that it deletes from, unless it is another one by then.
        let own = format!(
            "SELECT noted FROM walferry_columns WHERE {of} AND version = {}",
            literal(&schema.version().to_string())
        );
        let sql = format!(
            "DELETE FROM walferry_columns WHERE {of} AND noted > (SELECT own.noted FROM ({own}) own)"
        );
        run(&mut self.session()?.wire, &sql, KEEPING).await
    }

    /// Forgets all that is noted of a table.
    pub(super) async fn forget_notes(&mut self, table: &TableName) -> Result<()> {
        let sql = format!("DELETE FROM walferry_columns WHERE {}", self.note_of(table));
        run(&mut self.session()?.wire, &sql, KEEPING).await
    }

    /// Notes a version as the one that the follower shows from now on.
    pub(super) async fn write_note(
        &mut self,
        schema: &TableSchema,
        notes: &[Note],
        found: &Found,
    ) -> Result<()> {
        let homes = shape::homes(schema, notes, found);
        let note = shape::note(schema, &homes, notes);
        let json = serde_json::to_string(&note)
            .map_err(|error| unreadable("walferry_columns").caused_by(error))?;
        let sql = format!(
            "REPLACE INTO walferry_columns (pipeline, sink, table_schema, table_name, version, noted, leader) \
             SELECT {}, {}, {}, {}, COALESCE(MAX(noted), 0) + 1, {} FROM walferry_columns w WHERE {}",
            self.me.values(),
            literal(&schema.table.schema),
            literal(&schema.table.name),
            literal(&note.version),
            literal(&json),
            self.note_of(&schema.table)
        );
        run(&mut self.session()?.wire, &sql, KEEPING).await
    }
}
