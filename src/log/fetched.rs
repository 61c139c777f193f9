//! Records of one partition, taken from librdkafka many at a time.
//!
//! Why not `PartitionQueue::poll`: it makes an event and a counted reference for each record, and looks at the clock
//! three times (`a_million_costs` in tests/log_kafka.rs).

use std::ffi::{CStr, CString};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{IsError, KafkaError, KafkaResult};
use rdkafka_sys as sys;

use super::client::QuietContext;

/// Most records taken at a time.
const TAKEN_MAX: usize = 128;

/// About how many bytes of records are taken at a time: what is taken is no longer counted as read ahead, and
/// librdkafka fetches more instead.
const TAKEN_BYTES: usize = 128 * 1024;

/// A partition's own queue in its consumer.
pub(super) struct Queue {
    native: NonNull<sys::rd_kafka_queue_t>,
    /// Taken and not yet handed on; the next one last.
    taken: Vec<Fetched>,
    /// Handed on.
    current: Option<Fetched>,
    /// How many are taken next.
    at_a_time: usize,
    /// Outlives the queue and its records.
    _consumer: Arc<BaseConsumer<QuietContext>>,
}

// SAFETY: librdkafka's queues have their own locks and may be used from any thread (INTRODUCTION.md, "Threads and
// callbacks"), and so may its messages, by one at a time.
unsafe impl Send for Queue {}
// SAFETY: nothing can be done with a shared one.
unsafe impl Sync for Queue {}

impl Queue {
    /// From now on nothing of the partition comes out of the consumer's main queue. `None`: librdkafka has no such
    /// partition.
    pub(super) fn split(
        consumer: &Arc<BaseConsumer<QuietContext>>,
        topic: &str,
        partition: i32,
    ) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        let client = consumer.client().native_ptr();
        // SAFETY: the client is alive, and librdkafka copies the name. A queue that is not null is ours to give back.
        let native =
            unsafe { sys::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition) };
        let native = NonNull::new(native)?;
        // SAFETY: the queue is alive; a null target ends the forwarding to the main queue.
        unsafe { sys::rd_kafka_queue_forward(native.as_ptr(), ptr::null_mut()) };
        Some(Queue {
            native,
            taken: Vec::with_capacity(TAKEN_MAX),
            current: None,
            at_a_time: 1,
            _consumer: Arc::clone(consumer),
        })
    }

    /// The next record; waits for it so long.
    pub(super) fn next(&mut self, wait: Duration) -> Option<KafkaResult<&Fetched>> {
        self.current = None;
        if self.taken.is_empty() {
            self.take(self.at_a_time, Duration::ZERO);
        }
        // For as many as are asked for librdkafka would wait until the end.
        if self.taken.is_empty() && !wait.is_zero() {
            self.take(1, wait);
        }
        let next = self.current.insert(self.taken.pop()?);
        Some(match next.error() {
            Some(error) => Err(error),
            None => Ok(next),
        })
    }

    fn take(&mut self, count: usize, wait: Duration) {
        let found = &mut [ptr::null_mut(); TAKEN_MAX][..count];
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        let queue = self.native.as_ptr();
        // SAFETY: the queue is alive, and the pointer and length are those of `found`.
        let taken = unsafe {
            sys::rd_kafka_consume_batch_queue(queue, wait, found.as_mut_ptr(), found.len())
        };
        let taken = found.iter().take(usize::try_from(taken).unwrap_or(0));
        // SAFETY (of `Fetched`): these pointers are messages that are ours.
        let taken = taken.rev().filter_map(|found| NonNull::new(*found));
        self.taken.extend(taken.map(Fetched));
        let bytes: usize = self.taken.iter().map(Fetched::size_bytes).sum();
        if let Some(mean_bytes) = bytes.checked_div(self.taken.len()) {
            self.at_a_time = (TAKEN_BYTES / mean_bytes.max(1)).clamp(1, TAKEN_MAX);
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.taken.clear();
        self.current = None;
        // SAFETY: it is given back once, and nothing of it is used any more.
        unsafe { sys::rd_kafka_queue_destroy(self.native.as_ptr()) };
    }
}

/// One record, or what librdkafka says instead.
pub(super) struct Fetched(NonNull<sys::rd_kafka_message_t>);

impl Fetched {
    fn message(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: the message is ours until it is dropped, and nobody changes it.
        unsafe { self.0.as_ref() }
    }

    fn error(&self) -> Option<KafkaError> {
        let code = self.message().err;
        code.is_error()
            .then(|| KafkaError::MessageConsumption(code.into()))
    }

    fn size_bytes(&self) -> usize {
        self.message().len + self.message().key_len
    }

    /// Its offset.
    pub(super) fn offset(&self) -> i64 {
        self.message().offset
    }

    /// Key bytes.
    pub(super) fn key(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: as `bytes` wants it: memory of the message.
        unsafe { bytes(message.key.cast(), message.key_len) }
    }

    /// Value bytes; none: a tombstone.
    pub(super) fn value(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: as `bytes` wants it: memory of the message.
        unsafe { bytes(message.payload.cast(), message.len) }
    }

    /// Names and values of its headers.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive; it keeps the list that it gives.
        let code = unsafe { sys::rd_kafka_message_headers(self.0.as_ptr(), &mut headers) };
        (0..)
            .take_while(move |_| !code.is_error())
            .map_while(move |index| {
                let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
                // SAFETY: the list is alive as long as the message, and so is what it points to: a C string, and
                // so many bytes or null.
                unsafe {
                    let code = sys::rd_kafka_header_get_all(
                        headers, index, &mut name, &mut value, &mut size,
                    );
                    (!code.is_error())
                        .then(|| (CStr::from_ptr(name).to_bytes(), bytes(value.cast(), size)))
                }
            })
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        // SAFETY: it is given back once.
        unsafe { sys::rd_kafka_message_destroy(self.0.as_ptr()) };
    }
}

/// # Safety
/// `from` is null, or the begin of so many bytes that stay as they are for as long as the slice is used.
unsafe fn bytes<'a>(from: *const u8, count: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's.
    (!from.is_null()).then(|| unsafe { std::slice::from_raw_parts(from, count) })
}
