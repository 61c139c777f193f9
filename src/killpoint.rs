//! Places between two durable states, at which a test ends the process as `kill -9` would.
//!
//! With `WALFERRY_DIE_AT=<name>` or `<name>:<n>` in the environment the process aborts, without a
//! word and without clean-up, when it passes that place for the first (or nth) time. Only builds
//! with debug assertions have this; in a release build [`pass`] is nothing.

/// A place at which the process can be made to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// First start: topics are there, the publication is not.
    TopicsMade,
    /// First start: the publication is there, the slot is not.
    PublicationMade,
    /// First start: the slot is there, the log has no entry.
    SlotMade,
    /// Take-over: the slot is ours, the epoch entry is not written.
    BeforeEpochEntry,
    /// Take-over: the epoch entry is acknowledged, and not known to be valid.
    AfterEpochEntry,
    /// Stream: a record is encoded and not handed to the producer.
    BeforeSend,
    /// Stream: a record is with the producer, and perhaps with Kafka.
    AfterSend,
    /// Publisher: all records of a batch are acknowledged, its entry is not written.
    BatchAcked,
    /// Publisher: an entry is with the producer, and perhaps with Kafka.
    EntrySent,
    /// Publisher: an entry is acknowledged, and not confirmed to the slot.
    EntryAcked,
    /// Stream: the next feedback is about to be sent.
    BeforeFeedback,
    /// Stream: feedback was sent.
    AfterFeedback,
    /// Copy: `copy_begin` is valid, there is no slot for its snapshot.
    CopyBegun,
    /// Copy: the snapshot is open, no row is read.
    CopySnapshot,
    /// Copy: a chunk of rows was read.
    CopyChunk,
    /// Copy: all rows are acknowledged, `copy_end` is not written.
    CopyRowsAcked,
    /// Copy: `copy_end` is in the log.
    CopyEnded,
    /// Sink: a batch is read, the follower's transaction is not begun.
    BeforeBegin,
    /// Sink: a part of a transaction is applied, more of it follows.
    ChunkApplied,
    /// Sink, ClickHouse: rows of one table are inserted, those of others and the checkpoint are not.
    RowsInserted,
    /// Sink: all changes of a batch are applied and not committed.
    BeforeCommit,
    /// Sink, Postgres and MySQL: COMMIT was sent and is not answered.
    CommitSent,
    /// Sink: committed, and no progress said.
    AfterCommit,
    /// Sink: rows of a copy are loaded and not committed.
    RowsLoaded,
    /// Sink, Postgres: an index is to be built behind the rows of a copy.
    BeforeIndex,
    /// Sink, Postgres: an index is built and its note removed, not committed.
    IndexBuilt,
    /// Sink: all of a copy is loaded, its tables are not in effect.
    BeforeEffect,
    /// Sink: tables have come into effect, and nothing was read since.
    InEffect,
    /// Sink: progress is about to be said.
    BeforeProgress,
    /// Comparison: the follower is ordered to stand at a boundary.
    FollowerHeld,
    /// Rebuild beside: the new database is there, and not marked.
    BesideMade,
    /// Rebuild beside: the new follower is level with the old one, no name is changed.
    BesideLevel,
    /// Rebuild beside: the names are changed and not committed.
    BesideRenaming,
    /// Rebuild beside: the new database has the old one's name, and the command has not ended.
    BesideRenamed,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 34] = [
        Point::TopicsMade,
        Point::PublicationMade,
        Point::SlotMade,
        Point::BeforeEpochEntry,
        Point::AfterEpochEntry,
        Point::BeforeSend,
        Point::AfterSend,
        Point::BatchAcked,
        Point::EntrySent,
        Point::EntryAcked,
        Point::BeforeFeedback,
        Point::AfterFeedback,
        Point::CopyBegun,
        Point::CopySnapshot,
        Point::CopyChunk,
        Point::CopyRowsAcked,
        Point::CopyEnded,
        Point::BeforeBegin,
        Point::ChunkApplied,
        Point::RowsInserted,
        Point::BeforeCommit,
        Point::CommitSent,
        Point::AfterCommit,
        Point::RowsLoaded,
        Point::BeforeIndex,
        Point::IndexBuilt,
        Point::BeforeEffect,
        Point::InEffect,
        Point::BeforeProgress,
        Point::FollowerHeld,
        Point::BesideMade,
        Point::BesideLevel,
        Point::BesideRenaming,
        Point::BesideRenamed,
    ];
}

/// Passes a point; never returns if the process is to die there.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn pass(_point: Point) {}

/// Passes a point; never returns if the process is to die there.
///
/// # Panics
/// When `WALFERRY_DIE_AT` names no point.
#[cfg(debug_assertions)]
pub fn pass(point: Point) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ASKED: OnceLock<Option<(Point, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);

    let asked = ASKED.get_or_init(|| {
        let text = std::env::var("WALFERRY_DIE_AT").ok()?;
        Some(parse(&text).unwrap_or_else(|| panic!("WALFERRY_DIE_AT={text} names no point")))
    });
    if let Some((at, times)) = asked
        && *at == point
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *times
    {
        std::process::abort();
    }
}

/// A point's name, and after a colon how often it is passed before the process dies.
#[cfg(debug_assertions)]
fn parse(text: &str) -> Option<(Point, u32)> {
    let (name, times) = text.split_once(':').unwrap_or((text, "1"));
    let point = Point::ALL
        .into_iter()
        .find(|point| format!("{point:?}") == name)?;
    Some((point, times.parse().ok().filter(|times| *times > 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_with_how_often_it_is_passed() {
        assert_eq!(parse("BatchAcked"), Some((Point::BatchAcked, 1)));
        assert_eq!(parse("InEffect:7"), Some((Point::InEffect, 7)));
        for wrong in ["", "batchacked", "InEffect:", "InEffect:0", "InEffect:x"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
