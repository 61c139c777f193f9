//! Which boundary a source may confirm to its slot: that of an own entry known to be valid.
//!
//! An acknowledgement alone proves nothing: another source may have taken over before the entry
//! landed, and then it is void. What proves it is to know every entry up to it: those that are the
//! own ones at consecutive offsets since the epoch entry, and those between them by reading.

use std::collections::VecDeque;

use crate::error::{Error, NEW_PIPELINE, Result};
use crate::log::commit_log::{CopyBegin, Entry, Verdict, judge};
use crate::model::checkpoint::LogPlace;
use crate::model::{Epoch, Lsn};

/// What an acknowledgement allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The valid log of this epoch reaches this boundary: it may be confirmed. `None`: the log has none yet.
    Confirm(Option<Lsn>),
    /// Read the log's offsets `from <= offset < to` (`to` none: up to its end now) and hand them to
    /// [`Confirmations::read`]; nothing new may be confirmed before.
    ReadGap {
        /// First unknown offset.
        from: i64,
        /// First offset not needed.
        to: Option<i64>,
    },
    /// Another source has taken over: stop, confirm nothing.
    Superseded,
}

/// What a source knows of the log since its own epoch entry.
#[derive(Clone, Debug)]
pub struct Confirmations {
    own: Epoch,
    place: LogPlace,
    sent: VecDeque<Entry>,
    begun: Vec<(i64, CopyBegin)>,
    /// Where the newest run of reading began: own entries from here on may be acknowledged after
    /// they were read. None since an entry was acknowledged at the log's known end.
    gap_from: Option<i64>,
}

impl Confirmations {
    /// Begins with the place of a reader that has just judged the own epoch entry valid.
    ///
    /// # Panics
    /// When the place has no epoch: a bug of the caller.
    pub fn new(place: LogPlace) -> Self {
        let own = place
            .epoch
            .expect("a source confirms only after its own valid epoch entry");
        Confirmations {
            own,
            place,
            sent: VecDeque::new(),
            begun: Vec::new(),
            gap_from: None,
        }
    }

    /// The own epoch.
    pub fn epoch(&self) -> Epoch {
        self.own
    }

    /// Notes an entry handed to the producer. Entries are acknowledged in this order.
    pub fn sent(&mut self, entry: Entry) {
        self.sent.push_back(entry);
    }

    /// Entries sent and not yet acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.sent.len()
    }

    /// Notes the acknowledgement of the oldest unacknowledged entry; `offset` is none where Kafka
    /// named none (a retry answered as duplicate).
    ///
    /// # Errors
    /// Halt as [`judge`], and when the offset is one that the log had passed before the entry was
    /// sent: the topic is another one then.
    ///
    /// # Panics
    /// When nothing was sent: a bug of the caller.
    pub fn acked(&mut self, offset: Option<i64>) -> Result<Decision> {
        let entry = self
            .sent
            .pop_front()
            .expect("an acknowledgement belongs to an entry that was sent");
        let from = self.place.next_offset;
        match offset {
            Some(at) if at == from => {
                self.gap_from = None;
                self.step(at, &entry)?;
                Ok(self.decide())
            }
            Some(at) if at > from => Ok(self.gap(from, Some(at + 1))),
            // Judged when it was read.
            Some(at) if self.gap_from.is_some_and(|gap| at >= gap) => Ok(self.decide()),
            Some(at) => Err(Error::halt(
                format!(
                    "an entry was acknowledged at offset {at} of the commits topic, which ended at \
                     {from} before: the commits topic was made anew, and what was published is lost"
                ),
                NEW_PIPELINE,
            )),
            None => Ok(self.gap(from, None)),
        }
    }

    /// Notes entries read from the log, in order and without omissions from [`Decision::ReadGap`]'s
    /// `from` on; more than were asked for are welcome. Where the log was trimmed beyond `from`, from
    /// its low end on: it then begins with the epoch of another source.
    ///
    /// # Errors
    /// Halt as [`judge`].
    pub fn read<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a (i64, Entry)>,
    ) -> Result<Decision> {
        for (offset, entry) in entries {
            if *offset >= self.place.next_offset {
                self.place.behind_trim(*offset);
                self.step(*offset, entry)?;
            }
        }
        Ok(self.decide())
    }

    /// Own `copy_begin` entries found valid since the last call, with their offsets (the copy ids),
    /// in log order. If the producer repeated one, the first is the one to use.
    pub fn take_begun(&mut self) -> Vec<(i64, CopyBegin)> {
        std::mem::take(&mut self.begun)
    }

    /// Reading again before an entry was acknowledged at the known end belongs to the same run.
    fn gap(&mut self, from: i64, to: Option<i64>) -> Decision {
        self.gap_from.get_or_insert(from);
        Decision::ReadGap { from, to }
    }

    fn step(&mut self, offset: i64, entry: &Entry) -> Result<()> {
        let verdict = judge(&mut self.place, offset, entry)?;
        if let (Verdict::Valid, Entry::CopyBegin(begin)) = (verdict, entry)
            && begin.epoch == self.own
        {
            self.begun.push((offset, begin.clone()));
        }
        Ok(())
    }

    fn decide(&self) -> Decision {
        if self.place.epoch == Some(self.own) {
            Decision::Confirm(self.place.to)
        } else {
            Decision::Superseded
        }
    }
}

#[cfg(test)]
#[path = "confirm_tests.rs"]
mod tests;
