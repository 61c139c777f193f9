//! What a batch does to a table, and a checkpoint, made by hand: for tests of a sink by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use walferry::model::batch::Step;
use walferry::model::checkpoint::LogPlace;
use walferry::model::{
    Cell, Change, Checkpoint, Epoch, Lsn, NetChange, Op, Position, RowRef, Rows, TableName,
    TablePlan, TableSchema, UpdateGroup,
};

/// A cell of a row made by hand.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A text.
    V(&'a str),
    /// NULL.
    N,
    /// Absent.
    A,
}
pub use Value::{A, N, V};

pub fn add(rows: &mut Rows, cells: &[Value<'_>]) -> RowRef {
    assert_eq!(cells.len(), rows.width());
    let row = rows.add_row();
    for (n, value) in cells.iter().enumerate() {
        let cell = match value {
            V(text) => rows.push_text(text.as_bytes()),
            N => Cell::Null,
            A => Cell::Absent,
        };
        rows.row_mut(row)[n] = cell;
    }
    row
}

pub fn position(ordinal: u32) -> Position {
    Position {
        commit: Lsn(0xAB_CDEF),
        ordinal,
    }
}

pub fn change(op: Op, before: Option<RowRef>, after: Option<RowRef>) -> Change {
    Change {
        op,
        position: position(7),
        before,
        after,
        moved: None,
    }
}

/// A table's plan under construction.
pub struct Plan {
    pub schema: Arc<TableSchema>,
    pub rows: Rows,
    pub steps: Vec<Step>,
}

impl Plan {
    pub fn new(schema: &Arc<TableSchema>) -> Plan {
        Plan {
            schema: Arc::clone(schema),
            rows: Rows::new(schema.columns.len()),
            steps: vec![],
        }
    }

    fn net(&mut self) -> &mut NetChange {
        if !matches!(self.steps.last(), Some(Step::Net(_))) {
            self.steps.push(Step::Net(NetChange::default()));
        }
        match self.steps.last_mut() {
            Some(Step::Net(net)) => net,
            _ => unreachable!(),
        }
    }

    fn ordered(&mut self, change: Change) {
        if !matches!(self.steps.last(), Some(Step::Ordered(_))) {
            self.steps.push(Step::Ordered(vec![]));
        }
        match self.steps.last_mut() {
            Some(Step::Ordered(changes)) => changes.push(change),
            _ => unreachable!(),
        }
    }

    pub fn insert(mut self, cells: &[Value<'_>]) -> Plan {
        let row = add(&mut self.rows, cells);
        self.net().inserts.push(row);
        self
    }

    pub fn delete(mut self, key: &[Value<'_>]) -> Plan {
        let row = add(&mut self.rows, key);
        self.net().deletes.push(row);
        self
    }

    /// Columns that are not absent are set.
    pub fn update(mut self, cells: &[Value<'_>]) -> Plan {
        let row = add(&mut self.rows, cells);
        let key = self.schema.key.clone();
        let columns: Vec<usize> = (0..cells.len())
            .filter(|n| !key.contains(n) && !matches!(cells[*n], A))
            .collect();
        let groups = &mut self.net().updates;
        match groups.iter_mut().find(|group| group.columns == columns) {
            Some(group) => group.rows.push(row),
            None => groups.push(UpdateGroup {
                columns,
                rows: vec![row],
            }),
        }
        self
    }

    pub fn shift(mut self, old: &[Value<'_>], new: &[Value<'_>]) -> Plan {
        let (old, new) = (add(&mut self.rows, old), add(&mut self.rows, new));
        self.net().moves.push((old, new));
        self
    }

    pub fn truncate(mut self) -> Plan {
        self.steps.push(Step::Truncate);
        self
    }

    pub fn insert_next(mut self, cells: &[Value<'_>]) -> Plan {
        let row = add(&mut self.rows, cells);
        self.ordered(change(Op::Insert, None, Some(row)));
        self
    }

    pub fn delete_next(mut self, cells: &[Value<'_>]) -> Plan {
        let row = add(&mut self.rows, cells);
        self.ordered(change(Op::Delete, Some(row), None));
        self
    }

    pub fn update_next(mut self, old: &[Value<'_>], new: &[Value<'_>]) -> Plan {
        let (old, new) = (add(&mut self.rows, old), add(&mut self.rows, new));
        self.ordered(change(Op::Update, Some(old), Some(new)));
        self
    }

    pub fn done(self) -> TablePlan {
        let changes = self.steps.iter().map(|step| match step {
            Step::Truncate => 1,
            Step::Net(net) => {
                let updates: usize = net.updates.iter().map(|group| group.rows.len()).sum();
                net.deletes.len() + updates + 2 * net.moves.len() + net.inserts.len()
            }
            Step::Ordered(changes) => changes.len(),
        });
        TablePlan {
            changes: changes.sum::<usize>() as u64,
            schema: self.schema,
            rows: self.rows,
            steps: self.steps,
            first: position(7),
            last: position(9),
        }
    }
}

/// A checkpoint whose every field that a store keeps has something to be kept.
pub fn checkpoint(version: i64) -> Checkpoint {
    Checkpoint {
        version,
        applied: Lsn(0x100_0000 + version.cast_unsigned()),
        commit_time_us: Some(800_000_000_000_000 + version),
        log: LogPlace {
            next_offset: version,
            epoch: Some(Epoch(3)),
            to: Some(Lsn(0x100_0000)),
            last_valid: Some(1),
            captured: BTreeSet::from([TableName::new("public", "it's")]),
            fresh: false,
        },
        cursors: BTreeMap::from([("shop.public.a".to_owned(), BTreeMap::from([(0, 7)]))]),
        in_effect: BTreeSet::new(),
        joins: vec![],
        refused: BTreeMap::new(),
        system_id: Some("7".to_owned()),
        timeline: Some(1),
        cluster_id: Some("kafka".to_owned()),
        target: None,
        split: None,
        hold: None,
    }
}
