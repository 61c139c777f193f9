//! Processes by id.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Sends a signal by name.
pub fn signal(pid: &str, name: &str) {
    let status = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(pid)
        .status();
    assert!(status.unwrap().success());
}

/// The process that `./dev` started in a directory of its own.
pub fn started_in(dir: &Path) -> u32 {
    let noted = fs::read_to_string(dir.join("pid")).expect("it is started, so its id is noted");
    let id = noted.split_whitespace().next();
    id.and_then(|id| id.parse().ok())
        .unwrap_or_else(|| panic!("not a process: {noted:?}"))
}

/// CPU-seconds that a process has used, its dead threads included; 0 when it is gone.
pub fn cpu_seconds(pid: u32) -> f64 {
    used(Path::new(&format!("/proc/{pid}/stat"))).map_or(0.0, |(_, seconds)| seconds)
}

/// CPU-seconds that its living threads have used, but for those whose names begin so.
pub fn cpu_seconds_but_for(pid: u32, name: &str) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    // One that has ended meanwhile has no file any more.
    let used = threads
        .flatten()
        .filter_map(|thread| used(&thread.path().join("stat")));
    used.filter(|(thread, _)| !thread.starts_with(name))
        .map(|(_, seconds)| seconds)
        .sum()
}

/// Name of a process or thread, and its CPU-seconds.
fn used(stat: &Path) -> Option<(String, f64)> {
    let stat = fs::read_to_string(stat).ok()?;
    // Fields are counted behind the name, which may hold spaces.
    let (head, fields) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|f| f.parse::<f64>().ok())
        .sum();
    Some((name.to_owned(), ticks / 100.0)) // USER_HZ is 100 on every Linux that Rust runs on
}
