//! Becoming the source: the steps in the one order that loses nothing and halts nobody falsely.
//!
//! Read the log's end (X, a) → START_REPLICATION at X → read the slot and the leader → judge the
//! leader → append the epoch entry → see it valid → judge the slot → stream. Until then feedback
//! confirms nothing.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::capture::CaptureContext;
use crate::capture::own_log::OwnLog;
use crate::capture::prepare::{Prepared, prepare};
use crate::capture::tables::captured_set;
use crate::error::{Error, NEW_PIPELINE, Result};
use crate::killpoint::{self, Point};
use crate::log::commit_log::{Entry, EpochEntry};
use crate::log::confirm::Confirmations;
use crate::log::copies::CopyLedger;
use crate::log::header::TRACE_HEADER;
use crate::log::producer::{EpochProducer, PartitionSlot, Sent};
use crate::log::takeover::{
    EpochFate, FoundLeader, TimelineSwitch, epoch_fate, may_lead, may_resume,
    parse_timeline_history,
};
use crate::log::topics::Topics;
use crate::model::{Epoch, Lsn};
use crate::postgres::classify;
use crate::source::connection::{ReplicationConnection, StartOutcome, SystemIdentity};
use crate::source::slot;
use crate::source::stream::{Feedback, ReplicationStream};
use crate::status::State;

/// Time between two attempts to get the slot.
const BUSY_BACK_OFF: Duration = Duration::from_secs(1);
/// Time between two reports while frames are not read.
const HOLD_INTERVAL: Duration = Duration::from_secs(1);

/// An epoch that has begun.
pub struct Taken {
    /// Its number.
    pub epoch: Epoch,
    /// The stream, from `resume` on.
    pub stream: ReplicationStream,
    /// What is known of the log since the epoch entry.
    pub confirmations: Confirmations,
    /// Copies known from the log.
    pub ledger: CopyLedger,
    /// The leader's system identifier and timeline, as the epoch entry says.
    pub leader: (String, u32),
    /// Where the log ends; none: it has no boundary yet.
    pub logged: Option<Lsn>,
    /// Transactions before it are dropped; the first entry begins here.
    pub resume: Lsn,
}

/// Why an attempt ended without an epoch.
enum Missed {
    /// Another session holds the slot.
    Busy,
    /// The epoch entry is void: somebody wrote on.
    Void,
    /// Another source has begun an epoch since the preparation, perhaps with other tables.
    Stale,
}

/// Takes over; waits while another instance holds the slot. `None`: asked to stop meanwhile.
///
/// # Errors
/// Transient for connections lost and for a void epoch entry (the producer must be dropped with
/// the connection); halt when continuity with the log cannot be shown.
pub async fn take_over(
    context: &CaptureContext,
    topics: &Topics,
    producer: &EpochProducer,
    prepared: &mut Prepared,
) -> Result<Option<Taken>> {
    loop {
        match attempt(context, topics, producer, prepared).await? {
            Ok(taken) => return Ok(Some(taken)),
            Err(Missed::Void) => {
                return Err(Error::transient(
                    "another source wrote into the commit log during the take-over; beginning again",
                ));
            }
            Err(Missed::Stale) => *prepared = prepare(context, topics, producer).await?,
            Err(Missed::Busy) => {
                context.status.update(|view| {
                    if view.state != State::Waiting {
                        tracing::info!(slot = %context.source.slot, "another session holds the slot; waiting for it");
                    }
                    view.state = State::Waiting;
                });
                tokio::select! {
                    () = tokio::time::sleep(BUSY_BACK_OFF) => {}
                    () = context.stop.cancelled() => return Ok(None),
                }
            }
        }
    }
}

async fn attempt(
    context: &CaptureContext,
    topics: &Topics,
    producer: &EpochProducer,
    prepared: &mut Prepared,
) -> Result<Result<Taken, Missed>> {
    let source = &context.source;
    let commits = producer.log_slot(&topics.commits());
    let after = prepared.log.read_on(producer, commits).await?;
    if prepared.log.place().epoch != prepared.epoch {
        return Ok(Err(Missed::Stale));
    }
    let end = prepared.log.end();

    let timeout = format!("{}ms", source.wal_sender_timeout.as_millis());
    let name = format!("walferry_{}", context.pipeline);
    let options = [("wal_sender_timeout", timeout)];
    let mut connection = ReplicationConnection::open(&source.postgres, &name, &options).await?;
    let identity = connection.identify_system().await?;
    let history = match &end.leader {
        // A promoted leader: whether it has all of the log is told by where its timeline began.
        Some((_, known)) if *known != identity.timeline => connection
            .timeline_history(identity.timeline)
            .await?
            .map(|text| parse_timeline_history(&text))
            .transpose()?,
        Some(_) | None => None,
    };
    let started = connection
        .start_replication(
            &source.slot,
            end.to.unwrap_or(Lsn::ZERO),
            std::slice::from_ref(&source.publication),
        )
        .await?;
    let mut stream = match started {
        StartOutcome::Started(stream) => stream,
        StartOutcome::Busy => return Ok(Err(Missed::Busy)),
    };

    let found = hold(
        &mut stream,
        find_leader(context, prepared, identity, history),
    )
    .await?;
    may_lead(&end, &found)?;
    let own = EpochEntry {
        after,
        instance: instance_of_attempt(context),
        system_id: found.system_id.clone(),
        timeline: found.timeline,
        captured: captured_set(&prepared.tables),
        dropped: prepared.dropped_by_leader.clone(),
    };
    killpoint::pass(Point::BeforeEpochEntry);
    let offset = hold(
        &mut stream,
        append(producer, commits, &Entry::Epoch(own.clone()), None),
    )
    .await?;
    killpoint::pass(Point::AfterEpochEntry);
    let mut place = prepared.log.place().clone();
    let between = match offset {
        Some(offset) if offset == after => vec![(offset, Entry::Epoch(own.clone()))],
        Some(_) | None => {
            let commits = topics.commits();
            hold(
                &mut stream,
                OwnLog::read_from(&context.kafka, &commits, after),
            )
            .await?
        }
    };
    let epoch = match epoch_fate(&mut place, &between, &own)? {
        EpochFate::Current(epoch) => epoch,
        EpochFate::Void => return Ok(Err(Missed::Void)),
        EpochFate::NotSeen => {
            return Err(Error::transient(
                "the epoch entry was acknowledged but is not in the commit log",
            ));
        }
    };

    let resume = may_resume(&end, &found)?;
    let leader = (own.system_id.clone(), own.timeline);
    let mut ledger = prepared.log.ledger().clone();
    let at = i64::try_from(epoch.0).expect("an epoch is an offset");
    for table in ledger.valid(at, &Entry::Epoch(own)) {
        tracing::info!(%table, "the table has left the captured set");
    }
    Ok(Ok(Taken {
        epoch,
        stream,
        confirmations: Confirmations::new(place),
        ledger,
        leader,
        logged: end.to,
        resume,
    }))
}

/// Tells this attempt's epoch entry from all others of this process.
fn instance_of_attempt(context: &CaptureContext) -> String {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    format!("{}/{attempt}", context.instance)
}

/// The leader and the slot as they are now that the slot is ours.
async fn find_leader(
    context: &CaptureContext,
    prepared: &Prepared,
    identity: SystemIdentity,
    history: Option<Vec<TimelineSwitch>>,
) -> Result<FoundLeader> {
    let name = &context.source.slot;
    let slot = slot::read(&prepared.client, name).await?;
    let slot_confirmed = slot.and_then(|slot| slot.confirmed_flush).ok_or_else(|| {
        Error::halt(
            format!("slot {name} has no confirmed position although it is in use"),
            NEW_PIPELINE,
        )
    })?;
    let flush: String = prepared
        .client
        .query_one("SELECT pg_catalog.pg_current_wal_flush_lsn()::text", &[])
        .await
        .map_err(|error| classify(&error, "reading the leader's WAL end"))?
        .get(0);
    Ok(FoundLeader {
        system_id: identity.system_id,
        timeline: identity.timeline,
        history,
        flush: flush
            .parse()
            .map_err(|error| Error::transient("reading the leader's WAL end").caused_by(error))?,
        slot_confirmed,
    })
}

/// Appends an entry and waits for its acknowledgement; the offset is none where Kafka named none.
///
/// # Errors
/// The epoch is over.
pub async fn append(
    producer: &EpochProducer,
    commits: PartitionSlot,
    entry: &Entry,
    traceparent: Option<&str>,
) -> Result<Option<i64>> {
    let value = serde_json::to_vec(entry)
        .map_err(|error| Error::transient("writing an entry").caused_by(error))?;
    let parent = traceparent.map(|parent| (TRACE_HEADER, parent.as_bytes()));
    let batch = producer.open_batch();
    while producer.send(batch, commits, None, Some(&value), parent.as_slice())? == Sent::Full {
        producer.room().await?;
    }
    killpoint::pass(Point::EntrySent);
    let acked = producer.acked(batch).await?;
    Ok(acked.get(&commits).and_then(|acked| acked.last))
}

/// Waits for `work` while the stream's frames are left unread, and keeps the connection alive with
/// feedback that confirms nothing.
///
/// # Errors
/// The work's, or transient when the connection ends.
pub async fn hold<T>(
    stream: &mut ReplicationStream,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::pin!(work);
    let mut ticks = tokio::time::interval(HOLD_INTERVAL);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => stream.feedback(Feedback::default()).await?,
        }
    }
}
