//! walferry as users run it: one process for the source and one for each sink, each behind links of
//! its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::fault::{Role, Side};
use crate::http;
use crate::links::{broker_proxy, database_proxy};
use crate::lsn;
use crate::process::{free_port, remember};
use crate::servers::{NODES, Postgres};

/// One running process.
struct Worker {
    role: Role,
    child: Child,
    http_port: u16,
    /// Another worker of the role has been started: it may be fenced.
    may_be_fenced: bool,
}

/// A process of a role; numbers are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkerId(u32);

/// What a worker says of itself, or what is known without asking.
pub struct Said {
    pub role: Role,
    pub id: WorkerId,
    /// None when it did not answer.
    pub state: Option<String>,
    pub last_error: Option<String>,
    pub lag_seconds: Option<f64>,
    pub lag_bytes: Option<u64>,
    /// A sink's applied boundary.
    pub applied: Option<u64>,
    pub may_be_fenced: bool,
    /// It ended by itself.
    pub ended: Option<String>,
}

/// All walferry processes.
pub struct Workers {
    dir: PathBuf,
    pub pipeline: String,
    ports: BTreeMap<String, u16>,
    next: Mutex<u32>,
    running: Mutex<BTreeMap<WorkerId, Worker>>,
}

impl Workers {
    /// Nothing is started yet. `ports` are those of the proxies, by name.
    pub fn new(dir: &Path, pipeline: &str, ports: BTreeMap<String, u16>) -> Self {
        Workers {
            dir: dir.to_owned(),
            pipeline: pipeline.to_owned(),
            ports,
            next: Mutex::new(0),
            running: Mutex::default(),
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<WorkerId, Worker>> {
        self.running.lock().expect("no panic holds it")
    }

    /// Starts one; `more` are additional environment variables.
    pub fn start(&self, role: Role, more: &[(&str, String)]) -> anyhow::Result<WorkerId> {
        let id = {
            let mut next = self.next.lock().expect("no panic holds it");
            *next += 1;
            WorkerId(*next)
        };
        let http_port = free_port();
        let settings = self.dir.join(format!("settings/{}-{}", role.name(), id.0));
        self.write_settings(&settings, role, http_port)?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log(role))?;
        let child = Command::new(env!("CARGO_BIN_EXE_walferry"))
            .arg("--config")
            .arg(settings.join("config"))
            .arg("--connectors")
            .arg(settings.join("connectors"))
            .args(["run", "--only", role.name()])
            .envs(more.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0) // Ctrl-C is for us to handle
            .kill_on_drop(true)
            .spawn()
            .context("starting walferry")?;
        remember(
            &self.dir.join("pids"),
            &format!("{}-{}", role.name(), id.0),
            child.id().unwrap_or_default(),
        )?;
        let worker = Worker {
            role,
            child,
            http_port,
            may_be_fenced: false,
        };
        self.running().insert(id, worker);
        Ok(id)
    }

    /// Runs a command with a sink's settings; what it said when it failed.
    pub async fn command(&self, side: Side, arguments: &[&str]) -> anyhow::Result<()> {
        let role = Role::Sink(side);
        let settings = self.dir.join(format!("settings/command-{}", role.name()));
        self.write_settings(&settings, role, free_port())?;
        let output = Command::new(env!("CARGO_BIN_EXE_walferry"))
            .arg("--config")
            .arg(settings.join("config"))
            .arg("--connectors")
            .arg(settings.join("connectors"))
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "walferry {}: {said}",
            arguments.join(" ")
        );
        Ok(())
    }

    /// Where a role's processes write what they do.
    pub fn log(&self, role: Role) -> PathBuf {
        self.dir.join(format!("{}.log", role.name()))
    }

    /// The oldest running process of a role.
    pub fn of(&self, role: Role) -> anyhow::Result<WorkerId> {
        let running = self.running();
        let found = running.iter().find(|(_, worker)| worker.role == role);
        found
            .map(|(id, _)| *id)
            .with_context(|| format!("no {role:?} runs"))
    }

    /// Its process id.
    pub fn pid(&self, id: WorkerId) -> Vec<u32> {
        let running = self.running();
        running
            .get(&id)
            .and_then(|w| w.child.id())
            .into_iter()
            .collect()
    }

    /// Says that it may be fenced from now on.
    pub fn allow_fence(&self, id: WorkerId, allowed: bool) {
        if let Some(worker) = self.running().get_mut(&id) {
            worker.may_be_fenced = allowed;
        }
    }

    /// `kill -9`.
    pub async fn kill(&self, id: WorkerId) -> anyhow::Result<()> {
        let worker = self.running().remove(&id);
        let mut worker = worker.with_context(|| format!("{id:?} does not run"))?;
        worker.child.kill().await?;
        let note = format!("pids/{}-{}", worker.role.name(), id.0);
        let _ = fs::remove_file(self.dir.join(note)); // it is only a note
        Ok(())
    }

    /// Kills all.
    pub async fn kill_all(&self) {
        let ids: Vec<WorkerId> = self.running().keys().copied().collect();
        for id in ids {
            // One that has ended by itself is no problem here.
            let _ = self.kill(id).await;
        }
    }

    /// Ends all in order; each must exit with 0.
    pub async fn terminate_all(&self) -> anyhow::Result<()> {
        let all = std::mem::take(&mut *self.running());
        for worker in all.values() {
            crate::process::signal("TERM", &worker.child.id().into_iter().collect::<Vec<_>>());
        }
        for (id, mut worker) in all {
            let end = tokio::time::timeout(std::time::Duration::from_secs(60), worker.child.wait());
            let status = end
                .await
                .with_context(|| format!("{:?} does not stop", worker.role))??;
            ensure!(
                status.success(),
                "{:?} ({id:?}) stopped with {status}; log: {}",
                worker.role,
                self.log(worker.role).display()
            );
        }
        Ok(())
    }

    /// Asks all.
    pub async fn ask(&self) -> Vec<Said> {
        let mut said = Vec::new();
        let mut ports = Vec::new();
        for (id, worker) in self.running().iter_mut() {
            let ended = worker.child.try_wait().ok().flatten();
            ports.push(worker.http_port);
            said.push(Said {
                role: worker.role,
                id: *id,
                state: None,
                last_error: None,
                lag_seconds: None,
                lag_bytes: None,
                applied: None,
                may_be_fenced: worker.may_be_fenced,
                ended: ended.map(|status| status.to_string()),
            });
        }
        let answers = futures_util::future::join_all(ports.into_iter().map(http::status)).await;
        for (said, answer) in said.iter_mut().zip(answers) {
            let Ok(report) = answer else { continue };
            let part = match said.role {
                Role::Source => &report["source"],
                Role::Sink(_) => &report["sinks"][0],
            };
            said.state = part["state"].as_str().map(str::to_owned);
            said.last_error = part["last_error"]["what"].as_str().map(str::to_owned);
            said.lag_seconds = part["lag"]["seconds"].as_f64();
            said.lag_bytes = part["lag"]["bytes"].as_u64();
            let applied = part["applied"].as_str();
            said.applied = applied.and_then(|text| lsn::parse(text).ok());
        }
        said
    }

    /// State of one worker, when it answers.
    pub async fn state(&self, id: WorkerId) -> Option<String> {
        let port = self.running().get(&id)?.http_port;
        let report = http::status(port).await.ok()?;
        let of = |part: &Value| part["state"].as_str().map(str::to_owned);
        of(&report["source"]).or_else(|| of(&report["sinks"][0]))
    }

    fn write_settings(&self, dir: &Path, role: Role, http_port: u16) -> anyhow::Result<()> {
        fs::create_dir_all(dir.join("config"))?;
        fs::create_dir_all(dir.join("connectors"))?;
        let port = |proxy: &str| self.ports[proxy];
        let brokers = NODES.map(|n| format!("127.0.0.1:{}", port(&broker_proxy(role, n))));
        let main = format!(
            "pipeline = \"{}\"\n[kafka]\nbrokers = \"{}\"\n[http]\nlisten = \"127.0.0.1:{http_port}\"\n\
             [log]\nlevel = \"walferry=debug,info\"\nformat = \"human\"\n",
            self.pipeline,
            brokers.join(",")
        );
        fs::write(dir.join("config/walferry.toml"), main)?;
        let url = |role| Postgres::url_at(port(&database_proxy(role)));
        let source = format!(
            "kind = \"postgres-source\"\nurl = \"{}\"\nevent_trigger = true\npartitions = 2\nconnect_timeout = \"5s\"\n\
             wal_sender_timeout = \"6s\"\n[tables]\ninclude = [\"public.*\"]\n",
            url(Role::Source)
        );
        fs::write(dir.join("connectors/leader.toml"), source)?;
        for side in Side::BOTH {
            // Small batches: the load's large transactions go in chunks.
            let sink = format!(
                "kind = \"postgres\"\nurl = \"{}\"\nconnect_timeout = \"5s\"\nstatement_timeout = \"5s\"\nbatch_max_bytes = \"256KiB\"\n",
                url(Role::Sink(side))
            );
            fs::write(dir.join(format!("connectors/{}.toml", side.name())), sink)?;
        }
        Ok(())
    }
}
