//! The table for people and the JSON for machines.

use std::path::Path;

use serde::Serialize;

use super::drain::{Drained, Drains};
use super::latency::Latency;
use super::{Plan, load};

#[derive(Serialize)]
struct Results<'a> {
    changes: u64,
    drains: &'a [Drains],
    latency: &'a Latency,
    ratios: Ratios,
}

/// Medians over the runs of ratios within a run.
#[derive(Serialize)]
struct Ratios {
    end_to_end_of_native: f64,
    source_of_recvlogical: f64,
    latency_p50_of_native: f64,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints the table and writes `bench/results/replication.json`.
pub fn print_and_write(plan: &Plan, drains: &[Drains], latency: &Latency) -> anyhow::Result<()> {
    let ratio = |of: fn(&Drains) -> f64| median(drains.iter().map(of).collect());
    let ratios = Ratios {
        end_to_end_of_native: ratio(|d| d.walferry.rate / d.native.rate),
        source_of_recvlogical: ratio(|d| d.source.rate / d.recvlogical.rate),
        latency_p50_of_native: latency.walferry.p50_ms / latency.native.p50_ms,
    };
    println!(
        "backlog of {} changes, median of {} run(s)",
        load::changes(plan),
        drains.len()
    );
    println!(
        "{:<28} {:>8} {:>11} {:>10} {:>9} {:>9} {:>8} {:>9}",
        "", "seconds", "changes/s", "walsender", "reader", "backend", "Kafka", "peak MiB"
    );
    line("native, end to end", drains, |d| &d.native);
    line("walferry, end to end", drains, |d| &d.walferry);
    line("pg_recvlogical", drains, |d| &d.recvlogical);
    line("walferry, source only", drains, |d| &d.source);
    println!(
        "(walsender, reader, backend, Kafka: CPU-seconds; reader: apply worker, or the walferry process)\n"
    );
    println!(
        "end to end / native          {:>6.2}   (at least 0.35)",
        ratios.end_to_end_of_native
    );
    println!(
        "source / pg_recvlogical      {:>6.2}   (at least 0.60)",
        ratios.source_of_recvlogical
    );
    println!(
        "\ncommit to visible at {} transactions/s: p50 / p99",
        latency.rate
    );
    println!(
        "native                       {:>6.1} / {:.1} ms",
        latency.native.p50_ms, latency.native.p99_ms
    );
    println!(
        "walferry                     {:>6.1} / {:.1} ms   (p50 below 20)",
        latency.walferry.p50_ms, latency.walferry.p99_ms
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/results/replication.json");
    std::fs::create_dir_all(file.parent().expect("the path above has a folder"))?;
    let results = Results {
        changes: load::changes(plan),
        drains,
        latency,
        ratios,
    };
    std::fs::write(&file, serde_json::to_vec_pretty(&results)?)?;
    println!("\n{}", file.display());
    Ok(())
}

fn line(name: &str, drains: &[Drains], of: fn(&Drains) -> &Drained) {
    let m = |get: fn(&Drained) -> f64| median(drains.iter().map(|d| get(of(d))).collect());
    println!(
        "{name:<28} {:>8.2} {:>11.0} {:>10.2} {:>9.2} {:>9.2} {:>8.2} {:>9.0}",
        m(|d| d.seconds),
        m(|d| d.rate),
        m(|d| d.walsender_cpu),
        m(|d| d.reader_cpu),
        m(|d| d.backend_cpu),
        m(|d| d.kafka_cpu),
        m(|d| d.peak_bytes as f64 / f64::from(1 << 20)),
    );
}
