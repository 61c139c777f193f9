//! The applier: one follower transaction at a time, from the main reader's parts and the join's.
//!
//! What was read ahead is void once a durable step has been taken that the reader did not know of:
//! then the reader begins anew at the checkpoint.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SinkContext;
use super::careful::{Attempt, Careful};
use super::follow::{Standing, Terms, advanced, next_version};
use super::join::holds_main;
use super::moves::moves;
use super::planned::Planned;
use super::reader::{BatchEnd, MainReader, Part, ReaderParts};
use super::session_indexes::IndexWork;
use super::session_join::{JoinWork, LoaderStep};
use super::start::{self, SharedSchemas, note_shown, shown};
use crate::error::Result;
use crate::killpoint::{self, Point};
use crate::log::commit_log::Entry;
use crate::log::copies::CopyLedger;
use crate::log::progress::{Progress, ProgressWriter};
use crate::log::records::RecordReader;
use crate::log::tail::{From, LogTail};
use crate::model::{Checkpoint, Position, Skips, TableName, TableSchema};
use crate::sink::{Sink, Wants, Work};
use crate::status::RowCounts;
use crate::trace;

/// How long progress without records may wait for company before it is committed.
const IDLE_COMMIT_AFTER: Duration = Duration::from_secs(1);
/// How often progress is said in `P.progress` at most.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// How long the main reader stands still at most for a join's last steps, and goes on at least after it.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// What the applier waits for.
enum Event {
    /// The beginning of the main reader's next batch.
    Part(Part),
    /// What a step of the join's loader gave.
    Loaded(LoaderStep),
    /// These tables have their indexes.
    Built(BTreeSet<TableName>),
    /// Progress without records has waited long enough.
    CommitDue,
    /// Whether the follower is still held is to be looked at.
    HoldDue,
    /// Something is to be said or looked at.
    Tick,
}

/// Everything of one session.
pub(super) struct Session<'a> {
    pub(super) context: &'a SinkContext,
    pub(super) sink: Box<dyn Sink>,
    pub(super) terms: Terms,
    pub(super) schemas: SharedSchemas,
    /// What is durable; before the first commit of all: what it begins with.
    pub(super) checkpoint: Checkpoint,
    pub(super) is_stored: bool,
    /// Copies in the log before the checkpoint.
    pub(super) ledger: CopyLedger,
    /// Copies in all of the log, for a follower that is to stop before its end.
    known: Option<CopyLedger>,
    pub(super) main: MainReader,
    /// How many entries go into a batch.
    careful: Careful,
    /// Where the batch under way ends in the log, as far as it is known.
    pub(super) batch_end: Option<i64>,
    /// The chunk being applied, with the position of its first change.
    pub(super) attempt: Option<(Attempt, Option<Position>)>,
    /// What is to be passed over.
    pub(super) skips: Skips,
    /// Progress without records, not yet committed.
    pending: Option<BatchEnd>,
    pub(super) committed_at: Instant,
    /// Whether this session has committed anything.
    pub(super) has_committed: bool,
    /// Since when the main reader stands still for a join.
    held_since: Option<Instant>,
    /// The main reader goes no further: the target is reached, or begins in the next entry.
    pub(super) main_stays: bool,
    /// When it was last looked whether the follower is still held.
    pub(super) looked_at: Instant,
    /// Where the log ended when the session began.
    pub(super) log_end: i64,
    pub(super) join: JoinWork,
    pub(super) indexes: IndexWork,
    /// Schema versions made to fit, by address: hashing one costs more than a small batch.
    pub(super) prepared: HashMap<usize, Arc<TableSchema>>,
    pub(super) progress: ProgressWriter,
    pub(super) said: Option<Progress>,
    pub(super) said_at: Instant,
}

impl<'a> Session<'a> {
    pub(super) async fn open(
        context: &'a SinkContext,
        mut sink: Box<dyn Sink>,
        careful: Careful,
    ) -> Result<Session<'a>> {
        let terms = Terms::of(&context.pipeline, &context.sink, sink.takes_copies());
        let stored = sink.open().await?.or_else(|| shown(&context.shown, &terms));
        let orders = sink.skips().await?;
        context.status.update(|view| view.skipped = orders.done);
        let skips = orders.ordered;
        let cluster_id = start::topics_are_there(context, &terms, stored.as_ref()).await?;
        let is_stored = stored.is_some();
        let found = async {
            match stored {
                None => start::fresh(context, &terms, cluster_id).await,
                Some(checkpoint) => start::stored(context, &terms, checkpoint).await,
            }
        };
        let ((checkpoint, ledger, tail), schemas) =
            tokio::try_join!(found, start::schemas(context, &terms))?;
        note_shown(&context.shown, &terms, &checkpoint);
        let log_end = tail.high();
        let chooses = terms.takes_copies && !checkpoint.is_paused(&terms.selection);
        let known = match checkpoint.target.filter(|_| chooses) {
            Some(_) => Some(start::ledger_of(context, &terms, log_end).await?),
            None => None,
        };
        let main = start_reader(
            context,
            &terms,
            &schemas,
            sink.wants(),
            (Standing::at(&checkpoint, ledger.clone()), careful),
            (tail, skips.clone()),
        )?;
        tracing::info!(
            sink = %context.sink.name,
            applied = %checkpoint.applied,
            log_offset = checkpoint.log.next_offset,
            fresh = !is_stored,
            "sink goes on from its checkpoint"
        );
        Ok(Session {
            progress: ProgressWriter::open(&context.kafka, &terms.topics.progress())?,
            context,
            sink,
            terms,
            schemas,
            checkpoint,
            is_stored,
            ledger,
            known,
            main,
            careful,
            batch_end: None,
            attempt: None,
            skips,
            pending: None,
            committed_at: Instant::now(),
            has_committed: false,
            held_since: None,
            main_stays: false,
            looked_at: Instant::now(),
            log_end,
            join: JoinWork::default(),
            indexes: IndexWork::default(),
            prepared: HashMap::new(),
            said: None,
            said_at: Instant::now() - PROGRESS_EVERY,
        })
    }

    pub(super) async fn run(&mut self) -> Result<()> {
        loop {
            self.advance_join().await?;
            self.show();
            let say_at = self.say_progress();
            let held_until = self.hold_main();
            let commit_at = (self.pending.is_some() || self.is_paused())
                .then_some(self.committed_at + IDLE_COMMIT_AFTER);
            let asked = Instant::now();
            let event = tokio::select! {
                biased;
                () = self.context.stop.cancelled() => break,
                event = self.event(held_until, commit_at, say_at) => event?,
            };
            match event {
                Event::Part(part) => {
                    self.batch_end = part.end.as_ref().map(|end| end.standing.place.next_offset);
                    self.take_part(part, asked.elapsed()).await?;
                    self.batch_end = None;
                }
                Event::Loaded(step) => self.take_loaded(step).await?,
                Event::Built(tables) => self.indexes_built(&tables),
                Event::CommitDue if self.is_paused() => self.commit_same().await?,
                Event::CommitDue => self.commit_pending().await?,
                Event::HoldDue => self.look_at_hold().await?,
                Event::Tick => {}
            }
        }
        self.join.stop();
        self.indexes.stop();
        self.commit_pending().await?;
        self.said_at = Instant::now() - PROGRESS_EVERY;
        self.say_progress();
        Ok(())
    }

    /// What comes next, in no fixed order: neither the main reader nor a join starves the other.
    /// Cancel-safe.
    async fn event(
        &mut self,
        held_until: Option<Instant>,
        commit_at: Option<Instant>,
        say_at: Option<Instant>,
    ) -> Result<Event> {
        let look_at = self.look_at_hold_due();
        tokio::select! {
            part = self.main.next_batch(), if held_until.is_none() => part.map(Event::Part),
            () = until(held_until) => Ok(Event::Tick),
            step = self.join.loaded() => step.map(Event::Loaded),
            tables = self.indexes.built() => tables.map(Event::Built),
            () = until(commit_at) => Ok(Event::CommitDue),
            () = until(look_at) => Ok(Event::HoldDue),
            () = until(say_at) => Ok(Event::Tick),
        }
    }

    /// Until when the main reader is not asked, so that a join can catch up with it; bounded.
    fn hold_main(&mut self) -> Option<Instant> {
        if self.indexes.is_running() || !holds_main(&self.checkpoint) {
            self.held_since = None;
            return None;
        }
        let now = Instant::now();
        let since = self.held_since.filter(|since| now < *since + 2 * HOLD_MAX);
        let until = *self.held_since.insert(since.unwrap_or(now)) + HOLD_MAX;
        (now < until).then_some(until)
    }

    /// Applies one batch, or notes progress without records.
    async fn take_part(&mut self, part: Part, waited: Duration) -> Result<()> {
        let (planned, end) = (part.planned, part.end);
        let Some(planned) = planned else {
            let end = end.expect("a part has changes or an end");
            let urgent = !end.events.is_empty() || !end.skipped.is_empty() || end.at_target;
            self.pending = Some(after(self.pending.take(), end));
            // The first commit of all makes the follower's ownership durable.
            return if urgent || !self.is_stored {
                self.commit_pending().await
            } else {
                Ok(())
            };
        };
        self.prepare(&planned.schemas).await?;
        killpoint::pass(Point::BeforeBegin);
        self.begin().await?;
        let begun = Instant::now();
        let mut totals = (0, RowCounts::default());
        let mut end = end;
        self.apply(planned, end.is_none(), &mut totals).await?;
        while end.is_none() {
            killpoint::pass(Point::ChunkApplied);
            let part = tokio::select! {
                biased;
                () = self.context.stop.cancelled() => None,
                part = self.main.next_chunk() => Some(part?),
            };
            // Bounded stop: a transaction in many chunks begins anew with the next session.
            let Some(part) = part else {
                self.main.give_up();
                return self.sink.rollback().await;
            };
            end = part.end;
            match part.planned {
                Some(planned) if !self.is_prepared(&planned.schemas) => {
                    return self.prepare_anew(&planned).await;
                }
                Some(planned) => self.apply(planned, end.is_none(), &mut totals).await?,
                None => self.sink.apply(self.no_work(), end.is_none()).await?,
            }
        }
        let end = after(self.pending.take(), end.expect("the loop ends with it"));
        let last_commit = end.last_commit;
        let applied = Instant::now();
        killpoint::pass(Point::BeforeCommit);
        self.commit_end(end).await?;
        killpoint::pass(Point::AfterCommit);
        let committed = Instant::now();
        let shown = self.context.leader_clock.now_us().zip(last_commit);
        self.context.status.update(|view| {
            let (changes, rows) = totals;
            view.changes += changes;
            view.coalesced += changes.saturating_sub(rows.total());
            view.rows += rows;
            view.batches += 1;
            let times = &mut view.times;
            times.changes.observe(changes as f64);
            times.wait.observe(waited.as_secs_f64());
            times.apply.observe((applied - begun).as_secs_f64());
            times.commit.observe((committed - applied).as_secs_f64());
            if let Some((now, commit)) = shown {
                times.visible.observe((now - commit.time_us) as f64 / 1e6);
            }
        });
        if let Some((done_us, commit)) = shown {
            self.context.traces.applied(trace::Batch {
                part: &self.context.sink.name,
                commit: commit.lsn,
                commit_us: commit.time_us,
                done_us,
                changes: totals.0,
            });
        }
        Ok(())
    }

    /// Applies a chunk; `totals`: changes and rows of its batch so far.
    async fn apply(
        &mut self,
        planned: Planned,
        more: bool,
        totals: &mut (u64, RowCounts),
    ) -> Result<()> {
        let attempt = Attempt {
            before: totals.0,
            changes: planned.changes,
        };
        let first = planned
            .schemas
            .iter()
            .filter_map(|needed| needed.first)
            .min();
        self.attempt = Some((attempt, first));
        self.sink.apply(planned.work, more).await?;
        self.attempt = None;
        totals.0 += planned.changes;
        totals.1 += planned.rows;
        Ok(())
    }

    /// An empty chunk: says that the transaction's last one was the last.
    pub(super) fn no_work(&self) -> Work {
        match self.sink.wants() {
            Wants::Net => Work::Net(Vec::new()),
            Wants::Changes => Work::Changes(Default::default()),
        }
    }

    /// Begins a follower transaction on the durable checkpoint.
    pub(super) async fn begin(&mut self) -> Result<()> {
        let from = self.is_stored.then_some(&self.checkpoint);
        self.sink.begin(from).await
    }

    /// Commits the transaction that was begun, with the checkpoint `next`.
    pub(super) async fn commit(&mut self, next: Checkpoint) -> Result<()> {
        self.sink.commit(&next).await?;
        note_shown(&self.context.shown, &self.terms, &next);
        self.checkpoint = next;
        self.is_stored = true;
        if !self.has_committed {
            self.has_committed = true;
            // What led to this session is over.
            if !self.join.has_explained() {
                self.context.status.update(|view| view.last_error = None);
            }
        }
        Ok(())
    }

    async fn commit_end(&mut self, end: BatchEnd) -> Result<()> {
        let commit_time_us = end.last_commit.map(|commit| commit.time_us);
        let mut next = advanced(&self.checkpoint, *end.standing, commit_time_us);
        let all_moved = self.move_tables(&end.events, &mut next).await?;
        self.commit_skipping(next, &end.skipped).await?;
        self.committed_at = Instant::now();
        self.main_stays = end.at_target;
        self.ledger.passed(end.changes);
        for (offset, event) in &end.events {
            self.ledger.valid(*offset, event);
        }
        self.context.status.update(|view| {
            view.transactions += end.transactions;
            view.leftovers += end.leftovers;
        });
        if !all_moved {
            // What was read ahead is of a reader for which they were in effect.
            self.restart_reader().await?;
        }
        Ok(())
    }

    /// Renames and drops tables as the leader has, in the transaction that passes these entries. Whether all could
    /// be renamed; those that could not are no longer in effect.
    async fn move_tables(
        &mut self,
        events: &[(i64, Entry)],
        next: &mut Checkpoint,
    ) -> Result<bool> {
        let mut all_moved = true;
        for (_offset, event) in events {
            let Entry::Epoch(epoch) = event else {
                continue;
            };
            let moves = moves(&self.checkpoint.in_effect, &self.ledger, epoch, &self.terms);
            if moves.is_empty() {
                continue;
            }
            let moved = self.sink.move_tables(&moves).await?;
            for (_, new) in moves.renamed.iter().filter(|(_, new)| !moved.contains(new)) {
                next.in_effect.remove(new);
                next.cursors.remove(&self.terms.topics.table(new));
                all_moved = false;
            }
        }
        Ok(all_moved)
    }

    /// Commits progress without records, if there is any.
    pub(super) async fn commit_pending(&mut self) -> Result<()> {
        let Some(end) = self.pending.take() else {
            return Ok(());
        };
        self.begin().await?;
        self.commit_end(end).await
    }

    /// Copies that can be chosen: one that is complete further on in the log has its rows all the same.
    pub(super) fn copies_known(&self) -> &CopyLedger {
        self.known.as_ref().unwrap_or(&self.ledger)
    }

    /// Whether the follower shows the boundary at which it is to stop.
    pub(super) fn is_paused(&self) -> bool {
        self.checkpoint.is_paused(&self.terms.selection)
    }

    /// Commits the checkpoint as it is. An order that was written into the follower meanwhile is found so,
    /// and who looks there sees that somebody is at work.
    async fn commit_same(&mut self) -> Result<()> {
        self.begin().await?;
        self.commit(next_version(&self.checkpoint)).await?;
        self.committed_at = Instant::now();
        Ok(())
    }

    /// Offset of the first entry that is not applied; entries without records may be applied and not
    /// yet committed.
    pub(super) fn next_offset(&self) -> i64 {
        let pending = self.pending.as_ref().map(|end| &end.standing.place);
        pending.unwrap_or(&self.checkpoint.log).next_offset
    }

    pub(super) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Forgets what was read ahead and reads on from the checkpoint.
    pub(super) async fn restart_reader(&mut self) -> Result<()> {
        self.pending = None;
        self.main_stays = false;
        let standing = Standing::at(&self.checkpoint, self.ledger.clone());
        let (commits, next) = (self.terms.topics.commits(), standing.place.next_offset);
        let tail = LogTail::open(&self.context.kafka, &commits, From::Offset(next)).await?;
        self.main = start_reader(
            self.context,
            &self.terms,
            &self.schemas,
            self.sink.wants(),
            (standing, self.careful),
            (tail, self.skips.clone()),
        )?;
        Ok(())
    }
}

/// Progress of two ends, one behind the other.
fn after(first: Option<BatchEnd>, second: BatchEnd) -> BatchEnd {
    let Some(first) = first else {
        return second;
    };
    let mut events = first.events;
    events.extend(second.events);
    BatchEnd {
        standing: second.standing,
        events,
        last_commit: second.last_commit.or(first.last_commit),
        transactions: first.transactions + second.transactions,
        changes: first.changes + second.changes,
        leftovers: first.leftovers + second.leftovers,
        skipped: first.skipped.into_iter().chain(second.skipped).collect(),
        at_target: second.at_target,
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// `tail` stands where `standing` does.
fn start_reader(
    context: &SinkContext,
    terms: &Terms,
    schemas: &SharedSchemas,
    wants: Wants,
    (standing, careful): (Standing, Careful),
    (tail, skips): (LogTail, Skips),
) -> Result<MainReader> {
    let parts = ReaderParts {
        tail,
        records: RecordReader::open(&context.kafka, context.sink.fetch_max_bytes)?,
        decoders: start::decoders(schemas),
        standing,
        terms: terms.clone(),
        wants,
        batch_max_bytes: context.sink.batch_max_bytes,
        batch_max_age: context.sink.batch_max_age,
        careful,
        skips,
    };
    let stop = CancellationToken::new();
    MainReader::start(&context.sink.name, parts, stop)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
