//! Large transactions and large values in flat memory.

use crate::support::{Pipeline, Postgres, assert_equal, wait_caught_up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_a_million_rows_is_one_follower_transaction_in_flat_memory() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE many (id int PRIMARY KEY, v text); CREATE TABLE few (id int PRIMARY KEY)",
        )
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    from.batch_execute(
        "BEGIN; INSERT INTO many SELECT i, 'row number ' || i FROM generate_series(1, 1000000) i;
         INSERT INTO few VALUES (1); COMMIT",
    )
    .await
    .unwrap();
    // At no look is there a part of it.
    loop {
        let row = to
            .query_one(
                "SELECT (SELECT count(*) FROM many), (SELECT count(*) FROM few)",
                &[],
            )
            .await
            .unwrap();
        match (row.get::<_, i64>(0), row.get::<_, i64>(1)) {
            (0, 0) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            whole => {
                assert_eq!(whole, (1_000_000, 1));
                break;
            }
        }
    }
    wait_caught_up(&from, &to, "a").await;
    let peak = walferry.peak_memory_bytes();
    assert!(peak < 300 << 20, "peak memory {} MiB", peak >> 20);
    // The aborted one leaves nothing; a large one of updates and deletes arrives whole.
    from.batch_execute("BEGIN; DELETE FROM many; ROLLBACK")
        .await
        .unwrap();
    from.batch_execute(
        "BEGIN; UPDATE many SET v = v || '!' WHERE id <= 200000; DELETE FROM many WHERE id > 900000; COMMIT",
    )
    .await
    .unwrap();
    wait_caught_up(&from, &to, "a").await;
    let sums = "(SELECT count(*), sum(id::bigint), sum(hashtext(v)::bigint) FROM many)";
    assert_equal(&from, &to, &[sums, "few"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_larger_than_a_kafka_record_arrive_whole() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE huge (id int PRIMARY KEY, v text, b bytea);
             INSERT INTO huge SELECT 1, string_agg(md5(i::text), ''), NULL FROM generate_series(1, 200000) i;",
        )
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    leader
        .sql(
            "INSERT INTO huge SELECT 2, string_agg(md5(i::text), E'\\n\"'), decode(repeat('00ff', 1000000), 'hex') FROM generate_series(1, 300000) i;
             UPDATE huge SET id = id + 10;
             INSERT INTO huge VALUES (1, 'small', NULL);
             UPDATE huge SET v = v || v WHERE id = 11",
        )
        .await;
    wait_caught_up(&from, &to, "a").await;
    assert_equal(
        &from,
        &to,
        &["(SELECT id, length(v), md5(v), md5(b) FROM huge)"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_postgres_itself_cannot_send_halts_the_source_with_its_place() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE t (id int PRIMARY KEY, b bytea);
             ALTER TABLE t ALTER b SET STORAGE external; INSERT INTO t VALUES (1, 'before')",
        )
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let before: String = from
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .await
        .unwrap()
        .get(0);
    from.batch_execute("INSERT INTO t VALUES (2, convert_to(repeat('x', 600 << 20), 'UTF8'))")
        .await
        .unwrap();
    let halt = walferry.says("halted").await;
    let place = before.split('/').next().unwrap();
    for part in ["1 GiB", &format!("while decoding the change at {place}/")] {
        assert!(halt.contains(part), "{part} in {halt}");
    }
    assert_eq!(walferry.terminate(), 3);

    // As the remedy says: a new pipeline. Its copy meets the same row, names the table, and is tried
    // again by itself; the stream goes on meanwhile.
    let fresh = Postgres::start("fresh");
    let to = fresh.client().await;
    let pipeline = Pipeline::new(&leader, &[&fresh]);
    let walferry = pipeline.run();
    let failed = walferry.says("the copy failed").await;
    assert!(
        failed.contains("table public.t") && failed.contains("1 GiB"),
        "{failed}"
    );
    assert_eq!(walferry.terminate(), 0);
    from.batch_execute("UPDATE t SET b = 'small' WHERE id = 2")
        .await
        .unwrap();
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["t"]).await;
}
