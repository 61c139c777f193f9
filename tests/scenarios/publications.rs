//! 025 schemas, 028 row filters, 031 column lists of a publication that walferry does not manage.

use crate::scenario::Scenario;
use crate::support::content::rows;

const THEIRS: &str = "publication = \"theirs\"\nmanage_publication = false";

/// The follower's rows are those that the query gives on the leader.
async fn holds(s: &Scenario, table: &str, of_leader: &str) {
    s.caught_up().await;
    let wanted = rows(&s.from, &format!("({of_leader})")).await;
    assert_eq!(rows(&s.to, table).await, wanted, "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_tables_of_a_schema_are_captured_and_those_that_move_out_leave() {
    let Some(mut s) = Scenario::since(15, "schemas in publications", THEIRS).await else {
        return;
    };
    s.leader(
        "CREATE SCHEMA sch; CREATE TABLE sch.one (a int PRIMARY KEY); CREATE TABLE sch.two (a int PRIMARY KEY);
         CREATE TABLE public.other (a int PRIMARY KEY); INSERT INTO sch.one VALUES (1); INSERT INTO sch.two VALUES (1);
         CREATE PUBLICATION theirs FOR TABLES IN SCHEMA sch",
    )
    .await;
    s.start();
    s.leader("INSERT INTO sch.one VALUES (2); INSERT INTO public.other VALUES (1)")
        .await;
    s.equal(&["sch.one", "sch.two"]).await;
    s.stop();
    s.leader(
        "CREATE TABLE sch.three (a int PRIMARY KEY); INSERT INTO sch.three VALUES (1);
         ALTER TABLE sch.two SET SCHEMA public; INSERT INTO public.two VALUES (2)",
    )
    .await;
    s.start();
    s.leader("INSERT INTO sch.three VALUES (2); INSERT INTO sch.one VALUES (3)")
        .await;
    s.equal(&["sch.one", "sch.three"]).await;
    assert_eq!(rows(&s.to, "sch.two").await, ["(1)"], "kept as it was");
    let moved = Scenario::ask(&s.to, "to_regclass('public.other')").await;
    assert_eq!(moved, "NULL");
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_of_all_tables_takes_new_tables_and_no_temporary_or_unlogged_ones() {
    let mut s = Scenario::with(THEIRS, "").await;
    s.leader(
        "CREATE TABLE one (a int PRIMARY KEY); CREATE UNLOGGED TABLE fast (a int PRIMARY KEY);
         CREATE PUBLICATION theirs FOR ALL TABLES; INSERT INTO one VALUES (1)",
    )
    .await;
    s.start();
    s.leader("CREATE TEMPORARY TABLE gone (a int); INSERT INTO gone VALUES (1); INSERT INTO fast VALUES (1); UPDATE one SET a = 2")
        .await;
    s.equal(&["one"]).await;
    s.stop();
    s.leader("CREATE TABLE two (a int PRIMARY KEY); INSERT INTO two VALUES (1), (2)")
        .await;
    s.start();
    s.leader("DELETE FROM two WHERE a = 1").await;
    s.equal(&["one", "two"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_filter_takes_come_and_go_as_they_change() {
    let Some(mut s) = Scenario::since(15, "row filters", THEIRS).await else {
        return;
    };
    s.leader(
        "CREATE TABLE t (a int PRIMARY KEY, b text, c int); CREATE TABLE whole (a int, b text); ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE toasted (a int PRIMARY KEY, big text NOT NULL, n int); ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
         CREATE UNIQUE INDEX toasted_i ON toasted (a, big) WHERE false; ALTER TABLE toasted REPLICA IDENTITY FULL;
         INSERT INTO t SELECT i, 'b' || i, i FROM generate_series(1, 40) i;
         INSERT INTO whole SELECT i, 'b' || i FROM generate_series(1, 40) i;
         INSERT INTO toasted SELECT i, repeat('x' || i % 2, 3000), 0 FROM generate_series(1, 4) i;
         CREATE PUBLICATION theirs FOR TABLE t WHERE (a > 10 AND a < 100), whole WHERE (b <> 'out'), toasted WHERE (big LIKE 'x1%')",
    )
    .await;
    s.start();
    let filtered = "SELECT * FROM t WHERE a > 10 AND a < 100";
    let wholes = "SELECT * FROM whole WHERE b <> 'out'";
    let big = "SELECT * FROM toasted WHERE big LIKE 'x1%'";
    holds(&s, "t", filtered).await;
    for step in [
        "UPDATE t SET a = a + 1000 WHERE a = 20; UPDATE t SET a = 50 WHERE a = 5; UPDATE t SET c = 9; UPDATE t SET a = 6000 WHERE a = 6",
        "DELETE FROM t WHERE a IN (1, 15); INSERT INTO t VALUES (60, NULL, 1), (0, 'x', 2)",
        "UPDATE whole SET b = 'out' WHERE a % 3 = 0; UPDATE whole SET a = -a WHERE a % 2 = 0",
        "UPDATE whole SET b = 'in again' WHERE a % 6 = 0; UPDATE whole SET b = NULL WHERE a = 1; DELETE FROM whole WHERE a = 9",
        "UPDATE toasted SET n = n + 1; UPDATE toasted SET big = repeat('x1', 4000) WHERE a = 2; UPDATE toasted SET a = -1 WHERE a = 1",
        "UPDATE toasted SET big = 'x0' WHERE a = 3; UPDATE toasted SET n = 5",
    ] {
        s.leader(step).await;
        holds(&s, "t", filtered).await;
        holds(&s, "whole", wholes).await;
        holds(&s, "toasted", big).await;
    }
    // A truncate has no rows to filter.
    s.leader("TRUNCATE t").await;
    s.leader("INSERT INTO t VALUES (11, 'x', 1), (9, 'y', 1)")
        .await;
    holds(&s, "t", filtered).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_of_partitioned_tables_and_of_schemas_count_as_in_postgres() {
    let Some(mut s) = Scenario::since(15, "row filters", THEIRS).await else {
        return;
    };
    s.leader(
        "CREATE SCHEMA sch; CREATE TABLE sch.t (a int PRIMARY KEY); INSERT INTO sch.t VALUES (1), (20);
         CREATE TABLE parted (a int PRIMARY KEY, b int) PARTITION BY RANGE (a);
         CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100);
         CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (100) TO (1000);
         INSERT INTO parted VALUES (1, 1), (50, 50), (150, 1), (500, 50);
         CREATE PUBLICATION theirs FOR TABLE sch.t WHERE (a > 10), parted WHERE (a % 50 = 0), TABLES IN SCHEMA sch
           WITH (publish_via_partition_root = true)",
    )
    .await;
    s.start();
    holds(&s, "sch.t", "SELECT * FROM sch.t").await;
    let filtered = "SELECT * FROM parted WHERE a % 50 = 0";
    holds(&s, "parted", filtered).await;
    s.leader("UPDATE sch.t SET a = 2 WHERE a = 20; INSERT INTO sch.t VALUES (3)")
        .await;
    s.leader("UPDATE parted SET a = 450 WHERE a = 50; UPDATE parted SET a = 51 WHERE a = 500; UPDATE parted SET a = 700 WHERE a = 1; INSERT INTO parted VALUES (2, 2), (900, 2)")
        .await;
    holds(&s, "sch.t", "SELECT * FROM sch.t").await;
    holds(&s, "parted", filtered).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_a_list_leaves_out_are_the_followers_own() {
    let Some(mut s) = Scenario::since(15, "column lists", THEIRS).await else {
        return;
    };
    s.leader(
        "CREATE TABLE t (a int PRIMARY KEY, \"B\" text, c int, secret text); INSERT INTO t VALUES (1, 'x', 1, 'hidden');
         CREATE TABLE made (a int PRIMARY KEY, b text, secret text); INSERT INTO made VALUES (1, 'x', 'hidden');
         CREATE TABLE parted (a int PRIMARY KEY, b text, secret text) PARTITION BY LIST (a);
         CREATE TABLE parted_1 (secret text, b text, a int NOT NULL PRIMARY KEY); ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES IN (1, 2);
         CREATE TABLE parted_2 PARTITION OF parted DEFAULT; INSERT INTO parted VALUES (1, 'x', 'hidden');
         CREATE PUBLICATION theirs FOR TABLE t (a, \"B\"), made (b, a), parted (a, b) WITH (publish_via_partition_root = true)",
    )
    .await;
    s.follower("CREATE TABLE t (own int DEFAULT 5, \"B\" text, a int PRIMARY KEY, secret text)")
        .await;
    s.start();
    s.caught_up().await;
    for step in [
        "INSERT INTO t VALUES (2, 'y', 2, 'hidden'); UPDATE t SET secret = 'changed', c = 9; UPDATE t SET \"B\" = 'z', a = 11 WHERE a = 1",
        "INSERT INTO made VALUES (2, 'y', 'hidden'); UPDATE made SET secret = 'only this'; DELETE FROM made WHERE a = 1",
        "INSERT INTO parted VALUES (2, 'y', 'hidden'), (7, 'z', 'hidden'); UPDATE parted SET a = 8 WHERE a = 1; UPDATE parted SET secret = NULL",
    ] {
        s.leader(step).await;
    }
    s.follower_has("t", &["(5,y,2,)", "(5,z,11,)"]).await;
    holds(&s, "made", "SELECT a, b FROM made").await;
    holds(&s, "parted", "SELECT a, b FROM parted").await;
    s.end().await;
}
