//! Processes by id.

use std::fs;
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
pub fn started_in(dir: &std::path::Path) -> u32 {
    let noted = fs::read_to_string(dir.join("pid")).expect("it is started, so its id is noted");
    let id = noted.split_whitespace().next();
    id.and_then(|id| id.parse().ok())
        .unwrap_or_else(|| panic!("not a process: {noted:?}"))
}

/// CPU-seconds that a process has used, its dead threads included; 0 when it is gone.
pub fn cpu_seconds(pid: u32) -> f64 {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return 0.0;
    };
    // Fields are counted behind the command name, which may hold spaces.
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return 0.0;
    };
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|f| f.parse::<f64>().ok())
        .sum();
    ticks / 100.0 // USER_HZ is 100 on every Linux that Rust runs on
}
