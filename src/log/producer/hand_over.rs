//! Records on their way to librdkafka: collected a partition, handed over in its turn (`turns`).

use std::sync::Mutex;
use std::time::Instant;

use super::PartitionSlot;
use super::acks::{self, Acks, lock};
use super::native::{Produced, Registry, TopicHandles};
use super::turns::{Burst, Load, Record, Turn};

/// Memory of bursts kept for the next ones.
const SPARE_BURSTS: usize = 4;

/// Shared by senders and the thread that receives delivery reports.
pub(super) struct HandOver {
    pub(super) topics: TopicHandles,
    pub(super) acks: Acks,
    /// Partitions that got records since the last push.
    unpushed: Mutex<Vec<PartitionSlot>>,
    load: Mutex<Load>,
    spare: Mutex<Vec<Burst>>,
}

impl HandOver {
    pub(super) fn new() -> Self {
        HandOver {
            topics: TopicHandles::default(),
            acks: Acks::new(),
            unpushed: Mutex::default(),
            load: Mutex::new(Load::new(Instant::now())),
            spare: Mutex::default(),
        }
    }

    /// Takes a record that `acks` has counted.
    pub(super) fn send(&self, slot: PartitionSlot, record: &Record<'_>) {
        self.step(&self.topics.read(), slot, |turn| {
            if turn.add(record, || lock(&self.spare).pop().unwrap_or_default()) {
                lock(&self.unpushed).push(slot);
            }
        });
    }

    /// Whatever was sent so far goes when it is its partition's turn, however little it is.
    pub(super) fn push(&self) {
        let unpushed = std::mem::take(&mut *lock(&self.unpushed));
        let registry = self.topics.read();
        for slot in unpushed {
            self.step(&registry, slot, Turn::push);
        }
    }

    /// Kafka has acknowledged a record.
    pub(super) fn acknowledged(&self, slot: PartitionSlot) {
        self.step(&self.topics.read(), slot, Turn::acknowledged);
    }

    /// Something happens to a partition; then the burst whose turn it is, if any, is handed over.
    fn step(&self, registry: &Registry, slot: PartitionSlot, happens: impl FnOnce(&mut Turn)) {
        let next = {
            let mut turn = registry.turn(slot);
            happens(&mut turn);
            turn.next()
        };
        // Looked at while the registry is held: handles are given back only when the epoch is over.
        if let Some(burst) = next.filter(|_| !self.acks.is_over()) {
            self.hand_over(registry, slot, burst);
        }
    }

    /// The turn is not locked meanwhile: nothing else of the partition is handed over until all of
    /// this is acknowledged.
    fn hand_over(&self, registry: &Registry, slot: PartitionSlot, burst: Burst) {
        let is_log = registry.is_log(slot);
        let pace = lock(&self.load).pace(&burst, is_log, Instant::now());
        burst.for_each(|record| match registry.produce(slot, pace, record) {
            Produced::Taken => true,
            Produced::Refused(code) => {
                let error = acks::delivery_error(code, &registry.name(slot), record.payload_len());
                self.acks.fail(&error);
                false
            }
        });
        let mut spare = lock(&self.spare);
        if spare.len() < SPARE_BURSTS {
            spare.push(burst.cleared());
        }
    }
}
