//! The commit log or the schema versions are gone, or are not what was read.

use crate::broker;
use crate::operator::{COPY_ANEW, NEW_PIPELINE, Operator};
use crate::support::{Kafka, kafka, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_log_made_anew_halts_sinks_at_whatever_length_until_they_copy_anew() {
    let mut operator = Operator::begin(2).await;
    let commits = operator.topic("commits");
    let (_low, old_end) = broker::watermarks(&commits);
    operator.stop(0);
    broker::make_anew(&commits).await;
    // Without a source the new log is shorter than what the sinks have read.
    operator.run_only(&["a"]);
    operator
        .halted("a")
        .await
        .names(&[&commits, "but it ends at 0", "made anew"])
        .advises(COPY_ANEW);
    operator.stop(3);
    // With one it grows beyond that, and all its entries look like those of a source of long ago.
    operator.run_only(&["leader"]);
    until("the new log is longer than the old one", || async {
        operator.write().await;
        let (_low, end) = broker::watermarks(&commits);
        (end > old_end + 10).then_some(()).ok_or(end.to_string())
    })
    .await;
    operator.stop(0);
    operator.run();
    operator.streams("leader").await;
    for (n, sink) in ["a", "b"].into_iter().enumerate() {
        operator
            .halted(sink)
            .await
            .names(&[&commits, "made anew"])
            .advises(COPY_ANEW);
        operator.copy_anew(n);
    }
    operator.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_log_that_lost_its_end_halts_source_and_sinks_until_a_new_pipeline_begins() {
    let mut operator = Operator::begin(1).await;
    let commits = operator.topic("commits");
    let (_low, end) = broker::watermarks(&commits);
    operator.is_well().await;
    operator.stop(0);
    broker::lose_end(&commits, end).await;
    operator.run();
    let wanted =
        "find out who else moves the slot, or why Kafka lost entries it had acknowledged; then ";
    operator
        .halted("leader")
        .await
        .names(&["the slot is confirmed to", "but the commit log ends at"])
        .advises(&format!("{wanted}{NEW_PIPELINE}"));
    operator
        .halted("a")
        .await
        .names(&[&commits, "Kafka lost entries"])
        .advises(COPY_ANEW);
    operator.begin_new_pipeline().await;
    operator.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_versions_that_are_lost_halt_a_sink_that_needs_them_until_a_new_pipeline_begins() {
    let mut operator = Operator::begin(1).await;
    let schemas = operator.topic("schemas");
    operator.stop(0);
    operator.run_only(&["leader"]);
    operator.streams("leader").await;
    let (_low, before) = broker::watermarks(&operator.topic("public.t"));
    operator.write().await;
    until("the changes are in Kafka", || async {
        let (_low, end) = broker::watermarks(&operator.topic("public.t"));
        (end > before).then_some(()).ok_or(end.to_string())
    })
    .await;
    operator.stop(0);
    broker::make_anew(&schemas).await;
    operator.run_only(&["a"]);
    operator
        .halted("a")
        .await
        .names(&[
            &schemas,
            "schema version",
            "lost what Kafka had acknowledged",
        ])
        .advises(NEW_PIPELINE);
    operator.begin_new_pipeline().await;
    operator.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_of_another_cluster_halt_source_and_sinks_until_the_right_ones_are_named() {
    let mut operator = Operator::begin(1).await;
    let other = Kafka::start("other");
    operator.stop(0);
    operator.edit("config/walferry.toml", &kafka(), &other.bootstrap);
    operator.write().await;
    operator.run();
    let wanted = "set kafka.brokers to the cluster that has the topic, or ";
    operator
        .halted("leader")
        .await
        .names(&["in another Kafka cluster"])
        .advises(&format!("{wanted}{NEW_PIPELINE}"));
    let wanted = "set kafka.brokers to the cluster that the checkpoint belongs to, or, if it is gone for good, ";
    operator
        .halted("a")
        .await
        .names(&["the checkpoint belongs to Kafka cluster"])
        .advises(&format!("{wanted}{NEW_PIPELINE}"));
    operator.stop(3);
    operator.edit("config/walferry.toml", &other.bootstrap, &kafka());
    operator.run();
    operator.is_well().await;

    // The old cluster is gone for good.
    operator.stop(0);
    operator.edit("config/walferry.toml", &kafka(), &other.bootstrap);
    operator.run();
    operator.halted("leader").await;
    operator.begin_new_pipeline().await;
    operator.is_well().await;
    // walferry ends before its broker does.
    operator.stop(0);
}
