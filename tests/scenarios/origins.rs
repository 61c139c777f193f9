//! 030 replication origins.

use crate::scenario::Scenario;
use crate::support::{Pipeline, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_the_leader_itself_received_from_elsewhere_arrive_too() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
    s.start();
    s.caught_up().await;
    let origin = format!("elsewhere_{}", s.database);
    s.leader(&format!(
        "SELECT pg_replication_origin_create('{origin}'); SELECT pg_replication_origin_session_setup('{origin}')"
    ))
    .await;
    s.leader("BEGIN; SELECT pg_replication_origin_xact_setup('0/42', now()); INSERT INTO t VALUES (1, 'from elsewhere'); COMMIT")
        .await;
    s.leader("SELECT pg_replication_origin_session_reset(); INSERT INTO t VALUES (2, 'own')")
        .await;
    s.equal(&["t"]).await;
    s.leader(&format!("SELECT pg_replication_origin_drop('{origin}')"))
        .await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pipelines_in_opposite_directions_halt_at_the_first_row_that_comes_back() {
    let mut s = Scenario::new().await;
    s.both("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
    let (leader, follower) = (
        s.servers.leader.url(&s.database),
        s.servers.follower.url(&s.database),
    );
    let servers = s.servers.clone();
    let back = Pipeline::between(&follower, &[leader], "", "");
    s.start();
    s.caught_up().await;
    let returning = back.run();
    until("the way back is ready", || async {
        let ready = "SELECT count(*) FROM walferry.checkpoint WHERE jsonb_array_length(state -> 'in_effect') = 1";
        match s.from.query_one(ready, &[]).await {
            Ok(row) if row.get::<_, i64>(0) == 1 => Ok(()),
            Ok(_) => Err(returning.output()),
            Err(error) => Err(format!("{error}: {}", returning.output())),
        }
    })
    .await;
    s.leader("INSERT INTO t VALUES (1, 'there and back')").await;
    s.equal(&["t"]).await;
    until("the way back halts", || async {
        let output = returning.output();
        let halted = output.contains("halted") && output.contains("unique violation");
        halted.then_some(()).ok_or(output)
    })
    .await;
    assert_eq!(returning.terminate(), 3);
    s.equal(&["t"]).await;
    let slot = format!("SELECT pg_drop_replication_slot('walferry_{}')", back.name);
    servers.follower.sql(&slot).await;
    s.end().await;
}
