//! What an operator may order of a follower: its checkpoint, changed so that the sink does it. Pure.
//!
//! An order is written into the follower, under the version that guards every durable step. Wherever the
//! sink runs, its next step finds the version changed, and it begins a new session at what stands there.

use std::collections::{BTreeMap, BTreeSet};

use super::follow::{Terms, next_version};
use crate::error::{Error, Result};
use crate::model::checkpoint::LogPlace;
use crate::model::{Checkpoint, Hold, Lsn, TableName};

/// A follower that is built anew from Kafka, up to the boundary `target` or to the present. What it holds
/// stays until the rows of a table's copy come. `known`: the version that it has, if there is one.
pub fn rebuilt(known: Option<i64>, target: Option<Lsn>) -> Checkpoint {
    let version = known.map_or(0, |known| known + 1);
    Checkpoint {
        target,
        ..Checkpoint::beginning(version, LogPlace::at_low_end(0))
    }
}

/// A follower some of whose tables are copied anew, while the others go on. Copies in `refused` are not used.
///
/// # Errors
/// Halt when a table is not one that the sink has, or the follower is to stop in the past.
pub fn resynced(
    known: &Checkpoint,
    tables: &BTreeSet<TableName>,
    refused: &BTreeMap<TableName, BTreeSet<i64>>,
    terms: &Terms,
) -> Result<Checkpoint> {
    if let Some(target) = known.target {
        return Err(Error::halt(
            format!("the follower is to stop at {target}, and all its tables with it"),
            "let it follow again with walferry sink resume, or rebuild all of it",
        ));
    }
    let taken =
        |table: &&TableName| known.log.captured.contains(*table) && terms.selection.takes(table);
    if let Some(unknown) = tables.iter().find(|table| !taken(table)) {
        let mut names = known.log.captured.iter().filter(taken);
        let names: Vec<String> = names.by_ref().map(TableName::to_string).collect();
        return Err(Error::halt(
            format!("table {unknown} is none that this sink has"),
            format!("name some of: {}", names.join(", ")),
        ));
    }
    Ok(without(known, tables, refused, terms))
}

/// A follower some of whose tables are not in effect any more, until a copy that is not `refused` has come.
pub fn without(
    known: &Checkpoint,
    tables: &BTreeSet<TableName>,
    refused: &BTreeMap<TableName, BTreeSet<i64>>,
    terms: &Terms,
) -> Checkpoint {
    let mut next = next_version(known);
    for table in tables {
        next.in_effect.remove(table);
        next.cursors.remove(&terms.topics.table(table));
        next.refused.remove(&table.quoted());
        if let Some(copies) = refused.get(table) {
            next.refused.insert(table.quoted(), copies.clone());
        }
        for join in &mut next.joins {
            join.tables.remove(table);
            join.rows.remove(&terms.topics.copy(table));
            join.cursors.remove(&terms.topics.table(table));
        }
    }
    next.joins.retain(|join| !join.tables.is_empty());
    next
}

/// A follower that goes on from where it stands to a boundary, and stays there. `from`: where it is thought to
/// stand, if that is said.
///
/// # Errors
/// Halt when it stands elsewhere or beyond, or does not have all its tables yet.
pub fn moved(
    known: &Checkpoint,
    (from, to): (Option<Lsn>, Lsn),
    sink: &str,
    terms: &Terms,
) -> Result<Checkpoint> {
    let stands = known.boundary();
    if !known.is_complete(&terms.selection) {
        return Err(Error::halt(
            format!("{sink} does not have all its tables yet"),
            format!(
                "wait until it has (walferry status), or walferry rebuild {sink} --to-lsn {to}"
            ),
        ));
    }
    // A follower shows the same at the boundary that it was to reach, and behind what it has read for it.
    let is_there = |from| stands == from || known.applied == from || known.target == Some(from);
    if let Some(from) = from.filter(|from| !is_there(*from)) {
        return Err(Error::halt(
            format!("{sink} stands at {stands}, not at {from}"),
            "leave --from-lsn out: a follower goes on from where it stands",
        ));
    }
    if to < stands {
        return Err(Error::halt(
            format!("{sink} stands at {stands} already, behind {to}"),
            format!("walferry rebuild {sink} --to-lsn {to} goes back"),
        ));
    }
    Ok(Checkpoint {
        target: Some(to),
        hold: None,
        ..next_version(known)
    })
}

/// A follower that was to stop, and follows again; `None` when it was not.
pub fn resumed(known: &Checkpoint) -> Option<Checkpoint> {
    known.stops_at()?;
    Some(Checkpoint {
        target: None,
        hold: None,
        ..next_version(known)
    })
}

/// Refuses to hold a follower of these leader's system identifier and timeline for a moment. `is_held`: somebody
/// else has it stand.
///
/// # Errors
/// Halt when it was ordered to stop and stay, or follows another leader; transient when it is held, or has not
/// followed its leader to the newest timeline.
pub fn may_be_held(
    known: &Checkpoint,
    is_held: bool,
    (system_id, timeline): (&str, u32),
    sink: &str,
) -> Result<()> {
    if let Some(target) = known.target {
        return Err(Error::halt(
            format!(
                "follower {sink} was ordered to stop at {target}, so it does not follow the leader"
            ),
            format!(
                "let it follow again with walferry sink resume {sink}, or verify another follower"
            ),
        ));
    }
    if let Some(followed) = known.system_id.as_ref().filter(|id| *id != system_id) {
        return Err(Error::halt(
            format!(
                "follower {sink} follows the leader with system identifier {followed}, and the source's url \
                 leads to {system_id}"
            ),
            "correct the source's url",
        ));
    }
    if let Some(followed) = known.timeline.filter(|followed| *followed != timeline) {
        return Err(Error::transient(format!(
            "follower {sink} shows timeline {followed} of the leader, which is on {timeline} now"
        )));
    }
    match is_held {
        true => Err(Error::transient(format!(
            "somebody else verifies follower {sink} at this moment"
        ))),
        false => Ok(()),
    }
}

/// A follower that goes on to a boundary, and stands there for a moment.
///
/// # Errors
/// Transient when it is beyond already.
pub fn held(known: &Checkpoint, hold: Hold) -> Result<Checkpoint> {
    if hold.at < known.boundary() {
        return Err(Error::transient(format!(
            "the follower shows {}, beyond the leader's {}",
            known.boundary(),
            hold.at
        )));
    }
    Ok(Checkpoint {
        hold: Some(hold),
        ..next_version(known)
    })
}

/// A follower that stood for a moment, and goes on.
pub fn let_go(known: &Checkpoint) -> Checkpoint {
    Checkpoint {
        hold: None,
        ..next_version(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;
    use crate::log::topics::Topics;
    use crate::model::Selection;

    fn following() -> (Checkpoint, Terms, [TableName; 2]) {
        let tables = ["a", "b"].map(|name| TableName::new("public", name));
        let terms = Terms {
            topics: Topics::new("p"),
            selection: Selection::new(&["*.*".to_owned()], &["public.c".to_owned()]),
            takes_copies: true,
            moves_tables: false,
        };
        let mut checkpoint = Checkpoint::beginning(7, LogPlace::at_low_end(0));
        checkpoint.applied = Lsn(90);
        checkpoint.log.captured = tables.clone().into();
        checkpoint
            .log
            .captured
            .insert(TableName::new("public", "c"));
        checkpoint.in_effect = tables.clone().into();
        for table in &tables {
            let topic = terms.topics.table(table);
            checkpoint.cursors.insert(topic, [(0, 5)].into());
        }
        (checkpoint, terms, tables)
    }

    #[test]
    fn a_rebuilt_follower_knows_nothing_but_where_to_stop() {
        let (known, ..) = following();
        let rebuilt = rebuilt(Some(known.version), Some(Lsn(40)));
        assert_eq!((rebuilt.version, rebuilt.applied), (8, Lsn::ZERO));
        assert_eq!(rebuilt.target, Some(Lsn(40)));
        assert!(rebuilt.in_effect.is_empty() && rebuilt.log.fresh);
        assert_eq!(super::rebuilt(None, None).version, 0);
    }

    #[test]
    fn a_resync_concerns_its_tables_only() {
        let (mut known, terms, [a, b]) = following();
        known.refused.insert(a.quoted(), [3].into());
        let next = resynced(&known, &[a.clone()].into(), &BTreeMap::new(), &terms).unwrap();
        assert_eq!(next.lacking(&terms.selection), [a.clone()].into());
        assert_eq!(next.in_effect, [b.clone()].into());
        assert_eq!(next.cursors.len(), 1);
        assert_eq!((next.version, next.applied), (8, known.applied));
        assert!(next.refused.is_empty(), "what failed once is tried again");
        let newer = [(a.clone(), BTreeSet::from([3, 9]))].into();
        let fresh = resynced(&known, &[a.clone()].into(), &newer, &terms).unwrap();
        assert_eq!(fresh.refused[&a.quoted()], [3, 9].into());
    }

    #[test]
    fn what_a_sink_does_not_have_cannot_be_resynced() {
        let (mut known, terms, [a, _]) = following();
        for name in ["c", "nowhere"] {
            let table = TableName::new("public", name);
            let error = resynced(&known, &[table].into(), &BTreeMap::new(), &terms).unwrap_err();
            assert_eq!(error.class(), Class::Halt);
            assert_eq!(
                error.remedy(),
                Some("name some of: public.a, public.b"),
                "{error}"
            );
        }
        known.target = Some(Lsn(50));
        let error = resynced(&known, &[a].into(), &BTreeMap::new(), &terms).unwrap_err();
        assert!(error.remedy().unwrap().contains("sink resume"), "{error}");
    }

    #[test]
    fn a_follower_is_moved_on_from_where_it_stands_and_never_back() {
        let (mut known, terms, _) = following();
        let moved = |known: &Checkpoint, from, to| moved(known, (from, Lsn(to)), "s", &terms);
        let says = |known: &Checkpoint, from, to| moved(known, from, to).unwrap_err().what();
        assert_eq!(says(&known, None, 95), "s does not have all its tables yet");
        known.log.epoch = Some(crate::model::Epoch(0));
        known.log.to = Some(Lsn(90));
        known.split = Some(Lsn(93));
        known.target = Some(Lsn(93));
        let next = moved(&known, Some(Lsn(93)), 95).unwrap();
        assert_eq!((next.version, next.target), (8, Some(Lsn(95))));
        assert_eq!(next.split, Some(Lsn(93)));
        assert!(moved(&known, None, 93).is_ok(), "it is there");
        assert_eq!(
            says(&known, Some(Lsn(80)), 95),
            "s stands at 0/5D, not at 0/50"
        );
        assert_eq!(
            says(&known, None, 92),
            "s stands at 0/5D already, behind 0/5C"
        );
        known.in_effect.pop_first();
        assert_eq!(says(&known, None, 95), "s does not have all its tables yet");
    }

    const HOLD: Hold = Hold {
        at: Lsn(95),
        until_us: 1,
        lock: 7,
    };

    #[test]
    fn a_follower_is_held_ahead_of_where_it_stands_and_any_other_order_ends_it() {
        let (mut known, terms, [a, _]) = following();
        known.log.epoch = Some(crate::model::Epoch(0));
        known.log.to = Some(Lsn(90));
        let standing = held(&known, HOLD).unwrap();
        assert_eq!((standing.version, standing.hold), (8, Some(HOLD)));
        assert_eq!(
            (standing.target, standing.stops_at()),
            (None, Some(Lsn(95)))
        );
        let free = let_go(&standing);
        assert_eq!((free.version, free.stops_at()), (9, None));
        assert_eq!(resumed(&standing).unwrap().stops_at(), None);
        let moved = moved(&standing, (None, Lsn(99)), "s", &terms).unwrap();
        assert_eq!((moved.target, moved.hold), (Some(Lsn(99)), None));
        assert_eq!(rebuilt(Some(8), None).hold, None);
        // The other tables go on to where it is to stand.
        let resynced = resynced(&standing, &[a].into(), &BTreeMap::new(), &terms).unwrap();
        assert_eq!(resynced.hold, Some(HOLD));
        known.split = Some(Lsn(96));
        assert_eq!(held(&known, HOLD).unwrap_err().class(), Class::Transient);
    }

    #[test]
    fn who_stays_or_follows_another_leader_is_not_held() {
        let (mut known, ..) = following();
        let may = |known: &Checkpoint, is_held| may_be_held(known, is_held, ("7", 2), "s");
        assert!(
            may(&known, false).is_ok(),
            "it does not know its leader yet"
        );
        (known.system_id, known.timeline) = (Some("7".to_owned()), Some(2));
        assert!(may(&known, false).is_ok());
        assert_eq!(may(&known, true).unwrap_err().class(), Class::Transient);
        known.timeline = Some(1);
        assert_eq!(may(&known, false).unwrap_err().class(), Class::Transient);
        known.system_id = Some("8".to_owned());
        let error = may(&known, false).unwrap_err();
        assert!(error.what().contains("system identifier 8"), "{error}");
        known.target = Some(Lsn(90));
        let error = may(&known, false).unwrap_err();
        assert!(error.remedy().unwrap().contains("sink resume s"), "{error}");
    }

    #[test]
    fn only_what_was_to_stop_is_resumed() {
        let (mut known, ..) = following();
        assert_eq!(resumed(&known), None);
        known.target = Some(Lsn(90));
        known.split = Some(Lsn(90));
        let next = resumed(&known).unwrap();
        assert_eq!((next.version, next.target), (8, None));
        assert_eq!(
            next.split,
            Some(Lsn(90)),
            "the entry is finished from there"
        );
    }
}
