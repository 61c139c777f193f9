//! The leader: transactions, their states, the publication, the slot, fail-over.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use walferry::log::codec::{Field, Origin, RecordEncoder};
use walferry::log::takeover::TimelineSwitch;
use walferry::model::{
    Column, ColumnKind, Lsn, Oid, Op, ReplicaIdentity, SchemaVersion, TableName, TableSchema,
};

use crate::random::Random;

/// The model's tables: `s.a` and `s.b`.
pub const TABLES: [usize; 2] = [0, 1];
const FIRST_OID: u32 = 16_384;
/// Keys a table.
const KEYS: usize = 5;

pub fn name(table: usize) -> TableName {
    TableName::new("s", ["a", "b"][table])
}

/// The OID of a table's n-th incarnation.
pub fn oid(table: usize, generation: u32) -> Oid {
    Oid(FIRST_OID + 2 * generation + u32::try_from(table).expect("two tables"))
}

pub fn table_of(oid: Oid) -> usize {
    usize::try_from((oid.0 - FIRST_OID) % 2).expect("two tables")
}

/// In the model a table has one schema version: its OID.
pub fn version(oid: Oid) -> SchemaVersion {
    SchemaVersion(u64::from(oid.0))
}

pub fn schema(oid: Oid, partitions: [u32; 2]) -> Arc<TableSchema> {
    let column = |name: &str| Column {
        name: name.to_owned(),
        type_oid: Oid(25),
        type_modifier: -1,
        type_name: "text".to_owned(),
        kind: ColumnKind::Text,
        not_null: false,
        number: None,
        fill: None,
    };
    Arc::new(TableSchema {
        table: name(table_of(oid)),
        relation: oid,
        columns: ["id", "small", "big"].map(column).to_vec(),
        key: vec![0],
        primary_key: vec![0],
        identity: ReplicaIdentity::Default,
        partitions: partitions[table_of(oid)],
        types: Vec::new(),
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    })
}

/// The columns `small` and `big` by key.
pub type Rows = BTreeMap<String, [String; 2]>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableState {
    pub oid: Oid,
    pub rows: Rows,
}

/// A record without its epoch: what pgoutput and the encoder make of a change.
#[derive(Clone, Debug)]
pub struct Draft {
    pub oid: Oid,
    pub partition: i32,
    /// None: a tombstone.
    pub value: Option<Rc<[u8]>>,
    pub new_key: Option<Rc<[u8]>>,
    pub old_key: Option<Rc<[u8]>>,
    /// Whether the publication had the table for it.
    pub published: bool,
}

#[derive(Debug)]
pub struct Txn {
    pub commit: Lsn,
    pub end: Lsn,
    pub drafts: Vec<Draft>,
    /// What it did, for traces.
    pub what: String,
}

/// A transaction that has begun to write.
struct Open {
    serial: u64,
    publication: BTreeSet<Oid>,
}

pub struct Slot {
    pub confirmed: Lsn,
    pub persisted: Lsn,
    pub holder: Option<usize>,
}

pub struct Leader {
    pub txns: Vec<Rc<Txn>>,
    states: Vec<(Lsn, [Rc<TableState>; 2])>,
    encoders: BTreeMap<Oid, Rc<RecordEncoder>>,
    partitions: [u32; 2],
    generations: [u32; 2],
    pub wal_end: u64,
    open: Option<Open>,
    begun: u64,
    pub publication: BTreeSet<Oid>,
    pub timeline: u32,
    timelines: u32,
    pub history: Vec<TimelineSwitch>,
    pub slot: Slot,
    pub remaining: usize,
    values: u64,
}

impl Leader {
    pub fn new(partitions: [u32; 2], transactions: usize) -> Self {
        let state = TABLES.map(|table| {
            Rc::new(TableState {
                oid: oid(table, 0),
                rows: Rows::new(),
            })
        });
        Leader {
            txns: Vec::new(),
            states: vec![(Lsn::ZERO, state)],
            encoders: BTreeMap::new(),
            partitions,
            generations: [0, 0],
            wal_end: 10,
            open: None,
            begun: 0,
            publication: BTreeSet::new(),
            timeline: 1,
            timelines: 1,
            history: Vec::new(),
            slot: Slot {
                confirmed: Lsn(10),
                persisted: Lsn(10),
                holder: None,
            },
            remaining: transactions,
            values: 0,
        }
    }

    pub fn oid_now(&self, table: usize) -> Oid {
        oid(table, self.generations[table])
    }

    /// The tables as transactions that commit below `boundary` left them.
    pub fn state_at(&self, boundary: Lsn) -> &[Rc<TableState>; 2] {
        let below = self
            .states
            .iter()
            .rev()
            .find(|(commit, _)| *commit < boundary);
        &below.unwrap_or(&self.states[0]).1
    }

    fn state(&self) -> &[Rc<TableState>; 2] {
        &self.states.last().expect("the empty state at least").1
    }

    /// A transaction begins, or the one that has begun commits.
    pub fn go_on(&mut self, random: &mut Random) -> Option<Rc<Txn>> {
        match self.open.take() {
            None if self.remaining > 0 => {
                self.begun += 1;
                self.open = Some(Open {
                    serial: self.begun,
                    publication: self.publication.clone(),
                });
                None
            }
            None => None,
            Some(open) => Some(self.commit(&open, random)),
        }
    }

    pub fn is_in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// Transactions begun before this number must have ended before a slot is consistent.
    pub fn waits_for(&self) -> u64 {
        self.begun
    }

    pub fn has_ended(&self, serial: u64) -> bool {
        self.open.as_ref().is_none_or(|open| open.serial > serial)
    }

    /// The WAL end moves without a transaction.
    pub fn idle_wal(&mut self) -> Lsn {
        self.wal_end += 3;
        Lsn(self.wal_end)
    }

    fn commit(&mut self, open: &Open, random: &mut Random) -> Rc<Txn> {
        self.remaining -= 1;
        let commit = Lsn(self.wal_end + 4);
        let end = Lsn(self.wal_end + 8);
        self.wal_end = end.0;
        let mut state = self.state().clone();
        let (mut drafts, mut what) = (Vec::new(), format!("txn {commit}:"));
        let changes = 1 + random.below(4);
        for change in 0..changes {
            let table = random.below(2);
            let state = Rc::make_mut(&mut state[table]);
            let first = drafts.len();
            self.change(state, commit, random, &mut drafts, &mut what);
            // What a transaction wrote before a table joined, or after it left, is not sent.
            let (then, now) = (&open.publication, &self.publication);
            let publication = if change < changes / 2 { then } else { now };
            for draft in &mut drafts[first..] {
                draft.published = publication.contains(&draft.oid);
            }
        }
        let txn = Rc::new(Txn {
            commit,
            end,
            drafts,
            what,
        });
        self.states.push((commit, state));
        self.txns.push(Rc::clone(&txn));
        txn
    }

    fn change(
        &mut self,
        state: &mut TableState,
        commit: Lsn,
        random: &mut Random,
        drafts: &mut Vec<Draft>,
        what: &mut String,
    ) {
        let key = random.below(KEYS).to_string();
        let kind = random.below(100);
        let mut draft = Drafting {
            encoder: self.encoder(state.oid),
            oid: state.oid,
            commit,
            drafts,
        };
        self.values += 1;
        let new = format!("v{}", self.values);
        let table = &name(table_of(state.oid)).name;
        let Some(old) = state.rows.get(&key).cloned() else {
            let row = [new.clone(), format!("big{new}")];
            draft.put(Op::Insert, &key, [Some(&row[0]), Some(&row[1])], None);
            what.push_str(&format!(" c {table}{key}"));
            state.rows.insert(key, row);
            return;
        };
        let free = (0..KEYS)
            .map(|k| k.to_string())
            .find(|k| !state.rows.contains_key(k));
        let with_big = kind.is_multiple_of(2);
        let row = [
            new.clone(),
            if with_big {
                format!("big{new}")
            } else {
                old[1].clone()
            },
        ];
        let cells = [Some(row[0].as_str()), with_big.then_some(row[1].as_str())];
        match (kind, free) {
            (0..30, _) => {
                draft.delete(&key, None);
                what.push_str(&format!(" d {table}{key}"));
                state.rows.remove(&key);
            }
            (30..36, _) => {
                draft.truncate();
                what.push_str(&format!(" t {table}"));
                state.rows.clear();
            }
            (36..55, Some(to)) => {
                draft.delete(&key, Some(&to));
                draft.put(Op::Insert, &to, cells, Some(&key));
                what.push_str(&format!(" m {table}{key}>{to}"));
                state.rows.remove(&key);
                state.rows.insert(to, row);
            }
            (_, _) => {
                draft.put(Op::Update, &key, cells, None);
                what.push_str(&format!(" u {table}{key}"));
                state.rows.insert(key, row);
            }
        }
    }

    fn encoder(&mut self, oid: Oid) -> Rc<RecordEncoder> {
        let partitions = self.partitions;
        let made = self
            .encoders
            .entry(oid)
            .or_insert_with(|| Rc::new(RecordEncoder::new(schema(oid, partitions), "p", "d")));
        Rc::clone(made)
    }

    /// A temporary slot is consistent: its point, and the tables as they are there.
    pub fn snapshot(&mut self) -> (Lsn, [Rc<TableState>; 2]) {
        let point = self.idle_wal();
        (point, self.state_at(point).clone())
    }

    /// The bytes of a row of a copy, and its partition.
    pub fn copied(&mut self, oid: Oid, key: &str, row: &[String; 2], point: Lsn) -> Draft {
        let mut drafts = Vec::new();
        let mut draft = Drafting {
            encoder: self.encoder(oid),
            oid,
            commit: point,
            drafts: &mut drafts,
        };
        draft.put(Op::Read, key, [Some(&row[0]), Some(&row[1])], None);
        drafts.pop().expect("one row")
    }

    /// DROP TABLE and CREATE TABLE of the same name: another OID, no rows, not published.
    pub fn recreate(&mut self, table: usize) {
        self.publication.remove(&self.oid_now(table));
        self.generations[table] += 1;
        let commit = Lsn(self.wal_end + 4);
        self.wal_end += 8;
        let mut state = self.state().clone();
        state[table] = Rc::new(TableState {
            oid: self.oid_now(table),
            rows: Rows::new(),
        });
        self.states.push((commit, state));
    }

    /// A standby that has all WAL up to `switch` is promoted. What committed behind it is gone.
    pub fn fail_over(&mut self, switch: Lsn) {
        self.open = None;
        let lost = self.txns.iter().filter(|txn| txn.end > switch).count();
        self.remaining += lost;
        self.txns.truncate(self.txns.len() - lost);
        self.states.retain(|(commit, _)| *commit < switch);
        self.wal_end = switch.0;
        // A standby that lags behind an earlier switch never followed it.
        let followed = self.history.iter().position(|before| before.end > switch);
        let branch = followed.map_or(self.timeline, |at| self.history[at].timeline);
        self.history
            .truncate(followed.unwrap_or(self.history.len()));
        self.history.push(TimelineSwitch {
            timeline: branch,
            end: switch,
        });
        self.timelines += 1;
        self.timeline = self.timelines;
        self.slot.persisted = self.slot.persisted.min(switch);
        self.slot.confirmed = self.slot.persisted;
        self.slot.holder = None;
    }

    /// Whether a timeline is its own or an ancestor of it.
    pub fn follows(&self, timeline: u32) -> bool {
        let mut ancestors = self.history.iter();
        self.timeline == timeline || ancestors.any(|switch| switch.timeline == timeline)
    }

    pub fn last_end(&self) -> Lsn {
        self.txns.last().map_or(Lsn(10), |txn| txn.end)
    }
}

/// Encodes the records of one change.
struct Drafting<'a> {
    encoder: Rc<RecordEncoder>,
    oid: Oid,
    commit: Lsn,
    drafts: &'a mut Vec<Draft>,
}

impl Drafting<'_> {
    fn key(&self, key: &str) -> Rc<[u8]> {
        let row = [Field::Text(key.as_bytes()), Field::Absent, Field::Absent];
        let mut out = Vec::new();
        self.encoder.key(&row, &mut out).expect("a key");
        out.into()
    }

    fn push(&mut self, op: Op, partition: i32, rows: [Option<&[Field<'_>]>; 2]) -> &mut Draft {
        let origin = Origin {
            commit_time_us: 0,
            xid: 1,
            lsn: self.commit,
        };
        let mut value = Vec::new();
        self.encoder
            .value(op, rows[0], rows[1], &origin, &mut value)
            .expect("a row");
        self.drafts.push(Draft {
            oid: self.oid,
            partition,
            value: Some(value.into()),
            new_key: None,
            old_key: None,
            published: true,
        });
        self.drafts.last_mut().expect("pushed above")
    }

    fn put(&mut self, op: Op, key: &str, cells: [Option<&str>; 2], moved_from: Option<&str>) {
        let [small, big] =
            cells.map(|cell| cell.map_or(Field::Absent, |text| Field::Text(text.as_bytes())));
        let row = [Field::Text(key.as_bytes()), small, big];
        let partition = self.encoder.partition(&self.key(key));
        let old_key = moved_from.map(|key| self.key(key));
        self.push(op, partition, [None, Some(&row)]).old_key = old_key;
    }

    /// A delete and its tombstone; or the first half of a key change.
    fn delete(&mut self, key: &str, moved_to: Option<&str>) {
        let row = [Field::Text(key.as_bytes()), Field::Absent, Field::Absent];
        let partition = self.encoder.partition(&self.key(key));
        let new_key = moved_to.map(|key| self.key(key));
        let deleted = self.push(Op::Delete, partition, [Some(&row), None]);
        deleted.new_key = new_key;
        let tombstone = Draft {
            value: None,
            new_key: None,
            ..deleted.clone()
        };
        self.drafts.push(tombstone);
    }

    fn truncate(&mut self) {
        self.push(Op::Truncate, 0, [None, None]);
    }
}
