//! 006 rewrites, 007 DDL around subscriptions, 008 differing schemas, 009 materialized views.

use crate::scenario::Scenario;
use crate::support::assert_equal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_rewritten_between_changes_goes_on() {
    let mut s = Scenario::new().await;
    s.leader(
        "CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t VALUES (1, 'one'), (2, 'two')",
    )
    .await;
    s.start();
    s.equal(&["t"]).await;
    // The rewrite of one command that also sets the default is the follower's to do as well.
    s.stop();
    s.both("ALTER TABLE t ADD c int NOT NULL DEFAULT 0").await;
    s.start();
    s.leader("INSERT INTO t VALUES (3, 'three', 33)").await;
    s.equal(&["t"]).await;
    for rewrite in ["VACUUM FULL t", "CLUSTER t USING t_pkey"] {
        s.leader(rewrite).await;
        s.leader("UPDATE t SET c = c + 1; INSERT INTO t SELECT max(a) + 1, 'more' FROM t")
            .await;
        s.equal(&["t"]).await;
    }
    // The type becomes wider: the follower first, then the leader, which rewrites all rows.
    s.follower("ALTER TABLE t ALTER c TYPE bigint").await;
    s.leader("BEGIN; UPDATE t SET c = 1 WHERE a = 1; ALTER TABLE t ALTER c TYPE bigint; UPDATE t SET c = 5000000000 WHERE a = 2; COMMIT")
        .await;
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_is_missing_or_dropped_halts_and_nothing_is_skipped() {
    let source = "publication = \"theirs\"\nmanage_publication = false";
    let mut s = Scenario::with(source, "").await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY)").await;
    s.start();
    s.halts(&["theirs"]).await;
    s.stop_halted();
    s.leader("CREATE PUBLICATION theirs FOR TABLE t").await;
    s.start();
    s.leader("INSERT INTO t VALUES (1)").await;
    s.equal(&["t"]).await;
    s.leader("DROP PUBLICATION theirs").await;
    s.leader("INSERT INTO t VALUES (2)").await;
    s.halts(&["theirs"]).await;
    s.end_halted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_of_the_followers_own_in_any_order_keep_their_values() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY, b text, gone int); ALTER TABLE t DROP gone; INSERT INTO t VALUES (1, 'foo')")
        .await;
    s.follower(
        "CREATE TABLE t (c timestamptz DEFAULT '2020-01-01', b text, d int DEFAULT 999, a int PRIMARY KEY,
                         e serial, f int GENERATED ALWAYS AS (a + 1) STORED)",
    )
    .await;
    s.start();
    s.leader("INSERT INTO t VALUES (2, 'bar')").await;
    s.caught_up().await;
    s.follower("UPDATE t SET d = 1 WHERE a = 1").await;
    s.leader("UPDATE t SET b = md5(b)").await;
    s.leader("UPDATE t SET a = a + 10").await;
    s.caught_up().await;
    assert_equal(&s.from, &s.to, &["(SELECT a, b FROM t)"]).await;
    let own = "(SELECT a, d, e, f, c = '2020-01-01' FROM t)";
    s.follower_has(own, &["(11,1,1,12,t)", "(12,999,2,13,t)"])
        .await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_the_follower_lacks_or_demands_is_named_with_the_statement_that_helps() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY, b text, c int)")
        .await;
    s.follower("CREATE TABLE t (a int PRIMARY KEY, own int NOT NULL)")
        .await;
    s.start();
    s.leader("INSERT INTO t VALUES (1, 'x', 2)").await;
    s.halts(&["public.t", "column b", "ADD COLUMN"]).await;
    s.stop_halted();
    s.follower("ALTER TABLE t ADD b text, ADD c text").await;
    s.start();
    s.halts(&["public.t", "column c", "ALTER COLUMN"]).await;
    s.stop_halted();
    s.follower("ALTER TABLE t ALTER c TYPE int USING c::int")
        .await;
    s.start();
    s.halts(&["public.t", "column own", "DROP NOT NULL"]).await;
    s.stop_halted();
    s.follower("ALTER TABLE t ALTER own DROP NOT NULL").await;
    s.start();
    s.caught_up().await;
    assert_equal(&s.from, &s.to, &["(SELECT a, b, c FROM t)"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_table_name_in_two_schemas_is_two_tables() {
    let mut s = Scenario::new().await;
    s.leader(
        "CREATE SCHEMA one; CREATE SCHEMA two; CREATE TABLE one.t (a int PRIMARY KEY, b text);
         CREATE TABLE two.t (a int PRIMARY KEY); CREATE TABLE \"Upper\" (\"A\" int PRIMARY KEY, a text)",
    )
    .await;
    s.start();
    s.leader("INSERT INTO one.t VALUES (1, 'x'); INSERT INTO two.t VALUES (1), (2); INSERT INTO \"Upper\" VALUES (1, 'u')")
        .await;
    s.leader("DELETE FROM two.t WHERE a = 1; UPDATE \"Upper\" SET \"A\" = 2")
        .await;
    s.equal(&["one.t", "two.t", "\"Upper\""]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn materialized_views_and_what_else_is_no_table_disturb_nothing() {
    let mut s = Scenario::new().await;
    s.leader(
        "CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t VALUES (1, 'one');
         CREATE MATERIALIZED VIEW m AS SELECT * FROM t; CREATE VIEW v AS SELECT * FROM t; CREATE SEQUENCE counter",
    )
    .await;
    s.start();
    s.equal(&["t"]).await;
    let steps = "INSERT INTO t VALUES (2, 'two'); REFRESH MATERIALIZED VIEW m; CREATE MATERIALIZED VIEW m2 AS SELECT * FROM t;
                 CREATE TEMPORARY TABLE scratch AS SELECT * FROM t; CREATE UNLOGGED TABLE fast AS SELECT * FROM t;
                 SELECT nextval('counter'); UPDATE v SET b = 'by view' WHERE a = 1; DROP MATERIALIZED VIEW m2";
    s.leader(steps).await;
    s.equal(&["t"]).await;
    for absent in ["m", "v", "fast", "counter"] {
        let there = Scenario::ask(&s.to, &format!("SELECT to_regclass('{absent}')")).await;
        assert_eq!(there, "NULL", "{absent}");
    }
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_altered_while_changes_go_on_is_seen_as_it_is() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
    s.start();
    s.leader("INSERT INTO t VALUES (1, 'x')").await;
    s.equal(&["t"]).await;
    s.follower("ALTER TABLE t ADD c int DEFAULT 5; CREATE INDEX ON t (b); ALTER TABLE t DROP c; ALTER TABLE t ADD d int")
        .await;
    s.leader("INSERT INTO t VALUES (2, 'y'); UPDATE t SET b = 'z' WHERE a = 1")
        .await;
    s.caught_up().await;
    assert_equal(&s.from, &s.to, &["(SELECT a, b FROM t)"]).await;
    // A column renamed by the follower alone is the same column.
    s.follower("ALTER TABLE t RENAME b TO away").await;
    s.leader("INSERT INTO t VALUES (3, 'w')").await;
    s.caught_up().await;
    assert!(s.output().contains("another name on the follower"));
    s.follower("ALTER TABLE t RENAME away TO b").await;
    s.leader("UPDATE t SET b = b || '!'").await;
    s.caught_up().await;
    assert_equal(&s.from, &s.to, &["(SELECT a, b FROM t)"]).await;
    s.end().await;
}
