//! When an entry closes and what it covers: pure.
//!
//! Batches clock themselves: one closes when nothing is in flight any more, or at about so many
//! bytes; only ever between transactions.

use std::time::{Duration, Instant};

use crate::log::commit_log::LastCommit;
use crate::model::Lsn;

/// Closed batches whose entries are not yet acknowledged; past it the open batch grows on.
pub const IN_FLIGHT_MAX: u64 = 8;
/// Heartbeat entries are written at most so often.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// A batch that gets an entry: transactions with `from <= commit LSN < to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Where the previous entry ended.
    pub from: Lsn,
    /// Where this one ends.
    pub to: Lsn,
    /// The last commit with records.
    pub last_commit: Option<LastCommit>,
    /// Transactions with records.
    pub transactions: u64,
    /// Bytes of their keys and values.
    pub bytes: usize,
}

/// The open batch and the boundary behind what was received.
#[derive(Clone, Debug)]
pub struct Batches {
    closed_to: Lsn,
    /// Everything below has been received and belongs to the open batch or one before.
    safe: Lsn,
    in_transaction: bool,
    /// Records of the transaction being received are in the open batch.
    transaction_has_records: bool,
    bytes: usize,
    transactions: u64,
    last_commit: Option<LastCommit>,
    bytes_max: usize,
    heartbeat_at: Instant,
}

impl Batches {
    /// Begins behind `from`, the boundary where the log ends.
    pub fn new(from: Lsn, bytes_max: usize, now: Instant) -> Self {
        Batches {
            closed_to: from,
            safe: from,
            in_transaction: false,
            transaction_has_records: false,
            bytes: 0,
            transactions: 0,
            last_commit: None,
            bytes_max,
            heartbeat_at: now,
        }
    }

    /// A transaction begins.
    pub fn begin(&mut self) {
        self.in_transaction = true;
    }

    /// Records were handed to the producer for the transaction being received.
    pub fn sent(&mut self, bytes: usize) {
        assert!(self.in_transaction, "records belong to transactions");
        self.transaction_has_records = true;
        self.bytes += bytes;
    }

    /// A transaction ends at the boundary `end`.
    pub fn commit(&mut self, end: Lsn, commit: LastCommit) {
        self.in_transaction = false;
        self.safe = self.safe.max(end);
        if std::mem::take(&mut self.transaction_has_records) {
            self.transactions += 1;
            self.last_commit = Some(commit);
        }
    }

    /// The leader says that it has sent everything up to `end`. Inside a transaction that says
    /// nothing about what was committed.
    pub fn idle_end(&mut self, end: Lsn) {
        if !self.in_transaction {
            self.safe = self.safe.max(end);
        }
    }

    /// Whether a transaction is being received.
    pub fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Whether whole transactions wait for an entry, and none is half received.
    pub fn can_close(&self) -> bool {
        !self.in_transaction && self.transactions > 0
    }

    /// Whether the open batch closes now, with so many entries not yet acknowledged.
    pub fn closes(&self, in_flight: u64) -> bool {
        self.can_close()
            && (in_flight == 0 || (self.bytes >= self.bytes_max && in_flight < IN_FLIGHT_MAX))
    }

    /// Closes the open batch.
    pub fn close(&mut self, now: Instant) -> Closed {
        assert!(self.can_close(), "a batch closes between transactions");
        let closed = Closed {
            from: self.closed_to,
            to: self.safe,
            last_commit: self.last_commit.take(),
            transactions: std::mem::take(&mut self.transactions),
            bytes: std::mem::take(&mut self.bytes),
        };
        self.closed_to = self.safe;
        self.heartbeat_at = now + HEARTBEAT_INTERVAL;
        closed
    }

    /// When a heartbeat may be written, if nothing else is until then.
    pub fn heartbeat_at(&self) -> Instant {
        self.heartbeat_at
    }

    /// A heartbeat, if one is due: nothing is in flight, and the last entry is old enough. It moves
    /// the log to the leader's WAL end; where it cannot (a transaction is being received, or there
    /// is no new WAL) it only carries a sample: readers skip it as a repeat.
    pub fn heartbeat(&mut self, in_flight: u64, now: Instant) -> Option<Closed> {
        if in_flight > 0 || now < self.heartbeat_at || self.can_close() {
            return None;
        }
        self.heartbeat_at = now + HEARTBEAT_INTERVAL;
        let from = self.closed_to;
        // Whole transactions of the open batch share it with a half received one.
        if self.transactions == 0 && !self.in_transaction {
            self.closed_to = self.safe;
        }
        Some(Closed {
            from,
            to: self.closed_to,
            last_commit: None,
            transactions: 0,
            bytes: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(lsn: u64) -> LastCommit {
        LastCommit {
            lsn: Lsn(lsn),
            xid: 7,
            time_us: 1,
        }
    }

    fn transaction(batches: &mut Batches, at: u64, bytes: usize) {
        batches.begin();
        if bytes > 0 {
            batches.sent(bytes);
        }
        batches.commit(Lsn(at + 5), commit(at));
    }

    #[test]
    fn a_batch_closes_at_once_when_nothing_is_in_flight_and_grows_while_something_is() {
        let now = Instant::now();
        let mut batches = Batches::new(Lsn(5), 100, now);
        transaction(&mut batches, 10, 60);
        assert!(batches.closes(0) && !batches.closes(1));
        transaction(&mut batches, 20, 60);
        assert!(batches.closes(1) && !batches.closes(IN_FLIGHT_MAX));
        let closed = batches.close(now);
        assert_eq!((closed.from, closed.to), (Lsn(5), Lsn(25)));
        assert_eq!((closed.transactions, closed.bytes), (2, 120));
        assert_eq!(closed.last_commit, Some(commit(20)));
        assert!(!batches.closes(0), "nothing left");
    }

    #[test]
    fn nothing_closes_inside_a_transaction() {
        let now = Instant::now();
        let mut batches = Batches::new(Lsn(5), 1, now);
        transaction(&mut batches, 10, 60);
        batches.begin();
        batches.sent(1000);
        batches.idle_end(Lsn(999));
        assert!(!batches.closes(0));
        let late = now + HEARTBEAT_INTERVAL;
        let beat = batches.heartbeat(0, late).expect("a sample");
        assert_eq!((beat.from, beat.to), (Lsn(5), Lsn(5)));
        batches.commit(Lsn(25), commit(20));
        assert_eq!(batches.close(late).to, Lsn(25));
    }

    #[test]
    fn an_idle_leader_moves_the_log_once_a_second() {
        let now = Instant::now();
        let mut batches = Batches::new(Lsn(5), 1, now);
        batches.idle_end(Lsn(50));
        assert_eq!(batches.heartbeat(1, now), None, "something is in flight");
        let beat = batches.heartbeat(0, now).expect("due");
        assert_eq!((beat.from, beat.to), (Lsn(5), Lsn(50)));
        batches.idle_end(Lsn(70));
        transaction(&mut batches, 80, 0);
        assert_eq!(batches.heartbeat(0, now), None, "too soon");
        let beat = batches.heartbeat(0, now + HEARTBEAT_INTERVAL).expect("due");
        assert_eq!((beat.from, beat.to), (Lsn(50), Lsn(85)));
        assert_eq!(beat.transactions, 0);
    }

    #[test]
    fn a_transaction_without_records_rides_along() {
        let now = Instant::now();
        let mut batches = Batches::new(Lsn(5), 1, now);
        transaction(&mut batches, 10, 0);
        assert!(!batches.closes(0));
        transaction(&mut batches, 20, 3);
        transaction(&mut batches, 30, 0);
        let closed = batches.close(now);
        assert_eq!((closed.transactions, closed.to), (1, Lsn(35)));
        assert_eq!(closed.last_commit, Some(commit(20)));
    }
}
