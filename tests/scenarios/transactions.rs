//! 015 to 019 and 023 large transactions, savepoints and DDL in them, 021 and 022 two-phase commit and
//! chains of followers, 100 crashes.

use crate::scenario::Scenario;
use crate::support::{Pipeline, assert_equal, until, wait_caught_up};

const TABLE: &str = "CREATE TABLE t (a int PRIMARY KEY, b text);";

/// Rows enough to be spilled on the leader while the transaction is open.
fn many(from: u32) -> String {
    let to = from + 4999;
    format!("INSERT INTO t SELECT i, repeat(md5(i::text), 6) FROM generate_series({from}, {to}) i;")
}

async fn prepared() -> Scenario {
    let mut s = Scenario::new().await;
    s.leader(TABLE).await;
    s.start();
    s.caught_up().await;
    s
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_transactions_that_overlap_are_applied_in_commit_order() {
    let s = prepared().await;
    let first = s.another().await;
    let begun = format!("BEGIN; {}", many(1));
    first.batch_execute(&begun).await.unwrap();
    s.leader(&many(10_000)).await;
    s.leader("UPDATE t SET b = 'second' WHERE a = 10000").await;
    let rest = format!("{} UPDATE t SET b = 'first' WHERE a = 10000", many(20_000));
    first.batch_execute(&rest).await.unwrap();
    s.equal(&["t"]).await;
    first
        .batch_execute("DELETE FROM t WHERE a % 3 = 0; COMMIT")
        .await
        .unwrap();
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_large_transaction_leaves_nothing() {
    let s = prepared().await;
    s.leader(&format!("BEGIN; {} ROLLBACK", many(1))).await;
    s.leader("INSERT INTO t VALUES (1, 'after')").await;
    s.equal(&["t"]).await;
    let open = s.another().await;
    let begun = format!("BEGIN; {}", many(10));
    open.batch_execute(&begun).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()";
    s.leader(end).await;
    s.leader("INSERT INTO t VALUES (2, 'after')").await;
    s.follower_has("t", &["(1,after)", "(2,after)"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn savepoints_released_and_rolled_back_in_large_transactions_count_as_on_the_leader() {
    let s = prepared().await;
    let (a, b, c, d) = (many(1), many(10_000), many(20_000), many(30_000));
    s.leader(&format!(
        "BEGIN; {a} SAVEPOINT one; {b} SAVEPOINT two; {c} ROLLBACK TO one; {d}
         SAVEPOINT three; UPDATE t SET b = 'x' WHERE a < 100; RELEASE three;
         SAVEPOINT four; DELETE FROM t WHERE a < 50; ROLLBACK TO four; UPDATE t SET a = -a WHERE a < 20; COMMIT"
    ))
    .await;
    s.equal(&["t"]).await;
    // Every level is undone, the outermost included, then something remains.
    s.leader(&format!(
        "BEGIN; SAVEPOINT one; {b} SAVEPOINT two; DELETE FROM t; ROLLBACK TO two; ROLLBACK TO one;
         INSERT INTO t VALUES (-100000, 'last'); COMMIT"
    ))
    .await;
    s.equal(&["t"]).await;
    let mut nested = String::from("BEGIN;");
    for n in 0..200 {
        nested += &format!(
            "SAVEPOINT s{n}; INSERT INTO t VALUES ({}, 'nested');",
            100_000 + n
        );
        if n % 7 == 0 {
            nested += &format!("ROLLBACK TO s{n};");
        }
    }
    s.leader(&format!("{nested} COMMIT")).await;
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_between_rows_of_a_large_transaction_and_its_rollback_are_followed() {
    let mut s = prepared().await;
    // The follower has the columns already, as native replication would need it too.
    s.follower("ALTER TABLE t ADD c int, ADD d text, ADD e int")
        .await;
    s.stop();
    s.start();
    let (a, b, c) = (many(1), many(10_000), many(20_000));
    s.leader(&format!(
        "BEGIN; {a} ALTER TABLE t ADD c int; UPDATE t SET c = 7 WHERE a < 10;
         SAVEPOINT one; ALTER TABLE t ADD e int; {b} UPDATE t SET e = 1; ROLLBACK TO one;
         ALTER TABLE t ADD d text; {c} UPDATE t SET d = 'd' WHERE a % 100 = 0; COMMIT"
    ))
    .await;
    s.caught_up().await;
    let select = "(SELECT a, b, c, d FROM t)";
    assert_equal(&s.from, &s.to, &[select]).await;
    let set = Scenario::ask(&s.to, "SELECT count(e) FROM t").await;
    assert_eq!(set, "0", "e was rolled back");
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_arrives_when_it_is_committed_and_never_when_it_is_rolled_back() {
    let mut s = prepared().await;
    let (small, large, gone) = ("INSERT INTO t VALUES (1, 'x');", many(10), many(10_000));
    for (name, statements) in [("small", small), ("large", &large), ("gone", &gone)] {
        let gid = format!("{}_{name}", s.database);
        s.leader(&format!("BEGIN; {statements} SAVEPOINT sp; UPDATE t SET b = 'y' WHERE a = 11; PREPARE TRANSACTION '{gid}'"))
            .await;
    }
    s.follower_has("t", &[]).await;
    s.leader(&format!("COMMIT PREPARED '{}_small'", s.database))
        .await;
    s.follower_has("t", &["(1,x)"]).await;
    let waiting = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()";
    assert_eq!(Scenario::ask(&s.to, waiting).await, "0");
    s.stop();
    s.start();
    s.leader(&format!("COMMIT PREPARED '{}_large'", s.database))
        .await;
    s.leader(&format!("ROLLBACK PREPARED '{}_gone'", s.database))
        .await;
    s.leader("UPDATE t SET b = 'z' WHERE a = 12").await;
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_waits_for_a_prepared_transaction_and_misses_nothing_of_it() {
    let mut s = Scenario::new().await;
    s.leader(TABLE).await;
    let gid = s.database.clone();
    let begin = format!("BEGIN; INSERT INTO t VALUES (1, 'prepared'); PREPARE TRANSACTION '{gid}'");
    s.leader(&begin).await;
    s.start();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE_REPLICATION_SLOT%' AND datname = current_database() AND state = 'active'";
    until("the slot is waited for", || async {
        let waiting = Scenario::ask(&s.from, waits).await;
        (waiting == "1").then_some(()).ok_or_else(|| s.output())
    })
    .await;
    s.leader("INSERT INTO t VALUES (2, 'meanwhile')").await;
    s.leader(&format!("COMMIT PREPARED '{gid}'")).await;
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_can_be_the_leader_of_another_pipeline() {
    let mut s = Scenario::new().await;
    s.leader(TABLE).await;
    s.start();
    s.caught_up().await;
    let last = format!("{}_last", s.database);
    let servers = s.servers.clone();
    servers
        .follower
        .sql(&format!("CREATE DATABASE {last}"))
        .await;
    let middle = servers.follower.url(&s.database);
    let chain = Pipeline::between(&middle, &[servers.follower.url(&last)], "", "");
    let second = chain.run();
    let end = servers.follower.client_on(&last).await;
    let gid = &s.database;
    s.leader(&format!(
        "BEGIN; {} SAVEPOINT s; DELETE FROM t WHERE a > 100; ROLLBACK TO s; PREPARE TRANSACTION '{gid}'",
        many(1)
    ))
    .await;
    s.leader(&format!("COMMIT PREPARED '{gid}'")).await;
    s.leader("UPDATE t SET b = 'u' WHERE a < 50; DELETE FROM t WHERE a > 4000")
        .await;
    s.equal(&["t"]).await;
    wait_caught_up(&s.to, &end, "a").await;
    assert_equal(&s.from, &end, &["t"]).await;
    assert_eq!(second.terminate(), 0);
    let slot = format!("SELECT pg_drop_replication_slot('walferry_{}')", chain.name);
    servers.follower.sql(&slot).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_killed_amid_a_large_transaction_applies_it_once() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int, b text); ALTER TABLE t REPLICA IDENTITY FULL")
        .await;
    s.start();
    s.caught_up().await;
    for round in 0..3 {
        s.leader(&many(round * 10_000)).await;
        s.kill();
        s.start();
    }
    s.equal(&["t"]).await;
    s.end().await;
}
