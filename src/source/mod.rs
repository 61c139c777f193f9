//! The leader: replication connection, slot, publication, catalog, and the readers of copies.

mod authentication;
pub mod catalog;
mod commands;
pub mod connection;
pub mod copy;
pub mod event_trigger;
mod framing;
pub mod full_identity;
mod gathering;
pub mod indexes;
pub mod publication;
pub mod published;
pub mod refusals;
pub mod sample;
pub mod slot;
mod start_up;
pub mod stream;
pub mod user_types;
pub mod writers;
