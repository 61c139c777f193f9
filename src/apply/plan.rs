//! The planner: what a store must do so that one table shows the leader's state after a chunk.
//! Pure; no allocation a change but for growing lists.
//!
//! For a table with a key this is its *net change*. A row of the follower, or a row that the chunk
//! brings, is an **entity**; a key change moves an entity to another key. At the end every key says
//! who lives there now and whether a row lived there before:
//!
//! | before | now | step |
//! |---|---|---|
//! | row | the same entity | update of the columns that are known |
//! | row | nobody, and the row was deleted | delete |
//! | row, deleted | an entity of this chunk | update of all columns (a replace) |
//! | any | an entity that was elsewhere before | move (and delete of a deleted row) |
//! | none, or moved away | an entity of this chunk | insert |
//! | none | nobody | none; the key has vanished again |
//! | row | the same entity, nothing to set | none; it is the same |
//!
//! Columns that are absent in a later change keep what an earlier one said, so what stays absent is
//! what the follower has already. A truncate forgets everything before it. Tables without a key get
//! their changes as they were.
//!
//! The leader's keys are unique at every moment, so a change that finds its key taken, or gone, is
//! proof of a divergence. It is said, never repaired.

#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hash, Hasher};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::error::{Error, NEW_PIPELINE, Result};
use crate::model::batch::Step;
use crate::model::{
    Cell, Change, Lsn, NetChange, Op, Position, RowRef, Rows, TableChanges, TablePlan, TableSchema,
    UpdateGroup,
};

/// Plans one table's changes of one chunk. The halves of a key change (a delete with `moved`, an
/// insert with `moved`) must stand next to each other: a chunk never ends between them.
///
/// # Errors
/// Halt, with table and position, when the changes contradict each other.
pub fn plan(table: TableChanges) -> Result<TablePlan> {
    let TableChanges {
        schema,
        mut rows,
        changes,
        times_ms: _,
    } = table;
    let at = |change: Option<&Change>| change.map_or(NOWHERE, |change| change.position);
    let (first, last) = (at(changes.first()), at(changes.last()));
    let count = changes.len() as u64;

    let truncate = changes.iter().rposition(|c| c.op == Op::Truncate);
    let rest = &changes[truncate.map_or(0, |index| index + 1)..];
    let mut steps: Vec<Step> = truncate.iter().map(|_| Step::Truncate).collect();
    if !rest.is_empty() {
        steps.push(if schema.has_key() {
            let planner = Planner::new(&schema, &mut rows, truncate.is_some(), rest.len());
            Step::Net(planner.net_change(rest)?)
        } else {
            Step::Ordered(ordered(&schema, rest)?)
        });
    }
    Ok(TablePlan {
        schema,
        rows,
        steps,
        changes: count,
        first,
        last,
    })
}

/// Stands for the positions of a plan without changes.
const NOWHERE: Position = Position {
    commit: Lsn::ZERO,
    ordinal: 0,
};

/// The changes of a table without a key, checked for what their application needs.
fn ordered(schema: &TableSchema, changes: &[Change]) -> Result<Vec<Change>> {
    for change in changes {
        let complete = match change.op {
            Op::Insert => change.after.is_some(),
            Op::Update => change.before.is_some() && change.after.is_some(),
            Op::Delete => change.before.is_some(),
            Op::Read | Op::Truncate => false,
        };
        if !complete || change.moved.is_some() {
            return Err(violation(schema, change, Violation::Incomplete));
        }
    }
    Ok(changes.to_vec())
}

/// How changes can contradict each other.
#[derive(Clone, Copy, Debug)]
enum Violation {
    /// A new row whose key is taken.
    Taken,
    /// A change of a row that is not there any more.
    Gone,
    /// A row or column that the operation needs is missing.
    Incomplete,
    /// One half of a key change without the other.
    HalfMove,
}

#[cold]
fn violation(schema: &TableSchema, change: &Change, violation: Violation) -> Error {
    let what = match violation {
        Violation::Taken => "puts a row under a key that an earlier change of the batch filled",
        Violation::Gone => "changes a row that an earlier change of the batch removed",
        Violation::Incomplete => "lacks the row or columns that it needs",
        Violation::HalfMove => "is one half of a key change without the other",
    };
    Error::halt(
        format!(
            "table {}: the {} at {} {what}",
            schema.table,
            match change.op {
                Op::Insert => "insert",
                Op::Update => "update",
                Op::Delete => "delete",
                Op::Read => "copied row",
                Op::Truncate => "truncate",
            },
            change.position
        ),
        format!("report the table's definition with this message; then {NEW_PIPELINE}"),
    )
}

/// Index of a [`Slot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SlotId(u32);

/// Index of an [`Entity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EntityId(u32);

/// A key that the changes touch.
#[derive(Debug)]
struct Slot {
    hash: u64,
    /// A row with this key.
    key: RowRef,
    /// Who lived here before the changes.
    before: Option<EntityId>,
    /// Who lives here now.
    now: Option<EntityId>,
}

/// A row through all its changes.
#[derive(Debug)]
struct Entity {
    /// The key it had before the changes; `None` when it is new.
    origin: Option<SlotId>,
    /// What is known of its columns; `None` while nothing is.
    image: Option<RowRef>,
    alive: bool,
    /// It has been under another key than its first one.
    has_moved: bool,
}

struct Planner<'a> {
    schema: &'a TableSchema,
    rows: &'a mut Rows,
    /// Whether no row can have been there before: the changes follow a truncate.
    empty: bool,
    hash_builder: DefaultHashBuilder,
    by_key: HashTable<SlotId>,
    slots: Vec<Slot>,
    entities: Vec<Entity>,
}

impl<'a> Planner<'a> {
    fn new(schema: &'a TableSchema, rows: &'a mut Rows, empty: bool, changes: usize) -> Self {
        Planner {
            schema,
            rows,
            empty,
            hash_builder: DefaultHashBuilder::default(),
            by_key: HashTable::with_capacity(changes),
            slots: Vec::with_capacity(changes),
            entities: Vec::with_capacity(changes),
        }
    }

    fn net_change(mut self, changes: &[Change]) -> Result<NetChange> {
        let mut changes = changes.iter();
        while let Some(change) = changes.next() {
            match change.op {
                Op::Insert => self.insert(change)?,
                Op::Update => self.update(change)?,
                Op::Delete if change.moved.is_none() => self.delete(change)?,
                Op::Delete => {
                    let second = changes.next();
                    let second = second
                        .ok_or_else(|| violation(self.schema, change, Violation::HalfMove))?;
                    self.move_row(change, second)?;
                }
                Op::Read | Op::Truncate => {
                    return Err(violation(self.schema, change, Violation::Incomplete));
                }
            }
        }
        Ok(self.finish())
    }

    fn insert(&mut self, change: &Change) -> Result<()> {
        if change.moved.is_some() {
            return Err(violation(self.schema, change, Violation::HalfMove));
        }
        let after = self.need(change, change.after)?;
        if self.rows.row(after).contains(&Cell::Absent) {
            return Err(violation(self.schema, change, Violation::Incomplete));
        }
        let slot = self.vacant(change, after)?;
        let entity = self.add_entity(None, Some(after));
        self.slot_mut(slot).now = Some(entity);
        Ok(())
    }

    fn update(&mut self, change: &Change) -> Result<()> {
        let after = self.need(change, change.after)?;
        let (_, entity) = self.occupied(change, after)?;
        self.merge(entity, after);
        Ok(())
    }

    fn delete(&mut self, change: &Change) -> Result<()> {
        let before = self.need(change, change.before)?;
        let (slot, entity) = self.occupied(change, before)?;
        self.slot_mut(slot).now = None;
        self.entity_mut(entity).alive = false;
        Ok(())
    }

    /// Both halves of a key change: the entity leaves one key and lives under another.
    fn move_row(&mut self, delete: &Change, insert: &Change) -> Result<()> {
        let halves = (delete.moved, insert.moved, insert.op, insert.after);
        let (Some(new_key), Some(old_key), Op::Insert, Some(after)) = halves else {
            return Err(violation(self.schema, delete, Violation::HalfMove));
        };
        let before = self.need(delete, delete.before)?;
        let belong = delete.position.commit == insert.position.commit
            && same_key(self.schema, self.rows, before, old_key)
            && same_key(self.schema, self.rows, new_key, after);
        if !belong {
            return Err(violation(self.schema, delete, Violation::HalfMove));
        }
        let (from, entity) = self.occupied(delete, before)?;
        self.slot_mut(from).now = None;
        let to = self.vacant(insert, after)?;
        self.slot_mut(to).now = Some(entity);
        self.entity_mut(entity).has_moved = true;
        self.merge(entity, after);
        Ok(())
    }

    fn need(&self, change: &Change, row: Option<RowRef>) -> Result<RowRef> {
        row.ok_or_else(|| violation(self.schema, change, Violation::Incomplete))
    }

    /// The slot of a row's key, where nobody may live now.
    fn vacant(&mut self, change: &Change, row: RowRef) -> Result<SlotId> {
        let (slot, _) = self.slot_of(row);
        match self.slot(slot).now {
            None => Ok(slot),
            Some(_) => Err(violation(self.schema, change, Violation::Taken)),
        }
    }

    /// Who lives at a row's key. A key seen for the first time is that of a row of the follower.
    fn occupied(&mut self, change: &Change, row: RowRef) -> Result<(SlotId, EntityId)> {
        let (slot, first_seen) = self.slot_of(row);
        if first_seen && !self.empty {
            let entity = self.add_entity(Some(slot), None);
            let place = self.slot_mut(slot);
            place.before = Some(entity);
            place.now = Some(entity);
        }
        match self.slot(slot).now {
            Some(entity) => Ok((slot, entity)),
            None => Err(violation(self.schema, change, Violation::Gone)),
        }
    }

    /// `after` becomes the entity's image; what it does not say is taken from the image before.
    fn merge(&mut self, entity: EntityId, after: RowRef) {
        let known = self.entity_mut(entity).image.replace(after);
        let Some(known) = known else { return };
        for column in 0..self.rows.width() {
            if self.rows.row(after)[column] == Cell::Absent {
                self.rows.row_mut(after)[column] = self.rows.row(known)[column];
            }
        }
    }

    /// The slot of a row's key, and whether it was made just now.
    fn slot_of(&mut self, row: RowRef) -> (SlotId, bool) {
        let hash = self.hash_key(row);
        let (schema, rows, slots) = (self.schema, &*self.rows, &self.slots);
        let found = self.by_key.find(hash, |id| {
            let slot = &slots[id.0 as usize];
            slot.hash == hash && same_key(schema, rows, slot.key, row)
        });
        if let Some(id) = found {
            return (*id, false);
        }
        let id = SlotId(small(slots.len()));
        self.by_key
            .insert_unique(hash, id, |id| slots[id.0 as usize].hash);
        self.slots.push(Slot {
            hash,
            key: row,
            before: None,
            now: None,
        });
        (id, true)
    }

    fn hash_key(&self, row: RowRef) -> u64 {
        let mut hasher = self.hash_builder.build_hasher();
        let cells = self.rows.row(row);
        for &column in &self.schema.key {
            // A slice's hash begins with its length, so ("a", "bc") is not ("ab", "c").
            self.rows.text(cells[column]).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn add_entity(&mut self, origin: Option<SlotId>, image: Option<RowRef>) -> EntityId {
        let id = EntityId(small(self.entities.len()));
        self.entities.push(Entity {
            origin,
            image,
            alive: true,
            has_moved: false,
        });
        id
    }

    fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id.0 as usize]
    }

    fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[id.0 as usize]
    }

    fn entity_mut(&mut self, id: EntityId) -> &mut Entity {
        &mut self.entities[id.0 as usize]
    }

    /// Reads the table in the module's head, key by key, in the order of first touch.
    fn finish(self) -> NetChange {
        let mut net = NetChange::default();
        let mut groups = UpdateGroups::new(self.schema);
        for (index, slot) in self.slots.iter().enumerate() {
            let entity = |id: EntityId| &self.entities[id.0 as usize];
            let deleted = slot.before.is_some_and(|id| !entity(id).alive);
            let Some(now) = slot.now.map(entity) else {
                if deleted {
                    net.deletes.push(slot.key);
                } else if slot.before.is_none() {
                    net.vanished.push(slot.key);
                }
                continue;
            };
            let image = now
                .image
                .expect("every change that leaves an entity alive sets its image");
            match now.origin {
                None if deleted => groups.add(self.rows, image),
                None => net.inserts.push(image),
                Some(origin) if origin.0 as usize == index => {
                    groups.add(self.rows, image);
                    if now.has_moved {
                        net.returned.push(image);
                    }
                }
                Some(origin) => {
                    if deleted {
                        net.deletes.push(slot.key);
                    }
                    net.moves.push((self.slot(origin).key, image));
                }
            }
        }
        (net.updates, net.same) = (groups.groups, groups.same);
        net
    }
}

/// Updates gathered by the set of columns that they have.
struct UpdateGroups {
    /// Columns outside of the key, ascending.
    columns: Vec<usize>,
    groups: Vec<UpdateGroup>,
    /// Those with nothing to set.
    same: Vec<RowRef>,
    by_columns: HashTable<u32>,
    hash_builder: DefaultHashBuilder,
    /// The group of the update before: most often that of the next, too.
    latest: usize,
}

impl UpdateGroups {
    fn new(schema: &TableSchema) -> Self {
        let columns = 0..schema.columns.len();
        UpdateGroups {
            columns: columns
                .filter(|index| !schema.key.contains(index))
                .collect(),
            groups: Vec::new(),
            same: Vec::new(),
            by_columns: HashTable::new(),
            hash_builder: DefaultHashBuilder::default(),
            latest: 0,
        }
    }

    /// Adds an update.
    fn add(&mut self, rows: &Rows, image: RowRef) {
        let cells = rows.row(image);
        let is_set = |column: &usize| cells[*column] != Cell::Absent;
        let count = self.columns.iter().filter(|column| is_set(column)).count();
        if count == 0 {
            self.same.push(image);
            return;
        }
        let fits =
            |group: &UpdateGroup| group.columns.len() == count && group.columns.iter().all(is_set);
        if let Some(group) = self.groups.get_mut(self.latest)
            && fits(group)
        {
            group.rows.push(image);
            return;
        }
        let hash_of = |columns: &mut dyn Iterator<Item = usize>| {
            let mut hasher = self.hash_builder.build_hasher();
            columns.for_each(|column| hasher.write_usize(column));
            hasher.finish()
        };
        let hash = hash_of(&mut self.columns.iter().copied().filter(is_set));
        let groups = &mut self.groups;
        let found = self.by_columns.find(hash, |&id| fits(&groups[id as usize]));
        self.latest = match found {
            Some(&id) => id as usize,
            None => {
                let id = small(groups.len());
                self.by_columns.insert_unique(hash, id, |&id| {
                    hash_of(&mut groups[id as usize].columns.iter().copied())
                });
                groups.push(UpdateGroup {
                    columns: self.columns.iter().copied().filter(is_set).collect(),
                    rows: Vec::new(),
                });
                id as usize
            }
        };
        groups[self.latest].rows.push(image);
    }
}

fn small(index: usize) -> u32 {
    u32::try_from(index).expect("a chunk's budget keeps it below 2^32 rows")
}

/// Whether two rows have the same key texts.
fn same_key(schema: &TableSchema, rows: &Rows, a: RowRef, b: RowRef) -> bool {
    let (a, b) = (rows.row(a), rows.row(b));
    schema
        .key
        .iter()
        .all(|&column| rows.text(a[column]) == rows.text(b[column]))
}
