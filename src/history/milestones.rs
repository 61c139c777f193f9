//! Where the log had got by which boundary, in bounded memory. Pure.

use super::{Boundary, Work};
use crate::model::Lsn;

/// Milestones that are kept; when there are twice as many, every other one goes.
const KEPT: usize = 1 << 16;

/// The log behind one of its batch entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Milestone {
    to: Lsn,
    time_us: Option<i64>,
    done: Work,
}

/// Some of the log's boundaries, in order: all of a short log, evenly chosen ones of a long one.
#[derive(Clone, Debug)]
pub(super) struct Milestones {
    kept: Vec<Milestone>,
    kept_max: usize,
    /// Of so many entries one is kept.
    stride: u64,
    seen: u64,
    last: Option<Milestone>,
}

impl Default for Milestones {
    fn default() -> Self {
        Milestones::of_at_most(2 * KEPT)
    }
}

impl Milestones {
    fn of_at_most(kept_max: usize) -> Self {
        Milestones {
            kept: Vec::new(),
            kept_max,
            stride: 1,
            seen: 0,
            last: None,
        }
    }

    /// Notes the next valid batch entry: its end, since when the leader had that, and what it covers.
    pub(super) fn pass(&mut self, to: Lsn, time_us: Option<i64>, covers: Work) {
        let before = self.last.map_or(Work::default(), |last| last.done);
        let milestone = Milestone {
            to,
            time_us,
            done: Work {
                transactions: before.transactions + covers.transactions,
                changes: before.changes + covers.changes,
            },
        };
        self.last = Some(milestone);
        self.seen += 1;
        if !self.seen.is_multiple_of(self.stride) {
            return;
        }
        self.kept.push(milestone);
        if self.kept.len() >= self.kept_max {
            // Those stay that the doubled stride would have chosen.
            let mut number = 0;
            self.kept.retain(|_| {
                number += 1;
                number % 2 == 0
            });
            self.stride *= 2;
        }
    }

    /// The boundary `lsn` with a time at which the log had reached it.
    pub(super) fn reached(&self, lsn: Lsn) -> Boundary {
        let time_us = self.at(lsn).and_then(|milestone| milestone.time_us);
        Boundary { lsn, time_us }
    }

    /// The log's first boundary at or behind `lsn`; of a log of which not all are kept, perhaps a later one.
    pub(super) fn next(&self, lsn: Lsn) -> Boundary {
        self.at(lsn).map_or_else(
            || self.reached(lsn),
            |milestone| Boundary {
                lsn: milestone.to,
                time_us: milestone.time_us,
            },
        )
    }

    /// What the log covers behind the boundary `from`.
    pub(super) fn since(&self, from: Lsn) -> Work {
        let (Some(last), Some(at)) = (self.last, self.at(from)) else {
            return Work::default();
        };
        Work {
            transactions: last.done.transactions - at.done.transactions,
            changes: last.done.changes - at.done.changes,
        }
    }

    /// The first one at or behind a boundary.
    fn at(&self, lsn: Lsn) -> Option<Milestone> {
        let behind = self.kept.partition_point(|milestone| milestone.to < lsn);
        let kept = self.kept.get(behind).copied();
        kept.or(self.last.filter(|last| last.to >= lsn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one() -> Work {
        Work {
            transactions: 1,
            changes: 3,
        }
    }

    fn of_entries(entries: u64, kept_max: usize) -> Milestones {
        let mut milestones = Milestones::of_at_most(kept_max);
        for number in 1..=entries {
            let time_us = i64::try_from(number).ok();
            milestones.pass(Lsn(10 * number), time_us, one());
        }
        milestones
    }

    #[test]
    fn a_boundary_inside_of_an_entry_is_reached_at_its_end() {
        let milestones = of_entries(5, 100);
        assert_eq!(milestones.reached(Lsn(20)).time_us, Some(2));
        assert_eq!(milestones.reached(Lsn(21)).time_us, Some(3));
        assert_eq!(milestones.reached(Lsn(51)).time_us, None, "not reached");
        assert_eq!(milestones.next(Lsn(21)).lsn, Lsn(30));
        assert_eq!(milestones.next(Lsn(30)).lsn, Lsn(30));
        assert_eq!(milestones.since(Lsn(20)).transactions, 3);
        assert_eq!(milestones.since(Lsn(50)), Work::default());
        assert_eq!(Milestones::default().since(Lsn(1)), Work::default());
    }

    proptest! {
        /// However long the log, memory is bounded, no time is too early, and what is told is off by
        /// less than the log's length through half of what is kept.
        #[test]
        fn long_logs_are_told_about(entries in 1_u64..5_000, kept_half in 4_usize..40, asked in 1_u64..50_000) {
            let kept_max = 2 * kept_half;
            let milestones = of_entries(entries, kept_max);
            prop_assert!(milestones.kept.len() < kept_max);
            let exact = asked.div_ceil(10);
            match milestones.reached(Lsn(asked)).time_us {
                Some(time_us) => {
                    let told = u64::try_from(time_us).unwrap();
                    let off = told - exact;
                    prop_assert!(off * (kept_half as u64) <= entries, "{told} for {exact}");
                    prop_assert_eq!(milestones.since(Lsn(asked)).changes, 3 * (entries - told));
                }
                None => prop_assert!(exact > entries),
            }
        }
    }
}
