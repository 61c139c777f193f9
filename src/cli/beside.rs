//! `walferry rebuild --beside`: a follower is built in a database beside the one in use, by this process, and
//! takes its name when it shows as much.
//!
//! The sink that follows the database in use goes on wherever it runs, and knows nothing of this. The worker
//! here has its settings with another database, and says its progress under a name of its own, so that the
//! commit log is kept for both. What is done is in the databases (`sink::Stage`): the command may be killed at any step,
//! and the next one goes on from there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::reach::Log;
use super::watch::{LOOK_EVERY, Process, Watch};
use super::{Failure, shutdown, sink_of, supervisor, worker};
use crate::apply::follow::Terms;
use crate::apply::{SinkContext, orders};
use crate::config::{PostgresSinkSettings, Settings, SinkSettings, StoreSettings};
use crate::error::{Class, Error, Result};
use crate::killpoint::{self, Point};
use crate::log::progress::{self, ProgressReader};
use crate::log::schemas::SchemaStore;
use crate::log::topics::Topics;
use crate::model::{Checkpoint, Lsn, TableName, TableSchema};
use crate::sink::{self, Beside, Followed, Found, Held, Mark, Stage, StoredCheckpoint};
use crate::trace::Traces;

/// A new follower that reaches within this time what the old one shows is close behind it. One without records to
/// apply commits once a second.
const CLOSE: Duration = Duration::from_secs(5);
/// How long the old follower stands still at most for the new one to reach it.
const HOLD_MAX: Duration = Duration::from_secs(15);
/// How often the change of names is tried: a session that does not end in time is in its way.
const ATTEMPTS_MAX: u32 = 3;
/// Longest wait for the worker's last progress record, which must not come behind its removal.
const LAST_PROGRESS_MAX: Duration = Duration::from_secs(10);

/// Builds it; what is to be said then.
pub(super) async fn run(
    settings: &Settings,
    name: &str,
    database: &str,
    leave_behind: bool,
) -> Result<String, Failure> {
    let sink = sink_of(settings, name)?;
    let store = store_of(sink).map_err(Failure::Usage)?;
    let beside = Beside::new(&settings.pipeline, name, store, database);
    let found = beside.look().await.map_err(Failure::of)?;
    let stage = found.stage((&settings.pipeline, name), database);
    let stage = stage.map_err(Failure::of)?;
    if let Stage::Finish(mark) = &stage {
        eprintln!(
            "{name}: database {} was built by an earlier command, and has taken its place",
            found.name
        );
        let finished = finish(settings, &beside, &found, mark, None).await;
        return finished.map_err(Failure::of);
    }
    let terms = Terms::of(&settings.pipeline, sink, true);
    let mut log = Log::open(settings, &terms, None)
        .await
        .map_err(Failure::of)?;
    let tables = followed(settings, &terms, &log)
        .await
        .map_err(Failure::of)?;
    let left = beside.left_behind(&tables).await.map_err(Failure::of)?;
    may_stay(&found, &left, leave_behind).map_err(Failure::of)?;
    let stop = CancellationToken::new();
    shutdown::listen(stop.clone()).map_err(Failure::RunTime)?;
    beside
        .prepare(&found, &stage, &tables)
        .await
        .map_err(Failure::of)?;
    eprintln!(
        "{name}: {} in database {database}; {} goes on serving until it is there",
        match stage {
            Stage::GoOn => "the follower is built on",
            Stage::Create | Stage::Begin | Stage::Finish(_) => "the follower is built anew",
        },
        found.name,
    );
    let new_sink = SinkSettings {
        store: StoreSettings::Postgres(beside.new_settings()),
        ..sink.clone()
    };
    let work = Work {
        settings,
        terms: &terms,
        beside,
        found,
        sink: new_sink,
        said_as: said_as(name, database),
        database,
        stop,
    };
    work.until_swapped(&mut log).await
}

/// The settings of a follower that can be built beside another one.
fn store_of(sink: &SinkSettings) -> Result<&PostgresSinkSettings> {
    match &sink.store {
        StoreSettings::Stdout(_) => Err(Error::halt(
            format!(
                "{}: a sink that only shows changes has no follower",
                sink.name
            ),
            "name a sink with a Postgres follower",
        )),
        StoreSettings::ClickHouse(_) | StoreSettings::MySql(_) => Err(Error::halt(
            format!(
                "{}: only a Postgres follower can be built in another database and take the old one's place",
                sink.name
            ),
            "rebuild it without --beside; or give a second sink another database, let it catch up, and have readers go there",
        )),
        StoreSettings::Postgres(store) if !store.create_tables => Err(Error::halt(
            format!(
                "{}.toml says create_tables = false: a new database would have no tables",
                sink.name
            ),
            "remove that line, or rebuild the follower without --beside",
        )),
        StoreSettings::Postgres(store) => Ok(store),
    }
}

/// Under which name the new follower's progress stands in `P.progress`. No connector can have it.
fn said_as(sink: &str, database: &str) -> String {
    format!("{sink}@{database}")
}

/// Refuses to lose what somebody has made in the database in use.
fn may_stay(found: &Found, left: &[String], leave_behind: bool) -> Result<()> {
    match found.lost(left) {
        None => Ok(()),
        Some(said) if leave_behind => {
            eprintln!("{said}");
            Ok(())
        }
        Some(said) => Err(Error::halt(
            said,
            "drop what is not needed, or give --leave-behind: it then stays in the old database, which is kept under \
             another name, and is to be made again in the new one",
        )),
    }
}

/// The tables that the sink takes, as the log knows them.
async fn followed(settings: &Settings, terms: &Terms, log: &Log) -> Result<Vec<Followed>> {
    let ledger = &log.now.ledger;
    let captured = ledger
        .captured()
        .keys()
        .filter(|table| terms.selection.takes(table));
    let captured: Vec<TableName> = captured.cloned().collect();
    let (kafka, topic) = (settings.kafka.clone(), terms.topics.schemas());
    let reading = tokio::task::spawn_blocking(move || {
        let store = SchemaStore::open(&kafka, &topic)?;
        let newest = captured.into_iter().map(|table| {
            let newest = store.newest(&table, None).cloned();
            (table, newest)
        });
        Ok::<_, Error>(newest.collect::<Vec<_>>())
    });
    let read = reading
        .await
        .map_err(|error| Error::transient("reading the schema versions").caused_by(error))??;
    let of = |(table, newest): (TableName, Option<Arc<TableSchema>>)| {
        let copy = ledger.newest_complete(&table);
        let offers = copy.map_or_else(Vec::new, |copy| copy.begin.offers(&table).to_vec());
        let (mut columns, mut key) = (Vec::new(), Vec::new());
        if let Some(schema) = newest {
            columns.extend(schema.columns.iter().map(|column| column.name.clone()));
            key.extend(schema.key.iter().map(|&at| schema.columns[at].name.clone()));
        }
        Followed {
            table,
            columns,
            key,
            offers,
        }
    };
    Ok(read.into_iter().map(of).collect())
}

/// The work on the new database.
struct Work<'a> {
    settings: &'a Settings,
    terms: &'a Terms,
    beside: Beside<'a>,
    found: Found,
    /// The sink with the new database.
    sink: SinkSettings,
    said_as: String,
    database: &'a str,
    stop: CancellationToken,
}

impl Work<'_> {
    async fn until_swapped(&self, log: &mut Log) -> Result<String, Failure> {
        let mut attempts = 0;
        loop {
            let held = self.build(log).await?;
            let known = self.known().await.map_err(Failure::of)?;
            // Its last steps may have taken a table out of effect.
            let Some(known) = known.filter(|known| self.shows(known, held.boundary)) else {
                continue;
            };
            killpoint::pass(Point::BesideLevel);
            attempts += 1;
            let swapped = self.take_place(log, held).await;
            if swapped.is_ok() {
                killpoint::pass(Point::BesideRenamed);
            }
            // Of a COMMIT without an answer it is not known whether it has happened: the databases tell.
            if let Stage::Finish(mark) = self.stage().await? {
                let said_last = Some(known.applied);
                let finished = finish(self.settings, &self.beside, &self.found, &mark, said_last);
                return finished.await.map_err(Failure::of);
            }
            match swapped {
                Err(error) if error.class() != Class::Transient || attempts == ATTEMPTS_MAX => {
                    return Err(Failure::of(self.in_new(error)));
                }
                Err(error) => eprintln!(
                    "the databases have not changed names, and it is tried again: {}",
                    error.what()
                ),
                Ok(()) => eprintln!("somebody has given the databases other names; building on"),
            }
        }
    }

    async fn stage(&self) -> Result<Stage, Failure> {
        let found = self.beside.look().await.map_err(Failure::of)?;
        let of = (self.settings.pipeline.as_str(), self.sink.name.as_str());
        found.stage(of, self.database).map_err(Failure::of)
    }

    /// Runs the worker until the new follower shows all that the old one does, which then stands still.
    async fn build(&self, log: &mut Log) -> Result<Held, Failure> {
        let stop = self.stop.child_token();
        let context = self.context(&stop);
        let working = worker::keep(&context, |_| false);
        tokio::pin!(working);
        let building = self.until_level(log);
        tokio::pin!(building);
        let held = tokio::select! {
            biased;
            worked = &mut working => match worked {
                Ok(()) => return Err(Failure::RunTime(self.stopped())),
                Err(error) => return Err(Failure::of(self.in_new(error))),
            },
            held = &mut building => held,
        };
        stop.cancel();
        let worked = working.await;
        let held = held?;
        worked.map_err(|error| Failure::of(self.in_new(error)))?;
        if self.stop.is_cancelled() {
            return Err(Failure::RunTime(self.stopped()));
        }
        Ok(held)
    }

    fn context(&self, stop: &CancellationToken) -> SinkContext {
        SinkContext {
            pipeline: self.settings.pipeline.clone(),
            instance: supervisor::instance_token(),
            sink: self.sink.clone(),
            said_as: self.said_as.clone(),
            kafka: self.settings.kafka.clone(),
            status: Default::default(),
            leader_clock: Default::default(),
            traces: Traces::default(),
            shown: Default::default(),
            stop: stop.clone(),
        }
    }

    async fn follower(&self) -> Result<Box<dyn StoredCheckpoint>> {
        sink::checkpoint(&self.settings.pipeline, &self.sink).await
    }

    async fn known(&self) -> Result<Option<Checkpoint>> {
        self.follower().await?.look().await
    }

    async fn until_level(&self, log: &mut Log) -> Result<Held, Failure> {
        let mut follower = self.follower().await.map_err(Failure::of)?;
        // It is there from the beginning, so that it can be watched.
        if follower.look().await.map_err(Failure::of)?.is_none() {
            let begun = follower.replace(Box::new(|version| orders::rebuilt(version, None)));
            begun.await.map_err(Failure::of)?;
        }
        let captured = log.now.ledger.captured().keys();
        let tables: BTreeSet<TableName> = captured
            .filter(|table| self.terms.selection.takes(table))
            .cloned()
            .collect();
        let mut watch = Watch {
            settings: self.settings,
            sink: &self.sink,
            follower,
            process: None,
            terms: self.terms,
            tables,
            is_whole: true,
            from: None,
            target: None,
        };
        let built = watch.until_done(log).await?;
        tracing::debug!(built, "the new follower has all tables");
        self.level().await.map_err(Failure::of)
    }

    /// Holds the old follower once the new one is close behind it, and waits until it is not.
    async fn level(&self) -> Result<Held> {
        let follower = self.follower().await?;
        let mut said = false;
        loop {
            let shown = self.beside.boundary().await?;
            if self.reaches(follower.as_ref(), shown, CLOSE).await? {
                let held = self.beside.hold().await?;
                if self
                    .reaches(follower.as_ref(), held.boundary, HOLD_MAX)
                    .await?
                {
                    return Ok(held);
                }
            }
            if !std::mem::replace(&mut said, true) {
                eprintln!(
                    "{}: the new follower has all tables, and catches up with the old one, which shows {shown}",
                    self.sink.name
                );
            }
        }
    }

    /// Whether the new follower shows so much, with all tables, within this time.
    async fn reaches(
        &self,
        follower: &dyn StoredCheckpoint,
        boundary: Lsn,
        within: Duration,
    ) -> Result<bool> {
        let end = Instant::now() + within;
        loop {
            let known = follower.look().await?;
            if known.is_some_and(|known| self.shows(&known, boundary)) {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_EVERY / 10).await;
        }
    }

    fn shows(&self, known: &Checkpoint, boundary: Lsn) -> bool {
        known.is_complete(&self.terms.selection) && known.applied >= boundary
    }

    /// The worker has ended and the old follower stands still: the new one gets what readers need, and its name.
    async fn take_place(&self, log: &Log, held: Held) -> Result<()> {
        let tables = followed(self.settings, self.terms, log).await?;
        self.beside.carry(&self.found, &tables).await?;
        self.beside.swap(&self.found, held).await
    }

    fn in_new(&self, error: Error) -> Error {
        error.at(format_args!(
            "the new follower in database {}",
            self.database
        ))
    }

    fn stopped(&self) -> Error {
        let (sink, database) = (&self.sink.name, self.database);
        Error::transient(format!(
            "stopped: {sink} goes on with database {} as before; the new one is not ready",
            self.found.name
        ))
        .advising(format!(
            "run the same command again: it goes on; or give it up: DROP DATABASE {database}, and walferry sink \
             forget {}",
            self.said_as
        ))
    }
}

/// Does what is left to do when the databases have changed names; `said_last`: the last boundary that a worker of
/// this process has said.
async fn finish(
    settings: &Settings,
    beside: &Beside<'_>,
    found: &Found,
    mark: &Mark,
    said_last: Option<Lsn>,
) -> Result<String> {
    let topic = Topics::new(settings.pipeline.as_str()).progress();
    let said_as = said_as(&mark.sink, &mark.database);
    if let Some(applied) = said_last {
        last_progress(settings, &topic, &said_as, applied).await?;
    }
    progress::forget(&settings.kafka, &topic, &said_as).await?;
    let before = mark.before.as_deref().unwrap_or_default();
    beside.finish(found, before).await?;
    if let Ok(process) = Process::of(settings, &mark.sink) {
        process.wake().await;
    }
    Ok(format!(
        "{}: the new follower is database {} now; the old one is kept as {before}: DROP DATABASE {before} when it is \
         not needed any more",
        mark.sink, found.name
    ))
}

/// Waits until the worker's last record is in the topic; it is sent while the session ends. One that got lost is
/// not waited for longer than a broker may take.
async fn last_progress(
    settings: &Settings,
    topic: &str,
    said_as: &str,
    applied: Lsn,
) -> Result<()> {
    let mut reader = ProgressReader::open(&settings.kafka, topic).await?;
    let end = Instant::now() + LAST_PROGRESS_MAX;
    let is_there = |reader: &ProgressReader| {
        let newest = reader.newest();
        newest
            .get(said_as)
            .is_some_and(|said| said.applied >= applied)
    };
    while !is_there(&reader) {
        if tokio::time::timeout_at(end, reader.changed())
            .await
            .is_err()
        {
            tracing::warn!(
                said_as,
                "the last progress of the new follower's worker did not reach Kafka"
            );
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::is_connector_name;

    #[test]
    fn no_sink_can_have_the_name_under_which_progress_is_said() {
        assert!(is_connector_name("a") && !is_connector_name(&said_as("a", "b")));
    }
}
