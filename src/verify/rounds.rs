//! When a row differs for good: pure.
//!
//! A round has the row as the leader had it, now and then from before the follower was looked at until after
//! that, and as the follower showed it. Equal once is equal: the follower shows what the leader had. Unequal
//! counts only if the leader's row was the same version first and last; and only at [`LOOKS`] rounds on end, as
//! the follower may show a commit that is in the WAL and not yet visible on the leader.

use std::collections::{BTreeMap, BTreeSet};

use super::snapshot::{Row, Rows};

/// Rounds on end at which a row must differ.
pub(super) const LOOKS: u32 = 3;

/// What is known of a row that differed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// The follower lacks it.
    Missing,
    /// The leader has it not.
    Extra,
    /// Both have it, and it is not the same.
    Different,
    /// It was touched at every look.
    Undecided,
}

#[derive(Debug)]
struct Candidate {
    found: Looked,
    times: u32,
}

/// Rows that differed, by key.
#[derive(Debug)]
pub(super) struct Candidates(BTreeMap<Vec<String>, Candidate>);

impl Candidates {
    /// Rows that differed at the first look.
    pub(super) fn new(keys: BTreeSet<Vec<String>>) -> Self {
        let new = || Candidate {
            found: Looked::Undecided,
            times: 0,
        };
        Candidates(keys.into_iter().map(|key| (key, new())).collect())
    }

    /// Those that need another look.
    pub(super) fn open(&self) -> impl Iterator<Item = &Vec<String>> {
        let open = self
            .0
            .iter()
            .filter(|(_, candidate)| candidate.times < LOOKS);
        open.map(|(key, _)| key)
    }

    /// Takes a round: the leader's rows in the order of time, at least twice, and the follower's.
    pub(super) fn round(&mut self, leader: &[Rows], there: &Rows) {
        let [first, .., last] = leader else {
            panic!("a round looks at the leader before and after the follower")
        };
        self.0.retain(|key, candidate| {
            if candidate.times >= LOOKS {
                return true;
            }
            let there = there.get(key);
            let content = |row: Option<&Row>| row.map(|row| row.content.clone());
            if leader
                .iter()
                .any(|rows| content(rows.get(key)) == content(there))
            {
                return false;
            }
            let version = |row: Option<&Row>| row.map(|row| row.version.clone());
            let (before, after) = (first.get(key), last.get(key));
            let found = match (before, there) {
                _ if version(before) != version(after) => Looked::Undecided,
                (Some(_), None) => Looked::Missing,
                (None, _) => Looked::Extra,
                (Some(_), Some(_)) => Looked::Different,
            };
            candidate.times = match found {
                Looked::Undecided => 0,
                found if found == candidate.found => candidate.times + 1,
                Looked::Missing | Looked::Extra | Looked::Different => 1,
            };
            candidate.found = found;
            true
        });
    }

    /// What is known at the end.
    pub(super) fn decided(self) -> impl Iterator<Item = (Vec<String>, Looked)> {
        self.0.into_iter().map(|(key, candidate)| {
            let known = candidate.times >= LOOKS;
            let looked = if known {
                candidate.found
            } else {
                Looked::Undecided
            };
            (key, looked)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    /// Rows of `key content version`.
    fn rows(rows: &[(&str, &str, &str)]) -> Rows {
        let row = |content: &str, version: &str| Row {
            content: content.to_owned(),
            version: version.to_owned(),
        };
        let rows = rows.iter();
        rows.map(|(name, content, version)| (key(name), row(content, version)))
            .collect()
    }

    fn candidates(keys: &[&str]) -> Candidates {
        Candidates::new(keys.iter().map(|name| key(name)).collect())
    }

    #[test]
    fn a_row_differs_when_it_did_at_several_looks_on_end_and_nobody_touched_it() {
        let mut found = candidates(&["changed", "missing", "extra"]);
        let leader = rows(&[("changed", "x", "1"), ("missing", "y", "1")]);
        let follower = rows(&[("changed", "z", "9"), ("extra", "w", "9")]);
        for _ in 0..LOOKS {
            assert_eq!(found.open().count(), 3);
            found.round(&[leader.clone(), leader.clone()], &follower);
        }
        assert_eq!(found.open().count(), 0);
        let decided: Vec<_> = found.decided().collect();
        assert_eq!(
            decided,
            [
                (key("changed"), Looked::Different),
                (key("extra"), Looked::Extra),
                (key("missing"), Looked::Missing),
            ]
        );
    }

    #[test]
    fn equal_once_is_equal() {
        let mut found = candidates(&["late", "gone"]);
        let old = rows(&[("late", "x", "1"), ("gone", "y", "1")]);
        let new = rows(&[("late", "z", "2")]);
        found.round(&[new.clone(), new.clone()], &old);
        found.round(&[new.clone(), new.clone()], &new);
        assert_eq!(found.decided().count(), 0);
        // The follower may be ahead of the leader's first snapshot, and have what its second one has.
        let mut ahead = candidates(&["late"]);
        ahead.round(&[old.clone(), new.clone()], &new);
        assert_eq!(ahead.decided().count(), 0);
        // Or what it had in between.
        let mut hot = candidates(&["late"]);
        hot.round(&[old.clone(), new.clone(), old], &new);
        assert_eq!(hot.decided().count(), 0);
    }

    #[test]
    fn a_row_that_is_touched_at_every_look_is_never_said_to_differ() {
        let mut found = candidates(&["hot"]);
        for look in 0..10 {
            let at = |content: String| rows(&[("hot", &content, &content)]);
            let (before, there, after) = (3 * look, 3 * look + 1, 3 * look + 2);
            let leader = [at(before.to_string()), at(after.to_string())];
            found.round(&leader, &at(there.to_string()));
        }
        let decided: Vec<_> = found.decided().collect();
        assert_eq!(decided, [(key("hot"), Looked::Undecided)]);
    }

    #[test]
    fn looks_count_only_on_end() {
        let mut found = candidates(&["k"]);
        let (one, two) = (rows(&[("k", "x", "1")]), rows(&[("k", "v", "2")]));
        let other = rows(&[("k", "z", "9")]);
        for _ in 0..LOOKS - 1 {
            found.round(&[one.clone(), one.clone()], &other);
        }
        found.round(&[one, two.clone()], &other);
        assert_eq!(found.open().count(), 1);
        found.round(&[two.clone(), two], &other);
        assert_eq!(found.open().count(), 1);
    }
}
