//! A source: what it knows, what it has sent, and its next step. What it sends is its producer's to
//! land.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use walferry::capture::batches::{Batches, Closed};
use walferry::log::commit_log::{Captured, CopyBegin, Entry, EpochEntry};
use walferry::log::confirm::Confirmations;
use walferry::log::copies::CopyLedger;
use walferry::log::producer::Acked;
use walferry::log::takeover::{FoundLeader, LogEnd};
use walferry::log::trim::TrimPoints;
use walferry::model::checkpoint::LogPlace;
use walferry::model::{Epoch, Lsn, Oid};

use crate::kafka::{Place, Producer, Stored, What};
use crate::leader::Txn;
use crate::source_copy::Copying;
use crate::world::{Walk, World};

/// Where in its take-over a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Prepare,
    Read,
    Slot,
    Found,
    Epoch,
    Fate,
    Judge,
    Stream,
}

/// What the walsender has sent.
#[derive(Clone, Debug)]
pub enum Frame {
    Txn(Rc<Txn>),
    Keepalive(Lsn),
}

/// What becomes an entry, in order.
pub enum Order {
    Batch(Closed, Option<u64>),
    CopyBegin(CopyBegin),
    CopyEnd(Entry),
}

#[derive(Default)]
pub struct Acks {
    pub sent: u64,
    pub acknowledged: u64,
    pub parts: BTreeMap<usize, Acked>,
}

impl Acks {
    pub fn complete(&self) -> bool {
        self.sent == self.acknowledged
    }
}

pub struct Source {
    pub alive: bool,
    pub phase: Phase,
    /// How often it is chosen.
    pub speed: usize,
    /// Entries that it has under way at most.
    pub window: usize,
    pub place: Option<LogPlace>,
    pub ledger: CopyLedger,
    pub leader: Option<(String, u32)>,
    /// Where the log may be cut, as read at the take-over; taken when it is trimmed.
    pub points: Option<TrimPoints>,
    pub prepared_for: Option<Epoch>,
    pub captured: Vec<Captured>,
    pub end: LogEnd,
    pub after: i64,
    pub own: Option<EpochEntry>,
    /// The timeline of the leader that it is connected to.
    pub connected: Option<u32>,
    pub found: Option<FoundLeader>,
    pub epoch_acked: Option<Option<i64>>,
    /// Tables that leave the publication once the epoch entry says so.
    pub leaving: BTreeSet<Oid>,
    pub joins_publication: bool,
    pub producer: Producer,
    pub acks: BTreeMap<u64, Acks>,
    pub batches_opened: u64,
    pub frames: VecDeque<Frame>,
    pub stream_at: usize,
    /// The end of what it has handled.
    pub received: Option<Lsn>,
    pub confirmations: Option<Confirmations>,
    pub batches: Option<Batches>,
    pub open: u64,
    pub resume: Lsn,
    pub orders: VecDeque<Order>,
    pub ordered: u64,
    pub done: u64,
    pub writing: VecDeque<Entry>,
    pub entries_acked: VecDeque<Option<i64>>,
    pub begun: Vec<(i64, CopyBegin)>,
    pub copies_begun: u64,
    pub published_to: Option<Lsn>,
    pub confirmed: Option<Lsn>,
    pub lower_bounds: BTreeMap<usize, i64>,
    pub now: Instant,
    pub copying: Copying,
}

/// The batch number of entries: their acknowledgements are not counted.
pub const ENTRIES: u64 = 0;

impl Source {
    pub fn new(speed: usize, window: usize) -> Self {
        Source {
            alive: true,
            phase: Phase::Prepare,
            speed,
            window,
            place: None,
            ledger: CopyLedger::new(),
            leader: None,
            points: None,
            prepared_for: None,
            captured: Vec::new(),
            end: LogEnd {
                to: None,
                leader: None,
            },
            after: 0,
            own: None,
            connected: None,
            found: None,
            epoch_acked: None,
            leaving: BTreeSet::new(),
            joins_publication: false,
            producer: Producer::default(),
            acks: BTreeMap::new(),
            batches_opened: ENTRIES,
            frames: VecDeque::new(),
            stream_at: 0,
            received: None,
            confirmations: None,
            batches: None,
            open: ENTRIES,
            resume: Lsn::ZERO,
            orders: VecDeque::new(),
            ordered: 0,
            done: 0,
            writing: VecDeque::new(),
            entries_acked: VecDeque::new(),
            begun: Vec::new(),
            copies_begun: 0,
            published_to: None,
            confirmed: None,
            lower_bounds: BTreeMap::new(),
            now: Instant::now(),
            copying: Copying::default(),
        }
    }

    pub fn epoch(&self) -> Epoch {
        let confirmations = self.confirmations.as_ref();
        confirmations.expect("streaming").epoch()
    }

    pub fn open_batch(&mut self) -> u64 {
        self.batches_opened += 1;
        self.acks.insert(self.batches_opened, Acks::default());
        self.batches_opened
    }

    pub fn send_record(&mut self, part: usize, record: Stored, batch: u64) {
        self.acks.entry(batch).or_default().sent += 1;
        self.producer
            .send(Place::Part(part), What::Record(record), batch);
    }

    pub fn send_entry(&mut self, entry: Entry) {
        self.producer
            .send(Place::Log, What::Entry(Box::new(entry)), ENTRIES);
    }

    /// An acknowledgement has come; it may name no offset.
    pub fn acknowledged(&mut self, place: Place, batch: u64, what: &What, offset: Option<i64>) {
        match (place, what) {
            (Place::Log, What::Entry(entry)) => match **entry {
                Entry::Epoch(_) => self.epoch_acked = Some(offset),
                Entry::Batch(_) | Entry::CopyBegin(_) | Entry::CopyEnd(_) => {
                    self.entries_acked.push_back(offset);
                }
            },
            (Place::Part(part), What::Record(_)) => {
                let acks = self.acks.entry(batch).or_default();
                acks.acknowledged += 1;
                let acked = acks.parts.entry(part).or_insert(Acked {
                    last: None,
                    largest_named: None,
                    count: 0,
                });
                acked.last = offset;
                acked.largest_named = acked.largest_named.max(offset);
                acked.count += 1;
            }
            (Place::Log, What::Record(_)) | (Place::Part(_), What::Entry(_)) => {
                panic!("entries go into the log, records into partitions")
            }
        }
    }

    /// Whether it waits for the slot and has not had it.
    pub fn never_held(&self) -> bool {
        self.found.is_none()
    }

    /// Whether it works on a connection that it once had.
    pub fn is_past_slot(&self) -> bool {
        match self.phase {
            Phase::Prepare | Phase::Read | Phase::Slot => false,
            Phase::Epoch | Phase::Fate => self.found.is_some(),
            Phase::Found | Phase::Judge | Phase::Stream => true,
        }
    }

    /// The highest boundary that it may publish of what it has received.
    pub fn orders_end(&self) -> Option<Lsn> {
        let ordered = self.orders.iter().filter_map(|order| match order {
            Order::Batch(closed, _) => Some(closed.to),
            Order::CopyBegin(_) | Order::CopyEnd(_) => None,
        });
        ordered.chain(self.received).chain(self.published_to).max()
    }

    pub fn captures(&self, oid: Oid) -> bool {
        self.captured.iter().any(|c| c.relation == oid)
    }
}

impl World {
    /// One step of a source, whatever it can do now.
    pub fn source_step(&mut self, at: usize) -> Walk {
        match self.sources[at].phase {
            Phase::Prepare => self.prepare(at),
            Phase::Read => self.read_log(at),
            Phase::Slot => self.start_replication(at),
            Phase::Found => self.look_at_leader(at),
            Phase::Epoch => {
                self.append_epoch(at);
                Ok(())
            }
            Phase::Fate => self.learn_fate(at),
            Phase::Judge => self.judge_leader(at),
            Phase::Stream => match self.random.below(10) {
                0..3 => {
                    self.consume(at);
                    Ok(())
                }
                3..6 => self.publish(at),
                6..9 => self.copy_step(at),
                _feedback => self.report(at),
            },
        }
    }
}
