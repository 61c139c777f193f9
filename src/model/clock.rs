//! The two epochs that times are counted from.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds from 1970-01-01 UTC to 2000-01-01 UTC, where Postgres's time begins.
pub const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// A time of this host's clock, microseconds since 1970; before that 0.
pub fn unix_us(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
