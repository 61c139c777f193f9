//! Stores that followers are kept in: one folder a store, one line a store in [`create`].
//!
//! A store with transactions applies every batch and its checkpoint in one transaction. It decides
//! nothing about order or validity; the sink worker (`apply/`) has done that.

pub mod clickhouse;
pub mod compared;
pub mod databases;
mod json;
mod leader_shape;
pub(crate) mod look;
pub mod mysql;
mod owned;
mod place;
pub mod postgres;
pub mod stdout;
mod stored;

pub use look::{Looked, Verdict};
pub use postgres::{
    Beside, Followed, FollowerCheckpoint, Found, Held, Lender, Mark, Readiness, Shown, Stage,
    StandingStill, checkpoint_in,
};
pub use stored::{Make, Revise, StoredCheckpoint};

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::config::{SinkSettings, StoreSettings};
use crate::error::{Error, Result};
use crate::model::{
    Checkpoint, Chunk, Moves, Offer, Position, Selection, Skipped, Skips, TableChanges, TableName,
    TablePlan, TableSchema,
};

/// What a store wants to be handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Net changes, set-based.
    Net,
    /// Every change as it was.
    Changes,
}

/// The changes of one chunk in the form the store wants.
#[derive(Debug)]
pub enum Work {
    /// For [`Wants::Net`].
    Net(Vec<TablePlan>),
    /// For [`Wants::Changes`].
    Changes(Chunk),
}

/// Orders to pass changes over, as a store keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkipOrders {
    /// Ordered and not met yet.
    pub ordered: Skips,
    /// How many were passed over ever.
    pub done: u64,
}

/// Indexes being built beside the worker's transactions, for as long as it takes.
pub struct Building {
    /// What is to be built, in this order: `schema.table: index`.
    pub indexes: Vec<String>,
    /// How many of them are done.
    pub done: Arc<AtomicUsize>,
    /// The work.
    pub work: Pin<Box<dyn Future<Output = Result<()>> + Send>>,
}

/// One follower store, owned by one worker.
///
/// Call order: `open`, `skips`, then any number of transactions
/// `begin` ((`empty` `set_indexes_aside`? `offer_indexes`) | `load` | `apply`)* `move_tables`? `skipped`? `commit`.
/// After any error the transaction is over and nothing of it is in the store, except that an error
/// of `commit` leaves the outcome unknown: the worker calls `open` again and believes what it reads.
#[async_trait]
pub trait Sink: Send + Sync {
    /// What [`Sink::apply`] is handed.
    fn wants(&self) -> Wants;

    /// Whether tables begin with a copy. A store that only shows the stream says no.
    fn takes_copies(&self) -> bool;

    /// Connects (again), takes the ownership, and reads the checkpoint; `None` at the very first start.
    ///
    /// # Errors
    /// Transient when the store cannot be reached; halt when it is not fit (rights, encoding, it is
    /// the leader itself, …).
    async fn open(&mut self) -> Result<Option<Checkpoint>>;

    /// Whether a change that it refuses can be passed over by order.
    fn passes_over(&self) -> bool {
        false
    }

    /// Orders to pass changes over. A store that refuses nothing keeps none.
    ///
    /// # Errors
    /// Transient when the store cannot be reached.
    async fn skips(&mut self) -> Result<SkipOrders> {
        Ok(SkipOrders::default())
    }

    /// Makes sure the table is there and fits the schema: creates schema, types and table, or checks
    /// their shape. Called before the first use of a schema version in this session, outside a
    /// transaction, a table's versions in order. `newest`: the table's newest version in the log, if
    /// that is another one.
    ///
    /// # Errors
    /// Halt with table, column and remedy when the follower's table cannot take the rows.
    async fn prepare_table(
        &mut self,
        schema: &TableSchema,
        newest: Option<&TableSchema>,
    ) -> Result<()>;

    /// The table whose rows cannot follow a change of shape that the last error was about, and why: it is to be
    /// copied anew.
    fn needs_copy(&mut self) -> Option<(TableName, String)> {
        None
    }

    /// Why another attempt at once, in a new session of this very sink, has a better chance than the one that the
    /// last error ended, if it has: it learned which tables readers of the follower were in the way of, or an
    /// order stands in the checkpoint. Asked once.
    fn again_at_once(&mut self) -> Option<&'static str> {
        None
    }

    /// Whether the follower is still to stand at the boundary at which this checkpoint holds it: the one who
    /// asked for it is there, its time is not over, and no order stands in the store. Outside of a transaction.
    ///
    /// # Errors
    /// Transient when the store cannot be reached.
    async fn is_held(&mut self, held: &Checkpoint) -> Result<bool> {
        unreachable!("nobody holds this store: {:?}", held.hold)
    }

    /// Renames and drops tables as the leader has, in the open transaction. Returns the new names of those that
    /// have them now; a table that could not be renamed is copied anew under its new name. Only asked where the
    /// settings say so.
    ///
    /// # Errors
    /// Transient when a lock is not to be had; halt when a right is missing.
    async fn move_tables(&mut self, moves: &Moves) -> Result<BTreeSet<TableName>> {
        unreachable!("this store moves no tables: {moves:?}")
    }

    /// Begins a follower transaction that holds only if the stored checkpoint is still `from`
    /// (same owner, same version; `None`: there is none yet).
    ///
    /// # Errors
    /// Fenced when another worker owns the sink; transient when an own commit of unknown outcome
    /// turned out to have happened (open again).
    async fn begin(&mut self, from: Option<&Checkpoint>) -> Result<()>;

    /// Empties a table for a copy. A table that walferry has never filled and that holds rows is
    /// refused (halt), so that nobody's data is destroyed.
    async fn empty(&mut self, table: &TableName) -> Result<()>;

    /// Takes away of a table that was emptied for a copy of many rows what is built faster once they are
    /// there, and notes it in the same transaction. Of a table that walferry has never prepared: nothing.
    ///
    /// # Errors
    /// Transient when a lock is not to be had; halt when a right is missing.
    async fn set_indexes_aside(&mut self, _table: &TableName) -> Result<()> {
        Ok(())
    }

    /// Notes, in the same transaction, what the store lacks of the indexes and constraints that the leader
    /// has on a table and that it is set to take.
    ///
    /// # Errors
    /// As a statement.
    async fn offer_indexes(&mut self, _table: &TableName, _offers: &[Offer]) -> Result<()> {
        Ok(())
    }

    /// Builds what is noted of tables whose rows are all there. Outside of a transaction; while it goes on
    /// no other one may touch these tables. `None`: nothing is noted.
    ///
    /// # Errors
    /// As a query. The work fails as building does, and ends early when it is asked to stop.
    async fn build_indexes(
        &mut self,
        _tables: &BTreeSet<TableName>,
        _stop: CancellationToken,
    ) -> Result<Option<Building>> {
        Ok(None)
    }

    /// Forgets what it has found of these tables, which have other indexes now: they are prepared again.
    fn forget_tables(&mut self, _tables: &BTreeSet<TableName>) {}

    /// Loads rows of a copy (all changes are `Op::Read`). `before`: how many of the table's rows in this copy came
    /// before these, whatever was begun and given up.
    async fn load(&mut self, rows: &TableChanges, before: u64) -> Result<()>;

    /// Applies one chunk. Several chunks may follow one another in one transaction; `more` says that
    /// this one is not the last.
    ///
    /// # Errors
    /// Halt with table, key columns' names and position when the follower has diverged (a row that
    /// should be there is not) or refuses a row for good.
    async fn apply(&mut self, work: Work, more: bool) -> Result<()>;

    /// Notes in the transaction that these changes were passed over, as [`Sink::skips`] said.
    ///
    /// # Errors
    /// Transient when an order has been withdrawn meanwhile.
    async fn skipped(&mut self, skipped: &[Skipped]) -> Result<()> {
        unreachable!("no orders are kept here: {skipped:?}")
    }

    /// Writes the checkpoint `to` and commits; on return it is durable.
    async fn commit(&mut self, to: &Checkpoint) -> Result<()>;

    /// Gives up the transaction, if one is open.
    async fn rollback(&mut self) -> Result<()>;
}

/// The store that the settings ask for; nothing is connected yet. `pipeline` and the sink's name
/// identify its checkpoint, `instance` is the token of this worker.
pub fn create(pipeline: &str, settings: &SinkSettings, instance: &str) -> Box<dyn Sink> {
    let selection = Selection::new(&settings.include, &settings.exclude);
    match &settings.store {
        StoreSettings::Postgres(store) => {
            let sink =
                postgres::PostgresSink::new(pipeline, &settings.name, instance, store.clone());
            Box::new(sink.taking(selection))
        }
        StoreSettings::ClickHouse(store) => {
            let of = (store.clone(), selection);
            let sink = clickhouse::ClickHouseSink::new(pipeline, &settings.name, instance, of);
            Box::new(sink)
        }
        StoreSettings::MySql(store) => {
            let sink = mysql::MySqlSink::new(pipeline, &settings.name, instance, store.clone());
            Box::new(sink.taking(selection))
        }
        StoreSettings::Stdout(store) => Box::new(stdout::StdoutSink::new(store.clone())),
    }
}

/// The checkpoint of a sink's follower, for whoever gives orders.
///
/// # Errors
/// Halt when the store keeps none; else as [`FollowerCheckpoint::open`].
pub async fn checkpoint(
    pipeline: &str,
    settings: &SinkSettings,
) -> Result<Box<dyn StoredCheckpoint>> {
    let selection = Selection::new(&settings.include, &settings.exclude);
    match &settings.store {
        StoreSettings::Postgres(store) => {
            let opened = FollowerCheckpoint::open(pipeline, &settings.name, store, selection);
            Ok(Box::new(opened.await?))
        }
        StoreSettings::ClickHouse(store) => Ok(clickhouse::checkpoint(
            pipeline,
            &settings.name,
            (store, selection),
        )),
        StoreSettings::MySql(store) => {
            let opened = mysql::MySqlCheckpoint::open(pipeline, &settings.name, store, selection);
            Ok(Box::new(opened.await?))
        }
        StoreSettings::Stdout(_) => Err(Error::halt(
            format!(
                "{}: a sink that only shows changes has no follower",
                settings.name
            ),
            "name a sink with a follower",
        )),
    }
}

/// Looks at a follower before it is started, with the leader's tables; none: the store is looked at elsewhere, or
/// there is nothing to look at. Changes nothing.
pub async fn look(settings: &SinkSettings, tables: &[TableSchema]) -> Option<Looked> {
    let selection = Selection::new(&settings.include, &settings.exclude);
    let taken = tables.iter().filter(|table| selection.takes(&table.table));
    let taken: Vec<TableSchema> = taken.cloned().collect();
    match &settings.store {
        StoreSettings::ClickHouse(store) => Some(clickhouse::look(store, &taken).await),
        StoreSettings::MySql(store) => Some(mysql::look(store, &taken).await),
        StoreSettings::Postgres(_) | StoreSettings::Stdout(_) => None,
    }
}

/// A sink's follower, for a comparison with its leader.
///
/// # Errors
/// As connecting; halt when the store cannot be compared this way.
pub async fn compared(
    pipeline: &str,
    settings: &SinkSettings,
) -> Result<Box<dyn compared::Compared>> {
    match &settings.store {
        StoreSettings::ClickHouse(store) => {
            Ok(clickhouse::compared(pipeline, &settings.name, store))
        }
        StoreSettings::MySql(store) => mysql::compared(pipeline, &settings.name, store).await,
        StoreSettings::Postgres(_) | StoreSettings::Stdout(_) => Err(Error::halt(
            format!(
                "{}: this follower is not compared by forms of its columns",
                settings.name
            ),
            "name a sink with a follower",
        )),
    }
}

/// What is ordered of a change that a sink is to go on without.
#[derive(Clone, Debug)]
pub enum SkipOrder {
    /// Pass it over, for this reason.
    Skip {
        /// Why, in the operator's words.
        reason: String,
    },
    /// Apply it after all, unless it was passed over already.
    Withdraw,
}

/// Keeps an order in the follower; the sink obeys it from its next session on. What was done, for the
/// operator.
///
/// # Errors
/// Halt when the store keeps no orders, when the sink has no checkpoint there, or when its checkpoint is
/// beyond the position; transient when it cannot be reached. That nothing was changed (ordered already,
/// nothing to withdraw) is no error.
pub async fn order(
    pipeline: &str,
    settings: &SinkSettings,
    position: Position,
    order: &SkipOrder,
) -> Result<String> {
    match &settings.store {
        StoreSettings::Postgres(store) => {
            postgres::order(pipeline, &settings.name, store, position, order).await
        }
        StoreSettings::ClickHouse(_) => Err(Error::halt(
            format!(
                "{}: a ClickHouse follower passes no change over",
                settings.name
            ),
            "hold a column whose values it refuses as text, with [columns] in the sink's settings, or leave the table \
             out with [tables] exclude",
        )),
        StoreSettings::MySql(store) => {
            mysql::order(pipeline, &settings.name, store, position, order).await
        }
        StoreSettings::Stdout(_) => Err(Error::halt(
            format!(
                "{}: a sink that only shows changes refuses none",
                settings.name
            ),
            "name a sink that has halted; walferry status tells which",
        )),
    }
}
