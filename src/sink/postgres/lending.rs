//! A follower that is read for a copy in the leader's place: whether it may be, and what its tables hold.
//!
//! Rows and checkpoint are read in one snapshot, which the caller has opened; nothing is written. A follower
//! lends a table only if its rows are the leader's at the checkpoint's boundary and nothing else: in effect,
//! no change passed over, no rows of another sink, in the shape of the version that is noted last.

use tokio_postgres::Client;

use super::Identity;
use super::catalog::{attributes, live, relation};
use super::checkpoint::parse;
use super::columns::Numbers;
use super::noted::{Last, last};
use super::session::{may_read_control, read_system_id};
use crate::config::{
    PostgresSettings, PostgresSinkSettings, SchemaChanges, SinkSettings, StoreSettings,
};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Epoch, Lsn, Oid, SchemaVersion, Selection, TableName, TableSchema};
use crate::postgres::{classify, connect};

const CHECKPOINT: &str = "SELECT version, state::text FROM walferry.checkpoint \
    WHERE pipeline = $1 AND sink = $2";

const THERE: &str = "SELECT pg_catalog.to_regclass('walferry.checkpoint') IS NOT NULL \
    AND pg_catalog.to_regclass('walferry.columns') IS NOT NULL \
    AND pg_catalog.to_regclass('walferry.skips') IS NOT NULL";

/// Changes passed over that were this table's, or of which it is not known whose they were.
const SKIPPED: &str = "SELECT count(*) FROM walferry.skips WHERE pipeline = $1 AND sink = $2 \
    AND skipped_at IS NOT NULL AND (table_name IS NULL OR (table_schema = $3 AND table_name = $4))";

const OTHERS: &str = "SELECT pipeline, sink FROM walferry.tables t \
    WHERE schema = $3 AND name = $4 AND (pipeline, sink) <> ($1, $2) \
    AND EXISTS (SELECT FROM walferry.checkpoint c WHERE c.pipeline = t.pipeline AND c.sink = t.sink) \
    ORDER BY 1, 2 LIMIT 1";

/// A follower that may be read in the leader's place.
#[derive(Clone, Debug)]
pub struct Lender {
    me: Identity,
    store: PostgresSinkSettings,
}

/// What a follower shows of a table.
#[derive(Clone, Debug)]
pub struct Shown {
    /// OID of the follower's table.
    pub relation: Oid,
    /// The leader's schema version whose rows it holds.
    pub version: SchemaVersion,
    /// Up to where the leader's rewriting of rows is in it, as far as that is noted.
    pub rewritten: Option<Lsn>,
    numbers: Numbers,
}

/// Whether a follower is far enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It shows the leader at this boundary.
    At(Lsn),
    /// It is on its way.
    Behind,
}

impl Lender {
    /// The follower of a sink.
    ///
    /// # Errors
    /// Halt when its store is not Postgres.
    pub fn of(pipeline: &str, sink: &SinkSettings) -> Result<Self> {
        let StoreSettings::Postgres(store) = &sink.store else {
            return Err(Error::halt(
                format!(
                    "{}: a sink that only shows changes holds no rows",
                    sink.name
                ),
                "name a sink with a Postgres follower",
            ));
        };
        let me = Identity::onlooker(pipeline, &sink.name)
            .taking(Selection::new(&sink.include, &sink.exclude));
        Ok(Lender {
            me,
            store: store.clone(),
        })
    }

    /// How it is reached.
    pub fn settings(&self) -> &PostgresSettings {
        &self.store.postgres
    }

    /// The sink's name.
    pub fn sink(&self) -> &str {
        &self.me.sink
    }

    /// Looks on a connection of its own whether the follower may lend these tables at all, however far it is.
    ///
    /// # Errors
    /// As [`readiness`](Self::readiness) and [`shown`](Self::shown).
    pub async fn look(&self, tables: &[TableName]) -> Result<()> {
        let client = connect(self.settings(), "walferry copy").await?;
        client
            .batch_execute("SET search_path = ''")
            .await
            .map_err(|error| classify(&error, "setting up a session on the follower"))?;
        let checkpoint = self.checkpoint(&client).await?;
        self.readiness(&checkpoint, tables, None)?;
        self.shown(&client, tables).await?;
        Ok(())
    }

    /// The checkpoint as the session sees it.
    ///
    /// # Errors
    /// Halt when the sink has none there, or it cannot be read.
    pub async fn checkpoint(&self, client: &Client) -> Result<Checkpoint> {
        let failed = |error| classify(&error, "reading the checkpoint on the follower");
        let there = client.query_one(THERE, &[]).await.map_err(failed)?;
        let row = match there.try_get(0).map_err(failed)? {
            true => client
                .query_opt(CHECKPOINT, &[&self.me.pipeline, &self.me.sink])
                .await
                .map_err(failed)?,
            false => None,
        };
        let Some(row) = row else {
            return Err(Error::halt(
                format!(
                    "sink {} of pipeline {} has no checkpoint on its follower: it has not run",
                    self.me.sink, self.me.pipeline
                ),
                "start the sink and wait until it has its tables, or name another one",
            ));
        };
        parse(&row)
    }

    /// Whether a follower with this checkpoint lends these tables, and where it stands; for a copy that was begun
    /// in this epoch, if one was.
    ///
    /// # Errors
    /// Halt when somebody has to act first; transient when a table is on its way into effect.
    pub fn readiness(
        &self,
        checkpoint: &Checkpoint,
        tables: &[TableName],
        epoch: Option<Epoch>,
    ) -> Result<Readiness> {
        let sink = &self.me.sink;
        if let Some(target) = checkpoint.target {
            return Err(Error::halt(
                format!("the follower of {sink} was ordered to stop at {target} and to stay there"),
                format!("walferry sink resume {sink}, or name another sink"),
            ));
        }
        if let Some(table) = tables.iter().find(|t| !self.me.selection.takes(t)) {
            return Err(Error::halt(
                format!("sink {sink} does not take table {table}"),
                "name another sink, or only tables that this one takes (--tables)",
            ));
        }
        // Tables that the epoch put out of effect count as in effect until its entry is read.
        if epoch.is_some() && checkpoint.log.epoch != epoch {
            return Ok(Readiness::Behind);
        }
        if let Some(table) = tables.iter().find(|t| !checkpoint.in_effect.contains(t)) {
            return Err(Error::transient(format!(
                "table {table} is not in effect on the follower of {sink}: its copy is still to be loaded there, \
                 and another copy cannot be read from it before"
            )));
        }
        // Inside an entry it is not at the end of what its cursors say.
        let stands_between_entries = checkpoint.log.to == Some(checkpoint.applied);
        if checkpoint.split.is_some() || !stands_between_entries {
            return Ok(Readiness::Behind);
        }
        Ok(Readiness::At(checkpoint.applied))
    }

    /// What the follower shows of tables that are in effect, as the session sees it.
    ///
    /// # Errors
    /// Halt when the rows of one are not, or not surely, those of the leader.
    pub async fn shown(&self, client: &Client, tables: &[TableName]) -> Result<Vec<Shown>> {
        let server = match may_read_control(client).await? {
            true => read_system_id(client).await?.unwrap_or_default(),
            false => String::new(),
        };
        let mut all = Vec::with_capacity(tables.len());
        for table in tables {
            let shown = self.shown_of(client, &server, table).await;
            all.push(shown.map_err(|error| {
                error.at(format!("table {table} on the follower of {}", self.me.sink))
            })?);
        }
        Ok(all)
    }

    async fn shown_of(&self, client: &Client, server: &str, table: &TableName) -> Result<Shown> {
        let me = &self.me;
        self.only_the_leaders(client, table).await?;
        let Some(found) = relation(client, table).await? else {
            return Err(Error::halt("it is not there", FROM_LEADER));
        };
        let Some(noted) = last(client, me, (server, found.oid)).await? else {
            return Err(Error::halt(
                "walferry.columns does not say which version of the leader's table it shows",
                FROM_LEADER,
            ));
        };
        let Last {
            version,
            numbers,
            rewritten,
            versions,
        } = noted;
        // Such a sink notes a version before it has applied its first change.
        if self.store.schema_changes == SchemaChanges::Halt && versions > 1 {
            return Err(Error::halt(
                "the leader's table was altered, and with schema_changes = \"halt\" it is not known which \
                 rows are of which shape",
                FROM_LEADER,
            ));
        }
        Ok(Shown {
            relation: Oid(found.oid),
            version,
            rewritten,
            numbers,
        })
    }

    /// Refuses a table that holds other rows than the leader's.
    async fn only_the_leaders(&self, client: &Client, table: &TableName) -> Result<()> {
        let (me, failed) = (&self.me, |error| {
            classify(&error, "reading walferry's tables on the follower")
        });
        let of = [&me.pipeline, &me.sink, &table.schema, &table.name];
        let of = of.map(|text| text as &(dyn tokio_postgres::types::ToSql + Sync));
        let row = client.query_one(SKIPPED, &of).await.map_err(failed)?;
        let skipped: i64 = row.try_get(0).map_err(failed)?;
        if skipped > 0 {
            return Err(Error::halt(
                format!("changes were passed over there by order ({skipped} in walferry.skips)"),
                format!(
                    "{FROM_LEADER}; or have the table copied anew on this follower (walferry resync {}) and delete \
                     its rows from walferry.skips",
                    me.sink
                ),
            ));
        }
        match client.query_opt(OTHERS, &of).await.map_err(failed)? {
            None => Ok(()),
            Some(row) => {
                let pipeline: String = row.try_get(0).map_err(failed)?;
                let sink: String = row.try_get(1).map_err(failed)?;
                Err(Error::halt(
                    format!("it holds rows of sink {sink} of pipeline {pipeline} too"),
                    FROM_LEADER,
                ))
            }
        }
    }

    /// The names that the version's columns have on the follower, in the version's order.
    ///
    /// # Errors
    /// Halt when one of them is not there, or not as it is on the leader.
    pub async fn columns(
        &self,
        client: &Client,
        shown: &Shown,
        schema: &TableSchema,
    ) -> Result<Vec<String>> {
        let place = format!("table {} on the follower of {}", schema.table, self.me.sink);
        let there = live(client, shown.relation.0).await?;
        let name = |column: &crate::model::Column| {
            let number = shown.numbers.get(&column.name)?;
            let found = there.iter().find(|live| live.number == *number)?;
            Some(found.name.as_str())
        };
        let names: Vec<Option<&str>> = schema.columns.iter().map(name).collect();
        let found = attributes(client, shown.relation.0, (schema, &names)).await?;
        let mut columns = Vec::with_capacity(names.len());
        for (n, (column, name)) in schema.columns.iter().zip(&names).enumerate() {
            let attribute = found.iter().find(|attribute| attribute.leader == Some(n));
            let why = match (name, attribute) {
                (Some(_), Some(there)) if there.generated => "is computed there",
                (Some(_), Some(there)) if !there.same_type => "is of another type there",
                (Some(name), Some(_)) => {
                    columns.push((*name).to_owned());
                    continue;
                }
                (None, _) | (_, None) => "is not there",
            };
            let what = format!("column {} {why}", column.name);
            return Err(Error::halt(what, FROM_LEADER).at(place));
        }
        Ok(columns)
    }
}

/// What helps where a follower does not lend a table.
const FROM_LEADER: &str =
    "have it copied from the leader (walferry copy without --from), or name another sink";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PostgresSettings, Secret, TlsMode, VerifySettings};
    use crate::error::Class;
    use crate::model::checkpoint::LogPlace;

    fn table(name: &str) -> TableName {
        TableName::new("public", name)
    }

    fn lender() -> Lender {
        let postgres = PostgresSettings {
            url: Secret::new("postgres://u@h/d"),
            tls: TlsMode::Prefer.into(),
            connect_timeout: std::time::Duration::from_secs(1),
        };
        Lender {
            me: Identity::onlooker("p", "a").taking(Selection::new(
                &["*.*".to_owned()],
                &["public.left_out".to_owned()],
            )),
            store: PostgresSinkSettings {
                postgres,
                create_tables: true,
                schema_changes: SchemaChanges::Follow,
                statement_timeout: std::time::Duration::from_secs(1),
                indexes: crate::config::TakenIndexes::All,
                build_indexes: crate::config::BuildIndexes::AfterRows,
                verify: VerifySettings::default(),
            },
        }
    }

    fn checkpoint() -> Checkpoint {
        let mut place = LogPlace::at_low_end(0);
        (place.epoch, place.to) = (Some(Epoch(4)), Some(Lsn(70)));
        Checkpoint {
            applied: Lsn(70),
            in_effect: [table("t"), table("u")].into(),
            ..Checkpoint::beginning(9, place)
        }
    }

    #[test]
    fn a_follower_lends_what_is_in_effect_at_the_end_of_an_entry() {
        let (lender, at) = (lender(), checkpoint());
        let readiness = |at: &Checkpoint, epoch| lender.readiness(at, &[table("t")], epoch);
        let here = Readiness::At(Lsn(70));
        assert_eq!(readiness(&at, Some(Epoch(4))).unwrap(), here);
        assert_eq!(readiness(&at, None).unwrap(), here);
        let split = Checkpoint {
            split: Some(Lsn(75)),
            applied: Lsn(75),
            ..at.clone()
        };
        assert_eq!(readiness(&split, None).unwrap(), Readiness::Behind);
        // Between a copy's point and the log's end nothing is known of either.
        let other = Checkpoint {
            applied: Lsn(69),
            ..at.clone()
        };
        assert_eq!(readiness(&other, None).unwrap(), Readiness::Behind);
    }

    #[test]
    fn a_follower_that_has_not_read_the_epochs_entry_is_behind_whatever_it_shows() {
        let (lender, at) = (lender(), checkpoint());
        for tables in [[table("t")], [table("not_yet")]] {
            let readiness = lender.readiness(&at, &tables, Some(Epoch(8)));
            assert_eq!(readiness.unwrap(), Readiness::Behind);
        }
    }

    #[test]
    fn why_a_follower_does_not_lend_is_said() {
        let lender = lender();
        let stopped = Checkpoint {
            target: Some(Lsn(70)),
            ..checkpoint()
        };
        for (checkpoint, name, class, part) in [
            (stopped, "t", Class::Halt, "ordered to stop at 0/46"),
            (checkpoint(), "left_out", Class::Halt, "does not take table"),
            (checkpoint(), "new", Class::Transient, "not in effect"),
        ] {
            let error = lender
                .readiness(&checkpoint, &[table(name)], None)
                .unwrap_err();
            assert_eq!(error.class(), class, "{error}");
            assert!(error.what().contains(part), "{error}");
        }
    }
}
