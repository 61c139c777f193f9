//! Questions for offsets: of one partition, and of many at once.
//!
//! librdkafka looks up where a topic's leaders are when an application names the topic, for each anew
//! (`rd_kafka_topic_new`, which asks for all that it does not know yet), and for partitions of an
//! assignment once a second (`rd_kafka_topic_scan_all`). With many topics that is a burst of large
//! questions, or a second's wait for each. A question for offsets asks for all leaders at once, and the
//! client keeps them (`rd_kafka_topic_partition_list_query_leaders`, 2.12).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;
use rdkafka_sys as sys;

use super::partition::{ASK_TIMEOUT, PROPAGATION_TIMEOUT};

/// Time between two questions for a partition that has no leader yet.
const LEADER_INTERVAL: Duration = Duration::from_millis(50);

/// A topic and a number.
pub(crate) type Place<'a> = (&'a str, i32);

/// Offsets by topic and partition.
#[derive(Debug, Default)]
pub(crate) struct Offsets(HashMap<String, HashMap<i32, i64>>);

impl Offsets {
    /// That of one partition, if Kafka told it.
    pub(crate) fn of(&self, (topic, partition): Place<'_>) -> Option<i64> {
        self.0.get(topic)?.get(&partition).copied()
    }
}

/// The first offset of a partition that Kafka has, and the one behind its last; asked again while that may pass
/// by itself: a topic made a moment ago has no leader yet; one of a broker that stood still and is fenced for
/// seconds has none either, and librdkafka says then that it does not know the partition; no broker is there.
/// Blocking.
///
/// # Errors
/// librdkafka's, of the last question within [`ASK_TIMEOUT`].
pub(crate) fn watermarks(
    client: &Client<impl ClientContext>,
    topic: &str,
    partition: i32,
) -> KafkaResult<(i64, i64)> {
    let by = Instant::now() + ASK_TIMEOUT;
    loop {
        match client.fetch_watermarks(topic, partition, ASK_TIMEOUT) {
            Err(error) if passes(&error) && Instant::now() < by => {
                std::thread::sleep(LEADER_INTERVAL);
            }
            told => return told,
        }
    }
}

fn passes(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
        )
    )
}

/// The first or the last offset (`Offset::Beginning`, `Offset::End`) of each partition. Those that Kafka does
/// not tell in time are left out: what is wrong with one is told by a question for it alone. Blocking.
pub(crate) fn ask(
    client: &Client<impl ClientContext>,
    places: &[Place<'_>],
    which: Offset,
) -> Offsets {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for &(topic, partition) in places {
        if list.add_partition_offset(topic, partition, which).is_err() {
            return Offsets::default();
        }
    }
    let timeout = i32::try_from(TIMEOUT.as_millis()).expect("a few seconds");
    // SAFETY: client and list are alive during the call; librdkafka writes offsets and errors into the list's
    // own elements (rdkafka.h, `rd_kafka_offsets_for_times`), and answers an empty list with an error.
    let code = unsafe { sys::rd_kafka_offsets_for_times(client.native_ptr(), list.ptr(), timeout) };
    let mut found = Offsets::default();
    if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return found;
    }
    for one in list.elements() {
        if let (Ok(()), Offset::Offset(offset)) = (one.error(), one.offset()) {
            let topic = found.0.entry(one.topic().to_owned()).or_default();
            topic.insert(one.partition(), offset);
        }
    }
    found
}

/// A topic made a moment ago may have no leader that long.
const TIMEOUT: Duration = PROPAGATION_TIMEOUT;
