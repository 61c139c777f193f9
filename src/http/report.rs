//! What `/v1/status` says: everything that this process knows of itself, at one moment.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Served;
use super::history::History;
use super::verdict::{Level, Verdict, standing};
use crate::lag::Lag;
use crate::status::{LastError, SinkView, SourceView, State};

/// `/v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// walferry's version.
    pub version: String,
    /// The pipeline.
    pub pipeline: String,
    /// When this was, by this host's clock, seconds since 1970.
    pub now_unix_seconds: f64,
    /// How all of it is, in words.
    pub verdict: Verdict,
    /// The source, if it runs in this process.
    pub source: Option<SourceReport>,
    /// Sinks of this process, by name.
    pub sinks: Vec<SinkReport>,
    /// Why the process is not ready; empty when it is.
    pub not_ready: Vec<String>,
}

/// The source in `/v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Since when it is in its state, seconds since 1970, to the second; none when it has just changed.
    pub since_unix_seconds: Option<u64>,
    /// WAL bytes that the leader has and Kafka does not; none while the leader cannot be asked.
    pub unpublished_bytes: Option<u64>,
    /// Its view.
    #[serde(flatten)]
    pub view: SourceView,
}

/// A sink in `/v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SinkReport {
    /// Its name.
    pub name: String,
    /// How it is, by its state and its lag.
    pub standing: Level,
    /// Since when it is in its state, seconds since 1970, to the second; none when it has just changed.
    pub since_unix_seconds: Option<u64>,
    /// Its view.
    #[serde(flatten)]
    pub view: SinkView,
    /// How far behind it is.
    pub lag: Lag,
}

impl Served {
    /// Everything now.
    pub(super) fn report(&self, history: &History) -> StatusReport {
        let parts = self.status.parts();
        let source = parts.source.as_ref().map(|(name, view)| {
            let view = view.get();
            SourceReport {
                name: name.clone(),
                since_unix_seconds: history.since(name, view.state),
                // The leader's position is of the newest sample; the slot is known while there are samples.
                unpublished_bytes: view
                    .slot
                    .and(view.leader_flush.zip(view.published))
                    .map(|(flush, published)| flush.bytes_since(published)),
                view,
            }
        });
        let sinks: Vec<SinkReport> = parts
            .sinks
            .iter()
            .map(|sink| {
                let view = sink.view.get();
                let lag = self.lag.lock().sink_lag(&view, self.clock.now_us());
                SinkReport {
                    name: sink.name.clone(),
                    standing: standing(view.state, &lag),
                    since_unix_seconds: history.since(&sink.name, view.state),
                    view,
                    lag,
                }
            })
            .collect();
        let source_part = source
            .iter()
            .map(|s| (s.name.as_str(), s.view.state, &s.view.last_error));
        let sink_parts = sinks
            .iter()
            .map(|s| (s.name.as_str(), s.view.state, &s.view.last_error));
        let not_ready = not_ready(source_part.chain(sink_parts));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_unix_seconds = now.unwrap_or_default().as_secs_f64();
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: self.status.pipeline.clone(),
            now_unix_seconds,
            verdict: Verdict::of(source.as_ref(), &sinks, now_unix_seconds),
            not_ready,
            source,
            sinks,
        }
    }
}

/// Parts that are not in their normal work, with what they do instead; where an error keeps them from it
/// also what it is and what to do.
fn not_ready<'a>(
    parts: impl Iterator<Item = (&'a str, State, &'a Option<LastError>)>,
) -> Vec<String> {
    parts
        .filter(|(_, state, _)| *state != State::Streaming)
        .map(|(name, state, error)| {
            let named = format!("{name} is {}", state.name());
            match (state, error) {
                (State::Halted | State::Retrying, Some(error)) => match &error.remedy {
                    Some(remedy) => format!("{named}: {}; what to do: {remedy}", error.what),
                    None => format!("{named}: {}", error.what),
                },
                _other => named,
            }
        })
        .collect()
}
