//! The `walferry` binary: parses the command line, does it, reports once, exits.

use anyhow::Context;
use clap::Parser;
use walferry::cli::{Cli, Failure, execute};
use walferry::{allocator, shutdown};

fn main() {
    allocator::keep_less();
    let cli = Cli::parse();
    let code = match start(cli) {
        Ok(Ok(())) => 0,
        Ok(Err(failure)) => failure.report(),
        Err(error) => {
            eprintln!("error: {error:#}");
            1
        }
    };
    shutdown::leave(code)
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
