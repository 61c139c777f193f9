//! Replication slots, as `pg_replication_slots` tells of them.

use serde::{Deserialize, Serialize};

/// `wal_status`: whether the WAL that the slot needs is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalStatus {
    /// Within `max_wal_size`.
    Reserved,
    /// More than `max_wal_size`; kept because of the slot.
    Extended,
    /// Beyond `max_slot_wal_keep_size`: may be removed at the next checkpoint.
    Unreserved,
    /// Removed. The slot cannot be used any more.
    Lost,
}

impl WalStatus {
    /// All, for one series a status.
    pub const ALL: [WalStatus; 4] = [
        WalStatus::Reserved,
        WalStatus::Extended,
        WalStatus::Unreserved,
        WalStatus::Lost,
    ];

    /// As Postgres writes it.
    pub fn name(self) -> &'static str {
        match self {
            WalStatus::Reserved => "reserved",
            WalStatus::Extended => "extended",
            WalStatus::Unreserved => "unreserved",
            WalStatus::Lost => "lost",
        }
    }

    /// From what Postgres writes.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// A slot at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    /// Whether a session streams from it.
    pub active: bool,
    /// Whether the WAL that it needs is there; none when Postgres does not say.
    pub wal_status: Option<WalStatus>,
    /// Bytes of WAL that the leader keeps because of it; none when it has lost its WAL.
    pub retained_bytes: Option<u64>,
    /// Bytes that can still be written until it is in danger of losing WAL (`safe_wal_size`), at least 0;
    /// none when `max_slot_wal_keep_size` sets no limit.
    pub safe_bytes: Option<u64>,
}
