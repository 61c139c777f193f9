//! The loop of an epoch: frames → records → producer; batches → publisher; feedback.
//!
//! While the producer is full no frame is read, but the leader goes on being answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_postgres::Client;

use crate::capture::CaptureContext;
use crate::capture::batches::Batches;
use crate::capture::encode_tx::{TxEncoder, not_understood};
use crate::capture::feedback::FeedbackClock;
use crate::capture::outbox::{Outbox, Outgoing};
use crate::capture::publisher::{Order, Published};
use crate::capture::tables::Tables;
use crate::error::{Error, Result};
use crate::killpoint::{self, Point};
use crate::log::commit_log::LastCommit;
use crate::log::producer::{BatchId, EpochProducer, PartitionSlot};
use crate::model::{Lsn, Oid, TableSchema};
use crate::pgoutput::message::{Begin, Commit, Message, decode};
use crate::source::event_trigger::{self, Told};
use crate::source::stream::{Feedback, Frame, ReplicationStream};

/// Frames handled before timers and acknowledgements are looked at again.
const FRAMES_A_TURN: usize = 512;
/// How long a stop waits for the transaction being received, and then for acknowledgements.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the leader's catalog may take to answer.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything the loop works with.
pub struct StreamLoop {
    /// The worker's context.
    pub context: CaptureContext,
    /// The stream.
    pub stream: ReplicationStream,
    /// The epoch's producer.
    pub producer: Arc<EpochProducer>,
    /// An ordinary connection for catalog queries.
    pub client: Client,
    /// Captured tables.
    pub tables: Tables,
    /// Partition of the schemas topic.
    pub schemas: PartitionSlot,
    /// Orders for entries.
    pub orders: mpsc::Sender<Order>,
    /// How far entries are.
    pub published: watch::Receiver<Published>,
    /// Transactions with a commit LSN below it are in the log already.
    pub resume: Lsn,
    /// Encoder of the transaction being received.
    pub encoder: TxEncoder,
}

/// The loop's own state.
struct State {
    outbox: Outbox,
    batches: Batches,
    batch: BatchId,
    /// Batch orders given.
    ordered: u64,
    received: Lsn,
    clock: FeedbackClock,
    /// The transaction being received is in the log already.
    skipping: bool,
    commit: LastCommit,
    /// The producer is full.
    blocked: bool,
    stop_by: Option<Instant>,
}

/// Why a turn over frames ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// No frame is in memory.
    Empty,
    /// There may be more.
    More,
    /// The producer is full.
    Blocked,
}

impl StreamLoop {
    /// Streams until asked to stop, and then until what was received is in the log.
    ///
    /// # Errors
    /// The epoch is over: connection lost, producer failed, or the leader sent what cannot be kept.
    pub async fn run(mut self) -> Result<()> {
        let now = Instant::now();
        let mut state = State {
            outbox: Outbox::default(),
            batches: Batches::new(self.resume, self.context.source.batch_max_bytes, now),
            batch: self.producer.open_batch(),
            ordered: 0,
            received: Lsn::ZERO,
            clock: FeedbackClock::new(self.context.source.wal_sender_timeout, now),
            skipping: false,
            commit: LastCommit {
                lsn: Lsn::ZERO,
                xid: 0,
                time_us: 0,
            },
            blocked: false,
            stop_by: None,
        };
        loop {
            // Under load nothing ever waits, so the request is not only looked for there.
            if state.stop_by.is_none() && self.context.stop.is_cancelled() {
                state.stop_by = Some(Instant::now() + STOP_TIMEOUT);
            }
            let turn = self.turn(&mut state).await?;
            if turn == Turn::Empty {
                self.producer.push();
            }
            self.close_batches(&mut state)?;
            self.report(&mut state).await?;
            if self.is_finished(&state) {
                return self.finish(state).await;
            }
            if turn == Turn::More {
                tokio::task::yield_now().await;
            } else {
                self.wait(&mut state).await?;
            }
        }
    }

    /// Handles frames that are in memory already.
    async fn turn(&mut self, state: &mut State) -> Result<Turn> {
        for _ in 0..FRAMES_A_TURN {
            if !state.outbox.is_empty() && !state.outbox.flush(&self.producer, state.batch)? {
                state.blocked = true;
                return Ok(Turn::Blocked);
            }
            state.blocked = false;
            // A batch can only close between transactions, and the next frame may begin one.
            if state.batches.can_close() && state.batches.closes(self.in_flight(state)) {
                return Ok(Turn::More);
            }
            // Asked to stop: what follows the transaction being received is the next epoch's.
            if state.stop_by.is_some() && !state.batches.in_transaction() {
                return Ok(Turn::Empty);
            }
            match self.stream.try_next()? {
                Some(frame) => self.frame(state, &frame).await?,
                None => return Ok(Turn::Empty),
            }
        }
        Ok(Turn::More)
    }

    /// Batches ordered whose entries are not yet acknowledged.
    fn in_flight(&self, state: &State) -> u64 {
        state.ordered - self.published.borrow().done
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, state: &mut State) -> Result<()> {
        let in_flight = self.in_flight(state);
        let feedback = state.clock.due_at(self.feedback(state));
        let deadline = if in_flight == 0 && !state.blocked {
            feedback.min(state.batches.heartbeat_at())
        } else {
            feedback
        };
        let deadline = state.stop_by.map_or(deadline, |by| deadline.min(by));
        let stopping = state.stop_by.is_some();
        let reads = !state.blocked && (!stopping || state.batches.in_transaction());
        tokio::select! {
            biased;
            frame = self.stream.next(), if reads => {
                let frame = frame?;
                self.frame(state, &frame).await
            }
            room = self.producer.room(), if state.blocked => room,
            changed = self.published.changed() => {
                changed.map_err(|_| Error::transient("the writer of entries has ended"))
            }
            () = tokio::time::sleep_until(deadline.into()) => Ok(()),
            () = self.context.stop.cancelled(), if !stopping => {
                state.stop_by = Some(Instant::now() + STOP_TIMEOUT);
                Ok(())
            }
        }
    }

    async fn frame(&mut self, state: &mut State, frame: &Frame) -> Result<()> {
        match frame {
            Frame::Keepalive { end, reply } => {
                state.received = state.received.max(*end);
                state.batches.idle_end(*end);
                if *reply {
                    state.clock.asked();
                }
                Ok(())
            }
            Frame::Data { start, data } => {
                let message = decode(data).map_err(|malformed| {
                    not_understood(
                        "the leader sent what is not pgoutput's protocol version 1".to_owned(),
                    )
                    .caused_by(malformed)
                    .at(place(state, *start))
                })?;
                self.message(state, *start, &message).await
            }
        }
    }

    async fn message(&mut self, state: &mut State, lsn: Lsn, message: &Message<'_>) -> Result<()> {
        match message {
            Message::Begin(begin) => {
                self.begin(state, begin);
                Ok(())
            }
            Message::Commit(commit) => {
                end(state, commit);
                Ok(())
            }
            Message::Relation(relation) => {
                self.tables.announce(relation);
                Ok(())
            }
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. } => {
                if state.skipping {
                    return Ok(());
                }
                if self.tables.is_open(*relation) {
                    self.resolve(state, *relation).await?;
                }
                self.encoder.at(lsn);
                self.row(state, lsn, message, *relation)
            }
            Message::Truncate { relations, .. } => {
                if state.skipping {
                    return Ok(());
                }
                self.encoder.at(lsn);
                for &relation in relations {
                    if self.tables.is_open(relation) {
                        self.resolve(state, relation).await?;
                    }
                    self.row(state, lsn, message, relation)?;
                }
                Ok(())
            }
            Message::Logical {
                transactional: true,
                lsn,
                prefix,
                content,
            } => match event_trigger::parse(prefix, content) {
                None => Ok(()),
                Some(told) => self.told(state, told, *lsn),
            },
            // An origin changes nothing for followers of this leader; types come from the catalog.
            Message::Origin { .. } | Message::Type { .. } | Message::Logical { .. } => Ok(()),
        }
    }

    fn begin(&mut self, state: &mut State, begin: &Begin) {
        state.skipping = begin.commit < self.resume;
        state.commit = LastCommit {
            lsn: begin.commit,
            xid: begin.xid,
            time_us: begin.time_us,
        };
        state.batches.begin();
        self.encoder.begin(begin);
    }

    /// Encodes a change of one table and hands it to the producer, as far as there is room.
    fn row(
        &mut self,
        state: &mut State,
        lsn: Lsn,
        message: &Message<'_>,
        relation: Oid,
    ) -> Result<()> {
        let Some(table) = self.tables.get(relation) else {
            return Ok(());
        };
        let before = state.outbox.len();
        let out = &mut state.outbox;
        let encoded = match message {
            Message::Insert { new, .. } => self.encoder.insert(table, new, out),
            Message::Update { old, new, .. } => self.encoder.update(table, old.as_ref(), new, out),
            Message::Delete { old, .. } => self.encoder.delete(table, old, out),
            Message::Truncate { .. } => self.encoder.truncate(table, out),
            Message::Begin(_)
            | Message::Commit(_)
            | Message::Origin { .. }
            | Message::Relation(_)
            | Message::Type { .. }
            | Message::Logical { .. } => unreachable!("only changes are encoded"),
        };
        encoded.map_err(|error| error.at(place(state, lsn)))?;
        state.batches.sent(state.outbox.len() - before);
        killpoint::pass(Point::BeforeSend);
        state.blocked = !state.outbox.flush(&self.producer, state.batch)?;
        killpoint::pass(Point::AfterSend);
        Ok(())
    }

    /// Takes what the leader's event triggers say. That rows were rewritten is published at once, with the
    /// transaction that did it: the next row of the table may be another process's to encode.
    fn told(&mut self, state: &mut State, told: Told, lsn: Lsn) -> Result<()> {
        let rewritten = self.tables.describe(told, lsn);
        let version = rewritten.and_then(|relation| self.tables.rewritten(relation));
        let Some(version) = version.filter(|_| !state.skipping) else {
            return Ok(());
        };
        tracing::info!(table = %version.table, %lsn, "the leader has rewritten rows of the table in a way that the stream does not show");
        let before = state.outbox.len();
        push_schema(&version, self.schemas, &mut state.outbox)?;
        state.batches.sent(state.outbox.len() - before);
        state.blocked = !state.outbox.flush(&self.producer, state.batch)?;
        Ok(())
    }

    /// Finds a table's schema version and publishes it with the open batch.
    async fn resolve(&mut self, state: &mut State, relation: Oid) -> Result<()> {
        let rows_of = (self.context.source.slot.as_str(), state.commit.xid);
        let finding = self.tables.resolve(relation, &self.client, rows_of);
        let found = tokio::time::timeout(CATALOG_TIMEOUT, finding)
            .await
            .map_err(|_elapsed| Error::transient("the leader's catalog does not answer"))??;
        if let Some(schema) = found {
            push_schema(&schema, self.schemas, &mut state.outbox)?;
        }
        Ok(())
    }

    fn close_batches(&mut self, state: &mut State) -> Result<()> {
        let in_flight = state.ordered - self.published.borrow_and_update().done;
        if !state.outbox.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let order = if state.batches.closes(in_flight) {
            Order::Batch {
                closed: state.batches.close(now),
                batch: Some(std::mem::replace(
                    &mut state.batch,
                    self.producer.open_batch(),
                )),
                at: now,
            }
        } else if let Some(closed) = state.batches.heartbeat(in_flight, now) {
            Order::Batch {
                closed,
                batch: None,
                at: now,
            }
        } else {
            return Ok(());
        };
        state.ordered += 1;
        // Batches in flight are few, and so are copies; the channel is longer.
        self.orders
            .try_send(order)
            .map_err(|_| Error::transient("the writer of entries has ended"))
    }

    fn feedback(&self, state: &State) -> Feedback {
        let confirmed = self.published.borrow().confirmed.unwrap_or(Lsn::ZERO);
        state.clock.forward(Feedback {
            write: state.received,
            flush: confirmed,
            apply: confirmed,
        })
    }

    async fn report(&mut self, state: &mut State) -> Result<()> {
        let feedback = self.feedback(state);
        let now = Instant::now();
        if now < state.clock.due_at(feedback) {
            return Ok(());
        }
        killpoint::pass(Point::BeforeFeedback);
        self.stream.feedback(feedback).await?;
        killpoint::pass(Point::AfterFeedback);
        state.clock.reported(feedback, now);
        self.context.status.update(|view| {
            view.received = Some(state.received);
            view.confirmed = Some(feedback.flush);
        });
        Ok(())
    }

    /// Whether a stop has nothing more to wait for.
    fn is_finished(&self, state: &State) -> bool {
        let Some(by) = state.stop_by else {
            return false;
        };
        let waits = state.batches.in_transaction()
            || state.batches.can_close()
            || state.ordered > self.published.borrow().done;
        !waits || Instant::now() >= by
    }

    /// Confirms what is in the log and ends the stream in order.
    async fn finish(mut self, state: State) -> Result<()> {
        let feedback = self.feedback(&state);
        self.stream.feedback(feedback).await?;
        self.context
            .status
            .update(|view| view.confirmed = Some(feedback.flush));
        self.stream.close().await;
        Ok(())
    }
}

/// Where in the stream a message stands, for an error. Relation and Type messages have no LSN.
fn place(state: &State, lsn: Lsn) -> String {
    let commit = state.commit.lsn;
    if state.batches.in_transaction() {
        format!("at LSN {lsn} in the transaction that commits at {commit}")
    } else {
        format!("behind the transaction that committed at {commit}")
    }
}

fn end(state: &mut State, commit: &Commit) {
    state.skipping = false;
    state.received = state.received.max(commit.end);
    state.batches.commit(commit.end, state.commit);
}

/// Puts a schema version into the outbox, to be acknowledged with the batch that needs it.
///
/// # Errors
/// Transient when it cannot be written as JSON, which nothing but a bug can cause.
pub fn push_schema(schema: &TableSchema, slot: PartitionSlot, out: &mut Outbox) -> Result<()> {
    let start = out.len();
    out.bytes_mut()
        .extend_from_slice(schema.version().to_string().as_bytes());
    let key = out.since(start);
    let start = out.len();
    serde_json::to_writer(out.bytes_mut(), schema)
        .map_err(|error| Error::transient("writing a schema version").caused_by(error))?;
    let value = out.since(start);
    out.push(Outgoing {
        slot,
        key: Some(key),
        value: Some(value),
        header: None,
        moved: None,
        part: None,
    });
    Ok(())
}
