//! Watches a follower's checkpoint until what was ordered is done, with a bar on a terminal.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::ask;
use super::bar::{Bar, Done};
use super::reach::Log;
use super::{Failure, token};
use crate::apply::follow::Terms;
use crate::apply::rebuilding;
use crate::config::{Secret, Settings, SinkSettings};
use crate::error::{Class, Error, Result};
use crate::model::{Checkpoint, Lsn, TableName};
use crate::sink::{self, StoredCheckpoint};
use crate::status::{RebuildProgress, State};

/// How often the follower is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A follower whose checkpoint does not move for so long has no sink at work.
const NOBODY_AFTER: Duration = Duration::from_secs(10);

/// The walferry that these settings are of, if it runs here.
pub(super) struct Process {
    address: String,
    sink: String,
    token: Option<Secret>,
}

impl Process {
    /// That of these settings, for one of their sinks.
    ///
    /// # Errors
    /// As reading the settings' token.
    pub(super) fn of(settings: &Settings, sink: &str) -> Result<Self, Failure> {
        Ok(Process {
            address: ask::local(settings.http.listen).to_string(),
            sink: sink.to_owned(),
            token: token(false, || Ok(settings.clone()))?,
        })
    }

    /// What it says of the sink; `None` when it does not run here.
    async fn halted(&self) -> Option<Error> {
        let report = ask::report(&self.address).await.ok()?;
        let sink = report
            .sinks
            .into_iter()
            .find(|sink| sink.name == self.sink)?;
        if sink.view.state != State::Halted {
            return None;
        }
        let last = sink.view.last_error?;
        let remedy = last.remedy.unwrap_or_default();
        Some(Error::halt(last.what, remedy))
    }

    /// Lets a halted sink begin with what was ordered.
    pub(super) async fn wake(&self) {
        if self.halted().await.is_none() {
            return;
        }
        if let Err(failure) = ask::resume(&self.address, &self.sink, self.token.as_ref()).await {
            eprintln!(
                "{} has halted, and could not be resumed; walferry sink resume {0} tells why",
                self.sink
            );
            tracing::debug!(?failure, "resuming a halted sink");
        }
    }
}

/// What is watched.
pub(super) struct Watch<'a> {
    /// The settings of the pipeline.
    pub settings: &'a Settings,
    /// The sink whose follower it is.
    pub sink: &'a SinkSettings,
    /// The follower's checkpoint.
    pub follower: Box<dyn StoredCheckpoint>,
    /// The walferry that may run the sink; none: this very process does.
    pub process: Option<&'a Process>,
    /// Which tables the sink takes.
    pub terms: &'a Terms,
    /// The tables concerned.
    pub tables: BTreeSet<TableName>,
    /// The follower is concerned as a whole, with whatever is captured by then.
    pub is_whole: bool,
    /// Where it goes on from, if it keeps what it has.
    pub from: Option<Lsn>,
    /// Where it stops; none: it goes on.
    pub target: Option<Lsn>,
}

impl Watch<'_> {
    /// Watches until it is done; what is to be said of the follower then.
    ///
    /// # Errors
    /// That of a sink that has halted; halt when the checkpoint is gone.
    pub(super) async fn until_done(&mut self, log: &mut Log) -> Result<String, Failure> {
        let unit = match self.from {
            Some(_) => "bytes of WAL",
            None => "rows and changes",
        };
        let mut shown = Shown::new(unit);
        let mut before: Option<(i64, Instant)> = None;
        // Whether the sink has done a step since it was ordered, and whether it was let go on.
        let (mut begun, mut woken) = (false, false);
        loop {
            let looked = self.look(log).await;
            let (checkpoint, progress, indexes_left) = match looked {
                Ok(looked) => looked,
                // The sink goes on when it can, and so does who watches it.
                Err(error) if error.class() == Class::Transient => {
                    shown.lost(&error);
                    tokio::time::sleep(LOOK_EVERY).await;
                    self.begin_again(log).await;
                    continue;
                }
                Err(error) => {
                    shown.clear();
                    return Err(Failure::of(error));
                }
            };
            if self.is_done(&checkpoint) {
                shown.clear();
                return Ok(self.done(&checkpoint));
            }
            let now = Instant::now();
            let since = match before {
                Some((version, since)) if version == checkpoint.version => since,
                Some(_) => {
                    begun = true;
                    now
                }
                None => now,
            };
            before = Some((checkpoint.version, since));
            shown.show(&self.sink.name, progress, indexes_left);
            if let Some(process) = self.process.filter(|_| now - since >= NOBODY_AFTER) {
                match process.halted().await {
                    None => shown.nobody(&self.sink.name),
                    // It halted over what it was at, and has not looked at the order yet.
                    Some(_) if !begun && !std::mem::replace(&mut woken, true) => {
                        process.wake().await;
                    }
                    Some(error) => {
                        shown.clear();
                        return Err(Failure::Usage(error));
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Connects anew, if that can be done.
    async fn begin_again(&mut self, log: &mut Log) {
        let follower = sink::checkpoint(&self.settings.pipeline, self.sink);
        let opened = Log::open(self.settings, self.terms, self.target);
        if let Ok((follower, opened)) = tokio::try_join!(follower, opened) {
            self.follower = follower;
            *log = opened;
        }
    }

    /// The checkpoint, how far its tables are, and how many of their indexes are still to be built.
    async fn look(&self, log: &mut Log) -> Result<(Checkpoint, RebuildProgress, usize)> {
        log.read_on().await?;
        let checkpoint = self.follower.look().await?.ok_or_else(|| {
            Error::halt(
                "the sink's checkpoint is gone from the follower: somebody deleted it",
                "order it again",
            )
        })?;
        let until = if self.target.is_some() {
            &log.then
        } else {
            &log.now
        };
        let known = (&log.now.ledger, until.ledger.changes());
        let progress = match (self.from, self.target) {
            (Some(from), Some(to)) => RebuildProgress {
                done: checkpoint.applied.0.min(to.0).saturating_sub(from.0),
                total: to.0.saturating_sub(from.0),
            },
            (None, _) | (_, None) => {
                rebuilding::progress(&self.tables, &checkpoint, known, self.terms)
            }
        };
        let indexes_left = self.follower.indexes_left(&self.tables).await?;
        Ok((checkpoint, progress, indexes_left))
    }

    fn is_done(&self, checkpoint: &Checkpoint) -> bool {
        let selection = &self.terms.selection;
        checkpoint.log.epoch.is_some()
            && checkpoint.lacking(selection).is_disjoint(&self.tables)
            && (!self.is_whole || checkpoint.is_complete(selection))
            && (self.target.is_none() || checkpoint.is_at_target())
    }

    fn done(&self, checkpoint: &Checkpoint) -> String {
        let (sink, applied) = (&self.sink.name, checkpoint.applied);
        match self.target {
            Some(_) => format!(
                "{sink} shows the leader at {applied}, and stays there; walferry sink resume {sink} lets it \
                 follow again"
            ),
            None => format!("{sink} shows the leader at {applied}, and follows it"),
        }
    }
}

/// What stands on the terminal.
struct Shown {
    bar: Bar,
    nobody: bool,
    lost: bool,
}

impl Shown {
    fn new(unit: &'static str) -> Self {
        Shown {
            bar: Bar::new(unit),
            nobody: false,
            lost: false,
        }
    }

    fn show(&mut self, sink: &str, progress: RebuildProgress, indexes_left: usize) {
        let RebuildProgress { done, total } = progress;
        if total > 0 && done >= total && indexes_left > 0 {
            // Rows and changes that are known of are there.
            let nothing = Done { done: 0, total: 0 };
            let building = format!("building indexes, {indexes_left} to go");
            self.bar.show(sink, nothing, &building);
            return;
        }
        let done = Done { done, total };
        self.bar.show(sink, done, "waiting for its sink to begin");
    }

    fn clear(&mut self) {
        self.bar.clear();
    }

    fn lost(&mut self, error: &Error) {
        self.clear();
        if !std::mem::replace(&mut self.lost, true) {
            eprintln!(
                "cannot be watched for the moment; the order stands in the follower: {}",
                error.what()
            );
        }
    }

    fn nobody(&mut self, sink: &str) {
        if !std::mem::replace(&mut self.nobody, true) {
            self.clear();
            eprintln!(
                "nothing moves: does walferry run with {sink}? The order stands in the follower, and is \
                 carried out when it does"
            );
        }
    }
}
