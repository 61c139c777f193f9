//! `walferry replay`: the changes of a range of transactions, from Kafka to standard output.
//!
//! It prints what `walferry tail` prints, from a worker that is given its beginning and its end. An error ends
//! it, whatever it is: a range that was begun anew would be printed in part twice.

use std::sync::PoisonError;

use super::target::{Target, resolve};
use super::{Failure, tail};
use crate::apply::follow::Terms;
use crate::apply::replay::{Range, beginning};
use crate::apply::{self, SinkContext};
use crate::config::{Settings, StdoutFrom};
use crate::error::Error;
use crate::sink::stdout::reader_has_gone;
use crate::status::State;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// Patterns of tables; all if none is given.
    pub tables: Vec<String>,
    /// Where it begins; none: where the log does.
    pub from: Option<Target>,
    /// Where it ends; none: where the log ends now.
    pub to: Option<Target>,
    /// Print JSON.
    pub json: bool,
}

pub(super) async fn run(settings: Settings, asked: Asked) -> Result<(), Failure> {
    let from = StdoutFrom::Earliest;
    let context = tail::context(settings, "replay", &asked.tables, asked.json, from)?;
    let terms = Terms::of(&context.pipeline, &context.sink, false);
    let begins = async {
        let lsn = async |target: Option<Target>| match target {
            Some(target) => resolve(&context.kafka, &terms, target).await.map(Some),
            None => Ok(None),
        };
        let range = Range {
            from: lsn(asked.from).await?,
            to: lsn(asked.to).await?,
        };
        beginning(&context.kafka, &terms, range).await
    };
    let begins = tokio::select! {
        biased;
        () = context.stop.cancelled() => return Err(interrupted()),
        begins = begins => begins.map_err(Failure::of)?,
    };
    let Some(begins) = begins else {
        return Ok(());
    };
    let range = begins.applied..begins.target.expect("a range has an end");
    *context.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(begins);
    match print(&context).await {
        Err(error) if reader_has_gone(&error) => Ok(()),
        Err(error) => Err(Failure::RunTime(error)),
        Ok(()) if is_over(&context) => {
            let to = range.end;
            eprintln!("up to {to}; what comes next: walferry replay --from-lsn {to}");
            Ok(())
        }
        Ok(()) => Err(interrupted()),
    }
}

/// Runs a session until it has reached the range's end.
async fn print(context: &SinkContext) -> Result<(), Error> {
    let end = async {
        loop {
            let changed = context.status.changed();
            if is_over(context) {
                context.stop.cancel();
                std::future::pending::<()>().await;
            }
            changed.await;
        }
    };
    tokio::select! {
        ended = apply::run_session(context) => ended,
        never = end => never,
    }
}

/// Whether all of the range is printed: the worker stays at its end.
fn is_over(context: &SinkContext) -> bool {
    context.status.look(|view| view.state == State::Paused)
}

fn interrupted() -> Failure {
    Failure::RunTime(Error::transient(
        "stopped before the end of the range: what was printed is not all of it",
    ))
}
