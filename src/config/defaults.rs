//! What holds when a setting is not given: what most people should run in production.

use std::time::Duration;

/// `http.listen`.
pub const LISTEN: &str = "127.0.0.1:8642";
/// `log.level`.
pub const LOG_LEVEL: &str = "info";
/// `kafka.retention`.
pub const RETENTION: Duration = Duration::from_secs(7 * 86_400);
/// `partitions` of a source.
pub const PARTITIONS: u32 = 1;
/// `copy.readers` of a source.
pub const COPY_READERS: u32 = 2;
/// `copy.group_max_bytes` of a source.
pub const COPY_GROUP: usize = 1 << 30;
/// `wal_sender_timeout` of a source.
pub const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(10);
/// `epoch_max` of a source.
pub const EPOCH_MAX: Duration = Duration::from_secs(86_400);
/// `connect_timeout` of every connection to a database.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// `statement_timeout` of a sink.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(300);
/// `batch_max_bytes` of a source.
pub const SOURCE_BATCH: usize = 4 << 20;
/// `queue_max_bytes` of a source.
pub const QUEUE: usize = 32 << 20;
/// `batch_max_bytes` of a sink.
pub const SINK_BATCH: usize = 8 << 20;
/// `batch_max_bytes` of a ClickHouse sink.
pub const CLICKHOUSE_BATCH: usize = 64 << 20;
/// `batch_max_age` of a ClickHouse sink.
pub const CLICKHOUSE_BATCH_AGE: Duration = Duration::from_secs(1);
/// `fetch_max_bytes` of a sink.
pub const FETCH: usize = 16 << 20;
/// Smallest size that can be set.
pub const LEAST_SIZE: usize = 64 << 10;
/// Largest size that can be set.
pub const LARGEST_SIZE: usize = 2 << 30;
