//! What Postgres's own tests of logical replication (`src/test/subscription/t`) check, as behaviours,
//! run against walferry. `docs/reliability.md` compares each with native replication. Run by `./dev test`.

#[path = "../support/mod.rs"]
mod support;

mod basics;
mod conflicts;
mod constraints;
mod ddl;
mod generated;
mod keys;
mod messages;
mod origins;
mod partitions;
mod publications;
mod rights;
mod scenario;
mod transactions;
mod truncates;
mod values;
