//! librdkafka's own produce call: handles of topics looked up once, headers passed as they are. What
//! is kept a partition is here too, found by the same number.
//!
//! Why not `BaseProducer::send`: see the comment at the call.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::raw::c_void;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rdkafka::client::ClientContext;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka_sys as sys;
use sys::rd_kafka_vtype_t as Tag;

use super::acks::lock;
use super::turns::{Pace, Record, Turn};
use super::{HEADERS_MAX, PartitionSlot};
use crate::log::header::{
    COPY_HEADER, NEW_KEY_HEADER, OLD_KEY_HEADER, PART_HEADER, RECORD_HEADER, TRACE_HEADER,
};

/// Whether librdkafka took a record.
pub(super) enum Produced {
    /// It did.
    Taken,
    /// It did not.
    Refused(RDKafkaErrorCode),
}

/// Topic, partition, flags, opaque, key, value.
const FIXED_ARGUMENTS: usize = 6;

struct Handle(*mut sys::rd_kafka_topic_t);

// SAFETY: librdkafka's topic handles are reference-counted with their own locks and may be used from
// any thread (INTRODUCTION.md, "Threads and callbacks": the API is fully thread-safe).
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

struct Client(*mut sys::rd_kafka_t);

/// What there is one of for each [`Pace`]: clients, and their handles of a topic.
type ByPace<T> = [T; Pace::COUNT];

// SAFETY: a client may be used from any thread, as its handles may.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

struct Slot {
    topic: usize,
    partition: i32,
    is_log: bool,
    turn: Mutex<Turn>,
}

#[derive(Default)]
pub(super) struct Registry {
    clients: Option<ByPace<Client>>,
    names: Vec<String>,
    handles: Vec<ByPace<Handle>>,
    slots: Vec<Slot>,
    by_name: HashMap<String, HashMap<i32, PartitionSlot>>,
}

/// Topics and partitions of one producer, by number.
#[derive(Default)]
pub(super) struct TopicHandles(RwLock<Registry>);

impl TopicHandles {
    /// Topics and partitions as they are; while it is held, handles stay alive.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Registry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Registry> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn slot(
        &self,
        clients: ByPace<&rdkafka::client::Client<impl ClientContext>>,
        (topic, partition): (&str, i32),
        is_log: bool,
    ) -> PartitionSlot {
        let known = |registry: &Registry| {
            let partitions = registry.by_name.get(topic)?;
            partitions.get(&partition).copied()
        };
        if let Some(slot) = known(&self.read()) {
            return slot;
        }
        let mut registry = self.write();
        if let Some(slot) = known(&registry) {
            return slot;
        }
        let at = match registry.names.iter().position(|name| name == topic) {
            Some(at) => at,
            None => {
                registry.clients = Some(clients.map(|client| Client(client.native_ptr())));
                registry
                    .handles
                    .push(clients.map(|client| topic_handle(client, topic)));
                registry.names.push(topic.to_owned());
                registry.names.len() - 1
            }
        };
        let number = u32::try_from(registry.slots.len()).expect("fewer than 2^32 partitions");
        let slot = PartitionSlot(number);
        registry.slots.push(Slot {
            topic: at,
            partition,
            is_log,
            turn: Mutex::default(),
        });
        let partitions = registry.by_name.entry(topic.to_owned()).or_default();
        partitions.insert(partition, slot);
        slot
    }

    pub(super) fn name(&self, slot: PartitionSlot) -> (String, i32) {
        let registry = self.read();
        registry.name(slot)
    }

    /// Gives the handles back; nothing may be produced any more.
    pub(super) fn release(&self) {
        for Handle(handle) in self.write().handles.drain(..).flatten() {
            // SAFETY: the handle came from `rd_kafka_topic_new` and is given back once.
            unsafe { sys::rd_kafka_topic_destroy(handle) };
        }
    }
}

impl Registry {
    /// Topic and partition of a slot.
    pub(super) fn name(&self, slot: PartitionSlot) -> (String, i32) {
        let Slot {
            topic, partition, ..
        } = self.slots[slot.0 as usize];
        (self.names[topic].clone(), partition)
    }

    /// Whether it is the commit log.
    pub(super) fn is_log(&self, slot: PartitionSlot) -> bool {
        self.slots[slot.0 as usize].is_log
    }

    /// What waits for a partition.
    pub(super) fn turn(&self, slot: PartitionSlot) -> MutexGuard<'_, Turn> {
        lock(&self.slots[slot.0 as usize].turn)
    }

    /// Hands one record to librdkafka, which copies it.
    ///
    /// # Panics
    /// When the handles have been given back.
    pub(super) fn produce(&self, slot: PartitionSlot, pace: Pace, record: &Record<'_>) -> Produced {
        let Slot {
            topic, partition, ..
        } = self.slots[slot.0 as usize];
        let Some(clients) = &self.clients else {
            unreachable!("a slot has a topic, and a topic is made with the clients");
        };
        let Client(client) = clients[pace as usize];
        let Handle(handle) = self.handles[topic][pace as usize];
        let mut arguments =
            [argument(Tag::RD_KAFKA_VTYPE_END, |u| u.i = 0); FIXED_ARGUMENTS + HEADERS_MAX];
        let fixed = [
            argument(Tag::RD_KAFKA_VTYPE_RKT, |u| u.rkt = handle),
            argument(Tag::RD_KAFKA_VTYPE_PARTITION, |u| u.i32_ = partition),
            argument(Tag::RD_KAFKA_VTYPE_MSGFLAGS, |u| {
                u.i = sys::RD_KAFKA_MSG_F_COPY
            }),
            argument(Tag::RD_KAFKA_VTYPE_OPAQUE, |u| {
                u.ptr = record.opaque as *mut c_void
            }),
            argument(Tag::RD_KAFKA_VTYPE_KEY, |u| u.mem = memory(record.key)),
            argument(Tag::RD_KAFKA_VTYPE_VALUE, |u| u.mem = memory(record.value)),
        ];
        arguments[..FIXED_ARGUMENTS].copy_from_slice(&fixed);
        for ((name, bytes), place) in record.headers.iter().zip(&mut arguments[FIXED_ARGUMENTS..]) {
            let header = sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 {
                name: header_name(name).as_ptr(),
                val: bytes.as_ptr().cast(),
                size: isize::try_from(bytes.len()).expect("a slice is shorter than isize::MAX"),
            };
            *place = argument(Tag::RD_KAFKA_VTYPE_HEADER, |u| u.header = header);
        }
        // SAFETY: every pointer in `arguments` outlives the call, and librdkafka copies what they
        // point to (F_COPY for key and value, always for headers); the topic handle is alive until
        // `release`. What it buys over `BaseProducer::send`, which makes a C string of the topic's
        // name and of each header's for every record: 0.25 instead of 0.6 µs of the sending thread
        // (`handing_over_costs` in tests/log_kafka.rs).
        let error = unsafe {
            sys::rd_kafka_produceva(
                client,
                arguments.as_ptr(),
                FIXED_ARGUMENTS + record.headers.len(),
            )
        };
        if error.is_null() {
            return Produced::Taken;
        }
        // SAFETY: a non-null error is ours to read and to destroy, once.
        let code = unsafe {
            let code = sys::rd_kafka_error_code(error);
            sys::rd_kafka_error_destroy(error);
            code
        };
        Produced::Refused(code.into())
    }
}

fn topic_handle(client: &rdkafka::client::Client<impl ClientContext>, topic: &str) -> Handle {
    let name = CString::new(topic).expect("topic names have no NUL");
    // SAFETY: the client is alive, the name is a C string that librdkafka copies, and a null
    // configuration stands for the client's default.
    let handle =
        unsafe { sys::rd_kafka_topic_new(client.native_ptr(), name.as_ptr(), ptr::null_mut()) };
    assert!(!handle.is_null(), "librdkafka refuses topic name {topic:?}");
    Handle(handle)
}

fn argument(
    tag: Tag,
    set: impl FnOnce(&mut sys::rd_kafka_vu_s__bindgen_ty_1),
) -> sys::rd_kafka_vu_t {
    let mut u = sys::rd_kafka_vu_s__bindgen_ty_1 {
        ptr: ptr::null_mut(),
    };
    set(&mut u);
    sys::rd_kafka_vu_t { vtype: tag, u }
}

fn memory(bytes: Option<&[u8]>) -> sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
    // Null stands for "none": a tombstone. An empty slice has a dangling pointer that is not null.
    let (ptr, size) = bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()));
    sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
        ptr: ptr.cast_mut().cast(),
        size,
    }
}

/// The names of the headers that records have, as C strings.
///
/// # Panics
/// When the name is none of `header`'s constants.
fn header_name(name: &str) -> &'static CStr {
    match name {
        RECORD_HEADER => c"walferry",
        COPY_HEADER => c"walferry.copy",
        PART_HEADER => c"walferry.part",
        NEW_KEY_HEADER => c"__debezium.newkey",
        OLD_KEY_HEADER => c"__debezium.oldkey",
        TRACE_HEADER => c"traceparent",
        other => panic!("no record has a header {other:?}"),
    }
}
