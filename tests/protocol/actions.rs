//! What happens next: one action a step, by weight.

use std::collections::BTreeMap;
use std::time::Duration;

use walferry::model::Lsn;

use crate::kafka::{Item, Place};
use crate::leader::TABLES;
use crate::mutants::Mutant;
use crate::source::{Frame, Phase};
use crate::source_copy::CopyState;
use crate::world::{Walk, World};

/// Sources in a walk at most, the dead ones too.
const SOURCES_MAX: usize = 12;
const SINKS_MAX: usize = 3;

impl World {
    pub fn act(&mut self) -> Walk {
        let live = self.sources.iter().filter(|source| source.alive).count();
        let faults = self.random.chance(self.scenario.faults_percent);
        match self.random.below(1000) {
            0..26 => self.leader_goes_on(),
            26..30 => {
                self.leader.idle_wal();
            }
            30..70 => self.walsender(),
            70..76 if faults => self.leader_is_killed(),
            76..86 => self.leader.slot.persisted = self.leader.slot.confirmed,
            // The connection is cut, which its source may not know.
            86..96 if faults => self.leader.slot.holder = None,
            96..106 if faults => self.source_is_killed(),
            106..122 => self.release(),
            122..140 if live < 2 && self.sources.len() < SOURCES_MAX => self.add_source(),
            140..146 if self.scenario.copies => self.settings_change(),
            146..148 if self.scenario.copies && self.sinks.len() < SINKS_MAX => self.add_sink(),
            148..150 if self.scenario.fails_over => self.fail_over(),
            150..165 => self.expire(),
            165..175 => self.trim(),
            175..185 => self.captured_set_is_watched(),
            185..500 => {
                for _ in 0..1 + self.random.below(4) {
                    self.producer_goes_on()?;
                }
            }
            500..780 => {
                for _ in 0..1 + self.random.below(2) {
                    self.some_source()?;
                }
            }
            780..1000 => return self.some_sink(),
            _nothing_to_do => {}
        }
        Ok(())
    }

    fn leader_goes_on(&mut self) {
        // A transaction is open for a while.
        if self.leader.is_in_transaction() && !self.calm && self.random.chance(60) {
            return;
        }
        if let Some(txn) = self.leader.go_on(&mut self.random) {
            self.say(|| txn.what.clone());
        }
    }

    /// kill -9: the slot steps back to what was persisted.
    fn leader_is_killed(&mut self) {
        self.leader.slot.holder = None;
        self.leader.slot.confirmed = self.leader.slot.persisted;
        let to = self.leader.slot.confirmed;
        self.say(|| format!("the leader is killed; the slot is at {to}"));
    }

    /// A source is killed: its connection is held for a while, its records land late.
    fn source_is_killed(&mut self) {
        let live: Vec<usize> = self.live();
        if let Some(at) = self.random.pick(&live) {
            self.sources[at].alive = false;
            self.say(|| format!("S{at} is killed"));
        }
    }

    fn live(&self) -> Vec<usize> {
        let all = 0..self.sources.len();
        all.filter(|at| self.sources[*at].alive).collect()
    }

    fn release(&mut self) {
        let holder = self.leader.slot.holder;
        if holder.is_some_and(|at| !self.sources[at].alive) {
            self.leader.slot.holder = None;
        }
    }

    /// A table joins or leaves the settings, or is made anew on the leader.
    fn settings_change(&mut self) {
        match self.random.below(10) {
            0..4 if self.wanted.len() > 1 => {
                self.wanted.remove(&1);
                self.say(|| "b is no longer wanted".to_owned());
            }
            4..9 => {
                self.wanted.insert(1);
            }
            9 => {
                self.leader.recreate(1);
                self.say(|| "b is dropped and made anew".to_owned());
            }
            _nothing_to_do => {}
        }
    }

    /// The source sees that its captured set is no longer the one wanted: a new epoch.
    fn captured_set_is_watched(&mut self) {
        for at in self.live() {
            let copies = !matches!(self.sources[at].copying.state, CopyState::Idle);
            if self.sources[at].phase == Phase::Stream
                && !self.captures_what_is_wanted(at)
                && (!copies || self.calm)
            {
                self.say(|| format!("S{at} ends: its captured set is another one now"));
                self.end_source(at);
            }
        }
    }

    fn captures_what_is_wanted(&self, at: usize) -> bool {
        let wanted: Vec<_> = TABLES
            .into_iter()
            .filter(|table| self.wanted.contains(table))
            .map(|table| self.leader.oid_now(table))
            .collect();
        let captured = self.sources[at].captured.iter().map(|c| c.relation);
        captured.eq(wanted)
    }

    fn fail_over(&mut self) {
        if self.lacks_behind.is_some() {
            return;
        }
        let sources = self.sources.iter();
        let received = sources.flat_map(|source| {
            let frames = source.frames.iter().map(|frame| match frame {
                Frame::Txn(txn) => txn.end,
                Frame::Keepalive(end) => *end,
            });
            let sent = source.orders_end();
            frames.chain(sent).collect::<Vec<_>>()
        });
        let published = received
            .chain(self.truth.to)
            .chain([self.leader.slot.confirmed])
            .max()
            .unwrap_or(Lsn::ZERO);
        let mut ends: Vec<Lsn> = self.leader.txns.iter().map(|txn| txn.end).collect();
        ends.push(Lsn(self.leader.wal_end));
        let loses = self.scenario.loses_wal && self.random.chance(50);
        // It has followed the timeline, unless it lags so far behind.
        let followed = self.leader.history.last().map(|switch| switch.end);
        ends.retain(|end| loses || (*end >= published && followed <= Some(*end)));
        let Some(switch) = self.random.pick(&ends) else {
            return;
        };
        if switch < published {
            self.lacks_behind = Some(switch);
        }
        self.leader.fail_over(switch);
        self.say(|| format!("fail-over at {switch}; {published} may be published"));
    }

    /// Retention of a table's or copy's topic.
    fn expire(&mut self) {
        let parts = self.kafka.borrow().partitions.len();
        let part = self.random.below(parts);
        let mut kafka = self.kafka.borrow_mut();
        let partition = &mut kafka.partitions[part];
        let high = partition.high();
        let copy = partition.topic.contains(".copy.");
        // The setting is the longest that a sink may be down: no sink that has the table in effect
        // is passed, unless the walk says so.
        let needed = self.sinks.iter().filter(|sink| !sink.halted).map(|sink| {
            let Some(checkpoint) = &sink.follower.checkpoint else {
                return if self.scenario.copies { high } else { 0 };
            };
            let topics = |t| self.terms.topics.table(t) == partition.topic;
            if self.scenario.copies && !checkpoint.in_effect.iter().any(topics) {
                return high;
            }
            let cursors = checkpoint.cursors.get(&partition.topic);
            let cursor = cursors.and_then(|c| c.get(&partition.number));
            cursor.copied().unwrap_or(0)
        });
        let needed = needed.min().unwrap_or(0);
        let limit = if copy || self.scenario.retention_passes {
            high
        } else {
            needed
        };
        if limit > partition.low {
            let span = usize::try_from(limit - partition.low).expect("forward");
            let step = i64::try_from(self.random.below(span + 1)).expect("small");
            partition.low += step;
            let (topic, number, low) = (partition.topic.clone(), partition.number, partition.low);
            drop(kafka);
            self.say(|| format!("{topic} {number} expires to {low}"));
        }
    }

    /// A source trims the log, as the real rule says; the least that records are kept is drawn anew.
    fn trim(&mut self) {
        // Followers without copies need the log from its beginning.
        if !self.scenario.copies && self.progress.len() < self.sinks.len() {
            return;
        }
        let retention = Duration::from_micros([0, 10, 40][self.random.below(3)]);
        let Some(at) = self.random.pick(&self.live()) else {
            return;
        };
        let source = &mut self.sources[at];
        if source.phase != Phase::Stream {
            return;
        }
        let Some(points) = source.points.take() else {
            return;
        };
        let to = points.trim_to(retention, &self.progress).offset;
        let (low, high) = (self.kafka.borrow().log_low, self.kafka.borrow().log_high());
        let span = usize::try_from(high - low).expect("forward");
        let said = self.progress.values().map(|progress| progress.log_offset);
        let said = said.min().unwrap_or(0);
        let any = low + i64::try_from(self.random.below(span)).expect("small");
        let epochs: Vec<i64> = self
            .epochs
            .iter()
            .copied()
            .filter(|at| low <= *at)
            .collect();
        let to = if self.is(Mutant::TrimsAnywhere) {
            Some(any).filter(|to| *to <= said)
        } else if self.is(Mutant::TrimsToBareEpoch) {
            self.random.pick(&epochs).filter(|to| *to <= said)
        } else if self.is(Mutant::TrimsAboveCheckpoints) {
            points.trim_to(retention, &BTreeMap::new()).offset
        } else {
            to
        };
        if let Some(to) = to.filter(|to| *to > low) {
            self.kafka.borrow_mut().log_low = to;
            self.say(|| format!("S{at} trims the log to {to}"));
        }
    }

    /// Something of a producer lands, or is acknowledged; the dead ones' too.
    fn producer_goes_on(&mut self) -> Walk {
        let weight = |at: usize| if self.sources[at].alive { 5 } else { 1 };
        let weights: Vec<usize> = (0..self.sources.len()).map(weight).collect();
        let Some(at) = self.random.weighted(&weights) else {
            return Ok(());
        };
        let Some(place) = self.random.pick(&self.sources[at].producer.busy()) else {
            return Ok(());
        };
        let queue = &self.sources[at].producer.queues[&place];
        let (queued, landed) = (!queue.queued.is_empty(), !queue.landed.is_empty());
        if queued && (!landed || self.random.chance(60)) {
            self.land(at, place)
        } else {
            if self.random.chance(10) {
                self.repeat(at, place)?;
            }
            self.acknowledge(at, place);
            Ok(())
        }
    }

    fn append(&mut self, place: Place, item: &mut Item) -> Walk {
        let offset = self.kafka.borrow_mut().append(place, &item.what);
        item.offset = Some(offset);
        match place {
            Place::Log => self.entry_landed(offset),
            Place::Part(_) => Ok(()),
        }
    }

    fn land(&mut self, at: usize, place: Place) -> Walk {
        let queue = self.sources[at].producer.queues.get_mut(&place);
        let queue = queue.expect("a busy partition");
        let mut item = queue.queued.pop_front().expect("looked at before");
        let landed = self.append(place, &mut item);
        let queue = self.sources[at].producer.queues.get_mut(&place);
        queue.expect("a busy partition").landed.push_back(item);
        landed
    }

    /// The producer's id was bumped: the whole unacknowledged run is sent again.
    fn repeat(&mut self, at: usize, place: Place) -> Walk {
        let queue = self.sources[at].producer.queues.get_mut(&place);
        let mut run = std::mem::take(&mut queue.expect("a busy partition").landed);
        for item in &mut run {
            self.append(place, item)?;
        }
        let queue = self.sources[at].producer.queues.get_mut(&place);
        queue.expect("a busy partition").landed = run;
        Ok(())
    }

    /// The oldest landed record is acknowledged; a retry answered as duplicate names no offset.
    fn acknowledge(&mut self, at: usize, place: Place) {
        let queue = self.sources[at].producer.queues.get_mut(&place);
        let Some(item) = queue.and_then(|queue| queue.landed.pop_front()) else {
            return;
        };
        let offset = item.offset.filter(|_| self.random.chance(80));
        self.sources[at].acknowledged(place, item.batch, &item.what, offset);
    }

    fn some_source(&mut self) -> Walk {
        let weight = |at: usize| match self.sources[at].alive {
            true => self.sources[at].speed,
            false => 0,
        };
        let weights: Vec<usize> = (0..self.sources.len()).map(weight).collect();
        match self.random.weighted(&weights) {
            Some(at) => self.source_step(at),
            None => Ok(()),
        }
    }

    fn some_sink(&mut self) -> Walk {
        let weights: Vec<usize> = self.sinks.iter().map(|sink| sink.speed).collect();
        match self.random.weighted(&weights) {
            Some(at) => self.sink_step(at),
            None => Ok(()),
        }
    }

    /// No faults: everything lands, dead holders go, somebody streams.
    pub fn calm_round(&mut self) -> Walk {
        self.leader_goes_on();
        for at in 0..self.sources.len() {
            for place in self.sources[at].producer.busy() {
                while !self.sources[at].producer.queues[&place].queued.is_empty() {
                    self.land(at, place)?;
                }
                while !self.sources[at].producer.queues[&place].landed.is_empty() {
                    self.acknowledge(at, place);
                }
            }
            let holds = self.leader.slot.holder == Some(at);
            let source = &self.sources[at];
            if source.alive && !holds && source.is_past_slot() {
                self.end_source(at);
            }
        }
        self.captured_set_is_watched();
        self.release();
        if self.live().is_empty() {
            self.add_source();
        }
        self.walsender();
        for _ in 0..6 {
            if let Some(at) = self.random.pick(&self.live()) {
                self.source_step(at)?;
            }
        }
        for at in 0..self.sinks.len() {
            for _ in 0..4 {
                self.sink_step(at)?;
            }
        }
        Ok(())
    }
}
