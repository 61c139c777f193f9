//! `walferry copy`: asks the source, wherever it runs, for new copies of tables, and waits until the log
//! has them.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::status::count;
use super::tables::chosen;
use super::{Failure, shutdown, sink_of, supervisor};
use crate::config::Settings;
use crate::error::{Class, Error, Result};
use crate::log::commit_log::{Entry, Verdict, judge};
use crate::log::copies::CopyLedger;
use crate::log::copy_request::{self, Awaited, CopyRequest, Step};
use crate::log::progress;
use crate::log::tail::{From, LogTail};
use crate::log::topics::{TopicAdmin, Topics};
use crate::model::TableName;
use crate::model::checkpoint::LogPlace;
use crate::sink::Lender;

/// After so long without an entry of the log there is no source: one that is idle writes each second.
const SILENCE: Duration = Duration::from_secs(5);
/// After so long without the begin of a copy it is said that none has begun.
const BEGIN: Duration = Duration::from_secs(30);
/// Wait before the log is opened again after an error that may pass.
const RETRY: Duration = Duration::from_secs(1);

/// Asks for copies of the captured tables that the patterns name, and waits for them. `from`: the sink whose
/// follower is to be read; none: the leader is.
pub(super) async fn run(
    settings: &Settings,
    tables: &[String],
    from: Option<&str>,
) -> Result<(), Failure> {
    let lender = match from {
        Some(name) => {
            let sink = sink_of(settings, name)?;
            Some(Lender::of(&settings.pipeline, sink).map_err(Failure::Usage)?)
        }
        None => None,
    };
    if let Some(source) = settings.source.as_ref().filter(|source| !source.copy) {
        return Err(Failure::Usage(Error::halt(
            format!(
                "{}.toml says copy.enabled = false: this source makes no copies",
                source.name
            ),
            "remove that line and restart the source, then ask again",
        )));
    }
    let stop = CancellationToken::new();
    shutdown::listen(stop.clone()).map_err(Failure::RunTime)?;
    let topics = Topics::new(settings.pipeline.as_str());
    let (log, ledger) = Log::read(settings, &topics).await.map_err(Failure::of)?;
    let captured: Vec<&TableName> = ledger.captured().keys().collect();
    let tables = chosen(&captured, tables).map_err(Failure::Usage)?;
    // A request that nobody can fulfil is not made: the source would try it again and again.
    if let Some(lender) = &lender {
        lender.look(&tables).await.map_err(Failure::of)?;
    }
    let log_end = log.place.next_offset;
    let request =
        CopyRequest::behind(log_end, tables.iter().cloned()).read_from(from.map(str::to_owned));
    let key = copy_request::key(&supervisor::instance_token());
    progress::ask(&settings.kafka, &topics.progress(), &key, &request)
        .await
        .map_err(Failure::of)?;
    for table in &tables {
        match from {
            None => println!("{table}: a new copy is asked for"),
            Some(sink) => {
                println!("{table}: a new copy is asked for, from the follower of {sink}");
            }
        }
    }
    let awaited = Awaited::behind(log_end, tables, ledger, topics);
    Waiting {
        log,
        awaited,
        heard: Instant::now(),
        idle_since: Some(Instant::now()),
        is_silent: false,
        has_left: false,
        said: None,
        from: from.map(str::to_owned),
    }
    .wait(&stop)
    .await
}

/// Pauses the source's copies, or lets them go on.
pub(super) async fn pause(settings: &Settings, pause: bool) -> Result<(), Failure> {
    let topic = Topics::new(settings.pipeline.as_str()).progress();
    is_there(settings, &topic).await.map_err(Failure::of)?;
    let done = match pause {
        true => progress::pause_copies(&settings.kafka, &topic).await,
        false => progress::resume_copies(&settings.kafka, &topic).await,
    };
    done.map_err(Failure::of)?;
    println!(
        "{}",
        match pause {
            true =>
                "copies are paused: those under way keep their snapshot, which holds back VACUUM on the server that \
                 is read, and no other one begins; walferry copy --resume lets them go on",
            false => "copies go on",
        }
    );
    Ok(())
}

/// Checks that a topic of the pipeline is there.
async fn is_there(settings: &Settings, topic: &str) -> Result<()> {
    let admin = TopicAdmin::open(&settings.kafka)?;
    let topics = [topic.to_owned()];
    if admin.describe(&topics).await?.is_empty() {
        return Err(Error::halt(
            format!("topic {topic} is not there: no source of this pipeline has begun"),
            "start the source (walferry run), or correct pipeline and kafka.brokers in walferry.toml",
        ));
    }
    Ok(())
}

/// The commit log as it is followed.
struct Log {
    settings: Settings,
    commits: String,
    place: LogPlace,
    tail: Option<LogTail>,
}

impl Log {
    /// Reads the log from its low end to its end now.
    async fn read(settings: &Settings, topics: &Topics) -> Result<(Self, CopyLedger)> {
        let commits = topics.commits();
        is_there(settings, &commits).await?;
        let mut tail = LogTail::open(&settings.kafka, &commits, From::Low).await?;
        let mut ledger = CopyLedger::at_low_end(tail.low());
        let mut place = LogPlace::at_low_end(tail.low());
        while let Some((offset, entry)) = tail.next_there().await? {
            if judge(&mut place, offset, &entry)? == Verdict::Valid {
                ledger.valid(offset, &entry);
            }
        }
        place.next_offset = place.next_offset.max(tail.high());
        let log = Log {
            settings: settings.clone(),
            commits,
            place,
            tail: Some(tail),
        };
        Ok((log, ledger))
    }

    /// Opens the log again where it was left.
    async fn open(&mut self) -> Result<()> {
        let from = From::OffsetOrLow(self.place.next_offset);
        let tail = LogTail::open(&self.settings.kafka, &self.commits, from).await?;
        if tail.low() > self.place.next_offset {
            return Err(Error::halt(
                format!(
                    "{} was trimmed while it could not be read, so whether the copies were made is not known",
                    self.commits
                ),
                "ask again",
            ));
        }
        self.tail = Some(tail);
        Ok(())
    }

    /// The next entry, if it is valid; waits for it where the log is open. Cancel-safe.
    async fn next(&mut self) -> Result<Option<(i64, Entry)>> {
        let Some(tail) = &mut self.tail else {
            return std::future::pending().await;
        };
        let (offset, entry) = match tail.next().await {
            Ok(next) => next,
            Err(error) => {
                self.tail = None;
                return Err(error);
            }
        };
        let verdict = judge(&mut self.place, offset, &entry)?;
        Ok((verdict == Verdict::Valid).then_some((offset, entry)))
    }
}

/// The command while it waits.
struct Waiting {
    log: Log,
    awaited: Awaited,
    /// When the newest entry came.
    heard: Instant,
    /// Since when no copy that is waited for runs; none: one does, or that was said.
    idle_since: Option<Instant>,
    /// It was said that no source writes.
    is_silent: bool,
    /// A table will not be copied any more.
    has_left: bool,
    /// The error that was said last.
    said: Option<String>,
    /// The sink whose follower is read, if it is not the leader.
    from: Option<String>,
}

impl Waiting {
    async fn wait(mut self, stop: &CancellationToken) -> Result<(), Failure> {
        while !self.awaited.waiting().is_empty() {
            if self.log.tail.is_none() {
                tokio::select! {
                    () = stop.cancelled() => return Err(Failure::RunTime(self.stopped())),
                    opened = self.log.open() => self.patience(opened).await?,
                }
            }
            let next = tokio::select! {
                () = stop.cancelled() => return Err(Failure::RunTime(self.stopped())),
                next = self.log.next() => next,
                () = tokio::time::sleep(RETRY) => {
                    self.say_why();
                    continue;
                }
            };
            match next {
                Ok(entry) => self.hear(entry),
                Err(error) => self.patience(Err(error)).await?,
            }
            self.say_why();
        }
        if self.has_left {
            return Err(Failure::Unhealthy);
        }
        Ok(())
    }

    /// Says an error that may pass, once, and waits a little.
    async fn patience(&mut self, done: Result<()>) -> Result<(), Failure> {
        let Err(error) = done else {
            self.said = None;
            return Ok(());
        };
        if error.class() != Class::Transient {
            return Err(Failure::RunTime(error));
        }
        let what = error.what();
        if self.said.as_ref() != Some(&what) {
            eprintln!("waiting: {what}");
            self.said = Some(what);
        }
        tokio::time::sleep(RETRY).await;
        Ok(())
    }

    fn hear(&mut self, entry: Option<(i64, Entry)>) {
        self.heard = Instant::now();
        self.is_silent = false;
        let Some((offset, entry)) = entry else {
            return;
        };
        for step in self.awaited.valid(offset, &entry) {
            println!("{}", told(&step));
            match step {
                Step::Begun { .. } => self.idle_since = None,
                Step::Copied { .. } | Step::Void => self.idle_since = Some(self.heard),
                Step::Left(_) => self.has_left = true,
            }
        }
    }

    /// Says once why nothing comes.
    fn say_why(&mut self) {
        if !self.is_silent && self.heard.elapsed() >= SILENCE {
            self.is_silent = true;
            eprintln!(
                "waiting: no source writes to the commit log; the request stays until one runs (walferry run)"
            );
        }
        if !self.is_silent
            && self
                .idle_since
                .is_some_and(|since| since.elapsed() >= BEGIN)
        {
            self.idle_since = None;
            eprintln!(
                "waiting: the source has begun none of these copies yet: it makes one copy after the other, and none \
                 with copy.enabled = false; walferry status and its log tell more"
            );
            if let Some(sink) = &self.from {
                eprintln!(
                    "waiting: a copy from the follower of {sink} is tried again where that cannot be read, and is \
                     not made from the leader instead; walferry copy without --from has it made there"
                );
            }
        }
    }

    fn stopped(&self) -> Error {
        let waiting = self.awaited.waiting();
        Error::transient(format!(
            "only the waiting was stopped: the request stays, and the source copies {} {} all the same",
            waiting.len(),
            if waiting.len() == 1 {
                "table"
            } else {
                "tables"
            }
        ))
    }
}

fn told(step: &Step) -> String {
    match step {
        Step::Begun { copy, tables } => {
            let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
            format!("{}: copy {copy} has begun", names.join(", "))
        }
        Step::Copied {
            copy,
            table,
            point,
            rows,
        } => format!(
            "{table}: copied as it was at {point}, {} rows (copy {copy})",
            count(*rows)
        ),
        Step::Void => "the source has begun anew, and so will the copy".to_owned(),
        Step::Left(table) => format!("{table}: not captured any more, so it is not copied"),
    }
}
