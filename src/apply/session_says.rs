//! What the applier says of itself: its progress in `P.progress`, and its part of the status.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::join::{oldest_needed, wants};
use super::session::{PROGRESS_EVERY, Session};
use crate::killpoint::{self, Point};
use crate::log::progress::Progress;
use crate::model::clock::unix_us;
use crate::status::State;

/// How often a wish for a copy is said again: a record of progress may be lost.
const WANTS_EVERY: Duration = Duration::from_secs(10);

impl Session<'_> {
    /// Says the durable boundary and the copies wanted, not too often. When to say it, if not now. A store
    /// that keeps no checkpoint never comes back to its place, so the log is not to be kept for it.
    pub(super) fn say_progress(&mut self) -> Option<Instant> {
        if !self.is_stored || !self.terms.takes_copies {
            return None;
        }
        let progress = Progress {
            sink: self.context.said_as.clone(),
            applied: self.checkpoint.applied,
            log_offset: oldest_needed(&self.checkpoint),
            wants: wants(&self.checkpoint, self.copies_known(), &self.terms),
        };
        let due = self.said_at + say_after(self.said.as_ref(), &progress)?;
        if Instant::now() < due {
            return Some(due);
        }
        killpoint::pass(Point::BeforeProgress);
        self.progress.write(&progress);
        self.said = Some(progress);
        self.said_at = Instant::now();
        None
    }

    /// Updates the status view.
    pub(super) fn show(&mut self) {
        let selection = &self.terms.selection;
        let complete = self.checkpoint.is_complete(selection);
        let lacking = if complete {
            BTreeSet::new()
        } else {
            self.checkpoint.lacking(selection)
        };
        let copies = self.copies(&lacking);
        let paused = self.is_paused();
        let rebuild = self.rebuild_progress(&lacking);
        let checkpoint = &self.checkpoint;
        let building = self.indexes.left();
        self.context.status.update(|view| {
            view.copying = !complete && self.terms.takes_copies;
            view.state = match (view.copying, paused) {
                (true, _) => State::Copying,
                (false, true) => State::Paused,
                (false, false) => State::Streaming,
            };
            view.target = checkpoint.target;
            view.rebuild = rebuild;
            if view.building != building {
                view.building = building.to_vec();
            }
            let applied = self.is_stored.then_some(checkpoint.applied);
            if view.applied != applied {
                view.progress_at_us = Some(unix_us(SystemTime::now()));
            }
            view.applied = applied;
            view.timeline = checkpoint.timeline;
            view.system_id.clone_from(&checkpoint.system_id);
            view.log_offset = Some(checkpoint.log.next_offset);
            view.commit_time_us = checkpoint.commit_time_us;
            if let Some(copies) = copies {
                view.copies = copies;
            }
        });
    }
}

/// How long after what was `said` the progress is to be said; `None`: not as it is.
fn say_after(said: Option<&Progress>, progress: &Progress) -> Option<Duration> {
    if said != Some(progress) {
        Some(PROGRESS_EVERY)
    } else if progress.wants.is_empty() {
        None
    } else {
        Some(WANTS_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::progress::Want;
    use crate::model::{Lsn, TableName};

    #[test]
    fn a_wish_for_a_copy_is_repeated_until_it_is_granted() {
        let mut progress = Progress {
            sink: "dw".to_owned(),
            applied: Lsn(1),
            log_offset: 1,
            wants: Vec::new(),
        };
        assert_eq!(say_after(None, &progress), Some(PROGRESS_EVERY));
        assert_eq!(say_after(Some(&progress.clone()), &progress), None);
        let before = progress.clone();
        progress.wants.push(Want {
            table: TableName::new("public", "a"),
            after: -1,
        });
        assert_eq!(say_after(Some(&before), &progress), Some(PROGRESS_EVERY));
        assert_eq!(
            say_after(Some(&progress.clone()), &progress),
            Some(WANTS_EVERY)
        );
    }
}
