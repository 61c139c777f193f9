//! Settings that are read again without a restart: how it is asked for, and what it changes. Pure but for
//! the channel; the supervisor carries it out.
//!
//! A connector is the same as before, or it is started, stopped or restarted as a whole. What belongs to
//! the process (Kafka, the pipeline's name, addresses, the log) needs a restart, and then nothing changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::config::{Settings, SinkSettings, SourceSettings};
use crate::error::{Error, Result};

/// Requests that wait for one under way.
const WAITING_MAX: usize = 16;

/// What a reload has changed, by names of connectors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Started.
    pub added: Vec<String>,
    /// Stopped.
    pub removed: Vec<String>,
    /// Stopped, and started with other settings.
    pub restarted: Vec<String>,
    /// Left as they were.
    pub unchanged: Vec<String>,
}

/// A connector with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Connector {
    /// The source.
    Source(SourceSettings),
    /// A sink.
    Sink(SinkSettings),
}

/// A request to read the settings again.
pub struct Asked(oneshot::Sender<Result<Reloaded>>);

impl Asked {
    /// Tells whoever asked, and the log.
    pub fn answer(self, changed: Result<Reloaded>) {
        match &changed {
            Ok(reloaded) => tracing::info!(
                added = reloaded.added.join(", "),
                removed = reloaded.removed.join(", "),
                restarted = reloaded.restarted.join(", "),
                unchanged = reloaded.unchanged.join(", "),
                "settings reloaded"
            ),
            Err(error) => tracing::error!(
                error = %error.what(),
                remedy = error.remedy(),
                "settings not reloaded: those of before stay in force"
            ),
        }
        // Who asked may have gone.
        let _gone = self.0.send(changed);
    }
}

/// Where a reload is asked for.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Asked>);

/// A handle, and where its requests come out.
pub fn channel() -> (Handle, mpsc::Receiver<Asked>) {
    let (sender, asked) = mpsc::channel(WAITING_MAX);
    (Handle(sender), asked)
}

impl Handle {
    /// Asks, and waits until it is done.
    ///
    /// # Errors
    /// Halt when the new settings are wrong or need a restart: nothing has changed then. Transient when
    /// the process is on its way out.
    pub async fn reload(&self) -> Result<Reloaded> {
        let (asked, answer) = oneshot::channel();
        let stopping = || Error::transient("walferry is stopping");
        self.0.send(Asked(asked)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// The connectors of the settings by name.
pub fn connectors(settings: &Settings) -> BTreeMap<String, Connector> {
    let source = settings.source.iter();
    let source = source.map(|source| (source.name.clone(), Connector::Source(source.clone())));
    let sinks = settings.sinks.iter();
    let sinks = sinks.map(|sink| (sink.name.clone(), Connector::Sink(sink.clone())));
    source.chain(sinks).collect()
}

/// What is to become of the connectors.
///
/// # Errors
/// Halt when something differs that needs a restart.
pub fn changes(before: &Settings, now: &Settings) -> Result<Reloaded> {
    let process = [
        ("pipeline", before.pipeline != now.pipeline),
        ("kafka", before.kafka != now.kafka),
        ("http", before.http != now.http),
        ("log", before.log != now.log),
        ("otlp", before.otlp != now.otlp),
    ];
    let differ: Vec<&str> = process
        .iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| *name)
        .collect();
    if !differ.is_empty() {
        return Err(Error::halt(
            format!(
                "walferry.toml has another {}, which needs a restart; nothing was changed",
                differ.join(", another ")
            ),
            "restart walferry, or write what was there before and reload",
        ));
    }
    let (before, now) = (connectors(before), connectors(now));
    let mut changes = Reloaded::default();
    for (name, connector) in &now {
        let to = match before.get(name) {
            None => &mut changes.added,
            Some(same) if same == connector => &mut changes.unchanged,
            Some(_other) => &mut changes.restarted,
        };
        to.push(name.clone());
    }
    let removed = before.into_keys().filter(|name| !now.contains_key(name));
    changes.removed = removed.collect();
    Ok(changes)
}

#[cfg(test)]
#[path = "reload_tests.rs"]
mod tests;
