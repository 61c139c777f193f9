use std::time::Duration;

use super::*;
use crate::config::Durability;

/// Nothing listens there: what librdkafka is handed stays with it.
fn nowhere() -> KafkaSettings {
    KafkaSettings {
        brokers: "127.0.0.1:1".to_owned(),
        durability: Durability::SingleBroker,
        replication_factor: 1,
        retention: Duration::from_secs(60),
        properties: BTreeMap::new(),
    }
}

/// A backlog in librdkafka takes a core for as long as a broker stands still (`turns`).
#[test]
fn librdkafka_has_one_burst_of_each_partition_and_the_rest_waits_here() {
    const RECORDS: usize = 10_000;
    let value = vec![1_u8; 1000];
    let producer = EpochProducer::open(&nowhere(), 64 << 20).expect("producer");
    let slots = [
        producer.partition_slot("t", 0),
        producer.partition_slot("t", 1),
        producer.log_slot("commits"),
    ];
    let batch = producer.open_batch();
    for sent in 1..=RECORDS {
        for &slot in &slots {
            let taken = producer.send(batch, slot, None, Some(&value), &[]);
            assert_eq!(taken.expect("sent"), Sent::Taken);
        }
        if sent % 100 == 0 {
            producer.push();
        }
        let clients = producer.clients().iter();
        let handed: usize = clients
            .map(|client| usize::try_from(client.in_flight_count()).expect("not negative"))
            .sum();
        let bound = slots.len() * (turns::BURST_MAX_BYTES / value.len());
        assert!(handed <= bound, "{handed} records after {sent}");
        assert!(handed > 0 || sent < 100, "nothing after {sent}");
    }
    assert_eq!(
        producer.unacknowledged_bytes(),
        RECORDS * slots.len() * value.len()
    );
}
