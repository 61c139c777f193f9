use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::log::commit_log::{
    Captured, CopyBegin, EpochEntry, Extent, Extents, LastCommit, Sample,
};
use crate::model::{Epoch, Limits, Oid};

fn name(table: &str) -> TableName {
    TableName::new("s", table)
}

fn names(tables: &[&str]) -> BTreeSet<TableName> {
    tables.iter().map(|table| name(table)).collect()
}

fn epoch(after: i64, tables: &[(&str, u32)]) -> Entry {
    let captured = tables.iter().map(|(table, oid)| Captured {
        table: name(table),
        relation: Oid(*oid),
        limits: Limits::default(),
    });
    Entry::Epoch(EpochEntry {
        after,
        instance: "i".to_owned(),
        system_id: "7".to_owned(),
        timeline: 1,
        captured: captured.collect(),
        dropped: Vec::new(),
    })
}

/// Extents of partition 0 of topics.
fn extents(of: &[(&str, i64, u64)]) -> Extents {
    let extent = |&(topic, last, count): &(&str, i64, u64)| {
        (topic.to_owned(), [(0, Extent { last, count })].into())
    };
    of.iter().map(extent).collect()
}

/// A batch of one transaction, committed at `to - 1` and at that time.
fn batch(epoch: u64, from: u64, to: u64, of: &[(&str, i64, u64)]) -> Entry {
    Entry::Batch(BatchEntry {
        epoch: Epoch(epoch),
        from: Lsn(from),
        to: Lsn(to),
        last_commit: (!of.is_empty()).then(|| LastCommit {
            lsn: Lsn(to - 1),
            xid: 1,
            time_us: i64::try_from(to).unwrap() - 1,
        }),
        transactions: u64::from(!of.is_empty()),
        changes: of.iter().map(|(_, _, count)| count).sum(),
        bytes: 0,
        offsets: extents(of),
        sample: None,
    })
}

fn begin(epoch: u64, number: u64, tables: &[&str], at: u64) -> Entry {
    Entry::CopyBegin(CopyBegin {
        epoch: Epoch(epoch),
        number,
        tables: names(tables).into_iter().collect(),
        at: Some(Lsn(at)),
        offsets: BTreeMap::new(),
        indexes: Vec::new(),
    })
}

fn end(epoch: u64, copy: i64, point: u64, rows: &[(&str, i64, u64)]) -> Entry {
    Entry::CopyEnd(CopyEnd {
        epoch: Epoch(epoch),
        copy,
        point: Lsn(point),
        rows: extents(rows),
    })
}

/// Watermarks of partition 0 of topics.
fn marks(of: &[(&str, i64)]) -> Watermarks {
    let mark = |&(topic, mark): &(&str, i64)| (topic.to_owned(), [(0, mark)].into());
    of.iter().map(mark).collect()
}

fn history(entries: &[Entry], lows: &[(&str, i64)], highs: &[(&str, i64)]) -> History {
    let lows = marks(lows);
    let mut survey = Survey::at_low_end(0, &lows);
    for (offset, entry) in (0..).zip(entries) {
        survey.see(offset, entry).unwrap();
    }
    survey.finish(&Topics::new("p"), &marks(highs))
}

/// Two tables, a copy of both at 115, one more of `a` at 135; changes before, between and after.
fn log() -> Vec<Entry> {
    vec![
        epoch(0, &[("a", 1), ("b", 2)]),
        batch(0, 100, 110, &[("p.s.a", 4, 5), ("p.s.b", 0, 1)]),
        begin(0, 1, &["a", "b"], 110), // 2
        batch(0, 110, 120, &[("p.s.a", 5, 1)]),
        end(0, 2, 115, &[("p.copy.s.a", 9, 10), ("p.copy.s.b", 1, 2)]),
        batch(0, 120, 130, &[("p.s.a", 7, 2), ("p.s.b", 1, 1)]),
        begin(0, 2, &["a"], 130), // 6
        batch(0, 130, 140, &[("p.s.a", 8, 1)]),
        end(0, 6, 135, &[("p.copy.s.a", 29, 20)]),
        batch(0, 140, 150, &[("p.s.b", 2, 1)]),
    ]
}

const HIGHS: &[(&str, i64)] = &[
    ("p.s.a", 9),
    ("p.s.b", 3),
    ("p.copy.s.a", 30),
    ("p.copy.s.b", 2),
];

fn usable(history: &History, table: &str) -> Vec<i64> {
    let of = &history.tables[&name(table)];
    of.usable().map(|copy| copy.copy).collect()
}

#[test]
fn all_is_usable_while_nothing_has_expired() {
    let history = history(&log(), &[], HIGHS);
    assert_eq!(usable(&history, "a"), [2, 6]);
    assert_eq!(usable(&history, "b"), [2]);
    let rows = |table: &str| history.tables[&name(table)].copies[0].rows;
    assert_eq!((rows("a"), rows("b")), (10, 2));
    let earliest = history.earliest(&names(&["a", "b"])).unwrap();
    assert_eq!((earliest.lsn, earliest.time_us), (Lsn(120), Some(119)));
    let latest = history.latest().unwrap();
    assert_eq!((latest.lsn, latest.time_us), (Lsn(150), Some(149)));
    let work = history.work_since(earliest.lsn);
    assert_eq!((work.transactions, work.changes), (3, 5));
    assert_eq!(history.earliest(&names(&["a", "nobody's"])), None);
    assert_eq!(history.earliest(&names(&[])), None);
    let from = history.tables[&name("a")].changes_from.unwrap().lsn;
    assert_eq!(from, Lsn(100), "the log's beginning");
}

#[test]
fn a_copy_whose_rows_have_expired_is_gone_and_later_ones_are_not() {
    let history = history(&log(), &[("p.copy.s.a", 1)], HIGHS);
    assert_eq!(usable(&history, "a"), [6]);
    assert_eq!(usable(&history, "b"), [2]);
    let gone = history.tables[&name("a")].copies[0].gone.clone();
    assert!(matches!(gone, Some(Gone::Rows { topic, .. }) if topic == "p.copy.s.a"));
    let earliest = history.earliest(&names(&["a", "b"])).unwrap();
    assert_eq!(earliest.lsn, Lsn(140), "the later one of the two");
}

#[test]
fn only_changes_behind_a_copy_are_needed_for_it() {
    // All before the copies has expired, and no more.
    let expired = |low: i64| history(&log(), &[("p.s.a", low)], HIGHS);
    assert_eq!(usable(&expired(5), "a"), [2, 6]);
    let from = |history: &History| history.tables[&name("a")].changes_from.unwrap().lsn;
    assert_eq!(from(&expired(5)), Lsn(110));
    // The entry in which the point of the first one lies.
    assert_eq!(usable(&expired(6), "a"), [6]);
    let gone = expired(7).tables[&name("a")].copies[0].gone.clone();
    let Some(Gone::Changes { up_to, .. }) = gone else {
        panic!("{gone:?}")
    };
    assert_eq!(up_to.lsn, Lsn(130));
    assert_eq!(usable(&expired(8), "a"), [6]);
    assert_eq!(usable(&expired(9), "a"), [0; 0]);
    assert_eq!(expired(9).earliest(&names(&["a"])), None);
    assert_eq!(usable(&expired(9), "b"), [2], "another table's topic");
}

#[test]
fn an_entry_behind_the_begin_of_a_copy_and_before_its_point_is_not_needed() {
    let mut entries = log();
    entries[4] = end(0, 2, 120, &[("p.copy.s.a", 9, 10), ("p.copy.s.b", 1, 2)]);
    assert_eq!(
        usable(&history(&entries, &[("p.s.a", 6)], HIGHS), "a"),
        [2, 6]
    );
}

#[test]
fn a_topic_that_was_made_anew_or_is_gone_has_nothing() {
    let anew = history(&log(), &[], &[("p.s.a", 8), HIGHS[1], HIGHS[2], HIGHS[3]]);
    assert_eq!(usable(&anew, "a"), [0; 0], "its newest record is not there");
    assert_eq!(usable(&anew, "b"), [2]);
    let without_rows = history(&log(), &[], &[HIGHS[0], HIGHS[1]]);
    assert_eq!(usable(&without_rows, "a"), [0; 0]);
    assert_eq!(usable(&without_rows, "b"), [0; 0]);
}

#[test]
fn what_is_void_or_a_repeat_changes_nothing() {
    let mut entries = log();
    // Of a source that nobody follows, and the epoch entry of one that came too late.
    entries.push(batch(77, 150, 160, &[("p.s.a", 99, 90)]));
    entries.push(epoch(3, &[]));
    entries.push(batch(0, 120, 130, &[("p.s.a", 7, 2)]));
    let history = history(&entries, &[], HIGHS);
    assert_eq!(usable(&history, "a"), [2, 6]);
    assert_eq!(history.latest().unwrap().lsn, Lsn(150));
    assert_eq!(history.work_since(Lsn(110)).changes, 6);
}

#[test]
fn a_table_that_left_has_no_copies_and_a_running_one_is_told() {
    let mut entries = log();
    entries.push(epoch(10, &[("a", 8), ("b", 2)])); // `a` made anew: offset 10
    entries.push(begin(10, 1, &["a"], 150));
    let history = history(&entries, &[], HIGHS);
    let a = &history.tables[&name("a")];
    assert_eq!((a.copies.len(), a.running), (0, Some(11)));
    assert_eq!(usable(&history, "b"), [2]);
    assert_eq!(history.earliest(&names(&["a", "b"])), None);
    entries.push(epoch(12, &[("b", 2)]));
    let only_b = self::history(&entries, &[], HIGHS);
    assert_eq!(only_b.tables.keys().collect::<Vec<_>>(), [&name("b")]);
}

#[test]
fn a_hole_in_the_log_halts() {
    let lows = Watermarks::new();
    let mut survey = Survey::at_low_end(0, &lows);
    survey.see(0, &epoch(0, &[("a", 1)])).unwrap();
    survey.see(1, &batch(0, 100, 110, &[])).unwrap();
    assert!(survey.see(2, &batch(0, 120, 130, &[])).is_err());
}

#[test]
fn a_log_that_is_trimmed_while_it_is_read_begins_anew() {
    let (lows, entries) = (Watermarks::new(), log());
    let mut survey = Survey::at_low_end(0, &lows);
    for (offset, entry) in (0..).zip(&entries[..5]) {
        survey.see(offset, entry).unwrap();
    }
    survey.see(20, &epoch(20, &[("a", 1)])).unwrap();
    survey.see(21, &batch(20, 300, 310, &[])).unwrap();
    let history = survey.finish(&Topics::new("p"), &marks(HIGHS));
    assert_eq!(usable(&history, "a"), [0; 0]);
    assert_eq!(history.latest().unwrap().lsn, Lsn(310));
}

#[test]
fn a_sample_tells_the_time_only_if_the_log_has_what_it_shows() {
    let heartbeat = |from: u64, to: u64, flush: u64, clock_us: i64| {
        let Entry::Batch(mut batch) = batch(0, from, to, &[]) else {
            panic!("a batch")
        };
        batch.sample = Some(Sample {
            flush: Lsn(flush),
            clock_us,
        });
        Entry::Batch(batch)
    };
    let mut entries = log();
    entries.push(heartbeat(150, 160, 170, 1_000));
    let latest = |entries: &[Entry]| history(entries, &[], HIGHS).latest().unwrap();
    assert_eq!(latest(&entries).time_us, Some(149));
    entries.push(heartbeat(150, 160, 160, 2_000)); // a repeat
    assert_eq!(latest(&entries).time_us, Some(2_000));
}

/// Records of one partition: those of entries, in order, with others before each.
#[derive(Clone, Debug)]
struct Laid {
    others_before: u8,
    too_high: u8,
    count: u8,
}

fn laid() -> impl Strategy<Value = Vec<Laid>> {
    let one = (0_u8..3, 0_u8..3, 1_u8..4);
    let one = one.prop_map(|(others_before, too_high, count)| Laid {
        others_before,
        too_high,
        count,
    });
    prop::collection::vec(one, 1..12)
}

proptest! {
    /// Whatever else lies in a partition, nothing is called gone that is there; and where nothing else lies
    /// in it, nothing is called usable that is not.
    #[test]
    fn what_is_there_is_never_called_gone(laid in laid(), copied_before in 0_usize..12, low in 0_i64..60) {
        let copied_before = copied_before % laid.len();
        let mut entries = vec![epoch(0, &[("a", 1)]), batch(0, 99, 100, &[])];
        let (mut offset, mut to) = (0_i64, 100_u64);
        let (mut first_needed, mut copy) = (None, 0);
        let is_dense = laid.iter().all(|laid| laid.others_before == 0 && laid.too_high == 0);
        for (number, one) in laid.iter().enumerate() {
            if number == copied_before {
                copy = i64::try_from(entries.len()).unwrap();
                entries.push(begin(0, 1, &["a"], to));
            }
            offset += i64::from(one.others_before);
            if number >= copied_before {
                first_needed.get_or_insert(offset);
            }
            offset += i64::from(one.count);
            // What makes `last` too high is there before the entry is written.
            let last = offset - 1 + i64::from(one.too_high);
            entries.push(batch(0, to, to + 10, &[("p.s.a", last, u64::from(one.count))]));
            to += 10;
        }
        entries.push(end(0, copy, 100 + 10 * copied_before as u64, &[]));
        let high = offset + 3;
        let history = history(&entries, &[("p.s.a", low.min(high))], &[("p.s.a", high)]);
        let is_there = first_needed.unwrap() >= low;
        let is_usable = usable(&history, "a") == [copy];
        prop_assert!(is_usable || !is_there);
        if is_dense {
            prop_assert_eq!(is_usable, is_there);
        }
    }
}
