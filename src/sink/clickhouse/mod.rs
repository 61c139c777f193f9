//! ClickHouse followers.
mod row_binary;
mod types;
