//! Debezium as a peer: Kafka Connect in one process, its source on the leader and its JDBC sink on a
//! follower of its own. The property files are in `bench/peers/`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::Client;

use super::support::{self, Postgres};

/// As its documentation sets it up, and tuned: drains of `--only` and folders in `bench/peers/`.
pub const SETTINGS: [&str; 2] = ["debezium", "debezium-tuned"];

/// Fetches its jars, once.
pub fn fetch() -> anyhow::Result<()> {
    let status = Command::new(script()).arg("fetch").status()?;
    ensure!(status.success(), "Debezium cannot be fetched: {status}");
    Ok(())
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers/debezium.sh")
}

/// A running Connect with one pair of connectors; killed when dropped, as nothing of it is used again.
pub struct Connect {
    child: Child,
    log: PathBuf,
    http_port: u16,
    slot: String,
}

impl Connect {
    /// Makes slot, publication and topics, starts Connect and waits until the source streams.
    pub async fn start(
        setting: &str,
        leader: &Postgres,
        follower: &Postgres,
        tables: &[&str],
    ) -> anyhow::Result<Self> {
        let client = leader.client().await;
        let name = format!("debezium_{}", support::unique());
        let listed = tables.join(", ");
        client
            .batch_execute(&format!("CREATE PUBLICATION {name} FOR TABLE {listed}"))
            .await?;
        let make_slot = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
        client.execute(make_slot, &[&name]).await?;
        let with_schema: Vec<String> = tables.iter().map(|t| format!("public.{t}")).collect();
        let topics: Vec<String> = with_schema.iter().map(|t| format!("{name}.{t}")).collect();
        make_topics(&topics).await?;

        let dir = support::directory(setting);
        let http_port = support::walferry::free_port();
        let log = dir.join("log");
        let file = std::fs::File::create(&log)?;
        let child = Command::new(script())
            .args(["run", setting])
            .args(tables)
            .env("DEBEZIUM_BROKERS", support::kafka())
            .env("DEBEZIUM_DIR", dir)
            .env("DEBEZIUM_HTTP_PORT", http_port.to_string())
            .env("DEBEZIUM_NAME", &name)
            .env("DEBEZIUM_TABLES", with_schema.join(","))
            .env("DEBEZIUM_TOPICS", topics.join(","))
            .env("DEBEZIUM_LEADER_PORT", leader.port.to_string())
            .env("DEBEZIUM_FOLLOWER_PORT", follower.port.to_string())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        let connect = Connect {
            child,
            log,
            http_port,
            slot: name,
        };
        connect.slot_becomes(&client, true).await?;
        Ok(connect)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id() // the script becomes Connect
    }

    /// The name of its slot.
    pub fn slot(&self) -> &str {
        &self.slot
    }

    /// Stops the source alone: its slot holds what the leader writes from now on.
    pub async fn stop_source(&self, leader: &Client) -> anyhow::Result<()> {
        self.put("stop").await?;
        self.slot_becomes(leader, false).await
    }

    /// Lets the source go on, and waits until it streams.
    pub async fn resume_source(&self, leader: &Client) -> anyhow::Result<()> {
        self.put("resume").await?;
        self.slot_becomes(leader, true).await
    }

    async fn slot_becomes(&self, leader: &Client, active: bool) -> anyhow::Result<()> {
        let query = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND active = $2";
        let wait = async {
            while leader
                .query_opt(query, &[&self.slot, &active])
                .await?
                .is_none()
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            anyhow::Ok(())
        };
        self.unless_it_fails(wait).await
    }

    /// Connect's own way to stop a connector and let it go on.
    async fn put(&self, action: &str) -> anyhow::Result<()> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http_port)).await?;
        let request = format!(
            "PUT /connectors/debezium-source/{action} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 20"), "{action}: {answer}");
        Ok(())
    }

    /// Does something that waits for Connect; fails when Connect does.
    pub async fn unless_it_fails<T>(
        &self,
        wait: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        tokio::select! {
            done = wait => done,
            failed = self.fails() => failed.map(|never| match never {}),
        }
    }

    /// Comes back when a task has failed, which Connect outlives, or Connect has ended.
    async fn fails(&self) -> anyhow::Result<std::convert::Infallible> {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let log = std::fs::read_to_string(&self.log).context("Connect's log")?;
            // Nobody has waited for it: ended, it is still there, without a command line.
            let command = std::fs::read(format!("/proc/{}/cmdline", self.pid()));
            if command.is_ok_and(|words| words.is_empty()) || log.contains(" ERROR ") {
                let errors: Vec<&str> = log.lines().filter(|l| l.contains(" ERROR ")).collect();
                bail!("Connect failed, see {}: {errors:#?}", self.log.display());
            }
        }
    }
}

/// With one partition each, so that the order of a table's changes is kept.
async fn make_topics(names: &[String]) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", support::kafka())
        .create()?;
    let topic = |name| NewTopic::new(name, 1, TopicReplication::Fixed(1));
    let topics: Vec<NewTopic> = names.iter().map(|name| topic(name)).collect();
    for made in admin.create_topics(&topics, &AdminOptions::new()).await? {
        made.map_err(|(name, code)| anyhow::anyhow!("topic {name}: {code}"))?;
    }
    Ok(())
}

impl Drop for Connect {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
