//! What must hold at every step.

use std::collections::{BTreeMap, BTreeSet};

use walferry::log::commit_log::{BatchEntry, Entry, Verdict, judge};
use walferry::model::{Checkpoint, Epoch, Lsn, Oid, TableName};

use crate::kafka::index;
use crate::leader::{name, table_of};
use crate::mutants::Mutant;
use crate::world::{Walk, World, violation};

impl World {
    /// The captured set that an epoch entry names.
    pub fn captured_in(&self, epoch: Option<Epoch>) -> BTreeMap<TableName, Oid> {
        let kafka = self.kafka.borrow();
        let entry = epoch.map(|epoch| &kafka.log[index(epoch.0.cast_signed())]);
        match entry {
            Some(Entry::Epoch(epoch)) => {
                let captured = epoch.captured.iter();
                captured.map(|c| (c.table.clone(), c.relation)).collect()
            }
            Some(_) | None => BTreeMap::new(),
        }
    }

    /// Judges an entry that has just landed, as every reader will; what it says must be true.
    pub fn entry_landed(&mut self, offset: i64) -> Walk {
        let entry = self.kafka.borrow().log[index(offset)].clone();
        let verdict = judge(&mut self.truth, offset, &entry)
            .map_err(|error| violation("hole", error.what()))?;
        if !is_heartbeat(&entry) {
            self.say(|| format!("log @{offset} {verdict:?} {}", brief(&entry)));
        }
        match (&entry, verdict) {
            (_, Verdict::Void | Verdict::Repeat) => Ok(()),
            (Entry::Epoch(_), Verdict::Valid) => {
                self.epochs.push(offset);
                self.bounds.clear();
                self.nobody_was_deposed(offset)
            }
            (Entry::Batch(batch), Verdict::Valid) => self.topics_hold(batch),
            (Entry::CopyBegin(begin), Verdict::Valid) => {
                for (topic, bounds) in &begin.offsets {
                    let known = self.bounds.entry(topic.clone()).or_default();
                    for (number, bound) in bounds {
                        let known = known.entry(*number).or_insert(0);
                        *known = (*known).max(*bound);
                    }
                }
                Ok(())
            }
            (Entry::CopyEnd(_), Verdict::Valid) => Ok(()),
        }
    }

    /// An instance that waits for the slot does not end the epoch of the one that has it.
    pub fn nobody_was_deposed(&self, offset: i64) -> Walk {
        if self.is(Mutant::BareAck) {
            // To see what is lost then.
            return Ok(());
        }
        let kafka = self.kafka.borrow();
        let Entry::Epoch(own) = &kafka.log[index(offset)] else {
            return Ok(());
        };
        let writer = own.instance[1..].split('/').next();
        let writer: Option<usize> = writer.and_then(|writer| writer.parse().ok());
        let waits = writer.is_some_and(|writer| self.sources[writer].never_held());
        match self.leader.slot.holder {
            Some(holder) if waits && self.sources[holder].alive => Err(violation(
                "deposed",
                format!(
                    "{} ends the epoch of S{holder}, which streams",
                    own.instance
                ),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// A valid entry's records are in the topics: those of the leader's transactions, no others.
    pub fn topics_hold(&self, batch: &BatchEntry) -> Walk {
        if self.lacks_behind.is_some() {
            return Ok(());
        }
        let captured: BTreeSet<Oid> = self.captured_in(Some(batch.epoch)).into_values().collect();
        let inside = |commit: Lsn| batch.from <= commit && commit < batch.to;
        let mut wanted: BTreeMap<(String, i32), u64> = BTreeMap::new();
        for txn in self.leader.txns.iter().filter(|txn| inside(txn.commit)) {
            let drafts = txn.drafts.iter();
            for draft in drafts.filter(|d| d.published && captured.contains(&d.oid)) {
                let topic = self.terms.topics.table(&name(table_of(draft.oid)));
                *wanted.entry((topic, draft.partition)).or_default() += 1;
            }
        }
        let kafka = self.kafka.borrow();
        for ((topic, number), count) in wanted {
            let extent = batch.offsets.get(&topic).and_then(|e| e.get(&number));
            let last = extent.map_or(-1, |extent| extent.last);
            let records = &kafka.partitions[kafka.find(&topic, number)].records;
            let from = |bound: i64| {
                let records = records.iter().take(index(last + 1)).skip(index(bound));
                let mut previous = None;
                let mut found = 0;
                for header in records.map(|record| record.header) {
                    let newer = previous.is_none_or(|previous| header.position > previous);
                    if header.epoch == batch.epoch && inside(header.position.commit) && newer {
                        previous = Some(header.position);
                        found += 1;
                    }
                }
                found
            };
            let bound = self.bounds.get(&topic).and_then(|b| b.get(&number));
            let bound = bound.copied().unwrap_or(0);
            let (all, behind) = (from(0), from(bound));
            let (start, end) = (batch.from, batch.to);
            if all != count || extent.is_none_or(|extent| extent.count != count) {
                let what =
                    format!("{start} to {end}: {topic} {number} has {all} of {count} records");
                return Err(violation("loss", what));
            }
            if behind != count {
                let what = format!(
                    "{start} to {end}: {topic} {number} has {behind} of {count} records behind {bound}, \
                     where a copy begins to read"
                );
                return Err(violation("false loss", what));
            }
        }
        Ok(())
    }

    /// Nothing is confirmed to the slot that the valid log does not hold.
    pub fn confirmed_is_held(&self) -> Walk {
        let (confirmed, held) = (self.leader.slot.confirmed, self.truth.to);
        if held.is_some_and(|to| confirmed <= to) {
            return Ok(());
        }
        let what = format!("the slot is confirmed to {confirmed}, the valid log ends at {held:?}");
        Err(violation("loss", what))
    }

    /// After every follower commit: tables in effect are the leader's at the boundary, the boundary
    /// has not stepped back, and no table has fallen out of effect by itself.
    pub fn follower_shows_the_leader(&mut self, at: usize, before: Option<&Checkpoint>) -> Walk {
        let follower = &self.sinks[at].follower;
        let now = follower.checkpoint.as_ref().expect("just committed");
        if let Some(before) = before {
            if now.applied < before.applied || now.version <= before.version {
                let what = format!(
                    "sink {at} goes from {} (version {}) to {} ({})",
                    before.applied, before.version, now.applied, now.version
                );
                return Err(violation("step back", what));
            }
            let fallen = before.in_effect.difference(&now.in_effect);
            if let Some(table) = fallen.into_iter().find(|t| !self.has_left(t, before, now)) {
                let what = format!("sink {at}: {table} is no longer in effect");
                return Err(violation("step back", what));
            }
        }
        if self.lacks_behind.is_some() {
            return Ok(());
        }
        let captured = self.captured_in(now.log.epoch);
        for table in &now.in_effect {
            let number = usize::from(table.name == "b");
            let state = &self.leader.state_at(now.applied)[number];
            // What became of a table that was dropped is for DDL to say.
            if captured.get(table) != Some(&state.oid) {
                continue;
            }
            let rows = follower.tables.get(table);
            if rows.map_or(!state.rows.is_empty(), |rows| *rows != state.rows) {
                let what = format!(
                    "sink {at} shows {table} at {} as {rows:?}, the leader had {:?}",
                    now.applied, state.rows
                );
                return Err(violation("diverged", what));
            }
        }
        Ok(())
    }

    /// Whether an epoch between two checkpoints left a table out, or has it under another OID.
    pub fn has_left(&self, table: &TableName, before: &Checkpoint, now: &Checkpoint) -> bool {
        let captured = self.captured_in(before.log.epoch);
        let known = captured.get(table);
        let (from, to) = (epoch_of(before), epoch_of(now));
        let mut between = self
            .epochs
            .iter()
            .filter(|epoch| (from + 1..=to).contains(epoch));
        between.any(|epoch| {
            let captured = self.captured_in(Some(Epoch(epoch.cast_unsigned())));
            captured.get(table) != known
        })
    }

    /// A source streams: what the promoted leader lacks was never published.
    pub fn resumed(&mut self, at: usize) -> Walk {
        // Another one is on a connection to the leader before.
        if self.sources[at].connected == Some(self.leader.timeline)
            && let (Some(switch), Some(to)) = (self.lacks_behind.take(), self.truth.to)
            && to > switch
        {
            let what = format!(
                "source {at} streams from a leader that branched off at {switch}, the log is at {to}"
            );
            return Err(violation("loss", what));
        }
        self.say(|| format!("S{at} streams"));
        Ok(())
    }
}

fn epoch_of(checkpoint: &Checkpoint) -> i64 {
    let epoch = checkpoint.log.epoch;
    epoch.map_or(-1, |epoch| epoch.0.cast_signed())
}

/// An entry that moves no boundary.
fn is_heartbeat(entry: &Entry) -> bool {
    matches!(entry, Entry::Batch(batch) if batch.from == batch.to)
}

fn brief(entry: &Entry) -> String {
    match entry {
        Entry::Epoch(epoch) => {
            let tables: Vec<String> = epoch
                .captured
                .iter()
                .map(|c| format!("{}={}", c.table.name, c.relation.0))
                .collect();
            let tables = tables.join(",");
            format!(
                "epoch of {} after {} [{tables}]",
                epoch.instance, epoch.after
            )
        }
        Entry::Batch(batch) => {
            let (epoch, from, to) = (batch.epoch, batch.from, batch.to);
            let extents = batch.offsets.iter().flat_map(|(topic, partitions)| {
                partitions
                    .iter()
                    .map(move |(n, e)| format!(" {topic}/{n}:{}<={}", e.count, e.last))
            });
            let extents: String = extents.collect();
            format!("batch of epoch {epoch}: {from} to {to}{extents}")
        }
        Entry::CopyBegin(begin) => {
            let tables = crate::source_copy::list(&begin.tables);
            format!(
                "copy_begin of epoch {}: {tables} at {:?} {:?}",
                begin.epoch, begin.at, begin.offsets
            )
        }
        Entry::CopyEnd(end) => {
            format!(
                "copy_end of epoch {}: {} C={}",
                end.epoch, end.copy, end.point
            )
        }
    }
}
