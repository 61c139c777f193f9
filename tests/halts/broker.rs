//! What somebody does to topics behind walferry's back.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::support::{DEADLINE, kafka, until};

/// The settings of a client of the run's Kafka.
fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka());
    config
}

/// A client that administers the run's Kafka.
fn admin() -> AdminClient<DefaultClientContext> {
    client().create().unwrap()
}

/// Deletes a topic, and waits until no broker knows it.
pub async fn delete(topic: &str) {
    let deleted = admin().delete_topics(&[topic], &AdminOptions::new()).await;
    deleted.unwrap().remove(0).unwrap();
    until(&format!("{topic} is gone"), || async {
        let consumer: BaseConsumer = client().create().unwrap();
        let all = consumer.fetch_metadata(None, DEADLINE).unwrap();
        let known = all.topics().iter().any(|known| known.name() == topic);
        (!known)
            .then_some(())
            .ok_or_else(|| "it is there".to_owned())
    })
    .await;
}

/// Deletes a topic of one partition and makes an empty one of its name.
pub async fn make_anew(topic: &str) {
    delete(topic).await;
    until(&format!("{topic} is made"), || async {
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        let new = ["retention.ms", "max.message.bytes"]
            .into_iter()
            .zip(["-1", "5242880"])
            .fold(new, |new, (name, value)| new.set(name, value));
        let made = admin().create_topics(&[new], &AdminOptions::new()).await;
        let made = made.map_err(|error| error.to_string())?.remove(0);
        made.map(drop).map_err(|(_, code)| code.to_string())
    })
    .await;
}

/// The oldest and the next offset of a topic's only partition.
pub fn watermarks(topic: &str) -> (i64, i64) {
    let consumer: BaseConsumer = client().create().unwrap();
    consumer.fetch_watermarks(topic, 0, DEADLINE).unwrap()
}

/// Removes all records that a topic of one partition has now, as retention does.
pub async fn expire(topic: &str) {
    let (_low, high) = watermarks(topic);
    let mut below = TopicPartitionList::new();
    below
        .add_partition_offset(topic, 0, Offset::Offset(high))
        .unwrap();
    let removed = admin().delete_records(&below, &AdminOptions::new()).await;
    removed.unwrap();
    assert_eq!(watermarks(topic), (high, high), "{topic}");
}

/// Takes all but the first records from a topic of one partition: it is made anew with those.
pub async fn lose_end(topic: &str, kept: i64) {
    let (low, high) = watermarks(topic);
    assert!(low == 0 && kept < high, "{topic}: {low} to {high}");
    let consumer: BaseConsumer = client().set("group.id", "halts").create().unwrap();
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(topic, 0, Offset::Beginning)
        .unwrap();
    consumer.assign(&all).unwrap();
    let mut values = Vec::new();
    for _offset in 0..kept {
        let message = consumer.poll(DEADLINE).expect("a record").unwrap();
        values.push(message.payload().unwrap().to_vec());
    }
    make_anew(topic).await;
    send(topic, &values);
    assert_eq!(watermarks(topic), (0, kept), "{topic}");
}

/// Writes records to a topic of one partition.
pub fn send(topic: &str, values: &[Vec<u8>]) {
    let producer: BaseProducer = client().create().unwrap();
    for value in values {
        let record = BaseRecord::<(), _>::to(topic).payload(value);
        producer.send(record).unwrap();
    }
    producer.flush(DEADLINE).unwrap();
}
