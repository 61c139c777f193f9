//! The applier's side of indexes: set aside where a copy's rows begin, built where they have all come and
//! the changes behind them too, before the tables take effect.
//!
//! Why there: readers of a table in effect find its indexes, the changes of the second reader so far have
//! cost no index entry, and a unique index of the leader meets rows of one boundary, at which it holds. The
//! main reader goes on meanwhile; what it passes is caught up with afterwards, with the indexes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::session::Session;
use super::unfinished;
use crate::error::Result;
use crate::model::{Offer, TableName};

/// A table whose copy has fewer rows keeps its indexes: to drop and make them costs as much as they do.
const MANY_ROWS: u64 = 10_000;

/// Indexes being built for the tables of the join under way.
#[derive(Default)]
pub(super) struct IndexWork {
    running: Option<Running>,
}

struct Running {
    tables: BTreeSet<TableName>,
    indexes: Vec<String>,
    done: Arc<AtomicUsize>,
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl IndexWork {
    /// Whether indexes are being built.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// What is still to be built, the one under way first: `schema.table: index`.
    pub(super) fn left(&self) -> &[String] {
        let left = self.running.as_ref().and_then(|running| {
            let done = running.done.load(Ordering::Relaxed);
            running.indexes.get(done..)
        });
        left.unwrap_or_default()
    }

    /// The tables whose indexes are built now; waits for ever when none are being built. Cancel-safe.
    pub(super) async fn built(&mut self) -> Result<BTreeSet<TableName>> {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let ended = (&mut running.task).await;
        let running = self.running.take().expect("it has just ended");
        ended.map_err(|error| unfinished("building indexes", error))??;
        Ok(running.tables)
    }

    /// Gives the building up: the server is asked to end it, and rolls back.
    pub(super) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
        }
    }
}

impl Drop for IndexWork {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Session<'_> {
    /// Sets a table's indexes aside that has just been emptied, and notes those that the leader has beside
    /// them, if the sink takes them.
    pub(super) async fn prepare_indexes(&mut self, table: &TableName) -> Result<()> {
        let join = self.checkpoint.joins.first();
        let Some(copy) = join.and_then(|join| self.copies_known().get(join.copy)) else {
            return Ok(());
        };
        let rows = copy.rows(&self.terms.topics.copy(table));
        let offers: Vec<Offer> = copy.begin.offers(table).to_vec();
        // Of a copy that is still running it is not known.
        if rows.is_none_or(|rows| rows >= MANY_ROWS) {
            self.sink.set_indexes_aside(table).await?;
        }
        self.sink.offer_indexes(table, &offers).await
    }

    /// Whether the tables of the join have their indexes; begins to build them where not.
    pub(super) async fn has_indexes(&mut self) -> Result<bool> {
        if self.indexes.is_running() {
            return Ok(false);
        }
        let join = self.checkpoint.joins.first().expect("a join takes effect");
        let (tables, stop) = (join.tables.clone(), CancellationToken::new());
        let Some(building) = self.sink.build_indexes(&tables, stop.clone()).await? else {
            return Ok(true);
        };
        // What the loader reads ahead would wait for the build, with the transaction of the main reader.
        self.join.stop();
        self.indexes.running = Some(Running {
            tables,
            indexes: building.indexes,
            done: building.done,
            stop,
            task: tokio::spawn(building.work),
        });
        Ok(false)
    }

    /// Goes on with tables that have their indexes.
    pub(super) fn indexes_built(&mut self, tables: &BTreeSet<TableName>) {
        self.sink.forget_tables(tables);
        self.prepared
            .retain(|_, schema| !tables.contains(&schema.table));
    }
}
