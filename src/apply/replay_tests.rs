use super::*;
use crate::log::commit_log::{Captured, EpochEntry, Extent};
use crate::log::topics::Topics;
use crate::model::{Epoch, Limits, Oid, Selection};

fn terms(exclude: &[&str]) -> Terms {
    let exclude: Vec<String> = exclude.iter().map(|pattern| (*pattern).into()).collect();
    Terms {
        topics: Topics::new("p"),
        selection: Selection::new(&["*.*".to_owned()], &exclude),
        takes_copies: false,
        moves_tables: false,
    }
}

fn epoch(tables: &[&str]) -> Entry {
    let captured = tables.iter().map(|table| Captured {
        table: TableName::new("s", *table),
        relation: Oid(1),
        limits: Limits::default(),
    });
    Entry::Epoch(EpochEntry {
        after: 0,
        instance: "i".to_owned(),
        system_id: "7".to_owned(),
        timeline: 1,
        captured: captured.collect(),
        dropped: Vec::new(),
    })
}

fn batch(from: u64, to: u64, of: &[(&str, i64, u64)]) -> Entry {
    let extent = |&(topic, last, count): &(&str, i64, u64)| {
        (topic.to_owned(), [(0, Extent { last, count })].into())
    };
    Entry::Batch(BatchEntry {
        epoch: Epoch(0),
        from: Lsn(from),
        to: Lsn(to),
        last_commit: None,
        transactions: 1,
        changes: 1,
        bytes: 0,
        offsets: of.iter().map(extent).collect(),
        sample: None,
    })
}

/// Entries at offsets 0 to 4; the last one has nothing of table `a`.
fn log() -> Vec<Entry> {
    vec![
        epoch(&["a", "b"]),
        batch(100, 110, &[("p.s.a", 4, 5), ("p.s.b", 0, 1)]),
        batch(110, 120, &[("p.s.a", 7, 3)]),
        batch(120, 130, &[("p.s.a", 8, 1)]),
        batch(130, 140, &[("p.s.b", 1, 1)]),
    ]
}

/// What a replay of the log begins with, where the log's first entry is at offset `low` and table topics begin
/// at `lows`.
fn found(
    (from, to): (Option<u64>, Option<u64>),
    low: i64,
    lows: &[(&str, i64)],
    exclude: &[&str],
) -> Result<Option<Checkpoint>> {
    let mark = |&(topic, low): &(&str, i64)| (topic.to_owned(), [(0, low)].into());
    let lows: Watermarks = lows.iter().map(mark).collect();
    let (from, to) = (from.map(Lsn), to.map(Lsn));
    let terms = terms(exclude);
    let mut scout = Scout::at_low_end(low, Range { from, to }, &terms, &lows);
    for (offset, entry) in (low..).zip(&log()) {
        let mut entry = entry.clone();
        if let Entry::Batch(batch) = &mut entry {
            batch.epoch = Epoch(low.unsigned_abs());
        }
        scout.see(offset, &entry).unwrap();
    }
    scout.finish()
}

#[test]
fn a_range_begins_before_its_first_entry_or_inside_of_it() {
    let whole = found((None, None), 0, &[], &[]).unwrap().unwrap();
    assert_eq!((whole.log.next_offset, whole.split), (1, None));
    assert_eq!((whole.target, whole.in_effect.len()), (Some(Lsn(140)), 2));
    let at = |from, to| {
        let found = found((Some(from), to), 0, &[], &[]).unwrap().unwrap();
        (
            found.log.next_offset,
            found.split,
            found.applied,
            found.target,
        )
    };
    assert_eq!(at(110, None), (2, None, Lsn(110), Some(Lsn(140))));
    let inside = at(115, Some(117));
    assert_eq!(inside, (2, Some(Lsn(115)), Lsn(115), Some(Lsn(117))));
    // Nothing is known to be before the log's first entry; the range may begin inside of it.
    assert_eq!(at(105, None).1, Some(Lsn(105)));
    assert_eq!(at(7, None).0, 1);
}

#[test]
fn a_range_without_anything_in_it_is_none() {
    for range in [(Some(140), None), (Some(115), Some(115)), (None, Some(7))] {
        assert_eq!(found(range, 0, &[], &[]).unwrap(), None, "{range:?}");
    }
}

#[test]
fn what_the_log_does_not_reach_is_said() {
    for (range, low, said) in [
        ((Some(141), None), 0, "up to 0/8C, and 0/8D is beyond"),
        ((None, Some(150)), 0, "and 0/96 is beyond"),
        ((Some(120), Some(110)), 0, "ends at 0/6E, before it begins"),
        ((Some(90), None), 5, "the commit log begins at 0/64"),
    ] {
        let error = found(range, low, &[], &[]).unwrap_err();
        assert!(error.what().contains(said), "{range:?}: {error}");
    }
    assert!(found((Some(100), None), 5, &[], &[]).unwrap().is_some());
    let nothing = found((None, None), 0, &[], &["*.*"]).unwrap_err();
    assert!(nothing.what().contains("no captured table"), "{nothing}");
}

#[test]
fn what_has_expired_in_the_range_is_said_and_nothing_else() {
    // Of table a the entries at 1 and 2 are not whole any more.
    let lows = &[("p.s.a", 6)];
    let of = |from, to, exclude| found((from, to), 0, lows, exclude);
    let error = of(None, None, &[]).unwrap_err();
    assert!(
        error
            .what()
            .contains("changes of s.a from topic p.s.a partition 0"),
        "{error}"
    );
    assert_eq!(error.remedy(), Some("begin behind them: --from-lsn 0/78"));
    let error = of(Some(105), Some(115), &[]).unwrap_err();
    assert!(
        error
            .remedy()
            .unwrap()
            .contains("behind 0/78, or leave s.a out"),
        "{error}"
    );
    assert!(
        of(Some(119), None, &[]).is_err(),
        "it is counted as a whole"
    );
    assert!(of(Some(120), None, &[]).unwrap().is_some());
    assert!(of(None, None, &["s.a"]).unwrap().is_some());
}
