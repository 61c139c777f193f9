//! Reading the commit log in order, on a consumer and thread of its own.

use crate::config::KafkaSettings;
use crate::error::Result;
use crate::log::commit_log::Entry;

/// A reader of one single-partition topic of entries.
pub struct LogTail {}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The oldest entry that is still there.
    Low,
    /// This offset. If the log no longer has it, or does not reach it, opening fails (halt).
    Offset(i64),
    /// The log's end now.
    End,
}

impl LogTail {
    /// Opens the tail of topic `commits`. Asks the broker for the watermarks.
    ///
    /// # Errors
    /// Transient when Kafka cannot be reached in time; halt when the topic is gone, or `Offset` is
    /// outside of `[low, high]`: the log lost what was acknowledged, or trimmed what was needed.
    pub async fn open(kafka: &KafkaSettings, commits: &str, from: From) -> Result<Self> {
        let _ = (kafka, commits, from);
        todo!()
    }

    /// The low watermark at opening.
    pub fn low(&self) -> i64 {
        todo!()
    }

    /// The next entry with its offset; waits for it. Cancel-safe.
    ///
    /// # Errors
    /// Transient for Kafka's; halt for an entry that cannot be parsed.
    pub async fn next(&mut self) -> Result<(i64, Entry)> {
        todo!()
    }

    /// The next entry if it is here already (fetched); never waits.
    pub fn try_next(&mut self) -> Result<Option<(i64, Entry)>> {
        todo!()
    }

    /// Asks for the high watermark now, and reads up to it. The second value is that watermark.
    pub async fn read_to_end(&mut self) -> Result<(Vec<(i64, Entry)>, i64)> {
        todo!()
    }
}
