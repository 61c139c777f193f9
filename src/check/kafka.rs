//! Kafka: reachable, enough brokers, and no setting that would lose or cut what is sent.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{LeaderFacts, Part, Verdict, failure, pass, warning};
use crate::config::values::print_size;
use crate::config::{Durability, KafkaSettings, Settings, SourceSettings};
use crate::error::Result;
use crate::log::topics::{TopicAdmin, TopicState, Topics};

/// Brokers that take less than this make walferry cut most larger values into many parts.
const SMALL_MESSAGE_BYTES: u64 = 512 << 10;

/// What may happen to the records of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    /// Deleted after a time.
    ForATime,
    /// Never deleted.
    ForEver,
    /// Only the newest of each key is wanted.
    Newest,
}

pub(super) async fn look(settings: &Settings, facts: &LeaderFacts, part: &mut Part<'_>) {
    if let Err(error) = look_at_all(settings, facts, part).await {
        let remedy = "start the brokers, or correct kafka.brokers and [kafka.properties]";
        part.add("connection", Verdict::failed(&error, remedy));
    }
}

async fn look_at_all(settings: &Settings, facts: &LeaderFacts, part: &mut Part<'_>) -> Result<()> {
    let kafka = &settings.kafka;
    let admin = TopicAdmin::open(kafka)?;
    let brokers = admin.brokers().await?;
    let cluster = admin.cluster_id().await?;
    part.add("connection", pass(format!("cluster {cluster}")));
    part.add("brokers", judge_brokers(brokers, kafka));
    part.add("durability", judge_durability(kafka));
    let config = admin.broker_config().await?;
    let value = |name: &str| config.get(name).map(String::as_str);
    part.add(
        "auto.create.topics.enable",
        judge_auto_create(value("auto.create.topics.enable")),
    );
    part.add(
        "message.max.bytes",
        judge_message_size(value("message.max.bytes")),
    );
    let topics = Topics::new(settings.pipeline.as_str());
    let mut expected = vec![
        (topics.commits(), Keeps::ForEver),
        (topics.schemas(), Keeps::ForEver),
        (topics.progress(), Keeps::Newest),
    ];
    for schema in &facts.tables {
        expected.push((topics.table(&schema.table), Keeps::ForATime));
        expected.push((topics.copy(&schema.table), Keeps::ForATime));
    }
    let names: Vec<String> = expected.iter().map(|(name, _)| name.clone()).collect();
    let found = admin.describe(&names).await?;
    judge_topics(&expected, &found, kafka, part);
    let kept = expected
        .iter()
        .filter(|(_, keeps)| *keeps == Keeps::ForATime);
    let kept = kept
        .filter_map(|(name, _)| found.get(name)?.retention())
        .min();
    if let Some(verdict) = settings
        .source
        .as_ref()
        .and_then(|source| judge_copies(source, kept))
    {
        part.add("copy.every", verdict);
    }
    Ok(())
}

fn judge_brokers(brokers: usize, kafka: &KafkaSettings) -> Verdict {
    let wanted = usize::try_from(kafka.replication_factor).unwrap_or(usize::MAX);
    if brokers >= wanted {
        return pass(format!("{brokers} for replication factor {wanted}"));
    }
    failure(
        format!("{brokers} for replication factor {wanted}"),
        "start more brokers; or, where losing a broker may lose data, set kafka.durability = \"single-broker\"",
    )
}

fn judge_durability(kafka: &KafkaSettings) -> Verdict {
    match kafka.durability {
        Durability::Replicated => {
            pass("replicated: acknowledged changes survive the loss of a broker")
        }
        Durability::SingleBroker => warning(
            "single-broker: what the broker loses is lost",
            "use \"replicated\" with three brokers wherever the data matters",
        ),
    }
}

fn judge_auto_create(value: Option<&str>) -> Verdict {
    match value {
        Some("false") => pass("false"),
        Some("true") => warning(
            "true: a topic that was deleted by mistake comes back empty with the broker's defaults",
            "set auto.create.topics.enable=false on the brokers; walferry makes its topics itself",
        ),
        Some(_) | None => pass("not told by the broker"),
    }
}

fn judge_message_size(value: Option<&str>) -> Verdict {
    match value.and_then(|text| text.parse::<u64>().ok()) {
        Some(bytes) if bytes < SMALL_MESSAGE_BYTES => warning(
            format!("{}: larger values travel in many parts", print_size(bytes)),
            "raise message.max.bytes on the brokers to 1 MiB or more",
        ),
        Some(bytes) => pass(format!(
            "{}; larger values travel in parts",
            print_size(bytes)
        )),
        None => pass("not told by the broker"),
    }
}

/// Whether copies last until the next one is complete, where they are made by the clock.
fn judge_copies(source: &SourceSettings, shortest: Option<Duration>) -> Option<Verdict> {
    let every = humantime::format_duration(source.copy_every?);
    if source.copies_last(shortest) {
        return Some(pass(format!("{every}: there is a usable copy at any time")));
    }
    let shortest = humantime::format_duration(shortest?);
    Some(failure(
        format!(
            "{every}, and topics keep records for {shortest}: a copy may expire before the next one is complete"
        ),
        "raise retention.ms of the pipeline's table topics and copy topics to twice copy.every, or lower copy.every",
    ))
}

fn judge_topics(
    expected: &[(String, Keeps)],
    found: &BTreeMap<String, TopicState>,
    kafka: &KafkaSettings,
    part: &mut Part<'_>,
) {
    let mut well = 0;
    for (name, keeps) in expected {
        let Some(state) = found.get(name) else {
            continue;
        };
        let problems = topic_problems(state, *keeps, kafka);
        if problems.is_empty() {
            well += 1;
        }
        for (found, remedy) in problems {
            part.add(&format!("topic {name}"), failure(found, remedy));
        }
    }
    let missing = expected.len()
        - expected
            .iter()
            .filter(|(name, _)| found.contains_key(name))
            .count();
    part.add(
        "topics",
        pass(format!(
            "{well} are well, {missing} will be created when needed"
        )),
    );
}

/// What stands against a topic, with remedies.
fn topic_problems(
    state: &TopicState,
    keeps: Keeps,
    kafka: &KafkaSettings,
) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    let value = |name: &str| state.config.get(name).map(String::as_str);
    let mut set = |found: String, setting: &str| {
        problems.push((
            found,
            format!("set {setting} on the topic with kafka-configs.sh"),
        ));
    };
    let policy = value("cleanup.policy").unwrap_or("delete");
    match keeps {
        Keeps::ForATime | Keeps::ForEver if policy.contains("compact") => set(
            format!("cleanup.policy={policy}: records that followers need would be removed"),
            "cleanup.policy=delete",
        ),
        Keeps::Newest if policy != "compact" => set(
            format!(
                "cleanup.policy={policy}: the newest record of each sink would be removed in time"
            ),
            "cleanup.policy=compact",
        ),
        Keeps::ForATime | Keeps::ForEver | Keeps::Newest => {}
    }
    if keeps == Keeps::ForEver {
        for name in ["retention.ms", "retention.bytes"] {
            if let Some(limit) = value(name).filter(|limit| *limit != "-1") {
                set(
                    format!("{name}={limit}: entries that readers need would be deleted"),
                    &format!("{name}=-1"),
                );
            }
        }
    }
    if kafka.durability == Durability::Replicated {
        let in_sync = value("min.insync.replicas")
            .and_then(|v| v.parse().ok())
            .unwrap_or(1);
        if in_sync < 2 {
            set(
                format!(
                    "min.insync.replicas={in_sync}: an acknowledged change may be on one broker only"
                ),
                "min.insync.replicas=2",
            );
        }
        if value("unclean.leader.election.enable") == Some("true") {
            set(
                "unclean.leader.election.enable=true: a broker that missed changes may take over"
                    .to_owned(),
                "unclean.leader.election.enable=false",
            );
        }
        if state.replication < 3 {
            problems.push((
                format!("replication factor {}: too few copies", state.replication),
                "raise it to 3 with kafka-reassign-partitions.sh".to_owned(),
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn kafka(durability: Durability, replication_factor: i32) -> KafkaSettings {
        KafkaSettings {
            brokers: "k:9092".to_owned(),
            durability,
            replication_factor,
            retention: Duration::from_secs(86_400),
            properties: BTreeMap::new(),
        }
    }

    fn topic(replication: i32, config: &[(&str, &str)]) -> TopicState {
        TopicState {
            partitions: 1,
            replication,
            config: config
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn too_few_brokers_are_refused() {
        let three = kafka(Durability::Replicated, 3);
        assert!(matches!(judge_brokers(1, &three), Verdict::Failure(..)));
        assert!(matches!(judge_brokers(3, &three), Verdict::Pass(_)));
    }

    #[test]
    fn topics_that_would_lose_records_are_refused() {
        let replicated = kafka(Durability::Replicated, 3);
        let good = [("min.insync.replicas", "2"), ("retention.ms", "-1")];
        assert_eq!(
            topic_problems(&topic(3, &good), Keeps::ForEver, &replicated),
            []
        );
        for (config, keeps, part) in [
            (
                &[("cleanup.policy", "compact")][..],
                Keeps::ForATime,
                "cleanup.policy",
            ),
            (
                &[("cleanup.policy", "delete")],
                Keeps::Newest,
                "cleanup.policy",
            ),
            (
                &[("retention.ms", "604800000")],
                Keeps::ForEver,
                "retention.ms",
            ),
            (
                &[("min.insync.replicas", "1")],
                Keeps::ForATime,
                "min.insync.replicas",
            ),
            (
                &[("unclean.leader.election.enable", "true")],
                Keeps::ForATime,
                "unclean",
            ),
            (&[], Keeps::ForATime, "replication factor"),
        ] {
            let problems = topic_problems(&topic(1, config), keeps, &replicated);
            assert!(
                problems.iter().any(|(found, _)| found.contains(part)),
                "{part}: {problems:?}"
            );
        }
        let single = kafka(Durability::SingleBroker, 1);
        assert_eq!(topic_problems(&topic(1, &[]), Keeps::ForATime, &single), []);
    }

    #[test]
    fn broker_settings_are_judged() {
        assert!(matches!(
            judge_auto_create(Some("true")),
            Verdict::Warning(..)
        ));
        assert!(matches!(judge_auto_create(Some("false")), Verdict::Pass(_)));
        assert!(matches!(
            judge_message_size(Some("1048588")),
            Verdict::Pass(_)
        ));
        assert!(matches!(
            judge_message_size(Some("1000")),
            Verdict::Warning(..)
        ));
    }
}
