//! The world under torture: a leader, two followers, three brokers, the links, the walferry processes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;

use crate::fault::{Needs, Role, Side};
use crate::links::{self, Links, Proxy};
use crate::load;
use crate::process::free_port;
use crate::report::Diary;
use crate::servers::{Kafka, Listener, NODES, Paused, Postgres, REPLICATION};
use crate::workers::Workers;

/// What this machine offers, as `./dev torture` found out.
pub struct Machine {
    /// Everything of this run is below it.
    pub dir: PathBuf,
    pub toxiproxy: PathBuf,
    /// A small file system for follower b.
    pub small_disk: Option<PathBuf>,
    /// libfaketime.
    pub faketime: Option<PathBuf>,
}

impl Machine {
    /// Reads the environment.
    ///
    /// # Errors
    /// When it was not made by `./dev torture`.
    pub fn of_environment() -> anyhow::Result<Self> {
        let path = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let needed = |name: &str| {
            path(name).with_context(|| {
                format!("{name} is not set: run the torture test by `./dev torture`")
            })
        };
        Ok(Machine {
            dir: needed("WALFERRY_TORTURE_DIR")?,
            toxiproxy: needed("WALFERRY_TOXIPROXY")?,
            small_disk: path("WALFERRY_SMALL_DISK"),
            faketime: path("WALFERRY_FAKETIME"),
        })
    }

    /// Whether it can do faults that need something.
    pub fn has(&self, needs: Needs) -> bool {
        match needs {
            Needs::Nothing | Needs::Toxiproxy => true,
            Needs::SmallDisk => self.small_disk.is_some(),
            Needs::Faketime => self.faketime.is_some(),
        }
    }
}

/// Everything that runs.
pub struct World {
    pub machine: Machine,
    pub leader: Postgres,
    pub followers: [Postgres; 2],
    pub kafka: Kafka,
    pub links: Links,
    pub workers: Workers,
    pub paused: Paused,
    /// How often each follower has been emptied.
    generations: [AtomicU32; 2],
}

impl World {
    /// Starts servers and links, makes the load's tables and starts walferry.
    pub async fn start(machine: Machine, diary: &Diary) -> anyhow::Result<Self> {
        let dir = machine.dir.clone();
        std::fs::create_dir_all(dir.join("pids"))?;
        let (mut listeners, mut proxies) = (Vec::new(), Vec::new());
        plan_ports(&mut listeners, &mut proxies);
        let settings = [
            "max_wal_size=128MB",
            "min_wal_size=32MB",
            "checkpoint_timeout=30s",
        ];
        let on_b = machine.small_disk.clone().unwrap_or_else(|| dir.clone());
        let (leader, a, b, kafka) = tokio::try_join!(
            Postgres::start(dir.join("leader"), &settings),
            Postgres::start(dir.join("follower-a"), &settings),
            Postgres::start(on_b.join("follower-b"), &settings),
            Kafka::start(dir.join("kafka"), &listeners),
        )?;
        set_upstream(&mut proxies, &leader, &a, &b);
        let links = Links::start(&machine.toxiproxy, &dir, &proxies).await?;
        diary.say("servers run");
        let ports = proxies.iter().map(|p| (p.name.clone(), p.listen)).collect();
        let name = dir
            .file_name()
            .map_or_else(String::new, |n| n.to_string_lossy().replace('-', "_"));
        let world = World {
            workers: Workers::new(&dir, &format!("torture_{name}"), ports),
            paused: Paused::new(dir.join("paused")),
            followers: [a, b],
            generations: Default::default(),
            machine,
            leader,
            kafka,
            links,
        };
        world
            .leader
            .client()
            .await?
            .batch_execute(&load::tables_with_rows())
            .await?;
        // Follower a has the leader's constraints; walferry makes b's tables.
        world
            .follower(Side::A)
            .client()
            .await?
            .batch_execute(load::TABLES)
            .await?;
        for role in Role::ALL {
            world.workers.start(role, &[])?;
        }
        Ok(world)
    }

    pub fn follower(&self, side: Side) -> &Postgres {
        &self.followers[side.index()]
    }

    /// Says that a follower's content has nothing to do with what it was.
    pub fn begin_anew(&self, side: Side) {
        self.generations[side.index()].fetch_add(1, Ordering::SeqCst);
    }

    /// Changes when a follower begins anew.
    pub fn generation(&self, side: Side) -> u32 {
        self.generations[side.index()].load(Ordering::SeqCst)
    }

    /// Ends walferry at once; the servers are `./dev torture`'s to stop.
    pub async fn stop(&self) {
        self.paused.resume_all();
        self.workers.kill_all().await;
        // A server told to stop while it was paused needs its processes awake.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Directory of the run.
    pub fn dir(&self) -> &Path {
        &self.machine.dir
    }
}

/// One listener a broker and worker, and one for the other brokers, each behind a proxy that it advertises.
fn plan_ports(listeners: &mut Vec<Listener>, proxies: &mut Vec<Proxy>) {
    proxies.extend(links::all_proxies(|_| 0));
    let mut behind = |proxy: &str, name: &str, node| {
        let proxy = proxies
            .iter_mut()
            .find(|p| p.name == proxy)
            .expect("all_proxies has every broker");
        proxy.upstream = free_port();
        listeners.push(Listener {
            name: name.to_owned(),
            node,
            port: proxy.upstream,
            advertised: proxy.listen,
        });
    };
    for node in NODES {
        for (number, role) in Role::ALL.into_iter().enumerate() {
            behind(
                &links::broker_proxy(role, node),
                &format!("W{number}"),
                node,
            );
        }
        behind(&links::replication_proxy(node), REPLICATION, node);
    }
}

fn set_upstream(proxies: &mut [Proxy], leader: &Postgres, a: &Postgres, b: &Postgres) {
    for (role, server) in Role::ALL.into_iter().zip([leader, a, b]) {
        let name = links::database_proxy(role);
        for proxy in proxies.iter_mut().filter(|p| p.name == name) {
            proxy.upstream = server.port;
        }
    }
}
