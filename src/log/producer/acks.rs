//! Counting acknowledgements: which records of which batch are still under way.
//!
//! A record carries only a number (cell of its batch, partition slot) through librdkafka. A sender
//! touches one atomic counter a record; the delivery thread is alone with the rest of a cell until
//! the batch is complete.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Notify;

use super::{Acked, BatchId, PartitionSlot};
use crate::error::{Class, Error, Result};

/// Batches that may be open at a time.
const CELLS: usize = 4096;

/// Bits of a record's number that name the partition slot.
const SLOT_BITS: u32 = 32;

const _: () = assert!(usize::BITS >= 64, "a record's number takes 64 bits");

/// One open batch.
#[derive(Default)]
struct Cell {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    /// Nothing more is sent: completeness may be judged.
    closed: AtomicBool,
    complete: Notify,
    partitions: Mutex<Partitions>,
}

/// Acknowledgements by partition. Records come in runs: the newest partition is kept at hand.
#[derive(Default)]
struct Partitions {
    newest: Option<(u32, Acked)>,
    others: HashMap<u32, Acked>,
}

impl Partitions {
    fn count(&mut self, slot: u32, offset: Option<i64>) {
        if self.newest.is_none_or(|(newest, _)| newest != slot) {
            let known = self.others.remove(&slot).unwrap_or(Acked {
                last: None,
                largest_named: None,
                count: 0,
            });
            if let Some((other, acked)) = self.newest.replace((slot, known)) {
                self.others.insert(other, acked);
            }
        }
        if let Some((_, acked)) = &mut self.newest {
            acked.last = offset;
            acked.largest_named = acked.largest_named.max(offset);
            acked.count += 1;
        }
    }

    fn take(&mut self) -> BTreeMap<PartitionSlot, Acked> {
        let all = self.others.drain().chain(self.newest.take());
        all.map(|(slot, acked)| (PartitionSlot(slot), acked))
            .collect()
    }
}

/// Why an epoch ended; errors are made anew for each who asks.
struct Failure {
    class: Class,
    what: String,
    remedy: Option<String>,
}

impl Failure {
    fn error(&self) -> Error {
        match (self.class, &self.remedy) {
            (Class::Halt, Some(remedy)) => Error::halt(&self.what, remedy),
            (Class::Transient | Class::Fenced, Some(remedy)) => {
                Error::transient(&self.what).advising(remedy)
            }
            (Class::Halt | Class::Transient | Class::Fenced, None) => Error::transient(&self.what),
        }
    }
}

/// What senders, waiters and the delivery thread share.
pub(super) struct Acks {
    cells: Box<[Cell]>,
    free: Mutex<(Vec<usize>, u64)>,
    bytes: AtomicUsize,
    records: AtomicUsize,
    /// Bytes (with overhead, see `overhead`) at which a waiting sender goes on; `usize::MAX`: nobody waits.
    wanted: AtomicUsize,
    overhead: AtomicUsize,
    room: Notify,
    over: AtomicBool,
    failure: OnceLock<Failure>,
    failed: Notify,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is held is only ever changed by steps that cannot panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cell and partition slot of a record's number.
fn unpack(opaque: usize) -> (usize, PartitionSlot) {
    let slot = u32::try_from(opaque & ((1 << SLOT_BITS) - 1)).expect("masked to 32 bits");
    (opaque >> SLOT_BITS, PartitionSlot(slot))
}

fn cell_of(batch: BatchId) -> usize {
    usize::try_from(batch.0 % CELLS as u64).expect("below the number of cells")
}

impl Acks {
    pub(super) fn new() -> Self {
        Acks {
            cells: (0..CELLS).map(|_| Cell::default()).collect(),
            free: Mutex::new(((0..CELLS).rev().collect(), 0)),
            bytes: AtomicUsize::new(0),
            records: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            overhead: AtomicUsize::new(0),
            room: Notify::new(),
            over: AtomicBool::new(false),
            failure: OnceLock::new(),
            failed: Notify::new(),
        }
    }

    pub(super) fn open(&self) -> BatchId {
        let mut free = lock(&self.free);
        let (cells, opened) = &mut *free;
        let cell = cells
            .pop()
            .expect("at most 4,096 batches are open at a time");
        *opened += 1;
        BatchId(*opened * CELLS as u64 + cell as u64)
    }

    /// Counts a record that is about to be handed over; returns the number it carries.
    pub(super) fn sending(&self, batch: BatchId, slot: PartitionSlot, bytes: usize) -> usize {
        let cell = cell_of(batch);
        self.cells[cell].sent.fetch_add(1, SeqCst);
        self.bytes.fetch_add(bytes, SeqCst);
        self.records.fetch_add(1, SeqCst);
        (cell << SLOT_BITS) | slot.0 as usize
    }

    fn done_with(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, SeqCst);
        self.records.fetch_sub(1, SeqCst);
        let wanted = self.wanted.load(SeqCst);
        if wanted > 0 && self.queued(self.overhead.load(SeqCst)) < wanted {
            self.room.notify_waiters();
        }
    }

    /// Counts an acknowledgement; returns whose partition's it was.
    pub(super) fn delivered(
        &self,
        opaque: usize,
        offset: Option<i64>,
        bytes: usize,
    ) -> PartitionSlot {
        let (cell, slot) = unpack(opaque);
        let cell = &self.cells[cell];
        lock(&cell.partitions).count(slot.0, offset);
        // Before the batch can be seen complete, so that nothing of it is still counted then.
        self.done_with(bytes);
        let acknowledged = cell.acknowledged.fetch_add(1, SeqCst) + 1;
        if cell.closed.load(SeqCst) && acknowledged == cell.sent.load(SeqCst) {
            cell.complete.notify_one();
        }
        slot
    }

    /// Bytes sent and not acknowledged, with `overhead` bytes a record.
    pub(super) fn queued(&self, overhead: usize) -> usize {
        self.bytes.load(SeqCst) + self.records.load(SeqCst) * overhead
    }

    pub(super) async fn room(&self, overhead: usize, enough: usize) -> Result<()> {
        self.overhead.store(overhead, SeqCst);
        // A queue of a few bytes must let one record in when it is empty.
        let wanted = enough.max(1);
        loop {
            let woken = self.room.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            self.wanted.store(wanted, SeqCst);
            self.check()?;
            if self.queued(overhead) < wanted {
                return Ok(());
            }
            woken.await;
        }
    }

    pub(super) async fn acked(&self, batch: BatchId) -> Result<BTreeMap<PartitionSlot, Acked>> {
        let index = cell_of(batch);
        let cell = &self.cells[index];
        cell.closed.store(true, SeqCst);
        loop {
            self.check()?;
            if cell.acknowledged.load(SeqCst) == cell.sent.load(SeqCst) {
                break;
            }
            tokio::select! {
                () = cell.complete.notified() => {}
                _error = self.failed() => {}
            }
        }
        let partitions = lock(&cell.partitions).take();
        cell.sent.store(0, SeqCst);
        cell.acknowledged.store(0, SeqCst);
        cell.closed.store(false, SeqCst);
        lock(&self.free).0.push(index);
        Ok(partitions)
    }

    /// Ends the epoch; the first reason stays.
    pub(super) fn fail(&self, error: &Error) {
        let reason = Failure {
            class: error.class(),
            what: error.what(),
            remedy: error.remedy().map(str::to_owned),
        };
        if self.failure.set(reason).is_ok() {
            self.over.store(true, SeqCst);
            self.failed.notify_waiters();
            self.room.notify_waiters();
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// # Errors
    /// The epoch is over.
    pub(super) fn check(&self) -> Result<()> {
        if !self.is_over() {
            return Ok(());
        }
        Err(self.reason())
    }

    fn reason(&self) -> Error {
        match self.failure.get() {
            Some(failure) => failure.error(),
            None => Error::transient("the epoch's producer failed"),
        }
    }

    pub(super) async fn failed(&self) -> Error {
        let told = self.failed.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        if !self.is_over() {
            told.await;
        }
        self.reason()
    }
}

/// What an error of one record means for its epoch.
pub(super) fn delivery_error(code: RDKafkaErrorCode, place: &(String, i32), bytes: usize) -> Error {
    let (topic, partition) = place;
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => {
            Error::halt(
                format!(
                    "a record of {bytes} bytes for {topic} {partition} is larger than Kafka takes"
                ),
                format!("raise max.message.bytes of topic {topic} to what `walferry check` names"),
            )
        }
        other => Error::transient(format!(
            "Kafka did not take a record for {topic} {partition}: {other}"
        )),
    }
}

#[cfg(test)]
#[path = "acks_tests.rs"]
mod tests;
