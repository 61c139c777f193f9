//! `walferry tail`: a sink worker of its own over standard output.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::tables::patterns;
use super::{Failure, TailFrom, worker};
use crate::apply::SinkContext;
use crate::config::{
    Settings, SinkSettings, StdoutForm, StdoutFrom, StdoutSinkSettings, StoreSettings, defaults,
};
use crate::sink::stdout::reader_has_gone;
use crate::trace::Traces;
use crate::{shutdown, supervisor};

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
    let ended = worker::keep(&context, reader_has_gone).await;
    ended.map_err(Failure::RunTime)
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
    let name = format!("{command}-{instance}");
    Ok(SinkContext {
        pipeline: settings.pipeline,
        said_as: name.clone(),
        sink: SinkSettings {
            name,
            store: StoreSettings::Stdout(StdoutSinkSettings { from, form }),
            include,
            exclude: Vec::new(),
            batch_max_bytes: defaults::SINK_BATCH,
            fetch_max_bytes: defaults::FETCH,
            batch_max_age: Duration::ZERO,
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
