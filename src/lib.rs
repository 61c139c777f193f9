//! walferry: change data capture from a Postgres leader through Kafka into follower stores.
//!
//! The map, in the direction in which data flows (arrows go only downwards in this list):
#![deny(missing_docs)]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod allocator; // how much of freed memory is kept
pub mod apply; // the sink worker: log + sink
pub mod capture; // the source worker: source + log
pub mod check; // walferry check
pub mod cli; // the command line
pub mod config; // settings, parsed and checked before any connection
pub mod error; // errors, classified once: transient, halt, fenced
pub mod history; // how far back a follower can be rebuilt from Kafka
pub mod http; // the status page, /metrics, /healthz, /readyz, /v1/
pub mod killpoint; // places at which a test kills the process
pub mod lag; // lag from samples and boundaries
pub mod log; // Kafka: records, commit log, topics, producer, readers
pub mod metrics; // names, units and meanings of all metrics
pub mod model; // LSNs, positions, schemas, rows, batches, checkpoints
pub mod pgoutput; // the stream's messages: bytes in, messages out
pub mod postgres; // ordinary connections to Postgres servers, TLS
pub mod reload; // settings that are read again without a restart
pub mod shutdown; // SIGTERM, SIGINT and SIGHUP
pub mod sink; // follower stores, one folder each
pub mod source; // the leader: replication connection, slot, publication, catalog, copy readers
pub mod status; // what every worker says of itself
pub mod supervisor; // runs source and sinks, retries or halts them
pub mod trace; // spans for OpenTelemetry, a batch each
pub mod verify; // walferry verify: leader against follower
