use super::*;
use crate::error::Class;

fn kafka(durability: Durability) -> KafkaSettings {
    KafkaSettings {
        brokers: String::new(),
        durability,
        replication_factor: 3,
        retention: Duration::from_secs(60),
        properties: BTreeMap::new(),
    }
}

fn spec(retention: Retention) -> TopicSpec {
    TopicSpec {
        name: "p.s.t".to_owned(),
        partitions: 2,
        retention,
    }
}

fn as_made(retention: Retention, kafka: &KafkaSettings) -> TopicState {
    TopicState {
        partitions: 2,
        replication: 3,
        config: topic_config(&spec(retention), kafka)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

#[test]
fn a_topic_without_settings_is_one_that_a_broker_does_not_know_yet() {
    let (specs, kafka) = ([spec(Retention::Settings)], kafka(Durability::Replicated));
    let mut states = BTreeMap::new();
    assert_eq!(unknown_yet(&specs, &states), Some("p.s.t"));
    let mut state = as_made(Retention::Settings, &kafka);
    let settings = std::mem::take(&mut state.config);
    states.insert("p.s.t".to_owned(), state);
    assert_eq!(unknown_yet(&specs, &states), Some("p.s.t"));
    states.get_mut("p.s.t").unwrap().config = settings;
    assert_eq!(unknown_yet(&specs, &states), None);
}

#[test]
fn what_is_made_fits() {
    for durability in [Durability::Replicated, Durability::SingleBroker] {
        let kafka = kafka(durability);
        for retention in [
            Retention::Settings,
            Retention::Unlimited,
            Retention::Compacted,
        ] {
            fits(&spec(retention), &as_made(retention, &kafka), &kafka).expect("fits");
        }
    }
}

#[test]
fn each_setting_that_would_lose_data_is_refused() {
    let kafka = kafka(Durability::Replicated);
    for (name, value, retention) in [
        (MIN_INSYNC, "1", Retention::Settings),
        (UNCLEAN, "true", Retention::Settings),
        (CLEANUP, "compact", Retention::Settings),
        (CLEANUP, "compact,delete", Retention::Settings),
        (CLEANUP, "compact", Retention::Unlimited),
        (RETENTION_MS, "60000", Retention::Unlimited),
        (RETENTION_BYTES, "1000000", Retention::Unlimited),
        (CLEANUP, "delete", Retention::Compacted),
        (MESSAGE_MAX, "1048588", Retention::Settings),
    ] {
        let mut state = as_made(retention, &kafka);
        state.config.insert(name.to_owned(), value.to_owned());
        let error = fits(&spec(retention), &state, &kafka).expect_err(name);
        assert_eq!(error.class(), Class::Halt);
        assert!(error.what().contains(&format!("{name}={value}")), "{error}");
        assert!(error.remedy().is_some_and(|r| r.contains(name)), "{error}");
    }
    let mut state = as_made(Retention::Settings, &kafka);
    state.replication = 2;
    assert!(fits(&spec(Retention::Settings), &state, &kafka).is_err());
    state.replication = 3;
    state.partitions = 1;
    assert!(fits(&spec(Retention::Settings), &state, &kafka).is_err());
}

#[test]
fn topics_are_made_in_requests_that_a_controller_takes() {
    let of = |partitions: &[i32]| {
        let specs: Vec<TopicSpec> = partitions
            .iter()
            .map(|&partitions| TopicSpec {
                partitions,
                ..spec(Retention::Settings)
            })
            .collect();
        let specs: Vec<&TopicSpec> = specs.iter().collect();
        let requests = requests(&specs);
        assert_eq!(requests.concat(), specs, "each topic once, in order");
        requests.iter().map(|r| r.len()).collect::<Vec<_>>()
    };
    assert!(of(&[]).is_empty());
    assert_eq!(of(&[1; 10]), [10]);
    assert_eq!(of(&[1; 1_000])[..2], [235, 235]);
    assert_eq!(of(&[1, 50_000, 1]), [1, 1, 1]);
}
