//! Follower stores on real servers: one suite of cases for any store. Run by `./dev test`, which starts the servers.
//!
//! A new store is one file beside `postgres.rs` with an implementation of [`store::Store`], and a line at the end of
//! `conformance/mod.rs`.

#[path = "../support/mod.rs"]
mod support;

mod clickhouse;
mod conformance;
mod mariadb;
mod mysql;
mod postgres;
mod secured;
mod servers;
mod stdout;
mod store;
mod together;
