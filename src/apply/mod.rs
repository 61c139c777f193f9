//! The sink worker: reads valid entries and their records, plans, applies, checkpoints.
//!
//! ```text
//! commit log ─▶ follow ─▶ pull (take) ─▶ chunk ─▶ plan ─▶ session ─▶ Sink
//!   copies ─▶ join (decides) ─▶ join_load ──────────────────┘
//! ```
//!
//! The follower's checkpoint is the only truth about what it has: everything here is rebuilt from it
//! when a session begins. `take`, `follow`, `join`, `careful`, `chunk` and `plan` decide and are pure;
//! `reader` and `join_load` read on threads of their own; `session` applies, one transaction at a time, and
//! `attempts` runs another session in smaller steps where one could not go on.

mod attempts; // session after session, in smaller steps
pub mod careful; // how many entries go into a batch
pub mod chunk; // records into rows, up to a budget
pub mod follow; // the commit log judged, tables in effect
#[cfg(test)]
mod in_memory; // a table's records, for tests
pub mod join; // what is next for tables that are not in effect
pub mod join_load; // rows and changes of a join
pub mod moment; // the boundary that a time or a transaction names
pub mod moves; // tables that an epoch entry has under another name, or no more
pub mod orders; // what an operator changes of a checkpoint
pub mod partitions; // what one consumer reads, and where it stands
pub mod plan; // the net change of a table
pub mod planned; // a chunk as the store wants it
pub mod pull; // the records of one entry
pub mod reader; // the main reader's thread
pub mod rebuilding; // how far tables are
pub mod replay; // where a range of transactions begins
mod session; // the applier
mod session_hold; // the applier's side of a boundary at which it is held for a moment
mod session_indexes; // the applier's side of indexes
mod session_join; // the applier's side of joins
mod session_prepare; // the applier's side of schema versions
mod session_says; // what the applier says of itself
mod session_skip; // the applier's side of changes to be passed over
mod start; // from the checkpoint to where to go on
pub mod take; // which records belong to an entry

use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use crate::config::{KafkaSettings, SinkSettings};
use crate::error::{Error, Result};
use crate::model::Checkpoint;
use crate::status::{LeaderClock, Shared, SinkView};
use crate::trace::Traces;

/// The newest checkpoint of a store that keeps none itself, from one session of a process to the next.
pub type Shown = Arc<Mutex<Option<Checkpoint>>>;

/// What a sink worker works with.
#[derive(Clone)]
pub struct SinkContext {
    /// Pipeline name.
    pub pipeline: String,
    /// Token of this worker, unique a process start.
    pub instance: String,
    /// The sink's settings.
    pub sink: SinkSettings,
    /// The name under which it says its progress: the sink's own, unless it feeds a second follower of it.
    pub said_as: String,
    /// Kafka's settings.
    pub kafka: KafkaSettings,
    /// What it says of itself.
    pub status: Arc<Shared<SinkView>>,
    /// What the leader's clock says, for all parts of the process.
    pub leader_clock: Arc<LeaderClock>,
    /// Where spans go.
    pub traces: Traces,
    /// What a store without a memory of its own has shown so far.
    pub shown: Shown,
    /// Asks it to finish the batch under way and return.
    pub stop: CancellationToken,
}

/// Runs one session: opens the store, reads its checkpoint, applies; until asked to stop (`Ok`) or
/// until an error (`Err`, classified; the supervisor runs it again with back-off or halts it).
///
/// # Errors
/// Transient when the follower or Kafka cannot be reached; halt when the log lost what was
/// acknowledged, belongs to another leader, or the follower cannot take a change; fenced when
/// another worker owns the follower.
pub async fn run_session(context: &SinkContext) -> Result<()> {
    attempts::run(context).await
}

/// What only a bug could bring about.
fn bug(what: impl std::fmt::Display) -> Error {
    Error::halt(
        format!("a bug in walferry: {what}"),
        "report it with the log around this line; a restart resumes at the last durable boundary",
    )
}

/// The error of a blocking task that gave no result: a panic, or the end of the process.
fn unfinished(doing: &str, error: tokio::task::JoinError) -> Error {
    if error.is_panic() {
        bug(format_args!("a panic while {doing}")).caused_by(error)
    } else {
        Error::transient(doing).caused_by(error)
    }
}

/// A supervisor spawns it.
const _: fn(&SinkContext) = |context| {
    fn is_send(_: impl Send) {}
    is_send(run_session(context));
};
