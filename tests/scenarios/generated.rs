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
     INSERT INTO t (a, c) VALUES (1, 1), (2, 2);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_columns_that_a_publication_has_arrive_by_copy_and_by_stream() {
    for publication in [
        "CREATE PUBLICATION theirs FOR TABLE t WITH (publish_generated_columns = stored)",
        "CREATE PUBLICATION theirs FOR TABLE t (a, b)",
    ] {
        let Some(mut s) = Scenario::since(18, "generated columns in publications", THEIRS).await
        else {
            return;
        };
        s.leader(COMPUTES).await;
        s.leader(publication).await;
        s.follower("CREATE TABLE t (a int PRIMARY KEY, b int, c int)")
            .await;
        s.start();
        s.caught_up().await;
        s.leader("INSERT INTO t (a) VALUES (3); UPDATE t SET c = 7 WHERE a = 2; UPDATE t SET a = 11 WHERE a = 1")
            .await;
        s.caught_up().await;
        assert_equal(&s.from, &s.to, &["(SELECT a, b FROM t)"]).await;
        s.end().await;
    }
}
