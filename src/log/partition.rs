//! A blocking reader of one partition, from an offset on: what the log's tail, the schemas and the
//! sinks' progress are read with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::Offset;
use rdkafka::{ClientConfig, Message, TopicPartitionList};

use crate::config::KafkaSettings;
use crate::error::{COPY_ANEW, Error, NEW_PIPELINE, Result};
use crate::log::client::{QuietContext, client_config, refused};
use crate::log::kept::Kept;
use crate::log::offsets;

/// How long a question to the broker may take.
pub(crate) const ASK_TIMEOUT: Duration = Duration::from_secs(20);

/// How long brokers may take to be there again before it is said that they are not.
const BACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a topic that brokers do not know may be one that they do not know yet.
pub(crate) const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the broker keeps a request for records that are not there yet, where nothing is asked
/// meanwhile.
pub(crate) const FETCH_WAIT: Duration = Duration::from_millis(500);

/// How often a thread that waits for records looks whether it is to stop.
pub(crate) const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) type QuietConsumer = Kept<BaseConsumer<QuietContext>>;

/// What the consumers of records and of the log have in common.
pub(crate) fn consumer_config(kafka: &KafkaSettings, own: &[(&str, &str)]) -> ClientConfig {
    let mut defaults = vec![
        // librdkafka assigns partitions only to members of a group; nothing is committed to it.
        ("group.id", "walferry"),
        ("fetch.error.backoff.ms", "50"),
        ("fetch.queue.backoff.ms", "2"),
        ("check.crcs", "true"),
    ];
    defaults.extend_from_slice(own);
    let fixed = [
        ("auto.offset.reset", "error"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        // walferry's own rules say what counts; nothing in its topics is transactional.
        ("isolation.level", "read_uncommitted"),
        ("enable.partition.eof", "false"),
        ("allow.auto.create.topics", "false"),
    ];
    client_config(kafka, &defaults, &fixed)
}

/// Makes a consumer.
///
/// # Errors
/// Halt when librdkafka refuses the settings.
pub(crate) fn consumer(config: &ClientConfig) -> Result<QuietConsumer> {
    let consumer = config
        .create_with_context(QuietContext::default())
        .map_err(|error| refused("Kafka consumer", error))?;
    Ok(Kept::new(consumer, config))
}

/// Closing a consumer waits for its threads; that must not happen on a thread that drives tasks.
pub(crate) fn drop_elsewhere(consumer: Arc<QuietConsumer>) {
    if Arc::strong_count(&consumer) > 1 {
        // Its reading thread holds it, and closes it when it ends.
        return;
    }
    let closing = std::thread::Builder::new()
        .name("walferry-consumer-close".to_owned())
        .spawn(move || drop(consumer));
    if let Err(error) = closing {
        tracing::warn!(%error, "no thread to close a Kafka consumer: closed in place");
    }
}

/// A reader of one partition.
pub(crate) struct PartitionReader {
    consumer: Arc<QuietConsumer>,
    topic: String,
    partition: i32,
}

impl PartitionReader {
    /// Makes a reader; nothing is read before [`PartitionReader::start`] or
    /// [`PartitionReader::read_to_end`]. The broker keeps a request for records for `wait` when there
    /// are none: for so long a question waits that is asked while the partition is read.
    ///
    /// # Errors
    /// Halt when librdkafka refuses the settings.
    pub(crate) fn open(
        kafka: &KafkaSettings,
        topic: &str,
        partition: i32,
        wait: Duration,
    ) -> Result<Self> {
        let config = consumer_config(
            kafka,
            &[
                ("fetch.wait.max.ms", &wait.as_millis().to_string()),
                ("queued.min.messages", "10000"),
                ("queued.max.messages.kbytes", "8192"),
            ],
        );
        Ok(PartitionReader {
            consumer: Arc::new(consumer(&config)?),
            topic: topic.to_owned(),
            partition,
        })
    }

    /// The consumer, for questions while another thread reads.
    pub(crate) fn consumer(&self) -> Arc<QuietConsumer> {
        Arc::clone(&self.consumer)
    }

    /// Low and high watermark, asked from the broker now.
    ///
    /// # Errors
    /// As [`watermarks`].
    pub(crate) fn watermarks(&self) -> Result<(i64, i64)> {
        watermarks(&self.consumer, &self.topic, self.partition)
    }

    /// Begins to read at an offset.
    ///
    /// # Errors
    /// Transient.
    pub(crate) fn start(&self, offset: i64) -> Result<()> {
        let list = one_partition(&self.topic, self.partition, offset)?;
        self.consumer
            .assign(&list)
            .map_err(|error| Error::transient(format!("reading {}", self.topic)).caused_by(error))
    }

    /// The next record, if one comes in time.
    ///
    /// # Errors
    /// As [`read_error`].
    pub(crate) fn poll(&self, timeout: Duration) -> Result<Option<BorrowedMessage<'_>>> {
        self.told(self.consumer.poll(timeout))
    }

    /// What a poll gave.
    fn told<'a>(
        &self,
        polled: Option<std::result::Result<BorrowedMessage<'a>, KafkaError>>,
    ) -> Result<Option<BorrowedMessage<'a>>> {
        match polled {
            Some(Ok(message)) => Ok(Some(message)),
            Some(Err(error)) => {
                match read_error(&self.consumer, &self.topic, self.partition, &error) {
                    Some(error) => Err(error),
                    None => Ok(None),
                }
            }
            None => Ok(None),
        }
    }

    /// Hands every record from `from` (none: the oldest one) to the high watermark, asked now, to
    /// `take`; returns that watermark. Nothing is read before and after: requests for records would hold
    /// the question up.
    ///
    /// # Errors
    /// As [`PartitionReader::poll`]; transient when the records do not come in time.
    pub(crate) fn read_to_end(
        &self,
        from: Option<i64>,
        mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<()>,
    ) -> Result<i64> {
        forget_events(&self.consumer);
        let (low, high) = self.watermarks()?;
        let mut next = from.unwrap_or(low);
        if next >= high {
            return Ok(high);
        }
        self.start(next)?;
        let mut heard = Instant::now();
        while next < high {
            let polled = self.consumer.poll(STOP_CHECK_INTERVAL);
            // That no broker is there is waited for as long as records are: librdkafka goes on once one is.
            match self.told(polled.filter(|polled| !is_all_down(polled)))? {
                Some(message) => {
                    take(&message)?;
                    next = message.offset() + 1;
                    heard = Instant::now();
                }
                // A compacted topic may end in a gap: then the position says that nothing is left.
                None if self.position().is_some_and(|at| at >= high) => break,
                None if heard.elapsed() > ASK_TIMEOUT => {
                    return Err(Error::transient(format!(
                        "Kafka does not send the records of {} up to offset {high}",
                        self.topic
                    )));
                }
                None => {}
            }
        }
        let stopped = self.consumer.unassign();
        stopped.map_err(|error| {
            Error::transient(format!("reading {}", self.topic)).caused_by(error)
        })?;
        Ok(high)
    }

    fn position(&self) -> Option<i64> {
        let list = self.consumer.position().ok()?;
        match list.find_partition(&self.topic, self.partition)?.offset() {
            Offset::Offset(at) => Some(at),
            Offset::Beginning
            | Offset::End
            | Offset::Stored
            | Offset::Invalid
            | Offset::OffsetTail(_) => None,
        }
    }
}

fn is_all_down(polled: &std::result::Result<BorrowedMessage<'_>, KafkaError>) -> bool {
    let code = polled
        .as_ref()
        .err()
        .and_then(KafkaError::rdkafka_error_code);
    code == Some(RDKafkaErrorCode::AllBrokersDown)
}

pub(crate) fn one_partition(
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, partition, Offset::Offset(offset))
        .map_err(|error| {
            Error::transient(format!("offset {offset} of {topic} {partition}")).caused_by(error)
        })?;
    Ok(list)
}

/// Low and high watermark of a partition, asked from the broker now. Blocking.
///
/// # Errors
/// Transient when Kafka does not answer in time; halt when the topic or partition is not there.
pub(crate) fn watermarks(
    consumer: &QuietConsumer,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64)> {
    must_exist(consumer, topic, partition)?;
    offsets::watermarks(consumer.client(), topic, partition).map_err(|error| {
        Error::transient(format!(
            "Kafka does not tell the watermarks of {topic} {partition}"
        ))
        .caused_by(error)
    })
}

/// # Errors
/// Halt when the brokers do not know the topic or the partition, transient when they do not answer.
fn must_exist(consumer: &QuietConsumer, topic: &str, partition: i32) -> Result<()> {
    let begun = Instant::now();
    loop {
        let metadata = consumer
            .fetch_metadata(Some(topic), ASK_TIMEOUT)
            .map_err(|error| {
                Error::transient("Kafka cannot be reached or does not answer").caused_by(error)
            })?;
        let found = metadata
            .topics()
            .iter()
            .any(|found| found.partitions().iter().any(|p| p.id() == partition));
        if found {
            return Ok(());
        }
        // A topic made a moment ago may not be known to this broker yet.
        if begun.elapsed() > PROPAGATION_TIMEOUT {
            return Err(Error::halt(
                format!("topic {topic} (partition {partition}) is not there"),
                NEW_PIPELINE,
            ));
        }
        std::thread::sleep(STOP_CHECK_INTERVAL);
    }
}

/// Forgets what a consumer has to say that reads nothing: brokers close connections that are idle
/// (`connections.max.idle.ms`), and librdkafka says that all brokers are down then.
pub(crate) fn forget_events(consumer: &QuietConsumer) {
    while let Some(event) = consumer.poll(Duration::ZERO) {
        if let Err(error) = event {
            tracing::debug!(%error, "Kafka consumer, while it read nothing");
        }
    }
}

/// What an error of a consumer means; `None`: it passes by itself and reading goes on.
pub(crate) fn read_error(
    consumer: &QuietConsumer,
    topic: &str,
    partition: i32,
    error: &KafkaError,
) -> Option<Error> {
    let place = || format!("reading {topic} {partition}");
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
            Some(out_of_range(consumer, topic, partition))
        }
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition,
        ) => Some(match must_exist(consumer, topic, partition) {
            Err(error) => error,
            Ok(()) => Error::transient(place()).caused_by(error.clone()),
        }),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Some(
            Error::halt(
                format!("Kafka does not let walferry read topic {topic}"),
                "grant READ and DESCRIBE on the pipeline's topics to walferry's Kafka user",
            )
            .caused_by(error.clone()),
        ),
        // A connection lost for a moment, to the only broker or to the last one that was left, is no reason to
        // begin anew.
        Some(RDKafkaErrorCode::AllBrokersDown)
            if consumer
                .fetch_metadata((partition >= 0).then_some(topic), BACK_TIMEOUT)
                .is_ok() =>
        {
            tracing::debug!(topic, partition, "all brokers were gone for a moment");
            None
        }
        Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::Fatal) => {
            Some(Error::transient(place()).caused_by(error.clone()))
        }
        // librdkafka would try for ever: say it, and let the next session ask whether others answer.
        Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) => {
            let report = consumer.context().reports().report();
            Some(report.map_or_else(
                || Error::transient(place()).caused_by(error.clone()),
                |report| report.transient(),
            ))
        }
        // Lost connections, elections, throttling: librdkafka goes on by itself.
        Some(_) | None => {
            tracing::debug!(topic, partition, %error, "Kafka consumer");
            None
        }
    }
}

fn out_of_range(consumer: &QuietConsumer, topic: &str, partition: i32) -> Error {
    let range = consumer
        .fetch_watermarks(topic, partition, ASK_TIMEOUT)
        .map_or_else(
            |_unreachable| "unknown".to_owned(),
            |(low, high)| format!("{low} to {high}"),
        );
    Error::halt(
        format!(
            "the wanted offset of {topic} {partition} is outside of what Kafka has ({range}): retention \
             has passed records that were still needed, or the topic was made anew"
        ),
        COPY_ANEW,
    )
}
