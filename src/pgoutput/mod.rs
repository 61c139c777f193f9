//! The messages of Postgres's `pgoutput` plugin, protocol version 1. Pure: bytes in, messages out;
//! never panics, never indexes unchecked, never trusts a length.

pub mod message;
mod reader;
#[cfg(test)]
mod tests;
pub mod tuple;

pub use message::{Begin, Commit, Malformed, Message, Old, Relation, RelationColumn, decode};
pub use tuple::{Datum, Datums, Tuple};
