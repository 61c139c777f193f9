//! 011 generated columns.

use crate::scenario::Scenario;
use crate::support::assert_equal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_column_of_the_follower_is_computed_there() {
    let mut s = Scenario::new().await;
    s.leader(
        "CREATE TABLE t (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 2) STORED, c text);
         CREATE TABLE whole (a int, b int GENERATED ALWAYS AS (a * 2) STORED, c text); ALTER TABLE whole REPLICA IDENTITY FULL;
         INSERT INTO t (a) VALUES (1), (2); INSERT INTO whole (a) VALUES (1), (2)",
    )
    .await;
    s.follower(
        "CREATE TABLE t (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 22) STORED, c text);
         CREATE TABLE whole (a int, b int GENERATED ALWAYS AS (a * 22) STORED, c text)",
    )
    .await;
    s.start();
    s.leader("INSERT INTO t (a) VALUES (3); UPDATE t SET c = 'x' WHERE a = 2; UPDATE whole SET a = 9 WHERE a = 1; DELETE FROM whole WHERE a = 2")
        .await;
    s.leader("UPDATE t SET a = 10 WHERE a = 1").await;
    s.follower_has("t", &["(10,220,)", "(2,44,x)", "(3,66,)"])
        .await;
    s.follower_has("whole", &["(9,198,)"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_column_of_the_leader_may_be_missing_or_ordinary_on_the_follower() {
    let mut s = Scenario::new().await;
    let virtual_column = if s.major >= 18 {
        ", v int GENERATED ALWAYS AS (a * 3) VIRTUAL"
    } else {
        ""
    };
    s.leader(&format!(
        "CREATE TABLE t (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 2) STORED{virtual_column});
         CREATE TABLE u (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 2) STORED);
         INSERT INTO t VALUES (1); INSERT INTO u VALUES (1)"
    ))
    .await;
    s.follower("CREATE TABLE u (a int PRIMARY KEY, b int DEFAULT 7)")
        .await;
    s.start();
    s.leader("INSERT INTO t VALUES (2); INSERT INTO u VALUES (2); UPDATE t SET a = 5 WHERE a = 1")
        .await;
    s.caught_up().await;
    assert_equal(&s.from, &s.to, &["(SELECT a FROM t)"]).await;
    s.follower_has("t", &["(2)", "(5)"]).await;
    s.follower_has("u", &["(1,7)", "(2,7)"]).await;
    s.end().await;
}

const THEIRS: &str = "publication = \"theirs\"\nmanage_publication = false";

/// The leader computes `b` as twice `a`.
const COMPUTES: &str =
    "CREATE TABLE t (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 2) STORED, c int);
     INSERT INTO t (a, c) VALUES (1, 1), (2, 2), (3, 3);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_with_generated_columns_is_refused_before_a_copy_without_them() {
    let stored = "ALTER PUBLICATION theirs SET (publish_generated_columns = stored)";
    let listed = "ALTER PUBLICATION theirs SET TABLE t (a, b)";
    for (add, take_out) in [
        (
            stored,
            "ALTER PUBLICATION theirs SET (publish_generated_columns = none)",
        ),
        (listed, "ALTER PUBLICATION theirs SET TABLE t (a, c)"),
    ] {
        let Some(mut s) = Scenario::since(18, "generated columns in publications", THEIRS).await
        else {
            return;
        };
        s.leader(COMPUTES).await;
        s.leader(&format!("CREATE PUBLICATION theirs FOR TABLE t; {add}"))
            .await;
        s.follower(
            "CREATE TABLE t (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 2) STORED, c int)",
        )
        .await;
        let check = s.pipeline.command(&["check"]).output().unwrap();
        assert_eq!(check.status.code(), Some(3), "{check:?}");
        s.start();
        s.halts(&["generated columns"]).await;
        s.stop_halted();
        s.leader(take_out).await;
        s.start();
        s.leader("INSERT INTO t (a) VALUES (4); UPDATE t SET c = 7 WHERE a = 2; UPDATE t SET a = 11 WHERE a = 1")
            .await;
        s.equal(&["t"]).await;
        // And while changes go on: what was written under it is not taken for a new column.
        s.leader(add).await;
        s.leader("INSERT INTO t (a) VALUES (5)").await;
        s.halts(&["generated columns"]).await;
        s.stop_halted();
        s.leader(take_out).await;
        s.start();
        s.leader("INSERT INTO t (a) VALUES (6)").await;
        s.equal(&["t"]).await;
        s.end().await;
    }
}
