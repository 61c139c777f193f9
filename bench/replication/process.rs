//! Peak memory and CPU time of processes, from `/proc`, and what this one was told.

use std::fs;

pub use crate::support::process::cpu_seconds;

/// Peak resident memory in bytes.
pub fn peak_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|l| {
        l.strip_prefix("VmHWM:")?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) * 1024
}

/// Bytes in MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The Kafka brokers of this run: every process that listens on one of their ports is not looked for;
/// the script that started them says their ids.
pub fn kafka_pids() -> Vec<u32> {
    let said = std::env::var("WALFERRY_BENCH_KAFKA_PIDS").unwrap_or_default();
    said.split(',').filter_map(|pid| pid.parse().ok()).collect()
}

/// Lines of the environment for a sink's settings.
pub fn sink_settings() -> String {
    std::env::var("WALFERRY_BENCH_SINK").unwrap_or_default()
}

/// CPU-seconds of several processes.
pub fn cpu_of(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| cpu_seconds(*pid)).sum()
}
