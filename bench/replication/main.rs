//! walferry against Postgres's own logical replication, and Debezium when asked: the same load, machine and run.
//!
//! `./dev bench` builds this with optimisations and runs it. Everything is printed as a table of
//! ratios and written as JSON to `bench/results/`.

mod copies;
mod debezium;
mod drain;
mod latency;
mod load;
mod process;
mod report;
mod scaling;
mod stores;
mod writing;

#[path = "../../tests/support/mod.rs"]
mod support;

use anyhow::Context;

use load::Load;

/// What can be measured of a backlog, as `--only` names it.
const DRAINS: [&str; 8] = [
    "native",
    "walferry",
    "recvlogical",
    "source",
    "sink",
    "copy",
    debezium::SETTINGS[0],
    debezium::SETTINGS[1],
];

/// What to measure, from the command line.
#[derive(Clone)]
pub struct Plan {
    /// Rows of the bulk inserts.
    pub rows: u64,
    /// Transactions of four changes.
    pub transactions: u64,
    /// Times that each drain is measured; medians are reported.
    pub runs: usize,
    /// Seconds of the latency measurement, for each side; 0: it is left out.
    pub seconds: u64,
    /// What to write.
    pub loads: Vec<Load>,
    /// Which drains, or stores, to measure; empty: all of Postgres and walferry, and all stores.
    pub only: Vec<String>,
    /// Whether to measure Debezium too without its being named.
    pub peers: bool,
    /// Measure copies of a table of so many rows instead.
    pub copies: Option<u64>,
    /// Measure followers of other stores instead.
    pub stores: bool,
    /// Measure curves instead: `all`, or one by its name.
    pub scaling: Option<String>,
}

impl Plan {
    /// Whether a drain, or a store, is measured.
    pub fn measures(&self, drain: &str) -> bool {
        let unnamed = if debezium::SETTINGS.contains(&drain) {
            self.peers
        } else {
            self.only.is_empty()
        };
        unnamed || self.only.iter().any(|only| only == drain)
    }
}

fn plan() -> anyhow::Result<Plan> {
    let mut plan = Plan {
        rows: 500_000,
        transactions: 100_000,
        runs: 1,
        seconds: 15,
        loads: Load::ALL.map(|(_, load)| load).to_vec(),
        only: Vec::new(),
        peers: false,
        copies: None,
        stores: false,
        scaling: None,
    };
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(option) = arguments.next() {
        if option == "--peers" {
            plan.peers = true;
            continue;
        }
        if option == "sinks" {
            plan.stores = true;
            continue;
        }
        let value = arguments
            .next()
            .with_context(|| format!("{option} needs a value"))?;
        let number = || -> anyhow::Result<u64> {
            value.parse().with_context(|| format!("{option} {value}"))
        };
        match option.as_str() {
            "--rows" => plan.rows = number()?,
            "--transactions" => plan.transactions = number()?,
            "--runs" => plan.runs = usize::try_from(number()?)?.max(1),
            "--seconds" => plan.seconds = number()?,
            "--load" => plan.loads = named_loads(&value)?,
            "--only" => plan.only = value.split(',').map(str::to_owned).collect(),
            "--copies" => plan.copies = Some(number()?),
            "--scaling" => plan.scaling = Some(value),
            other => anyhow::bail!(
                "unknown option {other}; there are sinks, --rows, --transactions, --runs, --seconds, --load, --only, --peers, --copies, --scaling"
            ),
        }
    }
    let (kind, known): (_, &[&str]) = match plan.stores {
        true => ("store", &stores::NAMES),
        false => ("drain", &DRAINS),
    };
    for name in &plan.only {
        anyhow::ensure!(
            known.contains(&name.as_str()),
            "there is no {kind} {name}; there are {}",
            known.join(", ")
        );
    }
    Ok(plan)
}

fn named_loads(value: &str) -> anyhow::Result<Vec<Load>> {
    let named = |name: &str| {
        let found = Load::ALL.into_iter().find(|(known, _)| *known == name);
        let known = Load::ALL.map(|(known, _)| known).join(", ");
        found
            .map(|(_, load)| load)
            .with_context(|| format!("there is no load {name}; there are {known}"))
    };
    value.split(',').map(named).collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let plan = plan()?;
    if let Some(curve) = &plan.scaling {
        let only = Some(curve.as_str()).filter(|curve| *curve != "all");
        return report::write("scaling.json", &scaling::measure(only).await?);
    }
    if plan.stores {
        return report::write("sinks.json", &stores::measure(&plan).await?);
    }
    if let Some(rows) = plan.copies {
        return report::write("copies.json", &copies::measure(rows).await?);
    }
    if debezium::SETTINGS.iter().any(|name| plan.measures(name)) {
        debezium::fetch()?;
    }
    let mut results = report::Results::default();
    for &load in &plan.loads {
        let mut runs = Vec::new();
        for run in 0..plan.runs {
            eprintln!(
                "{}, run {} of {}: backlog of {} changes",
                load.name(),
                run + 1,
                plan.runs,
                load.changes(&plan)
            );
            let drains = drain::measure(&plan, load).await;
            runs.push(drains.with_context(|| format!("backlog of {}", load.name()))?);
        }
        results.add(&plan, load, runs);
    }
    if plan.seconds > 0 {
        results.set_latencies(latency::measure(&plan).await.context("latency")?);
    }
    results.print_and_write()
}
