//! The leader: replication connection, slot, publication, catalog, and the readers of copies.

pub mod catalog;
pub mod connection;
pub mod copy;
pub mod publication;
pub mod sample;
pub mod slot;
pub mod stream;
pub mod user_types;
