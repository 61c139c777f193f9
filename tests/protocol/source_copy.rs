//! The source's maker of copies: begin entry, point, rows, end entry. Which tables need one is
//! decided by the real `needed`.

use std::collections::BTreeMap;
use std::rc::Rc;

use walferry::capture::copy_choice::needed;
use walferry::log::commit_log::{CopyBegin, CopyEnd, Entry, Extent, Extents};
use walferry::log::header::{CopyHeader, RecordHeader};
use walferry::model::{Lsn, Oid, TableName};

use crate::kafka::{Stored, position};
use crate::leader::{TABLES, TableState, name, version};
use crate::mutants::Mutant;
use crate::source::{Order, Source};
use crate::world::{Walk, World};

/// What a copy has taken from the leader.
#[derive(Clone, Debug)]
pub struct Snapshot {
    point: Lsn,
    /// Rows still to send.
    rows: Vec<(Oid, String, [String; 2])>,
}

#[derive(Default)]
pub enum CopyState {
    #[default]
    Idle,
    /// The begin entry is ordered, and found again by its bounds in the copy topics.
    Ordered(CopyBegin),
    /// The begin entry is valid; the slot waits for transactions begun before it.
    Begun { id: i64, waits_for: u64 },
    /// Rows are sent.
    Rows { id: i64, batch: u64, left: Snapshot },
    /// All rows are sent.
    Sent { id: i64, batch: u64, point: Lsn },
    /// The end entry is ordered.
    Ended { id: i64, end: CopyEnd },
}

#[derive(Default)]
pub struct Copying {
    pub state: CopyState,
    tables: Vec<TableName>,
    /// A mutant takes it before the begin entry.
    early: Option<Snapshot>,
    sequences: BTreeMap<usize, i64>,
    made: BTreeMap<TableName, i64>,
}

impl World {
    pub fn copy_step(&mut self, at: usize) -> Walk {
        if !self.scenario.copies {
            return Ok(());
        }
        let faults = !self.calm && self.random.chance(3);
        let state = &self.sources[at].copying.state;
        let has_connection = match state {
            CopyState::Begun { .. } | CopyState::Rows { .. } | CopyState::Sent { .. } => true,
            CopyState::Idle | CopyState::Ordered(_) | CopyState::Ended { .. } => false,
        };
        if faults && has_connection {
            // The snapshot is gone with it.
            self.sources[at].copying.state = CopyState::Idle;
            self.say(|| format!("S{at} loses its copy"));
            return Ok(());
        }
        match std::mem::take(&mut self.sources[at].copying.state) {
            CopyState::Idle => self.begin_copy(at),
            CopyState::Ordered(begin) => {
                self.sources[at].copying.state = CopyState::Ordered(begin);
            }
            CopyState::Begun { id, waits_for } => self.open_snapshot(at, id, waits_for),
            CopyState::Rows { id, batch, left } => self.send_rows(at, id, batch, left),
            CopyState::Sent { id, batch, point } => self.end_copy(at, id, batch, point),
            CopyState::Ended { id, end } => {
                self.sources[at].copying.state = CopyState::Ended { id, end };
            }
        }
        Ok(())
    }

    fn begin_copy(&mut self, at: usize) {
        let remembered = self.is(Mutant::TrimmedCopiesRemembered);
        let asked = self.progress.values().any(|p| !p.wants.is_empty());
        if asked && !remembered {
            let low = self.kafka.borrow().log_low;
            self.sources[at].ledger.cut(low);
        }
        let source = &self.sources[at];
        let captured: Vec<TableName> = source.captured.iter().map(|c| c.table.clone()).collect();
        let mut tables = needed(
            &captured,
            &source.ledger,
            &self.progress,
            &source.copying.made,
        );
        // Entries of a log without any boundary could not be told from repeats.
        if tables.is_empty() || source.published_to.is_none() {
            return;
        }
        if tables.len() > 1 && self.random.chance(40) {
            tables = vec![tables.swap_remove(self.random.below(tables.len()))];
        }
        let kafka = self.kafka.borrow();
        let mut offsets: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
        for table in &tables {
            let topic = self.terms.topics.copy(table);
            for part in kafka.of_topic(&topic) {
                let bounds = offsets.entry(topic.clone()).or_default();
                bounds.insert(kafka.partitions[part].number, kafka.high(part));
            }
        }
        drop(kafka);
        let early = self.is(Mutant::PointBeforeBegin);
        let early = early.then(|| self.snapshot_of(at, &tables));
        let source = &mut self.sources[at];
        let begin = CopyBegin {
            epoch: source.epoch(),
            number: 0,
            tables: tables.clone(),
            at: None,
            offsets,
            indexes: Vec::new(),
        };
        source.orders.push_back(Order::CopyBegin(begin.clone()));
        source.copying.tables = tables;
        source.copying.early = early;
        source.copying.state = CopyState::Ordered(begin);
    }

    fn snapshot_of(&mut self, at: usize, tables: &[TableName]) -> Snapshot {
        let (point, state): (Lsn, [Rc<TableState>; 2]) = self.leader.snapshot();
        let mut rows = Vec::new();
        for table in TABLES.into_iter().filter(|t| tables.contains(&name(*t))) {
            let state = &state[table];
            let all = state.rows.iter();
            rows.extend(all.map(|(key, row)| (state.oid, key.clone(), row.clone())));
        }
        self.random.shuffle(&mut rows);
        self.say(|| format!("S{at} has a snapshot of {} at {point}", list(tables)));
        Snapshot { point, rows }
    }

    /// An entry of a copy was acknowledged, and the log up to it is known.
    pub fn copy_entry_known(&mut self, at: usize, entry: &Entry, offset: Option<i64>) {
        let bare = self.is(Mutant::BareCopyBegin);
        let source = &mut self.sources[at];
        let state = std::mem::take(&mut source.copying.state);
        source.copying.state = match (entry, state) {
            (Entry::CopyBegin(sent), CopyState::Ordered(begin)) if same(sent, &begin) => {
                let valid = source.begun.iter().find(|(_, found)| found == sent);
                let id = valid.map(|(id, _)| *id).or(offset.filter(|_| bare));
                source.begun.clear();
                match id {
                    Some(id) => CopyState::Begun {
                        id,
                        waits_for: self.leader.waits_for(),
                    },
                    None => CopyState::Idle,
                }
            }
            (Entry::CopyEnd(sent), CopyState::Ended { id, end }) if *sent == end => {
                note_copy(source, id, end);
                CopyState::Idle
            }
            (_of_a_copy_given_up, state) => state,
        };
    }

    fn open_snapshot(&mut self, at: usize, id: i64, waits_for: u64) {
        if !self.leader.has_ended(waits_for) && !self.is(Mutant::PointWithoutWaiting) {
            self.sources[at].copying.state = CopyState::Begun { id, waits_for };
            return;
        }
        // A new connection: after a fail-over it is one to another leader.
        let another = self.sources[at].connected != Some(self.leader.timeline);
        if another && !self.is(Mutant::PointOfAnotherLeader) {
            return;
        }
        let tables = self.sources[at].copying.tables.clone();
        let left = match self.sources[at].copying.early.take() {
            Some(early) => early,
            None => self.snapshot_of(at, &tables),
        };
        let source = &mut self.sources[at];
        let batch = source.open_batch();
        source.copying.sequences.clear();
        source.copying.state = CopyState::Rows { id, batch, left };
    }

    fn send_rows(&mut self, at: usize, id: i64, batch: u64, mut left: Snapshot) {
        for _ in 0..1 + self.random.below(3) {
            let Some((oid, key, row)) = left.rows.pop() else {
                let point = left.point;
                self.sources[at].copying.state = CopyState::Sent { id, batch, point };
                return;
            };
            let draft = self.leader.copied(oid, &key, &row, left.point);
            let table = name(crate::leader::table_of(oid));
            let topic = self.terms.topics.copy(&table);
            let part = self.kafka.borrow().find(&topic, draft.partition);
            let source = &mut self.sources[at];
            let sequence = source.copying.sequences.entry(part).or_insert(0);
            let record = Stored {
                header: RecordHeader {
                    epoch: source.confirmations.as_ref().expect("streaming").epoch(),
                    position: position(left.point, 0),
                    version: version(oid),
                },
                copy: Some(CopyHeader {
                    copy: id,
                    sequence: *sequence,
                }),
                value: draft.value,
                new_key: None,
                old_key: None,
            };
            *sequence += 1;
            source.send_record(part, record, batch);
        }
        self.sources[at].copying.state = CopyState::Rows { id, batch, left };
    }

    fn end_copy(&mut self, at: usize, id: i64, batch: u64, point: Lsn) {
        let early = self.is(Mutant::EndsEarlyAndTakesEffectAtOnce);
        let source = &mut self.sources[at];
        let logged = source.published_to.is_some_and(|to| to >= point);
        if !source.acks[&batch].complete() || !(logged || early) {
            source.copying.state = CopyState::Sent { id, batch, point };
            return;
        }
        let acks = source.acks.remove(&batch).expect("looked at above");
        let kafka = self.kafka.borrow();
        let mut rows = Extents::new();
        for table in &source.copying.tables {
            let topic = self.terms.topics.copy(table);
            for part in kafka.of_topic(&topic) {
                let extent = match acks.parts.get(&part) {
                    Some(acked) => Extent {
                        last: acked.last.unwrap_or(kafka.high(part) - 1),
                        count: acked.count,
                    },
                    None => Extent { last: -1, count: 0 },
                };
                let number = kafka.partitions[part].number;
                rows.entry(topic.clone())
                    .or_default()
                    .insert(number, extent);
            }
        }
        drop(kafka);
        let end = CopyEnd {
            epoch: source.epoch(),
            copy: id,
            point,
            rows,
        };
        source
            .orders
            .push_back(Order::CopyEnd(Entry::CopyEnd(end.clone())));
        source.copying.state = CopyState::Ended { id, end };
    }
}

/// Notes the finished copy as a reader of the log would.
fn note_copy(source: &mut Source, id: i64, end: CopyEnd) {
    let tables = source.copying.tables.clone();
    let begin = CopyBegin {
        epoch: source.epoch(),
        number: 0,
        tables: tables.clone(),
        at: None,
        offsets: BTreeMap::new(),
        indexes: Vec::new(),
    };
    source.ledger.valid(id, &Entry::CopyBegin(begin));
    source.ledger.valid(id + 1, &Entry::CopyEnd(end));
    let made = tables.into_iter().map(|table| (table, id));
    source.copying.made.extend(made);
}

/// Whether the entry sent is the one ordered: the writer has added bounds and boundary.
fn same(sent: &CopyBegin, ordered: &CopyBegin) -> bool {
    let copy_topics = ordered.offsets.iter();
    sent.tables == ordered.tables
        && copy_topics
            .into_iter()
            .all(|(topic, bounds)| sent.offsets.get(topic) == Some(bounds))
}

pub fn list(tables: &[TableName]) -> String {
    let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
    names.join("+")
}
