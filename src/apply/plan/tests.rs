//! Each rule by example, and against a store that applies change by change, by property.

mod properties;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::error::Class;
use crate::model::{Column, ColumnKind, Oid, ReplicaIdentity, TableName};

/// Columns `a`, `k1`, `big`, `k2`; the key is (k2, k1).
const WIDTH: usize = 4;
const KEY: [usize; 2] = [3, 1];

/// A key as the tests name it.
type Key = u32;
/// Texts of `a` and `big`; `None` is NULL.
type Values = [Option<String>; 2];
type Table = BTreeMap<Key, Values>;

fn schema(key: &[usize]) -> Arc<TableSchema> {
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
        table: TableName::new("public", "items"),
        relation: Oid(16_384),
        columns: ["a", "k1", "big", "k2"].map(column).to_vec(),
        key: key.to_vec(),
        primary_key: key.to_vec(),
        identity: ReplicaIdentity::Default,
        partitions: 1,
        types: Vec::new(),
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    })
}

/// The texts of `k2` and `k1`: those of keys 0 and 1, and of 2 and 3, join to the same bytes.
fn key_texts(key: Key) -> (String, String) {
    match key {
        0 => ("1".into(), "23".into()),
        1 => ("12".into(), "3".into()),
        2 => (String::new(), "x".into()),
        3 => ("x".into(), String::new()),
        other => ("n".into(), other.to_string()),
    }
}

/// A column's part of a change.
#[derive(Clone, Debug)]
enum Part {
    Set(String),
    Null,
    Absent,
}

/// Builds a table's changes.
struct Log {
    rows: Rows,
    changes: Vec<Change>,
}

impl Log {
    fn new() -> Self {
        Log {
            rows: Rows::new(WIDTH),
            changes: Vec::new(),
        }
    }

    fn row(&mut self, key: Key, parts: Option<&[Part; 2]>) -> RowRef {
        let row = self.rows.add_row();
        let (k2, k1) = key_texts(key);
        for (column, text) in [(3, k2), (1, k1)] {
            self.rows.row_mut(row)[column] = self.rows.push_text(text.as_bytes());
        }
        for (column, part) in [0, 2].into_iter().zip(parts.into_iter().flatten()) {
            let cell = match part {
                Part::Set(text) => self.rows.push_text(text.as_bytes()),
                Part::Null => Cell::Null,
                Part::Absent => Cell::Absent,
            };
            self.rows.row_mut(row)[column] = cell;
        }
        row
    }

    fn push(
        &mut self,
        op: Op,
        before: Option<RowRef>,
        after: Option<RowRef>,
        moved: Option<RowRef>,
    ) {
        let position = Position {
            commit: Lsn(0x100),
            ordinal: small(self.changes.len()),
        };
        self.changes.push(Change {
            op,
            position,
            before,
            after,
            moved,
        });
    }

    fn insert(&mut self, key: Key, parts: &[Part; 2]) {
        let after = self.row(key, Some(parts));
        self.push(Op::Insert, None, Some(after), None);
    }

    fn update(&mut self, key: Key, parts: &[Part; 2]) {
        let after = self.row(key, Some(parts));
        self.push(Op::Update, None, Some(after), None);
    }

    fn delete(&mut self, key: Key) {
        let before = self.row(key, None);
        self.push(Op::Delete, Some(before), None, None);
    }

    fn rekey(&mut self, from: Key, to: Key, parts: &[Part; 2]) {
        let (before, new_key) = (self.row(from, None), self.row(to, None));
        self.push(Op::Delete, Some(before), None, Some(new_key));
        let (after, old_key) = (self.row(to, Some(parts)), self.row(from, None));
        self.push(Op::Insert, None, Some(after), Some(old_key));
    }

    fn truncate(&mut self) {
        self.push(Op::Truncate, None, None, None);
    }

    fn table(self, key: &[usize]) -> TableChanges {
        TableChanges {
            schema: schema(key),
            rows: self.rows,
            changes: self.changes,
            times_ms: Vec::new(),
        }
    }
}

fn set(a: &str, big: &str) -> [Part; 2] {
    [Part::Set(a.to_owned()), Part::Set(big.to_owned())]
}

fn set_a(a: &str) -> [Part; 2] {
    [Part::Set(a.to_owned()), Part::Absent]
}

fn values(a: &str, big: &str) -> Values {
    [Some(a.to_owned()), Some(big.to_owned())]
}

/// The key of a row, by its texts.
fn key_of(rows: &Rows, row: RowRef) -> Key {
    let text = |column: usize| {
        let text = rows.text(rows.row(row)[column]).expect("key cells are set");
        String::from_utf8(text.to_vec()).expect("test texts are UTF-8")
    };
    let texts = (text(KEY[0]), text(KEY[1]));
    (0..100)
        .find(|key| key_texts(*key) == texts)
        .expect("one of the test's keys")
}

/// Writes the columns that a row has over `old`.
fn overlay(rows: &Rows, row: RowRef, mut old: Values) -> Values {
    for (place, column) in [0, 2].into_iter().enumerate() {
        match rows.row(row)[column] {
            Cell::Absent => {}
            Cell::Null => old[place] = None,
            cell @ Cell::Text { .. } => {
                let text = rows.text(cell).expect("a text has bytes");
                old[place] = Some(String::from_utf8(text.to_vec()).expect("UTF-8"));
            }
        }
    }
    old
}

/// Applies a plan as a store does; `Err` where a store would find the follower diverged.
fn apply(plan: &TablePlan, mut table: Table) -> Result<Table, String> {
    for step in &plan.steps {
        match step {
            Step::Truncate => table.clear(),
            Step::Net(net) => apply_net(&plan.rows, net, &mut table)?,
            Step::Ordered(_) => return Err("a table with a key has no order".into()),
        }
    }
    Ok(table)
}

fn apply_net(rows: &Rows, net: &NetChange, table: &mut Table) -> Result<(), String> {
    for row in &net.deletes {
        let key = key_of(rows, *row);
        table
            .remove(&key)
            .ok_or(format!("delete of missing {key}"))?;
    }
    for group in &net.updates {
        assert!(!group.columns.is_empty() && group.columns.is_sorted());
        for row in &group.rows {
            let present = |c: &usize| rows.row(*row)[*c] != Cell::Absent && !KEY.contains(c);
            let columns: Vec<usize> = (0..WIDTH).filter(present).collect();
            assert_eq!(columns, group.columns);
            let key = key_of(rows, *row);
            let old = table
                .get_mut(&key)
                .ok_or(format!("update of missing {key}"))?;
            *old = overlay(rows, *row, old.clone());
        }
    }
    let mut lifted = Vec::new();
    for (old_key, row) in &net.moves {
        let key = key_of(rows, *old_key);
        let old = table.remove(&key).ok_or(format!("move of missing {key}"))?;
        lifted.push((key_of(rows, *row), overlay(rows, *row, old)));
    }
    let whole = |row: &RowRef| !rows.row(*row).contains(&Cell::Absent);
    assert!(net.inserts.iter().all(whole), "an insert is whole");
    let inserted = net
        .inserts
        .iter()
        .map(|row| (key_of(rows, *row), overlay(rows, *row, [None, None])));
    for (key, values) in lifted.into_iter().chain(inserted) {
        if table.insert(key, values).is_some() {
            return Err(format!("two rows under {key}"));
        }
    }
    Ok(())
}

/// The net change of a log that has no truncate.
fn net(log: Log) -> (NetChange, Rows) {
    let plan = plan(log.table(&KEY)).expect("changes that fit together");
    match <[Step; 1]>::try_from(plan.steps) {
        Ok([Step::Net(net)]) => (net, plan.rows),
        other => panic!("{other:?}"),
    }
}

/// Keys deleted, updated (with the number of columns), moved and inserted.
type Shape = (Vec<Key>, Vec<(Key, usize)>, Vec<(Key, Key)>, Vec<Key>);

fn shape(log: Log) -> Shape {
    let (net, rows) = net(log);
    let key = |row: &RowRef| key_of(&rows, *row);
    let updates = net
        .updates
        .iter()
        .flat_map(|group| group.rows.iter().map(|row| (key(row), group.columns.len())));
    (
        net.deletes.iter().map(key).collect(),
        updates.collect(),
        net.moves
            .iter()
            .map(|(old, row)| (key(old), key(row)))
            .collect(),
        net.inserts.iter().map(key).collect(),
    )
}

#[test]
fn the_first_and_last_change_of_a_key_decide() {
    let mut log = Log::new();
    log.insert(10, &set("1", "1")); // c..d: nothing
    log.delete(10);
    log.insert(11, &set("1", "1")); // c..u: insert
    log.update(11, &set_a("2"));
    log.update(12, &set_a("1")); // u..u: update of all that is known
    log.update(12, &[Part::Absent, Part::Null]);
    log.update(13, &set_a("1")); // u..d: delete
    log.delete(13);
    log.delete(14); // d..c: a replace
    log.insert(14, &set("1", "1"));
    log.update(15, &set_a("1"));
    log.update(16, &[Part::Absent, Part::Absent]); // nothing to set
    log.delete(17); // d..c..d: delete
    log.insert(17, &set("1", "1"));
    log.delete(17);
    let expected = (
        vec![13, 17],
        vec![(12, 2), (14, 2), (15, 1)],
        vec![],
        vec![11],
    );
    assert_eq!(shape(log), expected);
}

#[test]
fn updates_merge_into_what_an_earlier_change_said() {
    let mut log = Log::new();
    log.insert(10, &set("1", "big"));
    log.update(10, &set_a("2"));
    log.rekey(10, 11, &set_a("3"));
    let (net, rows) = net(log);
    assert_eq!(net.inserts.len(), 1);
    assert_eq!(
        overlay(&rows, net.inserts[0], [None, None]),
        values("3", "big")
    );
}

#[test]
fn what_is_no_step_is_named() {
    let mut log = Log::new();
    log.insert(10, &set("1", "1"));
    log.delete(10);
    log.update(11, &[Part::Absent, Part::Absent]);
    log.rekey(12, 13, &set_a("1"));
    log.rekey(13, 12, &set_a("2"));
    log.update(14, &set_a("1"));
    let (net, rows) = net(log);
    let keys = |all: &[RowRef]| {
        all.iter()
            .map(|row| key_of(&rows, *row))
            .collect::<Vec<Key>>()
    };
    assert_eq!(keys(&net.vanished), [10, 13]);
    assert_eq!(keys(&net.same), [11]);
    assert_eq!(keys(&net.returned), [12]);
}

#[test]
fn key_changes_resolve_to_first_and_last_key() {
    let mut chain = Log::new();
    chain.rekey(10, 11, &set_a("1"));
    chain.rekey(11, 12, &set_a("2"));
    assert_eq!(shape(chain), (vec![], vec![], vec![(10, 12)], vec![]));

    let mut swap = Log::new();
    swap.rekey(10, 99, &set_a("1"));
    swap.rekey(11, 10, &set_a("2"));
    swap.rekey(99, 11, &set_a("3"));
    assert_eq!(
        shape(swap),
        (vec![], vec![], vec![(11, 10), (10, 11)], vec![])
    );

    let mut there_and_back = Log::new();
    there_and_back.rekey(10, 11, &set_a("1"));
    there_and_back.rekey(11, 10, &set_a("2"));
    assert_eq!(
        shape(there_and_back),
        (vec![], vec![(10, 1)], vec![], vec![])
    );

    let mut moved_then_deleted = Log::new();
    moved_then_deleted.rekey(10, 11, &set_a("1"));
    moved_then_deleted.delete(11);
    assert_eq!(
        shape(moved_then_deleted),
        (vec![10], vec![], vec![], vec![])
    );

    let mut over_a_deleted_row = Log::new();
    over_a_deleted_row.delete(11);
    over_a_deleted_row.rekey(10, 11, &set_a("1"));
    over_a_deleted_row.insert(10, &set("1", "1"));
    assert_eq!(
        shape(over_a_deleted_row),
        (vec![11], vec![], vec![(10, 11)], vec![10])
    );

    let mut replaced_after_its_row_moved_and_died = Log::new();
    replaced_after_its_row_moved_and_died.rekey(10, 11, &set_a("1"));
    replaced_after_its_row_moved_and_died.insert(10, &set("1", "1"));
    replaced_after_its_row_moved_and_died.delete(11);
    assert_eq!(
        shape(replaced_after_its_row_moved_and_died),
        (vec![], vec![(10, 2)], vec![], vec![])
    );
}

#[test]
fn a_truncate_forgets_what_came_before_it() {
    let mut log = Log::new();
    log.update(10, &set_a("1"));
    log.truncate();
    log.insert(10, &set("1", "1"));
    log.truncate();
    log.insert(11, &set("1", "1"));
    let plan = plan(log.table(&KEY)).unwrap();
    assert_eq!((plan.steps.len(), plan.changes), (2, 5));
    assert_eq!((plan.first.ordinal, plan.last.ordinal), (0, 4));
    let start = Table::from([(10, values("0", "0")), (12, values("0", "0"))]);
    let expected = Table::from([(11, values("1", "1"))]);
    assert_eq!(apply(&plan, start), Ok(expected));
}

#[test]
fn tables_without_a_key_keep_their_order() {
    let mut log = Log::new();
    log.insert(10, &set("1", "1"));
    log.truncate();
    log.insert(11, &set("1", "1"));
    log.delete(11);
    let expected = log.changes[2..].to_vec();
    let plan = plan(log.table(&[])).unwrap();
    assert_eq!(plan.steps, vec![Step::Truncate, Step::Ordered(expected)]);

    let mut without_old_row = Log::new();
    without_old_row.update(10, &set("1", "1"));
    assert!(super::plan(without_old_row.table(&[])).is_err());
}

#[test]
fn updates_are_grouped_by_the_columns_they_have() {
    let mut log = Log::new();
    for round in 0..3 {
        log.update(10 + round * 3, &set_a("1"));
        log.update(11 + round * 3, &set("1", "1"));
        log.update(12 + round * 3, &[Part::Absent, Part::Null]);
    }
    let (net, _) = net(log);
    let groups = net.updates.iter();
    let groups: Vec<_> = groups.map(|g| (g.columns.clone(), g.rows.len())).collect();
    assert_eq!(groups, vec![(vec![0], 3), (vec![0, 2], 3), (vec![2], 3)]);
}

#[test]
fn contradictions_halt_with_table_and_position() {
    type Write = fn(&mut Log);
    let cases: [(&str, Write); 13] = [
        ("insert of a new key twice", |log| {
            log.insert(10, &set("1", "1"));
            log.insert(10, &set("1", "1"));
        }),
        ("insert over an updated row", |log| {
            log.update(10, &set_a("1"));
            log.insert(10, &set("1", "1"));
        }),
        ("update of a deleted row", |log| {
            log.delete(10);
            log.update(10, &set_a("1"));
        }),
        ("delete of a deleted row", |log| {
            log.delete(10);
            log.delete(10);
        }),
        ("update of a row that moved away", |log| {
            log.rekey(10, 11, &set_a("1"));
            log.update(10, &set_a("1"));
        }),
        ("key change over a row", |log| {
            log.update(11, &set_a("1"));
            log.rekey(10, 11, &set_a("1"));
        }),
        ("key change of a deleted row", |log| {
            log.delete(10);
            log.rekey(10, 11, &set_a("1"));
        }),
        ("update behind a truncate", |log| {
            log.truncate();
            log.update(10, &set_a("1"));
        }),
        ("an insert with absent columns", |log| {
            log.insert(10, &set_a("1"))
        }),
        ("a replace with absent columns", |log| {
            log.delete(10);
            log.insert(10, &set_a("1"));
        }),
        ("half a key change, delete", |log| {
            log.rekey(10, 11, &set_a("1"));
            log.changes.pop();
        }),
        ("half a key change, insert", |log| {
            log.rekey(10, 11, &set_a("1"));
            log.changes.remove(0);
        }),
        ("halves that do not belong together", |log| {
            log.rekey(10, 11, &set_a("1"));
            log.rekey(12, 13, &set_a("1"));
            log.changes.remove(1);
            log.changes.remove(1);
        }),
    ];
    for (name, write) in cases {
        let mut log = Log::new();
        write(&mut log);
        let error = plan(log.table(&KEY)).expect_err(name);
        assert_eq!(error.class(), Class::Halt, "{name}");
        let what = error.what();
        assert!(what.contains("public.items"), "{name}: {what}");
        assert!(what.contains("0/100:"), "{name}: {what}");
    }
}
