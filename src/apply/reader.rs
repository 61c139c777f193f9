//! The main reader: a thread that follows the commit log, reads the records of valid entries and
//! hands planned chunks to the applier.
//!
//! Batches grow with backlog: a chunk collects entries while the applier is busy, until the log has
//! none ready or the budget is used up. An entry that finds the applier idle goes at once, or, where the
//! settings say so, once its batch has been collected for some time; one in whose middle the budget is used
//! up is the batch's last. After an error they are smaller (`careful`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bug;
use super::careful::{Careful, ChunkCut};
use super::chunk::{ChunkBuilder, Decoders};
use super::follow::{Standing, Step, Terms};
use super::partitions::{Cut, Partitions};
use super::planned::{Planned, planned};
use super::pull::{EntryPull, Filled};
use crate::error::{Error, Result};
use crate::log::commit_log::{BatchEntry, Entry, LastCommit};
use crate::log::records::RecordReader;
use crate::log::tail::LogTail;
use crate::model::{Lsn, Skipped, Skips, TableName};
use crate::sink::Wants;

/// What the applier notes when it commits a batch.
#[derive(Debug)]
pub struct BatchEnd {
    /// Where the reader stands behind it; its ledger is not used.
    pub standing: Box<Standing>,
    /// Valid entries about epochs and copies in it.
    pub events: Vec<(i64, Entry)>,
    /// Its last transaction.
    pub last_commit: Option<LastCommit>,
    /// Leader transactions in it.
    pub transactions: u64,
    /// Changes of its entries, of whatever table.
    pub changes: u64,
    /// Records passed over.
    pub leftovers: u64,
    /// Changes passed over by order.
    pub skipped: Vec<Skipped>,
    /// The reader is to stop at a boundary, and goes no further: it stands there, or, where tables
    /// are lacking, before the entry that leads beyond it.
    pub at_target: bool,
}

/// A chunk, a batch's end, or both.
#[derive(Debug)]
pub struct Part {
    /// The changes; none for an entry without records for this sink.
    pub planned: Option<Planned>,
    /// The end of the batch: the follower transaction is committed with it. `None`: more comes.
    pub end: Option<BatchEnd>,
}

/// What the reader is made of.
pub struct ReaderParts {
    /// The commit log from where `standing` is.
    pub tail: LogTail,
    /// The consumer of table topics.
    pub records: RecordReader,
    /// Decoders of schema versions.
    pub decoders: Decoders,
    /// Where to go on.
    pub standing: Standing,
    /// What the sink takes.
    pub terms: Terms,
    /// The form its store wants.
    pub wants: Wants,
    /// Budget of a chunk.
    pub batch_max_bytes: usize,
    /// How long records wait for others of their batch.
    pub batch_max_age: Duration,
    /// How many entries go into a batch.
    pub careful: Careful,
    /// What is to be passed over.
    pub skips: Skips,
}

/// Where in its batches a reader was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The next part begins a batch.
    Between,
    /// The next part goes on with the batch begun.
    Within,
    /// The batch begun was given up: what follows of it would be committed without its beginning.
    Spent,
}

/// The reader's end of the applier: parts in order, then an error or the channel's end.
///
/// A part is the beginning of a batch if and only if the part before it was an end; once a batch is
/// given up nothing more is taken from its reader.
pub struct MainReader {
    parts: mpsc::Receiver<Result<Part>>,
    place: Place,
    stop: CancellationToken,
}

impl Drop for MainReader {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl MainReader {
    /// Starts the thread.
    ///
    /// # Errors
    /// Transient when no thread can be had.
    pub fn start(name: &str, parts: ReaderParts, stop: CancellationToken) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(1);
        let mut builder = ChunkBuilder::new(parts.batch_max_bytes);
        builder.skip(parts.skips);
        if parts.wants == Wants::Changes {
            builder.keep_times();
        }
        let reader = Reader {
            handle: Handle::current(),
            topics: parts.standing.topics(&parts.terms),
            builder,
            source: Partitions::new(parts.records, stop.clone()),
            batch: Batch::default(),
            batch_max_age: parts.batch_max_age,
            stop: stop.clone(),
            parts: sender.clone(),
            tail: parts.tail,
            decoders: parts.decoders,
            standing: parts.standing,
            terms: parts.terms,
            wants: parts.wants,
            careful: parts.careful,
        };
        let run = move || {
            if let Err(error) = reader
                .run()
                .or_else(|cut| cut.into_error().map_or(Ok(()), Err))
            {
                // The applier is gone when nobody listens; it has its own reason then.
                let _nobody_listens = sender.blocking_send(Err(error));
            }
        };
        std::thread::Builder::new()
            .name(format!("read-{name}"))
            .spawn(run)
            .map_err(|error| Error::transient("starting the reader's thread").caused_by(error))?;
        Ok(MainReader {
            parts: receiver,
            place: Place::Between,
            stop,
        })
    }

    /// The first part of the next batch; waits for it. Cancel-safe.
    ///
    /// # Errors
    /// What ended the reader; halt when its thread has ended without an error, and when the batch
    /// before was neither finished nor read anew.
    pub async fn next_batch(&mut self) -> Result<Part> {
        self.next_in(Place::Between).await
    }

    /// The next part of the batch begun, as [`MainReader::next_batch`]. Cancel-safe.
    ///
    /// # Errors
    /// As [`MainReader::next_batch`].
    pub async fn next_chunk(&mut self) -> Result<Part> {
        self.next_in(Place::Within).await
    }

    /// Gives up the batch begun: this reader hands on nothing more.
    pub fn give_up(&mut self) {
        self.place = Place::Spent;
        self.stop.cancel();
        self.parts.close();
    }

    async fn next_in(&mut self, asked: Place) -> Result<Part> {
        if self.place != asked {
            return Err(bug(format_args!(
                "a part {asked:?} was asked of a reader that stands {:?}",
                self.place
            )));
        }
        // The thread says what ended it, and it is not asked to stop while somebody listens.
        let ended = || Err(bug("the reader's thread ended"));
        let part = self.parts.recv().await.unwrap_or_else(ended)?;
        self.place = match part.end {
            Some(_) => Place::Between,
            None => Place::Within,
        };
        Ok(part)
    }
}

/// What is collected since the last batch end was handed on.
#[derive(Default)]
struct Batch {
    entries: usize,
    events: Vec<(i64, Entry)>,
    last_commit: Option<LastCommit>,
    transactions: u64,
    changes: u64,
    leftovers: u64,
    /// A chunk of it has been handed on before its end.
    in_chunks: bool,
    /// The reader goes no further.
    at_target: bool,
    /// It ends with an epoch entry: a table may have another name behind it.
    epoch_ends: bool,
    /// Since when it has records.
    since: Option<Instant>,
}

impl Batch {
    /// Whether it ends behind the entry just taken. One that needed a second chunk always does: under a
    /// lasting backlog the budget is used up in the middle of entries again and again, and a batch that
    /// went on would be a follower transaction without end.
    fn is_due(&self, chunk_is_full: bool, max_entries: usize) -> bool {
        chunk_is_full || self.in_chunks || self.epoch_ends || self.entries >= max_entries
    }

    /// Until when it is collected before it goes to an idle applier; none: no longer. What an entry says of epochs
    /// and copies does not wait.
    fn collects_until(&self, max_age: Duration) -> Option<Instant> {
        let collects = self.events.is_empty() && !max_age.is_zero();
        self.since.filter(|_| collects).map(|since| since + max_age)
    }
}

struct Reader {
    handle: Handle,
    tail: LogTail,
    source: Partitions<RecordReader>,
    decoders: Decoders,
    builder: ChunkBuilder,
    standing: Standing,
    topics: BTreeMap<String, TableName>,
    terms: Terms,
    wants: Wants,
    batch: Batch,
    batch_max_age: Duration,
    careful: Careful,
    parts: mpsc::Sender<Result<Part>>,
    stop: CancellationToken,
}

enum Next {
    Entry(i64, Box<Entry>),
    /// There is room for the batch: the applier has taken the one before.
    Room,
}

impl Reader {
    fn run(mut self) -> Result<(), Cut> {
        self.source.introduce(self.topics.keys());
        self.source.seek_all(&self.standing.cursors)?;
        loop {
            if self.standing.is_at_target() {
                return self.stay();
            }
            match self.next()? {
                Next::Room => self.send_batch()?,
                Next::Entry(offset, entry) => {
                    self.take_entry(offset, *entry)?;
                    if self.batch.since.is_none() && !self.builder.is_empty() {
                        self.batch.since = Some(Instant::now());
                    }
                    let max_entries = self.careful.max_entries_at(offset);
                    if self.batch.is_due(self.builder.is_full(), max_entries) {
                        self.send_batch()?;
                    }
                }
            }
        }
    }

    /// The next entry, or room for what is collected, whichever is first; entries that are here
    /// already come first, so that a backlog is taken in large batches.
    fn next(&mut self) -> Result<Next, Cut> {
        if self.stop.is_cancelled() {
            return Err(Cut::Stopped);
        }
        if let Some((offset, entry)) = self.tail.try_next()? {
            return Ok(Next::Entry(offset, Box::new(entry)));
        }
        let collected = self.batch.entries > 0;
        let until = self.batch.collects_until(self.batch_max_age);
        let (tail, parts, stop) = (&mut self.tail, &self.parts, &self.stop);
        let room = async {
            if let Some(until) = until {
                tokio::time::sleep_until(until).await;
            }
            parts.reserve().await.map(drop)
        };
        self.handle.block_on(async {
            tokio::select! {
                biased;
                () = stop.cancelled() => Err(Cut::Stopped),
                room = room, if collected => match room {
                    Ok(()) => Ok(Next::Room),
                    Err(_applier_gone) => Err(Cut::Stopped),
                },
                entry = tail.next() => {
                    let (offset, entry) = entry?;
                    Ok(Next::Entry(offset, Box::new(entry)))
                }
            }
        })
    }

    fn take_entry(&mut self, offset: i64, entry: Entry) -> Result<(), Cut> {
        self.batch.entries += 1;
        if let Entry::Batch(batch) = &entry
            && self.standing.would_pass_target(offset, &entry)?
        {
            return self.split(batch, self.careful.cut_at(offset));
        }
        let step = self
            .standing
            .step(offset, &entry, &self.terms)
            .map_err(|error| {
                error.at(format_args!(
                    "{} offset {offset}",
                    self.terms.topics.commits()
                ))
            })?;
        match (step, entry) {
            (Step::Pass, _void) => Ok(()),
            (Step::Batch, Entry::Batch(batch)) => {
                let from = self.standing.split.take().unwrap_or(Lsn::ZERO);
                self.batch.last_commit = batch.last_commit.or(self.batch.last_commit);
                self.batch.transactions += batch.transactions;
                self.batch.changes += batch.changes;
                self.read_records(&batch, from..batch.to, self.careful.cut_at(offset))
            }
            (Step::Batch | Step::Event, event) => {
                self.batch.epoch_ends |= matches!(event, Entry::Epoch(_));
                self.batch.events.push((offset, event));
                let topics = self.standing.topics(&self.terms);
                for gone in self
                    .topics
                    .keys()
                    .filter(|topic| !topics.contains_key(*topic))
                {
                    self.source.forget(gone)?;
                }
                self.topics = topics;
                Ok(())
            }
        }
    }

    /// Applies what the entry has of transactions before the target, if that may be, and stays there.
    fn split(&mut self, batch: &BatchEntry, cut: Option<ChunkCut>) -> Result<(), Cut> {
        if self.standing.may_split(&self.terms) {
            let target = self.standing.target.unwrap_or(batch.to);
            let from = self.standing.split.unwrap_or(Lsn::ZERO);
            let before = self.standing.cursors.clone();
            self.read_records(batch, from..target, cut)?;
            self.standing.cursors = before;
            self.standing.split = Some(target);
        }
        self.stay()
    }

    /// Hands on what is collected, and reads no further.
    fn stay(&mut self) -> Result<(), Cut> {
        self.batch.at_target = true;
        self.send_batch()?;
        self.handle.block_on(self.stop.cancelled());
        Err(Cut::Stopped)
    }

    /// Reads the records of an entry; of those whose commit LSNs are not `wanted` only the count.
    fn read_records(
        &mut self,
        batch: &BatchEntry,
        wanted: Range<Lsn>,
        cut: Option<ChunkCut>,
    ) -> Result<(), Cut> {
        let mut pull = EntryPull::new(
            batch,
            &self.topics,
            wanted,
            &self.standing.cursors,
            (&mut self.source, &mut self.builder),
        )?
        .in_order(self.wants == Wants::Changes);
        // An entry that is cut comes alone, so nothing is in the chunk yet.
        let mut handed_on = 0;
        loop {
            self.builder
                .limit_changes(cut.map_or(u64::MAX, |cut| cut.max_changes_after(handed_on)));
            let filled = pull.fill(
                &mut self.source,
                &mut self.builder,
                &mut self.decoders,
                &mut self.standing.cursors,
            )?;
            if filled == Filled::Done {
                break;
            }
            handed_on += self.builder.changes();
            let planned = planned(self.wants, self.builder.take())?;
            self.batch.in_chunks = true;
            self.send(Part {
                planned: Some(planned),
                end: None,
            })?;
        }
        self.builder.limit_changes(u64::MAX);
        self.batch.leftovers += pull.leftovers();
        Ok(())
    }

    fn send_batch(&mut self) -> Result<(), Cut> {
        let batch = std::mem::take(&mut self.batch);
        let planned = if self.builder.is_empty() {
            None
        } else {
            Some(planned(self.wants, self.builder.take())?)
        };
        let skipped = self.builder.take_skipped();
        let standing = Standing {
            ledger: Default::default(),
            place: self.standing.place.clone(),
            in_effect: self.standing.in_effect.clone(),
            cursors: self.standing.cursors.clone(),
            system_id: self.standing.system_id.clone(),
            timeline: self.standing.timeline,
            target: self.standing.target,
            held: self.standing.held,
            split: self.standing.split,
        };
        self.send(Part {
            planned,
            end: Some(BatchEnd {
                standing: Box::new(standing),
                events: batch.events,
                last_commit: batch.last_commit,
                transactions: batch.transactions,
                changes: batch.changes,
                leftovers: batch.leftovers,
                skipped,
                at_target: batch.at_target,
            }),
        })
    }

    fn send(&self, part: Part) -> Result<(), Cut> {
        let (parts, stop) = (&self.parts, &self.stop);
        self.handle.block_on(async {
            tokio::select! {
                biased;
                () = stop.cancelled() => Err(Cut::Stopped),
                sent = parts.send(Ok(part)) => sent.map_err(|_applier_gone| Cut::Stopped),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;
    use crate::log::commit_log::CopyBegin;
    use crate::model::checkpoint::LogPlace;
    use crate::model::{Cursors, Epoch};

    fn part(is_end: bool) -> Part {
        let standing = Standing {
            place: LogPlace::at_low_end(0),
            in_effect: Default::default(),
            cursors: Cursors::new(),
            system_id: None,
            timeline: None,
            ledger: Default::default(),
            target: None,
            held: false,
            split: None,
        };
        Part {
            planned: None,
            end: is_end.then(|| BatchEnd {
                standing: Box::new(standing),
                events: Vec::new(),
                last_commit: None,
                transactions: 1,
                changes: 1,
                leftovers: 0,
                skipped: Vec::new(),
                at_target: false,
            }),
        }
    }

    /// A reader whose thread has sent parts that are ends (`true`) or not.
    async fn sent(ends: &[bool]) -> (MainReader, mpsc::Sender<Result<Part>>) {
        let (sender, parts) = mpsc::channel(16);
        for is_end in ends {
            sender.send(Ok(part(*is_end))).await.unwrap();
        }
        let stop = CancellationToken::new();
        let place = Place::Between;
        (MainReader { parts, place, stop }, sender)
    }

    #[test]
    fn a_batch_that_outgrew_its_budget_ends_with_the_entry_it_happened_in() {
        let mut batch = Batch {
            entries: 2,
            ..Batch::default()
        };
        assert!(!batch.is_due(false, 3), "it grows with the backlog");
        assert!(batch.is_due(true, 3));
        assert!(batch.is_due(false, 2));
        batch.in_chunks = true;
        assert!(batch.is_due(false, 3));
    }

    #[test]
    fn a_batch_is_collected_for_its_time_unless_it_tells_of_epochs_and_copies() {
        let (age, since) = (Duration::from_secs(2), Instant::now());
        let mut batch = Batch::default();
        assert_eq!(batch.collects_until(age), None, "it has no records");
        batch.since = Some(since);
        assert_eq!(batch.collects_until(age), Some(since + age));
        assert_eq!(batch.collects_until(Duration::ZERO), None);
        let begins = CopyBegin {
            epoch: Epoch(3),
            number: 1,
            tables: Vec::new(),
            at: Some(Lsn(1)),
            offsets: Default::default(),
            indexes: Vec::new(),
        };
        batch.events.push((7, Entry::CopyBegin(begins)));
        assert_eq!(batch.collects_until(age), None);
    }

    #[tokio::test]
    async fn parts_come_as_the_batches_they_belong_to() {
        let (mut reader, _thread) = sent(&[true, false, false, true, true]).await;
        assert!(reader.next_batch().await.unwrap().end.is_some());
        assert!(reader.next_batch().await.unwrap().end.is_none());
        assert!(reader.next_chunk().await.unwrap().end.is_none());
        assert!(reader.next_chunk().await.unwrap().end.is_some());
        assert!(reader.next_batch().await.unwrap().end.is_some());
    }

    #[tokio::test]
    async fn a_reader_whose_thread_has_ended_in_silence_halts_the_sink() {
        let (mut reader, thread) = sent(&[true]).await;
        drop(thread);
        reader.next_batch().await.unwrap();
        let error = reader.next_batch().await.map(|_| ()).unwrap_err();
        assert_eq!(error.class(), Class::Halt);
        assert!(error.what().contains("a bug"), "{error}");
    }

    #[tokio::test]
    async fn the_rest_of_a_batch_is_never_taken_for_a_batch() {
        let (mut reader, _thread) = sent(&[false, true, true]).await;
        reader.next_batch().await.unwrap();
        assert_eq!(
            reader.next_batch().await.unwrap_err().class(),
            Class::Halt,
            "the batch begun has not ended"
        );
        reader.give_up();
        assert!(reader.stop.is_cancelled());
        for _ in 0..3 {
            assert!(reader.next_batch().await.is_err());
            assert!(reader.next_chunk().await.is_err());
        }
    }
}
