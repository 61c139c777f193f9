//! 013 partitioned tables on either side.

use crate::scenario::Scenario;
use crate::support::assert_equal;

const PARTED: &str = "CREATE TABLE t (a int PRIMARY KEY, b text DEFAULT 'd', c int) PARTITION BY LIST (a);
    CREATE TABLE t_1 (c int, b text, a int NOT NULL PRIMARY KEY); ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES IN (0, 1, 2, 3);
    CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (4, 5, 6);
    CREATE TABLE t_def PARTITION OF t DEFAULT PARTITION BY RANGE (a);
    CREATE TABLE t_def_1 PARTITION OF t_def DEFAULT;";

/// Changes within, between, in and out of partitions, and of the partitions by their own names.
const STEPS: &[&str] = &[
    "INSERT INTO t (a) VALUES (1), (2), (5), (0), (9)",
    "INSERT INTO t_1 (a, b) VALUES (3, 'direct'); UPDATE t SET b = 'u' WHERE a = 5",
    "UPDATE t SET a = 6 WHERE a = 5; UPDATE t SET a = 4 WHERE a = 1; UPDATE t SET a = 1 WHERE a = 9; UPDATE t SET a = 100 WHERE a = 2",
    "DELETE FROM t WHERE a IN (3, 4); UPDATE t_def_1 SET c = 8",
    "INSERT INTO t SELECT i, i, i FROM generate_series(200, 260) i; UPDATE t SET a = a - 1000 WHERE a > 230",
    "TRUNCATE t",
    "INSERT INTO t (a) VALUES (1), (4), (7)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partitioned_table_goes_into_an_ordinary_one() {
    let mut s = Scenario::new().await;
    s.leader(PARTED).await;
    s.leader("INSERT INTO t (a) VALUES (50), (51)").await;
    s.start();
    s.equal(&["t"]).await;
    for step in STEPS {
        s.leader(step).await;
        s.equal(&["t"]).await;
    }
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partitioned_table_goes_into_one_with_other_partitions() {
    let mut s = Scenario::new().await;
    s.leader(PARTED).await;
    s.follower(
        "CREATE TABLE t (c int, a int PRIMARY KEY, b text) PARTITION BY RANGE (a);
         CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (2);
         CREATE TABLE t_mid PARTITION OF t FOR VALUES FROM (2) TO (5) PARTITION BY HASH (a);
         CREATE TABLE t_mid_0 PARTITION OF t_mid FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE t_mid_1 (b text, a int NOT NULL, c int); ALTER TABLE t_mid ATTACH PARTITION t_mid_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         CREATE TABLE t_high PARTITION OF t DEFAULT",
    )
    .await;
    s.start();
    for step in STEPS {
        s.leader(step).await;
        s.caught_up().await;
        assert_equal(&s.from, &s.to, &["(SELECT a, b, c FROM t)"]).await;
    }
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_table_goes_into_a_partitioned_one() {
    for identity in ["DEFAULT", "FULL"] {
        let mut s = Scenario::new().await;
        s.leader(&format!(
            "CREATE TABLE t (a int PRIMARY KEY, b text, c int); ALTER TABLE t REPLICA IDENTITY {identity}"
        ))
        .await;
        s.follower(PARTED).await;
        s.start();
        for step in STEPS.iter().filter(|step| !step.contains("t_")) {
            s.leader(step).await;
            s.equal(&["t"]).await;
        }
        s.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_for_which_the_follower_has_no_partition_halts_and_waits_for_one() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
    s.follower("CREATE TABLE t (a int PRIMARY KEY, b text) PARTITION BY LIST (a); CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1)")
        .await;
    s.start();
    s.leader("INSERT INTO t VALUES (1, 'one')").await;
    s.equal(&["t"]).await;
    s.leader("INSERT INTO t VALUES (2, 'two')").await;
    s.halts(&["public.t"]).await;
    s.stop_halted();
    s.follower("CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2)")
        .await;
    s.start();
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_attached_and_detached_while_changes_go_on_are_followed() {
    let mut s = Scenario::new().await;
    s.leader(
        "CREATE TABLE t (a int PRIMARY KEY, b text) PARTITION BY RANGE (a);
         CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (100)",
    )
    .await;
    s.start();
    s.leader("INSERT INTO t VALUES (1, 'x')").await;
    s.equal(&["t"]).await;
    s.leader("CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (100) TO (200); INSERT INTO t VALUES (150, 'new partition')")
        .await;
    s.leader("UPDATE t SET a = a + 100 WHERE a = 1; DELETE FROM t_2 WHERE a = 150")
        .await;
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_published_by_their_own_names_are_tables_of_their_own() {
    let source = "publication = \"leaves\"\nmanage_publication = false";
    let mut s = Scenario::with(source, "").await;
    s.leader(PARTED).await;
    s.leader("INSERT INTO t (a) VALUES (50), (51); CREATE PUBLICATION leaves FOR TABLE t")
        .await;
    s.start();
    let leaves = ["t_1", "t_2", "t_def_1"];
    s.equal(&leaves).await;
    for step in STEPS {
        s.leader(step).await;
        s.equal(&leaves).await;
    }
    s.end().await;
}
