//! MySQL and MariaDB followers.
//!
//! Every batch is one follower transaction: the checkpoint's version is compared and bumped first, then the rows,
//! then the whole checkpoint and COMMIT. Tables are made and altered outside of it, at the boundary before, as DDL
//! commits by itself here; `shape` says why that does no harm, whatever is killed in between.
//!
//! Decides nothing about order or validity of records, and believes nothing but what `open` reads.

mod apply;
mod catalog;
mod checkpoint;
mod compare;
mod ddl;
mod emptying;
mod encode;
mod failure;
mod inspect;
mod json;
mod load;
mod look;
mod moving;
mod notes;
mod orders;
mod prepare;
mod session;
mod shape;
mod skips;
mod statements;
mod tables;
mod tls;
mod transaction;
mod types;
mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::compared::Compared;
use super::databases::Databases;
use super::{Sink, SkipOrders, Wants, Work};
use crate::config::MySqlSinkSettings;
use crate::error::{Error, Result};
use crate::model::{
    Checkpoint, Moves, SchemaVersion, Selection, Skipped, TableChanges, TableName, TableSchema,
};

use super::owned::Identity;
pub(super) use look::look;
pub use orders::MySqlCheckpoint;
use session::Session;
pub use skips::order;
use transaction::Transaction;

/// A MySQL or MariaDB follower.
pub struct MySqlSink {
    settings: MySqlSinkSettings,
    databases: Databases,
    me: Arc<Identity>,
    session: Option<Session>,
    transaction: Transaction,
    /// Versions that the transaction under way has rows of.
    touched: BTreeSet<SchemaVersion>,
    /// Versions prepared in this session, in order: the table may have been altered since.
    past: Vec<TableSchema>,
    /// The table whose rows cannot follow, and why.
    needs_copy: Option<(TableName, String)>,
    /// The checkpoint is not the one that the last transaction began with.
    has_orders: bool,
    /// The transaction under way has noted tables to rename or drop.
    moving: bool,
}

impl MySqlSink {
    /// Nothing is connected yet.
    pub fn new(pipeline: &str, sink: &str, instance: &str, settings: MySqlSinkSettings) -> Self {
        MySqlSink {
            databases: Databases::new(&settings.server.url.database, &settings.databases),
            settings,
            me: Arc::new(Identity::worker(pipeline, sink, instance)),
            session: None,
            transaction: Transaction::None,
            touched: BTreeSet::new(),
            past: Vec::new(),
            needs_copy: None,
            has_orders: false,
            moving: false,
        }
    }

    /// The same for a sink that takes only these tables; else it is one that takes all.
    pub fn taking(mut self, selection: Selection) -> Self {
        self.me = Arc::new(Identity::clone(&self.me).taking(selection));
        self
    }

    fn session(&mut self) -> Result<&mut Session> {
        self.session
            .as_mut()
            .filter(|session| session.is_alive())
            .ok_or_else(|| Error::transient("no session with the follower; it is to be opened"))
    }
}

/// The follower, for a comparison with its leader.
///
/// # Errors
/// Transient when the server cannot be reached; halt for wrong credentials or a server that is too old.
pub(super) async fn compared(
    pipeline: &str,
    sink: &str,
    settings: &MySqlSinkSettings,
) -> Result<Box<dyn Compared>> {
    let opened = compare::Comparing::open(pipeline, sink, settings);
    Ok(Box::new(opened.await?))
}

#[async_trait]
impl Sink for MySqlSink {
    fn wants(&self) -> Wants {
        Wants::Net
    }

    fn takes_copies(&self) -> bool {
        true
    }

    fn passes_over(&self) -> bool {
        true
    }

    async fn open(&mut self) -> Result<Option<Checkpoint>> {
        // The old connection is closed first, so that its transaction lets go of the checkpoint.
        if let Some(session) = self.session.take() {
            session.wire.close().await;
        }
        self.transaction = Transaction::None;
        self.touched.clear();
        self.past.clear();
        let mut session = Session::open(&self.settings).await?;
        let checkpoint = checkpoint::claim(&mut session.wire, &self.me).await?;
        self.session = Some(session);
        self.finish_moves().await?;
        Ok(checkpoint)
    }

    async fn skips(&mut self) -> Result<SkipOrders> {
        let me = Arc::clone(&self.me);
        skips::read(&mut self.session()?.wire, &me).await
    }

    async fn skipped(&mut self, skipped: &[Skipped]) -> Result<()> {
        let done = self.note_skipped(skipped).await;
        self.settle(done).await
    }

    async fn prepare_table(
        &mut self,
        schema: &TableSchema,
        newest: Option<&TableSchema>,
    ) -> Result<()> {
        if self.session()?.is_prepared(schema.version()) {
            return Ok(());
        }
        self.prepare(schema, newest).await?;
        self.past.push(schema.clone());
        Ok(())
    }

    fn needs_copy(&mut self) -> Option<(TableName, String)> {
        self.needs_copy.take()
    }

    async fn move_tables(&mut self, moves: &Moves) -> Result<BTreeSet<TableName>> {
        let mut moved = BTreeSet::new();
        let done = self.note_moves(moves, &mut moved).await;
        self.settle(done).await.map(|()| moved)
    }

    fn again_at_once(&mut self) -> Option<&'static str> {
        std::mem::take(&mut self.has_orders)
            .then_some("an order stands in the checkpoint; reading it")
    }

    async fn is_held(&mut self, held: &Checkpoint) -> Result<bool> {
        let me = Arc::clone(&self.me);
        let wire = &mut self.session()?.wire;
        let found = checkpoint::row(wire, &me, "").await?;
        let same = found.is_some_and(|(version, _)| version == held.version);
        match held.hold.filter(|_| same) {
            Some(hold) => Ok(compare::clock_us(wire).await? < hold.until_us),
            None => Ok(false),
        }
    }

    async fn begin(&mut self, from: Option<&Checkpoint>) -> Result<()> {
        self.end_transaction().await;
        self.session()?;
        self.transaction = Transaction::Wanted(from.cloned().map(Box::new));
        Ok(())
    }

    async fn empty(&mut self, table: &TableName) -> Result<()> {
        let done = self.empty_table(table).await;
        self.settle(done).await
    }

    fn forget_tables(&mut self, tables: &BTreeSet<TableName>) {
        self.past.retain(|schema| !tables.contains(&schema.table));
        if let Some(session) = &mut self.session {
            session.forget(tables);
        }
    }

    async fn load(&mut self, rows: &TableChanges, before: u64) -> Result<()> {
        let done = self.load_rows(rows, before == 0).await;
        self.settle(done).await
    }

    async fn apply(&mut self, work: Work, more: bool) -> Result<()> {
        let done = match work {
            Work::Net(plans) => self.apply_plans(&plans, more).await,
            Work::Changes(_changes) => unreachable!("a MySQL follower asks for net changes"),
        };
        self.settle(done).await
    }

    async fn commit(&mut self, to: &Checkpoint) -> Result<()> {
        let done = self.write_and_commit(to).await;
        self.settle(done).await
    }

    async fn rollback(&mut self) -> Result<()> {
        self.end_transaction().await;
        Ok(())
    }
}
