use super::*;
use crate::log::commit_log::{BatchEntry, EpochEntry, Sample};
use crate::model::{Epoch, Lsn};

const HOUR: Duration = Duration::from_secs(3600);

fn epoch() -> Entry {
    Entry::Epoch(EpochEntry {
        after: 0,
        instance: "i".to_owned(),
        system_id: "7".to_owned(),
        timeline: 1,
        captured: Vec::new(),
        dropped: Vec::new(),
    })
}

/// A batch whose sample was taken at this hour of the leader's clock.
fn batch(hour: Option<i64>) -> Entry {
    Entry::Batch(BatchEntry {
        bytes: 0,
        epoch: Epoch(0),
        from: Lsn(1),
        to: Lsn(2),
        last_commit: None,
        transactions: 0,
        changes: 0,
        offsets: BTreeMap::new(),
        sample: hour.map(|hour| Sample {
            flush: Lsn(2),
            clock_us: hour * 3_600_000_000,
        }),
    })
}

/// A log of judged entries at the offsets 0, 1, ….
fn points(entries: &[(Entry, Verdict)]) -> TrimPoints {
    let mut points = TrimPoints::default();
    for (offset, (entry, verdict)) in (0..).zip(entries) {
        points.judged(offset, entry, *verdict);
    }
    points
}

/// An epoch an hour, at the offsets 0, 2, 4, …, each with one batch.
fn hourly(hours: i64) -> TrimPoints {
    let entries: Vec<_> = (0..hours)
        .flat_map(|hour| {
            [
                (epoch(), Verdict::Valid),
                (batch(Some(hour)), Verdict::Valid),
            ]
        })
        .collect();
    points(&entries)
}

fn sinks(offsets: &[(&str, i64)]) -> BTreeMap<String, Progress> {
    let progress = |&(sink, log_offset): &(&str, i64)| {
        let progress = Progress {
            sink: sink.to_owned(),
            applied: Lsn(1),
            log_offset,
            wants: Vec::new(),
        };
        (sink.to_owned(), progress)
    };
    offsets.iter().map(progress).collect()
}

fn to(points: &TrimPoints, hours: u32, offsets: &[(&str, i64)]) -> Option<i64> {
    points.trim_to(HOUR * hours, &sinks(offsets)).offset
}

#[test]
fn what_is_older_than_the_retention_goes_up_to_an_epoch_entry() {
    let points = hourly(10);
    assert_eq!(to(&points, 3, &[]), Some(12), "hour 6 of 9");
    assert_eq!(to(&points, 8, &[]), Some(2));
    assert_eq!(to(&points, 9, &[]), None, "nothing lies before it");
    assert_eq!(to(&points, 10, &[]), None);
}

#[test]
fn no_sink_loses_what_it_still_reads_and_it_is_named() {
    let points = hourly(10);
    assert_eq!(to(&points, 3, &[("a", 12), ("b", 19)]), Some(12));
    assert_eq!(to(&points, 3, &[("a", 11), ("b", 19)]), Some(10));
    let held = points.trim_to(HOUR * 3, &sinks(&[("b", 19), ("a", 5)]));
    assert_eq!(
        (held.offset, held.held_by),
        (Some(4), Some(("a".to_owned(), 5)))
    );
    let free = points.trim_to(HOUR * 3, &sinks(&[("b", 19)]));
    assert_eq!(free.held_by, None);
}

#[test]
fn an_epoch_without_a_valid_batch_is_no_place_to_begin() {
    let mut points = hourly(3);
    points.judged(6, &epoch(), Verdict::Valid);
    points.judged(7, &batch(Some(100)), Verdict::Repeat);
    assert_eq!(
        to(&points, 1, &[]),
        Some(4),
        "its repeat tells the time and no boundary"
    );
    points.judged(8, &batch(None), Verdict::Valid);
    points.judged(9, &batch(Some(200)), Verdict::Valid);
    points.judged(10, &batch(Some(200)), Verdict::Repeat);
    assert_eq!(to(&points, 1, &[]), Some(4));
    points.judged(11, &batch(Some(201)), Verdict::Valid);
    assert_eq!(to(&points, 1, &[]), Some(6));
}

#[test]
fn void_entries_tell_nothing() {
    let mut points = points(&[
        (epoch(), Verdict::Valid),
        (batch(Some(1)), Verdict::Valid),
        (epoch(), Verdict::Void),
        (batch(Some(500)), Verdict::Void),
    ]);
    assert_eq!(to(&points, 0, &[]), None);
    points.judged(4, &epoch(), Verdict::Valid);
    points.judged(5, &batch(Some(501)), Verdict::Void);
    assert_eq!(to(&points, 0, &[]), None);
    points.judged(6, &batch(Some(2)), Verdict::Valid);
    assert_eq!(to(&points, 0, &[]), Some(4));
    assert_eq!(to(&points, 1, &[]), None, "no void sample tells the time");
}

#[test]
fn what_was_cut_is_forgotten() {
    let mut points = hourly(10);
    points.cut(12);
    assert_eq!(to(&points, 3, &[]), None);
    assert_eq!(to(&points, 2, &[]), Some(14));
}
