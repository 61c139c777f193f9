//! Making and checking topics.
//!
//! Topics are made with explicit settings, never by a broker's defaults, and those that are there
//! are checked, never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::topic_partition_list::Offset;
use tokio::task::spawn_blocking;

use crate::config::{Durability, KafkaSettings};
use crate::error::{Error, NEW_PIPELINE, Result};
use crate::log::client::{QuietContext, client_config, refused};
use crate::log::kept::Kept;
use crate::log::partition::{ASK_TIMEOUT, QuietConsumer, consumer, drop_elsewhere};
use crate::log::topics::{RECORD_MAX_BYTES, Retention, TopicSpec, TopicState, Topics};

/// How long brokers may take to know a topic that was just made.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(10);
/// So much longer for each topic of those.
const PROPAGATION_EACH: Duration = Duration::from_millis(10);
const PROPAGATION_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// How long an answer is waited for: in steps, between which it is looked why none comes.
const ASK_STEPS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(13),
];
/// Brokers that are all down for so long are not waited for.
const ALL_DOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// More than a client has to tell after one step.
const EVENTS_MAX: usize = 1000;

/// `max.message.bytes` of topics: the largest record with its headers, and what batching adds.
const MESSAGE_MAX_BYTES: usize = RECORD_MAX_BYTES + 1024 * 1024;

/// Records of a controller's log that one request may need: well below what is refused.
const REQUEST_RECORDS: usize = 4_000;
/// Records of a topic without its partitions: the topic's own, and one a setting.
const TOPIC_RECORDS: usize = 16;

const MIN_INSYNC: &str = "min.insync.replicas";
const UNCLEAN: &str = "unclean.leader.election.enable";
const CLEANUP: &str = "cleanup.policy";
const RETENTION_MS: &str = "retention.ms";
const RETENTION_BYTES: &str = "retention.bytes";
const MESSAGE_MAX: &str = "max.message.bytes";

/// Settings of topics that matter.
const SETTINGS: [&str; 6] = [
    MIN_INSYNC,
    UNCLEAN,
    CLEANUP,
    RETENTION_MS,
    RETENTION_BYTES,
    MESSAGE_MAX,
];

impl TopicState {
    /// How long it keeps records; none: for ever, or not known.
    pub fn retention(&self) -> Option<Duration> {
        let millis = self.config.get(RETENTION_MS)?.parse().ok()?;
        Some(Duration::from_millis(millis))
    }
}

/// Administration of topics.
pub struct TopicAdmin {
    client: Arc<Kept<AdminClient<QuietContext>>>,
    /// Asks for metadata. The administration client would do, but nobody could hear why it fails:
    /// its events are not served.
    asker: Option<Arc<QuietConsumer>>,
    kafka: KafkaSettings,
}

impl TopicAdmin {
    /// Makes the client; connects lazily.
    ///
    /// # Errors
    /// Halt when librdkafka refuses the settings.
    pub fn open(kafka: &KafkaSettings) -> Result<Self> {
        // A connection that brokers close is told only in the log.
        let mut asking = client_config(kafka, &[("log.connection.close", "true")], &[]);
        asking.set_log_level(RDKafkaLogLevel::Info);
        let config = client_config(kafka, &[], &[]);
        let client = config
            .create_with_context(QuietContext::default())
            .map_err(|error| refused("Kafka client", error))?;
        Ok(TopicAdmin {
            client: Arc::new(Kept::new(client, &config)),
            asker: Some(Arc::new(consumer(&asking)?)),
            kafka: kafka.clone(),
        })
    }

    /// The cluster's id.
    ///
    /// # Errors
    /// Transient when Kafka does not answer in time.
    pub async fn cluster_id(&self) -> Result<String> {
        let asker = self.asker();
        let id = spawn_blocking(move || asker.client().fetch_cluster_id(ASK_TIMEOUT));
        id.await
            .map_err(|error| Error::transient("asking for the cluster's id").caused_by(error))?
            .ok_or_else(|| Error::transient("Kafka cannot be reached or does not answer"))
    }

    /// Which of the named topics exist. Needs no more than DESCRIBE on them.
    ///
    /// # Errors
    /// As [`TopicAdmin::describe`].
    pub async fn existing(&self, names: &[String]) -> Result<BTreeSet<String>> {
        let metadata = self.metadata().await?;
        let there = metadata.topics().iter().filter(|topic| is_there(topic));
        let named = there.filter(|topic| names.iter().any(|name| name == topic.name()));
        Ok(named.map(|topic| topic.name().to_owned()).collect())
    }

    /// State of the named topics that exist.
    ///
    /// # Errors
    /// Transient when Kafka does not answer in time; halt when it does not allow it.
    pub async fn describe(&self, names: &[String]) -> Result<BTreeMap<String, TopicState>> {
        let mut states = BTreeMap::new();
        for topic in self.metadata().await?.topics() {
            if !names.iter().any(|name| name == topic.name()) || !is_there(topic) {
                continue;
            }
            let replicas = |p: &rdkafka::metadata::MetadataPartition| p.replicas().len();
            let state = TopicState {
                partitions: small(topic.partitions().len()),
                config: BTreeMap::new(),
                replication: small(topic.partitions().iter().map(replicas).min().unwrap_or(0)),
            };
            states.insert(topic.name().to_owned(), state);
        }
        let known: Vec<String> = states.keys().cloned().collect();
        let asked: Vec<_> = known.iter().map(|n| ResourceSpecifier::Topic(n)).collect();
        for resource in self.configs(&asked).await? {
            let OwnedResourceSpecifier::Topic(name) = &resource.specifier else {
                continue;
            };
            if let Some(state) = states.get_mut(name) {
                state.config = entries(&resource);
                state
                    .config
                    .retain(|name, _| SETTINGS.contains(&name.as_str()));
            }
        }
        Ok(states)
    }

    /// The pipeline's topics with changes or rows, each with the numbers of its partitions.
    ///
    /// # Errors
    /// As [`TopicAdmin::existing`].
    pub async fn expiring(&self, topics: &Topics) -> Result<BTreeMap<String, Vec<i32>>> {
        let metadata = self.metadata().await?;
        let there = metadata.topics().iter().filter(|topic| is_there(topic));
        let expiring = there.filter(|topic| topics.expires(topic.name()));
        let numbered = expiring.map(|topic| {
            let numbers = topic.partitions().iter().map(|partition| partition.id());
            (topic.name().to_owned(), numbers.collect())
        });
        Ok(numbered.collect())
    }

    /// The shortest time that a topic of the pipeline with changes or rows keeps records. `None`: there is
    /// no such topic yet; `Some(None)`: all keep them for ever.
    ///
    /// # Errors
    /// As [`TopicAdmin::describe`]; DESCRIBE_CONFIGS is needed.
    pub async fn shortest_retention(&self, topics: &Topics) -> Result<Option<Option<Duration>>> {
        let names: Vec<String> = self.expiring(topics).await?.into_keys().collect();
        let states = self.describe(&names).await?;
        let any = !states.is_empty();
        Ok(any.then(|| states.values().filter_map(TopicState::retention).min()))
    }

    /// Creates those that are missing, with explicit settings, and checks the others.
    ///
    /// # Errors
    /// Halt when an existing topic would lose data (compacted table topic, replication or
    /// `min.insync.replicas` too low for the durability asked, unclean election on), would refuse
    /// large records, or has another number of partitions; transient when Kafka does not answer.
    pub async fn ensure(&self, specs: &[TopicSpec]) -> Result<()> {
        let names: Vec<String> = specs.iter().map(|spec| spec.name.clone()).collect();
        let mut states = self.describe(&names).await?;
        let missing: Vec<&TopicSpec> = specs
            .iter()
            .filter(|spec| !states.contains_key(&spec.name))
            .collect();
        if !missing.is_empty() {
            self.create(&missing).await?;
        }
        let begun = Instant::now();
        let made = u32::try_from(missing.len()).unwrap_or(u32::MAX);
        let enough = PROPAGATION_TIMEOUT + PROPAGATION_EACH * made;
        while let Some(unknown) = unknown_yet(specs, &states) {
            if begun.elapsed() > enough {
                return Err(Error::transient(format!(
                    "Kafka does not show topic {unknown} and its settings (a topic that is new, or DESCRIBE_CONFIGS not granted)"
                )));
            }
            tokio::time::sleep(PROPAGATION_CHECK_INTERVAL).await;
            states = self.describe(&names).await?;
        }
        for spec in specs {
            if let Some(state) = states.get(&spec.name) {
                fits(spec, state, &self.kafka)?;
            }
        }
        Ok(())
    }

    /// Broker settings by name (from any broker), for `walferry check`.
    ///
    /// # Errors
    /// As [`TopicAdmin::describe`].
    pub async fn broker_config(&self) -> Result<BTreeMap<String, String>> {
        let metadata = self.metadata().await?;
        let Some(broker) = metadata.brokers().first() else {
            return Err(Error::transient("Kafka names no live broker"));
        };
        let asked = [ResourceSpecifier::Broker(broker.id())];
        let resources = self.configs(&asked).await?;
        Ok(resources.iter().flat_map(entries).collect())
    }

    /// Number of live brokers.
    ///
    /// # Errors
    /// Transient when Kafka does not answer in time.
    pub async fn brokers(&self) -> Result<usize> {
        Ok(self.metadata().await?.brokers().len())
    }

    /// Removes the records below an offset of a partition: how the commit log is trimmed. Returns
    /// the oldest offset that is left.
    ///
    /// # Errors
    /// Transient.
    pub async fn trim(&self, topic: &str, partition: i32, below: i64) -> Result<i64> {
        let list = crate::log::partition::one_partition(topic, partition, below)?;
        let failed = || Error::transient(format!("trimming {topic} to offset {below}"));
        let answer = self.client.delete_records(&list, &options()).await;
        let answer = answer.map_err(|error| failed().caused_by(error))?;
        let mut low = below;
        for element in answer.elements() {
            element.error().map_err(|error| failed().caused_by(error))?;
            // DeleteRecords answers with the partition's new low watermark.
            if let Offset::Offset(offset) = element.offset() {
                low = offset;
            }
        }
        Ok(low)
    }

    /// Of all topics: asking for one by name would make it on brokers that create topics by themselves.
    async fn metadata(&self) -> Result<Metadata> {
        let asker = self.asker();
        spawn_blocking(move || ask_metadata(&asker))
            .await
            .map_err(|error| Error::transient("asking for topics").caused_by(error))?
    }

    fn asker(&self) -> Arc<QuietConsumer> {
        let asker = self.asker.as_ref();
        Arc::clone(asker.expect("the asker is there until drop"))
    }

    async fn configs(&self, of: &[ResourceSpecifier<'_>]) -> Result<Vec<ConfigResource>> {
        if of.is_empty() {
            return Ok(Vec::new());
        }
        let mut answer = self.client.describe_configs(of, &options()).await;
        if let Err(KafkaError::AdminOp(RDKafkaErrorCode::BrokerTransportFailure)) = answer {
            // Brokers close connections that are idle. Other questions librdkafka then asks again by itself.
            answer = self.client.describe_configs(of, &options()).await;
        }
        let resources = answer
            .map_err(|error| Error::transient("asking Kafka for settings").caused_by(error))?;
        resources
            .into_iter()
            .map(|resource| resource.map_err(|code| denied("reading settings", code)))
            .collect()
    }

    async fn create(&self, specs: &[&TopicSpec]) -> Result<()> {
        for specs in requests(specs) {
            self.create_at_once(specs).await?;
        }
        Ok(())
    }

    async fn create_at_once(&self, specs: &[&TopicSpec]) -> Result<()> {
        let settings: Vec<_> = specs.iter().map(|s| topic_config(s, &self.kafka)).collect();
        let topics: Vec<NewTopic<'_>> = specs
            .iter()
            .zip(&settings)
            .map(|(spec, settings)| {
                let replication = TopicReplication::Fixed(self.kafka.replication_factor);
                let topic = NewTopic::new(&spec.name, spec.partitions, replication);
                settings
                    .iter()
                    .fold(topic, |topic, (name, value)| topic.set(name, value))
            })
            .collect();
        let answer = self.client.create_topics(&topics, &options()).await;
        let results =
            answer.map_err(|error| Error::transient("making topics in Kafka").caused_by(error))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(denied(&format!("making topic {name}"), code)),
            }
        }
        Ok(())
    }
}

/// Cuts topics into requests that a controller takes: it refuses what needs more than 10,000 records of
/// its own log (`MAX_RECORDS_PER_USER_OP` in Kafka's QuorumController.java), one a topic, setting and
/// partition. A topic that is too large by itself has a request of its own.
fn requests<'a, 'b>(specs: &'a [&'b TopicSpec]) -> Vec<&'a [&'b TopicSpec]> {
    let (mut requests, mut rest) = (Vec::new(), specs);
    while !rest.is_empty() {
        let mut records = 0;
        let fits = rest.iter().take_while(|spec| {
            records += TOPIC_RECORDS + usize::try_from(spec.partitions).unwrap_or(0);
            records <= REQUEST_RECORDS
        });
        let (request, later) = rest.split_at(fits.count().max(1));
        requests.push(request);
        rest = later;
    }
    requests
}

impl Drop for TopicAdmin {
    fn drop(&mut self) {
        if let Some(asker) = self.asker.take() {
            drop_elsewhere(asker);
        }
    }
}

/// # Errors
/// Halt when every broker refuses login, certificate or TLS; transient when none answers in time.
fn ask_metadata(asker: &QuietConsumer) -> Result<Metadata> {
    let reports = asker.context().reports();
    reports.clear();
    let begun = Instant::now();
    let mut failed = None;
    for step in ASK_STEPS {
        match asker.fetch_metadata(None, step) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => failed = Some(error),
        }
        // A log line is an event too, and `poll` returns `None` for it as for an empty queue.
        for _event in 0..EVENTS_MAX {
            asker.poll(Duration::ZERO);
        }
        match reports.report() {
            Some(report)
                if reports.all_down()
                    && (report.needs_a_person() || begun.elapsed() > ALL_DOWN_TIMEOUT) =>
            {
                return Err(report.error());
            }
            Some(_) | None => {}
        }
    }
    let silent = Error::transient("Kafka cannot be reached or does not answer");
    Err(match (reports.report(), failed) {
        (Some(report), _) => report.transient(),
        (None, Some(failed)) => silent.caused_by(failed),
        (None, None) => silent,
    })
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ASK_TIMEOUT))
        .operation_timeout(Some(ASK_TIMEOUT))
}

/// A topic under deletion is listed with an error and no partitions.
fn is_there(topic: &MetadataTopic) -> bool {
    !topic.partitions().is_empty()
}

fn small(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn entries(resource: &ConfigResource) -> BTreeMap<String, String> {
    resource
        .entries
        .iter()
        .filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?)))
        .collect()
}

fn denied(what: &str, code: RDKafkaErrorCode) -> Error {
    let remedy = match code {
        RDKafkaErrorCode::InvalidReplicationFactor => {
            "start as many brokers as kafka.replication_factor asks for, or, for a trial, set \
             kafka.durability = \"single-broker\""
        }
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed => {
            "grant CREATE, DESCRIBE and DESCRIBE_CONFIGS on the pipeline's topics to walferry's Kafka user"
        }
        RDKafkaErrorCode::PolicyViolation => {
            "make the topic by hand as the cluster's policy wants it"
        }
        RDKafkaErrorCode::InvalidTopic => {
            "its name differs from another topic's only in `.` and `_`: choose another pipeline name"
        }
        other => {
            return Error::transient(format!("Kafka refuses: {what}: {other}"));
        }
    };
    Error::halt(format!("Kafka refuses: {what}: {code}"), remedy)
}

fn min_insync(kafka: &KafkaSettings) -> i64 {
    match kafka.durability {
        Durability::Replicated => 2,
        Durability::SingleBroker => 1,
    }
}

/// A topic that a broker asked did not know. Metadata and settings may come from two brokers, of which
/// one hears of a new topic later; its answer is then a topic without settings (the rdkafka crate
/// passes over the error that Kafka says beside it).
fn unknown_yet<'a>(
    specs: &'a [TopicSpec],
    states: &BTreeMap<String, TopicState>,
) -> Option<&'a str> {
    let shown = |name: &str| {
        states
            .get(name)
            .is_some_and(|state| !state.config.is_empty())
    };
    let mut names = specs.iter().map(|spec| spec.name.as_str());
    names.find(|name| !shown(name))
}

/// The explicit settings of a new topic.
fn topic_config(spec: &TopicSpec, kafka: &KafkaSettings) -> Vec<(&'static str, String)> {
    let (cleanup, retention_ms) = match spec.retention {
        Retention::Settings => ("delete", kafka.retention.as_millis().to_string()),
        Retention::Unlimited => ("delete", "-1".to_owned()),
        Retention::Compacted => ("compact", "-1".to_owned()),
    };
    vec![
        (MIN_INSYNC, min_insync(kafka).to_string()),
        (UNCLEAN, "false".to_owned()),
        (CLEANUP, cleanup.to_owned()),
        (RETENTION_MS, retention_ms),
        (RETENTION_BYTES, "-1".to_owned()),
        (MESSAGE_MAX, MESSAGE_MAX_BYTES.to_string()),
    ]
}

fn wrong(spec: &TopicSpec, what: String, remedy: String) -> Result<()> {
    Err(Error::halt(format!("topic {}: {what}", spec.name), remedy))
}

fn set(spec: &TopicSpec, name: &str, value: &str) -> String {
    format!("set {name}={value} on topic {}", spec.name)
}

/// Whether an existing topic keeps what walferry promises.
///
/// # Errors
/// Halt with topic, setting and remedy.
fn fits(spec: &TopicSpec, state: &TopicState, kafka: &KafkaSettings) -> Result<()> {
    let number = |name: &str| state.config.get(name).and_then(|v| v.parse::<i64>().ok());
    let text = |name: &str| state.config.get(name).map_or("", String::as_str);

    if state.partitions != spec.partitions {
        return wrong(
            spec,
            format!(
                "it has {} partitions and must have {}: keys would move between partitions",
                state.partitions, spec.partitions
            ),
            format!("set the source's partitions to what the topic has, or {NEW_PIPELINE}"),
        );
    }
    let cleanup = match spec.retention {
        Retention::Settings | Retention::Unlimited => "delete",
        Retention::Compacted => "compact",
    };
    if text(CLEANUP) != cleanup {
        return wrong(
            spec,
            format!("{CLEANUP}={} would lose records", text(CLEANUP)),
            set(spec, CLEANUP, cleanup),
        );
    }
    if spec.retention == Retention::Unlimited {
        for name in [RETENTION_MS, RETENTION_BYTES] {
            if number(name) != Some(-1) {
                let what = format!("{name}={} would lose what readers need", text(name));
                return wrong(spec, what, set(spec, name, "-1"));
            }
        }
    }
    let largest = i64::try_from(RECORD_MAX_BYTES).unwrap_or(i64::MAX);
    if number(MESSAGE_MAX).is_none_or(|bytes| bytes < largest) {
        return wrong(
            spec,
            format!(
                "{MESSAGE_MAX}={} would refuse large records",
                text(MESSAGE_MAX)
            ),
            set(spec, MESSAGE_MAX, &MESSAGE_MAX_BYTES.to_string()),
        );
    }
    match kafka.durability {
        Durability::SingleBroker => Ok(()),
        Durability::Replicated => survives_a_broker(spec, state, kafka),
    }
}

/// # Errors
/// Halt when the loss of a broker would lose acknowledged records.
fn survives_a_broker(spec: &TopicSpec, state: &TopicState, kafka: &KafkaSettings) -> Result<()> {
    let number = |name: &str| state.config.get(name).and_then(|v| v.parse::<i64>().ok());
    let text = |name: &str| state.config.get(name).map_or("", String::as_str);

    if state.replication < 3 {
        return wrong(spec,
            format!("{} replicas would lose data with a broker", state.replication),
            "reassign its partitions to at least 3 brokers, or, for a trial, set kafka.durability = \
             \"single-broker\""
                .to_owned(),
        );
    }
    let needed = min_insync(kafka);
    if number(MIN_INSYNC).is_none_or(|replicas| replicas < needed) {
        return wrong(
            spec,
            format!(
                "{MIN_INSYNC}={} would lose data with a broker",
                text(MIN_INSYNC)
            ),
            set(spec, MIN_INSYNC, &needed.to_string()),
        );
    }
    if text(UNCLEAN) != "false" {
        return wrong(
            spec,
            format!(
                "{UNCLEAN}={} would lose acknowledged records",
                text(UNCLEAN)
            ),
            set(spec, UNCLEAN, "false"),
        );
    }
    Ok(())
}

#[cfg(test)]
#[path = "topic_admin_tests.rs"]
mod tests;
