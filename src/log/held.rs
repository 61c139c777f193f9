//! Which offsets Kafka still holds of a pipeline's changes and rows: their topics' watermarks.

use std::collections::BTreeMap;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::Offset;
use tokio::task::spawn_blocking;

use crate::config::KafkaSettings;
use crate::error::{Error, Result};
use crate::log::offsets::{self, Place};
use crate::log::partition::{QuietConsumer, consumer, consumer_config, watermarks};
use crate::log::topics::{TopicAdmin, Topics};

/// Low or high watermarks by topic and partition.
pub type Watermarks = BTreeMap<String, BTreeMap<i32, i64>>;

/// The watermark of a partition; of one that is not there 0, as if it were empty.
pub fn watermark(of: &Watermarks, topic: &str, partition: i32) -> i64 {
    let found = of.get(topic).and_then(|of| of.get(&partition));
    found.copied().unwrap_or(0)
}

/// Which end of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The oldest record that is still there.
    Low,
    /// Where the next record will be.
    High,
}

/// One watermark of every partition of the pipeline's table and copy topics, asked now. Topics that are
/// not there are left out.
///
/// # Errors
/// Transient when Kafka does not answer in time; halt when it refuses.
pub async fn watermarks_of(kafka: &KafkaSettings, topics: &Topics, end: End) -> Result<Watermarks> {
    let there = TopicAdmin::open(kafka)?.expiring(topics).await?;
    let kafka = kafka.clone();
    let asked = spawn_blocking(move || {
        let client = consumer(&consumer_config(&kafka, &[]))?;
        ask(&client, &there, end)
    });
    asked
        .await
        .map_err(|error| Error::transient("asking for watermarks").caused_by(error))?
}

fn ask(client: &QuietConsumer, there: &BTreeMap<String, Vec<i32>>, end: End) -> Result<Watermarks> {
    let partitions = there
        .iter()
        .flat_map(|(topic, numbers)| numbers.iter().map(move |number| (topic.as_str(), *number)));
    let places: Vec<Place<'_>> = partitions.collect();
    let mut found = Watermarks::new();
    if places.is_empty() {
        return Ok(found);
    }
    let which = match end {
        End::Low => Offset::Beginning,
        End::High => Offset::End,
    };
    let told = offsets::ask(client.client(), &places, which);
    for (topic, partition) in places {
        let offset = match told.of((topic, partition)) {
            Some(offset) => offset,
            None => {
                let (low, high) = watermarks(client, topic, partition)?;
                match end {
                    End::Low => low,
                    End::High => high,
                }
            }
        };
        found
            .entry(topic.to_owned())
            .or_default()
            .insert(partition, offset);
    }
    Ok(found)
}
