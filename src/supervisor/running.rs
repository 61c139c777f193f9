//! The parts that run now, and how they become others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::instance_token;
use super::supervise::supervise;
use crate::apply::{self, SinkContext};
use crate::capture::own_log::KeptLog;
use crate::capture::{self, CaptureContext};
use crate::config::{Settings, SinkSettings, SourceSettings};
use crate::error::{Error, Result};
use crate::lag::{HostClock, LagFeed, SharedTracker, run_feed};
use crate::log::topics::Topics;
use crate::reload::{Connector, Reloaded, changes, connectors};
use crate::status::{LeaderClock, Parts, ProcessStatus, Shared, SinkHandle, SourceView};
use crate::trace::Traces;
use crate::verify::periodic::Periodic;

/// Longest wait for parts to finish what is in flight.
const STOP_MAX: Duration = Duration::from_secs(15);

/// All that runs.
pub(super) struct Running {
    settings: Settings,
    status: ProcessStatus,
    /// Token of this process.
    instance: String,
    lag: (SharedTracker, HostClock),
    leader_clock: Arc<LeaderClock>,
    traces: Traces,
    /// All sinks in `connectors/`, for the source.
    sinks: watch::Sender<Vec<SinkSettings>>,
    stop: CancellationToken,
    parts: BTreeMap<String, Part>,
    /// The lag of sinks is fed from when there is one.
    feed: JoinSet<()>,
}

/// A connector that runs.
struct Part {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    /// Of a source: asks it to look at the leader's catalog at once.
    look: Arc<Notify>,
    /// Of a sink: ends its comparisons with the leader.
    verifying: CancellationToken,
}

impl Part {
    fn new(stop: &CancellationToken) -> Self {
        let stop = stop.child_token();
        Part {
            verifying: stop.child_token(),
            stop,
            tasks: JoinSet::new(),
            look: Arc::default(),
        }
    }

    /// Waits until it has finished what is in flight; whether it has in time.
    async fn finished(&mut self, by: Instant) -> bool {
        let tasks = &mut self.tasks;
        let all = async { while tasks.join_next().await.is_some() {} };
        timeout_at(by, all).await.is_ok()
    }
}

impl Running {
    /// Starts all connectors of the settings.
    ///
    /// # Errors
    /// Transient when no thread for traces can be started.
    pub(super) fn start(
        settings: Settings,
        status: ProcessStatus,
        lag: (SharedTracker, HostClock),
        stop: &CancellationToken,
    ) -> Result<Self> {
        let traces = Traces::start(settings.otlp.as_ref(), &settings.pipeline)?;
        let connectors = connectors(&settings);
        let (sinks, _) = watch::channel(settings.known_sinks.clone());
        let mut running = Running {
            settings,
            status,
            instance: instance_token(),
            lag,
            leader_clock: Arc::default(),
            traces,
            sinks,
            stop: stop.clone(),
            parts: BTreeMap::new(),
            feed: JoinSet::new(),
        };
        for (name, connector) in connectors {
            running.begin(name, connector);
        }
        running.feed_lag();
        Ok(running)
    }

    /// Starts, stops and restarts what these settings have otherwise, and lets the source look at the
    /// leader's catalog.
    ///
    /// # Errors
    /// Halt when the settings need a restart: nothing has changed then.
    pub(super) async fn reload(&mut self, settings: Settings) -> Result<Reloaded> {
        let changes = changes(&self.settings, &settings)?;
        self.stop_parts(changes.removed.iter().chain(&changes.restarted))
            .await;
        let other_source = self.settings.source != settings.source;
        self.settings = settings;
        self.sinks.send_replace(self.settings.known_sinks.clone());
        let mut connectors = connectors(&self.settings);
        self.show(&changes);
        for name in changes.added.iter().chain(&changes.restarted) {
            if let Some(connector) = connectors.remove(name) {
                self.begin(name.clone(), connector);
            }
        }
        for name in &changes.unchanged {
            match connectors.remove(name) {
                Some(Connector::Sink(sink)) if other_source => self.verify_anew(&sink),
                Some(Connector::Sink(_)) | None => {}
                Some(Connector::Source(_)) => self.parts[name].look.notify_one(),
            }
        }
        self.feed_lag();
        Ok(changes)
    }

    /// Waits until all parts have finished what is in flight, once they were asked to stop.
    ///
    /// # Errors
    /// Transient when some did not within the time allowed.
    pub(super) async fn end(mut self) -> Result<()> {
        let by = Instant::now() + STOP_MAX;
        let mut late = Vec::new();
        for (name, mut part) in std::mem::take(&mut self.parts) {
            if !part.finished(by).await {
                late.push(name);
            }
        }
        if !late.is_empty() {
            return Err(Error::transient(format!(
                "{} did not finish within {} s and were cut off; the next start resumes",
                late.join(", "),
                STOP_MAX.as_secs()
            )));
        }
        self.feed.shutdown().await;
        self.traces.end().await;
        Ok(())
    }

    /// Asks parts to finish what is in flight, all at once, and waits for them. One that does not in time
    /// is cut off, as by a kill: what it had in flight is repeated.
    async fn stop_parts(&mut self, names: impl Iterator<Item = &String>) {
        let named = names.filter_map(|name| self.parts.remove_entry(name));
        let stopping: Vec<(String, Part)> = named.collect();
        for (_, part) in &stopping {
            part.stop.cancel();
        }
        let by = Instant::now() + STOP_MAX;
        for (name, mut part) in stopping {
            if !part.finished(by).await {
                tracing::warn!(
                    part = name,
                    "did not finish within {} s and was cut off",
                    STOP_MAX.as_secs()
                );
                part.tasks.shutdown().await;
            }
        }
    }

    /// Shows the connectors that there are now, those that go on with the views they have.
    fn show(&self, changes: &Reloaded) {
        let before = self.status.parts();
        let goes_on = |name: &String| changes.unchanged.contains(name);
        let source = self.settings.source.as_ref().map(|source| {
            let kept = before.source.as_ref();
            let kept = kept.filter(|(name, _)| *name == source.name && goes_on(name));
            kept.cloned()
                .unwrap_or_else(|| (source.name.clone(), Arc::default()))
        });
        let sinks = self.settings.sinks.iter().map(|sink| {
            let kept = before.sink(&sink.name).filter(|sink| goes_on(&sink.name));
            kept.cloned().unwrap_or_else(|| SinkHandle::new(&sink.name))
        });
        self.status.show(Parts {
            source,
            sinks: sinks.collect(),
        });
    }

    /// Starts a connector, which is shown already.
    fn begin(&mut self, name: String, connector: Connector) {
        let part = Part::new(&self.stop);
        let shown = self.status.parts();
        match connector {
            Connector::Source(source) => {
                if let Some((_, view)) = &shown.source {
                    let part = self.begin_source(part, source, view);
                    self.parts.insert(name, part);
                }
            }
            Connector::Sink(sink) => {
                if let Some(handle) = shown.sink(&name) {
                    let part = self.begin_sink(part, sink.clone(), handle);
                    self.parts.insert(name, part);
                    self.verify_anew(&sink);
                }
            }
        }
    }

    fn begin_source(
        &self,
        mut part: Part,
        source: SourceSettings,
        view: &Arc<Shared<SourceView>>,
    ) -> Part {
        let (newest, samples) = watch::channel(None);
        let name = source.name.clone();
        let context = CaptureContext {
            pipeline: self.settings.pipeline.clone(),
            instance: self.instance.clone(),
            source,
            kafka: self.settings.kafka.clone(),
            sinks: self.sinks.subscribe(),
            kept_log: KeptLog::default(),
            samples,
            leader_clock: self.leader_clock.clone(),
            traces: self.traces.clone(),
            status: view.clone(),
            look: part.look.clone(),
            stop: part.stop.clone(),
        };
        part.tasks
            .spawn(capture::sample_leader(context.clone(), newest));
        let ends = (part.stop.clone(), None);
        part.tasks
            .spawn(supervise(name, view.clone(), ends, move || {
                let context = context.clone();
                async move { capture::run(&context).await }
            }));
        part
    }

    fn begin_sink(&self, mut part: Part, sink: SinkSettings, handle: &SinkHandle) -> Part {
        let context = SinkContext {
            pipeline: self.settings.pipeline.clone(),
            instance: self.instance.clone(),
            said_as: sink.name.clone(),
            sink,
            kafka: self.settings.kafka.clone(),
            status: handle.view.clone(),
            shown: Arc::default(),
            leader_clock: self.leader_clock.clone(),
            traces: self.traces.clone(),
            stop: part.stop.clone(),
        };
        let (name, view) = (handle.name.clone(), handle.view.clone());
        let ends = (part.stop.clone(), Some(handle.resume.clone()));
        part.tasks.spawn(supervise(name, view, ends, move || {
            let context = context.clone();
            async move { apply::run_session(&context).await }
        }));
        part
    }

    /// Begins a sink's comparisons with the leader, if it has any, and ends those that there were.
    fn verify_anew(&mut self, sink: &SinkSettings) {
        let shown = self.status.parts();
        let (Some(part), Some(handle)) = (self.parts.get_mut(&sink.name), shown.sink(&sink.name))
        else {
            return;
        };
        part.verifying.cancel();
        part.verifying = part.stop.child_token();
        let stop = part.verifying.clone();
        if let Some(periodic) = Periodic::of(&self.settings, sink, &handle.view, stop) {
            part.tasks.spawn(periodic.keep_verifying());
        }
    }

    /// Begins to feed the lag tracker, once there is a sink.
    fn feed_lag(&mut self) {
        if !self.feed.is_empty() || self.settings.sinks.is_empty() {
            return;
        }
        let (tracker, clock) = self.lag.clone();
        self.feed.spawn(run_feed(LagFeed {
            kafka: self.settings.kafka.clone(),
            topics: Topics::new(self.settings.pipeline.as_str()),
            status: self.status.clone(),
            tracker,
            leader_clock: self.leader_clock.clone(),
            clock,
            stop: self.stop.clone(),
        }));
    }
}
