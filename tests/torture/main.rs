//! The torture test: a real leader, two real followers, three brokers, walferry in processes of its
//! own, a mixed load, and faults by a seeded schedule. Run it by `./dev torture`.
//!
//! It passes when no checker ever saw what must not be, and when at the end followers, leader, the
//! load's own books and what an independent reader rebuilds from Kafka all agree.

mod checks;
mod columns;
mod ending;
mod fault;
mod http;
mod independent;
mod inject;
mod lag;
mod links;
mod load;
mod lsn;
mod process;
mod report;
mod rivals;
mod run;
mod schedule;
mod servers;
mod transaction;
mod workers;
mod world;

use std::process::ExitCode;

use clap::Parser;

/// Faults by a seeded schedule against a real leader, two followers and three brokers
#[derive(Debug, Parser)]
#[command(name = "./dev torture")]
pub struct Arguments {
    /// The schedule and the load follow from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long the schedule is planned to last; start, recovery and checks come on top
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Only these kinds of faults: a name of --list, or its beginning such as `kill` or `cut`
    #[arg(long, value_name = "NAME", num_args = 1..)]
    fault: Vec<String>,
    /// Print the kinds of faults and the schedule of this seed, and do nothing
    #[arg(long)]
    list: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let kinds = match fault::named(&arguments.fault) {
        Ok(kinds) => kinds,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    if arguments.list {
        for kind in &kinds {
            println!("{:<26} {}", kind.name, kind.what);
        }
        println!("\nseed {}, {} minutes:", arguments.seed, arguments.minutes);
        for step in schedule::schedule(arguments.seed, arguments.minutes, &kinds) {
            println!("  {step}");
        }
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().expect("the async runtime can be started");
    let result = runtime.block_on(run::run(&arguments, kinds));
    runtime.shutdown_background();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
