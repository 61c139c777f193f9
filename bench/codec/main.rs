//! What a row costs in walferry's own code, without servers: the messages of pgoutput decoded,
//! records written, records read, changes planned.
//!
//! `cargo bench --bench codec` gives times; `./dev instructions` counts instructions and compares
//! them with `bench/instructions.toml`.

mod cases;
mod instructions;

use std::process::ExitCode;

use divan::Bencher;
use divan::counter::ItemsCount;

use cases::{Case, ROWS};

#[divan::bench(args = cases::ALL)]
fn row(bencher: Bencher<'_, '_>, case: &Case) {
    bencher
        .counter(ItemsCount::new(ROWS))
        .with_inputs(|| case.prepare())
        .bench_local_refs(|work| work());
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["instructions"] => instructions::compare(),
        ["instructions", "--write"] => instructions::write(),
        [instructions::RUN] => {
            instructions::run();
            Ok(())
        }
        _ => {
            divan::main();
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
