//! Halts that teach: whatever stops a part for good says what, where and the remedy, and the remedy,
//! followed word for word, leads back to a follower that equals its leader.

#[path = "../support/mod.rs"]
mod support;

mod broker;
mod follower;
mod leader;
mod log;
mod operator;
mod slot;
mod topics;
