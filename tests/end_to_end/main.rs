//! Postgres leader -> Kafka -> Postgres followers on real servers, walferry as its own process.

#[path = "../support/mod.rs"]
mod support;

mod beside;
mod commands;
mod copies;
mod copies_from;
mod ddl;
mod followers;
mod history;
mod idle;
mod indexes;
mod invariant;
mod keys;
mod lag;
mod large;
mod limits;
mod load;
mod metrics;
mod new_copies;
mod progress;
mod read_after_write;
mod reader_rules;
mod rebuild;
mod reload;
mod replay;
mod restarts;
mod schema_changes;
mod secured;
mod shapes;
mod skips;
mod stalled;
mod table_names;
mod traces;
mod transactions;
mod trimming;
mod truncate;
mod types;
mod verify;
mod verify_boundary;
