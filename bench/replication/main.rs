//! walferry against Postgres's own logical replication: the same load, machine and run.
//!
//! `./dev bench` builds this with optimisations and runs it. Everything is printed as a table of
//! ratios and written as JSON to `bench/results/`.

mod drain;
mod latency;
mod load;
mod process;
mod report;

#[path = "../../tests/support/mod.rs"]
mod support;

use anyhow::Context;

/// What to measure, from the command line.
pub struct Plan {
    /// Rows of the bulk inserts.
    pub rows: u64,
    /// Transactions of four changes.
    pub transactions: u64,
    /// Times that each drain is measured; medians are reported.
    pub runs: usize,
    /// Seconds of the latency measurement, for each side.
    pub seconds: u64,
}

fn plan() -> anyhow::Result<Plan> {
    let mut plan = Plan {
        rows: 500_000,
        transactions: 100_000,
        runs: 1,
        seconds: 15,
    };
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(option) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{option} needs a number"))?;
        let number: u64 = value.parse().with_context(|| format!("{option} {value}"))?;
        match option.as_str() {
            "--rows" => plan.rows = number,
            "--transactions" => plan.transactions = number,
            "--runs" => plan.runs = usize::try_from(number)?.max(1),
            "--seconds" => plan.seconds = number,
            other => anyhow::bail!(
                "unknown option {other}; there are --rows, --transactions, --runs, --seconds"
            ),
        }
    }
    Ok(plan)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let plan = plan()?;
    let mut drains = Vec::new();
    for run in 0..plan.runs {
        eprintln!(
            "run {} of {}: backlog of {} changes",
            run + 1,
            plan.runs,
            load::changes(&plan)
        );
        drains.push(drain::measure(&plan).await.context("backlog drain")?);
    }
    let latency = latency::measure(&plan).await.context("latency")?;
    report::print_and_write(&plan, &drains, &latency)
}
