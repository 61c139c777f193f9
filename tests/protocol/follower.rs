//! A follower store with transactions: rows, and the checkpoint row that guards every commit.

use std::collections::BTreeMap;

use walferry::model::batch::Step;
use walferry::model::{
    Cell, Checkpoint, NetChange, RowRef, Rows, TableChanges, TableName, TablePlan,
};

use crate::leader;
use crate::world::{Violation, Walk, violation};

/// One statement of a follower transaction.
#[derive(Clone)]
pub enum Statement {
    Empty(TableName),
    Load(TableChanges),
    Apply(Vec<TablePlan>),
}

/// A follower transaction, from its guard to COMMIT.
#[derive(Clone)]
pub struct Transaction {
    pub session: u64,
    pub owner: u64,
    /// The checkpoint it builds on; `None`: the very first.
    pub from: Option<Checkpoint>,
    pub statements: Vec<Statement>,
    pub to: Checkpoint,
}

/// How the checkpoint's row is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    OwnerAndVersion,
    /// A mutant: the boundary and log offset instead of the version.
    Place,
    /// A mutant.
    None,
}

#[derive(Default)]
pub struct Follower {
    pub owner: u64,
    pub checkpoint: Option<Checkpoint>,
    pub tables: BTreeMap<TableName, leader::Rows>,
}

impl Follower {
    /// Takes the ownership and reads the checkpoint.
    pub fn claim(&mut self, owner: u64) -> Option<Checkpoint> {
        if self.checkpoint.is_some() {
            self.owner = owner;
        }
        self.checkpoint.clone()
    }

    fn admits(&self, transaction: &Transaction, guard: Guard) -> bool {
        match (&self.checkpoint, &transaction.from, guard) {
            (_, _, Guard::None) => true,
            (None, None, _) => true,
            (Some(stored), Some(from), Guard::OwnerAndVersion) => {
                self.owner == transaction.owner
                    && stored.version == from.version
                    && stored.applied == from.applied
            }
            (Some(stored), Some(from), Guard::Place) => {
                self.owner == transaction.owner
                    && stored.applied == from.applied
                    && stored.log.next_offset == from.log.next_offset
            }
            (Some(_), None, _) | (None, Some(_), _) => false,
        }
    }

    /// Executes a transaction whole, or not at all where its guard finds another checkpoint.
    pub fn execute(&mut self, transaction: Transaction, guard: Guard) -> Walk<bool> {
        if !self.admits(&transaction, guard) {
            return Ok(false);
        }
        for statement in &transaction.statements {
            match statement {
                Statement::Empty(table) => self.rows(table).clear(),
                Statement::Load(rows) => self.load(rows)?,
                Statement::Apply(plans) => {
                    for plan in plans {
                        self.apply(plan)?;
                    }
                }
            }
        }
        self.owner = transaction.owner;
        self.checkpoint = Some(transaction.to);
        Ok(true)
    }

    fn rows(&mut self, table: &TableName) -> &mut leader::Rows {
        self.tables.entry(table.clone()).or_default()
    }

    fn load(&mut self, loaded: &TableChanges) -> Walk {
        let table = &loaded.schema.table;
        for change in &loaded.changes {
            let row = change.after.expect("a row of a copy");
            let (key, cells) = whole(&loaded.rows, row, table)?;
            if self.rows(table).insert(key.clone(), cells).is_some() {
                return Err(diverged(table, &format!("row {key} of a copy twice")));
            }
        }
        Ok(())
    }

    fn apply(&mut self, plan: &TablePlan) -> Walk {
        let table = &plan.schema.table;
        for step in &plan.steps {
            match step {
                Step::Truncate => self.rows(table).clear(),
                Step::Net(net) => self.apply_net(table, &plan.rows, net)?,
                Step::Ordered(_) => panic!("the model's tables have keys"),
            }
        }
        Ok(())
    }

    fn apply_net(&mut self, table: &TableName, rows: &Rows, net: &NetChange) -> Walk {
        let missing = |key: &str| diverged(table, &format!("row {key} is not there"));
        let stored = self.rows(table);
        for row in &net.deletes {
            let key = key(rows, *row);
            stored.remove(&key).ok_or_else(|| missing(&key))?;
        }
        for row in net.updates.iter().flat_map(|group| &group.rows) {
            let key = key(rows, *row);
            let cells = stored.get_mut(&key).ok_or_else(|| missing(&key))?;
            merge(cells, rows, *row);
        }
        let mut moved = Vec::new();
        for (from, row) in &net.moves {
            let from = key(rows, *from);
            let mut cells = stored.remove(&from).ok_or_else(|| missing(&from))?;
            merge(&mut cells, rows, *row);
            moved.push((key(rows, *row), cells));
        }
        for row in &net.inserts {
            moved.push(whole(rows, *row, table)?);
        }
        for (key, cells) in moved {
            if stored.insert(key.clone(), cells).is_some() {
                return Err(diverged(table, &format!("row {key} is there already")));
            }
        }
        Ok(())
    }
}

fn diverged(table: &TableName, what: &str) -> Violation {
    violation("diverged", format!("table {table}: {what}"))
}

fn text(rows: &Rows, cell: Cell) -> Option<String> {
    let text = rows.text(cell)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn key(rows: &Rows, row: RowRef) -> String {
    text(rows, rows.row(row)[0]).expect("keys are never absent")
}

fn merge(cells: &mut [String; 2], rows: &Rows, row: RowRef) {
    for (cell, new) in cells.iter_mut().zip(&rows.row(row)[1..]) {
        if let Some(text) = text(rows, *new) {
            *cell = text;
        }
    }
}

fn whole(rows: &Rows, row: RowRef, table: &TableName) -> Walk<(String, [String; 2])> {
    let cells = rows.row(row);
    match (text(rows, cells[1]), text(rows, cells[2])) {
        (Some(small), Some(big)) => Ok((key(rows, row), [small, big])),
        (_, _) => Err(diverged(table, "a new row lacks columns")),
    }
}
