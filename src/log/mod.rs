//! The event log in Kafka: records, the commit log, topics, producer and readers.
//!
//! The commit log's rules (`commit_log`) and the codec are pure; `producer`, `tail`, `records`,
//! `topics` and `progress` talk to Kafka and decide nothing.

pub mod codec;
pub mod commit_log;
pub mod header;
pub mod producer;
pub mod progress;
pub mod records;
pub mod schemas;
pub mod tail;
pub mod topics;
