//! Memory is bounded whatever waits: Kafka away, large transactions, large values.
//!
//! Sizes are those of a quick run; `./dev bounds` runs the same with a release build at full size.

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use support::http::metric;
use support::{Kafka, Pipeline, Postgres, assert_equal, until, wait_caught_up};

/// Sizes of this run: quick, or what the promises are stated for.
fn sized(quick: u64, full: u64) -> u64 {
    match std::env::var("WALFERRY_BOUNDS").as_deref() {
        Ok("full") => full,
        Ok(_) | Err(_) => quick,
    }
}

/// Prints a figure of this run.
fn figure(what: &str, value: u64, unit: &str) {
    println!("{what}: {value} {unit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_away_while_the_leader_writes_costs_wal_on_the_leader_and_no_memory() {
    let mut kafka = Kafka::start("kafka");
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE written (id bigserial PRIMARY KEY, v text)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    pipeline.use_kafka(&kafka.bootstrap);
    let (from, to) = (leader.client().await, follower.client().await);
    let source = pipeline.run_only(&["leader"]);
    let sink = pipeline.twin().run_only(&["a"]);
    wait_caught_up(&from, &to, "a").await;

    kafka.kill();
    let megabytes = sized(200, 2000);
    let mut seen = 0.0;
    for tenth in 0..10 {
        let rows = megabytes * 100;
        from.batch_execute(&format!(
            "INSERT INTO written (v) SELECT repeat(md5(i::text), 31) FROM generate_series(1, {rows}) i"
        ))
        .await
        .unwrap();
        if tenth % 3 == 2 {
            seen = until("what the leader retains is seen to rise", || async {
                let retained = metric(&pipeline, "walferry_source_slot_retained_bytes", None).await;
                let grown = retained.filter(|retained| *retained > seen + 10_000_000.0);
                grown.ok_or(format!("{retained:?} after {seen}"))
            })
            .await;
        }
    }
    figure(
        "WAL seen retained while Kafka was away",
        seen as u64 >> 20,
        "MiB",
    );
    let away = source.memory_bytes();
    kafka.start_again();
    wait_caught_up_within(&from, &to, megabytes).await;
    let sums = "(SELECT count(*), sum(id), sum(hashtext(v)::bigint) FROM written)";
    assert_equal(&from, &to, &[sums]).await;
    let peaks = (source.peak_memory_bytes(), sink.peak_memory_bytes());
    figure(
        "memory of the source while Kafka was away",
        away >> 20,
        "MiB",
    );
    figure("peak memory of the source", peaks.0 >> 20, "MiB");
    figure("peak memory of the sink", peaks.1 >> 20, "MiB");
    assert!(peaks.0 < 300 << 20 && peaks.1 < 300 << 20, "{peaks:?}");
}

async fn count(client: &tokio_postgres::Client) -> u64 {
    let row = client.query_one("SELECT count(*) FROM written", &[]).await;
    u64::try_from(row.unwrap().get::<_, i64>(0)).unwrap()
}

/// The common deadline is for small things.
async fn wait_caught_up_within(
    from: &tokio_postgres::Client,
    to: &tokio_postgres::Client,
    megabytes: u64,
) {
    let end = std::time::Instant::now() + Duration::from_secs(60 + megabytes);
    let wanted = count(from).await;
    while count(to).await < wanted {
        assert!(std::time::Instant::now() < end, "not caught up in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    wait_caught_up(from, to, "a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_millions_of_rows_passes_in_flat_memory_and_is_one_at_the_follower() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE written (id int PRIMARY KEY, v text)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let source = pipeline.run_only(&["leader"]);
    let sink = pipeline.twin().run_only(&["a"]);
    wait_caught_up(&from, &to, "a").await;
    let rows = sized(200_000, 5_000_000);
    from.batch_execute(&format!(
        "INSERT INTO written SELECT i, 'row number ' || i FROM generate_series(1, {rows}) i"
    ))
    .await
    .unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(60 + rows / 10_000);
    loop {
        match count(&to).await {
            0 => assert!(std::time::Instant::now() < end, "nothing has come"),
            whole => {
                assert_eq!(whole, rows, "a part of a transaction is seen");
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let peaks = (source.peak_memory_bytes(), sink.peak_memory_bytes());
    figure("rows of the transaction", rows, "");
    // Of glibc, a thread would have one each.
    for (part, process) in [("source", &source), ("sink", &sink)] {
        let arenas = process.arena_regions();
        assert!((1..=2).contains(&arenas), "arenas of the {part}: {arenas}");
    }
    figure("peak memory of the source", peaks.0 >> 20, "MiB");
    figure("peak memory of the sink", peaks.1 >> 20, "MiB");
    assert!(peaks.0 < 300 << 20 && peaks.1 < 300 << 20, "{peaks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_rows_arrive_whole_or_are_refused_with_their_name() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE huge (id int PRIMARY KEY, b bytea, t1 text, t2 text, t3 text, t4 text, t5 text, t6 text)",
        )
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let source = pipeline.run_only(&["leader"]);
    let sink = pipeline.twin().run_only(&["a"]);
    wait_caught_up(&from, &to, "a").await;
    let bytes = sized(5 << 20, 50 << 20);
    from.batch_execute(&format!(
        "INSERT INTO huge (id, b) VALUES (1, decode(repeat('00ff', {bytes} / 2), 'hex'));
         INSERT INTO huge (id, t1, t2, t3, t4, t5, t6)
           SELECT 2, t, t, t, t, t, t FROM (SELECT repeat('0123456789', {bytes} / 10) t) x"
    ))
    .await
    .unwrap();
    wait_caught_up(&from, &to, "a").await;
    let content = "(SELECT id, md5(b), md5(t1), md5(t6), length(t1) + length(t6) FROM huge)";
    assert_equal(&from, &to, &[content]).await;
    figure("largest row", (6 * bytes) >> 20, "MiB");
    figure(
        "peak memory of the source",
        source.peak_memory_bytes() >> 20,
        "MiB",
    );
    figure(
        "peak memory of the sink",
        sink.peak_memory_bytes() >> 20,
        "MiB",
    );
}
