//! Owner and version: two workers, and own commits of unknown outcome.

use walferry::error::Class;
use walferry::sink::{Sink, Work};

use crate::harness::{
    Pair, Plan, V, checkpoint, connect, database, dump, halted, sink, sink_settings,
};
use walferry::sink::postgres::PostgresSink;

#[tokio::test]
async fn the_checkpoint_comes_back_as_it_was_written() {
    let mut pair = Pair::new("checkpoint").await;
    pair.sink.begin(None).await.unwrap();
    pair.commit().await.unwrap();
    pair.sink.begin(pair.at.as_ref()).await.unwrap();
    pair.commit().await.unwrap();
    assert_eq!(pair.sink.open().await.unwrap(), Some(checkpoint(2)));
    let row = pair
        .follower
        .query_one(
            "SELECT applied::text, epoch, log_offset, commit_time::text, version FROM walferry.checkpoint",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "0/1000002");
    assert_eq!(
        (
            row.get::<_, i64>(1),
            row.get::<_, i64>(2),
            row.get::<_, i64>(4)
        ),
        (3, 2, 2)
    );
    assert_eq!(row.get::<_, &str>(3), "2025-05-08 06:13:20.000002+00");
}

#[tokio::test]
async fn a_second_worker_takes_over_and_the_first_is_fenced() {
    let mut pair = Pair::new("fence").await;
    let schema = pair.table("CREATE TABLE t (id int PRIMARY KEY)", "t").await;
    pair.apply(vec![Plan::new(&schema).insert(&[V("1")]).done()])
        .await
        .unwrap();
    let mut second = sink(&pair.name, "other");
    let at = second.open().await.unwrap();
    assert_eq!(at, pair.at);
    let refused = pair
        .apply(vec![Plan::new(&schema).insert(&[V("2")]).done()])
        .await;
    assert_eq!(refused.unwrap_err().class(), Class::Fenced);
    assert_eq!(dump(&pair.follower, &schema).await.len(), 1);
    // Also a transaction without rows.
    pair.sink.begin(pair.at.as_ref()).await.unwrap();
    assert_eq!(pair.commit().await.unwrap_err().class(), Class::Fenced);

    second.prepare_table(&schema, None).await.unwrap();
    second.begin(at.as_ref()).await.unwrap();
    let plan = Plan::new(&schema).insert(&[V("3")]).done();
    second.apply(Work::Net(vec![plan]), false).await.unwrap();
    second.commit(&checkpoint(2)).await.unwrap();
    assert_eq!(dump(&pair.follower, &schema).await.len(), 2);
}

#[tokio::test]
async fn of_two_workers_that_start_at_once_one_gets_the_first_checkpoint() {
    let mut pair = Pair::new("race").await;
    let mut second = sink(&pair.name, "other");
    assert_eq!(second.open().await.unwrap(), None);
    pair.sink.begin(None).await.unwrap();
    pair.commit().await.unwrap();
    second.begin(None).await.unwrap();
    let error = second.commit(&checkpoint(1)).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    assert_eq!(second.open().await.unwrap(), Some(checkpoint(1)));
}

#[tokio::test]
async fn the_layout_is_made_once_however_many_workers_start() {
    let name = "layout_follower";
    let follower = database(name, "").await;
    let opened = (0..6).map(|n| async move { sink(name, &n.to_string()).open().await });
    for result in futures_util::future::join_all(opened).await {
        assert_eq!(result.unwrap(), None);
    }
    drop(follower);
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_is_found_out_before_anything_is_applied_twice() {
    let mut pair = Pair::new("unknown").await;
    let schema = pair.table("CREATE TABLE t (id int)", "t").await;
    let before = pair.at.clone();
    let insert = || vec![Plan::new(&schema).insert_next(&[V("1")]).done()];
    pair.apply(insert()).await.unwrap();
    let first = pair.at.clone();
    pair.apply(insert()).await.unwrap();
    // The worker believes that the last commit failed.
    for believed in [before, first] {
        pair.sink.begin(believed.as_ref()).await.unwrap();
        let error = pair
            .sink
            .apply(Work::Net(insert()), false)
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{error}");
    }
    assert_eq!(dump(&pair.follower, &schema).await.len(), 2);
    assert_eq!(pair.sink.open().await.unwrap(), Some(checkpoint(2)));
}

#[tokio::test]
async fn a_lost_connection_is_transient_and_leaves_nothing() {
    let mut pair = Pair::new("lost").await;
    let schema = pair.table("CREATE TABLE t (id int PRIMARY KEY)", "t").await;
    pair.sink.begin(None).await.unwrap();
    let plan = || vec![Plan::new(&schema).insert(&[V("1")]).done()];
    pair.sink.apply(Work::Net(plan()), false).await.unwrap();
    let killed = pair
        .follower
        .query(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name LIKE 'walferry%'",
            &[],
        )
        .await
        .unwrap();
    // `connect` may not set a name yet: then by the query it ran.
    if killed.is_empty() {
        pair.follower
            .query(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
                &[],
            )
            .await
            .unwrap();
    }
    let error = pair.commit().await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    assert_eq!(
        pair.sink.begin(None).await.unwrap_err().class(),
        Class::Transient
    );
    assert_eq!(pair.sink.open().await.unwrap(), None);
    pair.sink.prepare_table(&schema, None).await.unwrap();
    pair.apply(plan()).await.unwrap();
    assert_eq!(dump(&pair.follower, &schema).await.len(), 1);
}

#[tokio::test]
async fn a_follower_that_is_not_fit_is_refused() {
    let _db = database(
        "ascii_follower",
        "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0",
    )
    .await;
    let text = halted(sink("ascii_follower", "me").open().await).to_string();
    assert!(text.contains("SQL_ASCII"), "{text}");

    let db = database("readonly_follower", "").await;
    db.batch_execute("ALTER DATABASE readonly_follower SET default_transaction_read_only = on")
        .await
        .unwrap();
    let mut waiting = sink("readonly_follower", "me");
    let error = waiting.open().await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    assert!(error.what().contains("read-only"), "{error}");
    db.batch_execute("ALTER DATABASE readonly_follower RESET default_transaction_read_only")
        .await
        .unwrap();
    assert_eq!(waiting.open().await.unwrap(), None);

    let db = database("rights_follower", "").await;
    db.batch_execute(
        "DO $$ BEGIN CREATE ROLE walferry_weak LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
         REVOKE SET ON PARAMETER session_replication_role FROM walferry_weak; \
         GRANT CREATE ON DATABASE rights_follower TO walferry_weak",
    )
    .await
    .unwrap();
    let settings = sink_settings("walferry_weak", "rights_follower");
    let mut weak = PostgresSink::new("shop", "copy", "me", settings);
    let text = halted(weak.open().await).to_string();
    assert!(
        text.contains("GRANT SET ON PARAMETER session_replication_role"),
        "{text}"
    );
    db.batch_execute("GRANT SET ON PARAMETER session_replication_role TO walferry_weak")
        .await
        .unwrap();
    assert_eq!(weak.open().await.unwrap(), None);
}

#[tokio::test]
async fn the_leader_itself_is_refused() {
    let leader = database("self_leader", "").await;
    leader
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let slot = leader
        .query_one(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'self_leader'",
            &[],
        )
        .await
        .unwrap();
    if slot.get::<_, i64>(0) == 0 {
        leader
            .execute(
                "SELECT pg_create_logical_replication_slot('self_leader', 'pgoutput')",
                &[],
            )
            .await
            .unwrap();
    }
    let schema = crate::harness::read_schema(&leader, "public", "t", vec![]).await;
    let mut itself = sink("self_leader", "me");
    itself.open().await.unwrap();
    itself.prepare_table(&schema, None).await.unwrap();
    itself.begin(None).await.unwrap();
    let id = leader
        .query_one(
            "SELECT system_identifier::text FROM pg_control_system()",
            &[],
        )
        .await
        .unwrap();
    let mut to = checkpoint(1);
    to.system_id = Some(id.get(0));
    let text = halted(itself.commit(&to).await).to_string();
    assert!(text.contains("leader's own database"), "{text}");
    leader
        .execute("SELECT pg_drop_replication_slot('self_leader')", &[])
        .await
        .unwrap();
    // Another database of the same cluster is no leader.
    let _follower = database("self_follower", "").await;
    let mut other = sink("self_follower", "me");
    other.open().await.unwrap();
    other.prepare_table(&schema, None).await.unwrap();
    other.begin(None).await.unwrap();
    other.commit(&to).await.unwrap();
    drop(connect("self_follower").await);
}
