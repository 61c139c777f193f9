//! The links between walferry and its servers, and between the brokers: each runs through a proxy of toxiproxy's.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::fault::{Ill, Pair, Role, Side};
use crate::http;
use crate::process::{free_port, remember};
use crate::servers::NODES;

/// Where a proxy listens and what it leads to.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub name: String,
    pub listen: u16,
    pub upstream: u16,
}

/// A running toxiproxy.
pub struct Links {
    port: u16,
    _server: Child,
}

/// The proxies that make up a link; Kafka's has one a broker.
pub fn proxies_of(pair: Pair) -> Vec<String> {
    match pair {
        Pair::SourceLeader => vec!["leader-database".to_owned()],
        Pair::SinkFollower(side) => vec![format!("{}-database", side.name())],
        Pair::KafkaOf(role) => NODES.map(|n| broker_proxy(role, n)).to_vec(),
        Pair::ToBroker(node) => vec![replication_proxy(node)],
    }
}

/// Name of the proxy between a worker and a broker.
pub fn broker_proxy(role: Role, node: u32) -> String {
    format!("{}-kafka-{node}", role.name())
}

/// Name of the proxy by which the other brokers reach one.
pub fn replication_proxy(node: u32) -> String {
    format!("replication-{node}")
}

/// Name of the proxy between a worker and its database.
pub fn database_proxy(role: Role) -> String {
    format!("{}-database", role.name())
}

impl Links {
    /// Starts toxiproxy with these proxies.
    pub async fn start(program: &Path, dir: &Path, proxies: &[Proxy]) -> anyhow::Result<Self> {
        let port = free_port();
        let log = std::fs::File::create(dir.join("toxiproxy.log"))?;
        let server = Command::new(program)
            .args(["-host", "127.0.0.1", "-port", &port.to_string()])
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0) // Ctrl-C is for us to handle
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        remember(
            &dir.join("pids"),
            "toxiproxy",
            server.id().unwrap_or_default(),
        )?;
        let links = Links {
            port,
            _server: server,
        };
        let end = Instant::now() + Duration::from_secs(60);
        while let Err(error) = http::request(port, "GET", "/version", None).await {
            anyhow::ensure!(Instant::now() < end, "toxiproxy does not answer: {error:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for proxy in proxies {
            links
                .post("/proxies", json!({"name": proxy.name, "listen": format!("127.0.0.1:{}", proxy.listen),
                                         "upstream": format!("127.0.0.1:{}", proxy.upstream), "enabled": true}))
                .await?;
        }
        Ok(links)
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<()> {
        http::request(self.port, "POST", path, Some(&body))
            .await
            .map(drop)
    }

    /// Makes a link ill.
    pub async fn harm(&self, ill: Ill, pair: Pair) -> anyhow::Result<()> {
        for proxy in proxies_of(pair) {
            if ill == Ill::Cut {
                self.post(&format!("/proxies/{proxy}"), json!({"enabled": false}))
                    .await?;
                continue;
            }
            let (kind, attributes) = toxic(ill);
            for stream in ["upstream", "downstream"] {
                let body = json!({"name": stream, "type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes});
                self.post(&format!("/proxies/{proxy}/toxics"), body).await?;
            }
        }
        Ok(())
    }

    /// Makes it well again. A half-open link's connections end: what was not passed on is lost with them.
    pub async fn heal(&self, ill: Ill, pair: Pair) -> anyhow::Result<()> {
        for proxy in proxies_of(pair) {
            if ill == Ill::Cut {
                self.post(&format!("/proxies/{proxy}"), json!({"enabled": true}))
                    .await?;
                continue;
            }
            for stream in ["upstream", "downstream"] {
                let path = format!("/proxies/{proxy}/toxics/{stream}");
                http::request(self.port, "DELETE", &path, None).await?;
            }
        }
        Ok(())
    }
}

/// toxiproxy's name and settings of an illness.
fn toxic(ill: Ill) -> (&'static str, Value) {
    match ill {
        Ill::Cut => unreachable!("a cut link is a disabled proxy, not a toxic"),
        Ill::HalfOpen => ("timeout", json!({"timeout": 0})),
        Ill::Slow => ("latency", json!({"latency": 400, "jitter": 200})),
        Ill::Narrow => ("bandwidth", json!({"rate": 100})),
        Ill::Reset => ("reset_peer", json!({"timeout": 700})),
        Ill::Sliced => (
            "slicer",
            json!({"average_size": 100, "size_variation": 50, "delay": 1000}),
        ),
    }
}

/// Every link there is, with a new port for each proxy; `upstream` says where one leads.
pub fn all_proxies(upstream: impl Fn(&str) -> u16) -> Vec<Proxy> {
    let mut pairs = vec![Pair::SourceLeader];
    pairs.extend(Role::ALL.map(Pair::KafkaOf));
    pairs.extend(Side::BOTH.map(Pair::SinkFollower));
    pairs.extend(NODES.map(Pair::ToBroker));
    let names = pairs.into_iter().flat_map(proxies_of);
    names
        .map(|name| Proxy {
            listen: free_port(),
            upstream: upstream(&name),
            name,
        })
        .collect()
}
