//! The event log in Kafka: records, the commit log, topics, producer and readers.
//!
//! The commit log's rules (`commit_log`, `takeover`, `confirm`, `copies`, `copy_request`, `trim`) and the codec are
//! pure; `producer`, `tail`, `records`, `held`, `schemas`, `topics` and `progress` talk to Kafka and decide nothing.

pub mod client;
pub mod codec;
pub mod commit_log;
pub mod confirm;
pub mod copies;
pub mod copy_request;
pub(crate) mod fetched;
pub mod header;
pub mod held;
pub(crate) mod kept;
pub(crate) mod offsets;
pub(crate) mod partition;
pub mod producer;
pub mod progress;
pub mod records;
pub(crate) mod reports;
pub mod schemas;
pub mod tail;
pub mod takeover;
pub(crate) mod topic_admin;
pub mod topics;
pub mod trim;
