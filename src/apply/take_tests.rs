use super::*;
use crate::model::SchemaVersion;
use proptest::prelude::*;

const ENTRY: (Lsn, Lsn) = (Lsn(100), Lsn(200));

fn header(epoch: u64, commit: u64, ordinal: u32) -> RecordHeader {
    RecordHeader {
        epoch: Epoch(epoch),
        position: Position {
            commit: Lsn(commit),
            ordinal,
        },
        version: SchemaVersion(1),
    }
}

fn taker(last: i64, count: u64) -> Taker {
    Taker::new(Epoch(7), ENTRY, Extent { last, count }, 0)
}

/// Offers a partition from the taker's offset on; the positions taken, or `None` when it is lost.
fn run(taker: &mut Taker, partition: &[RecordHeader]) -> Option<Vec<(u64, u32)>> {
    let mut got = Vec::new();
    while !taker.done() {
        if taker.lost() {
            return None;
        }
        let offset = taker.next_offset();
        let record = partition.get(usize::try_from(offset).ok()?)?;
        match taker.offer(offset, record) {
            Taken::Take => got.push((record.position.commit.0, record.position.ordinal)),
            Taken::Skip => {}
            Taken::Lost => return None,
        }
    }
    Some(got)
}

#[test]
fn leftovers_of_another_epoch_are_passed_over() {
    let partition = [
        header(3, 110, 0),
        header(7, 110, 0),
        header(9, 120, 0),
        header(7, 120, 0),
    ];
    let mut taker = taker(3, 2);
    assert_eq!(run(&mut taker, &partition), Some(vec![(110, 0), (120, 0)]));
    assert_eq!((taker.next_offset(), taker.skipped()), (4, 2));
}

#[test]
fn a_repeat_of_the_producer_is_taken_once() {
    let partition = [
        header(7, 110, 0),
        header(7, 110, 1),
        header(7, 110, 0),
        header(7, 110, 1),
        header(7, 150, 0),
    ];
    let mut taker = taker(4, 3);
    assert_eq!(
        run(&mut taker, &partition),
        Some(vec![(110, 0), (110, 1), (150, 0)])
    );
}

#[test]
fn a_last_that_is_too_high_leaves_the_next_entrys_records_alone() {
    let partition = [header(7, 110, 0), header(7, 210, 0), header(7, 220, 0)];
    let mut taker = taker(2, 1);
    assert_eq!(run(&mut taker, &partition), Some(vec![(110, 0)]));
    assert_eq!(taker.next_offset(), 1);
}

#[test]
fn passing_last_without_the_count_is_lost_data() {
    let partition = [header(7, 110, 0), header(3, 120, 0), header(7, 210, 0)];
    assert_eq!(run(&mut taker(1, 2), &partition), None);
    assert_eq!(run(&mut taker(2, 2), &partition), None);
}

#[test]
fn a_boundary_belongs_to_the_entry_that_begins_there() {
    let partition = [header(7, 99, 0), header(7, 200, 0), header(7, 100, 0)];
    assert_eq!(run(&mut taker(2, 1), &partition), Some(vec![(100, 0)]));
}

#[test]
fn a_cursor_beyond_last_is_lost_before_anything_is_read() {
    let beyond = Taker::new(Epoch(7), ENTRY, Extent { last: 4, count: 1 }, 5);
    assert!(beyond.lost());
}

fn copy_row(copy: i64, sequence: i64) -> CopyHeader {
    CopyHeader { copy, sequence }
}

#[test]
fn rows_of_a_copy_are_taken_once_and_only_of_that_copy() {
    let mut rows = JoinRows {
        next_offset: 0,
        sequence: -1,
        count: 0,
    };
    let headers = [
        copy_row(5, 0),
        copy_row(4, 1),
        copy_row(5, 3),
        copy_row(5, 0),
        copy_row(5, 3),
        copy_row(5, 4),
    ];
    let taken: Vec<bool> = (0..)
        .zip(&headers)
        .map(|(offset, header)| offer_row(5, &mut rows, offset, Some(header)) == Taken::Take)
        .collect();
    assert_eq!(taken, [true, false, true, false, false, true]);
    assert_eq!((rows.count, rows.sequence, rows.next_offset), (3, 4, 6));
}

#[test]
fn only_counts_decide_whether_a_copy_is_whole() {
    let rows = |next_offset, count| JoinRows {
        next_offset,
        sequence: 9,
        count,
    };
    let end = Extent { last: 9, count: 3 };
    assert_eq!(rows_state(&rows(50, 3), None), RowsState::More);
    assert_eq!(
        rows_state(&rows(5, 3), Some(Some(&end))),
        RowsState::Complete
    );
    assert_eq!(rows_state(&rows(5, 2), Some(Some(&end))), RowsState::More);
    assert_eq!(rows_state(&rows(10, 2), Some(Some(&end))), RowsState::Lost);
    assert_eq!(rows_state(&rows(0, 0), Some(None)), RowsState::Complete);
    assert_eq!(rows_state(&rows(0, 1), Some(None)), RowsState::Lost);
}

proptest! {
    /// Whatever zombies and repeats lie between, an entry that is whole gives exactly its records
    /// in order; with one of them missing it is lost.
    #[test]
    fn an_entry_gives_its_records_or_is_lost(
        count in 1usize..12,
        noise in proptest::collection::vec((0u64..10, 90u64..210, 0u32..3), 0..40),
        repeats in proptest::collection::vec(0usize..12, 0..4),
        at in proptest::collection::vec(0usize..60, 0..40),
        slack in 0i64..3,
        missing in proptest::option::of(0usize..12),
    ) {
        let own: Vec<_> = (0..count).map(|n| header(7, 100 + (n as u64 / 2) * 7, n as u32)).collect();
        let mut partition = own.clone();
        for &from in &repeats {
            // The unacknowledged run from `from` on lands again.
            if from < count { partition.extend_from_slice(&own[from..]); }
        }
        for (&(epoch, commit, ordinal), &at) in noise.iter().zip(&at) {
            if epoch != 7 {
                partition.insert(at.min(partition.len()), header(epoch, commit, ordinal));
            }
        }
        let missing = missing.filter(|&n| n < count);
        if let Some(n) = missing {
            partition.retain(|record| *record != own[n]);
        }
        let last = partition.len() as i64 - 1 + slack;
        for n in 0..4u32 { partition.push(header(7, 200 + u64::from(n), 0)); }
        let got = run(&mut taker(last, count as u64), &partition);
        let whole: Vec<_> = own.iter().map(|h| (h.position.commit.0, h.position.ordinal)).collect();
        prop_assert_eq!(got, if missing.is_some() { None } else { Some(whole) });
    }
}
