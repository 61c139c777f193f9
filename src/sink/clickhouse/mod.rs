//! ClickHouse followers, by the HTTP interface.
//!
//! ClickHouse has no transactions over tables. What is promised instead is convergence: every row carries the position
//! of the change that it shows as its version, the engine (`ReplacingMergeTree`) keeps the newest one, and the
//! checkpoint is written after the rows. Whatever is killed, the same changes are applied again with the same
//! versions, and the rows are the same. While a batch is under way, and after a crash until it has been applied again,
//! readers may see some of its rows before others.
//!
//! Inserts are one a table and batch, but for rows whose unchanged values are read first; they are encoded while they are
//! sent. An insert that is sent again because the connection was lost has the same deduplication token.

mod block;
mod checkpoint;
mod compare;
mod failure;
mod fill;
mod hearing;
mod history;
mod http;
mod look;
mod native;
mod notes;
mod orders;
mod projection;
mod refuse;
mod row_binary;
mod shape;
mod sql;
mod streamed;
mod tables;
mod types;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;

use super::compared::Compared;
use super::databases::Databases;
use super::owned::Identity;
use super::{Sink, StoredCheckpoint, Wants, Work};
use crate::config::{ClickHouseMode, ClickHouseSinkSettings};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Moves, Selection, TableChanges, TableName, TableSchema};
use checkpoint::{OWN_TABLES, Store};
use failure::Doing;
use http::{Http, Query};
pub(super) use look::look;
use notes::Notes;
use projection::{Projection, Table};
use streamed::Memory;
use tables::{Prepared, Preparing};

/// Oldest server that knows all of `http`'s settings; its `ReplacingMergeTree` knows deleted rows.
const OLDEST: (u32, u32) = (24, 10);

/// A ClickHouse follower.
pub struct ClickHouseSink {
    settings: ClickHouseSinkSettings,
    databases: Databases,
    me: Identity,
    session: Option<Session>,
    transaction: Option<Transaction>,
    /// Memory for rows on their way.
    memory: Memory,
    /// How often it has written notes.
    noted: u64,
    /// The table that cannot go on without a copy, and why.
    needs_copy: Option<(TableName, String)>,
    /// The checkpoint is not the one that the last batch began with.
    has_orders: bool,
}

/// What is known of the follower in one session.
struct Session {
    http: Http,
    /// This worker's claim; nobody knows it before the first checkpoint of all.
    claim: u64,
    /// Tables in effect by the newest checkpoint.
    in_effect: BTreeSet<TableName>,
    tables: HashMap<TableName, Arc<Table>>,
    /// Tables that take no rows before they are made anew for a copy: in which shape, and why.
    awaited: HashMap<TableName, (TableSchema, String)>,
    /// What is noted of tables.
    notes: HashMap<TableName, Notes>,
    /// By the address of a schema that is kept alive, so that an address stands for one schema.
    projections: HashMap<usize, (Arc<TableSchema>, Arc<Projection>)>,
}

impl Session {
    /// Takes a table as it is now.
    fn keep(&mut self, ready: Table) {
        self.forget_projections(&ready.name);
        self.awaited.remove(&ready.name);
        self.tables.insert(ready.name.clone(), Arc::new(ready));
    }

    /// Has it asked again whether and how rows go into a table.
    fn forget_projections(&mut self, table: &TableName) {
        self.projections.retain(|_, (of, _)| of.table != *table);
    }
}

/// A batch under way: what stands for a transaction.
#[derive(Clone, Debug)]
struct Transaction {
    /// The version that the newest checkpoint must have; none for the very first.
    version: Option<i64>,
    /// Whether that was looked at.
    begun: bool,
}

impl ClickHouseSink {
    /// Nothing is connected yet.
    pub fn new(
        pipeline: &str,
        sink: &str,
        instance: &str,
        (settings, selection): (ClickHouseSinkSettings, Selection),
    ) -> Self {
        let url = &settings.server.url;
        ClickHouseSink {
            databases: Databases::new(&url.database, &settings.databases),
            me: Identity::worker(pipeline, sink, instance).taking(selection),
            settings,
            session: None,
            transaction: None,
            memory: Memory::default(),
            noted: 0,
            needs_copy: None,
            has_orders: false,
        }
    }

    fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().ok_or_else(lost)
    }

    /// Notes that a table is to be copied anew.
    fn ask_for_copy(&mut self, table: &TableName, why: String) -> Error {
        let what = format!("table {table} needs a copy: {why}");
        self.needs_copy = Some((table.clone(), why));
        Error::transient(what)
    }

    fn preparing<'a>(&'a self, http: &'a Http) -> Preparing<'a> {
        Preparing {
            http,
            settings: &self.settings,
            databases: &self.databases,
        }
    }

    fn store<'a>(&'a self, http: &'a Http) -> Store<'a> {
        Store {
            http,
            database: self.databases.own(),
            me: &self.me,
        }
    }

    /// Sees that the newest checkpoint is the one that the batch goes on from.
    async fn look(&mut self) -> Result<()> {
        let Some(transaction) = &self.transaction else {
            panic!("a batch is begun before it is applied")
        };
        if transaction.begun {
            return Ok(());
        }
        let expected = transaction.version;
        let session = self.session.as_ref().ok_or_else(lost)?;
        let newest = self.store(&session.http).newest().await?;
        let found = newest.as_ref().map(|newest| (newest.claim, newest.version));
        let wanted = expected.map(|version| (session.claim, version));
        if found != wanted {
            let error = match (&newest, expected) {
                (Some(_), None) => {
                    Error::transient("a first checkpoint is there by now; reading it")
                }
                (newest, _) => {
                    let owner = newest.as_ref().map(|newest| newest.owner.as_str());
                    self.me.refused(OWN_TABLES[0], owner)
                }
            };
            self.has_orders = error.class() == crate::error::Class::Transient;
            return Err(error);
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.begun = true;
        }
        Ok(())
    }

    /// Renames what walferry has filled, if the new name is free. Whether the follower has it by that name.
    async fn rename(&self, http: &Http, (old, new): (&TableName, &TableName)) -> Result<bool> {
        let (from, to) = (self.databases.of(old)?, self.databases.of(new)?);
        let is_there = |place: (&str, &str)| {
            let (database, name) = (place.0.to_owned(), place.1.to_owned());
            async move { Ok::<_, Error>(!tables::columns(http, &database, &name).await?.is_empty()) }
        };
        let store = self.store(http);
        if !is_there(from).await? {
            // Done before, and the checkpoint behind it was not written.
            let is_done = is_there(to).await? && store.has_filled(new).await?;
            if is_done {
                store.forget_filled(old).await?;
            }
            return Ok(is_done);
        }
        if is_there(to).await? || !store.has_filled(old).await? {
            return Ok(false);
        }
        let doing = format!("renaming table {old} to {new}");
        let statement = format!(
            "RENAME TABLE {} TO {}",
            sql::table(from.0, from.1),
            sql::table(to.0, to.1)
        );
        tables::make_database(http, to.0, &doing).await?;
        store.note_filled(new).await?;
        http.run(&statement).await.doing(doing)?;
        store.forget_filled(old).await?;
        Ok(true)
    }
}

/// A table on the follower that somebody else has filled.
fn foreign_rows(table: &TableName, quoted: &str) -> Error {
    Error::halt(
        format!("table {quoted} on the follower has rows that walferry did not write"),
        format!(
            "empty or rename it, or leave it out with [tables] exclude = [\"{table}\"] in the sink's settings"
        ),
    )
}

fn lost() -> Error {
    Error::transient("no session with the follower; it is to be opened")
}

/// The checkpoint of a sink's follower, for whoever gives orders.
pub(super) fn checkpoint(
    pipeline: &str,
    sink: &str,
    (settings, selection): (&ClickHouseSinkSettings, Selection),
) -> Box<dyn StoredCheckpoint> {
    Box::new(orders::Orders::new(pipeline, sink, settings, selection))
}

/// The follower, for a comparison with its leader.
pub(super) fn compared(
    pipeline: &str,
    sink: &str,
    settings: &ClickHouseSinkSettings,
) -> Box<dyn Compared> {
    Box::new(compare::Comparing::new(pipeline, sink, settings))
}

#[async_trait]
impl Sink for ClickHouseSink {
    fn wants(&self) -> Wants {
        match self.settings.mode {
            ClickHouseMode::Current => Wants::Net,
            ClickHouseMode::History => Wants::Changes,
        }
    }

    fn takes_copies(&self) -> bool {
        true
    }

    async fn open(&mut self) -> Result<Option<Checkpoint>> {
        self.session = None;
        self.transaction = None;
        let http = Http::new(
            self.settings.server.clone(),
            self.settings.statement_timeout,
        );
        refuse_old(&http).await?;
        let store = self.store(&http);
        store.lay_out().await?;
        let newest = store.newest().await?;
        let checkpoint = newest
            .as_ref()
            .map(|newest| newest.checkpoint())
            .transpose()?;
        let claim = store.next_claim(newest.as_ref()).await?;
        if let Some(checkpoint) = &checkpoint {
            let claimed = store.write(claim, checkpoint).await;
            claimed.doing("claiming the checkpoint")?;
        }
        let notes = store.notes().await?;
        let in_effect = checkpoint.as_ref().map(|known| known.in_effect.clone());
        self.session = Some(Session {
            http,
            claim,
            in_effect: in_effect.unwrap_or_default(),
            tables: HashMap::new(),
            awaited: HashMap::new(),
            notes,
            projections: HashMap::new(),
        });
        Ok(checkpoint)
    }

    async fn prepare_table(
        &mut self,
        schema: &TableSchema,
        newest: Option<&TableSchema>,
    ) -> Result<()> {
        let session = self.session.as_ref().ok_or_else(lost)?;
        let preparing = self.preparing(&session.http);
        let newest = newest.unwrap_or(schema);
        let shape = shape::also_holding(newest, schema);
        let prepared = match shape::is_doubtful(schema, newest) {
            true => {
                let why = "which of its columns older changes mean cannot be told: their version has no numbers";
                Prepared::NeedsCopy(preparing.may_be_made_anew(&shape, why.to_owned())?)
            }
            false => {
                let store = self.store(&session.http);
                preparing.prepare(&shape, &store).await?
            }
        };
        let table = &schema.table;
        let session = self.session()?;
        match prepared {
            Prepared::Ready(ready) => session.keep(ready),
            Prepared::NeedsCopy(why) if session.in_effect.contains(table) => {
                return Err(self.ask_for_copy(table, why));
            }
            // It may have rows of a copy that is being brought on: it is made anew when it is emptied for one.
            Prepared::NeedsCopy(why) => {
                session.tables.remove(table);
                session.forget_projections(table);
                session.awaited.insert(table.clone(), (shape, why));
            }
        }
        Ok(())
    }

    fn needs_copy(&mut self) -> Option<(TableName, String)> {
        self.needs_copy.take()
    }

    fn again_at_once(&mut self) -> Option<&'static str> {
        let ordered = std::mem::take(&mut self.has_orders);
        ordered.then_some("an order stands in the checkpoint; reading it")
    }

    async fn move_tables(&mut self, moves: &Moves) -> Result<BTreeSet<TableName>> {
        self.look().await?;
        let mut moved = BTreeSet::new();
        for (old, new) in &moves.renamed {
            let http = &self.session.as_ref().ok_or_else(lost)?.http;
            if self.rename(http, (old, new)).await? {
                let notes = self.session()?.notes.get(old).cloned();
                self.note(new, notes.unwrap_or_default()).await?;
                moved.insert(new.clone());
            }
        }
        let session = self.session.as_ref().ok_or_else(lost)?;
        for gone in &moves.dropped {
            let store = self.store(&session.http);
            if !store.has_filled(gone).await? {
                continue;
            }
            let (database, name) = self.databases.of(gone)?;
            let statement = format!("DROP TABLE IF EXISTS {} SYNC", sql::table(database, name));
            let dropped = session.http.remove(&statement).await;
            dropped.doing(format!("dropping table {gone}"))?;
            store.forget_filled(gone).await?;
        }
        // All other tables stay prepared: nobody prepares them again in this session.
        let names = moves.renamed.iter().flat_map(|(old, new)| [old, new]);
        let session = self.session()?;
        for name in names.chain(&moves.dropped) {
            session.tables.remove(name);
            session.forget_projections(name);
        }
        Ok(moved)
    }

    async fn is_held(&mut self, held: &Checkpoint) -> Result<bool> {
        let session = self.session.as_ref().ok_or_else(lost)?;
        let newest = self.store(&session.http).newest().await?;
        let found = newest.map(|newest| (newest.claim, newest.version));
        let Some(hold) = held
            .hold
            .filter(|_| found == Some((session.claim, held.version)))
        else {
            return Ok(false);
        };
        Ok(compare::clock_us(&session.http).await? < hold.until_us)
    }

    async fn begin(&mut self, from: Option<&Checkpoint>) -> Result<()> {
        self.session()?;
        self.transaction = Some(Transaction {
            version: from.map(|from| from.version),
            begun: false,
        });
        Ok(())
    }

    async fn empty(&mut self, table: &TableName) -> Result<()> {
        self.look().await?;
        self.empty_table(table).await
    }

    async fn load(&mut self, rows: &TableChanges, before: u64) -> Result<()> {
        self.look().await?;
        self.load_rows(rows, before).await
    }

    async fn apply(&mut self, work: Work, _more: bool) -> Result<()> {
        self.look().await?;
        match work {
            Work::Net(plans) => {
                for plan in &plans {
                    self.apply_plan(plan).await?;
                }
                Ok(())
            }
            Work::Changes(chunk) => {
                for table in &chunk.tables {
                    self.keep_changes(table).await?;
                }
                Ok(())
            }
        }
    }

    async fn commit(&mut self, to: &Checkpoint) -> Result<()> {
        self.look().await?;
        self.transaction = None;
        let session = self.session.as_ref().ok_or_else(lost)?;
        let written = self.store(&session.http).write(session.claim, to).await;
        written.doing("writing the checkpoint")?;
        self.session()?.in_effect.clone_from(&to.in_effect);
        Ok(())
    }

    async fn rollback(&mut self) -> Result<()> {
        self.transaction = None;
        Ok(())
    }
}

async fn refuse_old(http: &Http) -> Result<()> {
    let answer = http
        .ask(Query::plain("SELECT version()"))
        .await
        .doing("asking for the version")?;
    let text = String::from_utf8_lossy(&answer).trim().to_owned();
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match version >= OLDEST {
        true => Ok(()),
        false => Err(Error::halt(
            format!("the follower is ClickHouse {text}"),
            format!("upgrade it to {}.{} or newer", OLDEST.0, OLDEST.1),
        )),
    }
}
