//! What the tests on real servers share: Postgres servers of their own, the run's Kafka, and
//! walferry as a separate process. Servers are started by `./dev server`, so run the tests by `./dev test`.

#![allow(dead_code, unused_imports)] // each test file uses a part of this one

pub mod clickhouse;
pub mod content;
pub mod forgetful_kafka;
pub mod http;
pub mod kafka;
pub mod mariadb;
pub mod plans;
pub mod postgres;
pub mod process;
pub mod secured_kafka;
pub mod walferry;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ::walferry::config::{Durability, KafkaSettings, PostgresSettings, Secret, TlsMode};

pub use clickhouse::ClickHouse;
pub use content::{assert_equal, wait_caught_up};
pub use forgetful_kafka::ForgetfulKafka;
pub use kafka::Kafka;
pub use mariadb::MariaDb;
pub use postgres::Postgres;
pub use secured_kafka::SecuredKafka;
pub use walferry::{Pipeline, Walferry};

/// How long anything may take before a test gives up: it turns a hang into a failure and decides nothing
/// else. Minutes, as a busy disk was seen to hold a broker up for 77 s.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// The Kafka of this test run.
pub fn kafka() -> String {
    std::env::var("WALFERRY_TEST_KAFKA").expect(
        "WALFERRY_TEST_KAFKA names no broker: run the tests by `./dev test`, which starts one",
    )
}

/// How the library reaches the Kafka of this test run.
pub fn kafka_settings() -> KafkaSettings {
    KafkaSettings {
        brokers: kafka(),
        durability: Durability::SingleBroker,
        replication_factor: 1,
        retention: Duration::from_secs(3600),
        properties: BTreeMap::new(),
    }
}

/// How the library reaches a Postgres server.
pub fn postgres_settings(url: &str) -> PostgresSettings {
    PostgresSettings {
        url: Secret::new(url),
        tls: TlsMode::Prefer.into(),
        connect_timeout: Duration::from_secs(20),
    }
}

/// The `dev` script.
pub fn dev() -> PathBuf {
    std::env::var_os("WALFERRY_DEV").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("dev"),
        PathBuf::from,
    )
}

/// Runs `./dev server` and answers what it says; panics when it fails.
pub fn dev_server(
    kind: &str,
    action: &str,
    dir: &std::path::Path,
    more: &[impl AsRef<std::ffi::OsStr>],
) -> String {
    let mut command = std::process::Command::new(dev());
    command.args(["server", kind, action]).arg(dir).args(more);
    let output = command.output().expect("the dev script can be run");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A YAML file of the repository.
pub fn yaml(file: &str) -> serde_json::Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A new directory below the test run's, readable by the servers' user.
pub fn directory(name: &str) -> PathBuf {
    let base = std::env::var_os("WALFERRY_TEST_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".stack/test/by-hand"),
        PathBuf::from,
    );
    let path = base.join(format!("{name}-{}", unique()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Removes the data of a server that is stopped, unless its test has failed: a run has hundreds, and
/// may have them in memory.
pub fn forget_data(data: &std::path::Path) {
    if !std::thread::panicking() {
        let _ = std::fs::remove_dir_all(data);
    }
}

/// A short name that no other test of this or another run uses.
pub fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let run = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis()
        % 100_000_000;
    format!(
        "{run}_{}_{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Asks until the answer is `Ok`, or panics with the last answer when the deadline has passed.
pub async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let end = Instant::now() + DEADLINE;
    loop {
        match ask().await {
            Ok(value) => return value,
            Err(why) if Instant::now() > end => panic!("{what}: not within {DEADLINE:?}: {why}"),
            Err(_not_yet) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
