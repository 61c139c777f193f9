//! A chunk while it is put together: records decoded into rows, table by table.
//!
//! Invariants: the changes of a table stand in strictly increasing position; a new schema version
//! begins a new [`TableChanges`]; the two halves of a MOVE are never parted. What is ordered to be
//! passed over is not decoded: it may be undecodable.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, NEW_PIPELINE, Result};
use crate::log::codec::{RecordDecoder, commit_time_ms};
use crate::log::header::RecordHeader;
use crate::log::records::Record;
use crate::model::{
    Change, Op, Rows, SchemaVersion, Skipped, Skips, TableChanges, TableName, TableSchema,
};

/// Finds the schema of a version; [`SchemaStore::get`](crate::log::schemas::SchemaStore::get).
pub type FindSchema = Box<dyn FnMut(SchemaVersion) -> Result<Arc<TableSchema>> + Send + Sync>;

/// Decoders of the schema versions met so far, compiled once.
pub struct Decoders {
    find: FindSchema,
    known: HashMap<SchemaVersion, Arc<RecordDecoder>>,
}

impl Decoders {
    /// None yet.
    pub fn new(find: FindSchema) -> Self {
        Decoders {
            find,
            known: HashMap::new(),
        }
    }

    /// The decoder of a version.
    ///
    /// # Errors
    /// As [`SchemaStore::get`](crate::log::schemas::SchemaStore::get).
    pub fn get(&mut self, version: SchemaVersion) -> Result<Arc<RecordDecoder>> {
        if let Some(decoder) = self.known.get(&version) {
            return Ok(decoder.clone());
        }
        let decoder = Arc::new(RecordDecoder::new((self.find)(version)?));
        self.known.insert(version, decoder.clone());
        Ok(decoder)
    }
}

/// One record, put together from its pieces, held until its turn.
#[derive(Debug, Default)]
pub struct Held {
    header: Option<RecordHeader>,
    value: Vec<u8>,
    moved: Vec<u8>,
    is_moved: bool,
    /// Pieces still to come: (next index, count).
    pieces: Option<(u32, u32)>,
}

impl Held {
    /// The header of the record, once it is whole.
    pub fn whole(&self) -> Option<&RecordHeader> {
        match self.pieces {
            None => self.header.as_ref(),
            Some(_) => None,
        }
    }

    /// Whether pieces are missing.
    pub fn in_pieces(&self) -> bool {
        self.pieces.is_some()
    }

    /// The value's bytes, once it is whole.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Forgets the record, keeps the memory.
    pub fn clear(&mut self) {
        self.header = None;
        self.pieces = None;
        self.is_moved = false;
        self.value.clear();
        self.moved.clear();
    }

    /// Takes a record or a piece of one. A tombstone leaves nothing.
    ///
    /// # Errors
    /// Halt when pieces do not follow one another.
    pub fn absorb(&mut self, header: &RecordHeader, record: &Record<'_>) -> Result<()> {
        let piece = record.part.map(|part| (part.index, part.count));
        match (self.pieces, piece) {
            (None, None) if record.value.is_none() => return Ok(()),
            (None, None | Some((0, _))) => {
                self.clear();
                self.header = Some(*header);
            }
            (Some((next, count)), Some(piece)) if piece == (next, count) => {}
            (None | Some(_), None | Some(_)) => return Err(broken_pieces(header)),
        }
        self.value
            .extend_from_slice(record.value.unwrap_or_default());
        if let (false, Some(key)) = (self.is_moved, record.new_key.or(record.old_key)) {
            self.is_moved = true;
            self.moved.extend_from_slice(key);
        }
        self.pieces = piece
            .map(|(index, count)| (index + 1, count))
            .filter(|(next, count)| next < count);
        Ok(())
    }
}

fn broken_pieces(header: &RecordHeader) -> Error {
    Error::halt(
        format!(
            "a record in several pieces at {} is not whole: Kafka no longer holds what it acknowledged",
            header.position
        ),
        NEW_PIPELINE,
    )
}

struct Open {
    index: usize,
    version: SchemaVersion,
    decoder: Arc<RecordDecoder>,
}

/// A number for a table in a [`ChunkBuilder`].
#[derive(Clone, Copy, Debug)]
pub struct Slot(usize);

/// Collects changes until its budget is full.
pub struct ChunkBuilder {
    budget_bytes: usize,
    slots: Vec<(TableName, Option<Open>)>,
    numbers: HashMap<TableName, usize>,
    tables: Vec<TableChanges>,
    size_bytes: usize,
    changes: u64,
    max_changes: u64,
    half_a_move: bool,
    /// Whether commit times are noted.
    keeps_times: bool,
    skips: Skips,
    skipped: Vec<Skipped>,
    /// The first half of a MOVE was passed over: its second half follows.
    skipping_a_move: bool,
}

impl ChunkBuilder {
    /// An empty chunk that is full at about `budget_bytes` of rows in memory.
    pub fn new(budget_bytes: usize) -> Self {
        ChunkBuilder {
            budget_bytes,
            slots: Vec::new(),
            numbers: HashMap::new(),
            tables: Vec::new(),
            size_bytes: 0,
            changes: 0,
            max_changes: u64::MAX,
            half_a_move: false,
            keeps_times: false,
            skips: Skips::new(),
            skipped: Vec::new(),
            skipping_a_move: false,
        }
    }

    /// Passes over the changes at these positions from now on; a MOVE is named by either half.
    pub fn skip(&mut self, skips: Skips) {
        self.skips = skips;
    }

    /// Notes when changes were committed, from now on.
    pub fn keep_times(&mut self) {
        self.keeps_times = true;
    }

    /// What was passed over since the last call.
    pub fn take_skipped(&mut self) -> Vec<Skipped> {
        std::mem::take(&mut self.skipped)
    }

    /// From now on the chunk is full at so many changes, whatever their size.
    pub fn limit_changes(&mut self, max_changes: u64) {
        self.max_changes = max_changes;
    }

    /// The table's number: the same for the builder's life.
    pub fn slot(&mut self, table: &TableName) -> Slot {
        if let Some(&number) = self.numbers.get(table) {
            return Slot(number);
        }
        let number = self.slots.len();
        self.slots.push((table.clone(), None));
        self.numbers.insert(table.clone(), number);
        Slot(number)
    }

    /// Whether the chunk is to be closed: its budget is used up, and no MOVE is cut in two.
    pub fn is_full(&self) -> bool {
        let used_up = self.size_bytes >= self.budget_bytes || self.changes >= self.max_changes;
        used_up && !self.half_a_move && !self.skipping_a_move
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Changes in it.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Decodes a whole record and appends it to its table.
    ///
    /// # Errors
    /// Halt when the bytes are not a record of its schema, or the schema is another table's.
    pub fn append(&mut self, slot: Slot, held: &Held, decoders: &mut Decoders) -> Result<()> {
        let header = held.whole().expect("only whole records are appended");
        if self.is_skipped(slot, header, held.is_moved) {
            return Ok(());
        }
        let open = self.open(slot, header, decoders)?;
        let (index, decoder) = (open.index, open.decoder.clone());
        let TableChanges {
            rows,
            changes,
            times_ms,
            ..
        } = &mut self.tables[index];
        let before_bytes = rows.size_bytes();
        let mut change = decoder.value(header.position, &held.value, rows)?;
        if held.is_moved {
            let key = decoder
                .key(&held.moved, rows)
                .map_err(|error| error.at(header.position))?;
            change.moved = Some(key);
        }
        self.half_a_move = change.moved.is_some() && change.op == Op::Delete;
        changes.push(change);
        if self.keeps_times {
            times_ms.push(commit_time_ms(&held.value));
        }
        self.size_bytes += rows.size_bytes() - before_bytes + size_of::<Change>();
        self.changes += 1;
        Ok(())
    }

    /// Whether the record is passed over; if so, notes it.
    fn is_skipped(&mut self, slot: Slot, header: &RecordHeader, is_moved: bool) -> bool {
        if std::mem::take(&mut self.skipping_a_move) {
            return true;
        }
        if !self.skips.contains(&header.position) {
            return false;
        }
        let (table, open) = &self.slots[slot.0];
        self.skipped.push(Skipped {
            position: header.position,
            table: table.clone(),
        });
        match open {
            // The second half: the first one is the table's last change.
            Some(open) if is_moved && self.half_a_move => {
                self.tables[open.index].changes.pop();
                self.tables[open.index].times_ms.pop();
                self.changes -= 1;
                self.half_a_move = false;
            }
            Some(_) | None => self.skipping_a_move = is_moved,
        }
        true
    }

    fn open(
        &mut self,
        slot: Slot,
        header: &RecordHeader,
        decoders: &mut Decoders,
    ) -> Result<&Open> {
        let (table, open) = &mut self.slots[slot.0];
        if open
            .as_ref()
            .is_none_or(|open| open.version != header.version)
        {
            let decoder = decoders.get(header.version)?;
            let schema = decoder.schema();
            if schema.table != *table {
                return Err(Error::halt(
                    format!(
                        "the record at {} in the topic of table {table} has the schema of table {}",
                        header.position, schema.table
                    ),
                    format!("stop what else writes to this pipeline's topics; then {NEW_PIPELINE}"),
                ));
            }
            self.tables.push(TableChanges {
                rows: Rows::new(schema.columns.len()),
                schema: schema.clone(),
                changes: Vec::new(),
                times_ms: Vec::new(),
            });
            *open = Some(Open {
                index: self.tables.len() - 1,
                version: header.version,
                decoder,
            });
        }
        Ok(open.as_ref().expect("opened above"))
    }

    /// What was collected; the builder is empty again.
    pub fn take(&mut self) -> Vec<TableChanges> {
        for (_, open) in &mut self.slots {
            *open = None;
        }
        self.size_bytes = 0;
        self.changes = 0;
        std::mem::take(&mut self.tables)
    }
}
