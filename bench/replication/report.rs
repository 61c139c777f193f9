//! The table for people and the JSON for machines.

use std::path::Path;

use serde::Serialize;

use super::Plan;
use super::drain::{Drained, Drains};
use super::latency::Latency;
use super::load::Load;
use super::process;

/// Everything measured.
#[derive(Default, Serialize)]
pub struct Results {
    backlogs: Vec<Backlog>,
    latencies: Vec<Latency>,
}

/// One load, some runs.
#[derive(Serialize)]
struct Backlog {
    load: Load,
    changes: u64,
    runs: Vec<Drains>,
    ratios: Ratios,
}

/// Medians over the runs of ratios within a run.
#[derive(Serialize)]
struct Ratios {
    end_to_end_of_native: Option<f64>,
    source_of_recvlogical: Option<f64>,
    sink_of_native: Option<f64>,
    sink_of_copy: Option<f64>,
    end_to_end_of_debezium: Option<f64>,
    end_to_end_of_debezium_tuned: Option<f64>,
    /// Changes a CPU-second of the walferry process over those of the Connect process.
    cpu_rate_of_debezium: Option<f64>,
    cpu_rate_of_debezium_tuned: Option<f64>,
    /// CPU-seconds of the walferry process for a million changes, end to end.
    cpu_a_million: Option<f64>,
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

type Of = fn(&Drains) -> &Option<Drained>;

/// What is measured, in the order of the table.
const LINES: [(&str, Of); 8] = [
    ("native, end to end", |d| &d.native),
    ("walferry, end to end", |d| &d.walferry),
    ("pg_recvlogical", |d| &d.recvlogical),
    ("walferry, source only", |d| &d.source),
    ("walferry, sink only", |d| &d.sink),
    ("COPY of the rows at the end", |d| &d.copy),
    ("Debezium, end to end", |d| &d.debezium),
    ("Debezium tuned, end to end", |d| &d.debezium_tuned),
];

impl Results {
    /// Adds the runs of one load.
    pub fn add(&mut self, plan: &Plan, load: Load, runs: Vec<Drains>) {
        let changes = load.changes(plan);
        let ratio = |a: Of, b: Of| {
            let of = |run: &Drains| Some(a(run).as_ref()?.rate / b(run).as_ref()?.rate);
            median(runs.iter().filter_map(of).collect())
        };
        let cpu_rate = |peer: Of| {
            let of = |run: &Drains| {
                Some(peer(run).as_ref()?.reader_cpu / run.walferry.as_ref()?.reader_cpu)
            };
            median(runs.iter().filter_map(of).collect())
        };
        let cpu = |run: &Drains| Some(run.walferry.as_ref()?.reader_cpu / changes as f64 * 1e6);
        let ratios = Ratios {
            end_to_end_of_native: ratio(|d| &d.walferry, |d| &d.native),
            source_of_recvlogical: ratio(|d| &d.source, |d| &d.recvlogical),
            sink_of_native: ratio(|d| &d.sink, |d| &d.native),
            sink_of_copy: ratio(|d| &d.sink, |d| &d.copy).filter(|_| load == Load::Inserts),
            end_to_end_of_debezium: ratio(|d| &d.walferry, |d| &d.debezium),
            end_to_end_of_debezium_tuned: ratio(|d| &d.walferry, |d| &d.debezium_tuned),
            cpu_rate_of_debezium: cpu_rate(|d| &d.debezium),
            cpu_rate_of_debezium_tuned: cpu_rate(|d| &d.debezium_tuned),
            cpu_a_million: median(runs.iter().filter_map(cpu).collect()),
        };
        self.backlogs.push(Backlog {
            load,
            changes,
            runs,
            ratios,
        });
    }

    /// Sets what was measured from commit to visible.
    pub fn set_latencies(&mut self, latencies: Vec<Latency>) {
        self.latencies = latencies;
    }

    /// Prints the tables and writes `bench/results/replication.json`.
    pub fn print_and_write(&self) -> anyhow::Result<()> {
        for backlog in &self.backlogs {
            backlog.print();
        }
        for latency in &self.latencies {
            let (native, walferry) = (latency.native, latency.walferry);
            println!(
                "\ncommit to visible at {} transactions/s: p50 / p99 (transactions/s that there were)",
                latency.rate
            );
            let of_debezium = latency.debezium.iter().map(|(name, of)| (*name, *of));
            let of_all = [
                ("native", native),
                ("native, durable", latency.native_durable),
                ("walferry", walferry),
            ];
            for (name, of) in of_all.into_iter().chain(of_debezium) {
                println!(
                    "{name:<31} {:>6.1} / {:.1} ms ({:.0})",
                    of.p50_ms, of.p99_ms, of.rate
                );
            }
            for (name, of) in &of_all[..2] {
                let ratio = walferry.p50_ms / of.p50_ms;
                println!("{:<31} {ratio:>6.2}", format!("p50 / {name}"));
            }
        }
        write("replication.json", self)
    }
}

/// Writes results to a file in `bench/results/`.
///
/// # Errors
/// When it cannot be written.
pub fn write(name: &str, results: &impl Serialize) -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/results");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(name);
    std::fs::write(&file, serde_json::to_vec_pretty(results)?)?;
    println!("\n{}", file.display());
    Ok(())
}

impl Backlog {
    fn print(&self) {
        println!(
            "\n{}: backlog of {} changes, median of {} run(s)",
            self.load.name(),
            self.changes,
            self.runs.len()
        );
        println!(
            "{:<28} {:>8} {:>11} {:>10} {:>9} {:>9} {:>8} {:>9}",
            "", "seconds", "changes/s", "walsender", "reader", "backend", "Kafka", "peak MiB"
        );
        for (name, of) in LINES {
            let measured: Vec<&Drained> = self
                .runs
                .iter()
                .filter_map(|run| of(run).as_ref())
                .collect();
            line(name, &measured);
        }
        println!(
            "(walsender, reader, backend, Kafka: CPU-seconds; reader: apply worker, walferry or Connect)"
        );
        for (name, value) in [
            ("end to end / native", self.ratios.end_to_end_of_native),
            ("source / pg_recvlogical", self.ratios.source_of_recvlogical),
            ("sink / native", self.ratios.sink_of_native),
            ("sink / COPY", self.ratios.sink_of_copy),
            ("CPU-seconds a million changes", self.ratios.cpu_a_million),
            ("end to end / Debezium", self.ratios.end_to_end_of_debezium),
            (
                "end to end / Debezium tuned",
                self.ratios.end_to_end_of_debezium_tuned,
            ),
            (
                "changes per CPU-second / Debezium's",
                self.ratios.cpu_rate_of_debezium,
            ),
            (
                "changes per CPU-second / Debezium's, tuned",
                self.ratios.cpu_rate_of_debezium_tuned,
            ),
        ] {
            if let Some(value) = value {
                println!("{name:<42} {value:>6.2}");
            }
        }
    }
}

fn line(name: &str, measured: &[&Drained]) {
    let m = |get: fn(&Drained) -> f64| median(measured.iter().map(|d| get(d)).collect());
    let columns = || {
        Some(format!(
            "{:>8.2} {:>11.0} {:>10.2} {:>9.2} {:>9.2} {:>8.2} {:>9.0}",
            m(|d| d.seconds)?,
            m(|d| d.rate)?,
            m(|d| d.walsender_cpu)?,
            m(|d| d.reader_cpu)?,
            m(|d| d.backend_cpu)?,
            m(|d| d.kafka_cpu)?,
            m(|d| process::mib(d.peak_bytes))?,
        ))
    };
    if let Some(columns) = columns() {
        println!("{name:<28} {columns}");
    }
}
