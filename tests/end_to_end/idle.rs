//! Brokers close connections on which nothing is said for long; that is no error.

use crate::support::kafka::Kafka;
use crate::support::{Pipeline, Postgres, assert_equal, wait_caught_up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_brokers_close_for_idleness_are_no_errors() {
    let kafka = Kafka::start_with("idle", &["connections.max.idle.ms=2000"]);
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'copied')")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    pipeline.use_kafka(&kafka.bootstrap);
    let walferry = pipeline.run();
    let (from, to) = (leader.client().await, follower.client().await);
    wait_caught_up(&from, &to, "a").await;
    // librdkafka's word for it when it was a client's only connection.
    walferry.says("AllBrokersDown").await;
    // The first record that the sink fetches, and a schema version that it has not read yet.
    follower.sql("ALTER TABLE t ADD w int").await;
    leader
        .sql("ALTER TABLE t ADD w int; INSERT INTO t VALUES (2, 'streamed', 7)")
        .await;
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["t"]).await;
    let output = walferry.output();
    let (_before, since) = output.split_once("AllBrokersDown").expect("said above");
    let said = since
        .lines()
        .find(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    assert_eq!(said, None);
    assert_eq!(walferry.terminate(), 0);
}
