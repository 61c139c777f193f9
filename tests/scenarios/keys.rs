//! 032 rows found by indexes of the follower under REPLICA IDENTITY FULL, 034 temporal keys, 100 identities
//! with dropped columns.

use crate::scenario::Scenario;
use crate::support::assert_equal;

/// Indexes of the follower: usable, partial, on an expression, of another kind, of a nullable column.
const INDEXES: &[&str] = &[
    "",
    "CREATE INDEX ON t (a)",
    "CREATE INDEX ON t (a, b)",
    "CREATE INDEX ON t (b) WHERE a = 4",
    "CREATE INDEX ON t (upper(b)); CREATE INDEX ON t ((a + 1))",
    "CREATE INDEX ON t USING hash (a)",
    "CREATE INDEX ON t (c)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_without_a_key_are_found_whatever_indexes_the_follower_has() {
    let mut s = Scenario::new().await;
    let mut tables = Vec::new();
    for (n, index) in INDEXES.iter().enumerate() {
        let (table, index) = (
            format!("t{n}"),
            index.replace("ON t ", &format!("ON t{n} ")),
        );
        s.leader(&format!(
            "CREATE TABLE {table} (a int, b text, c int); ALTER TABLE {table} REPLICA IDENTITY FULL;
             INSERT INTO {table} SELECT i % 20, 'b' || i % 10, nullif(i % 4, 0) FROM generate_series(1, 200) i"
        ))
        .await;
        s.follower(&format!(
            "CREATE TABLE {table} (c int, a int, b text); {index}"
        ))
        .await;
        tables.push(table);
    }
    s.start();
    for table in &tables {
        for step in [
            "UPDATE t SET b = 'u' WHERE a = 4",
            "DELETE FROM t WHERE ctid IN (SELECT ctid FROM t WHERE a = 5 LIMIT 3)",
            "UPDATE t SET a = NULL WHERE a = 7; INSERT INTO t VALUES (NULL, NULL, NULL), (NULL, NULL, NULL)",
            "DELETE FROM t WHERE a IS NULL AND b = 'b7'; UPDATE t SET c = 1 WHERE c IS NULL AND a = 8; UPDATE t SET a = a + 1 WHERE a < 3",
            "DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t WHERE a IS NULL AND b IS NULL)",
        ] {
            let step = step.replace(" t ", &format!(" {table} "));
            s.leader(&step).await;
        }
    }
    s.caught_up().await;
    for table in &tables {
        let select = format!("(SELECT a, b, c FROM {table})");
        assert_equal(&s.from, &s.to, &[&select]).await;
    }
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_the_follower_has_no_unique_index_for_is_said_with_the_index() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY, b int)").await;
    s.follower("CREATE TABLE t (a int, b int); CREATE INDEX ON t (a)")
        .await;
    s.start();
    s.halts(&["public.t", "no unique index", "CREATE UNIQUE INDEX"])
        .await;
    s.stop_halted();
    s.follower("CREATE UNIQUE INDEX ON t (a)").await;
    s.start();
    s.leader("INSERT INTO t VALUES (1, 1), (2, 2)").await;
    s.leader("UPDATE t SET b = 3 WHERE a = 1; DELETE FROM t WHERE a = 2")
        .await;
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_and_generated_columns_do_not_disturb_full_identity() {
    let mut s = Scenario::new().await;
    s.leader(
        "CREATE TABLE dropped (a int, gone int, b int); ALTER TABLE dropped REPLICA IDENTITY FULL; ALTER TABLE dropped DROP gone;
         CREATE TABLE computed (a int, b int GENERATED ALWAYS AS (a + 1) STORED); ALTER TABLE computed REPLICA IDENTITY FULL;
         INSERT INTO dropped VALUES (1, 2); INSERT INTO computed VALUES (1)",
    )
    .await;
    s.follower(
        "CREATE TABLE dropped (b int, gone text, a int, gone2 int); ALTER TABLE dropped DROP gone, DROP gone2;
         CREATE TABLE computed (a int, b int GENERATED ALWAYS AS (a + 1) STORED)",
    )
    .await;
    s.start();
    s.leader("UPDATE dropped SET a = 2; UPDATE computed SET a = 3; INSERT INTO dropped VALUES (9, 9); DELETE FROM dropped WHERE a = 2")
        .await;
    s.caught_up().await;
    assert_equal(&s.from, &s.to, &["(SELECT a, b FROM dropped)", "computed"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_changes_while_changes_go_on_is_followed() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL, c text); CREATE UNIQUE INDEX t_b ON t (b); INSERT INTO t SELECT i, i, 'x' FROM generate_series(1, 9) i")
        .await;
    s.follower("CREATE TABLE t (a int PRIMARY KEY, b int UNIQUE, c text)")
        .await;
    s.start();
    s.equal(&["t"]).await;
    for identity in ["FULL", "USING INDEX t_b", "DEFAULT"] {
        s.leader(&format!("ALTER TABLE t REPLICA IDENTITY {identity}"))
            .await;
        s.leader("UPDATE t SET c = c || 'y' WHERE a < 5; UPDATE t SET a = a + 10, b = b + 20 WHERE a % 3 = 0; DELETE FROM t WHERE a = (SELECT max(a) FROM t)")
            .await;
        s.equal(&["t"]).await;
    }
    s.leader("ALTER TABLE t REPLICA IDENTITY USING INDEX t_b; DROP INDEX t_b")
        .await;
    s.leader("INSERT INTO t VALUES (100, 100, 'inserts only')")
        .await;
    // Postgres refuses updates and deletes now; what happens to the insert must be said or applied.
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn temporal_keys_find_their_rows() {
    let what = "WITHOUT OVERLAPS";
    let Some(mut s) = Scenario::since(18, what, "").await else {
        return;
    };
    s.both("CREATE EXTENSION btree_gist").await;
    let tables = "CREATE TABLE keyed (id int4range, valid_at daterange, a text, PRIMARY KEY (id, valid_at WITHOUT OVERLAPS));
         CREATE TABLE whole (id int4range, valid_at daterange, a text, PRIMARY KEY (id, valid_at WITHOUT OVERLAPS));
         ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE by_unique (id int NOT NULL, valid_at daterange NOT NULL, a text, UNIQUE (id, valid_at WITHOUT OVERLAPS));
         ALTER TABLE by_unique REPLICA IDENTITY FULL;";
    s.both(tables).await;
    s.leader("CREATE TABLE made (id int, valid_at daterange, a text, PRIMARY KEY (id, valid_at WITHOUT OVERLAPS))")
        .await;
    let rows = "('[1,2)', '[2018-01-02,2018-02-03)', 'foo'), ('[1,2)', '[2018-02-03,)', 'bar'), ('[2,3)', '[,2020-01-01)', 'baz')";
    let ids = "(1, '[2018-01-02,2018-02-03)', 'foo'), (1, '[2018-02-03,)', 'bar'), (2, '[,2020-01-01)', 'baz')";
    s.leader(&format!(
        "INSERT INTO keyed VALUES {rows}; INSERT INTO whole VALUES {rows}; INSERT INTO by_unique VALUES {ids}; INSERT INTO made VALUES {ids}"
    ))
    .await;
    s.start();
    let names = ["keyed", "whole", "by_unique", "made"];
    s.equal(&names).await;
    for table in names {
        s.leader(&format!(
            "UPDATE {table} SET a = 'changed' WHERE a = 'foo'; UPDATE {table} SET valid_at = '[2019-01-01,)' WHERE a = 'bar';
             DELETE FROM {table} WHERE a = 'baz'"
        ))
        .await;
        s.leader(&format!(
            "BEGIN; DELETE FROM {table} WHERE a = 'bar'; INSERT INTO {table} SELECT id, '[2018-06-01,2018-07-01)', 'split' FROM {table};
             INSERT INTO {table} SELECT id, '[2018-07-01,)', 'split 2' FROM {table} WHERE a = 'changed'; COMMIT"
        ))
        .await;
    }
    s.equal(&names).await;
    s.end().await;
}
