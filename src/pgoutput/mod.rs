//! The messages of Postgres's `pgoutput` plugin, protocol version 1. Pure: bytes in, messages out;
//! never panics, never indexes unchecked, never trusts a length.

pub mod message;
pub mod reader;
pub mod tuple;
