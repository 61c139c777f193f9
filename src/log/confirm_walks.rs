//! Random walks: sources that take over from one another, die, and land late.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::log::takeover::{EpochFate, FoundLeader, LogEnd, epoch_fate, may_resume};

/// What a source does wrong, to see that the walks would find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// Epoch entries never say what their writer saw.
    NoAfter,
    /// An acknowledged entry is taken for a valid one, epoch entries included.
    BareAck,
    /// The slot's position is judged before the epoch entry is known to count.
    JudgedEarly,
}

struct Random(u64);

impl Random {
    /// splitmix64
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % below as u64) as usize
    }
    fn chance(&mut self, percent: usize) -> bool {
        self.next(100) < percent
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Read,
    Slot,
    Epoch,
    Wait,
    Stream,
}

/// An entry in a producer: not landed, or landed at an offset and not acknowledged.
struct Item {
    entry: Entry,
    offset: Option<i64>,
}

struct Source {
    alive: bool,
    step: Step,
    place: LogPlace,
    seen: Lsn,
    own: Option<EpochEntry>,
    epoch_acked: Option<Option<i64>>,
    confirmations: Option<Confirmations>,
    resume: Lsn,
    position: u64,
    logged: Lsn,
    queue: VecDeque<Item>,
}

const TRANSACTIONS: u64 = 10;

/// End LSN of the n-th transaction.
fn end(n: u64) -> Lsn {
    Lsn(10 * n + 5)
}

struct World {
    random: Random,
    mutant: Mutant,
    log: Vec<(i64, Entry)>,
    sources: Vec<Source>,
    holder: Option<usize>,
    confirmed: Lsn,
    persisted: Lsn,
    wal: u64,
}

fn log_end(to: Option<Lsn>) -> LogEnd {
    LogEnd { to, leader: None }
}

fn found(slot_confirmed: Lsn) -> FoundLeader {
    FoundLeader {
        system_id: "7".to_owned(),
        timeline: 1,
        history: None,
        flush: Lsn(u64::MAX),
        slot_confirmed,
    }
}

type Walk<T> = Result<T, String>;

impl World {
    fn new(seed: u64, mutant: Mutant) -> Self {
        World {
            random: Random(seed),
            mutant,
            log: vec![],
            sources: vec![],
            holder: None,
            confirmed: Lsn(5),
            persisted: Lsn(5),
            wal: 0,
        }
    }

    fn judged(&self) -> Walk<LogPlace> {
        let mut place = LogPlace::at_low_end(0);
        for (offset, entry) in &self.log {
            judge(&mut place, *offset, entry).map_err(|error| error.to_string())?;
        }
        Ok(place)
    }

    fn begin_source(&mut self) {
        self.sources.push(Source {
            alive: true,
            step: Step::Read,
            place: LogPlace::at_low_end(0),
            seen: Lsn::ZERO,
            own: None,
            epoch_acked: None,
            confirmations: None,
            resume: Lsn::ZERO,
            position: 0,
            logged: Lsn::ZERO,
            queue: VecDeque::new(),
        });
    }

    fn die(&mut self, at: usize) {
        self.sources[at].alive = false;
        if self.holder == Some(at) {
            self.holder = None;
        }
    }

    fn land(&mut self, at: usize) {
        let offset = self.log.len() as i64;
        let queue = &mut self.sources[at].queue;
        if let Some(item) = queue.iter_mut().find(|item| item.offset.is_none()) {
            item.offset = Some(offset);
            self.log.push((offset, item.entry.clone()));
        }
    }

    fn acknowledge(&mut self, at: usize, may_repeat: bool) -> Walk<()> {
        let landed = |item: &&mut Item| item.offset.is_some();
        if !self.sources[at]
            .queue
            .front_mut()
            .as_ref()
            .is_some_and(landed)
        {
            return Ok(());
        }
        if may_repeat && self.random.chance(10) {
            // The producer's id was bumped: the whole unacknowledged run is sent again.
            for item in self.sources[at]
                .queue
                .iter_mut()
                .take_while(|item| item.offset.is_some())
            {
                let offset = self.log.len() as i64;
                item.offset = Some(offset);
                self.log.push((offset, item.entry.clone()));
            }
        }
        let item = self.sources[at].queue.pop_front().expect("looked at above");
        let offset = item.offset.filter(|_| self.random.chance(80));
        if !self.sources[at].alive {
            return Ok(());
        }
        match item.entry {
            Entry::Epoch(_) => {
                self.sources[at].epoch_acked = Some(offset);
                Ok(())
            }
            Entry::Batch(batch) => self.batch_acknowledged(at, batch.to, offset),
            Entry::CopyBegin(_) | Entry::CopyEnd(_) => Ok(()),
        }
    }

    fn batch_acknowledged(&mut self, at: usize, to: Lsn, offset: Option<i64>) -> Walk<()> {
        let Some(confirmations) = &mut self.sources[at].confirmations else {
            return Ok(());
        };
        let mut decision = confirmations
            .acked(offset)
            .map_err(|error| error.to_string())?;
        if let Decision::ReadGap { from, to } = decision {
            let to = to.unwrap_or(self.log.len() as i64);
            let gap = &self.log[from as usize..to as usize];
            decision = confirmations.read(gap).map_err(|error| error.to_string())?;
        }
        if self.mutant == Mutant::BareAck {
            decision = Decision::Confirm(Some(to));
        }
        match decision {
            Decision::Confirm(Some(to)) if self.holder == Some(at) => {
                self.confirmed = self.confirmed.max(to);
                if Some(self.confirmed) > self.judged()?.to {
                    return Err(format!("loss: the slot is confirmed to {to}"));
                }
            }
            Decision::Confirm(_) => {}
            Decision::Superseded => self.die(at),
            Decision::ReadGap { .. } => return Err("a gap was read and is still there".to_owned()),
        }
        Ok(())
    }

    fn take_step(&mut self, at: usize) -> Walk<()> {
        match self.sources[at].step {
            Step::Read => {
                self.sources[at].place = self.judged()?;
                self.sources[at].step = Step::Slot;
            }
            Step::Slot if self.holder.is_none() => {
                self.holder = Some(at);
                let resume = self.sources[at]
                    .place
                    .to
                    .unwrap_or(Lsn::ZERO)
                    .max(self.confirmed);
                let position = (0..=self.wal)
                    .take_while(|n| end(*n) <= resume)
                    .last()
                    .unwrap_or(0);
                self.sources[at].position = position;
                self.sources[at].step = Step::Epoch;
                if self.mutant == Mutant::JudgedEarly {
                    may_resume(&log_end(self.sources[at].place.to), &found(self.confirmed))
                        .map_err(|error| format!("false halt: {error}"))?;
                }
            }
            Step::Slot => self.sources[at].step = Step::Read,
            Step::Epoch => {
                let after = match self.mutant {
                    Mutant::NoAfter => i64::MAX,
                    Mutant::None | Mutant::BareAck | Mutant::JudgedEarly => {
                        self.sources[at].place.next_offset
                    }
                };
                let own = epoch(at, after);
                let source = &mut self.sources[at];
                source.seen = self.confirmed;
                source.queue.push_back(Item {
                    entry: Entry::Epoch(own.clone()),
                    offset: None,
                });
                source.own = Some(own);
                source.step = Step::Wait;
            }
            Step::Wait => self.epoch_acknowledged(at)?,
            Step::Stream => self.stream(at),
        }
        Ok(())
    }

    fn epoch_acknowledged(&mut self, at: usize) -> Walk<()> {
        let Some(offset) = self.sources[at].epoch_acked else {
            return Ok(());
        };
        let source = &mut self.sources[at];
        let end = log_end(source.place.to);
        let own = source
            .own
            .as_ref()
            .expect("sent before it was acknowledged");
        let unread = &self.log[source.place.next_offset as usize..];
        let fate = epoch_fate(&mut source.place, unread, own).map_err(|error| error.to_string())?;
        let fate = match (self.mutant, offset) {
            (Mutant::BareAck, Some(offset)) => {
                source.place.epoch = Some(Epoch(offset as u64));
                EpochFate::Current(Epoch(offset as u64))
            }
            (_, _) => fate,
        };
        match fate {
            EpochFate::Current(_) => {}
            EpochFate::Void => {
                self.die(at);
                return Ok(());
            }
            EpochFate::NotSeen => return Err("an acknowledged entry is not in the log".to_owned()),
        }
        let resume = may_resume(&end, &found(source.seen))
            .map_err(|error| format!("false halt: {error}"))?;
        source.resume = resume;
        source.logged = resume;
        source.confirmations = Some(Confirmations::new(source.place.clone()));
        source.step = Step::Stream;
        Ok(())
    }

    fn stream(&mut self, at: usize) {
        let receives = self.holder == Some(at) || self.random.chance(30);
        let close = self.random.chance(60);
        let source = &mut self.sources[at];
        if source.position < self.wal && receives {
            source.position += 1;
        }
        let to = end(source.position);
        if to > source.logged && to > source.resume && (close || source.position == self.wal) {
            let confirmations = source.confirmations.as_mut().expect("streaming");
            let entry = batch(confirmations.epoch(), source.logged, to);
            confirmations.sent(entry.clone());
            source.logged = to;
            source.queue.push_back(Item {
                entry,
                offset: None,
            });
        }
    }

    fn event(&mut self) -> Walk<()> {
        let live: Vec<usize> = (0..self.sources.len())
            .filter(|at| self.sources[*at].alive)
            .collect();
        match self.random.next(1000) {
            0..30 => self.wal = (self.wal + 1).min(TRANSACTIONS),
            30..34 => (self.holder, self.confirmed) = (None, self.persisted),
            34..40 => self.persisted = self.confirmed,
            40..52 => self.holder = None,
            52..60 if !live.is_empty() => {
                // Killed: its connection is held for a while, its producer's records land late.
                let at = live[self.random.next(live.len())];
                self.sources[at].alive = false;
            }
            60..75 => self.release(),
            75..100 if live.len() < 2 && self.sources.len() < 12 => self.begin_source(),
            100..600 if !self.sources.is_empty() => {
                let at = self.random.next(self.sources.len());
                if self.random.chance(60) {
                    self.land(at);
                } else {
                    self.acknowledge(at, true)?;
                }
            }
            600..1000 if !live.is_empty() => {
                let at = live[self.random.next(live.len())];
                self.take_step(at)?;
            }
            _nothing_to_do => {}
        }
        Ok(())
    }

    fn release(&mut self) {
        if self.holder.is_some_and(|at| !self.sources[at].alive) {
            self.holder = None;
        }
    }

    fn run(mut self) -> Walk<()> {
        for _ in 0..1200 {
            self.event()?;
        }
        // No more faults: everything must come through.
        self.wal = TRANSACTIONS;
        for _ in 0..1500 {
            for at in 0..self.sources.len() {
                while !self.sources[at].queue.is_empty() {
                    self.land(at);
                    self.acknowledge(at, false)?;
                }
                if self.sources[at].step == Step::Stream && self.holder != Some(at) {
                    self.sources[at].alive = false;
                }
            }
            self.release();
            match (0..self.sources.len())
                .rev()
                .find(|at| self.sources[*at].alive)
            {
                Some(at) => self.take_step(at)?,
                None => self.begin_source(),
            }
            if self.holder.is_some_and(|at| !self.sources[at].alive) {
                self.holder = None;
            }
            if self.judged()?.to == Some(end(TRANSACTIONS)) {
                return Ok(());
            }
        }
        Err(format!("stuck: the log ends at {:?}", self.judged()?.to))
    }
}

fn failures(mutant: Mutant) -> Vec<String> {
    (0..2000)
        .filter_map(|seed| World::new(seed, mutant).run().err())
        .collect()
}

#[test]
fn the_walks_find_what_a_wrong_source_would_lose() {
    for mutant in [Mutant::NoAfter, Mutant::BareAck, Mutant::JudgedEarly] {
        let found = failures(mutant);
        assert!(!found.is_empty(), "{mutant:?} passes every walk");
        println!("{mutant:?}: {} of 2000, first: {}", found.len(), found[0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn sources_that_take_over_from_one_another_lose_nothing(seed: u64) {
        World::new(seed, Mutant::None).run().map_err(TestCaseError::fail)?;
    }
}
