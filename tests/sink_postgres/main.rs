//! The Postgres follower on a real server, driven through the `Sink` trait with plans made by hand.
//! Needs `./dev` (or `WALFERRY_DEV`) to start the server.

mod changes;
mod fencing;
mod harness;
mod keyless;
#[path = "../support/plans.rs"]
mod plans;
mod shapes;
mod speed;
mod zoo;
