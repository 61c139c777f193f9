//! A sink's main reader: entries judged and their records read, with the real rules
//! (`Standing::step`, `EntryPull`, `plan`).

use tokio_util::sync::CancellationToken;
use walferry::apply::chunk::ChunkBuilder;
use walferry::apply::follow::Step;
use walferry::apply::partitions::{Cut, Partitions};
use walferry::apply::planned::planned;
use walferry::apply::pull::{EntryPull, Filled};
use walferry::log::commit_log::{BatchEntry, Entry, Extent};
use walferry::model::checkpoint::LogPlace;
use walferry::model::{Cursors, Lsn, TableChanges, TablePlan};
use walferry::sink::{Wants, Work};

use crate::follower::Statement;
use crate::kafka::{Glasses, Memory, index};
use crate::mutants::Mutant;
use crate::sink::{Part, Session};
use crate::world::{Walk, World, violation};

impl World {
    /// The main reader reads ahead: some entries and their records.
    pub fn read_part(&mut self, at: usize) -> Walk {
        let count = 1 + self.random.below(4);
        let Some(mut session) = self.sinks[at].session.take() else {
            return Ok(());
        };
        if session.parts.len() < 2 {
            let low = self.kafka.borrow().log_low;
            if session.main.place.next_offset < low {
                // A sink that nobody knew of begins again at the cut.
                return if !session.checkpoint.in_effect.is_empty() {
                    let what = format!("sink {at}: the log was trimmed beyond its reader");
                    Err(violation("false halt", what))
                } else {
                    Ok(())
                };
            }
            let read = self.read_entries(at, &mut session, count)?;
            if let Some(part) = read {
                session.parts.push_back(part);
            } else if self.sinks[at].halted {
                return Ok(());
            }
        }
        self.sinks[at].session = Some(session);
        Ok(())
    }

    pub fn read_entries(
        &mut self,
        at: usize,
        session: &mut Session,
        count: usize,
    ) -> Walk<Option<Part>> {
        let mut builder = ChunkBuilder::new(session.budget);
        let (mut statements, mut events) = (Vec::new(), Vec::new());
        let entries = self.kafka.borrow().log_from(session.main.place.next_offset);
        let mut entries = entries.into_iter().take(count).peekable();
        if entries.peek().is_none() {
            return Ok(None);
        }
        for (offset, entry) in entries {
            let before = session.main.place.clone();
            let step = session
                .main
                .step(offset, &entry, &self.terms)
                .map_err(|error| violation("false halt", format!("sink {at}: {error}")))?;
            match (step, entry) {
                (Step::Pass, Entry::Batch(batch)) => self.pass_void(&before, &batch, session),
                (Step::Pass, entry) => {
                    if self.takes_void(&before, &entry) {
                        events.push((offset, entry));
                    }
                }
                (Step::Batch, Entry::Batch(batch)) => {
                    let read = self.read_records(&batch, session, &mut builder, &mut statements);
                    match read? {
                        Ok(()) => {}
                        Err(cut) => return self.reader_cut(at, session, cut),
                    }
                }
                (Step::Batch | Step::Event, event) => events.push((offset, event)),
            }
        }
        take_plans(&mut builder, &mut statements)?;
        Ok(Some(Part {
            statements,
            standing: session.main.clone(),
            events,
        }))
    }

    pub fn pass_void(&self, place: &LogPlace, batch: &BatchEntry, session: &mut Session) {
        if !self.is(Mutant::VoidMovesCursors) || Some(batch.epoch) == place.epoch {
            return;
        }
        for (topic, partitions) in &batch.offsets {
            for (partition, extent) in partitions {
                let cursors = session.main.cursors.entry(topic.clone()).or_default();
                let cursor = cursors.entry(*partition).or_insert(0);
                *cursor = (*cursor).max(extent.last + 1);
            }
        }
    }

    pub fn read_records(
        &self,
        batch: &BatchEntry,
        session: &mut Session,
        builder: &mut ChunkBuilder,
        statements: &mut Vec<Statement>,
    ) -> Walk<Result<(), Cut>> {
        let mut batch = batch.clone();
        let glasses = Glasses {
            epoch: self.is(Mutant::NoEpochFilter).then_some(batch.epoch),
            no_order: self.is(Mutant::NoOrderInPartition),
            no_sequence: false,
        };
        if self.is(Mutant::NoPositionFilter) {
            (batch.from, batch.to) = (Lsn::ZERO, Lsn(u64::MAX));
        }
        if self.is(Mutant::NoCount) {
            self.recount(&mut batch, &session.main.cursors);
        }
        let memory = Memory::new(self.kafka.clone(), glasses);
        let mut source = Partitions::new(memory, CancellationToken::new());
        let topics = session.main.topics(&self.terms);
        let cursors = session.main.cursors.clone();
        let pull = EntryPull::new(
            &batch,
            &topics,
            Lsn::ZERO..batch.to,
            &cursors,
            (&mut source, builder),
        );
        let mut pull = match pull {
            Ok(pull) => pull,
            Err(cut) => return Ok(Err(cut)),
        };
        loop {
            let (decoders, cursors) = (&mut session.decoders, &mut session.main.cursors);
            match pull.fill(&mut source, builder, decoders, cursors) {
                Ok(Filled::Done) => return Ok(Ok(())),
                Ok(Filled::Full) => take_plans(builder, statements)?,
                Err(cut) => return Ok(Err(cut)),
            }
        }
    }

    /// A mutant's entry counts what there is.
    pub fn recount(&self, batch: &mut BatchEntry, cursors: &Cursors) {
        let kafka = self.kafka.borrow();
        let (epoch, from, to) = (batch.epoch, batch.from, batch.to);
        for (topic, partitions) in &mut batch.offsets {
            for (number, extent) in partitions {
                let partition = &kafka.partitions[kafka.find(topic, *number)];
                let cursor = cursors.get(topic).and_then(|c| c.get(number)).copied();
                let first = cursor.unwrap_or(0).max(partition.low);
                let records = (first..=extent.last).map(|o| &partition.records[index(o)]);
                let inside = |header: &walferry::log::header::RecordHeader| {
                    let commit = header.position.commit;
                    header.epoch == epoch && from <= commit && commit < to
                };
                let mut last = None;
                let mut count = 0;
                for record in records.filter(|record| inside(&record.header)) {
                    if last.is_none_or(|last| record.header.position > last) {
                        last = Some(record.header.position);
                        count += 1;
                    }
                }
                *extent = Extent { count, ..*extent };
            }
        }
    }

    /// Records are missing: a halt, which only retention excuses.
    pub fn reader_cut(&mut self, at: usize, session: &Session, cut: Cut) -> Walk<Option<Part>> {
        let what = match cut.into_error() {
            Some(error) => error.what(),
            None => "asked to stop".to_owned(),
        };
        if !self.retention_passed(&session.main.cursors) {
            return Err(violation("false halt", format!("sink {at}: {what}")));
        }
        self.say(|| format!("sink {at} halts: {what}"));
        self.sinks[at].halted = true;
        Ok(None)
    }

    /// Whether records at cursors have expired.
    pub fn retention_passed(&self, cursors: &Cursors) -> bool {
        let kafka = self.kafka.borrow();
        let below = |topic: &str, number: i32| {
            let cursor = cursors.get(topic).and_then(|c| c.get(&number)).copied();
            cursor.unwrap_or(0) < kafka.partitions[kafka.find(topic, number)].low
        };
        let mut partitions = kafka.partitions.iter();
        partitions.any(|p| !p.topic.contains(".copy.") && below(&p.topic, p.number))
    }
}

/// Plans what was collected, as the reader does.
fn take_plans(builder: &mut ChunkBuilder, statements: &mut Vec<Statement>) -> Walk {
    if !builder.is_empty() {
        statements.push(Statement::Apply(plans(builder.take())?));
    }
    Ok(())
}

pub fn plans(tables: Vec<TableChanges>) -> Walk<Vec<TablePlan>> {
    let planned = planned(Wants::Net, tables)
        .map_err(|error| violation("diverged", format!("planning: {error}")))?;
    match planned.work {
        Work::Net(plans) => Ok(plans),
        Work::Changes(_) => panic!("net changes were wanted"),
    }
}
