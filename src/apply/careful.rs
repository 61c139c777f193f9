//! How many entries go into one batch: as many as there are, and after a halt fewer and fewer, down to
//! the one entry that cannot be applied, so that everything before it is. Pure.

use crate::error::Class;

/// Entries in one batch at most: bounds what is held of a log without records for this sink.
const BATCH_MAX_ENTRIES: usize = 20_000;

/// Of how many smaller batches a batch is made after a halt.
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
}

impl Careful {
    /// Nowhere.
    pub const NOT: Careful = Careful {
        until: 0,
        max_entries: BATCH_MAX_ENTRIES,
    };

    /// Entries at most in a batch that has the entry at `offset`.
    pub fn max_entries_at(self, offset: i64) -> usize {
        if offset < self.until {
            self.max_entries
        } else {
            BATCH_MAX_ENTRIES
        }
    }

    /// How to read on after an error at `at`, in a batch that ends at `batch_end`, if it is known;
    /// `None`: the entry concerned came alone already, or that is no help.
    pub fn after(self, class: Class, at: i64, batch_end: Option<i64>) -> Option<Careful> {
        let now = if at < self.until { self } else { Careful::NOT };
        match class {
            Class::Transient | Class::Fenced => return None,
            Class::Halt if now.max_entries == 1 => return None,
            Class::Halt => {}
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
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn careful(until: i64, max_entries: usize) -> Careful {
        Careful { until, max_entries }
    }

    fn halt(at: i64, now: Careful, end: Option<i64>) -> Option<Careful> {
        now.after(Class::Halt, at, end)
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
    fn only_a_halt_makes_batches_smaller_and_only_where_it_was() {
        for class in [Class::Transient, Class::Fenced] {
            assert_eq!(Careful::NOT.after(class, 10, Some(20)), None);
        }
        let now = halt(10, Careful::NOT, Some(12)).unwrap();
        assert_eq!(now.max_entries_at(11), 1);
        assert_eq!(now.max_entries_at(12), BATCH_MAX_ENTRIES);
    }
}
