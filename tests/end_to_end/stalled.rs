//! A broker that stands still while there is much to send.

use std::time::Duration;

use crate::support::http::metric;
use crate::support::kafka::Kafka;
use crate::support::process::cpu_seconds_but_for;
use crate::support::{Pipeline, Postgres, assert_equal, until, wait_caught_up};

/// How long the broker stands still at least: shorter than any session or request lasts.
const STALL: Duration = Duration::from_secs(6);
/// Threads that are librdkafka's: it does not rest behind a part of a burst (`turns`).
const THEIRS: &str = "rdk:";
/// Where the source has read to, and where Kafka has what was read.
const READ: &str = "walferry_source_received_lsn_bytes";
const PUBLISHED: &str = "walferry_source_published_lsn_bytes";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_is_waited_for_at_rest_and_the_leader_is_read() {
    let kafka = Kafka::start("stalled");
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    pipeline.use_kafka(&kafka.bootstrap);
    let walferry = pipeline.run();
    let (from, to) = (leader.client().await, follower.client().await);
    wait_caught_up(&from, &to, "a").await;
    // Rows that are on their way when it stops, and rows that come then.
    let rows = "INSERT INTO t SELECT i, repeat(md5(i::text), 8) FROM generate_series";
    leader.sql(&format!("{rows}(1, 20000) i")).await;
    kafka.signal("STOP");
    for n in 1..=20 {
        let (first, last) = (n * 20_000 + 1, n * 20_000 + 500);
        leader.sql(&format!("{rows}({first}, {last}) i")).await;
    }
    let before = cpu_seconds_but_for(walferry.pid(), THEIRS);
    tokio::time::sleep(STALL).await;
    let used = cpu_seconds_but_for(walferry.pid(), THEIRS) - before;
    let end = from
        .query_one("SELECT (pg_current_wal_lsn() - '0/0')::float8", &[])
        .await
        .expect("the leader says where it is")
        .get::<_, f64>(0);
    until("the leader is read to its end", async || {
        let read = metric(&pipeline, READ, None).await;
        let is_there = read.is_some_and(|read| read >= end);
        is_there.then_some(()).ok_or(format!("{read:?} of {end}"))
    })
    .await;
    let published = metric(&pipeline, PUBLISHED, None).await;
    assert!(published < Some(end), "{published:?} of {end}");
    kafka.signal("CONT");
    // Some 30,000 rows are encoded meanwhile; a thread that goes on without a pause takes all of it.
    let half = STALL.as_secs_f64() / 2.0;
    assert!(used < half, "{used} s of CPU in {STALL:?}");
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["t"]).await;
    assert_eq!(walferry.terminate(), 0);
}
