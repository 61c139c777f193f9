//! Whether lag is right, by SQL. Leader and follower are asked before and after each look at the
//! metrics, and what these know must lie in between. What is unknown is no lie: how long it may be
//! unknown is for the tests.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::support::http::{get_from, series};
use crate::support::{DEADLINE, Pipeline, Postgres};

/// Lag is known from a sample that is younger than this, and samples that lie further apart are no
/// neighbours (docs/operations.md, "Reading lag").
const FRESH: Duration = Duration::from_secs(3);
/// What answers may take, and how late the leader's clock may be known.
const SLACK: Duration = Duration::from_secs(2);
/// How far above the truth seconds may be beside the gaps that the test makes: on a busy machine the
/// sampler stands still for a while.
const ABOVE: Duration = Duration::from_secs(10);
/// How exactly seconds rise with the clock.
const RISE_S: f64 = 1.5;

const FLUSHED: &str = "SELECT (pg_current_wal_flush_lsn() - '0/0')::int8";
const APPLIED: &str = "SELECT (applied - '0/0')::int8 FROM walferry.checkpoint WHERE sink = $1";

/// What the leader answered when it was asked where its WAL ends.
#[derive(Clone, Copy, Debug)]
struct Look {
    asked: Instant,
    answered: Instant,
    flushed: i64,
}

/// One look at the metrics.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When they were asked for.
    pub at: Instant,
    pub bytes: Option<f64>,
    pub seconds: Option<f64>,
    pub staleness: Option<f64>,
    /// By SQL on the leader and the follower, afterwards.
    pub flushed: Option<i64>,
    pub applied: Option<i64>,
    scraped: Scraped,
}

/// All metrics; too long to be printed.
#[derive(Clone)]
struct Scraped(String);

impl std::fmt::Debug for Scraped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = self.0.lines();
        let lags = lines.filter(|line| line.starts_with("walferry_sink_lag"));
        f.debug_list().entries(lags).finish()
    }
}

impl Reading {
    /// The value of a series, if it is there.
    pub fn series(&self, name: &str, labels: &[&str]) -> Option<f64> {
        series(&self.scraped.0, name, labels)
    }

    /// Whether the follower is known to have everything.
    pub fn is_zero(&self) -> bool {
        (self.bytes, self.seconds) == (Some(0.0), Some(0.0))
    }

    /// Whether lag says that nobody knows how far the leader is. Seconds of a follower that is known
    /// to miss something count on.
    pub fn is_unknown(&self) -> bool {
        let (sampled, applied) = (
            self.series("walferry_source_leader_flush_lsn_bytes", &[]),
            self.applied.map(|applied| applied as f64),
        );
        let flushed = self.flushed.map(|flushed| flushed as f64);
        let misses = sampled > applied || flushed > applied;
        self.bytes.is_none() && self.seconds.is_none_or(|seconds| seconds > 0.0 && misses)
    }

    /// WAL bytes that the follower misses, by SQL.
    pub fn misses(&self) -> Option<f64> {
        let (flushed, applied) = (self.flushed?, self.applied?);
        Some((flushed - applied) as f64)
    }
}

/// Looks at the lag of one sink.
pub struct Witness {
    port: u16,
    sink: String,
    leader: Asked,
    follower: Asked,
    looks: Vec<Look>,
    /// What the follower was found to have applied, and when that answer was here.
    applied: Vec<(Instant, i64)>,
    /// Since when no sample can have come, and the longest such time so far.
    silent: Option<Instant>,
    gap: Duration,
    /// Whether the process guesses the leader's clock by a wrong one until it has a live sample.
    guesses: bool,
}

impl Witness {
    pub fn new(pipeline: &Pipeline, sink: &str, leader: &Postgres, follower: &Postgres) -> Self {
        Witness {
            port: pipeline.http_port,
            sink: sink.to_owned(),
            leader: Asked::new(leader),
            follower: Asked::new(follower),
            looks: Vec::new(),
            applied: Vec::new(),
            silent: None,
            gap: Duration::ZERO,
            guesses: false,
        }
    }

    /// The same of a process whose clock is wrong.
    pub fn of_a_wrong_clock(mut self) -> Self {
        self.guesses = true;
        self
    }

    /// From now on no sample comes: soon everything has to be unknown.
    pub fn silence(&mut self) {
        self.silent = Some(Instant::now());
    }

    /// Samples may come again.
    pub fn silence_ends(&mut self) {
        let since = self.silent.take().expect("silence had begun");
        self.gap = self.gap.max(since.elapsed());
    }

    /// Looks again and again until a reading is accepted; every reading on the way must be right.
    pub async fn until(&mut self, what: &str, mut accept: impl FnMut(&Reading) -> bool) -> Reading {
        let end = Instant::now() + DEADLINE;
        loop {
            let read = self.read().await;
            match read {
                Ok(reading) if accept(&reading) => return reading,
                other if Instant::now() > end => {
                    panic!("{what}: not within {DEADLINE:?}: {other:#?}")
                }
                _not_yet => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Waits until the value has risen by so many seconds, and checks that it did so with the clock.
    pub async fn rises(
        &mut self,
        what: &str,
        seconds: f64,
        of: impl Fn(&Reading) -> Option<f64>,
    ) -> (Reading, Reading) {
        let first = self.until(what, |reading| of(reading).is_some()).await;
        let from = of(&first).expect("accepted");
        let risen = |reading: &Reading| of(reading).is_some_and(|now| now >= from + seconds);
        let last = self.until(what, risen).await;
        let by_clock = (last.at - first.at).as_secs_f64();
        let by = of(&last).expect("accepted") - from;
        assert!(
            (by - by_clock).abs() <= RISE_S,
            "{what}: by {by} s in {by_clock} s\n{first:#?}\n{last:#?}"
        );
        (first, last)
    }

    async fn read(&mut self) -> Result<Reading, String> {
        let at = Instant::now();
        let text = get_from(self.port, "/metrics").await?.1;
        let ended = Instant::now();
        let applied = self.follower.ask(APPLIED, &[&self.sink]).await;
        self.applied
            .extend(applied.map(|applied| (Instant::now(), applied)));
        let flushed = self.look().await;
        let label = format!("sink=\"{}\"", self.sink);
        let of = |name: &str| series(&text, &format!("walferry_sink_{name}"), &[&label]);
        let reading = Reading {
            at,
            bytes: of("lag_bytes"),
            seconds: of("lag_seconds"),
            staleness: of("staleness_seconds"),
            flushed,
            applied,
            scraped: Scraped(text),
        };
        self.guesses &= reading.bytes.is_none();
        if let Err(wrong) = self.judge(&reading, ended) {
            panic!("{wrong}\n{reading:#?}");
        }
        Ok(reading)
    }

    /// Asks the leader where its WAL ends.
    async fn look(&mut self) -> Option<i64> {
        let asked = Instant::now();
        let flushed = self.leader.ask(FLUSHED, &[]).await?;
        self.looks.push(Look {
            asked,
            answered: Instant::now(),
            flushed,
        });
        Some(flushed)
    }

    /// Whether a reading can be true; `ended`: when it was here.
    fn judge(&self, now: &Reading, ended: Instant) -> Result<(), String> {
        let silent = self
            .silent
            .is_some_and(|since| now.at > since + FRESH + SLACK);
        if silent && (now.bytes.is_some() || now.seconds == Some(0.0)) {
            return Err("it is known long after the last sample".to_owned());
        }
        if let (Some(seconds), Some(staleness)) = (now.seconds, now.staleness) {
            holds(seconds <= staleness, || {
                "seconds are above staleness".to_owned()
            })?;
        }
        // What a commit has brought is a moment later in the metrics than in the follower.
        let shown = |(answered, _): &&(Instant, i64)| *answered + SLACK <= now.at;
        if let Some((_, applied)) = self.applied.iter().rev().find(shown) {
            self.not_too_high(now, *applied, ended)?;
        }
        // What a follower has that does not answer is not known.
        now.applied
            .map_or(Ok(()), |applied| self.not_too_low(now, applied))
    }

    /// Whether lag is at most what is known by SQL, with this applied at the beginning.
    fn not_too_high(&self, now: &Reading, applied: i64, ended: Instant) -> Result<(), String> {
        if let (Some(bytes), Some(flushed)) = (now.bytes, now.flushed) {
            let most = flushed - applied;
            holds(bytes <= most as f64, || {
                format!("lag is at most {most} bytes")
            })?;
        }
        let had_no_more = self.looks.iter().rev().find(|look| look.flushed <= applied);
        if let (Some(seconds), Some(look)) = (now.seconds, had_no_more) {
            let most = ended - look.asked + ABOVE + self.gap;
            holds(seconds <= most.as_secs_f64(), || {
                format!("lag is at most {most:?}")
            })?;
        }
        Ok(())
    }

    /// Whether lag is at least what is known by SQL, with this applied at the end.
    fn not_too_low(&self, now: &Reading, applied: i64) -> Result<(), String> {
        if let Some(bytes) = now.bytes {
            let sampled = |look: &&Look| look.answered + FRESH + SLACK <= now.at;
            let had = self
                .looks
                .iter()
                .rev()
                .find(sampled)
                .map(|look| look.flushed);
            let least = had.map_or(0, |had| had - applied);
            holds(bytes >= least as f64, || {
                format!("lag is at least {least} bytes")
            })?;
        }
        let had_more = self.looks.iter().find(|look| look.flushed > applied);
        let behind = had_more.map_or(Duration::ZERO, |look| {
            now.at.saturating_duration_since(look.answered)
        });
        if let Some(seconds) = now.seconds {
            let least = behind.saturating_sub(FRESH + SLACK);
            holds(seconds >= least.as_secs_f64(), || {
                format!("lag is at least {least:?}")
            })?;
        }
        if let Some(staleness) = now.staleness.filter(|_| !self.guesses) {
            let least = behind.saturating_sub(SLACK);
            holds(staleness >= least.as_secs_f64(), || {
                format!("staleness is at least {least:?}")
            })?;
        }
        Ok(())
    }
}

fn holds(is: bool, why_not: impl FnOnce() -> String) -> Result<(), String> {
    if is { Ok(()) } else { Err(why_not()) }
}

/// A server that is asked; one that is down does not answer.
struct Asked {
    url: String,
    client: Option<Client>,
}

impl Asked {
    fn new(server: &Postgres) -> Self {
        Asked {
            url: server.url("postgres"),
            client: None,
        }
    }

    /// The number that a query gives, if there is one.
    async fn ask(
        &mut self,
        query: &str,
        with: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Option<i64> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.ok()?;
            tokio::spawn(connection);
            self.client = Some(client);
        }
        let row = self.client.as_ref()?.query_opt(query, with).await;
        row.ok()?.map(|row| row.get(0))
    }
}
