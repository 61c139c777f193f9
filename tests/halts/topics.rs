//! Topics and records that are gone.

use crate::broker;
use crate::operator::{COPY_ANEW, NEW_PIPELINE, Operator};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_topic_made_anew_or_expired_halts_the_sinks_that_needed_it_until_they_copy_anew() {
    let mut operator = Operator::begin(2).await;
    let topic = operator.topic("public.t");
    // One sink is away while records come and go.
    operator.stop(0);
    operator.run_only(&["leader", "b"]);
    operator.write().await;
    operator.has_caught_up(1).await;
    operator.stop(0);
    broker::expire(&topic).await;
    operator.run();
    operator
        .halted("a")
        .await
        .names(&[&topic, "retention has passed"])
        .advises(COPY_ANEW);
    operator.streams("leader").await;
    operator.write().await;
    operator.has_caught_up(1).await;
    operator.copy_anew(0);
    operator.is_well().await;

    operator.stop(0);
    broker::make_anew(&topic).await;
    operator.run();
    operator.streams("leader").await;
    operator.write().await;
    for (n, sink) in ["a", "b"].into_iter().enumerate() {
        operator
            .halted(sink)
            .await
            .names(&[&topic, "made anew"])
            .advises(COPY_ANEW);
        operator.copy_anew(n);
    }
    operator.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_halts_who_needs_it_in_the_middle_of_its_work_until_a_new_pipeline_begins()
{
    tokio::join!(
        deleted_while_running("public.t", "is gone"),
        deleted_while_running("commits", "the commits topic does not"),
    );
}

/// Deletes a topic of a pipeline in its normal work, and follows the remedy.
async fn deleted_while_running(topic: &str, said: &str) {
    let mut operator = Operator::begin(1).await;
    let topic = operator.topic(topic);
    broker::delete(&topic).await;
    operator.write().await;
    let halt = operator.halted("leader").await;
    halt.names(&[said]);
    assert!(halt.remedy.ends_with(NEW_PIPELINE), "{}", halt.remedy);
    // A sink that has taken all that a table's topic had does not miss it.
    if topic.ends_with(".commits") {
        let halt = operator.halted("a").await;
        halt.names(&[&topic, "is gone"]).advises(NEW_PIPELINE);
    }
    operator.begin_new_pipeline().await;
    operator.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_somebody_else_halt_who_reads_them_until_a_new_pipeline_begins() {
    let mut operator = Operator::begin(1).await;
    let strange = [b"not walferry's".to_vec()];
    let topic = operator.topic("public.t");
    broker::send(&topic, &strange);
    operator.write().await;
    let wanted = "stop what else writes to this topic; then ";
    operator
        .halted("a")
        .await
        .names(&[&topic, "a record without walferry's header"])
        .advises(&format!("{wanted}{NEW_PIPELINE}"));
    operator.streams("leader").await;
    operator.begin_new_pipeline().await;
    operator.is_well().await;

    let commits = operator.topic("commits");
    broker::send(&commits, &strange);
    let wanted =
        "upgrade this walferry if a newer one wrote it; else stop what writes to the topic, and ";
    for part in ["leader", "a"] {
        operator
            .halted(part)
            .await
            .names(&[&commits, "is not an entry of a commit log"])
            .advises(&format!("{wanted}{NEW_PIPELINE}"));
    }
    operator.begin_new_pipeline().await;
    operator.is_well().await;
}
