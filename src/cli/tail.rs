//! `walferry tail`: a sink worker of its own over standard output.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::tables::patterns;
use super::{Failure, TailFrom};
use crate::apply::{self, SinkContext};
use crate::config::{
    Settings, SinkSettings, StdoutForm, StdoutFrom, StdoutSinkSettings, StoreSettings, defaults,
};
use crate::error::Class;
use crate::sink::stdout::reader_has_gone;
use crate::trace::Traces;
use crate::{shutdown, supervisor};

/// Wait before the log is opened again after an error that may pass.
const RETRY: Duration = Duration::from_secs(1);

pub(super) async fn run(
    settings: Settings,
    tables: &[String],
    json: bool,
    from: TailFrom,
) -> Result<(), Failure> {
    let from = match from {
        TailFrom::Earliest => StdoutFrom::Earliest,
        TailFrom::Now => StdoutFrom::Now,
    };
    let context = context(settings, "tail", tables, json, from)?;
    let stop = context.stop.clone();
    let mut said = None;
    while !stop.is_cancelled() {
        let Err(error) = apply::run_session(&context).await else {
            break;
        };
        if reader_has_gone(&error) {
            break;
        }
        match error.class() {
            Class::Halt | Class::Fenced => return Err(Failure::RunTime(error)),
            Class::Transient => {
                let what = error.what();
                if said.as_ref() != Some(&what) {
                    eprintln!("waiting: {what}");
                    said = Some(what);
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    Ok(())
}

/// A worker that prints changes; it ends at SIGTERM and SIGINT.
pub(super) fn context(
    settings: Settings,
    command: &str,
    tables: &[String],
    json: bool,
    from: StdoutFrom,
) -> Result<SinkContext, Failure> {
    let form = if json {
        StdoutForm::Json
    } else {
        StdoutForm::Readable
    };
    let include = patterns(tables).map_err(Failure::Usage)?;
    let stop = CancellationToken::new();
    shutdown::listen(stop.clone()).map_err(Failure::RunTime)?;
    let instance = supervisor::instance_token();
    Ok(SinkContext {
        pipeline: settings.pipeline,
        sink: SinkSettings {
            name: format!("{command}-{instance}"),
            store: StoreSettings::Stdout(StdoutSinkSettings { from, form }),
            include,
            exclude: Vec::new(),
            batch_max_bytes: defaults::SINK_BATCH,
            fetch_max_bytes: defaults::FETCH,
        },
        instance,
        kafka: settings.kafka,
        status: Arc::default(),
        traces: Traces::default(),
        shown: Arc::default(),
        leader_clock: Arc::default(),
        stop,
    })
}
