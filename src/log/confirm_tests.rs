use std::collections::BTreeMap;

use super::*;
use crate::log::commit_log::{BatchEntry, EpochEntry};

fn epoch(instance: usize, after: i64) -> EpochEntry {
    EpochEntry {
        after,
        instance: instance.to_string(),
        system_id: "7".to_owned(),
        timeline: 1,
        captured: vec![],
        dropped: Vec::new(),
    }
}

fn batch(epoch: Epoch, from: Lsn, to: Lsn) -> Entry {
    Entry::Batch(BatchEntry {
        bytes: 0,
        epoch,
        from,
        to,
        last_commit: None,
        transactions: 1,
        changes: 0,
        offsets: BTreeMap::new(),
        sample: None,
    })
}

fn copy_begin(epoch: Epoch, at: Option<Lsn>) -> Entry {
    Entry::CopyBegin(CopyBegin {
        epoch,
        number: 0,
        tables: vec![],
        at,
        offsets: BTreeMap::new(),
        indexes: Vec::new(),
    })
}

fn place(entries: &[Entry]) -> LogPlace {
    let mut place = LogPlace::at_low_end(0);
    for (offset, entry) in (0..).zip(entries) {
        judge(&mut place, offset, entry).expect("no hole");
    }
    place
}

/// A source of epoch 0 that has sent (1,2], (2,3] and (3,4].
fn three_sent() -> Confirmations {
    let mut own = Confirmations::new(place(&[Entry::Epoch(epoch(0, 0))]));
    for to in 2..5 {
        own.sent(batch(Epoch(0), Lsn(to - 1), Lsn(to)));
    }
    own
}

fn confirm(to: u64) -> Decision {
    Decision::Confirm(Some(Lsn(to)))
}

#[test]
fn acknowledgements_at_consecutive_offsets_confirm() {
    let mut own = three_sent();
    for (offset, to) in [(1, 2), (2, 3), (3, 4)] {
        assert_eq!(own.acked(Some(offset)).expect("no hole"), confirm(to));
    }
    assert_eq!(own.unacknowledged(), 0);
}

#[test]
fn a_gap_or_a_missing_offset_must_be_read() {
    let mut own = three_sent();
    let gap = own.acked(Some(2)).expect("no hole");
    assert_eq!(
        gap,
        Decision::ReadGap {
            from: 1,
            to: Some(3)
        }
    );
    let read = [
        (1, Entry::Epoch(epoch(1, 0))),
        (2, batch(Epoch(0), Lsn(1), Lsn(2))),
    ];
    assert_eq!(
        own.read(&read).expect("no hole"),
        confirm(2),
        "the other epoch entry is void"
    );
    let gap = own.acked(None).expect("no hole");
    assert_eq!(gap, Decision::ReadGap { from: 3, to: None });
    let read = [
        (2, read[1].1.clone()),
        (3, batch(Epoch(0), Lsn(2), Lsn(3))),
        (4, batch(Epoch(0), Lsn(3), Lsn(4))),
    ];
    assert_eq!(
        own.read(&read).expect("no hole"),
        confirm(4),
        "more than asked for"
    );
    assert_eq!(
        own.acked(Some(4)).expect("no hole"),
        confirm(4),
        "read before it was acknowledged"
    );
}

#[test]
fn an_entry_below_the_logs_known_end_means_another_topic() {
    let mut own = three_sent();
    own.acked(Some(1)).expect("no hole");
    let error = own.acked(Some(0)).expect_err("a new topic begins at 0");
    assert_eq!(error.class(), crate::error::Class::Halt);

    // All three were read after the first acknowledgement, which named no offset.
    let mut own = three_sent();
    let read: Vec<_> = (1..4)
        .map(|n| (n, batch(Epoch(0), Lsn(n as u64), Lsn(n as u64 + 1))))
        .collect();
    own.acked(None).expect("no hole");
    assert_eq!(own.read(&read).expect("no hole"), confirm(4));
    own.acked(None).expect("no hole");
    assert_eq!(own.read([]).expect("no hole"), confirm(4));
    assert_eq!(own.acked(Some(3)).expect("was read"), confirm(4));
    own.sent(batch(Epoch(0), Lsn(4), Lsn(5)));
    assert_eq!(own.acked(Some(4)).expect("no hole"), confirm(5));
    own.sent(batch(Epoch(0), Lsn(5), Lsn(6)));
    assert!(own.acked(Some(3)).is_err(), "the gap is closed");
}

#[test]
fn a_superseded_source_confirms_nothing() {
    let mut own = three_sent();
    own.acked(Some(3)).expect("no hole");
    let read = [
        (1, Entry::Epoch(epoch(1, 1))),
        (2, batch(Epoch(1), Lsn(1), Lsn(9))),
        (3, batch(Epoch(0), Lsn(1), Lsn(2))),
    ];
    assert_eq!(own.read(&read).expect("no hole"), Decision::Superseded);
    assert_eq!(own.acked(Some(4)).expect("no hole"), Decision::Superseded);
}

#[test]
fn a_copy_gets_the_offset_of_its_valid_entry_as_id() {
    let mut own = three_sent();
    own.sent(copy_begin(Epoch(0), Some(Lsn(4))));
    for offset in 1..5 {
        own.acked(Some(offset)).expect("no hole");
    }
    let begun = own.take_begun();
    assert_eq!(begun.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [4]);
    // A zombie's, and one that the producer repeated after a batch.
    own.sent(batch(Epoch(0), Lsn(4), Lsn(5)));
    own.acked(Some(5)).expect("no hole");
    let read = [
        (6, copy_begin(Epoch(9), Some(Lsn(5)))),
        (7, copy_begin(Epoch(0), Some(Lsn(4)))),
    ];
    own.read(&read).expect("no hole");
    assert!(own.take_begun().is_empty());
}

#[path = "confirm_walks.rs"]
mod walks;

#[test]
fn a_gap_that_was_trimmed_means_another_source_and_no_hole() {
    let mut own = three_sent();
    let from = 1;
    let to = Some(21);
    assert_eq!(own.acked(Some(20)).unwrap(), Decision::ReadGap { from, to });
    let trimmed = [
        (13, Entry::Epoch(epoch(1, 13))),
        (14, batch(Epoch(13), Lsn(7), Lsn(9))),
    ];
    assert_eq!(own.read(&trimmed).unwrap(), Decision::Superseded);
}
