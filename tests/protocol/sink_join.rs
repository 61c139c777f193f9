//! The sink's side of copies: the real `next_join_step` decides, the real `Loader` reads.

use tokio_util::sync::CancellationToken;
use walferry::apply::chunk::Decoders;
use walferry::apply::join::{
    Emptied, JoinStep, given_up, next_join_step, taken_effect, to_empty, with_join,
};
use walferry::apply::join_load::{Loaded, Loader, LoaderParts};
use walferry::apply::partitions::Cut;
use walferry::log::commit_log::CopyEnd;
use walferry::model::{Join, Lsn, Oid, TableName};
use walferry::sink::{Wants, Work};

use crate::follower::Statement;
use crate::kafka::{Glasses, LogView, Memory, index};
use crate::leader::schema;
use crate::mutants::Mutant;
use crate::sink::{Session, Then};
use crate::world::{Walk, World, violation};

/// What a step of the loader gave, until the applier takes it.
pub enum Part {
    Loaded(Vec<Loaded>),
    Lost(TableName, String),
}

impl World {
    pub fn join_step(&mut self, at: usize) -> Walk {
        let kept = self.is(Mutant::OlderCopyKept);
        let Some(session) = &self.sinks[at].session else {
            return Ok(());
        };
        if session.waiting.is_some() {
            return Ok(());
        }
        let checkpoint = &session.checkpoint;
        let ledger = match (&session.kept, checkpoint.joins.first()) {
            (Some(ledger), Some(_)) if kept => ledger,
            (_, _) => &session.ledger,
        };
        match next_join_step(checkpoint, ledger, &self.terms) {
            JoinStep::Nothing | JoinStep::Ask => {}
            JoinStep::AwaitMain if !self.is(Mutant::EndsEarlyAndTakesEffectAtOnce) => {}
            JoinStep::Begin(join) => {
                let next = with_join(checkpoint, join);
                let (copy, to) = (next.joins[0].copy, checkpoint.log.to);
                self.say(|| format!("sink {at} begins with copy {copy} at {to:?}"));
                self.stage(at, Vec::new(), next, Then::Reload);
            }
            JoinStep::Load => {
                if !self.take_effect_unevenly(at) {
                    return self.load_on(at);
                }
            }
            JoinStep::TakeEffect | JoinStep::AwaitMain => {
                let next = taken_effect(checkpoint);
                let copy = checkpoint.joins[0].copy;
                let (to, tables) = (checkpoint.log.to, next.in_effect.len());
                self.say(|| format!("sink {at}: copy {copy} in effect at {to:?}, {tables} tables"));
                self.stage(at, Vec::new(), next, Then::Reread);
            }
            JoinStep::GiveUp(tables) => self.give_up(at, &tables.into_iter().collect::<Vec<_>>()),
        }
        Ok(())
    }

    fn give_up(&mut self, at: usize, tables: &[TableName]) {
        let session = self.sinks[at].session.as_ref().expect("asked of a session");
        let next = given_up(
            &session.checkpoint,
            &tables.iter().cloned().collect(),
            &self.terms,
        );
        let copy = session.checkpoint.joins.first().map(|join| join.copy);
        self.say(|| format!("sink {at} gives up copy {copy:?}"));
        self.stage(at, Vec::new(), next, Then::Reload);
    }

    /// A mutant joins away from the main reader's log offset.
    fn take_effect_unevenly(&mut self, at: usize) -> bool {
        let session = self.sinks[at].session.as_ref().expect("asked of a session");
        let complete = session.checkpoint.joins.first().is_some_and(|j| j.complete);
        if !self.is(Mutant::JoinsAwayFromMain) || !complete || self.random.chance(50) {
            return false;
        }
        let session = self.sinks[at].session.as_ref().expect("asked of a session");
        let mut forged = session.checkpoint.clone();
        forged.joins[0].log.next_offset = forged.log.next_offset;
        let next = taken_effect(&forged);
        self.stage(at, Vec::new(), next, Then::Reread);
        true
    }

    /// The loader takes a step, or the applier what it gave.
    fn load_on(&mut self, at: usize) -> Walk {
        let session = self.sinks[at].session.as_mut().expect("asked of a session");
        match session.loaded.take() {
            Some(part) => self.take_loaded(at, part),
            None => self.loader_step(at),
        }
    }

    fn loader_step(&mut self, at: usize) -> Walk {
        let mut session = self.sinks[at].session.take().expect("asked of a session");
        let end = self.copy_end(&session);
        let limit = session.checkpoint.log.next_offset;
        let mut loader = match session.loader.take() {
            Some(loader) => loader,
            None => self.loader(&session),
        };
        let mut parts = Vec::new();
        let part = loop {
            match loader.step(end.as_ref(), limit) {
                Ok(loaded) => {
                    let more = loaded.more;
                    parts.push(loaded);
                    if !more {
                        break Part::Loaded(parts);
                    }
                }
                Err(Cut::Lost { table, what }) => {
                    self.excuse_lost(at, &session, &what)?;
                    break Part::Lost(table, what);
                }
                Err(Cut::Stopped) => panic!("nobody stops it"),
                Err(Cut::Failed(error)) => {
                    return Err(violation("false halt", format!("sink {at} joins: {error}")));
                }
            }
        };
        session.loader = Some(loader);
        session.loaded = Some(part);
        self.sinks[at].session = Some(session);
        Ok(())
    }

    /// What the log says of the join's end; a mutant forgets part of it.
    fn copy_end(&self, session: &Session) -> Option<CopyEnd> {
        let join = session.checkpoint.joins.first()?;
        let mut end = session.ledger.get(join.copy)?.end.clone()?;
        if self.is(Mutant::NoPointFilter) {
            end.point = Lsn::ZERO;
        }
        if self.is(Mutant::NoCount) {
            self.recount_rows(join, &mut end);
        }
        Some(end)
    }

    fn recount_rows(&self, join: &Join, end: &mut CopyEnd) {
        let kafka = self.kafka.borrow();
        for (topic, partitions) in &mut end.rows {
            for (number, extent) in partitions {
                let Some(rows) = join.rows.get(topic).and_then(|rows| rows.get(number)) else {
                    continue;
                };
                let partition = &kafka.partitions[kafka.find(topic, *number)];
                let (mut sequence, mut count) = (rows.sequence, rows.count);
                let first = rows.next_offset.max(partition.low);
                for offset in first..=extent.last {
                    let copy = partition.records[index(offset)].copy.expect("a row");
                    if copy.copy == join.copy && copy.sequence > sequence {
                        sequence = copy.sequence;
                        count += 1;
                    }
                }
                extent.count = count;
            }
        }
    }

    fn loader(&self, session: &Session) -> Loader<Memory, LogView> {
        let partitions = self.scenario.partitions;
        let glasses = Glasses {
            no_sequence: self.is(Mutant::NoSequence),
            ..Glasses::default()
        };
        let mut join = session.checkpoint.joins[0].clone();
        if self.is(Mutant::NoPointFilter) {
            join.point = join.point.map(|_| Lsn::ZERO);
        }
        Loader::new(LoaderParts {
            skips: Default::default(),
            join,
            records: Memory::new(self.kafka.clone(), glasses),
            entries: LogView(self.kafka.clone()),
            decoders: Decoders::new(Box::new(move |version| {
                let oid = u32::try_from(version.0).expect("the model's versions are OIDs");
                Ok(schema(Oid(oid), partitions))
            })),
            terms: self.terms.clone(),
            wants: Wants::Net,
            batch_max_bytes: session.budget,
            stop: CancellationToken::new(),
        })
    }

    /// A copy is lost only where retention or trimming has passed what it needs.
    fn excuse_lost(&self, at: usize, session: &Session, what: &str) -> Walk {
        let join = &session.checkpoint.joins[0];
        let kafka = self.kafka.borrow();
        let expired = |topic: &str, number: i32, needed: i64| {
            what.contains(&format!("topic {topic} partition {number}"))
                && kafka.partitions[kafka.find(topic, number)].low > needed
        };
        let begin = &session.ledger.get(join.copy).expect("it loads it").begin;
        let bounds = begin.offsets.iter();
        let mut bounds = bounds.flat_map(|(t, b)| b.iter().map(move |(n, o)| (t, *n, *o)));
        let excused =
            kafka.log_low > join.log.next_offset || bounds.any(|(t, n, o)| expired(t, n, o));
        if excused {
            Ok(())
        } else {
            Err(violation("false loss", format!("sink {at}: {what}")))
        }
    }

    fn take_loaded(&mut self, at: usize, part: Part) -> Walk {
        let parts = match part {
            Part::Loaded(parts) => parts,
            Part::Lost(table, what) => {
                self.say(|| format!("sink {at}: {what}"));
                self.give_up(at, &[table]);
                return Ok(());
            }
        };
        let dirty = self.is(Mutant::HalfLoadedStagingKept);
        let session = self.sinks[at].session.as_ref().expect("asked of a session");
        let durable = &session.checkpoint.joins[0];
        let mut join = parts.last().expect("a step gives a part").join.clone();
        if let (true, Some(copy)) = (join.complete, session.ledger.get(join.copy)) {
            join.point = copy.end.as_ref().map(|end| end.point).or(join.point);
        }
        if join == *durable {
            return Ok(());
        }
        let with_rows = parts.iter().flat_map(|part| &part.rows);
        let with_rows = with_rows.map(|rows| &rows.schema.table);
        let Emptied {
            first_rows,
            without_rows,
        } = to_empty(durable, &join, with_rows, &self.terms);
        let mut statements = Vec::new();
        if !dirty {
            let tables = first_rows.into_iter().chain(without_rows);
            statements.extend(tables.map(Statement::Empty));
        }
        for part in parts {
            statements.extend(part.rows.into_iter().map(Statement::Load));
            match part.planned.map(|planned| planned.work) {
                Some(Work::Net(plans)) => statements.push(Statement::Apply(plans)),
                Some(Work::Changes(_)) => panic!("net changes were wanted"),
                None => {}
            }
        }
        let next = with_join(&session.checkpoint, join);
        self.stage(at, statements, next, Then::GoOn);
        Ok(())
    }
}
