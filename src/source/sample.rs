//! Samples of the leader: where its WAL ends, what its clock says, what the slot retains.
//!
//! A leader that cannot be asked makes samples go absent; it never ends the stream.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio_postgres::{Client, Statement};

use crate::config::PostgresSettings;
use crate::error::{Error, Result};
use crate::model::clock::{POSTGRES_EPOCH_US, unix_us};
use crate::model::{Lsn, SlotState, WalStatus};
use crate::postgres::{classify, connect};

/// Time between samples: half of the second in which people look at lag, so that every look sees it
/// move. With one a second, looks that fell on the samples' beat saw one twice and none of the next.
const INTERVAL: Duration = Duration::from_millis(500);
/// First wait between attempts to connect.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// A leader that has not answered by then is not known to be alive.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait between attempts to connect.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// The leader at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderSample {
    /// `pg_current_wal_flush_lsn()`.
    pub flush: Lsn,
    /// `clock_timestamp()`, microseconds since 2000-01-01 UTC.
    pub clock_us: i64,
    /// When that was here, to within half a round trip.
    pub at: Instant,
    /// The leader's clock minus this host's, microseconds.
    pub clock_offset_us: i64,
    /// The slot; none when it is gone.
    pub slot: Option<SlotState>,
}

/// Samples the leader twice a second until it is dropped; `None` while there is no answer.
pub async fn run(
    settings: PostgresSettings,
    application_name: String,
    slot: String,
    newest: watch::Sender<Option<LeaderSample>>,
) {
    let mut back_off = BACK_OFF_MIN;
    loop {
        match session(&settings, &application_name, &slot, &newest).await {
            Ok(()) => return,
            Err(error) => {
                if newest.send_replace(None).is_some() {
                    back_off = BACK_OFF_MIN;
                    tracing::warn!(%error, "the leader cannot be sampled: lag is unknown until it can");
                }
            }
        }
        tokio::time::sleep(back_off).await;
        back_off = (back_off * 2).min(BACK_OFF_MAX);
    }
}

/// One connection's samples; returns when nobody wants them any more.
async fn session(
    settings: &PostgresSettings,
    application_name: &str,
    slot: &str,
    newest: &watch::Sender<Option<LeaderSample>>,
) -> Result<()> {
    let client = connect(settings, application_name).await?;
    client
        .batch_execute("SET synchronous_commit = 'local'")
        .await
        .map_err(|error| classify(&error, "sampling the leader"))?;
    let statement = client
        .prepare(
            "SELECT pg_catalog.pg_current_wal_flush_lsn()::text,
                    (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::int8 - 946684800000000,
                    s.active, s.wal_status,
                    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::int8,
                    s.safe_wal_size
             FROM (SELECT) one LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = $1",
        )
        .await
        .map_err(|error| classify(&error, "sampling the leader"))?;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sample = tokio::time::timeout(ANSWER_TIMEOUT, take(&client, &statement, slot))
            .await
            .map_err(|_elapsed| Error::transient("the leader does not answer"))??;
        if newest.is_closed() {
            return Ok(());
        }
        newest.send_replace(Some(sample));
    }
}

async fn take(client: &Client, statement: &Statement, slot: &str) -> Result<LeaderSample> {
    let asked = (Instant::now(), SystemTime::now());
    let row = client
        .query_one(statement, &[&slot])
        .await
        .map_err(|error| classify(&error, "sampling the leader"))?;
    let half = asked.0.elapsed() / 2;
    let here_us = unix_us(asked.1 + half) - POSTGRES_EPOCH_US;
    let flush: String = row.get(0);
    let clock_us: i64 = row.get(1);
    let bytes = |at: usize| {
        row.get::<_, Option<i64>>(at)
            .map(|n| u64::try_from(n).unwrap_or(0))
    };
    let slot = row.get::<_, Option<bool>>(2).map(|active| SlotState {
        active,
        wal_status: row.get::<_, Option<&str>>(3).and_then(WalStatus::named),
        retained_bytes: bytes(4),
        safe_bytes: bytes(5),
    });
    Ok(LeaderSample {
        flush: flush
            .parse()
            .map_err(|error| Error::transient("sampling the leader").caused_by(error))?,
        clock_us,
        at: asked.0 + half,
        clock_offset_us: clock_us - here_us,
        slot,
    })
}
