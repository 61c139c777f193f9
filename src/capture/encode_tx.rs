//! Row changes of one transaction → records. No allocation a value: fields point into the frame,
//! keys and values are written into the outbox.

use std::ops::Range;

use crate::capture::outbox::{Outbox, Outgoing};
use crate::capture::tables::CapturedTable;
use crate::error::{Error, Result};
use crate::log::codec::{Field, Origin};
use crate::log::header::{NEW_KEY_HEADER, OLD_KEY_HEADER, PartHeader, RecordHeader};
use crate::model::{Epoch, Lsn, Op, Position, TableName};
use crate::pgoutput::message::{Begin, Old};
use crate::pgoutput::tuple::{Datum, Tuple};

/// Encodes the changes of the transaction that is being received.
pub struct TxEncoder {
    epoch: Epoch,
    record_max_bytes: usize,
    position: Position,
    origin: Origin,
    old: Vec<Field<'static>>,
    new: Vec<Field<'static>>,
}

impl TxEncoder {
    /// For an epoch whose producer takes records of so many bytes.
    pub fn new(epoch: Epoch, record_max_bytes: usize) -> Self {
        TxEncoder {
            epoch,
            record_max_bytes,
            position: Position::default(),
            origin: Origin {
                commit_time_us: 0,
                xid: 0,
                lsn: Lsn::ZERO,
            },
            old: Vec::new(),
            new: Vec::new(),
        }
    }

    /// A transaction begins.
    pub fn begin(&mut self, begin: &Begin) {
        self.position = Position {
            commit: begin.commit,
            ordinal: 0,
        };
        self.origin.commit_time_us = begin.time_us;
        self.origin.xid = begin.xid;
    }

    /// The WAL LSN of the changes that follow.
    pub fn at(&mut self, lsn: Lsn) {
        self.origin.lsn = lsn;
    }

    /// An insert.
    pub fn insert(
        &mut self,
        table: &CapturedTable,
        new: &Tuple<'_>,
        out: &mut Outbox,
    ) -> Result<()> {
        let mut row = recycled(std::mem::take(&mut self.new));
        read(table, new, &mut row)?;
        let key = write_key(table, &row, out)?;
        let value = self.write_value(table, Op::Insert, None, Some(&row), out)?;
        self.new = recycled(row);
        self.push(table, key, Some(value), None, out)
    }

    /// An update: one record, or a MOVE when the key changed.
    pub fn update(
        &mut self,
        table: &CapturedTable,
        old: Option<&Old<'_>>,
        new: &Tuple<'_>,
        out: &mut Outbox,
    ) -> Result<()> {
        let mut before = recycled(std::mem::take(&mut self.old));
        let mut after = recycled(std::mem::take(&mut self.new));
        read(table, new, &mut after)?;
        let whole = match old {
            None => false,
            Some(old) => {
                let whole = read_old(table, old, &mut before)?;
                fill(&mut after, &before);
                whole
            }
        };
        let moved = old.is_some() && key_changed(&table.schema().key, &before, &after);
        if moved {
            self.key_change(table, &before, &after, out)?;
        } else {
            let key = write_key(table, &after, out)?;
            let before = whole.then_some(&before[..]);
            let value = self.write_value(table, Op::Update, before, Some(&after), out)?;
            self.push(table, key, Some(value), None, out)?;
        }
        self.old = recycled(before);
        self.new = recycled(after);
        Ok(())
    }

    /// One MOVE: the old key's delete and tombstone, then an insert under the new key.
    fn key_change(
        &mut self,
        table: &CapturedTable,
        before: &[Field<'_>],
        after: &[Field<'_>],
        out: &mut Outbox,
    ) -> Result<()> {
        let old_key = write_key(table, before, out)?;
        let new_key = write_key(table, after, out)?;
        let header = |name, key: &Option<Range<usize>>| key.clone().map(|key| (name, key));
        let gone = self.write_value(table, Op::Delete, Some(before), None, out)?;
        let to = header(NEW_KEY_HEADER, &new_key);
        self.push(table, old_key.clone(), Some(gone), to, out)?;
        self.push(table, old_key.clone(), None, None, out)?;
        let come = self.write_value(table, Op::Insert, None, Some(after), out)?;
        let from = header(OLD_KEY_HEADER, &old_key);
        self.push(table, new_key, Some(come), from, out)
    }

    /// A delete, and its tombstone where there is a key to forget.
    pub fn delete(&mut self, table: &CapturedTable, old: &Old<'_>, out: &mut Outbox) -> Result<()> {
        let mut before = recycled(std::mem::take(&mut self.old));
        read_old(table, old, &mut before)?;
        let key = write_key(table, &before, out)?;
        let value = self.write_value(table, Op::Delete, Some(&before), None, out)?;
        self.old = recycled(before);
        self.push(table, key.clone(), Some(value), None, out)?;
        if key.is_some() {
            self.push(table, key, None, None, out)?;
        }
        Ok(())
    }

    /// A truncate: one record in partition 0. Readers order the partitions of a table by position.
    pub fn truncate(&mut self, table: &CapturedTable, out: &mut Outbox) -> Result<()> {
        let value = self.write_value(table, Op::Truncate, None, None, out)?;
        self.push(table, None, Some(value), None, out)
    }

    fn write_value(
        &self,
        table: &CapturedTable,
        op: Op,
        before: Option<&[Field<'_>]>,
        after: Option<&[Field<'_>]>,
        out: &mut Outbox,
    ) -> Result<Range<usize>> {
        let start = out.len();
        table
            .encoder
            .value(op, before, after, &self.origin, out.bytes_mut())?;
        Ok(out.since(start))
    }

    fn push(
        &mut self,
        table: &CapturedTable,
        key: Option<Range<usize>>,
        value: Option<Range<usize>>,
        moved: Option<(&'static str, Range<usize>)>,
        out: &mut Outbox,
    ) -> Result<()> {
        let partition = match &key {
            Some(key) => table.encoder.partition(&out.bytes_mut()[key.clone()]),
            None => 0,
        };
        let slot = usize::try_from(partition)
            .ok()
            .and_then(|partition| table.slots.get(partition).copied())
            .expect("the encoder's partitions are the topic's");
        let mut record = Outgoing {
            slot,
            key,
            value,
            header: None,
            moved,
            part: None,
        };
        let count = Outbox::pieces(&record, self.record_max_bytes).map_err(|error| {
            error.at(format!(
                "table {} at {}",
                table.schema().table,
                self.position
            ))
        })?;
        let whole = match (&record.value, count) {
            (Some(value), 2..) => value.clone(),
            (Some(_) | None, _) => {
                record.header = Some(self.next_header(table)?);
                out.push(record);
                return Ok(());
            }
        };
        for index in 0..count {
            out.push(Outgoing {
                value: Some(Outbox::piece(&whole, index, count)),
                header: Some(self.next_header(table)?),
                part: Some(PartHeader { index, count }),
                ..record.clone()
            });
        }
        Ok(())
    }

    fn next_header(&mut self, table: &CapturedTable) -> Result<RecordHeader> {
        let header = RecordHeader {
            epoch: self.epoch,
            position: self.position,
            version: table.version,
        };
        self.position.ordinal = self.position.ordinal.checked_add(1).ok_or_else(|| {
            Error::halt(
                format!(
                    "the transaction with commit LSN {} has more than 2^32 records",
                    self.position.commit
                ),
                "this is a limit of walferry's record format; split such transactions",
            )
        })?;
        Ok(header)
    }
}

/// An empty vector with the memory of `fields`, for fields of another lifetime. (Collecting a
/// vector's own iterator keeps its allocation.)
pub(super) fn recycled<'a>(mut fields: Vec<Field<'_>>) -> Vec<Field<'a>> {
    fields.clear();
    fields
        .into_iter()
        .map(|_| unreachable!("the vector is empty"))
        .collect()
}

/// The leader sent what this walferry does not understand, and would send it again.
pub(super) fn not_understood(what: String) -> Error {
    Error::halt(
        what,
        "keep the replication slot and the topics as they are, and report this line with the leader's Postgres version: walferry resumes there once it understands it",
    )
}

fn width_error(table: &TableName, sent: usize, known: usize) -> Error {
    not_understood(format!(
        "the leader sent a row of {sent} columns of table {table}, which has {known}"
    ))
}

/// Fields of a whole row.
fn read<'a>(table: &CapturedTable, tuple: &Tuple<'a>, row: &mut Vec<Field<'a>>) -> Result<()> {
    let schema = table.schema();
    if tuple.len() != schema.columns.len() {
        return Err(width_error(
            &schema.table,
            tuple.len(),
            schema.columns.len(),
        ));
    }
    for datum in tuple.iter() {
        row.push(field(datum, &schema.table)?);
    }
    Ok(())
}

/// Fields of an old row; whether it is whole. In a key tuple all columns but the replica identity's
/// stand as NULL and are no information.
fn read_old<'a>(table: &CapturedTable, old: &Old<'a>, row: &mut Vec<Field<'a>>) -> Result<bool> {
    match old {
        Old::Full(tuple) => read(table, tuple, row).map(|()| true),
        Old::Key(tuple) => {
            read(table, tuple, row)?;
            for (field, &is_key) in row.iter_mut().zip(&table.is_key) {
                if !is_key {
                    *field = Field::Absent;
                }
            }
            Ok(false)
        }
    }
}

fn field<'a>(datum: Datum<'a>, table: &TableName) -> Result<Field<'a>> {
    match datum {
        Datum::Null => Ok(Field::Null),
        Datum::Unchanged => Ok(Field::Absent),
        Datum::Text(text) => Ok(Field::Text(text)),
        Datum::Binary(_) => Err(not_understood(format!(
            "the leader sent a binary value of table {table}, which was not asked for"
        ))),
    }
}

/// Takes over from the old row what the new one was not sent with: unchanged TOAST values, which an
/// old row of any kind carries in full.
fn fill<'a>(new: &mut [Field<'a>], old: &[Field<'a>]) {
    for (new, old) in new.iter_mut().zip(old) {
        if *new == Field::Absent {
            *new = *old;
        }
    }
}

/// Whether the row's key is another one now; for tables without a key never.
fn key_changed(key: &[usize], old: &[Field<'_>], new: &[Field<'_>]) -> bool {
    key.iter().any(|&index| old[index] != new[index])
}

fn write_key(
    table: &CapturedTable,
    row: &[Field<'_>],
    out: &mut Outbox,
) -> Result<Option<Range<usize>>> {
    if !table.schema().has_key() {
        return Ok(None);
    }
    let start = out.len();
    table.encoder.key(row, out.bytes_mut())?;
    Ok(Some(out.since(start)))
}

#[cfg(test)]
#[path = "encode_tx_tests.rs"]
mod tests;
