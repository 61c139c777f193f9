//! The source worker: one epoch is one replication connection and one producer.
//!
//! `run_epoch` prepares, takes over, and then runs side by side: the stream's loop, the writer of
//! entries, the sampler, the maker of copies, and the watch on the captured set. The first of them that fails ends all.

mod announced;
pub mod batches;
pub mod captured_set;
mod column_numbers;
pub mod copy;
pub mod copy_choice;
mod copy_follower;
mod copy_rows;
mod copy_snapshot;
mod copy_throttle;
mod copy_wishes;
pub mod encode_tx;
mod existing;
pub mod feedback;
pub mod outbox;
pub mod own_log;
mod past;
pub mod prepare;
pub mod publisher;
pub mod stream_loop;
pub mod tables;
pub mod takeover;
mod trim;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{KafkaSettings, SinkSettings, SourceSettings};
use crate::error::{Error, Result};
use crate::log::producer::{EpochProducer, PartitionSlot};
use crate::log::progress::Pauses;
use crate::log::topics::Topics;
use crate::model::TableName;
use crate::source::publication;
use crate::source::sample::{self, LeaderSample};
use crate::status::{LastError, LeaderClock, Reading, Shared, SourceView, State};
use crate::trace::Traces;

use self::captured_set::Watch;
use self::copy::Copier;
use self::encode_tx::TxEncoder;
use self::own_log::KeptLog;
use self::prepare::{Prepared, prepare, refused};
use self::publisher::{Published, Publisher};
use self::stream_loop::StreamLoop;
use self::tables::{Tables, captured_set};
use self::takeover::{Taken, hold, take_over};
use self::trim::Trimmer;

/// What a source worker works with.
#[derive(Clone)]
pub struct CaptureContext {
    /// Pipeline name.
    pub pipeline: String,
    /// Token of this process, in epoch entries.
    pub instance: String,
    /// The source's settings.
    pub source: SourceSettings,
    /// Kafka's settings.
    pub kafka: KafkaSettings,
    /// All sinks in `connectors/`, whether or not this process runs them: copies may be read from their
    /// followers.
    pub sinks: watch::Receiver<Vec<SinkSettings>>,
    /// The commit log as the last epoch read it.
    pub kept_log: KeptLog,
    /// What the leader's clock says, for all parts of the process.
    pub leader_clock: Arc<LeaderClock>,
    /// Where spans go.
    pub traces: Traces,
    /// The leader's newest sample; see [`sample_leader`].
    pub samples: watch::Receiver<Option<LeaderSample>>,
    /// Asks it to compare the captured set with the leader's catalog at once.
    pub look: Arc<Notify>,
    /// What it says of itself.
    pub status: Arc<Shared<SourceView>>,
    /// Asks it to finish what is in flight, confirm, and return.
    pub stop: CancellationToken,
}

/// Orders that wait for the writer of entries: those of the batches in flight and of a copy.
const ORDERS_MAX: usize = 64;

/// Samples the leader for as long as the process lasts, whatever becomes of epochs: what the leader
/// keeps for the slot is shown also while Kafka is away, when it grows.
pub async fn sample_leader(context: CaptureContext, newest: watch::Sender<Option<LeaderSample>>) {
    let source = &context.source;
    let show = async {
        let mut samples = context.samples.clone();
        while samples.changed().await.is_ok() {
            let sample = *samples.borrow_and_update();
            context.status.update(|view| {
                view.leader_flush = sample.map(|sample| sample.flush).or(view.leader_flush);
                view.slot = sample.and_then(|sample| sample.slot);
                view.clock_offset_us = sample.map(|sample| sample.clock_offset_us);
            });
            if let Some(LeaderSample {
                clock_us: us, at, ..
            }) = sample
            {
                context.leader_clock.asked(Reading { us, at });
            }
        }
    };
    let name = format!("walferry_{}_sampler", context.pipeline);
    let sampling = sample::run(source.postgres.clone(), name, source.slot.clone(), newest);
    tokio::select! {
        () = context.stop.cancelled() => {}
        () = sampling => {}
        () = show => {}
    }
}

/// Runs epoch after epoch until asked to stop.
///
/// # Errors
/// Anything of an epoch is lost; classified. The supervisor runs the source again or halts it.
pub async fn run(context: &CaptureContext) -> Result<()> {
    while !context.stop.is_cancelled() {
        let epoch = CaptureContext {
            stop: context.stop.child_token(),
            ..context.clone()
        };
        run_epoch(&epoch).await?;
    }
    Ok(())
}

/// Runs one epoch: take-over, streaming, copies; until asked to stop or grown old (`Ok`) or until
/// anything of the epoch is lost (`Err`). Its stop token is its own: growing old cancels it.
async fn run_epoch(context: &CaptureContext) -> Result<()> {
    let topics = Topics::new(context.pipeline.clone());
    let producer = Arc::new(EpochProducer::open(
        &context.kafka,
        context.source.queue_max_bytes,
    )?);
    let began = tokio::select! {
        began = begin(context, &topics, &producer) => began?,
        () = context.stop.cancelled() => None,
    };
    let Some((prepared, mut taken)) = began else {
        return Ok(());
    };
    context.kept_log.keep(prepared.log.clone());
    if !prepared.dropped.is_empty() {
        let tables: Vec<String> = prepared.dropped.iter().map(TableName::to_string).collect();
        return Err(Error::transient(format!(
            "tables had been dropped from the publication and are captured and copied anew: {}",
            tables.join(", ")
        )));
    }
    let before_records = async {
        let bounds = watermarks(&producer, &topics, &prepared).await?;
        let past = past::read(&context.kafka, &topics, &prepared.tables).await?;
        drop_leaving(context, &prepared).await;
        Ok((bounds, past))
    };
    let (lower_bounds, mut past) = hold(&mut taken.stream, before_records).await?;
    tracing::info!(epoch = %taken.epoch, resume = %taken.resume, tables = prepared.tables.len(), "streaming");
    let left_out = refused(&prepared.left_out);
    if let Some(error) = &left_out {
        tracing::warn!(%error, "tables are left out");
    }
    context.status.update(|view| {
        view.state = State::Streaming;
        view.epoch = Some(taken.epoch.0);
        view.epochs += 1;
        view.published = taken.logged;
        view.last_error = left_out.as_ref().map(LastError::now);
    });

    let (orders, ordered) = mpsc::channel(ORDERS_MAX);
    let (publish, published) = watch::channel(Published {
        done: 0,
        to: taken.logged,
        confirmed: taken.logged,
    });
    let mut tasks = JoinSet::new();
    let publisher = Publisher {
        context: context.clone(),
        topics: topics.clone(),
        producer: producer.clone(),
        confirmations: taken.confirmations,
        lower_bounds,
        copies_begun: 0,
        samples: context.samples.clone(),
        published: publish,
    };
    tasks.spawn(publisher.run(ordered));
    let (copying, copies) = watch::channel(false);
    tasks.spawn(grow_old(context.clone(), copies.clone()));
    let trimmer = Trimmer {
        context: context.clone(),
        topics: topics.clone(),
        points: prepared.log.points().clone(),
        retention: prepared.retention,
    };
    tasks.spawn(async move {
        trimmer.run().await;
        Ok(())
    });
    let set = Watch {
        context: context.clone(),
        captured: captured_set(&prepared.tables),
        left_out: prepared.left_out,
        copying: copies,
    };
    tasks.spawn(set.run());
    let copier = Copier {
        context: context.clone(),
        topics: topics.clone(),
        producer: producer.clone(),
        epoch: taken.epoch,
        labels: prepared.labels.clone(),
        tables: prepared.tables.clone(),
        orders: orders.clone(),
        published: published.clone(),
        ledger: taken.ledger,
        leader: taken.leader,
        rewrites: past.rewrites.clone(),
        pauses: Pauses::never(),
        copying,
    };
    tasks.spawn(copier.run());

    let stream = StreamLoop {
        context: context.clone(),
        stream: taken.stream,
        tables: Tables::new(
            &prepared.tables,
            prepared.labels,
            topics.clone(),
            producer.clone(),
            (!context.source.manage_publication).then(|| context.source.publication.clone()),
            &mut past,
        ),
        client: prepared.client,
        schemas: producer.partition_slot(&topics.schemas(), 0),
        orders,
        published,
        resume: taken.resume,
        encoder: TxEncoder::new(taken.epoch, producer.record_max_bytes()),
        producer: producer.clone(),
    };
    tokio::select! {
        biased;
        ended = stream.run() => match ended {
            Ok(()) => Ok(()),
            // The loop may only have seen that another part is gone; that part says why.
            Err(error) => Err(cause(&mut tasks, &producer).await.unwrap_or(error)),
        },
        error = producer.failed() => Err(error),
        error = first_error(&mut tasks) => Err(error),
    }
}

/// Ends an epoch that has lasted as long as it may, as a stop does; a copy under way, which the
/// next epoch would void, is waited for.
async fn grow_old(context: CaptureContext, mut copying: watch::Receiver<bool>) -> Result<()> {
    tokio::time::sleep(context.source.epoch_max).await;
    // An error means that the epoch is over already.
    if copying.wait_for(|copying| !copying).await.is_ok() {
        tracing::info!("the epoch has lasted long enough; beginning the next one");
        context.stop.cancel();
    }
    Ok(())
}

async fn begin(
    context: &CaptureContext,
    topics: &Topics,
    producer: &EpochProducer,
) -> Result<Option<(Prepared, Taken)>> {
    let mut prepared = prepare(context, topics, producer).await?;
    let taken = take_over(context, topics, producer, &mut prepared).await?;
    Ok(taken.map(|taken| (prepared, taken)))
}

/// The partitions' watermarks before this epoch's first record: nothing of it lies below.
async fn watermarks(
    producer: &Arc<EpochProducer>,
    topics: &Topics,
    prepared: &Prepared,
) -> Result<HashMap<PartitionSlot, i64>> {
    let mut places = Vec::new();
    for table in &prepared.tables {
        let topic = topics.table(&table.schema.table);
        let partitions = i32::try_from(table.schema.partitions).unwrap_or(i32::MAX);
        places.extend((0..partitions).map(|partition| (topic.clone(), partition)));
    }
    let marks = producer.high_watermarks(places).await?;
    Ok(marks.into_iter().collect())
}

/// Tables that left the captured set leave the publication, now that the epoch entry says so.
/// Until it works they are sent for nothing, which harms nobody.
async fn drop_leaving(context: &CaptureContext, prepared: &Prepared) {
    if prepared.leaving.is_empty() {
        return;
    }
    let leaving: Vec<_> = prepared.leaving.iter().collect();
    let statement = publication::drop_statement(&context.source.publication, &leaving);
    match publication::run(&prepared.client, &statement).await {
        Ok(()) => {
            for table in leaving {
                tracing::info!(%table, "table leaves the publication");
            }
        }
        Err(error) => {
            tracing::warn!(%error, "tables could not leave the publication; the next epoch tries again")
        }
    }
}

/// Why a part of the epoch ended, if one did just now.
async fn cause(tasks: &mut JoinSet<Result<()>>, producer: &EpochProducer) -> Option<Error> {
    let ended = async {
        tokio::select! {
            biased;
            error = producer.failed() => error,
            error = first_error(tasks) => error,
        }
    };
    tokio::time::timeout(Duration::from_millis(100), ended)
        .await
        .ok()
}

/// Waits until a task fails.
async fn first_error(tasks: &mut JoinSet<Result<()>>) -> Error {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                return Error::halt(
                    "a part of the source panicked, which is a bug in walferry",
                    "report it with the log around it, then start walferry again",
                )
                .caused_by(error);
            }
        }
    }
    std::future::pending().await
}
