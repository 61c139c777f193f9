//! How much goes into one batch and one chunk: as much as there is, and less and less after a halt, and after
//! what the follower ended because it took too long. First batches of fewer entries, down to the one that cannot be
//! applied, so that everything before it is; then chunks of fewer changes within it, down to the one change, so
//! that the error names it. Pure.

/// Entries in one batch at most: bounds what is held of a log without records for this sink.
const BATCH_MAX_ENTRIES: usize = 20_000;

/// Of how many smaller batches a batch is made after a halt, and of how many smaller chunks a chunk.
const SMALLER: usize = 16;
/// The same where the batch's end is not known. Often no change is to blame then but what is read, and
/// smaller batches only put off the halt: few steps.
const SMALLER_UNKNOWN: usize = 160;

/// Smaller batches, up to a place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Careful {
    /// Offset in the log of the first entry that it does not concern.
    until: i64,
    /// Entries in one batch at most.
    max_entries: usize,
    /// The one entry that cannot be applied, and how it is cut into chunks.
    cut: Option<(i64, ChunkCut)>,
}

/// Smaller chunks of an entry, where one could not be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkCut {
    /// Changes of the entry that could be applied: they go as they come.
    applied: u64,
    /// Changes in one chunk at most behind them.
    max_changes: u64,
}

impl ChunkCut {
    /// Changes at most in the next chunk, when so many of the entry have been handed on.
    pub fn max_changes_after(self, handed_on: u64) -> u64 {
        match self.applied.checked_sub(handed_on) {
            None | Some(0) => self.max_changes,
            Some(left) => left,
        }
    }
}

/// A chunk that was being applied when an error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Changes of its batch before it.
    pub before: u64,
    /// Changes in it.
    pub changes: u64,
}

impl Careful {
    /// Nowhere.
    pub const NOT: Careful = Careful {
        until: 0,
        max_entries: BATCH_MAX_ENTRIES,
        cut: None,
    };

    /// Entries at most in a batch that has the entry at `offset`.
    pub fn max_entries_at(self, offset: i64) -> usize {
        if offset < self.until {
            self.max_entries
        } else {
            BATCH_MAX_ENTRIES
        }
    }

    /// How the entry at `offset` is cut into chunks, if it could not be applied.
    pub fn cut_at(self, offset: i64) -> Option<ChunkCut> {
        let (of, cut) = self.cut?;
        (of == offset).then_some(cut)
    }

    /// How to read on after an error at `at` that smaller parts may avoid, in a batch that ends at `batch_end` if it
    /// is known, with the chunk that was being applied. `None`: the change concerned came alone already, or that
    /// is no help.
    pub fn after(
        self,
        at: i64,
        batch_end: Option<i64>,
        attempt: Option<Attempt>,
    ) -> Option<Careful> {
        let now = if at < self.until { self } else { Careful::NOT };
        if now.max_entries == 1 {
            return now.cut_after(at, attempt?);
        }
        let known = batch_end.and_then(|end| usize::try_from(end - at).ok());
        let entries = known.unwrap_or(now.max_entries).min(now.max_entries);
        let smaller = if known.is_some() {
            SMALLER
        } else {
            SMALLER_UNKNOWN
        };
        let reach = i64::try_from(entries).unwrap_or(i64::MAX).max(1);
        Some(Careful {
            until: now.until.max(at.saturating_add(reach)),
            max_entries: (entries / smaller).max(1),
            cut: None,
        })
    }

    fn cut_after(self, at: i64, attempt: Attempt) -> Option<Careful> {
        let single = attempt.changes <= 1;
        // The halves of a key change stay together.
        let as_small_as_can_be = self.cut_at(at).is_some_and(|cut| cut.max_changes == 1);
        if single || as_small_as_can_be {
            return None;
        }
        let cut = ChunkCut {
            applied: attempt.before,
            max_changes: (attempt.changes / SMALLER as u64).max(1),
        };
        Some(Careful {
            cut: Some((at, cut)),
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn careful(until: i64, max_entries: usize) -> Careful {
        Careful {
            until,
            max_entries,
            cut: None,
        }
    }

    fn halt(at: i64, now: Careful, end: Option<i64>) -> Option<Careful> {
        now.after(at, end, None)
    }

    fn attempt(before: u64, changes: u64) -> Option<Attempt> {
        Some(Attempt { before, changes })
    }

    /// Where a walk of halts ends for an entry whose change number `poisoned` cannot be applied; `pairs`:
    /// changes that cannot be parted from the one behind them.
    fn pin_down(changes: u64, poisoned: u64, pairs: &[u64]) -> (Attempt, u32) {
        let (mut now, mut rounds) = (careful(8, 1), 0);
        loop {
            rounds += 1;
            let mut handed_on = 0;
            let failed = loop {
                let cut = now.cut_at(7);
                let most = cut.map_or(changes, |cut| cut.max_changes_after(handed_on));
                let mut chunk = most.min(changes - handed_on);
                if pairs.contains(&(handed_on + chunk - 1)) {
                    chunk += 1;
                }
                if (handed_on..handed_on + chunk).contains(&poisoned) {
                    break Attempt {
                        before: handed_on,
                        changes: chunk,
                    };
                }
                handed_on += chunk;
            };
            match now.after(7, Some(8), Some(failed)) {
                Some(smaller) => now = smaller,
                None => return (failed, rounds),
            }
        }
    }

    #[test]
    fn the_change_that_cannot_be_applied_comes_alone_in_the_end() {
        for (changes, most_rounds) in [(1, 1), (2, 2), (17, 2), (300, 4), (1_000_000, 6)] {
            for poisoned in [0, changes / 2, changes - 1] {
                let (alone, rounds) = pin_down(changes, poisoned, &[]);
                assert_eq!(Some(alone), attempt(poisoned, 1));
                assert!(rounds <= most_rounds, "{rounds} rounds for {changes}");
            }
        }
        // A key change is two records.
        let (alone, _rounds) = pin_down(300, 151, &[150]);
        assert_eq!(Some(alone), attempt(150, 2));
    }

    #[test]
    fn smaller_chunks_are_for_the_entry_that_could_not_be_applied_only() {
        let cut = careful(8, 1).after(7, Some(8), attempt(0, 32));
        let cut = cut.unwrap();
        assert!(cut.cut_at(7).is_some() && cut.cut_at(8).is_none());
        // Something else than a chunk is in the way.
        assert_eq!(cut.after(7, Some(8), None), None);
    }

    #[test]
    fn after_a_halt_batches_become_smaller_until_the_entry_comes_alone() {
        let first = halt(1_000, Careful::NOT, Some(1_600));
        assert_eq!(first, Some(careful(1_600, 37)));
        let second = halt(1_300, first.unwrap(), Some(1_337));
        assert_eq!(second, Some(careful(1_600, 2)));
        let third = halt(1_310, second.unwrap(), Some(1_312));
        assert_eq!(third, Some(careful(1_600, 1)));
        assert_eq!(halt(1_311, third.unwrap(), Some(1_312)), None);
        // The halt that follows when all that is passed is another one.
        let other = halt(1_600, third.unwrap(), Some(1_601));
        assert_eq!(other, Some(careful(1_601, 1)));
        assert_eq!(halt(1_600, other.unwrap(), Some(1_601)), None);
    }

    #[test]
    fn where_the_end_of_the_batch_is_not_known_it_comes_to_an_end_too() {
        let (mut now, mut times) = (Careful::NOT, 0);
        while let Some(smaller) = halt(7, now, None) {
            now = smaller;
            times += 1;
        }
        assert!(times == 2 && now.max_entries_at(7) == 1, "{times} {now:?}");
    }

    #[test]
    fn batches_are_smaller_only_where_the_error_was() {
        let now = halt(10, Careful::NOT, Some(12)).unwrap();
        assert_eq!(now.max_entries_at(11), 1);
        assert_eq!(now.max_entries_at(12), BATCH_MAX_ENTRIES);
    }
}
