//! The protocol, walked at random: the real rules of sources, log, copies and sinks in a world whose
//! every step a seed decides. `docs/reliability.md`, "Model of the protocol".
//!
//! `WALFERRY_WALKS=N` walks N seeds of each scenario instead of the few of every test run,
//! `WALFERRY_SEED=S` begins with that seed.

mod actions;
mod follower;
mod invariants;
mod kafka;
mod leader;
mod mutants;
mod random;
mod sink;
mod sink_join;
mod sink_read;
mod source;
mod source_copy;
mod source_stream;
mod source_takeover;
mod walks;
mod world;
