//! Postgres followers.
//!
//! Every batch is one follower transaction: the checkpoint's version is compared and bumped first,
//! then the rows, then the whole checkpoint and COMMIT. A transaction is begun with its first
//! statement, so that a batch of few rows costs two round trips and one without rows costs one.
//!
//! Decides nothing about order or validity of records, and believes nothing but what `open` reads.

mod alter;
mod apply;
mod beside;
mod build;
mod catalog;
mod checkpoint;
mod columns;
mod copy;
mod create;
mod emptying;
mod ending;
mod failure;
mod following;
mod holding;
mod indexes;
mod lending;
mod locks;
mod moving;
mod noted;
mod ordered;
mod orders;
mod params;
mod pipeline;
mod readers;
mod session;
mod skips;
mod statements;
mod tables;
mod transaction;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Building, Sink, SkipOrders, Wants, Work};
use crate::config::PostgresSinkSettings;
use crate::error::{Error, Result};
use crate::model::{
    Checkpoint, Moves, Offer, Selection, Skipped, TableChanges, TableName, TableSchema,
};

use super::owned::Identity;
pub use beside::{Beside, Followed, Found, Held, Mark, Stage};
use ending::Ending;
pub use holding::StandingStill;
pub use lending::{Lender, Readiness, Shown};
use locks::Locks;
pub use orders::{FollowerCheckpoint, checkpoint_in};
use session::Session;
pub use skips::order;
use transaction::Transaction;

/// A Postgres follower.
pub struct PostgresSink {
    settings: PostgresSinkSettings,
    me: Arc<Identity>,
    session: Option<Session>,
    transaction: Transaction,
    /// A table's shape was changed, or looked at, in the transaction under way.
    altered: bool,
    /// The table that could not be altered, and why.
    needs_copy: Option<(TableName, String)>,
    /// What was learned of readers that were in the way; outlives a session.
    locks: Locks,
    /// The checkpoint is not the one that the last transaction began with.
    has_orders: bool,
}

impl PostgresSink {
    /// Nothing is connected yet.
    pub fn new(pipeline: &str, sink: &str, instance: &str, settings: PostgresSinkSettings) -> Self {
        PostgresSink {
            settings,
            me: Arc::new(Identity::worker(pipeline, sink, instance)),
            session: None,
            transaction: Transaction::None,
            altered: false,
            needs_copy: None,
            locks: Locks::default(),
            has_orders: false,
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
            .ok_or_else(|| Error::transient("no session with the follower; it is to be opened"))
    }
}

#[async_trait]
impl Sink for PostgresSink {
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
        self.session = None;
        self.transaction = Transaction::None;
        self.altered = false;
        let name = format!("walferry {} {}", self.me.pipeline, self.me.sink);
        let session = Session::open(&self.settings, &name).await?;
        let checkpoint = checkpoint::claim(&session.client, &self.me).await?;
        self.session = Some(session);
        Ok(checkpoint)
    }

    async fn skips(&mut self) -> Result<SkipOrders> {
        let client = Arc::clone(&self.session()?.client);
        skips::read(&client, &self.me).await
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
        let version = schema.version();
        let creating = self.settings.create_tables;
        let session = self.session()?;
        if session.is_prepared(version) {
            return Ok(());
        }
        let client = Arc::clone(&session.client);
        if creating {
            if !tables::exists(&client, &schema.table).await? {
                create::create(&client, schema).await?;
            } else {
                create::create_types(&client, schema).await?;
            }
        }
        let server = self.session()?.server().to_owned();
        let me = Arc::clone(&self.me);
        let follower = tables::Follower {
            client: &client,
            me: &me,
            server: &server,
        };
        if self.follows() && !tables::has_shape(follower, schema).await? {
            self.session()?.expect(version, newest);
            return Ok(());
        }
        let table = tables::read(follower, schema, newest).await?;
        self.session()?.keep(version, table);
        Ok(())
    }

    fn needs_copy(&mut self) -> Option<(TableName, String)> {
        self.needs_copy.take()
    }

    async fn move_tables(&mut self, moves: &Moves) -> Result<BTreeSet<TableName>> {
        let mut moved = BTreeSet::new();
        let done = self.make_moves(moves, &mut moved).await;
        self.settle(done).await.map(|()| moved)
    }

    fn again_at_once(&mut self) -> Option<&'static str> {
        if std::mem::take(&mut self.has_orders) {
            return Some("an order stands in the checkpoint; reading it");
        }
        let learned = self.locks.has_learned();
        learned.then_some(
            "readers of the follower were in the way; trying again at once, in another order",
        )
    }

    async fn is_held(&mut self, held: &Checkpoint) -> Result<bool> {
        let client = Arc::clone(&self.session()?.client);
        holding::is_held(&client, &self.me, held).await
    }

    async fn begin(&mut self, from: Option<&Checkpoint>) -> Result<()> {
        if self.transaction.is_open() {
            self.end_transaction().await;
        }
        let guard = self.session()?.store.guard(from);
        self.transaction = Transaction::Wanted {
            guard,
            version: from.map(|from| from.version),
        };
        Ok(())
    }

    async fn empty(&mut self, table: &TableName) -> Result<()> {
        let done = self.empty_table(table).await;
        self.settle(done).await
    }

    async fn set_indexes_aside(&mut self, table: &TableName) -> Result<()> {
        let done = self.set_aside(table).await;
        self.settle(done).await
    }

    async fn offer_indexes(&mut self, table: &TableName, offers: &[Offer]) -> Result<()> {
        let done = self.note_offers(table, offers).await;
        self.settle(done).await
    }

    async fn build_indexes(
        &mut self,
        tables: &BTreeSet<TableName>,
        stop: CancellationToken,
    ) -> Result<Option<Building>> {
        let notes = self.noted(tables).await?;
        if notes.is_empty() {
            return Ok(None);
        }
        let name = |note: &indexes::Note| format!("{}: {}", note.table, note.name);
        let (names, done) = (notes.iter().map(name).collect(), Arc::default());
        let job = build::Job {
            settings: self.settings.postgres.clone(),
            me: Arc::clone(&self.me),
            notes,
            done: Arc::clone(&done),
            stop,
        };
        Ok(Some(Building {
            indexes: names,
            done,
            work: Box::pin(build::build(job)),
        }))
    }

    fn forget_tables(&mut self, tables: &BTreeSet<TableName>) {
        if let Some(session) = &mut self.session {
            session.forget_found(tables);
        }
    }

    async fn load(&mut self, rows: &TableChanges, _before: u64) -> Result<()> {
        let done = self.load_rows(rows).await;
        self.settle(done).await
    }

    async fn apply(&mut self, work: Work, more: bool) -> Result<()> {
        let done = match work {
            Work::Net(plans) => self.apply_plans(&plans, more).await,
            Work::Changes(_changes) => unreachable!("a Postgres follower asks for net changes"),
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
