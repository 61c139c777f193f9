//! A broker that stands still while there is much to send.

use std::time::Duration;

use crate::support::kafka::Kafka;
use crate::support::process::cpu_seconds;
use crate::support::{Pipeline, Postgres, assert_equal, wait_caught_up};

/// How long the broker stands still: shorter than any session or request lasts.
const STALL: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_is_waited_for_at_rest() {
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
        let (first, last) = (n * 20_000 + 1, n * 20_000 + 1000);
        leader.sql(&format!("{rows}({first}, {last}) i")).await;
    }
    let before = cpu_seconds(walferry.pid());
    tokio::time::sleep(STALL).await;
    let used = cpu_seconds(walferry.pid()) - before;
    kafka.signal("CONT");
    // Some 40,000 rows are encoded meanwhile; a thread that polls without a pause takes all of it.
    let half = STALL.as_secs_f64() / 2.0;
    assert!(used < half, "{used} s of CPU in {STALL:?}");
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["t"]).await;
    assert_eq!(walferry.terminate(), 0);
}
