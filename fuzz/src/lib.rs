//! walferry's parsers by themselves: the same files without the clients of Kafka and Postgres, so
//! that an instrumented build takes seconds.

#![allow(dead_code)] // the targets use a part of each module

#[path = "../../src/config/mod.rs"]
pub mod config;
#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/model/mod.rs"]
pub mod model;
#[path = "../../src/pgoutput/mod.rs"]
pub mod pgoutput;

/// The pure part of `log`.
#[path = "."]
pub mod log {
    #[path = "../../src/log/codec/mod.rs"]
    pub mod codec;
    #[path = "../../src/log/commit_log.rs"]
    pub mod commit_log;
    #[path = "../../src/log/copies.rs"]
    pub mod copies;
    #[path = "../../src/log/header.rs"]
    pub mod header;
}

/// The pure part of `postgres`.
#[path = "."]
pub mod postgres {
    #[path = "../../src/postgres/url.rs"]
    mod url;

    pub use url::*;
}
