//! The `walferry` binary: parses the command line, does it, reports once, exits.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use walferry::cli::{Cli, Failure, execute};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => failure.report(),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<Result<(), Failure>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    let result = runtime.block_on(execute(cli));
    // Threads that wait for Kafka must not hold up the exit.
    runtime.shutdown_background();
    Ok(result)
}
