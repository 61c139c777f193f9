//! All metrics: names, units, labels and meanings. `docs/metrics.md` says the same; a test compares.

use metrics::Unit;

/// Whether a value may fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets, which only grow while the process lives.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Unit of its values.
    pub unit: Unit,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it says, and when it is absent.
    pub help: &'static str,
}

const SINK: &[&str] = &["pipeline", "sink"];
const SOURCE: &[&str] = &["pipeline", "source"];

const fn counter_of(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        unit,
        labels,
        help,
    }
}

const fn gauge_of(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        unit,
        labels,
        help,
    }
}

const fn histogram_of(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Histogram,
        unit,
        labels,
        help,
    }
}

/// WAL bytes behind the leader.
pub const SINK_LAG_BYTES: Metric = gauge_of(
    "walferry_sink_lag_bytes",
    Unit::Bytes,
    SINK,
    "WAL bytes between the follower's applied boundary and the leader's newest sampled flush LSN. Absent when that sample is older than 3 s, while the follower is copying, and before its checkpoint is known.",
);
/// Seconds behind the leader.
pub const SINK_LAG_SECONDS: Metric = gauge_of(
    "walferry_sink_lag_seconds",
    Unit::Seconds,
    SINK,
    "Seconds since the leader first had more than the follower has applied, to within the samples' distance (3 s at most); an upper bound where samples are missing, as after an outage of the source; 0 only when it is known to have no more. Absent when unknown.",
);
/// Upper bound of the age of what a follower shows.
pub const SINK_STALENESS_SECONDS: Metric = gauge_of(
    "walferry_sink_staleness_seconds",
    Unit::Seconds,
    SINK,
    "Upper bound: seconds since the newest moment of the leader that the follower is known to show in full. Grows when the source or the sink stands still. Absent before the first checkpoint and while copying.",
);
/// Applied boundary.
pub const SINK_APPLIED_LSN_BYTES: Metric = gauge_of(
    "walferry_sink_applied_lsn_bytes",
    Unit::Bytes,
    SINK,
    "Applied boundary of the follower, as a byte position in the leader's WAL. Absent before its checkpoint is known.",
);
/// State, one series a state.
pub const SINK_STATE: Metric = gauge_of(
    "walferry_sink_state",
    Unit::Count,
    &["pipeline", "sink", "state"],
    "1 for the state the sink is in, 0 for the others: starting, waiting, copying, streaming, paused, retrying, halted, fenced, stopped.",
);
/// Whether a sink is in its normal work.
pub const SINK_UP: Metric = gauge_of(
    "walferry_sink_up",
    Unit::Count,
    SINK,
    "1 while the sink is applying (state streaming), else 0.",
);
/// How far tables are that are not in effect.
pub const SINK_REBUILD_PROGRESS_RATIO: Metric = gauge_of(
    "walferry_sink_rebuild_progress_ratio",
    Unit::Count,
    SINK,
    "While tables are copied or rebuilt: what is loaded and applied of the rows of their copies and the changes behind them, 0 to 1. Absent when every table is in effect, and while no copy is there.",
);
/// Leader transactions applied.
pub const SINK_TRANSACTIONS_TOTAL: Metric = counter_of(
    "walferry_sink_transactions_total",
    Unit::Count,
    SINK,
    "Leader transactions applied to the follower since the process started.",
);
/// Records taken.
pub const SINK_CHANGES_TOTAL: Metric = counter_of(
    "walferry_sink_changes_total",
    Unit::Count,
    SINK,
    "Change records taken from Kafka for the follower since the process started.",
);
/// Rows written.
pub const SINK_ROWS_WRITTEN_TOTAL: Metric = counter_of(
    "walferry_sink_rows_written_total",
    Unit::Count,
    &["pipeline", "sink", "op"],
    "Rows written to the follower by op (insert, update, delete) since the process started, after netting changes of the same row in a batch.",
);
/// Follower transactions.
pub const SINK_BATCHES_TOTAL: Metric = counter_of(
    "walferry_sink_batches_total",
    Unit::Count,
    SINK,
    "Follower transactions committed since the process started; each covers one or more leader transactions.",
);
/// Records of no valid entry.
pub const SINK_LEFTOVERS_TOTAL: Metric = counter_of(
    "walferry_sink_leftovers_total",
    Unit::Count,
    SINK,
    "Records passed over since the process started because they belong to no valid entry of the commit log: what an earlier source had sent and not completed.",
);
/// Changes passed over by order.
pub const SINK_SKIPPED_TOTAL: Metric = counter_of(
    "walferry_sink_skipped_total",
    Unit::Count,
    SINK,
    "Changes that the follower lacks because somebody ordered to pass them over (walferry sink skip); all there ever were, by the follower's own table walferry.skips.",
);
/// Time of the newest comparison.
pub const SINK_VERIFIED_TIMESTAMP_SECONDS: Metric = gauge_of(
    "walferry_sink_verified_timestamp_seconds",
    Unit::Seconds,
    SINK,
    "When the newest comparison of the follower with the leader was complete (verify_every), by the clock of walferry's host, seconds since 1970. Absent before the first since the process started.",
);
/// Differences that it found.
pub const SINK_VERIFIED_DIFFERING_ROWS: Metric = gauge_of(
    "walferry_sink_verified_differing_rows",
    Unit::Count,
    SINK,
    "Rows that the newest comparison found missing on the follower, beyond the leader's, or not the same. Absent before the first.",
);
/// Tables that it did not compare.
pub const SINK_VERIFIED_NOT_COMPARED_TABLES: Metric = gauge_of(
    "walferry_sink_verified_not_compared_tables",
    Unit::Count,
    SINK,
    "Tables that the newest comparison could not compare: no copy in effect yet, or a column is lacking. Absent before the first.",
);
/// Retries.
pub const SINK_RETRIES_TOTAL: Metric = counter_of(
    "walferry_sink_retries_total",
    Unit::Count,
    SINK,
    "Sessions of the sink begun again after a transient error since the process started.",
);
/// Tables still being copied.
pub const SINK_COPYING_TABLES: Metric = gauge_of(
    "walferry_sink_copying_tables",
    Unit::Count,
    SINK,
    "Tables of the follower whose copy is being loaded.",
);
/// When the last applied transaction committed.
pub const SINK_APPLIED_COMMIT_TIMESTAMP_SECONDS: Metric = gauge_of(
    "walferry_sink_applied_commit_timestamp_seconds",
    Unit::Seconds,
    SINK,
    "Commit time of the last applied transaction, by the leader's clock, seconds since 1970. Absent before the first.",
);
/// When the boundary last moved.
pub const SINK_PROGRESS_TIMESTAMP_SECONDS: Metric = gauge_of(
    "walferry_sink_progress_timestamp_seconds",
    Unit::Seconds,
    SINK,
    "When the applied boundary last moved, by the clock of walferry's host, seconds since 1970. Absent before the first.",
);
/// Entries that wait.
pub const SINK_WAITING_ENTRIES: Metric = gauge_of(
    "walferry_sink_waiting_entries",
    Unit::Count,
    SINK,
    "Entries of the commit log with changes that the follower has not applied; entries of a backlog of more than 4,096 may be counted a little too high. Absent until the log is read, and while the log cannot be read.",
);
/// Changes that wait.
pub const SINK_WAITING_CHANGES: Metric = gauge_of(
    "walferry_sink_waiting_changes",
    Unit::Count,
    SINK,
    "Change records in Kafka that the follower has not applied, all tables of the pipeline counted. Absent as walferry_sink_waiting_entries is.",
);
/// Bytes that wait.
pub const SINK_WAITING_BYTES: Metric = gauge_of(
    "walferry_sink_waiting_bytes",
    Unit::Bytes,
    SINK,
    "Bytes of keys and values of those records, before compression. Absent as walferry_sink_waiting_entries is.",
);
/// Until Kafka expires what is needed.
pub const SINK_RETENTION_HEADROOM_SECONDS: Metric = gauge_of(
    "walferry_sink_retention_headroom_seconds",
    Unit::Seconds,
    SINK,
    "Lower bound: seconds until Kafka may expire what the follower still needs, which is the shortest retention.ms of the tables' topics minus the staleness. Absent when that is for ever, when DESCRIBE_CONFIGS is not granted, and when staleness is absent.",
);
/// Changes overtaken.
pub const SINK_COALESCED_TOTAL: Metric = counter_of(
    "walferry_sink_coalesced_total",
    Unit::Count,
    SINK,
    "Changes since the process started that needed no row of their own, because a later change of the same row was in the same batch.",
);
/// Batch size.
pub const SINK_BATCH_CHANGES: Metric = histogram_of(
    "walferry_sink_batch_changes",
    Unit::Count,
    SINK,
    "Changes a follower transaction.",
);
/// Stages of a batch.
pub const SINK_STAGE_SECONDS: Metric = histogram_of(
    "walferry_sink_stage_seconds",
    Unit::Seconds,
    &["pipeline", "sink", "stage"],
    "Time of a batch with changes by stage: wait (for it to be read from Kafka and planned), apply (from BEGIN until its last change is in), commit.",
);
/// Commit to visible.
pub const SINK_COMMIT_TO_VISIBLE_SECONDS: Metric = histogram_of(
    "walferry_sink_commit_to_visible_seconds",
    Unit::Seconds,
    SINK,
    "Time from a leader commit, the last one of its batch, until the follower shows it, by the leader's clock. In a process without the source that clock is known from samples in the log, and times are too short by what a sample needs through Kafka, some milliseconds.",
);
/// State, one series a state.
pub const SOURCE_STATE: Metric = gauge_of(
    "walferry_source_state",
    Unit::Count,
    &["pipeline", "source", "state"],
    "1 for the state the source is in, 0 for the others: starting, waiting, copying, streaming, paused, retrying, halted, fenced, stopped.",
);
/// Whether the source streams.
pub const SOURCE_UP: Metric = gauge_of(
    "walferry_source_up",
    Unit::Count,
    SOURCE,
    "1 while the source is streaming (state streaming or copying), else 0.",
);
/// Newest WAL received.
pub const SOURCE_RECEIVED_LSN_BYTES: Metric = gauge_of(
    "walferry_source_received_lsn_bytes",
    Unit::Bytes,
    SOURCE,
    "Newest WAL position received from the leader. Absent before the first.",
);
/// End of what Kafka holds validly.
pub const SOURCE_PUBLISHED_LSN_BYTES: Metric = gauge_of(
    "walferry_source_published_lsn_bytes",
    Unit::Bytes,
    SOURCE,
    "Boundary up to which Kafka holds everything durably and validly: the end of the newest valid entry of the commit log. Absent before the first.",
);
/// Position confirmed to the slot.
pub const SOURCE_CONFIRMED_LSN_BYTES: Metric = gauge_of(
    "walferry_source_confirmed_lsn_bytes",
    Unit::Bytes,
    SOURCE,
    "Position last confirmed to the replication slot: the leader may remove WAL before it. Absent before the first.",
);
/// Leader's flush position.
pub const SOURCE_LEADER_FLUSH_LSN_BYTES: Metric = gauge_of(
    "walferry_source_leader_flush_lsn_bytes",
    Unit::Bytes,
    SOURCE,
    "Leader's flush LSN at the newest sample. Absent before the first.",
);
/// WAL kept for the slot.
pub const SOURCE_SLOT_RETAINED_BYTES: Metric = gauge_of(
    "walferry_source_slot_retained_bytes",
    Unit::Bytes,
    SOURCE,
    "Bytes of WAL that the leader keeps because of the slot, at the newest sample. Absent when the slot is gone, has lost its WAL, or the leader cannot be asked.",
);
/// Current epoch.
pub const SOURCE_EPOCH: Metric = gauge_of(
    "walferry_source_epoch",
    Unit::Count,
    SOURCE,
    "Number of the current epoch (offset of its entry in the commit log). Absent before the first.",
);
/// Epochs begun.
pub const SOURCE_EPOCHS_TOTAL: Metric = counter_of(
    "walferry_source_epochs_total",
    Unit::Count,
    SOURCE,
    "Epochs begun since the process started: 1 when nothing was ever lost.",
);
/// Transactions published.
pub const SOURCE_TRANSACTIONS_TOTAL: Metric = counter_of(
    "walferry_source_transactions_total",
    Unit::Count,
    SOURCE,
    "Leader transactions published since the process started.",
);
/// Changes published.
pub const SOURCE_CHANGES_TOTAL: Metric = counter_of(
    "walferry_source_changes_total",
    Unit::Count,
    SOURCE,
    "Change records published since the process started.",
);
/// Bytes published.
pub const SOURCE_PUBLISHED_BYTES_TOTAL: Metric = counter_of(
    "walferry_source_published_bytes_total",
    Unit::Bytes,
    SOURCE,
    "Bytes of record keys and values published since the process started, before compression.",
);
/// Tables still being copied.
pub const SOURCE_COPYING_TABLES: Metric = gauge_of(
    "walferry_source_copying_tables",
    Unit::Count,
    SOURCE,
    "Tables whose existing rows are being copied.",
);
/// Slot active.
pub const SOURCE_SLOT_ACTIVE: Metric = gauge_of(
    "walferry_source_slot_active",
    Unit::Count,
    SOURCE,
    "1 while a session streams from the slot, 0 while none does, at the newest sample. Absent when the slot is gone or the leader cannot be asked.",
);
/// State of the slot's WAL.
pub const SOURCE_SLOT_WAL_STATUS: Metric = gauge_of(
    "walferry_source_slot_wal_status",
    Unit::Count,
    &["pipeline", "source", "status"],
    "1 for the slot's wal_status, 0 for the others: reserved, extended, unreserved (may be lost at the next checkpoint), lost. Absent when the slot is gone or the leader cannot be asked.",
);
/// Room until WAL is lost.
pub const SOURCE_SLOT_SAFE_BYTES: Metric = gauge_of(
    "walferry_source_slot_safe_bytes",
    Unit::Bytes,
    SOURCE,
    "Bytes that can still be written until the slot is in danger of losing WAL (safe_wal_size). Absent when max_slot_wal_keep_size sets no limit, and when the leader cannot be asked.",
);
/// Clock offset.
pub const SOURCE_CLOCK_OFFSET_SECONDS: Metric = gauge_of(
    "walferry_source_clock_offset_seconds",
    Unit::Seconds,
    SOURCE,
    "The leader's clock minus that of walferry's host, to within half a round trip. Lag does not depend on it. Absent when the leader cannot be asked.",
);
/// Newest entry.
pub const SOURCE_ENTRY_TIMESTAMP_SECONDS: Metric = gauge_of(
    "walferry_source_entry_timestamp_seconds",
    Unit::Seconds,
    SOURCE,
    "When the newest entry, a heartbeat if the leader is idle, became durable in Kafka, by the clock of walferry's host, seconds since 1970. Absent before the first.",
);
/// Publish latency.
pub const SOURCE_PUBLISH_SECONDS: Metric = histogram_of(
    "walferry_source_publish_seconds",
    Unit::Seconds,
    SOURCE,
    "Time from the closing of a batch with changes until its entry was durable in Kafka.",
);
/// Commit to durable.
pub const SOURCE_COMMIT_TO_DURABLE_SECONDS: Metric = histogram_of(
    "walferry_source_commit_to_durable_seconds",
    Unit::Seconds,
    SOURCE,
    "Time from a leader commit, the last one of its batch, until Kafka held it durably and validly, by the leader's clock.",
);
/// Rows copied.
pub const SOURCE_COPIED_ROWS: Metric = gauge_of(
    "walferry_source_copied_rows",
    Unit::Count,
    &["pipeline", "source", "table"],
    "Rows of a table that the copy under way has published. Absent when no copy is under way.",
);
/// Rows to copy.
pub const SOURCE_COPY_ROWS_ESTIMATE: Metric = gauge_of(
    "walferry_source_copy_rows_estimate",
    Unit::Count,
    &["pipeline", "source", "table"],
    "Rows that the leader's statistics expect in a table of the copy under way. Absent when no copy is under way, and without statistics.",
);
/// Errors by part and class.
pub const ERRORS_TOTAL: Metric = counter_of(
    "walferry_errors_total",
    Unit::Count,
    &["pipeline", "part", "class"],
    "Errors that ended a session of a part since the process started; class is transient (retried), halt (a person must act) or fenced (another worker has taken over).",
);
/// Version.
pub const BUILD_INFO: Metric = gauge_of(
    "walferry_build_info",
    Unit::Count,
    &["version"],
    "Always 1; the version is in the label.",
);
/// Resident memory.
pub const PROCESS_MEMORY_BYTES: Metric = gauge_of(
    "process_resident_memory_bytes",
    Unit::Bytes,
    &[],
    "Resident memory of the process. Absent where /proc is not there.",
);
/// CPU time.
pub const PROCESS_CPU_SECONDS: Metric = counter_of(
    "process_cpu_seconds_total",
    Unit::Seconds,
    &[],
    "CPU time of the process, user and system, since it started; grows only. Absent where /proc is not there.",
);

/// Open files.
pub const PROCESS_OPEN_FDS: Metric = gauge_of(
    "process_open_fds",
    Unit::Count,
    &[],
    "Open file descriptors. Absent where /proc is not there.",
);
/// Limit of open files.
pub const PROCESS_MAX_FDS: Metric = gauge_of(
    "process_max_fds",
    Unit::Count,
    &[],
    "Limit of open file descriptors. Absent where /proc is not there, or without a limit.",
);
/// Event-loop delay.
pub const EVENT_LOOP_DELAY_SECONDS: Metric = histogram_of(
    "walferry_event_loop_delay_seconds",
    Unit::Seconds,
    &[],
    "How late the process wakes a task whose timer is due, looked at four times a second.",
);
/// Every metric.
pub const ALL: &[Metric] = &[
    SINK_LAG_BYTES,
    SINK_LAG_SECONDS,
    SINK_STALENESS_SECONDS,
    SINK_APPLIED_LSN_BYTES,
    SINK_STATE,
    SINK_UP,
    SINK_REBUILD_PROGRESS_RATIO,
    SINK_TRANSACTIONS_TOTAL,
    SINK_CHANGES_TOTAL,
    SINK_ROWS_WRITTEN_TOTAL,
    SINK_BATCHES_TOTAL,
    SINK_LEFTOVERS_TOTAL,
    SINK_SKIPPED_TOTAL,
    SINK_VERIFIED_TIMESTAMP_SECONDS,
    SINK_VERIFIED_DIFFERING_ROWS,
    SINK_VERIFIED_NOT_COMPARED_TABLES,
    SINK_RETRIES_TOTAL,
    SINK_COPYING_TABLES,
    SINK_APPLIED_COMMIT_TIMESTAMP_SECONDS,
    SINK_PROGRESS_TIMESTAMP_SECONDS,
    SINK_WAITING_ENTRIES,
    SINK_WAITING_CHANGES,
    SINK_WAITING_BYTES,
    SINK_RETENTION_HEADROOM_SECONDS,
    SINK_COALESCED_TOTAL,
    SINK_BATCH_CHANGES,
    SINK_STAGE_SECONDS,
    SINK_COMMIT_TO_VISIBLE_SECONDS,
    SOURCE_STATE,
    SOURCE_UP,
    SOURCE_RECEIVED_LSN_BYTES,
    SOURCE_PUBLISHED_LSN_BYTES,
    SOURCE_CONFIRMED_LSN_BYTES,
    SOURCE_LEADER_FLUSH_LSN_BYTES,
    SOURCE_SLOT_RETAINED_BYTES,
    SOURCE_EPOCH,
    SOURCE_EPOCHS_TOTAL,
    SOURCE_TRANSACTIONS_TOTAL,
    SOURCE_CHANGES_TOTAL,
    SOURCE_PUBLISHED_BYTES_TOTAL,
    SOURCE_COPYING_TABLES,
    SOURCE_SLOT_ACTIVE,
    SOURCE_SLOT_WAL_STATUS,
    SOURCE_SLOT_SAFE_BYTES,
    SOURCE_CLOCK_OFFSET_SECONDS,
    SOURCE_ENTRY_TIMESTAMP_SECONDS,
    SOURCE_PUBLISH_SECONDS,
    SOURCE_COMMIT_TO_DURABLE_SECONDS,
    SOURCE_COPIED_ROWS,
    SOURCE_COPY_ROWS_ESTIMATE,
    ERRORS_TOTAL,
    BUILD_INFO,
    PROCESS_MEMORY_BYTES,
    PROCESS_CPU_SECONDS,
    PROCESS_OPEN_FDS,
    PROCESS_MAX_FDS,
    EVENT_LOOP_DELAY_SECONDS,
];
