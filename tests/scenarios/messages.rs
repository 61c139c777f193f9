//! 020 logical messages.

use crate::scenario::Scenario;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logical_messages_change_nothing_on_followers_and_their_wal_is_confirmed() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY)").await;
    s.start();
    s.caught_up().await;
    s.leader(
        "BEGIN; INSERT INTO t VALUES (1); SELECT pg_logical_emit_message(true, 'pgoutput', 'inside');
         SELECT pg_logical_emit_message(false, 'pgoutput', repeat('not transactional ', 100));
         SAVEPOINT s; SELECT pg_logical_emit_message(true, 'x', 'undone'); INSERT INTO t VALUES (2); ROLLBACK TO s;
         INSERT INTO t VALUES (3); COMMIT",
    )
    .await;
    s.leader("SELECT pg_logical_emit_message(true, 'empty', 'a transaction of its own')")
        .await;
    s.leader("BEGIN; SELECT pg_logical_emit_message(true, 'x', 'aborted'); INSERT INTO t VALUES (4); ROLLBACK")
        .await;
    s.leader("SELECT pg_logical_emit_message(false, 'x', 'alone')")
        .await;
    s.equal(&["t"]).await;
    s.follower_has("t", &["(1)", "(3)"]).await;
    let end = Scenario::ask(&s.from, "pg_current_wal_flush_lsn()").await;
    let slot = format!("walferry_{}", s.pipeline.name);
    crate::support::until("the slot is confirmed beyond the messages", || async {
        let query = format!("SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = '{slot}'");
        let confirmed = Scenario::ask(&s.from, &query).await;
        (confirmed == "true").then_some(()).ok_or(confirmed)
    })
    .await;
    s.end().await;
}
