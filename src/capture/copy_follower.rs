//! A copy whose rows are read from a follower: nothing is asked of the leader but its catalog.
//!
//! The follower's snapshot shows rows and checkpoint together, so that the checkpoint's boundary C is what a
//! temporary slot's consistent point is on the leader: what transactions with a commit LSN below C left is
//! visible, and nothing else. The copy was begun when the log's end was B; every change from B on lies in entries
//! behind its begin. So C may not be below B, and the follower is waited for until it is there.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_postgres::Client;

use crate::capture::CaptureContext;
use crate::capture::copy_rows::SnapshotTable;
use crate::config::{KafkaSettings, SinkSettings};
use crate::error::{Error, Result};
use crate::log::schemas::SchemaStore;
use crate::model::{Checkpoint, Epoch, Lsn, Oid, TableName, TableSchema};
use crate::postgres::classify;
use crate::sink::{Lender, Readiness, Shown};
use crate::source::catalog::CatalogTable;
use crate::source::connection::SystemIdentity;
use crate::source::copy::{BEGIN, Snapshot, import, session};

/// How often a follower that is behind is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A follower that has not come nearer for so long does not come.
const STILL_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a follower that comes nearer: other copies wait meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// The follower that a copy is read from.
pub struct Follower {
    lender: Lender,
    application_name: String,
    readers: u32,
}

/// A copy that has begun.
pub struct Begun<'a> {
    /// In this epoch.
    pub epoch: Epoch,
    /// Changes from here on lie behind its begin.
    pub from: Lsn,
    /// Its tables.
    pub tables: &'a [CatalogTable],
    /// Where schema versions are kept.
    pub schemas: (&'a KafkaSettings, String),
    /// Where the leader has rewritten a table's rows.
    pub rewritten: &'a (dyn Fn(Oid) -> Option<Lsn> + Sync),
}

impl Follower {
    /// The follower of a sink in `connectors/` of this process.
    ///
    /// # Errors
    /// Halt when there is no such sink, or its store is not Postgres.
    pub fn of(context: &CaptureContext, sink: &str) -> Result<Self> {
        let found = named(&context.sinks, sink)?;
        Ok(Follower {
            lender: Lender::of(&context.pipeline, &found)?,
            application_name: format!("walferry_{}_copy", context.pipeline),
            readers: context.source.copy_readers,
        })
    }

    /// Looks whether it may lend these tables, before anything is written for their copy.
    ///
    /// # Errors
    /// As [`Lender::look`].
    pub async fn look(&self, tables: &[TableName]) -> Result<()> {
        self.lender.look(tables).await
    }

    /// A snapshot of the follower at or behind the begin of the copy, its tables locked as on the leader, and
    /// what they hold.
    ///
    /// # Errors
    /// Transient when the follower does not come to the copy's begin in time, or a table was emptied or altered
    /// just now; halt when it does not lend a table.
    pub async fn snapshot(&self, begun: &Begun<'_>) -> Result<(Snapshot, Vec<SnapshotTable>)> {
        let names: Vec<TableName> = begun.tables.iter().map(name).collect();
        let (first, checkpoint) = self.wait(begun, &names).await?;
        let shown = self.lender.shown(&first, &names).await?;
        let schemas = versions(begun, &shown).await?;
        let mut columns = Vec::with_capacity(names.len());
        for (shown, schema) in shown.iter().zip(&schemas) {
            columns.push(self.lender.columns(&first, shown, schema).await?);
        }
        let readers = self.readers(first).await?;
        let snapshot = Snapshot {
            point: checkpoint.applied,
            identity: leader_of(&checkpoint)?,
            readers,
            outside: self.session().await?,
        };
        let oids: Vec<Oid> = shown.iter().map(|shown| shown.relation).collect();
        let there = snapshot.lock(&oids).await?;
        let found = there.into_iter().zip(schemas).zip(columns);
        let tables = found.map(|((there, schema), columns)| SnapshotTable {
            schema,
            leaves: there.leaves,
            columns,
            // The follower has been sent what the filter lets through, and nothing else.
            row_filter: None,
        });
        let tables: Vec<SnapshotTable> = tables.collect();
        match tables.iter().find(|t| t.leaves.iter().any(|l| l.foreign)) {
            None => Ok((snapshot, tables)),
            Some(table) => Err(Error::halt(
                format!(
                    "table {} on the follower of {} has partitions on other servers, which no snapshot holds",
                    table.schema.table,
                    self.lender.sink()
                ),
                "have it copied from the leader (walferry copy without --from)",
            )),
        }
    }

    async fn session(&self) -> Result<Client> {
        session(self.lender.settings(), &self.application_name).await
    }

    /// A session with a snapshot in which the follower is far enough, and its checkpoint there.
    async fn wait(&self, begun: &Begun<'_>, names: &[TableName]) -> Result<(Client, Checkpoint)> {
        let session = self.session().await?;
        let began = Instant::now();
        let (mut nearest, mut since, mut told) = (None, began, false);
        loop {
            session
                .batch_execute(BEGIN)
                .await
                .map_err(|error| classify(&error, "opening a snapshot on the follower"))?;
            let checkpoint = self.lender.checkpoint(&session).await?;
            let ready = self
                .lender
                .readiness(&checkpoint, names, Some(begun.epoch))?;
            if matches!(ready, Readiness::At(boundary) if boundary >= begun.from) {
                return Ok((session, checkpoint));
            }
            // An old snapshot would show an old checkpoint.
            session
                .batch_execute("ROLLBACK")
                .await
                .map_err(|error| classify(&error, "ending a snapshot on the follower"))?;
            let stands = (checkpoint.log.next_offset, checkpoint.applied);
            if nearest != Some(stands) {
                (nearest, since) = (Some(stands), Instant::now());
            }
            if since.elapsed() >= STILL_MAX || began.elapsed() >= WAIT_MAX {
                return Err(self.does_not_come(&checkpoint, begun.from));
            }
            if !told {
                told = true;
                tracing::info!(
                    sink = self.lender.sink(), shows = %checkpoint.applied, from = %begun.from,
                    "the copy waits for the follower that it is read from"
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn does_not_come(&self, checkpoint: &Checkpoint, from: Lsn) -> Error {
        let sink = self.lender.sink();
        Error::transient(format!(
            "the follower of {sink} shows {}, and did not come to {from}, where the copy begins, in time",
            checkpoint.applied
        ))
        .advising(format!(
            "walferry status tells how {sink} is; name another sink, or have the tables copied from the leader \
             (walferry copy without --from)"
        ))
    }

    /// The session with the snapshot, and others that see the same.
    async fn readers(&self, first: Client) -> Result<Vec<Client>> {
        let doing = "sharing the follower's snapshot";
        let row = first
            .query_one("SELECT pg_catalog.pg_export_snapshot()", &[])
            .await
            .map_err(|error| classify(&error, doing))?;
        let exported: String = row.try_get(0).map_err(|error| classify(&error, doing))?;
        let others = self.readers.saturating_sub(1);
        let name = &self.application_name;
        let mut readers = vec![first];
        readers.extend(import(self.lender.settings(), name, &exported, others).await?);
        Ok(readers)
    }
}

fn name(table: &CatalogTable) -> TableName {
    table.schema.table.clone()
}

/// The settings of a sink as they are now: a reload may have changed them.
fn named(sinks: &watch::Receiver<Vec<SinkSettings>>, sink: &str) -> Result<SinkSettings> {
    let known = sinks.borrow();
    let found = known.iter().find(|known| known.name == sink);
    found.cloned().ok_or_else(|| {
        Error::halt(
            format!(
                "a copy is to be read from the follower of {sink}, which the source's process does not know"
            ),
            format!(
                "put {sink}.toml into connectors/ of the process that runs the source too (with walferry run --only \
                 it need not run there), and reload it; or ask without --from"
            ),
        )
    })
}

/// The server that the follower follows, as its checkpoint says.
fn leader_of(checkpoint: &Checkpoint) -> Result<SystemIdentity> {
    let known = checkpoint.system_id.clone().zip(checkpoint.timeline);
    let (system_id, timeline) = known.ok_or_else(|| {
        Error::transient("the follower's checkpoint does not say yet which leader it follows")
    })?;
    Ok(SystemIdentity {
        system_id,
        timeline,
        flush: checkpoint.applied,
        database: String::new(),
    })
}

/// The schema versions whose rows the follower's tables hold, as the leader's tables are captured now.
async fn versions(begun: &Begun<'_>, shown: &[Shown]) -> Result<Vec<TableSchema>> {
    let (kafka, topic) = (begun.schemas.0.clone(), begun.schemas.1.clone());
    let wanted: Vec<_> = shown.iter().map(|shown| shown.version).collect();
    let read = spawn_blocking(move || {
        let mut store = SchemaStore::open(&kafka, &topic)?;
        wanted
            .into_iter()
            .map(|version| store.get(version).map(|schema| TableSchema::clone(&schema)))
            .collect::<Result<Vec<TableSchema>>>()
    });
    let read = read.await;
    let found =
        read.map_err(|error| Error::transient("reading the schema versions").caused_by(error))??;
    let mut schemas = Vec::with_capacity(found.len());
    for ((schema, shown), now) in found.into_iter().zip(shown).zip(begun.tables) {
        let rewritten = (begun.rewritten)(now.schema.relation);
        schemas.push(version_of(schema, shown.rewritten, (now, rewritten))?);
    }
    Ok(schemas)
}

/// The version as the copy's records have it. `noted`: up to where the leader's rewriting of rows is in the
/// follower; `now` is the table as it is captured, and where the leader rewrote its rows last.
fn version_of(
    mut schema: TableSchema,
    noted: Option<Lsn>,
    (now, rewritten): (&CatalogTable, Option<Lsn>),
) -> Result<TableSchema> {
    let table = &now.schema.table;
    let refused = |what: String| {
        Error::halt(
            what,
            "have it copied from the leader (walferry copy without --from)",
        )
    };
    if (schema.relation, &schema.table) != (now.schema.relation, table) {
        return Err(refused(format!(
            "the follower shows {} of another table than the leader's {table} of today",
            schema.table
        )));
    }
    let is_published = |name: &String| {
        let columns = now.limits.columns.as_ref();
        columns.is_none_or(|columns| columns.contains(name))
    };
    let left_out = schema.columns.iter().find(|c| !is_published(&c.name));
    if let Some(column) = left_out {
        return Err(refused(format!(
            "table {table}: the follower shows column {}, which the publication does not have",
            column.name
        )));
    }
    let has = schema.rewritten.max(noted);
    if rewritten > has {
        return Err(refused(format!(
            "table {table}: the leader has rewritten its rows, which the follower has not been told of yet"
        )));
    }
    schema.rewritten = has;
    // Topics belong to the captured set.
    schema.partitions = now.schema.partitions;
    Ok(schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn the_version_is_the_followers_with_the_topics_of_today() {
        let mut now = CatalogTable::bare("t", 7);
        now.schema.partitions = 3;
        let shown = CatalogTable::bare("t", 7).schema;
        let copied = version_of(shown.clone(), Some(Lsn(5)), (&now, Some(Lsn(5)))).unwrap();
        assert_eq!((copied.partitions, copied.rewritten), (3, Some(Lsn(5))));
        let own = TableSchema {
            rewritten: Some(Lsn(9)),
            ..shown
        };
        let copied = version_of(own, Some(Lsn(5)), (&now, None)).unwrap();
        assert_eq!(copied.rewritten, Some(Lsn(9)));
    }

    #[test]
    fn rows_of_another_table_or_from_before_a_rewrite_are_refused() {
        let now = CatalogTable::bare("t", 7);
        let of = |relation| CatalogTable::bare("t", relation).schema;
        for (schema, rewritten, part) in [
            (of(8), None, "another table"),
            (of(7), Some(Lsn(6)), "rewritten its rows"),
        ] {
            let error = version_of(schema, Some(Lsn(5)), (&now, rewritten)).unwrap_err();
            assert_eq!(error.class(), Class::Halt);
            assert!(error.what().contains(part), "{error}");
        }
    }

    #[test]
    fn a_sink_that_the_sources_process_does_not_know_is_told() {
        let (_sender, sinks) = watch::channel(Vec::new());
        let error = named(&sinks, "a").unwrap_err();
        assert!(error.remedy().unwrap().contains("a.toml"), "{error}");
    }
}
