//! The slot is not what walferry left: changes are lost for every follower.

use crate::operator::{NEW_PIPELINE, Operator};
use crate::support::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_dropped_or_made_anew_or_moved_by_somebody_halts_the_source_until_a_new_pipeline_begins()
 {
    let mut operator = Operator::begin(2).await;
    let slot = operator.slot();
    operator.stop(0);
    let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
    operator.leader.sql(&drop).await;
    operator.write().await;
    operator.run();
    let halt = operator.halted("leader").await;
    halt.names(&[&slot, "the replication slot is gone"])
        .advises(NEW_PIPELINE);
    for sink in ["a", "b"] {
        operator.streams(sink).await;
    }
    operator.begin_new_pipeline().await;
    operator.is_well().await;

    let slot = operator.slot();
    operator.stop(0);
    operator.write().await;
    let anew = format!(
        "SELECT pg_drop_replication_slot('{slot}');
         SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
    );
    operator.leader.sql(&anew).await;
    moved(&mut operator).await;

    let slot = operator.slot();
    operator.stop(0);
    operator.write().await;
    let advance = format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())");
    operator.leader.sql(&advance).await;
    moved(&mut operator).await;
}

/// The slot is confirmed beyond the log: the halt says so, and its remedy works.
async fn moved(operator: &mut Operator) {
    operator.run();
    let halt = operator.halted("leader").await;
    let wanted =
        "find out who else moves the slot, or why Kafka lost entries it had acknowledged; then ";
    halt.names(&["the slot is confirmed to", "but the commit log ends at"])
        .advises(&format!("{wanted}{NEW_PIPELINE}"));
    for sink in ["a", "b"] {
        operator.streams(sink).await;
    }
    operator.begin_new_pipeline().await;
    operator.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_has_lost_wal_halts_the_source_until_a_new_pipeline_begins() {
    let mut operator = Operator::begin(1).await;
    let slot = operator.slot();
    operator.stop(0);
    let leader = operator.leader.client().await;
    for statement in [
        "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'",
        "SELECT pg_reload_conf()",
    ] {
        leader.batch_execute(statement).await.unwrap();
    }
    until("the slot has lost WAL", || async {
        operator.write().await;
        leader
            .batch_execute("SELECT pg_switch_wal(); CHECKPOINT")
            .await
            .map_err(|error| error.to_string())?;
        let query = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1";
        let row = leader.query_one(query, &[&slot]).await.unwrap();
        let status: Option<String> = row.get(0);
        match status.as_deref() {
            Some("lost") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    operator.run();
    let halt = operator.halted("leader").await;
    let wanted = "raise max_slot_wal_keep_size on the leader to more than it writes while walferry is away; then ";
    halt.names(&[&slot, "has lost WAL"])
        .advises(&format!("{wanted}{NEW_PIPELINE}"));
    operator.streams("a").await;
    for statement in [
        "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'",
        "SELECT pg_reload_conf()",
    ] {
        leader.batch_execute(statement).await.unwrap();
    }
    operator.begin_new_pipeline().await;
    operator.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_is_dropped_halts_the_source_until_a_new_pipeline_begins() {
    let mut operator = Operator::begin(1).await;
    let drop = format!("DROP PUBLICATION {}", operator.slot());
    operator.stop(0);
    operator.leader.sql(&drop).await;
    operator.write().await;
    operator.run();
    operator
        .halted("leader")
        .await
        .names(&[&operator.slot(), "the publication is gone"])
        .advises(NEW_PIPELINE);
    operator.streams("a").await;
    operator.begin_new_pipeline().await;
    operator.is_well().await;

    // The same while everything runs.
    let drop = format!("DROP PUBLICATION {}", operator.slot());
    operator.leader.sql(&drop).await;
    operator.write().await;
    let halt = operator.halted("leader").await;
    halt.names(&["publication"]);
    assert!(halt.remedy.ends_with(NEW_PIPELINE), "{}", halt.remedy);
    operator.streams("a").await;
    operator.begin_new_pipeline().await;
    operator.is_well().await;
}
