//! Opening a session: the follower's checkpoint, the log it belongs to, and where to go on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::chunk::Decoders;
use super::follow::{Standing, Terms, begun_again, only_taken};
use super::{Shown, SinkContext, unfinished};
use crate::config::{StdoutFrom, StoreSettings};
use crate::error::{COPY_ANEW, Error, NEW_PIPELINE, Result};
use crate::log::commit_log::{Entry, Verdict, judge};
use crate::log::copies::CopyLedger;
use crate::log::schemas::SchemaStore;
use crate::log::tail::{From, LogTail};
use crate::log::topics::TopicAdmin;
use crate::model::checkpoint::LogPlace;
use crate::model::{Checkpoint, Lsn};
use crate::status::State;

/// How often a sink that is earlier than its source looks whether the topics are there.
const TOPICS_EVERY: Duration = Duration::from_millis(250);
/// For how long a broker may not know topics that a follower has read before.
const GONE_AFTER: Duration = Duration::from_secs(3);

/// The schema versions, shared by the readers of one session.
pub type SharedSchemas = Arc<Mutex<SchemaStore>>;

/// Decoders that find their schemas in the shared store.
pub fn decoders(schemas: &SharedSchemas) -> Decoders {
    let schemas = schemas.clone();
    Decoders::new(Box::new(move |version| {
        // A panic inside leaves a map of whole entries: usable.
        schemas
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(version)
    }))
}

/// Waits for the pipeline's topics, which the source creates, and gives the cluster's id. A follower
/// that has read them already waits for none of them: they are not coming back.
///
/// # Errors
/// Those of Kafka; halt when the checkpoint belongs to another cluster, or its topics are gone.
pub async fn topics_are_there(
    context: &SinkContext,
    terms: &Terms,
    stored: Option<&Checkpoint>,
) -> Result<String> {
    let admin = TopicAdmin::open(&context.kafka)?;
    let (commits, schemas) = (terms.topics.commits(), terms.topics.schemas());
    let names = [commits.clone(), schemas.clone(), terms.topics.progress()];
    let begun = Instant::now();
    loop {
        let found = admin.existing(&names).await?;
        let cluster_id = admin.cluster_id().await?;
        if let Some(checkpoint) = stored {
            same_cluster(checkpoint, &cluster_id)?;
        }
        if found.len() == names.len() {
            return Ok(cluster_id);
        }
        let gone = [&commits, &schemas]
            .into_iter()
            .find(|name| !found.contains(*name))
            .filter(|_| stored.is_some() && begun.elapsed() > GONE_AFTER);
        if let Some(gone) = gone {
            return Err(Error::halt(
                format!("topic {gone}, which the follower has read before, is gone"),
                NEW_PIPELINE,
            ));
        }
        context.status.update(|view| view.state = State::Waiting);
        tokio::time::sleep(TOPICS_EVERY).await;
    }
}

/// Checks that a checkpoint belongs to this cluster.
///
/// # Errors
/// Halt when it does not: offsets mean nothing in another cluster.
fn same_cluster(checkpoint: &Checkpoint, cluster_id: &str) -> Result<()> {
    match &checkpoint.cluster_id {
        Some(known) if known != cluster_id => Err(Error::halt(
            format!(
                "the checkpoint belongs to Kafka cluster {known}; the brokers named are cluster {cluster_id}"
            ),
            format!(
                "set kafka.brokers to the cluster that the checkpoint belongs to, or, if it is gone for \
                 good, {NEW_PIPELINE}"
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

/// A follower that has nothing yet: its reader begins at the log's oldest entry, or, for a store
/// that only shows the stream and asks for it, at the log's end. The tail stands there.
///
/// # Errors
/// Those of the log.
pub async fn fresh(
    context: &SinkContext,
    terms: &Terms,
    cluster_id: String,
) -> Result<(Checkpoint, CopyLedger, LogTail)> {
    let mut tail = LogTail::open(&context.kafka, &terms.topics.commits(), From::Low).await?;
    let nothing = Checkpoint::beginning(0, LogPlace::at_low_end(tail.low()));
    let mut standing = Standing::at(&nothing, CopyLedger::new());
    if begins_at_end(context) {
        let (entries, _end) = tail.read_to_end().await?;
        for (offset, entry) in &entries {
            standing.step(*offset, entry, terms)?;
        }
    }
    let checkpoint = Checkpoint {
        applied: standing.place.to.unwrap_or(Lsn::ZERO),
        cursors: standing.cursors,
        in_effect: standing.in_effect,
        system_id: standing.system_id,
        timeline: standing.timeline,
        cluster_id: Some(cluster_id),
        ..Checkpoint::beginning(0, standing.place)
    };
    Ok((checkpoint, standing.ledger, tail))
}

/// A follower that has a checkpoint: what the log before it shows, and the log from there on.
///
/// # Errors
/// Those of the log; halt when it is not the checkpoint's.
pub async fn stored(
    context: &SinkContext,
    terms: &Terms,
    checkpoint: Checkpoint,
) -> Result<(Checkpoint, CopyLedger, LogTail)> {
    // Durable with the next commit; until then nothing has been passed over.
    let checkpoint = only_taken(checkpoint, terms);
    let checkpoint = behind_trim(context, terms, checkpoint).await?;
    // First whether it is the checkpoint's log: what another one holds must not be what is told.
    let tail = log_behind(context, terms, &checkpoint.log).await?;
    let ledger = ledger_at(context, terms, &checkpoint).await?;
    Ok((checkpoint, ledger, tail))
}

/// Reads the schema versions that are there.
///
/// # Errors
/// As [`SchemaStore::open`].
pub async fn schemas(context: &SinkContext, terms: &Terms) -> Result<SharedSchemas> {
    let (kafka, topic) = (context.kafka.clone(), terms.topics.schemas());
    let opened = tokio::task::spawn_blocking(move || SchemaStore::open(&kafka, &topic)).await;
    let store = opened.map_err(|error| unfinished("reading the schema versions", error))??;
    Ok(Arc::new(Mutex::new(store)))
}

fn begins_at_end(context: &SinkContext) -> bool {
    match &context.sink.store {
        StoreSettings::Stdout(stdout) => match stdout.from {
            StdoutFrom::Now => true,
            StdoutFrom::Earliest => false,
        },
        StoreSettings::Postgres(_) | StoreSettings::ClickHouse(_) | StoreSettings::MySql(_) => {
            false
        }
    }
}

/// The checkpoint, fit for a log that was trimmed meanwhile; see [`begun_again`].
///
/// # Errors
/// Those of the log.
async fn behind_trim(
    context: &SinkContext,
    terms: &Terms,
    checkpoint: Checkpoint,
) -> Result<Checkpoint> {
    if !checkpoint.in_effect.is_empty() {
        return Ok(checkpoint);
    }
    let tail = LogTail::open(&context.kafka, &terms.topics.commits(), From::Low).await?;
    Ok(begun_again(checkpoint, tail.low()))
}

/// Where a store that keeps no checkpoint goes on after an error: what it has shown it does not show
/// again, and what came meanwhile is not passed over.
pub(super) fn shown(shown: &Shown, terms: &Terms) -> Option<Checkpoint> {
    if terms.takes_copies {
        return None;
    }
    // A whole checkpoint or none is assigned: a panic elsewhere leaves nothing half-done.
    let shown = shown.lock();
    shown.unwrap_or_else(PoisonError::into_inner).clone()
}

/// Keeps it for the next session of such a store.
pub(super) fn note_shown(shown: &Shown, terms: &Terms, checkpoint: &Checkpoint) {
    if !terms.takes_copies {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = Some(checkpoint.clone());
    }
}

/// The log from a checkpoint's place on, if it is the one that was read up to there. One that was made anew
/// soon has entries at the same offsets; they would all be taken for those of a source that is not current.
///
/// # Errors
/// Those of the log; halt when it is shorter, was trimmed beyond the place, or has another entry where the
/// last valid one was.
async fn log_behind(context: &SinkContext, terms: &Terms, place: &LogPlace) -> Result<LogTail> {
    let (commits, next) = (terms.topics.commits(), place.next_offset);
    let first = place.last_valid.unwrap_or(next);
    let mut tail = LogTail::open(&context.kafka, &commits, From::Behind { first, next }).await?;
    while tail.next_offset() < next {
        let (offset, entry) = tail.next().await?;
        if place.last_valid == Some(offset) && !place.may_end_with(offset, &entry) {
            return Err(Error::halt(
                format!(
                    "the entry at offset {offset} of {commits} is not the one that the follower has read: \
                     the topic was made anew, or Kafka lost entries that it had acknowledged"
                ),
                COPY_ANEW,
            ));
        }
    }
    if tail.next_offset() > next {
        return Err(Error::transient(format!(
            "{commits} was trimmed beyond entry {next} a moment ago; looking at it again"
        )));
    }
    Ok(tail)
}

/// The copies that the log before a checkpoint shows. When every table is in effect no copy is
/// needed: only the epoch entry is read, for the tables' OIDs.
///
/// # Errors
/// Those of the log.
async fn ledger_at(
    context: &SinkContext,
    terms: &Terms,
    checkpoint: &Checkpoint,
) -> Result<CopyLedger> {
    let commits = terms.topics.commits();
    let mut ledger = CopyLedger::new();
    let end = checkpoint.log.next_offset;
    if checkpoint.joins.is_empty() && checkpoint.lacking(&terms.selection).is_empty() {
        let own = checkpoint
            .log
            .epoch
            .and_then(|epoch| i64::try_from(epoch.0).ok());
        let Some(epoch) = own.filter(|epoch| *epoch < end) else {
            return Ok(ledger);
        };
        // It may have been trimmed.
        let from = From::Behind {
            first: epoch,
            next: end,
        };
        let mut tail = LogTail::open(&context.kafka, &commits, from).await?;
        if tail.low() <= epoch {
            let (offset, entry) = tail.next().await?;
            if let Entry::Epoch(_) = entry {
                ledger.valid(offset, &entry);
            }
        }
        return Ok(ledger);
    }
    ledger_of(context, terms, end).await
}

/// The copies that the log before the offset `end` shows.
///
/// # Errors
/// Those of the log.
pub(super) async fn ledger_of(
    context: &SinkContext,
    terms: &Terms,
    end: i64,
) -> Result<CopyLedger> {
    let mut ledger = CopyLedger::new();
    let mut tail = LogTail::open(&context.kafka, &terms.topics.commits(), From::Low).await?;
    let mut place = LogPlace::at_low_end(tail.low());
    while place.next_offset < end {
        let (offset, entry) = tail.next().await?;
        if offset < end && judge(&mut place, offset, &entry)? == Verdict::Valid {
            ledger.valid(offset, &entry);
        }
        place.next_offset = place.next_offset.max(offset + 1);
    }
    Ok(ledger)
}
