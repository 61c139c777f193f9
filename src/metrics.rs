//! All metrics: their names, units, labels and meanings in one table, and their values as the
//! status views and the lag tracker stand at the moment of a scrape.
//!
//! Every scrape fills a recorder of its own, so a value that is not known now is absent from the
//! output instead of standing there as it was.

use metrics::{Label, Unit, counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::lag::{HostClock, SharedTracker};
use crate::model::Lsn;
use crate::status::{ErrorCounts, ProcessStatus, SinkView, SourceView, State};

/// Whether a value may fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// Counter or gauge.
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
    "1 for the state the sink is in, 0 for the others: starting, waiting, copying, streaming, retrying, halted, fenced, stopped.",
);
/// Whether a sink is in its normal work.
pub const SINK_UP: Metric = gauge_of(
    "walferry_sink_up",
    Unit::Count,
    SINK,
    "1 while the sink is applying (state streaming), else 0.",
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
    SINK,
    "Rows inserted, updated or deleted in the follower since the process started, after netting changes of the same row in a batch.",
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
/// State, one series a state.
pub const SOURCE_STATE: Metric = gauge_of(
    "walferry_source_state",
    Unit::Count,
    &["pipeline", "source", "state"],
    "1 for the state the source is in, 0 for the others: starting, waiting, copying, streaming, retrying, halted, fenced, stopped.",
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
    "Bytes of WAL that the leader keeps because of the slot, at the newest sample. Absent before the first.",
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

/// Every metric.
pub const ALL: &[Metric] = &[
    SINK_LAG_BYTES,
    SINK_LAG_SECONDS,
    SINK_STALENESS_SECONDS,
    SINK_APPLIED_LSN_BYTES,
    SINK_STATE,
    SINK_UP,
    SINK_TRANSACTIONS_TOTAL,
    SINK_CHANGES_TOTAL,
    SINK_ROWS_WRITTEN_TOTAL,
    SINK_BATCHES_TOTAL,
    SINK_LEFTOVERS_TOTAL,
    SINK_SKIPPED_TOTAL,
    SINK_RETRIES_TOTAL,
    SINK_COPYING_TABLES,
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
    ERRORS_TOTAL,
    BUILD_INFO,
    PROCESS_MEMORY_BYTES,
    PROCESS_CPU_SECONDS,
];

/// All metrics now, in Prometheus's text format.
pub fn render(status: &ProcessStatus, lag: &SharedTracker, clock: &HostClock) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, || {
        for metric in ALL {
            match metric.kind {
                Kind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
                Kind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
            }
        }
        BUILD_INFO.set(&[env!("CARGO_PKG_VERSION")], 1.0);
        PROCESS_MEMORY_BYTES.set_known(&[], process_memory_bytes());
        if let Some((name, view)) = &status.source {
            source(&[&status.pipeline, name], &view.get());
        }
        for sink in &status.sinks {
            let view = sink.view.get();
            let lag = lag.lock().sink_lag(&view, clock.now_us());
            let labels = [status.pipeline.as_str(), sink.name.as_str()];
            SINK_LAG_BYTES.set_known(&labels, lag.bytes.map(|bytes| bytes as f64));
            SINK_LAG_SECONDS.set_known(&labels, lag.seconds);
            SINK_STALENESS_SECONDS.set_known(&labels, lag.staleness_seconds);
            self::sink(&labels, &view);
        }
    });
    let mut text = recorder.handle().render();
    if let Some(seconds) = process_cpu_seconds() {
        // The recorder's counters are whole numbers; CPU time is not.
        let Metric { name, help, .. } = PROCESS_CPU_SECONDS;
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} counter\n{name} {seconds}\n"
        ));
    }
    text
}

impl Metric {
    fn labels(&self, values: &[&str]) -> Vec<Label> {
        assert_eq!(self.labels.len(), values.len(), "labels of {}", self.name);
        let pairs = self.labels.iter().zip(values);
        pairs
            .map(|(name, value)| Label::new(*name, (*value).to_owned()))
            .collect()
    }

    fn set(&self, labels: &[&str], value: f64) {
        gauge!(self.name, self.labels(labels)).set(value);
    }

    fn set_known(&self, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.set(labels, value);
        }
    }

    fn set_lsn(&self, labels: &[&str], lsn: Option<Lsn>) {
        self.set_known(labels, lsn.map(|lsn| lsn.0 as f64));
    }

    fn count(&self, labels: &[&str], value: u64) {
        counter!(self.name, self.labels(labels)).absolute(value);
    }
}

fn source(labels: &[&str; 2], view: &SourceView) {
    states(&SOURCE_STATE, labels, view.state);
    let up = matches!(view.state, State::Streaming | State::Copying);
    SOURCE_UP.set(labels, f64::from(u8::from(up)));
    SOURCE_RECEIVED_LSN_BYTES.set_lsn(labels, view.received);
    SOURCE_PUBLISHED_LSN_BYTES.set_lsn(labels, view.published);
    SOURCE_CONFIRMED_LSN_BYTES.set_lsn(labels, view.confirmed);
    SOURCE_LEADER_FLUSH_LSN_BYTES.set_lsn(labels, view.leader_flush);
    SOURCE_SLOT_RETAINED_BYTES.set_known(labels, view.slot_retained_bytes.map(|b| b as f64));
    SOURCE_EPOCH.set_known(labels, view.epoch.map(|epoch| epoch as f64));
    SOURCE_EPOCHS_TOTAL.count(labels, view.epochs);
    SOURCE_TRANSACTIONS_TOTAL.count(labels, view.transactions);
    SOURCE_CHANGES_TOTAL.count(labels, view.changes);
    SOURCE_PUBLISHED_BYTES_TOTAL.count(labels, view.bytes);
    let copying = view.copies.iter().filter(|copy| !copy.done).count();
    SOURCE_COPYING_TABLES.set(labels, copying as f64);
    errors(labels, &view.errors);
}

fn sink(labels: &[&str; 2], view: &SinkView) {
    states(&SINK_STATE, labels, view.state);
    let up = view.state == State::Streaming;
    SINK_UP.set(labels, f64::from(u8::from(up)));
    SINK_APPLIED_LSN_BYTES.set_lsn(labels, view.applied);
    SINK_TRANSACTIONS_TOTAL.count(labels, view.transactions);
    SINK_CHANGES_TOTAL.count(labels, view.changes);
    SINK_ROWS_WRITTEN_TOTAL.count(labels, view.rows_written);
    SINK_BATCHES_TOTAL.count(labels, view.batches);
    SINK_LEFTOVERS_TOTAL.count(labels, view.leftovers);
    SINK_SKIPPED_TOTAL.count(labels, view.skipped);
    SINK_RETRIES_TOTAL.count(labels, view.retries);
    let copying = view.copies.iter().filter(|copy| !copy.done).count();
    SINK_COPYING_TABLES.set(labels, copying as f64);
    errors(labels, &view.errors);
}

fn states(metric: &Metric, labels: &[&str; 2], now: State) {
    for state in State::ALL {
        let value = f64::from(u8::from(state == now));
        metric.set(&[labels[0], labels[1], state.name()], value);
    }
}

fn errors(labels: &[&str; 2], counts: &ErrorCounts) {
    for (class, count) in counts.by_class() {
        ERRORS_TOTAL.count(&[labels[0], labels[1], class], count);
    }
}

/// Resident memory: the second field of `/proc/self/statm`, in pages.
fn process_memory_bytes() -> Option<f64> {
    /// On every Linux that walferry is built for, but for kernels set up with larger pages.
    const PAGE_BYTES: f64 = 4096.0;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

/// User and system time: fields 14 and 15 of `/proc/self/stat`, in ticks.
fn process_cpu_seconds() -> Option<f64> {
    /// `USER_HZ`, fixed at 100 for user space on Linux.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name may hold spaces and parentheses: fields are counted behind the last `)`.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_A_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::commit_log::Sample;
    use crate::status::SinkHandle;
    use std::sync::Arc;

    fn process_with_sink(view: SinkView) -> ProcessStatus {
        let handle = SinkHandle {
            name: "dw".to_owned(),
            view: Arc::default(),
            resume: Default::default(),
        };
        handle.view.update(|v| *v = view);
        ProcessStatus {
            pipeline: "shop".to_owned(),
            source: None,
            sinks: vec![handle],
        }
    }

    #[test]
    fn unknown_lag_is_absent_and_known_lag_is_there() {
        let clock = HostClock::start();
        let tracker = SharedTracker::default();
        let view = SinkView {
            applied: Some(Lsn(100)),
            state: State::Streaming,
            ..SinkView::default()
        };
        let status = process_with_sink(view);
        let text = render(&status, &tracker, &clock);
        assert!(!text.contains("walferry_sink_lag_bytes{"), "{text}");
        assert!(
            text.contains("walferry_sink_applied_lsn_bytes{pipeline=\"shop\",sink=\"dw\"} 100"),
            "{text}"
        );

        tracker.lock().caught_up();
        let now = clock.now_us();
        tracker.lock().take(
            Sample {
                flush: Lsn(164),
                clock_us: now,
            },
            now,
        );
        let text = render(&status, &tracker, &clock);
        assert!(
            text.contains("walferry_sink_lag_bytes{pipeline=\"shop\",sink=\"dw\"} 64"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE walferry_sink_lag_bytes gauge"),
            "{text}"
        );
        assert!(
            text.contains("# HELP walferry_sink_lag_bytes WAL bytes"),
            "{text}"
        );
    }

    #[test]
    fn names_are_unique_and_counters_end_in_total() {
        let mut names: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
        for metric in ALL.iter().filter(|m| m.kind == Kind::Counter) {
            assert!(metric.name.ends_with("_total"), "{}", metric.name);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn every_metric_but_the_absent_ones_is_rendered() {
        let mut status = process_with_sink(SinkView::default());
        status.source = Some(("leader".to_owned(), Arc::default()));
        let text = render(&status, &SharedTracker::default(), &HostClock::start());
        for metric in ALL {
            let absent = metric.help.contains("Absent");
            let there = text.lines().any(|line| {
                line.strip_prefix(metric.name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            assert!(there || absent, "{}", metric.name);
        }
        for part in ["leader", "dw"] {
            assert!(
                text.contains(&format!("part=\"{part}\",class=\"halt\"")),
                "{text}"
            );
        }
    }
}
