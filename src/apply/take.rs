//! Which records of a partition belong to an entry, and which rows to a copy. Pure.
//!
//! A producer can repeat itself and sources that are not current leave records behind, so an offset
//! says nothing by itself: a record is taken by its header, and only the count proves a range whole.

use crate::log::commit_log::Extent;
use crate::log::header::{CopyHeader, RecordHeader};
use crate::model::{Epoch, JoinRows, Lsn, Position};

/// What to do with the record that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is the next record wanted.
    Take,
    /// It belongs to something else, or was taken before.
    Skip,
    /// It lies where nothing wanted can lie any more, and records are missing.
    Lost,
}

/// Takes the records of one batch entry from one partition: epoch and commit LSN as the entry
/// says, strictly increasing in position, exactly as many as it counts.
#[derive(Clone, Debug)]
pub struct Taker {
    epoch: Epoch,
    from: Lsn,
    to: Lsn,
    extent: Extent,
    taken: u64,
    previous: Option<Position>,
    next_offset: i64,
    skipped: u64,
}

impl Taker {
    /// A taker for the entry `[from, to)` of `epoch`, whose partition is read from `next_offset` on.
    pub fn new(epoch: Epoch, (from, to): (Lsn, Lsn), extent: Extent, next_offset: i64) -> Self {
        Taker {
            epoch,
            from,
            to,
            extent,
            taken: 0,
            previous: None,
            next_offset,
            skipped: 0,
        }
    }

    /// The same entry and partition, read anew from `next_offset` on.
    pub fn restarted(&self, next_offset: i64) -> Self {
        Taker::new(self.epoch, (self.from, self.to), self.extent, next_offset)
    }

    /// Whether everything is taken: nothing more must be read for this entry.
    pub fn done(&self) -> bool {
        self.taken == self.extent.count
    }

    /// Whether the entry's range is passed and records are missing.
    pub fn lost(&self) -> bool {
        !self.done() && self.next_offset > self.extent.last
    }

    /// Judges the record at `offset`.
    pub fn offer(&mut self, offset: i64, header: &RecordHeader) -> Taken {
        assert!(!self.done(), "offset {offset} offered to a full entry");
        if offset > self.extent.last {
            self.next_offset = self.next_offset.max(offset);
            return Taken::Lost;
        }
        self.next_offset = offset + 1;
        let commit = header.position.commit;
        let wanted = header.epoch == self.epoch
            && self.from <= commit
            && commit < self.to
            && self.previous.is_none_or(|last| header.position > last);
        if wanted {
            self.taken += 1;
            self.previous = Some(header.position);
            Taken::Take
        } else {
            self.skipped += 1;
            Taken::Skip
        }
    }

    /// Offset of the next record to read.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Records taken so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// What the entry says of the partition.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// Records passed over.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// Judges the copy row at `offset` for copy `copy` and moves `rows` past it: rows of this copy are
/// taken in strictly increasing sequence.
pub fn offer_row(
    copy: i64,
    rows: &mut JoinRows,
    offset: i64,
    header: Option<&CopyHeader>,
) -> Taken {
    rows.next_offset = offset + 1;
    match header {
        Some(header) if header.copy == copy && header.sequence > rows.sequence => {
            rows.sequence = header.sequence;
            rows.count += 1;
            Taken::Take
        }
        Some(_) | None => Taken::Skip,
    }
}

/// How much of a copy's rows in one partition is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsState {
    /// There may be more.
    More,
    /// All rows that `copy_end` counts are taken.
    Complete,
    /// The range that `copy_end` names is passed and rows are missing (retention passed).
    Lost,
}

/// Judges the rows taken from one partition. `end`: what `copy_end` says of it (`Some(None)`: it
/// names no row there); `None` while the copy is running.
pub fn rows_state(rows: &JoinRows, end: Option<Option<&Extent>>) -> RowsState {
    let Some(extent) = end else {
        return RowsState::More;
    };
    let (last, count) = extent.map_or((-1, 0), |extent| (extent.last, extent.count));
    if rows.count == count {
        RowsState::Complete
    } else if rows.count > count || rows.next_offset > last {
        RowsState::Lost
    } else {
        RowsState::More
    }
}

#[cfg(test)]
#[path = "take_tests.rs"]
mod tests;
