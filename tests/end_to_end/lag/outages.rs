//! Lag while nobody can say how far the leader is: without a source, without Kafka.

use super::witness::Witness;
use super::{leader, pause, write_row};
use crate::support::kafka::Kafka;
use crate::support::{Pipeline, Postgres, assert_equal, wait_caught_up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_source_zero_is_unknown_and_what_is_missing_stays_known() {
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let elsewhere = pipeline.twin();
    let (from, to) = (leader.client().await, follower.client().await);
    let source = pipeline.run_only(&["leader"]);
    let sink = elsewhere.run_only(&["a"]);
    wait_caught_up(&from, &to, "a").await;
    let mut witness = Witness::new(&elsewhere, "a", &leader, &follower);
    witness
        .until("a sink elsewhere is at zero", |now| now.is_zero())
        .await;

    // It hangs: the leader writes on, and nobody tells the sink.
    source.signal("STOP");
    witness.silence();
    write_row(&from).await;
    witness
        .until("with a source that hangs lag is unknown", |now| {
            now.is_unknown()
        })
        .await;
    witness
        .rises("staleness with a source that hangs", 3.0, |now| {
            now.staleness
        })
        .await;
    witness.silence_ends();
    source.signal("CONT");
    wait_caught_up(&from, &to, "a").await;
    witness
        .until("lag is known and zero again", |now| now.is_zero())
        .await;

    // It is stopped while the follower is known to miss a row.
    let locker = pause(&follower).await;
    write_row(&from).await;
    witness
        .until("the row is known to be missing", |now| {
            now.seconds > Some(0.0)
        })
        .await;
    assert_eq!(source.terminate(), 0);
    witness.silence();
    witness
        .until("without a source bytes are unknown", |now| {
            now.bytes.is_none()
        })
        .await;
    witness
        .rises("lag in seconds without a source", 3.0, |now| now.seconds)
        .await;
    witness.silence_ends();
    let source = pipeline.run_only(&["leader"]);
    witness
        .until("lag is known with the next source", |now| {
            now.bytes > Some(0.0) && now.seconds > Some(3.0)
        })
        .await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    wait_caught_up(&from, &to, "a").await;
    witness
        .until("the follower has drained", |now| now.is_zero())
        .await;
    for walferry in [source, sink] {
        assert_eq!(walferry.terminate(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_kafka_lag_is_unknown_until_it_is_back() {
    let mut kafka = Kafka::start("stopped");
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    let pipeline = Pipeline::new(&leader, &[&follower]);
    pipeline.use_kafka(&kafka.bootstrap);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    // A commit that the follower has: while the log cannot be read, staleness counts from it.
    write_row(&from).await;
    wait_caught_up(&from, &to, "a").await;
    let mut witness = Witness::new(&pipeline, "a", &leader, &follower);
    witness
        .until("an idle leader is a lag of zero", |now| now.is_zero())
        .await;

    kafka.kill();
    witness.silence();
    write_row(&from).await;
    witness
        .until("without Kafka lag is unknown", |now| now.is_unknown())
        .await;
    let first = witness
        .until("staleness is there without Kafka", |now| {
            now.staleness.is_some()
        })
        .await;
    let last = witness
        .until("staleness grows without Kafka", |now| {
            now.staleness > first.staleness.map(|was| was + 3.0)
        })
        .await;
    assert!(last.is_unknown(), "{last:#?}");
    witness.silence_ends();
    kafka.start_again();
    wait_caught_up(&from, &to, "a").await;
    witness
        .until("lag is known and zero again", |now| now.is_zero())
        .await;
    assert_equal(&from, &to, &["t"]).await;
    assert_eq!(walferry.terminate(), 0);
}
