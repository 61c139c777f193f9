//! Of which versions of the leader's table the follower's rows are: a row a table in `walferry_columns`.
//!
//! Rows come by a copy, of one version or more, and are brought on by changes, version by version. Where the leader
//! did something to its rows between two versions that the stream does not show, they cannot be brought on: the table
//! needs a copy. What is noted begins anew when the table is emptied.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::checkpoint::{Store, step};
use super::failure::Doing;
use super::{ClickHouseSink, lost, sql, tables};
use crate::config::ClickHouseMode;
use crate::error::{Error, Result};
use crate::model::{SchemaVersion, TableName, TableSchema};
use crate::sink::leader_shape::{LeaderShape, NeedsCopy, padded_rows_follow};

/// Most versions that are kept of a table. One that is forgotten and comes again is taken for a new one, which costs
/// a copy at most.
const KEPT_MAX: usize = 100;

/// A version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: SchemaVersion,
    /// What it was on the leader; none if it does not have all numbers.
    leader: Option<LeaderShape>,
}

/// The versions that a table's rows have had, the newest last; none of a table without rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Notes(Vec<Note>);

impl Notes {
    /// Whether it is the rows' version, or one that they have had.
    fn knows(&self, schema: &TableSchema) -> bool {
        let version = schema.version();
        self.0.iter().any(|note| note.version == version)
    }

    /// Whether rows can be brought on to a version that is not known.
    ///
    /// # Errors
    /// Why they cannot.
    fn lead_to(&self, schema: &TableSchema) -> std::result::Result<(), NeedsCopy> {
        let Some(before) = self.0.last().and_then(|note| note.leader.as_ref()) else {
            return Ok(());
        };
        LeaderShape::told(schema)?;
        padded_rows_follow(schema, before)
    }

    /// The same with this version as the newest.
    fn with(&self, schema: &TableSchema) -> Self {
        let mut notes = self.0.clone();
        let before = notes.last().and_then(|note| note.leader.as_ref());
        let rewritten = before.and_then(|before| before.rewritten);
        notes.push(Note {
            version: schema.version(),
            leader: LeaderShape::behind(schema, rewritten),
        });
        let forgotten = notes.len().saturating_sub(KEPT_MAX);
        notes.drain(..forgotten);
        Notes(notes)
    }
}

impl ClickHouseSink {
    /// Sees that rows of this version can be written, and notes it as the rows' own from here on.
    ///
    /// # Errors
    /// Transient, and the table is one that needs a copy.
    pub(super) async fn bring_on(&mut self, schema: &TableSchema) -> Result<()> {
        if self.settings.mode == ClickHouseMode::History {
            // Rows are changes there, and stay what they were.
            return Ok(());
        }
        let table = &schema.table;
        let notes = self.session()?.notes.entry(table.clone()).or_default();
        if notes.knows(schema) {
            return Ok(());
        }
        if let Err(NeedsCopy(why)) = notes.lead_to(schema) {
            return Err(self.ask_for_copy(table, why));
        }
        let notes = notes.with(schema);
        self.note(table, notes).await
    }

    /// Writes what is noted of a table.
    pub(super) async fn note(&mut self, table: &TableName, notes: Notes) -> Result<()> {
        self.noted += 1;
        let session = self.session.as_ref().ok_or_else(lost)?;
        let step = step(session.claim, self.noted);
        let store = self.store(&session.http);
        store.write_notes(table, &notes, step).await?;
        self.session()?.notes.insert(table.clone(), notes);
        Ok(())
    }
}

impl Store<'_> {
    /// What is noted of all tables.
    ///
    /// # Errors
    /// As a query; halt when it cannot be read.
    pub(super) async fn notes(&self) -> Result<HashMap<TableName, Notes>> {
        #[derive(Deserialize)]
        struct Row {
            schema: String,
            name: String,
            newest: String,
        }
        let ask = format!(
            "SELECT schema, name, argMax(versions, step) AS newest FROM {}.walferry_columns WHERE {} \
             GROUP BY schema, name FORMAT JSONEachRow",
            sql::name(self.database),
            self.mine()
        );
        let found: Vec<Row> = tables::rows(self.http, &ask, "reading walferry_columns").await?;
        let notes = found.into_iter().map(|row| {
            let table = TableName::new(&row.schema, &row.name);
            let notes = serde_json::from_str(&row.newest).map_err(|error| {
                Error::halt(
                    format!("what walferry_columns holds of table {table} cannot be read"),
                    "upgrade this walferry if a newer one wrote it; else delete the row, and have the table \
                     copied anew with walferry resync",
                )
                .caused_by(error)
            })?;
            Ok((table, notes))
        });
        notes.collect()
    }

    async fn write_notes(&self, table: &TableName, notes: &Notes, step: u128) -> Result<()> {
        let versions = serde_json::to_string(notes).map_err(|error| {
            Error::transient("a table's versions cannot be written as JSON").caused_by(error)
        })?;
        let row = serde_json::json!({
            "pipeline": self.me.pipeline,
            "sink": self.me.sink,
            "schema": table.schema,
            "name": table.name,
            "versions": versions,
            "step": step.to_string(),
        });
        let written = self.insert("walferry_columns", &row).await;
        written.doing("writing walferry_columns")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, ColumnKind, Fill, Lsn, Oid, ReplicaIdentity};

    fn schema(columns: &[(&str, u32)]) -> TableSchema {
        let column = |(n, &(name, oid)): (usize, &(&str, u32))| Column {
            name: name.to_owned(),
            type_oid: Oid(oid),
            type_modifier: -1,
            type_name: "a type".to_owned(),
            kind: ColumnKind::Text,
            not_null: false,
            number: i16::try_from(n + 1).ok(),
            fill: None,
        };
        TableSchema {
            table: TableName::new("public", "t"),
            relation: Oid(7),
            columns: columns.iter().enumerate().map(column).collect(),
            key: vec![0],
            primary_key: vec![0],
            identity: ReplicaIdentity::Default,
            partitions: 1,
            types: vec![],
            dropped: vec![],
            rewritten: None,
            unpublished: vec![],
            exact: true,
        }
    }

    const INT4: u32 = 23;
    const INT8: u32 = 20;
    const JSON: u32 = 114;
    const JSONB: u32 = 3802;

    #[test]
    fn rows_follow_what_the_stream_shows_and_need_a_copy_for_what_it_does_not() {
        let first = schema(&[("id", INT4), ("n", INT4), ("j", JSON)]);
        assert_eq!(
            Notes::default().lead_to(&first),
            Ok(()),
            "there are no rows"
        );
        let notes = Notes::default().with(&first);
        assert!(notes.knows(&first));
        let wider = schema(&[("id", INT4), ("n", INT8), ("j", JSON)]);
        assert!(!notes.knows(&wider));
        assert_eq!(notes.lead_to(&wider), Ok(()));
        let mut rewritten = first.clone();
        rewritten.rewritten = Some(Lsn(5));
        assert!(notes.lead_to(&rewritten).is_err());
        // Both are texts here, and one of them has its values in another form.
        let other = schema(&[("id", INT4), ("n", INT4), ("j", JSONB)]);
        assert!(notes.lead_to(&other).is_err());
        let mut filled = schema(&[("id", INT4), ("n", INT4), ("j", JSON), ("x", INT4)]);
        filled.columns[3].fill = Some(Fill::Value("1".to_owned()));
        assert_eq!(notes.lead_to(&filled), Ok(()));
        filled.columns[3].fill = Some(Fill::Unknown);
        assert!(notes.lead_to(&filled).is_err());
    }

    #[test]
    fn versions_that_rows_have_had_stay_known_and_a_rewrite_is_not_forgotten() {
        let mut first = schema(&[("id", INT4)]);
        first.rewritten = Some(Lsn(5));
        let second = schema(&[("id", INT4), ("n", INT4)]);
        let notes = Notes::default().with(&first).with(&second);
        assert!(notes.knows(&first) && notes.knows(&second));
        let mut third = schema(&[("id", INT4), ("n", INT4), ("m", INT4)]);
        third.rewritten = Some(Lsn(5));
        assert_eq!(notes.lead_to(&third), Ok(()));
        third.rewritten = Some(Lsn(9));
        assert!(notes.lead_to(&third).is_err());
        let text = serde_json::to_string(&notes).expect("JSON");
        let read: Notes = serde_json::from_str(&text).expect("the same");
        assert_eq!(read, notes);
        let mut many = notes;
        for n in 0..2 * KEPT_MAX {
            many = many.with(&schema(&[(format!("c{n}").as_str(), INT4)]));
        }
        assert_eq!(many.0.len(), KEPT_MAX);
        assert!(!many.knows(&first));
    }
}
