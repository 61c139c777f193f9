//! Where the main reader stands: the commit log judged entry by entry, and what an epoch entry
//! does to the tables in effect. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::moves::renamed;
use crate::config::SinkSettings;
use crate::error::{Error, NEW_PIPELINE, Result};
use crate::log::commit_log::{Entry, EpochEntry, Verdict, judge};
use crate::log::copies::CopyLedger;
use crate::log::topics::Topics;
use crate::model::checkpoint::LogPlace;
use crate::model::selection::Selection;
use crate::model::{Checkpoint, Cursors, Lsn, TableName};

/// What a follower's store and settings ask of its reader.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Names of the pipeline's topics.
    pub topics: Topics,
    /// Tables this sink takes, of those captured.
    pub selection: Selection,
    /// Whether tables come into effect by copies; if not, they are in effect once captured.
    pub takes_copies: bool,
    /// Whether a table that the leader has renamed stays in effect under its new name.
    pub moves_tables: bool,
}

impl Terms {
    /// Those of a sink. `takes_copies`: what its store says of that.
    pub fn of(pipeline: &str, sink: &SinkSettings, takes_copies: bool) -> Self {
        Terms {
            topics: Topics::new(pipeline),
            selection: Selection::new(&sink.include, &sink.exclude),
            takes_copies,
            moves_tables: sink.moves_tables(),
        }
    }
}

/// What an entry asks the reader to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: void or a repeat.
    Pass,
    /// A valid batch entry: read its records.
    Batch,
    /// A valid entry about epochs or copies: the tables in effect may have changed.
    Event,
}

/// The state of the main reader; what a checkpoint stores of it, and the copies it knows.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Place in the commit log.
    pub place: LogPlace,
    /// Tables in effect.
    pub in_effect: BTreeSet<TableName>,
    /// Cursors of the tables in effect.
    pub cursors: Cursors,
    /// The leader's system identifier.
    pub system_id: Option<String>,
    /// The leader's timeline.
    pub timeline: Option<u32>,
    /// Copies in the log.
    pub ledger: CopyLedger,
    /// Where the reader is to stop, as the checkpoint has it.
    pub target: Option<Lsn>,
    /// It stops there for a moment only.
    pub held: bool,
    /// How far the next entry is applied already, as the checkpoint has it.
    pub split: Option<Lsn>,
}

impl Standing {
    /// A reader that goes on from a checkpoint, with the ledger of the log before it.
    pub fn at(checkpoint: &Checkpoint, ledger: CopyLedger) -> Self {
        Standing {
            place: checkpoint.log.clone(),
            in_effect: checkpoint.in_effect.clone(),
            cursors: checkpoint.cursors.clone(),
            system_id: checkpoint.system_id.clone(),
            timeline: checkpoint.timeline,
            ledger,
            target: checkpoint.stops_at(),
            held: checkpoint.hold.is_some(),
            split: checkpoint.split,
        }
    }

    /// Whether the boundary at which the follower is to stop is reached.
    pub fn is_at_target(&self) -> bool {
        self.place.is_at(self.target, self.split)
    }

    /// Whether the boundary at which the follower is to stop lies inside of this entry.
    ///
    /// # Errors
    /// As [`judge`].
    pub fn would_pass_target(&self, offset: i64, entry: &Entry) -> Result<bool> {
        match (self.target, entry) {
            (Some(target), Entry::Batch(batch)) if batch.to > target => {
                let mut beyond = self.place.clone();
                Ok(judge(&mut beyond, offset, entry)? == Verdict::Valid)
            }
            (Some(_) | None, _) => Ok(false),
        }
    }

    /// Goes over the entry at `offset`, unless the boundary at which the follower is to stop is reached, or
    /// lies inside of it; whether it went. Not to be asked again once it did not.
    ///
    /// # Errors
    /// As [`Standing::step`].
    pub fn step_to_target(&mut self, offset: i64, entry: &Entry, terms: &Terms) -> Result<bool> {
        let stays = self.is_at_target() || self.would_pass_target(offset, entry)?;
        if !stays {
            self.step(offset, entry, terms)?;
        }
        Ok(!stays)
    }

    /// Tables that cannot be loaded for where the reader stands, as no copy from before is among the ones known.
    pub fn without_copy(&self, known: &CopyLedger, terms: &Terms) -> Vec<TableName> {
        let lacking = self.place.lacks(&self.in_effect, &terms.selection);
        let limit = Some(self.place.to.unwrap_or(Lsn::ZERO));
        let copy = |table: &&TableName| known.choose(table, None, limit);
        lacking
            .filter(|table| copy(table).is_none())
            .cloned()
            .collect()
    }

    /// Whether the reader may stop inside of an entry. A follower that is to stay, and lacks tables, stays before
    /// the entry: its tables come into effect between two entries. For a moment they can wait.
    pub fn may_split(&self, terms: &Terms) -> bool {
        let mut lacking = self.place.lacks(&self.in_effect, &terms.selection);
        self.held || lacking.next().is_none()
    }

    /// Judges the next entry and notes what it changes.
    ///
    /// # Errors
    /// Halt at a hole in the log, or at an epoch whose leader is not the one followed so far.
    pub fn step(&mut self, offset: i64, entry: &Entry, terms: &Terms) -> Result<Step> {
        if judge(&mut self.place, offset, entry)? != Verdict::Valid {
            return Ok(Step::Pass);
        }
        let renamed = match entry {
            Entry::Epoch(epoch) => renamed(&self.in_effect, &self.ledger, epoch, terms),
            Entry::Batch(_) | Entry::CopyBegin(_) | Entry::CopyEnd(_) => Vec::new(),
        };
        let left = self.ledger.valid(offset, entry);
        match entry {
            Entry::Batch(_) => Ok(Step::Batch),
            Entry::CopyBegin(_) | Entry::CopyEnd(_) => Ok(Step::Event),
            Entry::Epoch(epoch) => {
                self.leader_is(epoch)?;
                self.captured_changed(&left, renamed, terms);
                Ok(Step::Event)
            }
        }
    }

    fn leader_is(&mut self, epoch: &EpochEntry) -> Result<()> {
        if let Some(known) = self
            .system_id
            .as_ref()
            .filter(|known| **known != epoch.system_id)
        {
            return Err(Error::halt(
                format!(
                    "the leader's system identifier was {known} and is now {}",
                    epoch.system_id
                ),
                NEW_PIPELINE,
            ));
        }
        if let Some(known) = self.timeline.filter(|known| *known > epoch.timeline) {
            return Err(Error::halt(
                format!(
                    "the leader was on timeline {known} and is now on {}",
                    epoch.timeline
                ),
                NEW_PIPELINE,
            ));
        }
        self.system_id = Some(epoch.system_id.clone());
        self.timeline = Some(epoch.timeline);
        Ok(())
    }

    fn captured_changed(
        &mut self,
        left: &BTreeSet<TableName>,
        renamed: Vec<(TableName, TableName)>,
        terms: &Terms,
    ) {
        let captured = &self.place.captured;
        let stays = |table: &TableName| captured.contains(table) && !left.contains(table);
        self.in_effect.retain(stays);
        self.in_effect
            .extend(renamed.into_iter().map(|(_, new)| new));
        if !terms.takes_copies {
            let taken = captured.iter().filter(|table| terms.selection.takes(table));
            self.in_effect.extend(taken.cloned());
        }
        let topics: BTreeSet<String> = self
            .in_effect
            .iter()
            .map(|t| terms.topics.table(t))
            .collect();
        self.cursors.retain(|topic, _| topics.contains(topic));
    }

    /// Topics to read, and their tables.
    pub fn topics(&self, terms: &Terms) -> BTreeMap<String, TableName> {
        let taken = self
            .in_effect
            .iter()
            .filter(|table| terms.selection.takes(table));
        taken
            .map(|table| (terms.topics.table(table), table.clone()))
            .collect()
    }
}

/// The checkpoint behind a batch that the main reader has read up to `standing`.
///
/// # Panics
/// When the boundary would step back: a bug.
pub fn advanced(
    checkpoint: &Checkpoint,
    standing: Standing,
    commit_time_us: Option<i64>,
) -> Checkpoint {
    let next = next_version(checkpoint);
    let boundary = standing.split.or(standing.place.to);
    let next = Checkpoint {
        applied: boundary.unwrap_or(next.applied),
        split: standing.split,
        commit_time_us: commit_time_us.or(next.commit_time_us),
        log: standing.place,
        cursors: standing.cursors,
        in_effect: standing.in_effect,
        system_id: standing.system_id,
        timeline: standing.timeline,
        ..next
    };
    assert!(
        next.applied >= checkpoint.applied,
        "the boundary would step back from {} to {}",
        checkpoint.applied,
        next.applied
    );
    next
}

/// That a position is asked for which the log, that has reached a boundary, does not have yet.
pub fn is_beyond(reached: Lsn, asked: Lsn) -> Error {
    Error::halt(
        format!("Kafka has the leader's changes up to {reached}, and {asked} is beyond"),
        "name a position at or before that one; walferry history tells how far back one can go",
    )
}

/// The same checkpoint as the next durable step will write it.
pub fn next_version(checkpoint: &Checkpoint) -> Checkpoint {
    Checkpoint {
        version: checkpoint.version + 1,
        ..checkpoint.clone()
    }
}

/// A checkpoint without tables in effect, fit for a log that begins at `low`: where entries that it
/// has not read were trimmed it begins again at the oldest one, and a copy that it loads is dropped.
/// Nobody knew of it when the log was trimmed, for a sink is known by its first progress only; it
/// promises nothing yet.
pub fn begun_again(mut checkpoint: Checkpoint, low: i64) -> Checkpoint {
    if checkpoint.in_effect.is_empty() && checkpoint.log.next_offset < low {
        checkpoint.log = LogPlace::at_low_end(low);
        checkpoint.split = None;
        checkpoint.joins.clear();
    }
    checkpoint
}

/// The checkpoint with only those tables in effect that the sink takes by its settings now. A table
/// that is excluded is no longer read: it leaves, and begins with a copy when it is taken again.
pub fn only_taken(mut checkpoint: Checkpoint, terms: &Terms) -> Checkpoint {
    let (in_effect, left): (BTreeSet<TableName>, BTreeSet<TableName>) = checkpoint
        .in_effect
        .into_iter()
        .partition(|table| terms.selection.takes(table));
    checkpoint.in_effect = in_effect;
    for table in left {
        checkpoint.cursors.remove(&terms.topics.table(&table));
    }
    checkpoint
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::commit_log::BatchEntry;
    use crate::model::{Epoch, Hold, Join};

    fn terms(exclude: &[&str]) -> Terms {
        let exclude: Vec<String> = exclude.iter().map(|pattern| (*pattern).into()).collect();
        Terms {
            topics: Topics::new("p"),
            selection: Selection::new(&["*.*".to_owned()], &exclude),
            takes_copies: true,
            moves_tables: false,
        }
    }

    #[test]
    fn a_table_excluded_for_a_while_is_lacking_when_it_is_taken_again() {
        let [a, b] = ["a", "b"].map(|name| TableName::new("public", name));
        let all = terms(&[]);
        let mut place = LogPlace::at_low_end(0);
        place.captured = [a.clone(), b.clone()].into();
        let checkpoint = Checkpoint {
            applied: Lsn(7),
            cursors: [&a, &b]
                .map(|table| (all.topics.table(table), [(0, 5)].into()))
                .into(),
            in_effect: [a.clone(), b.clone()].into(),
            ..Checkpoint::beginning(4, place)
        };
        assert_eq!(only_taken(checkpoint.clone(), &all), checkpoint);

        let without_b = terms(&["public.b"]);
        let left = only_taken(checkpoint.clone(), &without_b);
        assert_eq!(left.in_effect, [a.clone()].into());
        assert_eq!(left.cursors.len(), 1);
        assert_eq!(
            left.version, checkpoint.version,
            "what is stored is compared"
        );
        assert!(left.lacking(&without_b.selection).is_empty());

        let again = only_taken(left, &all);
        assert_eq!(again.lacking(&all.selection), [b].into());
    }

    #[test]
    fn a_checkpoint_that_promises_nothing_begins_again_behind_a_trim() {
        let a = TableName::new("public", "a");
        let mut checkpoint = Checkpoint {
            applied: Lsn(7),
            joins: vec![Join {
                copy: 3,
                tables: [a.clone()].into(),
                point: None,
                rows: BTreeMap::new(),
                complete: false,
                log: LogPlace::at_low_end(0),
                cursors: Cursors::new(),
                changes: 0,
            }],
            ..Checkpoint::beginning(4, LogPlace::at_low_end(0))
        };
        checkpoint.log.next_offset = 5;
        assert_eq!(begun_again(checkpoint.clone(), 5), checkpoint);
        let again = begun_again(checkpoint.clone(), 6);
        assert_eq!((again.log.next_offset, again.log.fresh), (6, true));
        assert!(again.joins.is_empty(), "its copy was trimmed away");
        assert_eq!((again.version, again.applied), (4, Lsn(7)));
        checkpoint.in_effect.insert(a);
        assert_eq!(begun_again(checkpoint.clone(), 6), checkpoint);
    }

    #[test]
    fn who_stands_for_a_moment_may_stand_inside_of_an_entry_whatever_it_lacks() {
        let mut checkpoint = Checkpoint::beginning(0, LogPlace::at_low_end(0));
        let splits = |checkpoint: &Checkpoint| {
            Standing::at(checkpoint, CopyLedger::new()).may_split(&terms(&[]))
        };
        assert!(splits(&checkpoint), "it lacks nothing");
        checkpoint.log.captured = [TableName::new("public", "a")].into();
        checkpoint.target = Some(Lsn(7));
        assert!(!splits(&checkpoint));
        (checkpoint.target, checkpoint.hold) = (
            None,
            Some(Hold {
                at: Lsn(7),
                until_us: 1,
                lock: 1,
            }),
        );
        assert!(splits(&checkpoint));
    }

    fn batch(from: u64, to: u64) -> Entry {
        Entry::Batch(BatchEntry {
            bytes: 0,
            epoch: Epoch(0),
            from: Lsn(from),
            to: Lsn(to),
            last_commit: None,
            transactions: 1,
            changes: 1,
            offsets: Default::default(),
            sample: None,
        })
    }

    #[test]
    fn a_reader_that_is_to_stop_goes_to_the_entry_that_leads_beyond_and_no_further() {
        let epoch = Entry::Epoch(EpochEntry {
            after: 0,
            instance: "i".to_owned(),
            system_id: "1".to_owned(),
            timeline: 1,
            captured: Vec::new(),
            dropped: Vec::new(),
        });
        let log = [
            epoch,
            batch(10, 20),
            batch(10, 20),
            batch(20, 30),
            batch(30, 40),
        ];
        for (target, stays_before) in [
            (10, 1),
            (11, 1),
            (20, 2),
            (29, 3),
            (30, 4),
            (40, 5),
            (41, 5),
        ] {
            let beginning = Checkpoint {
                target: Some(Lsn(target)),
                ..Checkpoint::beginning(0, LogPlace::at_low_end(0))
            };
            let mut standing = Standing::at(&beginning, CopyLedger::new());
            let went = (0..).zip(&log).take_while(|(offset, entry)| {
                let went = standing.step_to_target(*offset, entry, &terms(&[]));
                went.expect("no hole")
            });
            assert_eq!(went.count(), stays_before, "target {target}");
            assert_eq!(standing.place.next_offset, stays_before as i64);
            assert_eq!(standing.is_at_target(), [20, 30, 40].contains(&target));
        }
    }
}
