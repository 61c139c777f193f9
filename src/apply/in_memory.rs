//! A table's records in memory, for tests: what is read from Kafka elsewhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::partitions::Records;
use crate::error::Result;
use crate::log::codec::{Field, Origin, RecordEncoder};
use crate::log::header::{PartHeader, RecordHeader};
use crate::log::records::Record;
use crate::model::{
    Column, ColumnKind, Cursors, Epoch, Lsn, Oid, Op, Position, ReplicaIdentity, SchemaVersion,
    TableName, TableSchema,
};

pub(super) const TOPIC: &str = "p.public.a";

pub(super) fn schema(columns: usize) -> Arc<TableSchema> {
    let column = |n: usize| Column {
        name: format!("c{n}"),
        type_oid: Oid(if n == 0 { 23 } else { 25 }),
        type_modifier: -1,
        type_name: if n == 0 { "integer" } else { "text" }.to_owned(),
        kind: if n == 0 {
            ColumnKind::Integer
        } else {
            ColumnKind::Text
        },
        not_null: n == 0,
        number: None,
        fill: None,
    };
    Arc::new(TableSchema {
        table: TableName::new("public", "a"),
        relation: Oid(1),
        columns: (0..columns).map(column).collect(),
        key: vec![0],
        primary_key: vec![0],
        identity: ReplicaIdentity::Default,
        partitions: 2,
        types: Vec::new(),
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    })
}

/// A record in memory.
#[derive(Clone)]
pub(super) struct Stored {
    header: RecordHeader,
    part: Option<PartHeader>,
    pub(super) new_key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
}

pub(super) fn stored(epoch: u64, commit: u64, ordinal: u32) -> Stored {
    of_version(2, epoch, commit, ordinal)
}

/// An insert into a table of so many columns; the key is the ordinal.
pub(super) fn of_version(columns: usize, epoch: u64, commit: u64, ordinal: u32) -> Stored {
    let encoder = RecordEncoder::new(schema(columns), "p", "d");
    let key = ordinal.to_string();
    let mut row = vec![Field::Text(b"some text of a column that takes room"); columns];
    row[0] = Field::Text(key.as_bytes());
    let origin = Origin {
        commit_time_us: 0,
        xid: 1,
        lsn: Lsn(commit),
    };
    let mut value = Vec::new();
    encoder
        .value(Op::Insert, None, Some(&row), &origin, &mut value)
        .expect("a row");
    let position = Position {
        commit: Lsn(commit),
        ordinal,
    };
    Stored {
        header: RecordHeader {
            epoch: Epoch(epoch),
            position,
            version: SchemaVersion(columns as u64),
        },
        part: None,
        new_key: None,
        value: Some(value),
    }
}

/// The first half of a MOVE: a delete of key 1 that names the new key.
pub(super) fn moved_away(epoch: u64, commit: u64, ordinal: u32) -> Stored {
    let encoder = RecordEncoder::new(schema(2), "p", "d");
    let row = [Field::Text(b"1"), Field::Absent];
    let origin = Origin {
        commit_time_us: 0,
        xid: 1,
        lsn: Lsn(commit),
    };
    let mut value = Vec::new();
    encoder
        .value(Op::Delete, Some(&row), None, &origin, &mut value)
        .expect("a key");
    Stored {
        new_key: Some(b"{\"c0\":2}".to_vec()),
        value: Some(value),
        ..stored(epoch, commit, ordinal)
    }
}

pub(super) fn tombstone(of: &Stored, ordinal: u32) -> Stored {
    let mut tombstone = of.clone();
    tombstone.header.position.ordinal = ordinal;
    tombstone.value = None;
    tombstone.new_key = None;
    tombstone
}

pub(super) fn in_pieces(record: &Stored, count: u32) -> Vec<Stored> {
    let value = record.value.as_ref().expect("a value to cut");
    let size = value.len().div_ceil(count as usize);
    let cut = |(index, piece): (u32, &[u8])| {
        let mut part = record.clone();
        part.header.position.ordinal += index;
        part.part = Some(PartHeader { index, count });
        part.value = Some(piece.to_vec());
        part
    };
    (0..).zip(value.chunks(size)).map(cut).collect()
}

#[derive(Clone, Default)]
pub(super) struct Memory {
    partitions: HashMap<i32, Vec<Stored>>,
    /// What retention has taken ends here.
    pub(super) low: i64,
    positions: HashMap<i32, i64>,
}

impl Records for Memory {
    fn assign(&mut self, _topic: &str, partition: i32, offset: i64) -> Result<()> {
        self.positions.insert(partition, offset);
        Ok(())
    }
    fn unassign(&mut self, _topic: &str, partition: i32) -> Result<()> {
        self.positions.remove(&partition);
        Ok(())
    }
    fn next<R>(
        &mut self,
        _topic: &str,
        partition: i32,
        _timeout: Duration,
        take: impl FnOnce(Record<'_>) -> R,
    ) -> Result<Option<R>> {
        let position = self.positions.get_mut(&partition).expect("assigned");
        assert!(*position >= self.low, "read below the low watermark");
        let at = usize::try_from(*position).expect("not negative");
        let record = self.partitions[&partition]
            .get(at)
            .expect("no test reads beyond the end");
        let taken = take(Record {
            offset: *position,
            header: Some(record.header),
            copy: None,
            part: record.part,
            new_key: record.new_key.as_deref(),
            old_key: None,
            key: None,
            value: record.value.as_deref(),
        });
        *position += 1;
        Ok(Some(taken))
    }
    fn watermarks(&self, _topic: &str, partition: i32) -> Result<(i64, i64)> {
        Ok((self.low, self.partitions[&partition].len() as i64))
    }
    fn lows(&self, partitions: &[(&str, i32)]) -> Result<Vec<i64>> {
        Ok(vec![self.low; partitions.len()])
    }
    fn introduce(&mut self, _topics: &[&str]) {}
}

pub(super) fn memory(partitions: &[Vec<Stored>]) -> Memory {
    Memory {
        partitions: (0..).zip(partitions.iter().cloned()).collect(),
        ..Memory::default()
    }
}

pub(super) fn from_start(partitions: i32) -> Cursors {
    [(TOPIC.to_owned(), (0..partitions).map(|p| (p, 0)).collect())].into()
}
