//! The leader's tables are renamed, moved and dropped, and the follower's with them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio_postgres::Client;

use crate::load::{load, more};
use crate::support::{Pipeline, Postgres, Walferry, assert_equal, wait_caught_up};

const TABLE: &str = "CREATE TABLE t (id bigserial PRIMARY KEY, a text, n int NOT NULL DEFAULT 0);
    INSERT INTO t (a) SELECT 'old ' || i FROM generate_series(1, 200) i;";

/// A leader with these tables, and a follower that has them.
async fn begin(tables: &str, partitions: u32) -> (Postgres, Postgres, Pipeline, Walferry) {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(tables).await;
    let source = format!("partitions = {partitions}");
    let pipeline = Pipeline::with(&leader, &[&follower], &source, "");
    let walferry = pipeline.run();
    wait_caught_up(&leader.client().await, &follower.client().await, "a").await;
    (leader, follower, pipeline, walferry)
}

async fn oid(client: &Client, table: &str) -> Option<u32> {
    let query = "SELECT to_regclass($1)::oid";
    client.query_one(query, &[&table]).await.unwrap().get(0)
}

/// No such table.
const OTHER_NAME: [&str; 1] = ["42P01"];

/// What writes a table under each of its names.
fn writes(names: &[&str]) -> Vec<String> {
    let write = |t: &&str| {
        format!(
            "INSERT INTO {t} (a) VALUES ('new'); UPDATE {t} SET n = n + 1 WHERE id % 40 = 3;
             DELETE FROM {t} WHERE id = (SELECT min(id) FROM {t})"
        )
    };
    names.iter().map(write).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_renamed_under_load_keeps_its_rows_and_what_the_follower_has_on_top() {
    let (leader, follower, pipeline, walferry) = begin(TABLE, 3).await;
    let (from, to) = (leader.client().await, follower.client().await);
    follower
        .sql("CREATE INDEX own ON t (n); CREATE VIEW looks AS SELECT count(*) FROM t")
        .await;
    let kept = oid(&to, "t").await;
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let statements = writes(&["t", "u", "moved.u"]);
    tokio::join!(
        load(&leader, &statements, &OTHER_NAME, &stop, &written),
        async {
            more(&written).await;
            leader.sql("ALTER TABLE t RENAME TO u").await;
            more(&written).await;
            pipeline.do_it(&["reload"]);
            walferry
                .says("is renamed as the leader's old=public.t new=public.u")
                .await;
            more(&written).await;
            leader
                .sql("CREATE SCHEMA moved; ALTER TABLE u SET SCHEMA moved; ALTER TABLE moved.u ADD b int")
                .await;
            more(&written).await;
            pipeline.do_it(&["reload"]);
            walferry
                .says("is renamed as the leader's old=public.u new=moved.u")
                .await;
            more(&written).await;
            stop.store(true, Ordering::Relaxed);
        }
    );
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["moved.u"]).await;
    assert_eq!(oid(&to, "moved.u").await, kept, "it is the same table");
    assert_eq!(oid(&to, "t").await, None);
    let query = "SELECT (SELECT * FROM looks) = (SELECT count(*) FROM moved.u), to_regclass('moved.own') IS NOT NULL";
    let row = to.query_one(query, &[]).await.unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, bool>(1));
    let output = walferry.output();
    for table in ["public.u", "moved.u"] {
        let copied = format!("table copied part=\"a\" table=\"{table}\"");
        assert!(!output.contains(&copied), "{output}");
    }

    // Whoever comes later finds what it needs.
    assert_eq!(walferry.terminate(), 0);
    let walferry = pipeline.run();
    pipeline.do_it(&["rebuild", "a"]);
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["moved.u"]).await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_walferry_killed_at_each_new_name_of_a_table_that_is_written_loses_and_copies_nothing() {
    let (leader, follower, pipeline, walferry) = begin(TABLE, 2).await;
    let (from, to) = (leader.client().await, follower.client().await);
    walferry.kill();
    let kept = oid(&to, "t").await;
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let names = ["t", "u", "v"];
    let statements = writes(&names);
    let copied = tokio::join!(
        load(&leader, &statements, &OTHER_NAME, &stop, &written),
        async {
            let mut copied = 0;
            for n in 0..7 {
                let (old, new) = (names[n % 3], names[(n + 1) % 3]);
                more(&written).await;
                leader
                    .sql(&format!("ALTER TABLE {old} RENAME TO {new}"))
                    .await;
                more(&written).await;
                let walferry = pipeline.run();
                // The sink is about to pass the entry, or has just passed it.
                walferry.says("streaming epoch").await;
                copied += walferry.output().matches("table copied part=\"a\"").count();
                walferry.kill();
            }
            stop.store(true, Ordering::Relaxed);
            copied
        }
    );
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["u"]).await;
    assert_eq!(oid(&to, "u").await, kept, "it is the same table");
    assert_eq!((oid(&to, "t").await, oid(&to, "v").await), (None, None));
    let output = walferry.output();
    assert_eq!(
        copied.1 + output.matches("table copied part=\"a\"").count(),
        0,
        "{output}"
    );
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_change_places_while_nobody_runs_are_followed() {
    let tables = "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text, w int);
        INSERT INTO a SELECT i, 'a' FROM generate_series(1, 50) i;
        INSERT INTO b SELECT i, 'b' FROM generate_series(1, 70) i;";
    let (leader, follower, pipeline, walferry) = begin(tables, 1).await;
    let (from, to) = (leader.client().await, follower.client().await);
    let (was_a, was_b) = (oid(&to, "a").await, oid(&to, "b").await);
    assert_eq!(walferry.terminate(), 0);
    leader
        .sql(
            "UPDATE a SET v = 'a before'; UPDATE b SET v = 'b before' WHERE id < 9;
             BEGIN; ALTER TABLE a RENAME TO x; ALTER TABLE b RENAME TO a; ALTER TABLE x RENAME TO b; COMMIT;
             UPDATE a SET v = 'was b' WHERE id = 3; DELETE FROM b WHERE id = 4;
             ALTER TABLE b ADD added int DEFAULT 7; INSERT INTO b VALUES (100, 'late', 8)",
        )
        .await;
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["a", "b"]).await;
    assert_eq!((oid(&to, "b").await, oid(&to, "a").await), (was_a, was_b));
    let output = walferry.output();
    assert!(!output.contains("table copied part=\"a\""), "{output}");
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_not_free_on_the_follower_gets_a_copy_and_hides_nothing() {
    let (leader, follower, pipeline, walferry) = begin(TABLE, 1).await;
    let (from, to) = (leader.client().await, follower.client().await);
    follower
        .sql("CREATE TABLE u (id bigint PRIMARY KEY, a text, n int NOT NULL, own int DEFAULT 1)")
        .await;
    leader
        .sql("ALTER TABLE t RENAME TO u; UPDATE u SET n = 5 WHERE id = 7")
        .await;
    pipeline.do_it(&["reload"]);
    walferry
        .says("the follower has another one of the new name")
        .await;
    leader.sql("UPDATE u SET n = 6 WHERE id = 8").await;
    wait_caught_up(&from, &to, "a").await;
    let sum = "SELECT sum(n), count(*) FROM u";
    let (there, here) = (from.query_one(sum, &[]).await, to.query_one(sum, &[]).await);
    let (there, here) = (there.unwrap(), here.unwrap());
    assert_eq!(there.get::<_, i64>(0), here.get::<_, i64>(0));
    assert_eq!(there.get::<_, i64>(1), here.get::<_, i64>(1));
    assert!(oid(&to, "t").await.is_some(), "the old one stays");
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_the_leader_drops_is_dropped_unless_the_follower_needs_it() {
    let made = ["gone", "needed", "excluded", "anew"].map(|table| {
        format!("CREATE TABLE {table} (id int PRIMARY KEY); INSERT INTO {table} VALUES (1), (2);")
    });
    let (leader, follower, pipeline, walferry) =
        begin(&(TABLE.to_owned() + &made.concat()), 1).await;
    let (from, to) = (leader.client().await, follower.client().await);
    follower
        .sql("CREATE VIEW looks AS SELECT * FROM needed")
        .await;
    let anew = oid(&to, "anew").await;
    assert_eq!(walferry.terminate(), 0);
    let leader_file = pipeline.dir.join("connectors/leader.toml");
    let text = std::fs::read_to_string(leader_file).unwrap();
    let text = format!("{text}\ntables.exclude = [\"public.excluded\"]\n");
    pipeline.write("connectors/leader.toml", &text);
    leader
        .sql(
            "INSERT INTO gone VALUES (3); DROP TABLE gone, needed; DROP TABLE anew;
             CREATE TABLE anew (id int PRIMARY KEY); INSERT INTO anew VALUES (9);
             UPDATE t SET n = 1",
        )
        .await;
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["t", "anew"]).await;
    assert_eq!(oid(&to, "gone").await, None);
    assert_eq!(
        oid(&to, "anew").await,
        anew,
        "emptied and filled, not dropped"
    );
    for table in ["needed", "excluded"] {
        let count = format!("SELECT count(*) FROM {table}");
        let count: i64 = to.query_one(&count, &[]).await.unwrap().get(0);
        assert_eq!(count, 2, "{table}");
    }
    let output = walferry.output();
    assert!(output.contains("depends on; it stays there"), "{output}");

    // The name is free again.
    leader
        .sql("CREATE TABLE gone (id text PRIMARY KEY); INSERT INTO gone VALUES ('new')")
        .await;
    pipeline.do_it(&["reload"]);
    walferry
        .says("tables are in effect sink=a tables=[\"public.gone\"]")
        .await;
    assert_equal(&from, &to, &["gone"]).await;
    assert_eq!(walferry.terminate(), 0);
}
