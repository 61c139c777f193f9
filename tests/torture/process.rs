//! Processes by id: signals, children, and notes of what was started, so that `./dev torture` can
//! stop it even when this program is killed.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rand::RngExt;

/// Sends a signal, by name, to processes; those that are gone are passed over.
pub fn signal(name: &str, pids: &[u32]) {
    let mut command = Command::new("kill");
    command.arg(format!("-{name}"));
    command.args(pids.iter().map(u32::to_string));
    // Some may have ended by themselves, which kill reports as an error.
    let _ = command.output();
}

/// Fields of `/proc/PID/stat` behind the name: state, parent, …
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Whether a process is there and not a zombie.
pub fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z")
}

/// Direct children of a process.
pub fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| stat(*pid).is_some_and(|f| f[1] == parent.to_string());
    pids.filter(is_child).collect()
}

/// Waits until none of the processes is there any more, not even as a zombie: a postmaster takes one
/// for a rival.
pub async fn gone(pids: &[u32]) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while pids.iter().any(|pid| stat(*pid).is_some()) {
        if Instant::now() > end {
            bail!("processes {pids:?} did not end");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Writes "pid start-time" as `dev.d/process.sh` reads it.
pub fn remember(pids: &Path, name: &str, pid: u32) -> anyhow::Result<()> {
    let started = stat(pid).map(|fields| fields[19].clone());
    let note = format!("{pid} {}\n", started.unwrap_or_default());
    fs::write(pids.join(name), note).with_context(|| format!("{}", pids.display()))
}

/// The pid in a note of `remember`, or of `dev.d/process.sh`.
pub fn remembered(file: &Path) -> Option<u32> {
    fs::read_to_string(file)
        .ok()?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// A port that nobody listens on and that was not given out before. Below the range of outgoing
/// connections, so that it can be taken again after a restart, and below that of `./dev`'s servers,
/// which are started at the same time.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::rng().random_range(9_000..15_000);
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free && GIVEN.lock().expect("no panic holds it").insert(port) {
            return port;
        }
    }
}
