//! Follower stores on real servers. Run by `./dev test`, which starts them.

#[path = "../support/mod.rs"]
mod support;

mod mysql;
mod servers;
