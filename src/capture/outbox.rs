//! Records of one message on their way to the producer: encoded once into reused memory, cut into
//! parts where they are too large for one record, and kept until the producer has taken them.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::log::header::{PART_HEADER, PartHeader, RECORD_HEADER, RecordHeader};
use crate::log::producer::{BatchId, EpochProducer, Header, PartitionSlot, Sent};

/// Room that headers and Kafka's own framing may take beside key and value.
const OVERHEAD_BYTES: usize = 512;
/// Scratch memory above this is given back after use: one huge row must not be kept for ever.
const SCRATCH_MAX_BYTES: usize = 8 * 1024 * 1024;

/// A record; its bytes lie in the outbox.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where it goes.
    pub slot: PartitionSlot,
    /// Its key.
    pub key: Option<Range<usize>>,
    /// Its value; none: a tombstone.
    pub value: Option<Range<usize>>,
    /// The `walferry` header; none on schema versions.
    pub header: Option<RecordHeader>,
    /// Debezium's header on the halves of a key change.
    pub moved: Option<(&'static str, Range<usize>)>,
    /// Which piece of a value it is.
    pub part: Option<PartHeader>,
}

/// Records waiting for the producer.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    records: Vec<Outgoing>,
    next: usize,
}

impl Outbox {
    /// Where keys and values are written; name them by [`Outbox::since`].
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no bytes and no records wait.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// What was written since the buffer had `start` bytes.
    pub fn since(&self, start: usize) -> Range<usize> {
        start..self.bytes.len()
    }

    /// Adds a record.
    pub fn push(&mut self, record: Outgoing) {
        self.records.push(record);
    }

    /// How many pieces a value needs so that no record is larger than `limit_bytes`.
    ///
    /// # Errors
    /// Halt when the key alone leaves no room.
    pub fn pieces(record: &Outgoing, limit_bytes: usize) -> Result<u32> {
        let len = |range: &Option<Range<usize>>| range.as_ref().map_or(0, Range::len);
        let moved = record.moved.as_ref().map_or(0, |(_, range)| range.len());
        let fixed = OVERHEAD_BYTES + len(&record.key) + moved;
        let value = len(&record.value);
        if fixed + value <= limit_bytes {
            return Ok(1);
        }
        let room = limit_bytes.saturating_sub(fixed);
        if room < OVERHEAD_BYTES {
            return Err(Error::halt(
                format!(
                    "a record's key of {} bytes leaves no room for its value in records of {limit_bytes} bytes",
                    len(&record.key)
                ),
                "raise message.max.bytes of the brokers and the topics, or exclude the table",
            ));
        }
        u32::try_from(value.div_ceil(room)).map_err(|_| {
            Error::halt(
                "a value needs too many pieces",
                "raise message.max.bytes of the brokers and the topics",
            )
        })
    }

    /// The value of piece `index` of `count`.
    pub fn piece(value: &Range<usize>, index: u32, count: u32) -> Range<usize> {
        let size = value.len().div_ceil(count as usize);
        let start = (value.start + size * index as usize).min(value.end);
        start..(start + size).min(value.end)
    }

    /// Hands records to the producer in order; false when it is full and some are left.
    ///
    /// # Errors
    /// As [`EpochProducer::send`].
    pub fn flush(&mut self, producer: &EpochProducer, batch: BatchId) -> Result<bool> {
        while let Some(record) = self.records.get(self.next) {
            match send(record, &self.bytes, producer, batch)? {
                Sent::Taken => self.next += 1,
                Sent::Full => return Ok(false),
            }
        }
        self.clear();
        Ok(true)
    }

    /// The oldest record not yet taken, with the memory its bytes lie in.
    pub fn records(&self) -> (&[Outgoing], &[u8]) {
        (&self.records, &self.bytes)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.records.clear();
        self.next = 0;
        self.bytes.clear();
        if self.bytes.capacity() > SCRATCH_MAX_BYTES {
            self.bytes.shrink_to(SCRATCH_MAX_BYTES);
        }
    }
}

fn send(record: &Outgoing, bytes: &[u8], producer: &EpochProducer, batch: BatchId) -> Result<Sent> {
    let slice = |range: &Range<usize>| &bytes[range.clone()];
    let (own, part);
    let mut headers: [Header<'_>; 3] = [("", &[]); 3];
    let mut count = 0;
    if let Some(header) = record.header {
        own = header.to_bytes();
        headers[count] = (RECORD_HEADER, &own);
        count += 1;
    }
    if let Some(header) = record.part {
        part = header.to_bytes();
        headers[count] = (PART_HEADER, &part);
        count += 1;
    }
    if let Some((name, range)) = &record.moved {
        headers[count] = (name, slice(range));
        count += 1;
    }
    producer.send(
        batch,
        record.slot,
        record.key.as_ref().map(slice),
        record.value.as_ref().map(slice),
        &headers[..count],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: usize, value: usize) -> Outgoing {
        Outgoing {
            slot: PartitionSlot(0),
            key: Some(0..key),
            value: Some(key..key + value),
            header: None,
            moved: None,
            part: None,
        }
    }

    #[test]
    fn a_large_value_is_cut_into_pieces_that_fit_and_lose_nothing() {
        for (key, value, limit) in [(10, 5000, 2048), (10, 1_000_000, 1500), (0, 4097, 4096)] {
            let record = record(key, value);
            let count = Outbox::pieces(&record, limit).expect("cut");
            assert!(count > 1);
            let range = record.value.expect("a value");
            let mut end = range.start;
            for index in 0..count {
                let piece = Outbox::piece(&range, index, count);
                assert_eq!(piece.start, end);
                assert!(piece.len() + key + OVERHEAD_BYTES <= limit && !piece.is_empty());
                end = piece.end;
            }
            assert_eq!(end, range.end);
        }
        assert_eq!(Outbox::pieces(&record(10, 100), 2048).expect("whole"), 1);
        assert!(Outbox::pieces(&record(3000, 100), 2048).is_err());
    }
}
