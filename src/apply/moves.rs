//! Tables in effect that an epoch entry has under another name, or no more. Pure: the reader and the applier
//! come to the same from the log and the checkpoint.

use std::collections::BTreeSet;

use super::follow::Terms;
use crate::log::commit_log::EpochEntry;
use crate::log::copies::CopyLedger;
use crate::model::{Moves, TableName};

/// What a follower with these tables in effect has to do at an epoch entry; `ledger`: of the log before it.
pub fn moves(
    in_effect: &BTreeSet<TableName>,
    ledger: &CopyLedger,
    epoch: &EpochEntry,
    terms: &Terms,
) -> Moves {
    let is_gone = |table: &&TableName| {
        let mut captured = epoch.captured.iter();
        terms.moves_tables && in_effect.contains(*table) && captured.all(|c| c.table != **table)
    };
    Moves {
        renamed: renamed(in_effect, ledger, epoch, terms),
        dropped: epoch.dropped.iter().filter(is_gone).cloned().collect(),
    }
}

/// Tables in effect that have another name from this epoch entry on, and stay in effect: old and new one.
pub fn renamed(
    in_effect: &BTreeSet<TableName>,
    ledger: &CopyLedger,
    epoch: &EpochEntry,
    terms: &Terms,
) -> Vec<(TableName, TableName)> {
    if !terms.moves_tables {
        return Vec::new();
    }
    let mut renamed = ledger.renamed(epoch);
    renamed.retain(|(old, new)| in_effect.contains(old) && terms.selection.takes(new));
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::follow::{Standing, Step};
    use crate::log::commit_log::{Captured, Entry};
    use crate::log::topics::Topics;
    use crate::model::checkpoint::LogPlace;
    use crate::model::selection::Selection;
    use crate::model::{Checkpoint, Limits, Oid};

    fn table(name: &str) -> TableName {
        TableName::new("public", name)
    }

    fn epoch(after: i64, captured: &[(&str, u32)], dropped: &[&str]) -> EpochEntry {
        let captured = captured.iter().map(|(name, oid)| Captured {
            table: table(name),
            relation: Oid(*oid),
            limits: Limits::default(),
        });
        EpochEntry {
            after,
            instance: "i".to_owned(),
            system_id: "1".to_owned(),
            timeline: 1,
            captured: captured.collect(),
            dropped: dropped.iter().map(|name| table(name)).collect(),
        }
    }

    fn terms(exclude: &str) -> Terms {
        Terms {
            topics: Topics::new("p"),
            selection: Selection::new(&["*.*".to_owned()], &[exclude.to_owned()]),
            takes_copies: true,
            moves_tables: true,
        }
    }

    /// What a follower with these tables in effect does at the second entry, and what is in effect then.
    fn at_second(
        first: &EpochEntry,
        second: &EpochEntry,
        in_effect: &[&str],
        terms: &Terms,
    ) -> (Moves, BTreeSet<TableName>) {
        let checkpoint = Checkpoint::beginning(0, LogPlace::at_low_end(0));
        let mut standing = Standing::at(&checkpoint, CopyLedger::new());
        let entry = Entry::Epoch(first.clone());
        assert_eq!(standing.step(0, &entry, terms).unwrap(), Step::Event);
        standing.in_effect = in_effect.iter().map(|name| table(name)).collect();
        for name in &standing.in_effect {
            let topic = terms.topics.table(name);
            standing.cursors.insert(topic, [(0, 9)].into());
        }
        let moves = moves(&standing.in_effect, &standing.ledger, second, terms);
        let entry = Entry::Epoch(second.clone());
        assert_eq!(standing.step(1, &entry, terms).unwrap(), Step::Event);
        let read: BTreeSet<String> = standing.topics(terms).into_keys().collect();
        assert!(standing.cursors.keys().all(|topic| read.contains(topic)));
        (moves, standing.in_effect)
    }

    #[test]
    fn renamed_tables_stay_in_effect_and_dropped_ones_do_not() {
        let first = epoch(0, &[("a", 1), ("b", 2), ("c", 3), ("d", 4)], &[]);
        let second = epoch(1, &[("a", 1), ("x", 2), ("b", 9)], &["c", "d"]);
        let (moves, in_effect) = at_second(&first, &second, &["a", "b", "c"], &terms("none.none"));
        assert_eq!(moves.renamed, [(table("b"), table("x"))]);
        assert_eq!(
            moves.dropped,
            [table("c")],
            "the other one was not in effect"
        );
        assert_eq!(
            in_effect,
            [table("a"), table("x")].into(),
            "b is another table"
        );

        let (moves, in_effect) = at_second(&first, &second, &["a", "b"], &terms("*.x"));
        assert!(moves.is_empty(), "the new name is not taken");
        assert_eq!(in_effect, [table("a")].into());

        let still = Terms {
            moves_tables: false,
            ..terms("none.none")
        };
        let (moves, in_effect) = at_second(&first, &second, &["a", "b", "c"], &still);
        assert!(moves.is_empty());
        assert_eq!(in_effect, [table("a")].into());
    }

    #[test]
    fn names_may_change_places_and_other_limits_are_another_table() {
        let first = epoch(0, &[("a", 1), ("b", 2), ("c", 3)], &[]);
        let mut second = epoch(1, &[("a", 1), ("c", 2), ("b", 3)], &[]);
        let (moves, in_effect) = at_second(&first, &second, &["b", "c"], &terms("none.none"));
        assert_eq!(
            moves.renamed,
            [(table("b"), table("c")), (table("c"), table("b"))]
        );
        assert_eq!(in_effect, [table("b"), table("c")].into());

        second.captured[1].limits.row_filter = Some("(id > 1)".to_owned());
        let (moves, in_effect) = at_second(&first, &second, &["b", "c"], &terms("none.none"));
        assert_eq!(moves.renamed, [(table("c"), table("b"))]);
        assert_eq!(in_effect, [table("b")].into());
    }
}
