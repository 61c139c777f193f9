//! Clients that are helped when they have lost every broker.
//!
//! A cluster can name no broker at all for a moment: its only one stood still for longer than its session, was
//! fenced, and answers before it is back. librdkafka (2.10 to 2.15, where this was looked for) gives up all brokers
//! that an answer does not name, and is to begin anew from `bootstrap.servers` when all it knows are down. But it
//! counts those by a counter that a race at the client's start can leave wrong for good: such a client says "no
//! usable brokers" for ever (to be seen with `debug=broker,metadata`), sends nothing, reads nothing and reports no
//! error.
//!
//! An answer without brokers names no controller either, which is how such a client is known.

use std::ffi::CString;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::producer::{Producer, ProducerContext, ThreadedProducer};
use rdkafka_sys as sys;

/// How often clients are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// After so many looks it is helped each time that so many more have passed.
const LOOKS_AT_MOST: u32 = 32;

/// A client that is looked after for as long as it lives.
pub(crate) struct Kept<T> {
    // Dropped first: nobody looks at a client that is closing.
    _place: Place,
    client: Arc<T>,
}

impl<T: Native> Kept<T> {
    /// `config` is what the client was made with.
    pub(crate) fn new(client: T, config: &ClientConfig) -> Self {
        Kept {
            _place: Place::of(
                client.native(),
                config.get("bootstrap.servers").unwrap_or_default(),
            ),
            client: Arc::new(client),
        }
    }
}

impl<T> Kept<T> {
    /// The client, for parts of it that keep it alive; it is looked after no longer than this.
    pub(crate) fn shared(&self) -> &Arc<T> {
        &self.client
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.client
    }
}

/// What has a librdkafka client, which lives in one place until it is dropped.
pub(crate) trait Native {
    fn native(&self) -> *mut sys::rd_kafka_t;
}

impl<C: ConsumerContext> Native for BaseConsumer<C> {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }
}

impl<C: ProducerContext + 'static> Native for ThreadedProducer<C> {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }
}

impl<C: ClientContext> Native for AdminClient<C> {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.inner().native_ptr()
    }
}

/// A client among those looked after.
struct Looked {
    number: u64,
    client: *mut sys::rd_kafka_t,
    brokers: CString,
    /// Looks on end at which it knew no controller.
    without: u32,
}

// SAFETY: librdkafka's clients may be used from any thread (INTRODUCTION.md, "Threads and callbacks").
unsafe impl Send for Looked {}

impl Looked {
    fn look(&mut self) {
        // SAFETY: the client is alive: its `Kept` takes it from the list before it closes it. With no time to wait
        // the call only reads what the client knows.
        let controller = unsafe { sys::rd_kafka_controllerid(self.client, 0) };
        if controller != -1 {
            self.without = 0;
            return;
        }
        self.without += 1;
        if !is_helped(self.without) {
            return;
        }
        // SAFETY: as above; the string is copied. Addresses that the client has already are left as they are.
        let added = unsafe { sys::rd_kafka_brokers_add(self.client, self.brokers.as_ptr()) };
        if added > 0 {
            tracing::info!(
                "Kafka client: had lost all brokers, begins anew from the configured ones"
            );
        }
    }
}

/// Whether a client is helped at this of the looks on end at which it knew no controller. Not at the first: a client
/// just made has asked nobody yet. Seldom in the end: each help costs a few bytes.
fn is_helped(without: u32) -> bool {
    without > 1 && (without.is_power_of_two() || without.is_multiple_of(LOOKS_AT_MOST))
}

#[derive(Default)]
struct Clients {
    next: u64,
    looked_after: Vec<Looked>,
}

static CLIENTS: Mutex<Clients> = Mutex::new(Clients {
    next: 0,
    looked_after: Vec::new(),
});

fn clients() -> MutexGuard<'static, Clients> {
    CLIENTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client's place in the list; dropping it takes it out.
struct Place(u64);

impl Place {
    fn of(client: *mut sys::rd_kafka_t, brokers: &str) -> Place {
        static LOOKING: Once = Once::new();
        LOOKING.call_once(|| {
            let looking = std::thread::Builder::new()
                .name("walferry-kafka-clients".to_owned())
                .spawn(look_after);
            if let Err(error) = looking {
                tracing::warn!(%error, "no thread to look after Kafka clients");
            }
        });
        let mut clients = clients();
        let number = clients.next;
        clients.next += 1;
        clients.looked_after.push(Looked {
            number,
            client,
            brokers: CString::new(brokers).unwrap_or_default(),
            without: 0,
        });
        Place(number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        clients()
            .looked_after
            .retain(|looked| looked.number != self.0);
    }
}

fn look_after() {
    loop {
        std::thread::sleep(LOOK_EVERY);
        for client in &mut clients().looked_after {
            client.look();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_comes_soon_and_then_ever_more_seldom() {
        let helped: Vec<u32> = (1..130).filter(|&looks| is_helped(looks)).collect();
        assert_eq!(helped, [2, 4, 8, 16, 32, 64, 96, 128]);
    }
}
