//! What every worker says of itself, in one place: read by `/v1/status`, `/metrics`, `/readyz` and
//! `walferry status`. Workers write it; nobody decides anything by it.

mod histogram;
mod leader_clock;
mod process;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::error::{Class, Error};
use crate::model::{Lsn, SlotState};

pub use histogram::{CHANGES, Histogram, SECONDS};
pub use leader_clock::{LeaderClock, Reading};
pub use process::{Parts, ProcessStatus, SinkHandle};

/// What a connector is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not yet connected.
    #[default]
    Starting,
    /// A source waiting for the slot that another instance holds.
    Waiting,
    /// First copy or a join of the whole follower under way: promises nothing yet.
    Copying,
    /// In its normal work.
    Streaming,
    /// At the boundary at which it was ordered to stop.
    Paused,
    /// An error that may pass; waiting to try again.
    Retrying,
    /// Needs a person; see `last_error`.
    Halted,
    /// Another worker has taken it over.
    Fenced,
    /// Stopped in order.
    Stopped,
}

impl State {
    /// The state's name as it is printed everywhere.
    pub fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Waiting => "waiting",
            State::Copying => "copying",
            State::Streaming => "streaming",
            State::Paused => "paused",
            State::Retrying => "retrying",
            State::Halted => "halted",
            State::Fenced => "fenced",
            State::Stopped => "stopped",
        }
    }

    /// All states, for one series a state.
    pub const ALL: [State; 9] = [
        State::Starting,
        State::Waiting,
        State::Copying,
        State::Streaming,
        State::Paused,
        State::Retrying,
        State::Halted,
        State::Fenced,
        State::Stopped,
    ];
}

/// An error as operators see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastError {
    /// What and where.
    pub what: String,
    /// What to do: for halts, and for other errors that often need a person too.
    pub remedy: Option<String>,
    /// When, by this host's clock, seconds since 1970.
    pub at_unix_seconds: u64,
}

impl LastError {
    /// From an error, now.
    pub fn now(error: &Error) -> Self {
        let at = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        LastError {
            what: error.what(),
            remedy: error.remedy().map(str::to_owned),
            at_unix_seconds: at.as_secs(),
        }
    }
}

/// Errors of a part since start, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCounts {
    /// Retried by itself.
    pub transient: u64,
    /// Needed a person.
    pub halt: u64,
    /// Another worker took over.
    pub fenced: u64,
}

impl ErrorCounts {
    /// Counts one error.
    pub fn count(&mut self, class: Class) {
        match class {
            Class::Transient => self.transient += 1,
            Class::Halt => self.halt += 1,
            Class::Fenced => self.fenced += 1,
        }
    }

    /// Counts with the names of their classes.
    pub fn by_class(&self) -> [(&'static str, u64); 3] {
        [
            ("transient", self.transient),
            ("halt", self.halt),
            ("fenced", self.fenced),
        ]
    }
}

/// Progress of one table's copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CopyProgress {
    /// `schema.table`.
    pub table: String,
    /// Rows done.
    pub rows: u64,
    /// Rows expected (`reltuples`), where known.
    pub rows_estimate: Option<u64>,
    /// Whether it is finished.
    pub done: bool,
}

/// How far tables are on their way into effect: rows of copies, and changes behind them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildProgress {
    /// Rows and changes done.
    pub done: u64,
    /// Rows and changes in all, as far as they are known.
    pub total: u64,
}

impl RebuildProgress {
    /// The part that is done, from 0 to 1; unknown while nothing is known of what there is to do.
    pub fn ratio(self) -> Option<f64> {
        (self.total > 0).then(|| (self.done as f64 / self.total as f64).min(1.0))
    }
}

/// The source as it is now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SourceView {
    /// What it does.
    pub state: State,
    /// Current epoch.
    pub epoch: Option<u64>,
    /// Newest WAL received.
    pub received: Option<Lsn>,
    /// `to` of the newest valid entry.
    pub published: Option<Lsn>,
    /// Last flush position sent to the slot.
    pub confirmed: Option<Lsn>,
    /// Leader's flush LSN at the newest sample.
    pub leader_flush: Option<Lsn>,
    /// The slot at the newest sample; none when it is gone or the leader cannot be asked.
    #[serde(default)]
    pub slot: Option<SlotState>,
    /// The leader's clock minus this host's, microseconds, at the newest sample.
    #[serde(default)]
    pub clock_offset_us: Option<i64>,
    /// When the newest entry became durable in Kafka, by this host's clock, microseconds since 1970.
    #[serde(default)]
    pub entry_at_us: Option<i64>,
    /// Transactions published since start.
    pub transactions: u64,
    /// Changes published since start.
    pub changes: u64,
    /// Bytes of record keys and values published since start.
    pub bytes: u64,
    /// Epochs begun since start.
    pub epochs: u64,
    /// Copies of tables.
    pub copies: Vec<CopyProgress>,
    /// Whether copies are paused by order.
    #[serde(default)]
    pub copies_paused: bool,
    /// Newest error.
    pub last_error: Option<LastError>,
    /// Errors that ended an epoch, by class; counted by the supervisor.
    #[serde(default)]
    pub errors: ErrorCounts,
    /// Distributions; in `/metrics` only.
    #[serde(skip)]
    pub times: SourceTimes,
}

/// How long a source's work took.
#[derive(Clone, Copy, Debug)]
pub struct SourceTimes {
    /// Seconds from the closing of a batch until its entry was durable in Kafka.
    pub publish: Histogram,
    /// Seconds from a leader commit, the last of its batch, until the entry was durable in Kafka.
    pub durable: Histogram,
}

impl Default for SourceTimes {
    fn default() -> Self {
        SourceTimes {
            publish: Histogram::new(SECONDS),
            durable: Histogram::new(SECONDS),
        }
    }
}

/// Rows written to a follower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// Inserted, the rows of copies too.
    pub inserted: u64,
    /// Updated, key changes too.
    pub updated: u64,
    /// Deleted.
    pub deleted: u64,
}

impl RowCounts {
    /// All rows.
    pub fn total(self) -> u64 {
        self.inserted + self.updated + self.deleted
    }

    /// Counts with the names of their operations.
    pub fn by_op(self) -> [(&'static str, u64); 3] {
        [
            ("insert", self.inserted),
            ("update", self.updated),
            ("delete", self.deleted),
        ]
    }
}

impl std::ops::AddAssign for RowCounts {
    fn add_assign(&mut self, more: RowCounts) {
        self.inserted += more.inserted;
        self.updated += more.updated;
        self.deleted += more.deleted;
    }
}

/// What a comparison of a follower with the leader found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When it was complete, by this host's clock, seconds since 1970.
    pub at_unix_seconds: u64,
    /// Rows of the leader in the tables that were compared.
    pub rows: u64,
    /// Rows that the follower lacks, has beyond those, or holds otherwise.
    pub differing: u64,
    /// Tables that could not be compared.
    pub not_compared: u64,
}

/// How long a sink's work took, and how large its batches were.
#[derive(Clone, Copy, Debug)]
pub struct SinkTimes {
    /// Seconds that the applier waited for a batch with changes to be read and planned.
    pub wait: Histogram,
    /// Seconds from the begin of a follower transaction until its last change was in.
    pub apply: Histogram,
    /// Seconds of the follower's COMMIT.
    pub commit: Histogram,
    /// Seconds from a leader commit, the last of its batch, until the follower shows it.
    pub visible: Histogram,
    /// Changes a follower transaction.
    pub changes: Histogram,
}

impl SinkTimes {
    /// The stages of a batch with their names.
    pub fn stages(&self) -> [(&'static str, &Histogram); 3] {
        [
            ("wait", &self.wait),
            ("apply", &self.apply),
            ("commit", &self.commit),
        ]
    }
}

impl Default for SinkTimes {
    fn default() -> Self {
        SinkTimes {
            wait: Histogram::new(SECONDS),
            apply: Histogram::new(SECONDS),
            commit: Histogram::new(SECONDS),
            visible: Histogram::new(SECONDS),
            changes: Histogram::new(CHANGES),
        }
    }
}

/// A sink as it is now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SinkView {
    /// What it does.
    pub state: State,
    /// Whether tables of it are not in effect yet, so that the follower promises nothing, whatever the state.
    #[serde(default)]
    pub copying: bool,
    /// Applied boundary.
    pub applied: Option<Lsn>,
    /// The boundary at which it is to stop, if it was ordered to.
    #[serde(default)]
    pub target: Option<Lsn>,
    /// The leader's timeline that the boundary is of.
    #[serde(default)]
    pub timeline: Option<u32>,
    /// The leader's system identifier.
    #[serde(default)]
    pub system_id: Option<String>,
    /// How far the tables are that are not in effect, and those that came into effect with them; none
    /// when no table is lacking.
    #[serde(default)]
    pub rebuild: Option<RebuildProgress>,
    /// Indexes that are still to be built before tables take effect, the one under way first.
    #[serde(default)]
    pub building: Vec<String>,
    /// Offset of the next commit-log entry.
    pub log_offset: Option<i64>,
    /// Commit time of the last applied transaction, microseconds since 2000-01-01 UTC.
    pub commit_time_us: Option<i64>,
    /// Leader transactions applied since start.
    pub transactions: u64,
    /// Records taken from topics since start.
    pub changes: u64,
    /// Rows written to the follower since start (after netting).
    #[serde(default)]
    pub rows: RowCounts,
    /// Changes since start that needed no row of their own, as a later one of their batch overtook them.
    #[serde(default)]
    pub coalesced: u64,
    /// When the applied boundary last moved, by this host's clock, microseconds since 1970.
    #[serde(default)]
    pub progress_at_us: Option<i64>,
    /// Follower transactions since start.
    pub batches: u64,
    /// Records passed over because they belong to no valid entry.
    pub leftovers: u64,
    /// Retries after transient errors since start.
    pub retries: u64,
    /// Changes that the follower lacks because somebody ordered to pass them over; all there ever were.
    #[serde(default)]
    pub skipped: u64,
    /// What the newest comparison with the leader found.
    #[serde(default)]
    pub verified: Option<Verified>,
    /// Copies of tables that are lacking, and those that have come into effect since the session began.
    pub copies: Vec<CopyProgress>,
    /// Newest error.
    pub last_error: Option<LastError>,
    /// Errors that ended a session, by class; counted by the supervisor.
    #[serde(default)]
    pub errors: ErrorCounts,
    /// Distributions; in `/metrics` only.
    #[serde(skip)]
    pub times: SinkTimes,
}

/// A shared view: one writer, any number of readers.
#[derive(Debug, Default)]
pub struct Shared<T> {
    view: Mutex<T>,
    changed: Notify,
}

impl<T: Clone> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, T> {
        // A panic between two assignments of plain numbers leaves nothing half-done worth refusing.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Changes the view.
    pub fn update(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }
    /// Done when the view is changed after this call, awaited by then or not.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
    /// What is asked of the view as it is.
    pub fn look<R>(&self, ask: impl FnOnce(&T) -> R) -> R {
        ask(&self.lock())
    }
    /// A copy of the view.
    pub fn get(&self) -> T {
        self.lock().clone()
    }
}

/// How late tasks are woken.
#[derive(Clone, Copy, Debug)]
pub struct EventLoop {
    /// Seconds between when a timer was due and when its task ran.
    pub delay: Histogram,
}

impl Default for EventLoop {
    fn default() -> Self {
        EventLoop {
            delay: Histogram::new(SECONDS),
        }
    }
}
