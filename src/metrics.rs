//! All metrics as the status views and the lag tracker stand at the moment of a scrape. Names, units and
//! meanings stand in `names`.
//!
//! Every scrape makes the page anew from what is known then, so a value that is not known is absent instead
//! of standing there as it was. The text is written here: a recorder of the `metrics` crates that is filled
//! for each scrape took more than the scrape may (`cargo bench --bench scrape`).

mod names;
mod page;
mod process;

use crate::lag::{HostClock, Lag, SharedTracker};
use crate::model::clock::POSTGRES_EPOCH_US;
use crate::model::{SlotState, WalStatus};
use crate::status::{ErrorCounts, ProcessStatus, SinkView, SourceView, State};
use page::Page;

pub use names::*;

/// All metrics now, in Prometheus's text format.
pub fn render(status: &ProcessStatus, lag: &SharedTracker, clock: &HostClock) -> String {
    let mut page = Page::default();
    let page = &mut page;
    let pipeline = status.pipeline.as_str();
    BUILD_INFO.set(page, &[env!("CARGO_PKG_VERSION")], 1.0);
    PROCESS_CPU_SECONDS.set_known(page, &[], process::cpu_seconds());
    PROCESS_MEMORY_BYTES.set_known(page, &[], process::memory_bytes());
    PROCESS_OPEN_FDS.set_known(page, &[], process::open_fds());
    PROCESS_MAX_FDS.set_known(page, &[], process::max_fds());
    let event_loop = status.event_loop.get();
    EVENT_LOOP_DELAY_SECONDS.buckets(page, &[], &event_loop.delay);
    let parts = status.parts();
    if let Some((name, view)) = &parts.source {
        source(page, &[pipeline, name], &view.get());
    }
    for handle in &parts.sinks {
        let view = handle.view.get();
        let behind = lag.lock().sink_lag(&view, clock.now_us());
        let labels = [pipeline, handle.name.as_str()];
        self::lag(page, &labels, &behind);
        sink(page, &labels, &view);
    }
    page.text()
}

fn source(page: &mut Page, labels: &[&str; 2], view: &SourceView) {
    states(page, &SOURCE_STATE, labels, view.state);
    let up = matches!(view.state, State::Streaming | State::Copying);
    SOURCE_UP.set(page, labels, f64::from(u8::from(up)));
    SOURCE_RECEIVED_LSN_BYTES.set_lsn(page, labels, view.received);
    SOURCE_PUBLISHED_LSN_BYTES.set_lsn(page, labels, view.published);
    SOURCE_CONFIRMED_LSN_BYTES.set_lsn(page, labels, view.confirmed);
    SOURCE_LEADER_FLUSH_LSN_BYTES.set_lsn(page, labels, view.leader_flush);
    if let Some(slot) = &view.slot {
        self::slot(page, labels, slot);
    }
    let offset = view.clock_offset_us.map(|us| us as f64 / 1e6);
    SOURCE_CLOCK_OFFSET_SECONDS.set_known(page, labels, offset);
    let entry_at = view.entry_at_us.map(|us| us as f64 / 1e6);
    SOURCE_ENTRY_TIMESTAMP_SECONDS.set_known(page, labels, entry_at);
    SOURCE_EPOCH.set_known(page, labels, view.epoch.map(|epoch| epoch as f64));
    SOURCE_EPOCHS_TOTAL.count(page, labels, view.epochs);
    SOURCE_TRANSACTIONS_TOTAL.count(page, labels, view.transactions);
    SOURCE_CHANGES_TOTAL.count(page, labels, view.changes);
    SOURCE_PUBLISHED_BYTES_TOTAL.count(page, labels, view.bytes);
    let copying = view.copies.iter().filter(|copy| !copy.done).count();
    SOURCE_COPYING_TABLES.set(page, labels, copying as f64);
    for copy in view.copies.iter().filter(|_| copying > 0) {
        let labels = [labels[0], labels[1], &copy.table];
        SOURCE_COPIED_ROWS.set(page, &labels, copy.rows as f64);
        let estimate = copy.rows_estimate.map(|rows| rows as f64);
        SOURCE_COPY_ROWS_ESTIMATE.set_known(page, &labels, estimate);
    }
    SOURCE_PUBLISH_SECONDS.buckets(page, labels, &view.times.publish);
    SOURCE_COMMIT_TO_DURABLE_SECONDS.buckets(page, labels, &view.times.durable);
    errors(page, labels, &view.errors);
}

fn slot(page: &mut Page, labels: &[&str; 2], slot: &SlotState) {
    SOURCE_SLOT_ACTIVE.set(page, labels, f64::from(u8::from(slot.active)));
    SOURCE_SLOT_RETAINED_BYTES.set_known(page, labels, slot.retained_bytes.map(|b| b as f64));
    SOURCE_SLOT_SAFE_BYTES.set_known(page, labels, slot.safe_bytes.map(|b| b as f64));
    for status in WalStatus::ALL.iter().filter(|_| slot.wal_status.is_some()) {
        let is = slot.wal_status == Some(*status);
        let labels = [labels[0], labels[1], status.name()];
        SOURCE_SLOT_WAL_STATUS.set(page, &labels, f64::from(u8::from(is)));
    }
}

fn lag(page: &mut Page, labels: &[&str; 2], lag: &Lag) {
    SINK_LAG_BYTES.set_known(page, labels, lag.bytes.map(|bytes| bytes as f64));
    SINK_LAG_SECONDS.set_known(page, labels, lag.seconds);
    SINK_STALENESS_SECONDS.set_known(page, labels, lag.staleness_seconds);
    SINK_RETENTION_HEADROOM_SECONDS.set_known(page, labels, lag.retention_headroom_seconds);
    if let Some(waiting) = &lag.waiting {
        SINK_WAITING_ENTRIES.set(page, labels, waiting.entries as f64);
        SINK_WAITING_CHANGES.set(page, labels, waiting.changes as f64);
        SINK_WAITING_BYTES.set(page, labels, waiting.bytes as f64);
    }
}

fn sink(page: &mut Page, labels: &[&str; 2], view: &SinkView) {
    states(page, &SINK_STATE, labels, view.state);
    let up = view.state == State::Streaming;
    SINK_UP.set(page, labels, f64::from(u8::from(up)));
    SINK_APPLIED_LSN_BYTES.set_lsn(page, labels, view.applied);
    let rebuilt = view.rebuild.and_then(|rebuild| rebuild.ratio());
    SINK_REBUILD_PROGRESS_RATIO.set_known(page, labels, rebuilt);
    SINK_TRANSACTIONS_TOTAL.count(page, labels, view.transactions);
    SINK_CHANGES_TOTAL.count(page, labels, view.changes);
    for (op, rows) in view.rows.by_op() {
        SINK_ROWS_WRITTEN_TOTAL.count(page, &[labels[0], labels[1], op], rows);
    }
    SINK_COALESCED_TOTAL.count(page, labels, view.coalesced);
    let commit_us = view.commit_time_us.map(|us| us + POSTGRES_EPOCH_US);
    SINK_APPLIED_COMMIT_TIMESTAMP_SECONDS.set_known(
        page,
        labels,
        commit_us.map(|us| us as f64 / 1e6),
    );
    let progress_us = view.progress_at_us;
    SINK_PROGRESS_TIMESTAMP_SECONDS.set_known(page, labels, progress_us.map(|us| us as f64 / 1e6));
    SINK_BATCHES_TOTAL.count(page, labels, view.batches);
    SINK_LEFTOVERS_TOTAL.count(page, labels, view.leftovers);
    SINK_SKIPPED_TOTAL.count(page, labels, view.skipped);
    if let Some(verified) = &view.verified {
        let at = verified.at_unix_seconds as f64;
        SINK_VERIFIED_TIMESTAMP_SECONDS.set(page, labels, at);
        SINK_VERIFIED_DIFFERING_ROWS.set(page, labels, verified.differing as f64);
        SINK_VERIFIED_NOT_COMPARED_TABLES.set(page, labels, verified.not_compared as f64);
    }
    SINK_RETRIES_TOTAL.count(page, labels, view.retries);
    let copying = view.copies.iter().filter(|copy| !copy.done).count();
    SINK_COPYING_TABLES.set(page, labels, copying as f64);
    SINK_BATCH_CHANGES.buckets(page, labels, &view.times.changes);
    SINK_COMMIT_TO_VISIBLE_SECONDS.buckets(page, labels, &view.times.visible);
    for (stage, times) in view.times.stages() {
        SINK_STAGE_SECONDS.buckets(page, &[labels[0], labels[1], stage], times);
    }
    errors(page, labels, &view.errors);
}

fn states(page: &mut Page, metric: &Metric, labels: &[&str; 2], now: State) {
    for state in State::ALL {
        let value = f64::from(u8::from(state == now));
        metric.set(page, &[labels[0], labels[1], state.name()], value);
    }
}

fn errors(page: &mut Page, labels: &[&str; 2], counts: &ErrorCounts) {
    for (class, count) in counts.by_class() {
        ERRORS_TOTAL.count(page, &[labels[0], labels[1], class], count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::commit_log::Sample;
    use crate::model::Lsn;
    use crate::status::{Parts, SinkHandle};
    use std::sync::Arc;

    fn process_with_sink(view: SinkView) -> ProcessStatus {
        let handle = SinkHandle::new("dw");
        handle.view.update(|v| *v = view);
        let parts = Parts {
            source: None,
            sinks: vec![handle],
        };
        ProcessStatus::new("shop", parts)
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
        let status = process_with_sink(SinkView::default());
        let source = Some(("leader".to_owned(), Arc::default()));
        let sinks = status.parts().sinks.clone();
        status.show(Parts { source, sinks });
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
