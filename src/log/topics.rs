//! Names of topics and their making.
//!
//! A name is `pipeline.schema.table`. Kafka takes `[a-zA-Z0-9._-]`, and refuses a topic whose name
//! differs from another's only in `.` and `_` (they would share a metric's name). So, in schema and
//! table names alike, every other byte is written `-` and two hex digits (`.` and `-` too); in schema
//! names `_` is written `--`, and the schema `copy` is written `-63opy`. With that the first `.` or
//! `_` after the pipeline ends the schema, and no two tables collide. What gets longer than
//! 101 bytes (only names full of escapes can) ends in `-z` and a hash.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::model::TableName;

pub use crate::log::topic_admin::TopicAdmin;

/// Largest record that walferry sends (key and value), far above Kafka's own default of 1 MB: most
/// rows then travel in one piece. Larger values travel in parts.
pub const RECORD_MAX_BYTES: usize = 4 * 1024 * 1024;

/// The topics of a pipeline.
#[derive(Clone, Debug)]
pub struct Topics {
    pipeline: String,
}

impl Topics {
    /// Topics of the pipeline.
    pub fn new(pipeline: impl Into<String>) -> Self {
        Topics {
            pipeline: pipeline.into(),
        }
    }
    /// `P.<schema>.<table>`, with an injective escape for what Kafka names cannot hold; see
    /// the module's documentation.
    pub fn table(&self, table: &TableName) -> String {
        let (schema, name) = escaped(table);
        format!("{}.{schema}.{name}", self.pipeline)
    }
    /// `P.copy.<schema>.<table>`.
    pub fn copy(&self, table: &TableName) -> String {
        let (schema, name) = escaped(table);
        format!("{}.{COPY}.{schema}.{name}", self.pipeline)
    }
    /// `P.commits`.
    pub fn commits(&self) -> String {
        format!("{}.commits", self.pipeline)
    }
    /// `P.schemas`.
    pub fn schemas(&self) -> String {
        format!("{}.schemas", self.pipeline)
    }
    /// `P.progress`.
    pub fn progress(&self) -> String {
        format!("{}.progress", self.pipeline)
    }
    /// Whether a topic is one of this pipeline's that may expire: those of tables and of copies.
    pub fn expires(&self, topic: &str) -> bool {
        let rest = topic.strip_prefix(self.pipeline.as_str());
        rest.and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|rest| rest.contains('.'))
    }
}

const COPY: &str = "copy";

/// Longest escaped schema or table name: a pipeline's 40 bytes, `.copy.` and a dot stay below
/// Kafka's 249. Names without escapes (63 bytes at most) always fit.
const NAME_MAX_BYTES: usize = 101;

/// Bytes of the hash at the end of a name that was cut, as hex digits.
const HASH_DIGITS: usize = 32;

fn escaped(table: &TableName) -> (String, String) {
    let schema = if table.schema == COPY {
        format!("-{:02x}{}", COPY.as_bytes()[0], &COPY[1..])
    } else {
        escape(&table.schema, true)
    };
    (schema, escape(&table.name, false))
}

fn escape(name: &str, is_schema: bool) -> String {
    let mut out = String::with_capacity(name.len());
    let mut fits = 0;
    for byte in name.bytes() {
        match byte {
            b'_' if is_schema => out.push_str("--"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => out.push(char::from(byte)),
            _other => {
                let _infallible = write!(out, "-{byte:02x}");
            }
        }
        if out.len() <= NAME_MAX_BYTES - HASH_DIGITS - 2 {
            fits = out.len();
        }
    }
    if out.len() > NAME_MAX_BYTES {
        out.truncate(fits);
        out.push_str("-z");
        for byte in &Sha256::digest(name.as_bytes())[..HASH_DIGITS / 2] {
            let _infallible = write!(out, "{byte:02x}");
        }
    }
    out
}

/// A topic as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Name.
    pub name: String,
    /// Partitions.
    pub partitions: i32,
    /// What happens to old records.
    pub retention: Retention,
}

/// What happens to old records of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// `retention.ms` from the settings: table and copy topics.
    Settings,
    /// Kept for ever (`retention.ms=-1`): commits, schemas.
    Unlimited,
    /// `cleanup.policy=compact`: progress.
    Compacted,
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// Partitions.
    pub partitions: i32,
    /// Configuration entries that matter, by name.
    pub config: std::collections::BTreeMap<String, String>,
    /// Smallest replication factor of its partitions.
    pub replication: i32,
}

#[cfg(test)]
#[path = "topics_tests.rs"]
mod tests;
