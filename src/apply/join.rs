//! Joins: how tables come into effect from copies. Pure: what a sink does next is a function of its
//! checkpoint and of the copies that the log has shown up to that checkpoint.
//!
//! One deliberate simplification: one join at a time, of one copy, with all its tables that are
//! lacking; its staging is the tables themselves, which promise nothing before they are in effect.
//! All of its state is in the checkpoint, so the checkpoint's version guards every durable step.

use std::collections::{BTreeMap, BTreeSet};

use super::follow::{Terms, next_version};
use crate::log::copies::{CopyLedger, KnownCopy};
use crate::log::progress::Want;
use crate::model::checkpoint::LogPlace;
use crate::model::{Checkpoint, Cursors, Join, JoinRows, Lsn, TableName};

/// The main reader waits for a join that is at most this many entries behind it.
const HOLD_MAX_ENTRIES: i64 = 64;

/// What is to be done about tables that are not in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinStep {
    /// Every table taken is in effect.
    Nothing,
    /// No copy is there: one is asked for in the progress record.
    Ask,
    /// Begin to load this copy; each table is emptied with its first rows.
    Begin(Join),
    /// Go on with the rows, or with the changes up to the checkpoint's place.
    Load,
    /// The main reader has to reach the copy's point, or read on.
    AwaitMain,
    /// Put the tables into effect.
    TakeEffect,
    /// The copy is no longer good for these tables.
    GiveUp(BTreeSet<TableName>),
}

/// What is to be done next.
pub fn next_join_step(checkpoint: &Checkpoint, ledger: &CopyLedger, terms: &Terms) -> JoinStep {
    match checkpoint.joins.first() {
        Some(join) => under_way(checkpoint, join, ledger, terms),
        None => choose(checkpoint, ledger, terms),
    }
}

fn under_way(checkpoint: &Checkpoint, join: &Join, ledger: &CopyLedger, terms: &Terms) -> JoinStep {
    let good = ledger.get(join.copy).map(|copy| &copy.tables);
    let lacking = checkpoint.lacking(&terms.selection);
    let still = |table: &&TableName| {
        good.is_some_and(|good| good.contains(table)) && lacking.contains(table)
    };
    let lost: BTreeSet<TableName> = join.tables.iter().filter(|t| !still(t)).cloned().collect();
    if !lost.is_empty() {
        return JoinStep::GiveUp(lost);
    }
    let (own, main) = (join.log.next_offset, checkpoint.log.next_offset);
    assert!(
        own <= main,
        "a join at log offset {own} is beyond its checkpoint at {main}"
    );
    if !join.complete || own < main {
        return JoinStep::Load;
    }
    // A table comes into effect between two entries: one that is applied in part is finished first.
    if point_reached(checkpoint, join) && checkpoint.split.is_none() {
        JoinStep::TakeEffect
    } else {
        JoinStep::AwaitMain
    }
}

/// Rows that show transactions up to the point must not be shown at an earlier boundary.
fn point_reached(checkpoint: &Checkpoint, join: &Join) -> bool {
    let reached = checkpoint.log.to.zip(join.point);
    reached.is_some_and(|(to, point)| to >= point)
}

/// Whether the main reader is to stand still while the join takes its last steps: under steady load
/// each of them would otherwise end one batch behind it, for ever.
pub fn holds_main(checkpoint: &Checkpoint) -> bool {
    checkpoint.joins.first().is_some_and(|join| {
        let gap = checkpoint.log.next_offset - join.log.next_offset;
        join.complete && (1..=HOLD_MAX_ENTRIES).contains(&gap) && point_reached(checkpoint, join)
    })
}

fn choose(checkpoint: &Checkpoint, ledger: &CopyLedger, terms: &Terms) -> JoinStep {
    let lacking = checkpoint.lacking(&terms.selection);
    if lacking.is_empty() || !terms.takes_copies {
        return JoinStep::Nothing;
    }
    let mut copies: BTreeMap<i64, (&KnownCopy, BTreeSet<TableName>)> = BTreeMap::new();
    for table in lacking {
        let refused = refused(checkpoint, &table);
        if let Some((id, copy)) = ledger.choose(&table, refused, choice_limit(checkpoint)) {
            copies
                .entry(id)
                .or_insert_with(|| (copy, BTreeSet::new()))
                .1
                .insert(table);
        }
    }
    // Complete ones first: a running one may never be finished. The oldest of them first: its
    // records are the next that retention takes.
    let best = copies
        .into_iter()
        .min_by_key(|(id, (copy, _))| (copy.end.is_none(), *id));
    match best {
        None => JoinStep::Ask,
        Some((id, (copy, tables))) => JoinStep::Begin(begin(id, copy, tables, terms)),
    }
}

/// How far the point of a copy may lie for a follower that is to stop: before the entry where it stops, as
/// tables come into effect between two entries.
pub fn choice_limit(checkpoint: &Checkpoint) -> Option<Lsn> {
    let reached = checkpoint.log.to.unwrap_or(Lsn::ZERO);
    checkpoint.target.map(|target| target.min(reached))
}

fn begin(id: i64, copy: &KnownCopy, tables: BTreeSet<TableName>, terms: &Terms) -> Join {
    let offsets = |topic: &String| copy.begin.offsets.get(topic).cloned().unwrap_or_default();
    let cursors: Cursors = tables
        .iter()
        .map(|table| terms.topics.table(table))
        .map(|topic| (topic.clone(), offsets(&topic)))
        .collect();
    let nothing_yet = |(partition, next_offset)| {
        let rows = JoinRows {
            next_offset,
            sequence: -1,
            count: 0,
        };
        (partition, rows)
    };
    let rows = tables
        .iter()
        .map(|table| terms.topics.copy(table))
        .map(|topic| {
            (
                topic.clone(),
                offsets(&topic).into_iter().map(nothing_yet).collect(),
            )
        })
        .collect();
    Join {
        copy: id,
        tables,
        point: None,
        rows,
        complete: false,
        log: LogPlace::behind_copy_begin(id, &copy.begin, copy.captured.clone()),
        cursors,
        changes: 0,
    }
}

fn refused<'a>(checkpoint: &'a Checkpoint, table: &TableName) -> Option<&'a BTreeSet<i64>> {
    checkpoint.refused.get(&table.quoted())
}

/// The checkpoint with the first join begun, or moved on.
pub fn with_join(checkpoint: &Checkpoint, join: Join) -> Checkpoint {
    let mut next = next_version(checkpoint);
    next.joins = vec![join];
    next
}

/// Rows of a table that a join has loaded.
pub fn rows_loaded(terms: &Terms, join: &Join, table: &TableName) -> u64 {
    let rows = join.rows.get(&terms.topics.copy(table));
    rows.into_iter()
        .flat_map(|rows| rows.values())
        .map(|rows| rows.count)
        .sum()
}

/// Tables to empty in the transaction that loads a part of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emptied {
    /// Those whose first rows are in the part.
    pub first_rows: BTreeSet<TableName>,
    /// Those without any row, once all rows are there.
    pub without_rows: BTreeSet<TableName>,
}

/// What is to be emptied with a part that leads from the join `durable` to the join `loaded` and has
/// rows of the tables `with_rows`: a table that is half loaded from another copy is never added to.
pub fn to_empty<'a>(
    durable: &Join,
    loaded: &Join,
    with_rows: impl Iterator<Item = &'a TableName>,
    terms: &Terms,
) -> Emptied {
    let begun = |table: &TableName| rows_loaded(terms, durable, table) > 0;
    let mut emptied = Emptied {
        first_rows: with_rows.filter(|table| !begun(table)).cloned().collect(),
        without_rows: BTreeSet::new(),
    };
    if loaded.complete && !durable.complete {
        let all = loaded.tables.iter();
        emptied.without_rows = all
            .filter(|table| rows_loaded(terms, loaded, table) == 0)
            .cloned()
            .collect();
    }
    emptied
}

/// The checkpoint without these tables in its join; this copy is not tried again for them.
pub fn given_up(
    checkpoint: &Checkpoint,
    tables: &BTreeSet<TableName>,
    terms: &Terms,
) -> Checkpoint {
    let mut next = next_version(checkpoint);
    for join in &mut next.joins {
        for table in tables {
            if join.tables.remove(table) {
                join.rows.remove(&terms.topics.copy(table));
                join.cursors.remove(&terms.topics.table(table));
                next.refused
                    .entry(table.quoted())
                    .or_default()
                    .insert(join.copy);
            }
        }
    }
    next.joins.retain(|join| !join.tables.is_empty());
    // A table that left the capture begins anew when it returns.
    let captured: BTreeSet<String> = next.log.captured.iter().map(TableName::quoted).collect();
    next.refused.retain(|table, _| captured.contains(table));
    next
}

/// The checkpoint with the join's tables in effect.
pub fn taken_effect(checkpoint: &Checkpoint) -> Checkpoint {
    let mut next = next_version(checkpoint);
    for join in std::mem::take(&mut next.joins) {
        assert_eq!(
            (join.complete, join.log.next_offset),
            (true, checkpoint.log.next_offset),
            "copy {} comes into effect at another place than the checkpoint's",
            join.copy
        );
        for table in &join.tables {
            next.refused.remove(&table.quoted());
        }
        next.cursors.extend(join.cursors);
        next.in_effect.extend(join.tables);
    }
    next
}

/// The copies to ask for: of tables that are lacking and for which no complete copy is at hand.
pub fn wants(checkpoint: &Checkpoint, ledger: &CopyLedger, terms: &Terms) -> Vec<Want> {
    // A copy that is made now is beyond a target in the past.
    if !terms.takes_copies || checkpoint.target.is_some() {
        return Vec::new();
    }
    let loaded = |table: &TableName| {
        let joins = checkpoint.joins.iter();
        joins
            .clone()
            .any(|join| join.complete && join.tables.contains(table))
    };
    let complete = |table: &TableName| {
        let chosen = ledger.choose(table, refused(checkpoint, table), None);
        chosen.is_some_and(|(_, copy)| copy.end.is_some())
    };
    checkpoint
        .lacking(&terms.selection)
        .into_iter()
        .filter(|table| !loaded(table) && !complete(table))
        .map(|table| Want {
            after: refused(checkpoint, &table)
                .and_then(|ids| ids.last().copied())
                .unwrap_or(-1),
            table,
        })
        .collect()
}

/// The oldest log offset that this sink still needs: the entry of its epoch, and the beginning of
/// the copy it loads.
pub fn oldest_needed(checkpoint: &Checkpoint) -> i64 {
    let epoch = checkpoint
        .log
        .epoch
        .and_then(|epoch| i64::try_from(epoch.0).ok());
    let joins = checkpoint.joins.iter().map(|join| join.copy);
    let needed = joins.chain(epoch).chain([checkpoint.log.next_offset]);
    needed.min().expect("at least the next offset")
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
