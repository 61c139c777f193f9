//! A follower that stands at a boundary for a moment, so that somebody can open a snapshot there.
//!
//! Whoever wants that has an advisory lock while it does, so the sink is let go by whatever ends that session, be
//! it `kill -9`; and a time is set, should the server not notice for long that the session is gone.

use std::time::Duration;

use tokio_postgres::{Client, Transaction};

use super::Identity;
use super::checkpoint::parse;
use super::orders::{FollowerCheckpoint, LOCK, failed, put};
use crate::error::{Error, Result};
use crate::model::{Checkpoint, Hold, Lsn, Selection};
use crate::postgres::classify;

/// First number of the locks, the second being the hold's: `walf`.
const LOCKS: i32 = 0x7761_6c66;

/// Takes the lock `$2`; and the follower's clock.
const TAKE: &str = "SELECT pg_catalog.pg_try_advisory_lock($1, $2), \
    (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::int8";

const LET_GO: &str = "SELECT pg_catalog.pg_advisory_unlock($1, $2)";

/// Whether somebody has the lock `$2`, before the time `$3`.
const LIVES: &str = "EXISTS (SELECT FROM pg_catalog.pg_locks \
        WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND classid = $1::int4::oid \
        AND objid = $2::int4::oid AND database = (SELECT oid FROM pg_catalog.pg_database \
            WHERE datname = pg_catalog.current_database())) \
    AND extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000 < $3::int8";

/// Whether the checkpoint `$4`, `$5` is still of version `$6`.
const SAME: &str = "EXISTS (SELECT FROM walferry.checkpoint \
    WHERE pipeline = $4 AND sink = $5 AND version = $6)";

/// A follower whose sink takes no durable step, as its checkpoint is locked; until this is dropped.
pub struct StandingStill<'a> {
    transaction: Transaction<'a>,
    whose: (&'a str, &'a str, &'a Selection),
    /// What it has.
    pub checkpoint: Checkpoint,
    /// Somebody else has it stand at a boundary.
    pub is_held: bool,
}

impl FollowerCheckpoint {
    /// Keeps the sink from its next durable step; waits for the one under way, for as long as `patience` says.
    ///
    /// # Errors
    /// Transient when it cannot be had in time, or is gone; halt when it cannot be read.
    pub async fn stand_still(&mut self, patience: Duration) -> Result<StandingStill<'_>> {
        let whose = (self.pipeline.as_str(), self.sink.as_str(), &self.selection);
        let transaction = self.client.transaction().await.map_err(failed)?;
        let patience_ms = patience.as_millis().clamp(1, i32::MAX as u128);
        let limit = format!("SET LOCAL lock_timeout = {patience_ms}");
        transaction.batch_execute(&limit).await.map_err(failed)?;
        let row = transaction.query_opt(LOCK, &[&whose.0, &whose.1]).await;
        let row = row.map_err(|error| classify(&error, "waiting for the sink's transaction"))?;
        let Some(row) = row else {
            return Err(Error::transient(
                "the checkpoint went away on the follower; nothing was ordered",
            ));
        };
        let checkpoint = parse(&row)?;
        let is_held = match checkpoint.hold {
            Some(hold) => lives(&transaction, hold).await?,
            None => false,
        };
        Ok(StandingStill {
            transaction,
            whose,
            checkpoint,
            is_held,
        })
    }

    /// Lets a follower go that stands. No error: the session's end does the same.
    pub async fn let_go(&self, hold: Hold) {
        let asked = self.client.query_one(LET_GO, &[&LOCKS, &hold.lock]).await;
        if let Err(error) = asked {
            tracing::debug!(%error, "letting a follower go");
        }
    }
}

impl StandingStill<'_> {
    /// Has it go on, to the boundary `at`, and stand there until it is let go, though not beyond a time. `make`:
    /// its checkpoint with that order.
    ///
    /// # Errors
    /// Those of `make`, which has changed nothing; else those of a query.
    pub async fn go_on_to(
        self,
        at: Lsn,
        longest: Duration,
        make: impl FnOnce(&Checkpoint, Hold) -> Result<Checkpoint>,
    ) -> Result<Hold> {
        let lock = (rand::random::<u32>() >> 1).cast_signed();
        let row = self.transaction.query_one(TAKE, &[&LOCKS, &lock]).await;
        let row = row.map_err(failed)?;
        let (taken, now_us): (bool, i64) = (
            row.try_get(0).map_err(failed)?,
            row.try_get(1).map_err(failed)?,
        );
        if !taken {
            return Err(Error::transient(format!(
                "advisory lock ({LOCKS}, {lock}) is somebody else's"
            )));
        }
        let longest_us = i64::try_from(longest.as_micros()).unwrap_or(i64::MAX);
        let hold = Hold {
            at,
            until_us: now_us.saturating_add(longest_us),
            lock,
        };
        let next = make(&self.checkpoint, hold)?;
        put(self.transaction, self.whose, &next).await?;
        Ok(hold)
    }
}

async fn lives(transaction: &Transaction<'_>, hold: Hold) -> Result<bool> {
    let lives = format!("SELECT {LIVES}");
    let row = transaction
        .query_one(&lives, &[&LOCKS, &hold.lock, &hold.until_us])
        .await;
    row.and_then(|row| row.try_get(0)).map_err(failed)
}

/// Whether the follower is still to stand where this checkpoint holds it.
pub(super) async fn is_held(client: &Client, me: &Identity, held: &Checkpoint) -> Result<bool> {
    let Some(hold) = held.hold else {
        return Ok(false);
    };
    let asked = format!("SELECT {LIVES} AND {SAME}");
    let row = client
        .query_one(
            &asked,
            &[
                &LOCKS,
                &hold.lock,
                &hold.until_us,
                &me.pipeline,
                &me.sink,
                &held.version,
            ],
        )
        .await;
    row.and_then(|row| row.try_get(0))
        .map_err(|error| classify(&error, "looking whether the follower is held"))
}
