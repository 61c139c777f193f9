//! `walferry rebuild`, `walferry resync`, `walferry replay --into`: order a follower to be built anew from Kafka,
//! or to be moved on to a boundary, and watch it.
//!
//! The order is written into the follower; the sink does it, wherever it runs. What is watched is the
//! follower's checkpoint, so the one who watches may go away and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::ask;
use super::bar::{Bar, Done};
use super::reach::Log;
use super::tables::chosen;
use super::target::{Target, resolve};
use super::{Failure, sink_of, token};
use crate::apply::follow::Terms;
use crate::apply::{orders, rebuilding};
use crate::config::{Secret, Settings, SinkSettings, StoreSettings};
use crate::error::{Class, Error, Result};
use crate::log::topics::Topics;
use crate::model::{Checkpoint, Lsn, Selection, TableName};
use crate::sink::{self, FollowerCheckpoint};
use crate::status::{RebuildProgress, State};

/// How often the follower is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A follower whose checkpoint does not move for so long has no sink at work.
const NOBODY_AFTER: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// The sink.
    pub sink: String,
    /// What is to be done to it.
    pub what: What,
    /// Where to stop; none: the present.
    pub target: Option<Target>,
    /// Order it, and do not watch.
    pub detach: bool,
}

/// What is to be done to a follower.
#[derive(Debug)]
pub(super) enum What {
    /// All of it is built anew.
    Rebuild,
    /// Some tables are copied anew while the others go on.
    Resync {
        /// The tables.
        tables: Tables,
        /// No copy that is there by now is used: the source makes another one.
        fresh: bool,
    },
    /// It goes on from where it stands to the target, and stays.
    Replay {
        /// Where it is thought to stand.
        from: Option<Lsn>,
    },
}

/// Some tables of a sink.
#[derive(Debug)]
pub(super) enum Tables {
    /// Those that these patterns name.
    Named(Vec<String>),
    /// These.
    These(BTreeSet<TableName>),
}

/// Writes the order, and watches until it is carried out. What is to be said of the follower then; none where
/// nobody watches.
pub(super) async fn run(settings: &Settings, asked: Asked) -> Result<Option<String>, Failure> {
    let sink = sink_of(settings, &asked.sink)?;
    let terms = Terms {
        topics: Topics::new(settings.pipeline.as_str()),
        selection: Selection::new(&sink.include, &sink.exclude),
        takes_copies: true,
        moves_tables: sink.moves_tables(),
    };
    let mut target = match asked.target {
        Some(target) => Some(
            resolve(&settings.kafka, &terms, target)
                .await
                .map_err(Failure::of)?,
        ),
        None => None,
    };
    let mut log = Log::open(settings, &terms, target)
        .await
        .map_err(Failure::of)?;
    if let (What::Replay { .. }, None) = (&asked.what, target) {
        target = Some(log.stop_at_end());
    }
    let mut follower = sink::checkpoint(&settings.pipeline, sink)
        .await
        .map_err(Failure::of)?;
    let ordered = write(&mut follower, &asked, &log, &terms)
        .await
        .map_err(Failure::of)?;
    eprintln!("{}", ordered.said);
    let process = Process::of(settings, sink)?;
    process.wake().await;
    if asked.detach {
        return Ok(None);
    }
    let mut watch = Watch {
        settings,
        sink,
        follower,
        process: &process,
        terms: &terms,
        tables: ordered.tables,
        is_whole: !matches!(asked.what, What::Resync { .. }),
        from: ordered.from,
        target,
    };
    watch.until_done(&mut log).await.map(Some)
}

/// What was ordered.
struct Ordered {
    /// The tables concerned.
    tables: BTreeSet<TableName>,
    /// Where the follower goes on from, if it keeps what it has.
    from: Option<Lsn>,
    said: String,
}

/// Changes the follower's checkpoint.
async fn write(
    follower: &mut FollowerCheckpoint,
    asked: &Asked,
    log: &Log,
    terms: &Terms,
) -> Result<Ordered> {
    let captured = log.now.ledger.captured().keys();
    let all: BTreeSet<TableName> = captured
        .filter(|table| terms.selection.takes(table))
        .cloned()
        .collect();
    let (sink, target) = (&asked.sink, log.then.target);
    match &asked.what {
        What::Rebuild => {
            log.reaches_target(&BTreeSet::new())?;
            follower
                .replace(|version| orders::rebuilt(version, target))
                .await?;
            let until = target.map(|target| format!(", up to {target}"));
            let until = until.unwrap_or_default();
            Ok(Ordered {
                said: format!("{sink}: all {} tables are built anew{until}", all.len()),
                tables: all,
                from: None,
            })
        }
        What::Resync { tables, fresh } => {
            let tables = named(tables, &all)?;
            let refused: BTreeMap<TableName, BTreeSet<i64>> = tables
                .iter()
                .filter(|_| *fresh)
                .map(|table| (table.clone(), log.now.ledger.of(table)))
                .collect();
            let revised = follower.revise(|known| {
                let known = known.ok_or_else(|| without_checkpoint(sink))?;
                orders::resynced(known, &tables, &refused, terms)
            });
            revised.await?;
            let what = match tables.len() {
                1 => "one table is".to_owned(),
                number => format!("{number} tables are"),
            };
            Ok(Ordered {
                tables,
                from: None,
                said: format!("{sink}: {what} copied anew; the others go on"),
            })
        }
        What::Replay { from } => {
            let to = target.unwrap_or(Lsn::ZERO);
            let mut begins = Lsn::ZERO;
            let revised = follower.revise(|known| {
                let known = known.ok_or_else(|| without_checkpoint(sink))?;
                log.reaches_target(&known.in_effect)?;
                begins = known.boundary();
                orders::moved(known, (*from, to), sink, terms)
            });
            revised.await?;
            Ok(Ordered {
                tables: all,
                from: Some(begins),
                said: format!("{sink}: goes on from {begins} to {to}, and stays there"),
            })
        }
    }
}

fn named(tables: &Tables, all: &BTreeSet<TableName>) -> Result<BTreeSet<TableName>> {
    match tables {
        Tables::Named(patterns) => {
            let all: Vec<&TableName> = all.iter().collect();
            Ok(chosen(&all, patterns)?.into_iter().collect())
        }
        Tables::These(tables) => Ok(tables.clone()),
    }
}

fn without_checkpoint(sink: &str) -> Error {
    Error::halt(
        format!("sink {sink} has no checkpoint on its follower yet"),
        "start it with walferry run: it copies every table",
    )
}

/// The walferry that these settings are of, if it runs here.
struct Process {
    address: String,
    sink: String,
    token: Option<Secret>,
}

impl Process {
    fn of(settings: &Settings, sink: &SinkSettings) -> Result<Self, Failure> {
        Ok(Process {
            address: ask::local(settings.http.listen).to_string(),
            sink: sink.name.clone(),
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
    async fn wake(&self) {
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
struct Watch<'a> {
    settings: &'a Settings,
    sink: &'a SinkSettings,
    follower: FollowerCheckpoint,
    process: &'a Process,
    terms: &'a Terms,
    tables: BTreeSet<TableName>,
    /// The follower is concerned as a whole, with whatever is captured by then.
    is_whole: bool,
    /// Where it goes on from, if it keeps what it has.
    from: Option<Lsn>,
    target: Option<Lsn>,
}

impl Watch<'_> {
    async fn until_done(&mut self, log: &mut Log) -> Result<String, Failure> {
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
            shown.show(&self.process.sink, progress, indexes_left);
            if now - since >= NOBODY_AFTER {
                match self.process.halted().await {
                    None => shown.nobody(&self.process.sink),
                    // It halted over what it was at, and has not looked at the order yet.
                    Some(_) if !begun && !std::mem::replace(&mut woken, true) => {
                        self.process.wake().await;
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
        let (sink, applied) = (&self.process.sink, checkpoint.applied);
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

/// Lets a follower that was to stop at a position follow again; `false` when it was not, or cannot be asked.
pub(super) async fn resume(settings: &Settings, name: &str) -> Result<bool, Failure> {
    let named = |sink: &&SinkSettings| {
        sink.name == name && matches!(sink.store, StoreSettings::Postgres(_))
    };
    let Some(sink) = settings.sinks.iter().find(named) else {
        return Ok(false);
    };
    let Ok(mut follower) = sink::checkpoint(&settings.pipeline, sink).await else {
        return Ok(false);
    };
    let is_to_stop =
        |known: &Option<Checkpoint>| known.as_ref().is_some_and(|k| k.stops_at().is_some());
    if !is_to_stop(&follower.look().await.map_err(Failure::of)?) {
        return Ok(false);
    }
    let revised = follower.revise(|known| {
        known.and_then(orders::resumed).ok_or_else(|| {
            Error::transient("the follower was resumed by somebody else this moment")
        })
    });
    revised.await.map_err(Failure::of)?;
    // It may have halted on its way there.
    Process::of(settings, sink)?.wake().await;
    Ok(true)
}
