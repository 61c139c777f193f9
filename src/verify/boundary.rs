//! Both servers at one and the same boundary, while both are live.
//!
//! The follower's checkpoint is locked, so its sink takes no durable step, while a temporary slot is made on the
//! leader: its consistent point lies behind all that the follower shows, and its snapshot shows exactly the
//! transactions before it. Under the same lock the sink is ordered to go on to that point and to stand there. Once
//! it does, a snapshot is opened there too, and the follower is let go.
//!
//! The creation of a slot waits for transactions that have written. Those that are open for long are waited for
//! before, with nobody held.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Pair;
use super::servers::{Servers, not_in_time, waits_for};
use super::snapshot::Snapshot;
use crate::apply::orders;
use crate::config::PostgresSettings;
use crate::error::{Class, Error, Result};
use crate::killpoint::{self, Point};
use crate::model::{Hold, Lsn, TableName};
use crate::sink::{FollowerCheckpoint, StoredCheckpoint, checkpoint_in};
use crate::source::catalog::CatalogTable;
use crate::source::connection::{CreatedSlot, ReplicationConnection, SystemIdentity};
use crate::source::copy::begin_with;
use crate::source::{published, writers};

/// How long a boundary is good for a table to begin with: snapshots keep old rows.
const FRESH_FOR: Duration = Duration::from_secs(60);
/// Longest wait for a slot while the follower's checkpoint is locked.
const SLOT_MAX: Duration = Duration::from_secs(5);
/// How much longer than the server itself its answer is awaited.
const ANSWER_GRACE: Duration = Duration::from_secs(1);
/// How long a follower is held at most, should nobody let it go, beyond the time that it needs to come to the
/// boundary.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// Between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two attempts.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Both servers at a boundary.
pub(super) struct Boundary<'a> {
    /// The boundary.
    pub lsn: Lsn,
    /// The leader there.
    pub leader: Snapshot<'a>,
    /// The follower there.
    pub follower: Snapshot<'a>,
    /// The follower's tables whose copies are in effect there.
    pub in_effect: BTreeSet<TableName>,
    /// The publication's tables there.
    pub tables: Vec<CatalogTable>,
    taken_at: Instant,
}

impl Boundary<'_> {
    /// Whether a table may begin with it.
    pub(super) fn is_fresh(&self) -> bool {
        self.taken_at.elapsed() < FRESH_FOR
    }
}

/// What takes boundaries.
pub(super) struct Taker<'a> {
    pair: Pair<'a>,
    servers: &'a Servers,
    checkpoint: FollowerCheckpoint,
}

/// Why there is no boundary.
pub(super) enum Missed {
    /// There may be one at the next attempt.
    NotYet(Error),
    /// There will be none.
    Failed(Error),
}

impl From<Error> for Missed {
    fn from(error: Error) -> Self {
        Missed::Failed(error)
    }
}

impl<'a> Taker<'a> {
    /// Connects to the follower's checkpoint.
    pub(super) async fn open(pair: Pair<'a>, servers: &'a Servers) -> Result<Self> {
        let selection = pair.selection.clone();
        let checkpoint =
            FollowerCheckpoint::open(pair.pipeline, pair.sink, pair.follower, selection).await?;
        Ok(Taker {
            pair,
            servers,
            checkpoint,
        })
    }

    /// The follower's tables that are in effect now.
    pub(super) async fn in_effect(&self) -> Result<BTreeSet<TableName>> {
        let known = self.checkpoint.look().await?;
        Ok(known.ok_or_else(|| unknown(self.pair))?.in_effect)
    }

    /// Takes a boundary, within the patience; an earlier one is over.
    pub(super) async fn take(&mut self) -> Result<Boundary<'a>> {
        let until = Instant::now() + self.pair.patience;
        loop {
            match self.attempt(until).await {
                Ok(boundary) => return Ok(boundary),
                Err(Missed::NotYet(error)) if Instant::now() < until => {
                    tracing::debug!(sink = self.pair.sink, %error, "no boundary yet");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(Missed::NotYet(error) | Missed::Failed(error)) => return Err(error),
            }
        }
    }

    async fn attempt(&mut self, until: Instant) -> Result<Boundary<'a>, Missed> {
        let (pair, servers) = (self.pair, self.servers);
        servers.end_snapshots().await?;
        let slot_max = SLOT_MAX.min(pair.follower.statement_timeout / 2);
        let mut exporter = Exporter::open(&pair.source.postgres, slot_max)
            .await
            .map_err(|error| error.at("the leader"))?;
        servers.leader.old_writers_end(until).await?;
        // As far as it lags now it will have to come to the boundary too.
        let near = Instant::now();
        self.come_near(&exporter.leader, until).await?;
        let longest = HOLD_MAX + 2 * near.elapsed();
        let begun = Instant::now();
        let (slot, hold) = self.hold(&mut exporter, longest, until).await?;
        let opened = open_there(pair, servers, (&slot, hold), begun + longest).await;
        self.checkpoint.let_go(hold).await;
        let stood = begun.elapsed();
        // The session holds the snapshot itself now; the slot would only keep WAL.
        exporter.connection.close().await;
        let in_effect = opened?;
        tracing::debug!(sink = pair.sink, boundary = %hold.at, ms = stood.as_millis(), "the follower was held");
        let leader = &servers.leader.inside;
        Ok(Boundary {
            lsn: hold.at,
            leader: Snapshot(leader),
            follower: Snapshot(&servers.follower.inside),
            in_effect,
            tables: published::tables(leader, &pair.source.publication).await?,
            taken_at: Instant::now(),
        })
    }

    /// Waits until the follower shows what the leader has now: one that is far behind is not held for what it lacks.
    async fn come_near(&self, leader: &SystemIdentity, until: Instant) -> Result<(), Missed> {
        let now = self.servers.leader.position().await?;
        loop {
            let known = self.checkpoint.look().await?;
            let known = known.ok_or_else(|| unknown(self.pair))?;
            let of = (leader.system_id.as_str(), leader.timeline);
            orders::may_be_held(&known, false, of, self.pair.sink).map_err(by_class)?;
            if known.applied >= now {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Missed::Failed(not_in_time(
                    self.pair.sink,
                    known.applied,
                    now,
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Makes the slot while the sink takes no step, and orders it to stand at the slot's point.
    async fn hold(
        &mut self,
        exporter: &mut Exporter,
        longest: Duration,
        until: Instant,
    ) -> Result<(CreatedSlot, Hold), Missed> {
        let patience = until.saturating_duration_since(Instant::now());
        let still = self.checkpoint.stand_still(patience).await?;
        let leader = (exporter.leader.system_id.as_str(), exporter.leader.timeline);
        orders::may_be_held(&still.checkpoint, still.is_held, leader, self.pair.sink)
            .map_err(by_class)?;
        let slot = match exporter.slot().await {
            Ok(slot) => slot,
            Err(Missed::Failed(error)) => return Err(error.at("the leader").into()),
            Err(Missed::NotYet(error)) => {
                // The follower goes on first.
                drop(still);
                let open = writers::open(&self.servers.leader.outside).await?;
                return Err(Missed::NotYet(match open.first() {
                    Some(writer) => waits_for(writer),
                    None => error.at("the leader"),
                }));
            }
        };
        let at = slot.consistent_point;
        let hold = still.go_on_to(at, longest, orders::held).await?;
        killpoint::pass(Point::FollowerHeld);
        Ok((slot, hold))
    }
}

/// Opens the leader's snapshot, and the follower's once it stands at the boundary; the follower's tables in effect.
async fn open_there(
    pair: Pair<'_>,
    servers: &Servers,
    (slot, hold): (&CreatedSlot, Hold),
    until: Instant,
) -> Result<BTreeSet<TableName>, Missed> {
    let snapshot = slot
        .snapshot
        .as_ref()
        .ok_or_else(|| Error::transient("the leader exported no snapshot with the slot"))?;
    let leader = async {
        let begun = begin_with(&servers.leader.inside, snapshot).await;
        begun.map_err(Missed::from)
    };
    let ((), in_effect) = tokio::try_join!(leader, follower_there(pair, servers, hold, until))?;
    Ok(in_effect)
}

async fn follower_there(
    pair: Pair<'_>,
    servers: &Servers,
    hold: Hold,
    until: Instant,
) -> Result<BTreeSet<TableName>, Missed> {
    let follower = &servers.follower;
    loop {
        follower.begin_snapshot().await?;
        let known = checkpoint_in(&follower.inside, pair.pipeline, pair.sink).await?;
        let known = known.ok_or_else(|| unknown(pair))?;
        if known.hold != Some(hold) {
            return Err(Missed::NotYet(Error::transient(format!(
                "follower {} was given another order while it was to stand at {}, or was too slow to come there",
                pair.sink, hold.at
            ))));
        }
        if known.boundary() == hold.at {
            assert_eq!(known.applied, hold.at, "what it has read it shows");
            return Ok(known.in_effect);
        }
        if Instant::now() >= until {
            return Err(Missed::NotYet(not_in_time(
                pair.sink,
                known.applied,
                hold.at,
            )));
        }
        follower.end_snapshot().await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The replication connection that has the slot.
pub(super) struct Exporter {
    connection: ReplicationConnection,
    /// The leader.
    pub leader: SystemIdentity,
    longest: Duration,
}

impl Exporter {
    /// Connects; slots are waited for so long.
    pub(super) async fn open(leader: &PostgresSettings, longest: Duration) -> Result<Self> {
        // The server gives up by itself: who only goes away leaves a session that waits on.
        let limit = [("lock_timeout", longest.as_millis().to_string())];
        let mut connection =
            ReplicationConnection::open(leader, "walferry verify slot", &limit).await?;
        let leader = connection.identify_system().await?;
        Ok(Exporter {
            connection,
            leader,
            longest,
        })
    }

    /// Makes a temporary slot with a snapshot; an earlier one is over.
    pub(super) async fn slot(&mut self) -> Result<CreatedSlot, Missed> {
        let name = format!("walferry_verify_{:08x}", rand::random::<u32>());
        let begun = Instant::now();
        let created = self.connection.create_slot(&name, true, true);
        match tokio::time::timeout(self.longest + ANSWER_GRACE, created).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(error)) if begun.elapsed() < self.longest => Err(Missed::Failed(error)),
            Ok(Err(error)) => Err(Missed::NotYet(error)),
            Err(_elapsed) => Err(Missed::NotYet(Error::transient(format!(
                "no slot within {} s",
                self.longest.as_secs_f64()
            )))),
        }
    }
}

/// Whether another attempt may do, by the error's class.
pub(super) fn by_class(error: Error) -> Missed {
    match error.class() {
        Class::Transient => Missed::NotYet(error),
        Class::Halt | Class::Fenced => Missed::Failed(error),
    }
}

fn unknown(pair: Pair<'_>) -> Error {
    Error::halt(
        format!(
            "the follower's walferry.checkpoint knows no sink {} of pipeline {}",
            pair.sink, pair.pipeline
        ),
        "run the sink first; or correct its url, if that is another database",
    )
}
