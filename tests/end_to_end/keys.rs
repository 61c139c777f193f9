//! Key changes, swaps, chains, cycles, and what replica identities carry.

use crate::support::{Pipeline, Postgres, assert_equal, wait_caught_up};

/// Each step is one leader transaction. The follower must be equal after every single one, and after
/// all of them at once.
const STEPS: &[&str] = &[
    "INSERT INTO t SELECT i, i, 'row ' || i, repeat(md5(i::text), 400) FROM generate_series(1, 30) i",
    // A key change with an unchanged TOAST value.
    "UPDATE t SET id = 101 WHERE id = 1",
    // A chain.
    "UPDATE t SET id = 200 WHERE id = 3; UPDATE t SET id = 3 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 4",
    // A cycle over a temporary key.
    "UPDATE t SET id = -1 WHERE id = 5; UPDATE t SET id = 5 WHERE id = 6; UPDATE t SET id = 6 WHERE id = -1",
    // A swap of a secondary unique column.
    "UPDATE t SET u = -7 WHERE id = 7; UPDATE t SET u = 7 WHERE id = 8; UPDATE t SET u = 8 WHERE id = 7",
    // The same key deleted and inserted again, with TOAST values around.
    "DELETE FROM t WHERE id = 9; INSERT INTO t VALUES (9, 9, 'again', repeat('y', 9000)); UPDATE t SET note = 'touched' WHERE id = 9",
    // Moved, changed, moved on.
    "UPDATE t SET id = 110, note = 'moved' WHERE id = 10; UPDATE t SET note = 'changed' WHERE id = 110; UPDATE t SET id = 10 WHERE id = 110",
    // Moved and deleted; another row takes the old key.
    "UPDATE t SET id = 111 WHERE id = 11; DELETE FROM t WHERE id = 111; INSERT INTO t VALUES (11, 1011, 'other', NULL)",
    // A deleted row's key taken by a moved row.
    "DELETE FROM t WHERE id = 12; UPDATE t SET id = 12 WHERE id = 13",
    // Savepoints that are rolled back leave nothing.
    "SAVEPOINT a; DELETE FROM t; ROLLBACK TO a; UPDATE t SET note = 'kept' WHERE id = 14",
    // Unchanged TOAST next to a change, many times.
    "UPDATE t SET note = note || '!' WHERE id > 14; UPDATE t SET note = note || '?' WHERE id > 20",
    "UPDATE t SET big = NULL WHERE id = 15; UPDATE t SET big = repeat('z', 10000) WHERE id = 16; UPDATE t SET note = 'n' WHERE id IN (15, 16)",
    "DELETE FROM t WHERE id BETWEEN 20 AND 25",
];

async fn check(identity: &str) {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    let create = "CREATE TABLE t (id int PRIMARY KEY, u int NOT NULL UNIQUE, note text, big text);
                  ALTER TABLE t ALTER COLUMN big SET STORAGE EXTERNAL;";
    leader
        .sql(&format!(
            "{create} ALTER TABLE t REPLICA IDENTITY {identity}"
        ))
        .await;
    follower.sql(create).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    for step in STEPS {
        from.batch_execute(&format!("BEGIN; {step}; COMMIT"))
            .await
            .unwrap();
        wait_caught_up(&from, &to, "a").await;
        assert_equal(&from, &to, &["t"]).await;
    }
    // All at once: one follower transaction for as much as possible.
    assert_eq!(walferry.terminate(), 0);
    from.batch_execute("DELETE FROM t").await.unwrap();
    for step in STEPS {
        from.batch_execute(&format!("BEGIN; {step}; COMMIT"))
            .await
            .unwrap();
    }
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["t"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_swaps_chains_and_cycles_with_identity_default() {
    check("DEFAULT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_swaps_chains_and_cycles_with_identity_full() {
    check("FULL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_swaps_chains_and_cycles_with_identity_index() {
    check("USING INDEX t_u_key").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_a_key_keeps_its_duplicates() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE nokey (a int, f float8, j json, p point, t text);
             ALTER TABLE nokey REPLICA IDENTITY FULL;
             INSERT INTO nokey SELECT i % 3, 'NaN', '{\"k\": 1}', '(1,2)', NULL FROM generate_series(1, 9) i;",
        )
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    for step in [
        "DELETE FROM nokey WHERE ctid = (SELECT min(ctid) FROM nokey WHERE a = 1)",
        "UPDATE nokey SET t = 'one of them' WHERE ctid = (SELECT min(ctid) FROM nokey WHERE a = 2)",
        "INSERT INTO nokey VALUES (NULL, '-0', NULL, NULL, ''), (NULL, '-0', NULL, NULL, '')",
        "DELETE FROM nokey WHERE ctid = (SELECT min(ctid) FROM nokey WHERE a IS NULL); UPDATE nokey SET a = 7 WHERE a = 0",
    ] {
        from.batch_execute(step).await.unwrap();
        wait_caught_up(&from, &to, "a").await;
        assert_equal(&from, &to, &["nokey"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_updates_cannot_be_told_apart_is_refused_before_anything_is_changed() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql("CREATE TABLE nothing (a int)").await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let walferry = pipeline.run();
    crate::support::until("the source halts and names the table", || async {
        let output = walferry.output();
        if output.contains("public.nothing") && output.contains("REPLICA IDENTITY") {
            Ok(())
        } else {
            Err(output)
        }
    })
    .await;
    let client = leader.client().await;
    let slots: i64 = client
        .query_one("SELECT count(*) FROM pg_replication_slots", &[])
        .await
        .unwrap()
        .get(0);
    let publications: i64 = client
        .query_one("SELECT count(*) FROM pg_publication", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!((slots, publications), (0, 0));
}
