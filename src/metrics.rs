//! All metrics as the status views and the lag tracker stand at the moment of a scrape. Names, units and
//! meanings stand in `names`.
//!
//! Every scrape fills a recorder of its own, so a value that is not known now is absent from the
//! output instead of standing there as it was.

mod names;
mod process;

use std::fmt::Write as _;

use metrics::{Label, counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::lag::{HostClock, Lag, SharedTracker};
use crate::model::clock::POSTGRES_EPOCH_US;
use crate::model::{Lsn, SlotState, WalStatus};
use crate::status::{
    ErrorCounts, Histogram, ProcessStatus, SinkTimes, SinkView, SourceView, State,
};

pub use names::*;

/// All metrics now, in Prometheus's text format.
pub fn render(status: &ProcessStatus, lag: &SharedTracker, clock: &HostClock) -> String {
    let source_now = status
        .source
        .as_ref()
        .map(|(name, view)| (name, view.get()));
    let sinks_now: Vec<(&String, SinkView)> = status
        .sinks
        .iter()
        .map(|sink| (&sink.name, sink.view.get()))
        .collect();
    let pipeline = status.pipeline.as_str();
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, || {
        for metric in ALL {
            match metric.kind {
                Kind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
                Kind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
                // Written below.
                Kind::Histogram => {}
            }
        }
        BUILD_INFO.set(&[env!("CARGO_PKG_VERSION")], 1.0);
        PROCESS_MEMORY_BYTES.set_known(&[], process::memory_bytes());
        PROCESS_OPEN_FDS.set_known(&[], process::open_fds());
        PROCESS_MAX_FDS.set_known(&[], process::max_fds());
        if let Some((name, view)) = &source_now {
            source(&[pipeline, name], view);
        }
        for (name, view) in &sinks_now {
            let behind = lag.lock().sink_lag(view, clock.now_us());
            let labels = [pipeline, name.as_str()];
            self::lag(&labels, &behind);
            self::sink(&labels, view);
        }
    });
    let mut text = recorder.handle().render();
    if let Some(seconds) = process::cpu_seconds() {
        // The recorder's counters are whole numbers; CPU time is not.
        let Metric { name, help, .. } = PROCESS_CPU_SECONDS;
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} counter\n{name} {seconds}\n"
        ));
    }
    // The recorder keeps single observations; what is counted in buckets already is written as it is.
    if let Some((name, view)) = &source_now {
        let labels = [pipeline, name.as_str()];
        let times = &view.times;
        SOURCE_PUBLISH_SECONDS.buckets(&mut text, [(labels.to_vec(), &times.publish)]);
        SOURCE_COMMIT_TO_DURABLE_SECONDS.buckets(&mut text, [(labels.to_vec(), &times.durable)]);
    }
    let each = |of: fn(&SinkTimes) -> &Histogram| {
        let sinks = sinks_now.iter();
        sinks.map(move |(name, view)| (vec![pipeline, name.as_str()], of(&view.times)))
    };
    if !sinks_now.is_empty() {
        SINK_BATCH_CHANGES.buckets(&mut text, each(|times| &times.changes));
        SINK_COMMIT_TO_VISIBLE_SECONDS.buckets(&mut text, each(|times| &times.visible));
        let stages = sinks_now.iter().flat_map(|(name, view)| {
            let stages = view.times.stages().into_iter();
            stages.map(move |(stage, times)| (vec![pipeline, name.as_str(), stage], times))
        });
        SINK_STAGE_SECONDS.buckets(&mut text, stages);
    }
    let event_loop = status.event_loop.get();
    EVENT_LOOP_DELAY_SECONDS.buckets(&mut text, [(Vec::new(), &event_loop.delay)]);
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

    /// Writes a histogram for each set of labels.
    fn buckets<'a>(
        &self,
        text: &mut String,
        all: impl IntoIterator<Item = (Vec<&'a str>, &'a Histogram)>,
    ) {
        let Metric { name, help, .. } = self;
        let mut line = |args: std::fmt::Arguments<'_>| {
            let _infallible = text.write_fmt(args);
        };
        line(format_args!(
            "# HELP {name} {help}\n# TYPE {name} histogram\n"
        ));
        for (values, histogram) in all {
            assert_eq!(self.labels.len(), values.len(), "labels of {name}");
            // Names of pipelines and connectors need no escapes.
            let pairs = self.labels.iter().zip(&values);
            let labels: Vec<String> = pairs.map(|(of, is)| format!("{of}=\"{is}\"")).collect();
            let labels = labels.join(",");
            let comma = if labels.is_empty() { "" } else { "," };
            for (bound, count) in histogram.cumulative() {
                let le = if bound.is_finite() {
                    bound.to_string()
                } else {
                    "+Inf".to_owned()
                };
                line(format_args!(
                    "{name}_bucket{{{labels}{comma}le=\"{le}\"}} {count}\n"
                ));
            }
            let braces = if labels.is_empty() {
                labels
            } else {
                format!("{{{labels}}}")
            };
            line(format_args!("{name}_sum{braces} {}\n", histogram.sum()));
            line(format_args!("{name}_count{braces} {}\n", histogram.count()));
        }
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
    if let Some(slot) = &view.slot {
        self::slot(labels, slot);
    }
    let offset = view.clock_offset_us.map(|us| us as f64 / 1e6);
    SOURCE_CLOCK_OFFSET_SECONDS.set_known(labels, offset);
    let entry_at = view.entry_at_us.map(|us| us as f64 / 1e6);
    SOURCE_ENTRY_TIMESTAMP_SECONDS.set_known(labels, entry_at);
    SOURCE_EPOCH.set_known(labels, view.epoch.map(|epoch| epoch as f64));
    SOURCE_EPOCHS_TOTAL.count(labels, view.epochs);
    SOURCE_TRANSACTIONS_TOTAL.count(labels, view.transactions);
    SOURCE_CHANGES_TOTAL.count(labels, view.changes);
    SOURCE_PUBLISHED_BYTES_TOTAL.count(labels, view.bytes);
    let copying = view.copies.iter().filter(|copy| !copy.done).count();
    SOURCE_COPYING_TABLES.set(labels, copying as f64);
    for copy in view.copies.iter().filter(|_| copying > 0) {
        let labels = [labels[0], labels[1], &copy.table];
        SOURCE_COPIED_ROWS.set(&labels, copy.rows as f64);
        let estimate = copy.rows_estimate.map(|rows| rows as f64);
        SOURCE_COPY_ROWS_ESTIMATE.set_known(&labels, estimate);
    }
    errors(labels, &view.errors);
}

fn slot(labels: &[&str; 2], slot: &SlotState) {
    SOURCE_SLOT_ACTIVE.set(labels, f64::from(u8::from(slot.active)));
    SOURCE_SLOT_RETAINED_BYTES.set_known(labels, slot.retained_bytes.map(|b| b as f64));
    SOURCE_SLOT_SAFE_BYTES.set_known(labels, slot.safe_bytes.map(|b| b as f64));
    for status in WalStatus::ALL.iter().filter(|_| slot.wal_status.is_some()) {
        let is = slot.wal_status == Some(*status);
        let labels = [labels[0], labels[1], status.name()];
        SOURCE_SLOT_WAL_STATUS.set(&labels, f64::from(u8::from(is)));
    }
}

fn lag(labels: &[&str; 2], lag: &Lag) {
    SINK_LAG_BYTES.set_known(labels, lag.bytes.map(|bytes| bytes as f64));
    SINK_LAG_SECONDS.set_known(labels, lag.seconds);
    SINK_STALENESS_SECONDS.set_known(labels, lag.staleness_seconds);
    SINK_RETENTION_HEADROOM_SECONDS.set_known(labels, lag.retention_headroom_seconds);
    if let Some(waiting) = &lag.waiting {
        SINK_WAITING_ENTRIES.set(labels, waiting.entries as f64);
        SINK_WAITING_CHANGES.set(labels, waiting.changes as f64);
        SINK_WAITING_BYTES.set(labels, waiting.bytes as f64);
    }
}

fn sink(labels: &[&str; 2], view: &SinkView) {
    states(&SINK_STATE, labels, view.state);
    let up = view.state == State::Streaming;
    SINK_UP.set(labels, f64::from(u8::from(up)));
    SINK_APPLIED_LSN_BYTES.set_lsn(labels, view.applied);
    SINK_TRANSACTIONS_TOTAL.count(labels, view.transactions);
    SINK_CHANGES_TOTAL.count(labels, view.changes);
    for (op, rows) in view.rows.by_op() {
        SINK_ROWS_WRITTEN_TOTAL.count(&[labels[0], labels[1], op], rows);
    }
    SINK_COALESCED_TOTAL.count(labels, view.coalesced);
    let commit_us = view.commit_time_us.map(|us| us + POSTGRES_EPOCH_US);
    SINK_APPLIED_COMMIT_TIMESTAMP_SECONDS.set_known(labels, commit_us.map(|us| us as f64 / 1e6));
    let progress_us = view.progress_at_us;
    SINK_PROGRESS_TIMESTAMP_SECONDS.set_known(labels, progress_us.map(|us| us as f64 / 1e6));
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
            event_loop: Arc::default(),
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
                line.strip_prefix(metric.name).is_some_and(|rest| {
                    rest.starts_with(['{', ' ']) || rest.starts_with("_bucket{")
                })
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
