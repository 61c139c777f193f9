//! Real Postgres and Kafka servers, started by `./dev server`, killed and stopped process by process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio_postgres::{Client, NoTls};

use crate::process::{children_of, gone, lives, remembered, signal};

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Runs `./dev server … DIR …`; returns what it printed.
async fn dev_server(arguments: &[&str], dir: &Path, more: &[&str]) -> anyhow::Result<String> {
    let dir = dir.to_string_lossy();
    dev(&[&["server"], arguments, &[&dir], more].concat()).await
}

async fn dev(arguments: &[&str]) -> anyhow::Result<String> {
    let dev = std::env::var_os("WALFERRY_DEV").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("dev"),
        PathBuf::from,
    );
    let mut command = tokio::process::Command::new(dev);
    command.args(arguments);
    command.process_group(0); // Ctrl-C is for us to handle
    let output = command.output().await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Process ids that a SIGSTOP has reached, in a file that `./dev torture` reads: a stopped server
/// does not hear that it should end.
#[derive(Default)]
pub struct Paused(Mutex<BTreeMap<u32, u32>>, PathBuf);

impl Paused {
    pub fn new(file: PathBuf) -> Self {
        Paused(Mutex::default(), file)
    }

    /// Stops processes.
    pub fn pause(&self, pids: &[u32]) {
        self.note(pids, true);
        signal("STOP", pids);
    }

    /// Lets them go on.
    pub fn resume(&self, pids: &[u32]) {
        signal("CONT", pids);
        self.note(pids, false);
    }

    /// Lets all go on.
    pub fn resume_all(&self) {
        let pids: Vec<u32> = self
            .0
            .lock()
            .expect("no panic holds it")
            .keys()
            .copied()
            .collect();
        self.resume(&pids);
    }

    fn note(&self, pids: &[u32], paused: bool) {
        let mut all = self.0.lock().expect("no panic holds it");
        for pid in pids {
            if paused {
                all.insert(*pid, 0);
            } else {
                all.remove(pid);
            }
        }
        let lines: Vec<String> = all.keys().map(u32::to_string).collect();
        // Only a help for the case that this program is killed.
        let _ = fs::write(&self.1, lines.join("\n"));
    }
}

/// One Postgres server.
pub struct Postgres {
    pub dir: PathBuf,
    pub port: u16,
}

impl Postgres {
    /// Starts a new one.
    pub async fn start(dir: PathBuf, settings: &[&str]) -> anyhow::Result<Self> {
        let more: Vec<&str> = settings.iter().flat_map(|s| ["--set", s]).collect();
        dev_server(&["postgres", "start"], &dir, &more).await?;
        let port = fs::read_to_string(dir.join("port"))?.trim().parse()?;
        Ok(Postgres { dir, port })
    }

    /// Starts it again on its data; nothing happens when it runs.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        dev_server(&["postgres", "start"], &self.dir, &[])
            .await
            .map(drop)
    }

    fn postmaster(&self) -> Option<u32> {
        remembered(&self.dir.join("data/postmaster.pid")).filter(|pid| lives(*pid))
    }

    /// Stops every process of the server by SIGSTOP; returns them, the postmaster first.
    pub fn pause(&self, paused: &Paused) -> Vec<u32> {
        let Some(postmaster) = self.postmaster() else {
            return Vec::new();
        };
        // The postmaster first: then no new process appears.
        paused.pause(&[postmaster]);
        let children = children_of(postmaster);
        paused.pause(&children);
        [vec![postmaster], children].concat()
    }

    /// `kill -9` of every process of the server.
    pub async fn kill(&self, paused: &Paused) -> anyhow::Result<()> {
        let pids = self.pause(paused);
        signal("KILL", &pids);
        gone(&pids).await?;
        paused.resume(&pids);
        Ok(())
    }

    /// URL by a port of this machine.
    pub fn url_at(port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/postgres")
    }

    /// Connects, directly.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let mut config: tokio_postgres::Config = Self::url_at(self.port).parse()?;
        // Checks read as they always do, whatever a fault makes the default.
        config.options("-c default_transaction_read_only=off -c timezone=UTC");
        config.application_name("torture");
        let connected = tokio::time::timeout(CONNECT_MAX, config.connect(NoTls)).await;
        let (client, connection) = connected.context("no answer to a connection")??;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// Three brokers, each also a controller.
pub struct Kafka {
    pub dir: PathBuf,
    /// Address for the checks, not by proxies.
    pub bootstrap: String,
}

/// Nodes of the cluster.
pub const NODES: [u32; 3] = [1, 2, 3];

/// Name of the listener by which brokers replicate from each other.
pub const REPLICATION: &str = "REPLICATION";

/// An additional listener of a broker: where it listens, and what it tells clients.
pub struct Listener {
    pub name: String,
    pub node: u32,
    pub port: u16,
    pub advertised: u16,
}

impl Kafka {
    /// Makes a cluster with more listeners, one of them for the brokers, and starts it.
    pub async fn start(dir: PathBuf, listeners: &[Listener]) -> anyhow::Result<Self> {
        dev_server(&["kafka", "create"], &dir, &["--brokers", "3"]).await?;
        let bootstrap = fs::read_to_string(dir.join("bootstrap"))?.trim().to_owned();
        for node in NODES {
            let file = dir.join(format!("node-{node}/server.properties"));
            let of_node = listeners.iter().filter(|l| l.node == node);
            let text = with_listeners(&fs::read_to_string(&file)?, of_node);
            fs::write(&file, text)?;
        }
        let kafka = Kafka { dir, bootstrap };
        kafka.start_again().await?;
        Ok(kafka)
    }

    /// Starts the brokers that do not run.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        dev_server(&["kafka", "start"], &self.dir, &["--brokers", "3"])
            .await
            .map(drop)
    }

    /// The processes of some nodes.
    pub fn pids(&self, nodes: &[u32]) -> Vec<u32> {
        let pid = |node: &u32| remembered(&self.dir.join(format!("node-{node}/pid")));
        nodes.iter().filter_map(pid).filter(|p| lives(*p)).collect()
    }

    /// Alters the quotas of clients named `walferry`.
    pub async fn configure_clients(&self, change: &[&str]) -> anyhow::Result<()> {
        let whom = [
            "kafka-configs",
            "--bootstrap-server",
            &self.bootstrap,
            "--alter",
        ];
        let clients = ["--entity-type", "clients", "--entity-name", "walferry"];
        dev(&[&whom, &clients, change].concat()).await.map(drop)
    }

    /// `kill -9` of some brokers.
    pub async fn kill(&self, nodes: &[u32]) -> anyhow::Result<()> {
        let pids = self.pids(nodes);
        signal("KILL", &pids);
        gone(&pids).await
    }
}

/// A broker's settings with listeners added to those it has.
fn with_listeners<'a>(text: &str, listeners: impl Iterator<Item = &'a Listener> + Clone) -> String {
    let more = |of: &dyn Fn(&Listener) -> String| -> String {
        listeners.clone().map(|l| format!(",{}", of(l))).collect()
    };
    let mut out = String::new();
    for line in text.lines() {
        out += line;
        if line.starts_with("listeners=") {
            out += &more(&|l| format!("{}://127.0.0.1:{}", l.name, l.port));
        } else if line.starts_with("advertised.listeners=") {
            out += &more(&|l| format!("{}://127.0.0.1:{}", l.name, l.advertised));
        } else if line.starts_with("listener.security.protocol.map=") {
            out += &more(&|l| format!("{}:PLAINTEXT", l.name));
        }
        out += "\n";
    }
    out + &format!("inter.broker.listener.name={REPLICATION}\n")
}
