//! Runs the source and the sinks of one process, each on its own: a transient error is retried with
//! back-off, a halt or a fence stops that part and leaves the others alone. A sink that has halted can
//! be resumed. A reload of the settings starts, stops and restarts the parts that they name.
//!
//! The process stays up when every part has halted, so that status and metrics can tell why.

mod running;
mod supervise;

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::error::{Error, Result};
use crate::http;
use crate::lag::{HostClock, SharedTracker};
use crate::reload::{Asked, Handle};
use crate::status::{EventLoop, Parts, ProcessStatus, Shared, SinkHandle, State};

use running::Running;

/// How often the event loop is looked at.
const EVENT_LOOP_EVERY: Duration = Duration::from_millis(250);

/// What the connectors of the settings will say of themselves; nothing yet.
pub fn views(settings: &Settings) -> ProcessStatus {
    let source = settings.source.as_ref();
    let sinks = settings.sinks.iter();
    let parts = Parts {
        source: source.map(|source| (source.name.clone(), Arc::default())),
        sinks: sinks.map(|sink| SinkHandle::new(&sink.name)).collect(),
    };
    ProcessStatus::new(&settings.pipeline, parts)
}

/// How the settings are read again.
pub struct Reload {
    /// Reads them.
    pub load: Box<dyn Fn() -> Result<Settings> + Send>,
    /// Asks for it; for the HTTP server.
    pub handle: Handle,
    /// Requests for it.
    pub asked: mpsc::Receiver<Asked>,
}

/// Runs the connectors of the settings until `stop`; returns the names of the parts that had halted
/// or been fenced by then. They say in `status`, which is that of [`views`], how they get on.
///
/// # Errors
/// Transient when the HTTP address cannot be taken, or when a part did not finish within the time
/// allowed.
pub async fn run(
    settings: Settings,
    status: ProcessStatus,
    mut reload: Reload,
    stop: CancellationToken,
) -> Result<Vec<String>> {
    let (lag, clock) = (SharedTracker::default(), HostClock::start());
    let state = http::Served {
        status: status.clone(),
        lag: lag.clone(),
        clock,
        reload: reload.handle,
    };
    let served = http::serve(&settings.http, state, stop.clone()).await?;
    tracing::info!(
        pipeline = settings.pipeline,
        version = env!("CARGO_PKG_VERSION"),
        http = %served.address,
        metrics = %served.metrics,
        source = settings.source.as_ref().map(|s| s.name.as_str()),
        sinks = settings.sinks.len(),
        "started"
    );
    let watching = watch_event_loop(status.event_loop.clone(), stop.clone());
    let watching = tokio::spawn(watching);
    let mut running = Running::start(settings, status.clone(), (lag, clock), &stop)?;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(asked) = reload.asked.recv() => {
                let changed = match (reload.load)() {
                    Ok(settings) => running.reload(settings).await,
                    Err(error) => Err(error),
                };
                asked.answer(changed);
            }
        }
    }
    running.end().await?;
    watching.abort();
    tracing::info!("stopped");
    Ok(unwell(&status))
}

/// Notes how late a timer is, four times a second.
async fn watch_event_loop(event_loop: Arc<Shared<EventLoop>>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let due = tokio::time::Instant::now() + EVENT_LOOP_EVERY;
        tokio::time::sleep_until(due).await;
        let late = due.elapsed().as_secs_f64();
        event_loop.update(|seen| seen.delay.observe(late));
    }
}

fn unwell(status: &ProcessStatus) -> Vec<String> {
    let parts = status.parts();
    let source = parts.source.iter();
    let source = source.map(|(name, view)| (name, view.get().state));
    let sinks = parts.sinks.iter();
    let sinks = sinks.map(|sink| (&sink.name, sink.view.get().state));
    source
        .chain(sinks)
        .filter(|(_, state)| matches!(state, State::Halted | State::Fenced))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Keeps the connectors named in `only`; all when it is empty.
///
/// # Errors
/// Halt when `only` names no connector of the settings.
pub fn select(mut settings: Settings, only: &[String]) -> Result<Settings> {
    if only.is_empty() {
        return Ok(settings);
    }
    let mut known: Vec<String> = settings.sinks.iter().map(|s| s.name.clone()).collect();
    known.extend(settings.source.iter().map(|s| s.name.clone()));
    if let Some(unknown) = only.iter().find(|name| !known.contains(name)) {
        return Err(Error::halt(
            format!("--only {unknown}: there is no such connector"),
            format!("name some of: {}", known.join(", ")),
        ));
    }
    settings.source = settings.source.filter(|s| only.contains(&s.name));
    settings.sinks.retain(|s| only.contains(&s.name));
    Ok(settings)
}

/// A token that no other start of a process has.
pub fn instance_token() -> String {
    format!("{:016x}", rand::rng().random::<u64>())
}
