use proptest::prelude::*;

use super::*;
use crate::error::Class;

fn table(name: &str) -> TableName {
    TableName::new("s", name)
}

fn epoch(after: i64) -> Entry {
    Entry::Epoch(EpochEntry {
        after,
        instance: "i".to_owned(),
        system_id: "7".to_owned(),
        timeline: 1,
        captured: vec![Captured {
            table: table("t"),
            relation: Oid(1),
            limits: Limits::default(),
        }],
        dropped: Vec::new(),
    })
}

fn batch(epoch: u64, from: u64, to: u64) -> Entry {
    Entry::Batch(BatchEntry {
        bytes: 0,
        epoch: Epoch(epoch),
        from: Lsn(from),
        to: Lsn(to),
        last_commit: None,
        transactions: 1,
        changes: 1,
        offsets: BTreeMap::new(),
        sample: None,
    })
}

fn copy_begin(epoch: u64, at: Option<u64>) -> Entry {
    Entry::CopyBegin(CopyBegin {
        epoch: Epoch(epoch),
        number: 0,
        tables: vec![table("t")],
        at: at.map(Lsn),
        offsets: BTreeMap::new(),
        indexes: Vec::new(),
    })
}

/// Of a copy whose point any log has reached.
fn copy_end(epoch: u64) -> Entry {
    Entry::CopyEnd(CopyEnd {
        epoch: Epoch(epoch),
        copy: 1,
        point: Lsn::ZERO,
        rows: BTreeMap::new(),
    })
}

/// Judges entries at consecutive offsets from `low` on.
fn read(low: i64, entries: &[Entry]) -> Result<(LogPlace, Vec<Verdict>)> {
    let mut place = LogPlace::at_low_end(low);
    let mut verdicts = Vec::new();
    for (offset, entry) in (low..).zip(entries) {
        verdicts.push(judge(&mut place, offset, entry)?);
    }
    Ok((place, verdicts))
}

use Verdict::{Repeat, Valid, Void};

#[test]
fn an_epoch_entry_is_void_if_somebody_wrote_after_its_writer_looked() {
    let log = [epoch(0), batch(0, 1, 2), epoch(1), epoch(2), batch(3, 2, 3)];
    let (place, verdicts) = read(0, &log).expect("no hole");
    assert_eq!(verdicts, [Valid, Valid, Void, Valid, Valid]);
    assert_eq!(place.epoch, Some(Epoch(3)));
    assert_eq!((place.to, place.last_valid), (Some(Lsn(3)), Some(4)));
    assert!(place.captured.contains(&table("t")));
}

#[test]
fn a_void_entry_between_does_not_make_an_epoch_entry_void() {
    let log = [epoch(0), epoch(1), batch(0, 1, 2), epoch(2)];
    let (place, verdicts) = read(0, &log).expect("no hole");
    assert_eq!(verdicts, [Valid, Valid, Void, Valid]);
    assert_eq!((place.epoch, place.to), (Some(Epoch(3)), None));
}

#[test]
fn of_two_epoch_entries_that_saw_the_same_end_the_first_counts() {
    let (place, verdicts) = read(0, &[epoch(0), epoch(1), epoch(1)]).expect("no hole");
    assert_eq!(verdicts, [Valid, Valid, Void]);
    assert_eq!(place.epoch, Some(Epoch(1)));
}

#[test]
fn entries_of_other_epochs_are_void_and_change_nothing() {
    let log = [epoch(0), batch(0, 1, 5), epoch(2)];
    let (before, _) = read(0, &log).expect("no hole");
    for entry in [
        batch(0, 9, 10),
        copy_begin(0, Some(5)),
        copy_end(0),
        batch(3, 5, 6),
    ] {
        let mut place = before.clone();
        assert_eq!(judge(&mut place, 3, &entry).expect("no hole"), Void);
        assert_eq!(
            place,
            LogPlace {
                next_offset: 4,
                ..before.clone()
            }
        );
    }
}

#[test]
fn a_batch_that_was_repeated_is_skipped() {
    let log = [
        epoch(0),
        batch(0, 1, 2),
        batch(0, 2, 4),
        batch(0, 1, 2),
        batch(0, 2, 4),
        batch(0, 4, 5),
    ];
    let (place, verdicts) = read(0, &log).expect("no hole");
    assert_eq!(verdicts, [Valid, Valid, Valid, Repeat, Repeat, Valid]);
    assert_eq!((place.to, place.last_valid), (Some(Lsn(5)), Some(5)));
}

#[test]
fn a_hole_halts_and_says_where() {
    for (from, to) in [(7, 8), (4, 8)] {
        let mut place = read(0, &[epoch(0), batch(0, 1, 5)]).expect("no hole").0;
        let before = place.clone();
        let error = judge(&mut place, 2, &batch(0, from, to)).expect_err("a hole");
        assert_eq!(error.class(), Class::Halt);
        for said in ["offset 2", "epoch 0", &format!("0/{from}"), "0/5"] {
            assert!(error.what().contains(said), "{error}");
        }
        assert!(error.remedy().is_some());
        assert_eq!(place, before);
    }
}

#[test]
fn a_log_without_boundary_takes_any_first_batch() {
    let (place, verdicts) = read(0, &[epoch(0), batch(0, 77, 80), batch(0, 80, 81)]).expect("fits");
    assert_eq!(verdicts, [Valid; 3]);
    assert_eq!(place.to, Some(Lsn(81)));
    assert!(
        read(0, &[epoch(0), batch(0, 80, 77)]).is_err(),
        "ends before it begins"
    );
}

#[test]
fn the_first_entry_of_a_trimmed_log_counts() {
    let (place, verdicts) = read(9, &[epoch(3), batch(9, 4, 5)]).expect("no hole");
    assert_eq!(verdicts, [Valid, Valid]);
    assert_eq!((place.epoch, place.fresh), (Some(Epoch(9)), false));

    let (place, verdicts) = read(9, &[batch(2, 4, 5), epoch(9), batch(2, 5, 6)]).expect("no hole");
    assert_eq!(verdicts, [Valid, Void, Valid]);
    assert_eq!(place.epoch, Some(Epoch(2)));
}

#[test]
fn a_place_tells_its_last_entry_from_that_of_another_log() {
    let (place, _) = read(0, &[epoch(0), batch(0, 1, 2), batch(0, 2, 5)]).expect("no hole");
    assert!(place.may_end_with(2, &batch(0, 2, 5)));
    for (offset, entry) in [
        (1, batch(0, 2, 5)),
        (2, batch(0, 2, 6)),
        (2, batch(1, 2, 5)),
        (2, epoch(2)),
        (2, copy_end(1)),
    ] {
        assert!(!place.may_end_with(offset, &entry), "{offset} {entry:?}");
    }
    // The beginnings of two logs: the same kinds of entries at the same offsets, boundaries apart.
    let begun = [epoch(0), batch(0, 0, 3), copy_begin(0, Some(3))];
    let (place, _) = read(0, &begun).expect("no hole");
    assert!(place.may_end_with(2, &copy_begin(0, Some(3))));
    assert!(!place.may_end_with(2, &copy_begin(0, Some(9))));
    let ended = [epoch(0), batch(0, 0, 3), copy_end(0)];
    let (place, _) = read(0, &ended).expect("no hole");
    assert!(place.may_end_with(2, &copy_end(0)));
    let Entry::CopyEnd(mut beyond) = copy_end(0) else {
        unreachable!("copy_end makes it")
    };
    beyond.point = Lsn(4);
    assert!(!place.may_end_with(2, &Entry::CopyEnd(beyond)));
    let (place, _) = read(4, &[epoch(4)]).expect("no hole");
    assert!(place.may_end_with(4, &epoch(4)) && !place.may_end_with(4, &batch(4, 1, 2)));
}

#[test]
fn a_copy_begin_away_from_the_logs_end_is_a_repeat() {
    let log = [
        epoch(0),
        copy_begin(0, Some(3)),
        batch(0, 3, 5),
        copy_begin(0, Some(3)),
        copy_begin(0, None),
        copy_begin(0, Some(5)),
        copy_end(0),
    ];
    let (place, verdicts) = read(0, &log).expect("no hole");
    assert_eq!(
        verdicts,
        [Valid, Valid, Valid, Repeat, Repeat, Valid, Valid]
    );
    assert_eq!((place.to, place.last_valid), (Some(Lsn(5)), Some(6)));
}

#[test]
fn a_second_reader_behind_copy_begin_judges_as_the_main_one() {
    let log = [
        epoch(0),
        batch(0, 1, 3),
        copy_begin(0, Some(3)),
        batch(0, 1, 3),
        batch(0, 3, 4),
        epoch(5),
    ];
    let (main, verdicts) = read(0, &log).expect("no hole");
    let Entry::CopyBegin(begin) = &log[2] else {
        unreachable!("the third entry begins a copy")
    };
    let mut second = LogPlace::behind_copy_begin(2, begin, [table("t")].into());
    for (offset, entry) in (3..).zip(&log[3..]) {
        let verdict = judge(&mut second, offset, entry).expect("no hole");
        assert_eq!(verdict, verdicts[offset as usize]);
    }
    assert_eq!(second, main);
}

#[test]
fn entries_survive_json() {
    for entry in [epoch(3), batch(1, 2, 3), copy_begin(1, None), copy_end(2)] {
        let text = serde_json::to_string(&entry).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Entry>(&text).expect("an entry"),
            entry
        );
    }
    for wrong in [r#"{"x":{"a":1}}"#, r#"{"x":{"":1}}"#] {
        let text =
            format!(r#"{{"kind":"copy_begin","epoch":1,"tables":[],"at":null,"offsets":{wrong}}}"#);
        assert!(serde_json::from_str::<Entry>(&text).is_err(), "{text}");
    }
    let text = r#"{"kind":"batch","epoch":4,"from":"0/A","to":"1/0","offsets":{"p.s.t":{"0":{"last":7,"count":2}}}}"#;
    let Entry::Batch(batch) = serde_json::from_str(text).expect("an entry") else {
        panic!("a batch");
    };
    assert_eq!(batch.offsets["p.s.t"][&0], Extent { last: 7, count: 2 });
}

#[test]
fn an_epoch_entry_names_limits_only_where_there_are_some() {
    let all = r#"{"schema":"s","name":"all","relation":1}"#;
    let limited = r#"{"schema":"s","name":"limited","relation":2,"membership":7,"row_filter":"(id > 1)","columns":["id","v"]}"#;
    let text = format!(
        r#"{{"kind":"epoch","after":0,"instance":"i","system_id":"7","timeline":1,"captured":[{all},{limited}]}}"#
    );
    let entry: Entry = serde_json::from_str(&text).expect("an entry");
    let Entry::Epoch(epoch) = &entry else {
        panic!("{entry:?}");
    };
    assert_eq!(epoch.captured[0].limits, Limits::default());
    let limits = Limits {
        membership: Some(Oid(7)),
        row_filter: Some("(id > 1)".to_owned()),
        columns: Some(vec!["id".to_owned(), "v".to_owned()]),
    };
    assert_eq!(epoch.captured[1].limits, limits);
    assert_eq!(serde_json::to_string(&entry).expect("JSON"), text);
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let small = 0..6_u64;
    prop_oneof![
        (0..12_i64).prop_map(epoch),
        (small.clone(), small.clone(), small.clone()).prop_map(|(e, from, to)| batch(e, from, to)),
        (small.clone(), prop::option::of(small.clone())).prop_map(|(e, at)| copy_begin(e, at)),
        small.prop_map(copy_end),
    ]
}

fn epoch_named(entry: &Entry) -> Option<u64> {
    match entry {
        Entry::Epoch(_) => None,
        Entry::Batch(batch) => Some(batch.epoch.0),
        Entry::CopyBegin(begin) => Some(begin.epoch.0),
        Entry::CopyEnd(end) => Some(end.epoch.0),
    }
}

proptest! {
    #[test]
    fn whatever_the_log_holds_its_valid_part_never_steps_back(
        entries in prop::collection::vec(any_entry(), 0..12),
        low in 6..9_i64,
    ) {
        let mut place = LogPlace::at_low_end(low);
        for (offset, entry) in (low..).zip(&entries) {
            // Nobody can name an epoch before its entry has landed.
            prop_assume!(epoch_named(entry).is_none_or(|named| (named as i64) < offset));
            let before = place.clone();
            match judge(&mut place, offset, entry) {
                Ok(Verdict::Valid) => {
                    prop_assert!(place.to >= before.to && place.epoch >= before.epoch || before.fresh);
                    prop_assert_eq!(place.last_valid, Some(offset));
                    prop_assert!(!place.fresh);
                    if let (Entry::Batch(batch), Some(to)) = (entry, before.to) {
                        prop_assert_eq!(batch.from, to);
                    }
                }
                Ok(Verdict::Repeat | Verdict::Void) => {
                    prop_assert_eq!(&place, &LogPlace { next_offset: offset + 1, ..before });
                }
                Err(error) => {
                    prop_assert_eq!(error.class(), Class::Halt);
                    prop_assert_eq!(&place, &before);
                    break;
                }
            }
        }
    }

    #[test]
    fn a_reader_may_stop_and_go_on_from_what_it_stored(
        entries in prop::collection::vec(any_entry(), 0..12),
        stop in 0..12_usize,
    ) {
        let Ok((whole, _)) = read(0, &entries) else { return Ok(()) };
        let mut place = LogPlace::at_low_end(0);
        for (offset, entry) in (0..).zip(&entries) {
            if offset == stop as i64 {
                let stored = serde_json::to_string(&place).expect("JSON");
                place = serde_json::from_str(&stored).expect("a place");
            }
            judge(&mut place, offset, entry).expect("as before");
            if let Some(last) = place.last_valid {
                prop_assert!(place.may_end_with(last, &entries[last as usize]));
            }
        }
        prop_assert_eq!(place, whole);
    }
}
