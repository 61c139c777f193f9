//! Records waiting for their partition's turn: one burst of a partition is with librdkafka at a time,
//! and what comes meanwhile is collected into the next. Pure.
//!
//! Why librdkafka does not collect them itself: its idempotent producer has one request of a
//! partition under way (it compares its limit of five with messages, not requests: `inflight` in
//! `rd_kafka_toppar_producer_serve`, 2.12), and while records wait behind it for longer than
//! `linger.ms` its thread polls without a pause. A backlog is just that: a whole core for nothing
//! while a broker is slow. So a burst is small enough to be one request, and nothing is handed over
//! that would have to wait.
//!
//! What is left: records are handed over one by one, and a thread that is held up in the middle of a
//! burst for longer than `linger.ms` leaves its rest behind a part that is on its way. librdkafka's
//! thread polls then until the broker answers, `socket.timeout.ms` at most. Seldom, on a busy machine.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Header;

/// Key, value, headers and framing of a burst: one request, which `batch.size` bounds.
pub(super) const BURST_MAX_BYTES: usize = 900_000;
/// What `batch.size` is set to.
pub(super) const REQUEST_MAX_BYTES: usize = 1_000_000;
/// From here on a burst goes without being pushed: a request that is worth a broker's while.
const WORTH_BYTES: usize = 128 * 1024;
/// From here on there is nothing to be gained by more.
const FULL_BYTES: usize = BURST_MAX_BYTES / 4 * 3;
/// Kafka's framing of a record: at most 36 bytes (`RD_KAFKAP_MESSAGE_V2_MAX_OVERHEAD`), and of headers.
const FRAMING_BYTES: usize = 64;
/// So many records are handed over before librdkafka's thread has woken at the first.
const PROMPT_RECORDS: usize = 32;
/// What the load is judged by: records of the last window or two, and how many are load.
const WINDOW: Duration = Duration::from_millis(10);
const LOAD_RECORDS: usize = 250;
/// Kept for the next burst.
const SPARE_MAX_BYTES: usize = 2 * BURST_MAX_BYTES;

/// Which of the producer's clients takes a burst. Records are handed over one by one, and a
/// request takes what is there: behind a part of a burst its rest would have to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Few records, and no load: sent at once.
    Prompt = 0,
    /// An entry of the commit log, and no load: sent at once, on a connection on which no records are under way.
    /// A broker answers a connection's requests one after the other.
    Entry = 1,
    /// Under load fewer and larger requests are waited for: their number is what costs a broker and the sinks.
    Bulk = 2,
    /// As large as a request gets: waits for no more than its own end.
    Full = 3,
}

impl Pace {
    /// As many as there are.
    pub(super) const COUNT: usize = 4;

    /// The clients' `linger.ms`. What is longer or shorter costs: bench/README.md.
    pub(super) const LINGER_MS: [&'static str; Self::COUNT] = ["0", "0", "4", "2"];
}

/// One record as it is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: &'a [Header<'a>],
    /// Its number in `acks`.
    pub(super) opaque: usize,
}

impl Record<'_> {
    /// Bytes of key and value.
    pub(super) fn payload_len(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len)
    }
}

struct Shape {
    key: Option<usize>,
    value: Option<usize>,
    headers: usize,
    opaque: usize,
}

/// Records that are handed over together; their bytes lie one behind the other.
#[derive(Default)]
pub(super) struct Burst {
    bytes: Vec<u8>,
    shapes: Vec<Shape>,
    headers: Vec<(&'static str, usize)>,
    weight: usize,
}

impl Burst {
    fn add(&mut self, record: &Record<'_>) {
        let mut put = |bytes: &[u8]| {
            self.bytes.extend_from_slice(bytes);
            bytes.len()
        };
        let shape = Shape {
            key: record.key.map(&mut put),
            value: record.value.map(&mut put),
            headers: record.headers.len(),
            opaque: record.opaque,
        };
        let headers = record.headers.iter();
        self.headers
            .extend(headers.map(|(name, bytes)| (*name, put(bytes))));
        self.shapes.push(shape);
        self.weight += weight(record);
    }

    fn takes(&self, record: &Record<'_>) -> bool {
        self.shapes.is_empty() || self.weight + weight(record) <= BURST_MAX_BYTES
    }

    /// Records in it.
    pub(super) fn len(&self) -> usize {
        self.shapes.len()
    }

    /// Its records in order; false from `each` ends it.
    pub(super) fn for_each(&self, mut each: impl FnMut(&Record<'_>) -> bool) {
        let (mut bytes, mut names) = (&self.bytes[..], &self.headers[..]);
        let mut take = |len: usize| {
            let (taken, rest) = bytes.split_at(len);
            bytes = rest;
            taken
        };
        for shape in &self.shapes {
            let key = shape.key.map(&mut take);
            let value = shape.value.map(&mut take);
            let (own, rest) = names.split_at(shape.headers);
            names = rest;
            let mut headers: [Header<'_>; super::HEADERS_MAX] = [("", &[]); super::HEADERS_MAX];
            for (header, (name, len)) in headers.iter_mut().zip(own) {
                *header = (name, take(*len));
            }
            let record = Record {
                key,
                value,
                headers: &headers[..shape.headers],
                opaque: shape.opaque,
            };
            if !each(&record) {
                return;
            }
        }
    }

    /// Empty, for the next use; memory of one huge record is given back.
    pub(super) fn cleared(mut self) -> Self {
        self.bytes.clear();
        self.bytes.shrink_to(SPARE_MAX_BYTES);
        self.shapes.clear();
        self.headers.clear();
        self.weight = 0;
        self
    }
}

fn weight(record: &Record<'_>) -> usize {
    let headers = record.headers.iter();
    let headers: usize = headers.map(|(name, bytes)| name.len() + bytes.len()).sum();
    FRAMING_BYTES + record.payload_len() + headers
}

/// One partition.
#[derive(Default)]
pub(super) struct Turn {
    waiting: VecDeque<Burst>,
    /// Records that librdkafka has and Kafka has not acknowledged.
    under_way: usize,
    /// Somebody waits for what is here: it goes however little it is.
    pushed: bool,
    /// It is on the list of those to be pushed.
    listed: bool,
}

impl Turn {
    /// Adds a record behind the others; true: the partition must be listed for [`Turn::push`].
    pub(super) fn add(&mut self, record: &Record<'_>, spare: impl FnOnce() -> Burst) -> bool {
        match self.waiting.back_mut() {
            Some(last) if last.takes(record) => last.add(record),
            _ => {
                let mut burst = spare();
                burst.add(record);
                self.waiting.push_back(burst);
            }
        }
        !std::mem::replace(&mut self.listed, true)
    }

    /// All that waits goes as soon as it is its turn. Takes the partition from the list.
    pub(super) fn push(&mut self) {
        self.listed = false;
        self.pushed = !self.waiting.is_empty();
    }

    /// Kafka has acknowledged a record.
    pub(super) fn acknowledged(&mut self) {
        self.under_way -= 1;
    }

    /// The burst to be handed over now, all of it, before anything else of this partition is.
    pub(super) fn next(&mut self) -> Option<Burst> {
        let first = self.waiting.front()?;
        let worth = self.pushed || self.waiting.len() > 1 || first.weight >= WORTH_BYTES;
        if self.under_way > 0 || !worth {
            return None;
        }
        let burst = self.waiting.pop_front()?;
        self.under_way = burst.len();
        self.pushed &= !self.waiting.is_empty();
        Some(burst)
    }
}

/// How many records all partitions were handed lately. Not how many are under way: waiting makes them
/// more, and would then be what it is judged by.
pub(super) struct Load {
    since: Instant,
    records: usize,
    /// Those of the window before.
    before: usize,
}

impl Load {
    /// None yet.
    pub(super) fn new(now: Instant) -> Self {
        Load {
            since: now,
            records: 0,
            before: 0,
        }
    }

    /// Counts a burst and says which client is for it; `is_log`: it is for the commit log. Bursts of a
    /// partition may change between them: the one before is acknowledged.
    pub(super) fn pace(&mut self, burst: &Burst, is_log: bool, now: Instant) -> Pace {
        let passed = now.saturating_duration_since(self.since);
        if passed >= WINDOW {
            let recent = passed < 2 * WINDOW;
            self.before = if recent { self.records } else { 0 };
            self.records = 0;
            self.since = now;
        }
        self.records += burst.len();
        let load = self.records.max(self.before) >= LOAD_RECORDS;
        if burst.weight >= FULL_BYTES {
            Pace::Full
        } else if load || burst.len() > PROMPT_RECORDS {
            Pace::Bulk
        } else if is_log {
            Pace::Entry
        } else {
            Pace::Prompt
        }
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
