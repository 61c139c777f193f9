//! The binary headers of records.
//!
//! `walferry` stands on every record, tombstones and copy rows included: epoch (8 bytes), commit LSN
//! (8), ordinal (4), schema version (8), big-endian. For a copy row the commit LSN is the copy's
//! point C and the ordinal is 0.
//! `walferry.copy` stands on copy rows too: copy id (8), sequence number in the partition (8).
//! `walferry.part` stands on the pieces of a value too large for one record: index (4), count (4);
//! pieces are consecutive records of the partition with the same key, each with its own ordinal
//! (or sequence number), and each counts as a record in the commit log.

use crate::model::{Epoch, Lsn, Position, SchemaVersion};

/// Name of the header on every record.
pub const RECORD_HEADER: &str = "walferry";
/// Header of entries: the span that publishes them, as W3C Trace Context writes it.
pub const TRACE_HEADER: &str = "traceparent";
/// Name of the header on copy rows.
pub const COPY_HEADER: &str = "walferry.copy";
/// Name of the header on pieces of a large value.
pub const PART_HEADER: &str = "walferry.part";
/// Debezium's header on the delete of a key change: the new key.
pub const NEW_KEY_HEADER: &str = "__debezium.newkey";
/// Debezium's header on the insert of a key change: the old key.
pub const OLD_KEY_HEADER: &str = "__debezium.oldkey";

/// The `walferry` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Epoch of the source that wrote the record.
    pub epoch: Epoch,
    /// Position of the record.
    pub position: Position,
    /// Schema version of the value.
    pub version: SchemaVersion,
}

impl RecordHeader {
    /// Length in bytes.
    pub const LEN: usize = 28;

    /// The bytes on the wire.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.epoch.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.position.commit.0.to_be_bytes());
        out[16..20].copy_from_slice(&self.position.ordinal.to_be_bytes());
        out[20..].copy_from_slice(&self.version.0.to_be_bytes());
        out
    }

    /// Reads the bytes; `None` when the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (epoch, rest) = bytes.split_first_chunk::<8>()?;
        let (commit, rest) = rest.split_first_chunk::<8>()?;
        let (ordinal, rest) = rest.split_first_chunk::<4>()?;
        let version: &[u8; 8] = rest.try_into().ok()?;
        Some(RecordHeader {
            epoch: Epoch(u64::from_be_bytes(*epoch)),
            position: Position {
                commit: Lsn(u64::from_be_bytes(*commit)),
                ordinal: u32::from_be_bytes(*ordinal),
            },
            version: SchemaVersion(u64::from_be_bytes(*version)),
        })
    }
}

/// The `walferry.copy` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyHeader {
    /// The copy: offset of its `copy_begin` entry.
    pub copy: i64,
    /// Strictly increasing in the partition.
    pub sequence: i64,
}

impl CopyHeader {
    /// The bytes on the wire.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.copy.to_be_bytes());
        out[8..].copy_from_slice(&self.sequence.to_be_bytes());
        out
    }

    /// Reads the bytes; `None` when the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (copy, rest) = bytes.split_first_chunk::<8>()?;
        let sequence: &[u8; 8] = rest.try_into().ok()?;
        Some(CopyHeader {
            copy: i64::from_be_bytes(*copy),
            sequence: i64::from_be_bytes(*sequence),
        })
    }
}

/// The `walferry.part` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHeader {
    /// Number of this piece, from 0.
    pub index: u32,
    /// Pieces in all.
    pub count: u32,
}

impl PartHeader {
    /// The bytes on the wire.
    pub fn to_bytes(self) -> [u8; 8] {
        let mut out = [0; 8];
        out[..4].copy_from_slice(&self.index.to_be_bytes());
        out[4..].copy_from_slice(&self.count.to_be_bytes());
        out
    }

    /// Reads the bytes; `None` when the length is wrong or the index is not below the count.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (index, rest) = bytes.split_first_chunk::<4>()?;
        let count: &[u8; 4] = rest.try_into().ok()?;
        let part = PartHeader {
            index: u32::from_be_bytes(*index),
            count: u32::from_be_bytes(*count),
        };
        (part.index < part.count).then_some(part)
    }
}
