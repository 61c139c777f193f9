//! Kafka that wants TLS and a login. One test, so that it takes one broker.

use std::process::Output;

use tokio_postgres::Client;

use crate::support::{
    Pipeline, Postgres, SecuredKafka, Walferry, assert_equal, until, wait_caught_up,
};

const USER: &str = "walferry";
const PASSWORD: &str = "Right-horse-77";
const WRONG: &str = "Wrong-horse-78";
const SECRETS: [&str; 2] = [PASSWORD, WRONG];

struct Servers {
    kafka: SecuredKafka,
    leader: Postgres,
    follower: Postgres,
}

/// Properties of librdkafka that do not fit, what is said of them, and a part of the remedy.
struct Refusal {
    properties: Vec<(&'static str, &'static str)>,
    what: &'static str,
    remedy: &'static str,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secured_kafka_replicates_and_what_it_refuses_is_said_without_secrets() {
    let servers = Servers {
        kafka: SecuredKafka::start(USER, PASSWORD),
        leader: Postgres::start("leader"),
        follower: Postgres::start("follower"),
    };
    servers
        .leader
        .sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0, 'copied')")
        .await;
    let pipeline = Pipeline::new(&servers.leader, &[&servers.follower]);
    servers.check_names_each_refusal(&pipeline);
    servers.run_names_each_refusal(&pipeline).await;
    let (from, to) = (
        servers.leader.client().await,
        servers.follower.client().await,
    );
    let walferry = servers.replicates(&pipeline, &from, &to).await;
    servers
        .a_password_that_ends_is_said(&pipeline, walferry)
        .await;
}

impl Servers {
    fn properties(
        &self,
        mechanism: &'static str,
        password: &'static str,
    ) -> Vec<(&'static str, &'static str)> {
        vec![
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", mechanism),
            ("sasl.username", USER),
            ("sasl.password", password),
        ]
    }

    fn settle(&self, pipeline: &Pipeline, properties: &[(&str, &str)]) {
        let authority = self.kafka.authority();
        let mut all = vec![("ssl.ca.location", authority.as_str())];
        all.retain(|(name, _)| !properties.iter().any(|(other, _)| other == name));
        all.extend_from_slice(properties);
        pipeline.write("config/walferry.toml", &self.kafka.settings(pipeline, &all));
    }

    fn refusals(&self) -> [Refusal; 4] {
        let mut strange = self.properties("PLAIN", PASSWORD);
        // Any authority but the broker's own.
        strange.push((
            "ssl.ca.location",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/strange-ca.pem"),
        ));
        let refusal = |properties, what, remedy| Refusal {
            properties,
            what,
            remedy,
        };
        let login = |mechanism| {
            let properties = self.properties(mechanism, WRONG);
            refusal(properties, "refuses the login", "sasl.password")
        };
        let plain = vec![("security.protocol", "PLAINTEXT")];
        let untrusted = "shows a certificate that is not trusted";
        [
            login("SCRAM-SHA-512"),
            login("PLAIN"),
            refusal(strange, untrusted, "ssl.ca.location"),
            refusal(plain, "closes the connection", "security.protocol"),
        ]
    }

    fn check_names_each_refusal(&self, pipeline: &Pipeline) {
        for refusal in self.refusals() {
            self.settle(pipeline, &refusal.properties);
            let what = refusal.what;
            let output = pipeline.command(&["check"]).output().unwrap();
            let text = told(&output);
            assert_eq!(output.status.code(), Some(3), "{text}");
            let failed: Vec<&str> = text.lines().filter(|l| l.contains("FAILED")).collect();
            let [line] = failed[..] else {
                panic!("one error is wanted for {what}:\n{text}");
            };
            for needle in [what, &self.kafka.address, "remedy: ", refusal.remedy] {
                assert!(line.contains(needle), "{needle} is not in: {line}");
            }
        }
    }

    async fn run_names_each_refusal(&self, pipeline: &Pipeline) {
        // One that halts and one that is tried again.
        let [halts, .., retries] = self.refusals();
        for refusal in [halts, retries] {
            self.settle(pipeline, &refusal.properties);
            let walferry = pipeline.run();
            said_by_all_parts(pipeline, refusal.what, refusal.remedy).await;
            ended(walferry, refusal.what);
        }
    }

    /// With each mechanism in turn; returns the last process.
    async fn replicates(&self, pipeline: &Pipeline, from: &Client, to: &Client) -> Walferry {
        let mut running: Option<Walferry> = None;
        for (id, mechanism) in ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"]
            .into_iter()
            .enumerate()
        {
            if let Some(before) = running.take() {
                assert_eq!(before.terminate(), 0);
            }
            self.settle(pipeline, &self.properties(mechanism, PASSWORD));
            let output = pipeline.command(&["check"]).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", told(&output));
            let walferry = pipeline.run();
            let insert = format!("INSERT INTO t VALUES ({}, '{mechanism}')", id + 1);
            from.batch_execute(&insert).await.unwrap();
            wait_caught_up(from, to, "a").await;
            assert_equal(from, to, &["public.t"]).await;
            free_of_secrets(&walferry.output());
            running = Some(walferry);
        }
        running.expect("three were started")
    }

    /// The broker forgets the password while walferry runs: its connections end, and it cannot come back.
    async fn a_password_that_ends_is_said(&self, pipeline: &Pipeline, walferry: Walferry) {
        self.kafka.change_password(USER, WRONG);
        said_by_all_parts(pipeline, "refuses the login", "sasl.password").await;
        ended(walferry, "refuses the login");
    }
}

/// Waits until `walferry status` shows the reason and the remedy for the source and for the sink.
async fn said_by_all_parts(pipeline: &Pipeline, what: &str, remedy: &str) {
    until(&format!("every part says: {what}"), || async {
        let output = pipeline.command(&["status", "--json"]).output().unwrap();
        let text = told(&output);
        let status: serde_json::Value =
            serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {text}"))?;
        let parts = [&status["source"], &status["sinks"][0]];
        let says = |part: &serde_json::Value| {
            let error = &part["last_error"];
            let has = |key: &str, text| error[key].as_str().is_some_and(|t| t.contains(text));
            has("what", what) && has("remedy", remedy)
        };
        if parts.into_iter().all(says) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    told(&pipeline.command(&["status"]).output().unwrap());
}

/// Stops walferry; its log must have said the reason.
fn ended(walferry: Walferry, what: &str) {
    let log = walferry.log.clone();
    walferry.terminate();
    let log = std::fs::read_to_string(log).unwrap();
    free_of_secrets(&log);
    assert!(log.contains(what), "{what} is not in:\n{log}");
}

/// Everything that a command printed.
fn told(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    free_of_secrets(&text);
    text
}

fn free_of_secrets(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} was printed:\n{text}");
    }
}
