//! `walferry sink …`: acts on one sink from the command line.

use super::{Failure, sink_of};
use crate::config::Settings;
use crate::error::Error;
use crate::log::progress::{self, ProgressReader};
use crate::log::topics::Topics;
use crate::model::Position;
use crate::sink::{self, SkipOrder};

/// Removes a sink's progress record.
pub(super) async fn forget(settings: Settings, name: &str) -> Result<(), Failure> {
    if settings.sinks.iter().any(|sink| sink.name == name) {
        return Err(Failure::Usage(Error::halt(
            format!("{name} is still a connector, and would be known again at its next start"),
            format!("remove {name}.toml from connectors/ first, and stop what runs it"),
        )));
    }
    let topic = Topics::new(settings.pipeline.as_str()).progress();
    let known = ProgressReader::open(&settings.kafka, &topic)
        .await
        .map_err(Failure::RunTime)?
        .newest();
    let Some(progress) = known.get(name) else {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        return Err(Failure::Usage(Error::halt(
            format!("{topic} knows no sink {name}"),
            format!("name one of: {}", names.join(", ")),
        )));
    };
    progress::forget(&settings.kafka, &topic, name)
        .await
        .map_err(Failure::RunTime)?;
    println!(
        "{name} is forgotten; it had applied up to {} and needed the commit log from entry {}",
        progress.applied, progress.log_offset
    );
    Ok(())
}

/// Orders a change to be passed over, or takes such an order back.
pub(super) async fn skip(
    settings: &Settings,
    name: &str,
    position: Position,
    order: &SkipOrder,
) -> Result<(), Failure> {
    let sink = sink_of(settings, name)?;
    if let SkipOrder::Skip { reason } = order
        && reason.trim().is_empty()
    {
        return Err(Failure::Usage(Error::halt(
            "--reason is empty",
            "say why the follower may lack this change",
        )));
    }
    let done = sink::order(&settings.pipeline, sink, position, order).await;
    println!("{}", done.map_err(Failure::of)?);
    Ok(())
}
