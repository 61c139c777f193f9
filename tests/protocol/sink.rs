//! A sink: sessions that die while a COMMIT is under way, and its applier. Reading stands in
//! `sink_read`, joins in `sink_join`.

use std::collections::VecDeque;

use walferry::apply::chunk::Decoders;
use walferry::apply::follow::{Standing, advanced, begun_again};
use walferry::apply::join::{holds_main, oldest_needed, wants};
use walferry::apply::join_load::Loader;
use walferry::log::commit_log::{Entry, Verdict, judge};
use walferry::log::copies::CopyLedger;
use walferry::log::progress::Progress;
use walferry::model::checkpoint::LogPlace;
use walferry::model::{Checkpoint, Cursors, Lsn};

use crate::follower::{Follower, Statement, Transaction};
use crate::kafka::{LogView, Memory, index};
use crate::leader::schema;
use crate::mutants::Mutant;
use crate::sink_join::Part as JoinPart;
use crate::world::{Walk, World, violation};

/// A batch that the main reader has read ahead.
pub struct Part {
    pub statements: Vec<Statement>,
    pub standing: Standing,
    pub events: Vec<(i64, Entry)>,
}

/// What a session does when the transaction under way is durable.
#[derive(Clone, Debug)]
pub enum Then {
    /// Its entries count for copies.
    Events(Vec<(i64, Entry)>),
    /// The loader goes on.
    GoOn,
    /// The loader begins anew.
    Reload,
    /// The main reader begins anew.
    Reread,
}

pub struct Session {
    pub id: u64,
    pub owner: u64,
    /// What it believes durable.
    pub checkpoint: Checkpoint,
    pub is_stored: bool,
    pub ledger: CopyLedger,
    /// A mutant's ledger: as it was when the join began.
    pub kept: Option<CopyLedger>,
    pub main: Standing,
    pub parts: VecDeque<Part>,
    pub decoders: Decoders,
    pub budget: usize,
    pub loader: Option<Loader<Memory, LogView>>,
    pub loaded: Option<JoinPart>,
    pub waiting: Option<(Checkpoint, Then)>,
}

pub struct Sink {
    pub name: String,
    pub follower: Follower,
    /// COMMITs under way: of the session, and of dead ones.
    pub staged: Vec<Transaction>,
    pub session: Option<Session>,
    /// The process's token: the same for all its sessions.
    owner: u64,
    pub speed: usize,
    budget: usize,
    /// It has halted for a reason that the walk gave.
    pub halted: bool,
}

impl Sink {
    pub fn new(name: String, owner: u64, speed: usize, budget: usize) -> Self {
        Sink {
            name,
            follower: Follower::default(),
            staged: Vec::new(),
            session: None,
            owner,
            speed,
            budget,
            halted: false,
        }
    }
}

impl World {
    /// One step of a sink, whatever it can do now.
    pub fn sink_step(&mut self, at: usize) -> Walk {
        if self.sinks[at].halted {
            return Ok(());
        }
        let fault = self.random.below(100);
        if !self.calm && fault < 5 && self.sinks[at].session.is_some() {
            self.end_session(at);
            return Ok(());
        }
        if fault < 40 && !self.sinks[at].staged.is_empty() {
            return self.commit_some(at);
        }
        if self.sinks[at].session.is_none() {
            return self.open_session(at);
        }
        match self.random.below(10) {
            0..3 => self.read_part(at),
            3..6 => self.apply_part(at),
            6..9 => self.join_step(at),
            _progress => {
                self.say_progress(at);
                Ok(())
            }
        }
    }

    /// The session dies; the transaction under way may still arrive.
    pub fn end_session(&mut self, at: usize) {
        self.owners += 1;
        let (owner, new_process) = (self.owners, self.random.chance(40));
        let arrives = self.random.chance(60);
        let sink = &mut self.sinks[at];
        let Some(session) = sink.session.take() else {
            return;
        };
        sink.staged.retain(|t| t.session != session.id || arrives);
        if new_process {
            sink.owner = owner;
        }
        self.say(|| format!("sink {at} dies, new process {new_process}, COMMIT lives {arrives}"));
    }

    pub fn open_session(&mut self, at: usize) -> Walk {
        self.owners += 1;
        let (id, partitions) = (self.owners, self.scenario.partitions);
        let sink = &mut self.sinks[at];
        let (owner, budget) = (sink.owner, sink.budget);
        let stored = sink.follower.claim(owner);
        let is_stored = stored.is_some();
        let low = self.kafka.borrow().log_low;
        let checkpoint = match stored {
            Some(checkpoint) => begun_again(checkpoint, low),
            None => fresh(low),
        };
        if is_stored && checkpoint.log.next_offset < low {
            let what = format!("sink {at}: the log was trimmed to {low} beyond its checkpoint");
            return Err(violation("false halt", what));
        }
        let ledger = self.ledger_at(&checkpoint)?;
        self.sinks[at].session = Some(Session {
            id,
            owner,
            is_stored,
            kept: Some(ledger.clone()),
            main: Standing::at(&checkpoint, ledger.clone()),
            ledger,
            checkpoint,
            parts: VecDeque::new(),
            decoders: Decoders::new(Box::new(move |version| {
                let oid = u32::try_from(version.0).expect("the model's versions are OIDs");
                Ok(schema(walferry::model::Oid(oid), partitions))
            })),
            budget,
            loader: None,
            loaded: None,
            waiting: None,
        });
        Ok(())
    }

    /// The copies that the log before a checkpoint shows; see `apply::start`.
    pub fn ledger_at(&self, checkpoint: &Checkpoint) -> Walk<CopyLedger> {
        let kafka = self.kafka.borrow();
        let mut ledger = CopyLedger::new();
        let lacks = checkpoint.lacking(&self.terms.selection);
        if checkpoint.joins.is_empty() && lacks.is_empty() {
            let epoch = checkpoint.log.epoch.map(|epoch| epoch.0.cast_signed());
            if let Some(epoch) = epoch.filter(|epoch| kafka.log_low <= *epoch) {
                ledger.valid(epoch, &kafka.log[index(epoch)]);
            }
            return Ok(ledger);
        }
        let mut place = LogPlace::at_low_end(kafka.log_low);
        for (offset, entry) in kafka.log_from(0) {
            if offset >= checkpoint.log.next_offset {
                break;
            }
            let before = place.clone();
            let verdict = judge(&mut place, offset, &entry)
                .map_err(|error| violation("false halt", format!("a ledger: {error}")))?;
            if verdict == Verdict::Valid || self.takes_void(&before, &entry) {
                self.note(&mut ledger, offset, &entry);
            }
        }
        Ok(ledger)
    }

    /// Whether a mutant takes an entry that is void or a repeat.
    pub fn takes_void(&self, place: &LogPlace, entry: &Entry) -> bool {
        match entry {
            Entry::CopyBegin(begin) if Some(begin.epoch) == place.epoch => false,
            Entry::CopyBegin(_) => self.is(Mutant::VoidCopyBegin) || self.is(Mutant::BareCopyBegin),
            Entry::CopyEnd(_) => self.is(Mutant::VoidCopyEnd) || self.is(Mutant::BareCopyBegin),
            Entry::Epoch(_) | Entry::Batch(_) => false,
        }
    }

    /// Tells a ledger of an entry that counts.
    pub fn note(&self, ledger: &mut CopyLedger, offset: i64, entry: &Entry) {
        match entry {
            Entry::Epoch(epoch) => {
                let mut epoch = epoch.clone();
                let new: Vec<_> = epoch.captured.iter().map(|c| c.table.clone()).collect();
                let known = new.iter().all(|t| ledger.captured().contains_key(t));
                if self.is(Mutant::UnfinishedCopyKept) && known && !new.is_empty() {
                    return;
                }
                if self.is(Mutant::CopyOfLeftTableKept) {
                    let gone = ledger.captured().iter().filter(|(t, _)| !new.contains(t));
                    let gone: Vec<_> = gone.map(|(_, captured)| captured.clone()).collect();
                    epoch.captured.extend(gone);
                }
                ledger.valid(offset, &Entry::Epoch(epoch));
            }
            Entry::Batch(_) | Entry::CopyBegin(_) | Entry::CopyEnd(_) => {
                ledger.valid(offset, entry);
            }
        }
    }

    /// The applier takes the next batch.
    pub fn apply_part(&mut self, at: usize) -> Walk {
        let Some(session) = &mut self.sinks[at].session else {
            return Ok(());
        };
        if session.waiting.is_some() || (holds_main(&session.checkpoint) && self.random.chance(70))
        {
            return Ok(());
        }
        let Some(part) = session.parts.pop_front() else {
            return Ok(());
        };
        let next = advanced(&session.checkpoint, part.standing, None);
        self.stage(at, part.statements, next, Then::Events(part.events));
        Ok(())
    }

    /// Sends a follower transaction; the session waits for its outcome.
    pub fn stage(&mut self, at: usize, statements: Vec<Statement>, next: Checkpoint, then: Then) {
        let sink = &mut self.sinks[at];
        let session = sink.session.as_mut().expect("a session stages");
        sink.staged.push(Transaction {
            session: session.id,
            owner: session.owner,
            from: session.is_stored.then(|| session.checkpoint.clone()),
            statements,
            to: next.clone(),
        });
        session.waiting = Some((next, then));
    }

    /// One of the COMMITs under way arrives, in no order.
    pub fn commit_some(&mut self, at: usize) -> Walk {
        let chosen = self.random.below(self.sinks[at].staged.len());
        let guard = self.guard();
        let sink = &mut self.sinks[at];
        let transaction = sink.staged.swap_remove(chosen);
        let id = transaction.session;
        let before = sink.follower.checkpoint.clone();
        let committed = sink.follower.execute(transaction, guard)?;
        if committed {
            self.follower_shows_the_leader(at, before.as_ref())?;
        }
        self.settle(at, id, committed)
    }

    /// Tells the session of a transaction's outcome, if it still lives.
    pub fn settle(&mut self, at: usize, id: u64, committed: bool) -> Walk {
        let Some(mut session) = self.sinks[at].session.take() else {
            return Ok(());
        };
        if session.id != id {
            self.sinks[at].session = Some(session);
            return Ok(());
        }
        if !committed {
            // The checkpoint is another one than believed: the session ends and reads it again.
            self.say(|| format!("sink {at} is refused by its checkpoint"));
            return Ok(());
        }
        let (next, then) = session.waiting.take().expect("it waits for this one");
        session.checkpoint = next;
        session.is_stored = true;
        match then {
            Then::Events(events) => {
                for (offset, entry) in &events {
                    self.note(&mut session.ledger, *offset, entry);
                    if let (Some(kept), false) =
                        (&mut session.kept, matches!(entry, Entry::CopyBegin(_)))
                    {
                        self.note(kept, *offset, entry);
                    }
                }
            }
            Then::GoOn => {}
            Then::Reload => {
                session.loader = None;
                session.loaded = None;
                session.kept = Some(session.ledger.clone());
            }
            Then::Reread => {
                session.loader = None;
                session.loaded = None;
                session.parts.clear();
                session.main = Standing::at(&session.checkpoint, session.ledger.clone());
            }
        }
        self.sinks[at].session = Some(session);
        Ok(())
    }

    /// What the sink says in `P.progress`: some time after it is true.
    pub fn say_progress(&mut self, at: usize) {
        let sink = &self.sinks[at];
        let Some(session) = sink.session.as_ref().filter(|session| session.is_stored) else {
            return;
        };
        let progress = Progress {
            sink: sink.name.clone(),
            applied: session.checkpoint.applied,
            log_offset: oldest_needed(&session.checkpoint),
            wants: wants(&session.checkpoint, &session.ledger, &self.terms),
        };
        self.progress.insert(sink.name.clone(), progress);
    }
}

/// A follower that has nothing yet; see `apply::start`.
fn fresh(low: i64) -> Checkpoint {
    Checkpoint {
        version: 0,
        applied: Lsn::ZERO,
        commit_time_us: None,
        log: LogPlace::at_low_end(low),
        cursors: Cursors::new(),
        in_effect: Default::default(),
        joins: Vec::new(),
        refused: Default::default(),
        system_id: None,
        timeline: None,
        cluster_id: None,
        target: None,
        split: None,
        hold: None,
    }
}
