//! Lag is never a lie: idle, busy, with a paused follower, drained, and without a leader; and in the
//! modules below without a source, without Kafka, with a wrong clock, for a follower added late. What
//! may be said is judged by SQL on both servers (`witness`).

mod clock;
mod late;
mod outages;
mod witness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::Client;

use self::witness::Witness;
use crate::support::http::get;
use crate::support::{Pipeline, Postgres, until, wait_caught_up};

/// How far lag in seconds may be below and above the age of the oldest commit that the follower lacks:
/// samples lie up to 3 s apart, further where the machine is so busy that the sampler stands still, and
/// the leader writes WAL of its own before that commit.
const BELOW_S: f64 = 4.0;
const ABOVE_S: f64 = 10.0;
/// What the leader writes by itself in a moment: a record of its running transactions, and the like.
const OWN_WAL_BYTES: f64 = 1000.0;

/// A leader with a table that the writer below writes into.
async fn leader() -> Postgres {
    let leader = Postgres::start_with("leader", &["track_commit_timestamp=on"]);
    leader
        .sql("CREATE TABLE t (id serial PRIMARY KEY, v text)")
        .await;
    leader
}

/// Writes rows, one a transaction, until it is stopped.
struct Writer {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    async fn start(leader: &Postgres) -> Self {
        let (client, stop) = (leader.client().await, Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                write_row(&client).await;
                // A pace, so that the leader is busy and the disk is not.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Writer { stop, task }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer writes");
    }
}

async fn write_row(client: &Client) {
    let insert = "INSERT INTO t (v) VALUES (repeat('x', 1000))";
    client.batch_execute(insert).await.unwrap();
}

/// A session that holds the follower's table, so that nothing can be applied to it.
async fn pause(follower: &Postgres) -> Client {
    let locker = follower.client().await;
    locker
        .batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    locker
}

async fn number(client: &Client, query: &str) -> f64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// For how long the leader has had a row that is not among the follower's first `rows`: age of its commit.
async fn commit_age_s(leader: &Client, rows: f64) -> f64 {
    let query = format!(
        "SELECT extract(epoch FROM clock_timestamp() - min(pg_xact_commit_timestamp(xmin)))::float8
         FROM t WHERE id > {rows}"
    );
    number(leader, &query).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_is_right_idle_busy_paused_drained_and_unknown_without_a_leader() {
    let (mut leader, follower) = (leader().await, Postgres::start("follower"));
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let mut witness = Witness::new(&pipeline, "a", &leader, &follower);
    witness
        .until("an idle leader is a lag of zero", |now| now.is_zero())
        .await;
    assert_eq!(get(&pipeline, "/readyz").await.unwrap().0, 200);

    let writer = Writer::start(&leader).await;
    let begun = witness
        .until("lag of a busy leader is known", |now| now.bytes.is_some())
        .await;
    // Some hundred rows, so some seconds.
    let more = begun.applied.expect("a checkpoint") + 200_000;
    witness
        .until("the follower of a busy leader gets on", |now| {
            now.applied > Some(more) && now.bytes.is_some() && now.seconds.is_some()
        })
        .await;

    let locker = pause(&follower).await;
    let (paused, later) = witness
        .rises("lag of a paused follower", 4.0, |now| {
            now.seconds.filter(|seconds| *seconds > 2.0)
        })
        .await;
    assert!(later.bytes > paused.bytes, "{paused:#?}\n{later:#?}");
    assert_eq!(paused.applied, later.applied, "the follower is paused");
    // Another clock for the same: the leader's commit timestamps of the rows that are missing.
    let rows = number(&locker, "SELECT coalesce(max(id), 0)::float8 FROM t").await;
    let least = commit_age_s(&from, rows).await - BELOW_S;
    let now = witness
        .until("lag in seconds is known", |now| now.seconds.is_some())
        .await;
    let (seconds, most) = (now.seconds.expect("known"), commit_age_s(&from, rows).await);
    assert!(
        (least..most + ABOVE_S).contains(&seconds),
        "{least} {seconds} {most}"
    );
    writer.end().await;
    witness
        .until(
            "lag in bytes is what SQL computes, once the leader rests",
            |now| {
                let apart = now
                    .bytes
                    .zip(now.misses())
                    .map(|(bytes, sql)| (bytes - sql).abs());
                apart.is_some_and(|bytes| bytes < OWN_WAL_BYTES)
            },
        )
        .await;

    locker.batch_execute("ROLLBACK").await.unwrap();
    wait_caught_up(&from, &to, "a").await;
    witness
        .until("a follower that has drained is at zero", |now| {
            now.is_zero()
        })
        .await;

    leader.stop();
    witness.silence();
    witness
        .until("without a leader lag is unknown", |now| now.is_unknown())
        .await;
    witness
        .rises("staleness without a leader", 4.0, |now| now.staleness)
        .await;
    assert_eq!(get(&pipeline, "/readyz").await.unwrap().0, 503);
    witness.silence_ends();
    leader.start_again();
    wait_caught_up(&leader.client().await, &to, "a").await;
    witness
        .until("everything is well again", |now| now.is_zero())
        .await;
    until("the process is ready", || async {
        match get(&pipeline, "/readyz").await? {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_database_confirms_wal_that_others_write() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    leader.sql("CREATE DATABASE busy").await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let busy = leader.client_on("busy").await;
    busy.batch_execute(
        "CREATE TABLE noise AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)",
    )
    .await
    .unwrap();
    let written: String = from
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .await
        .unwrap()
        .get(0);
    until("the slot moves beyond WAL that is not captured", || async {
        let row = from
            .query_one("SELECT confirmed_flush_lsn >= $1::text::pg_lsn, confirmed_flush_lsn::text FROM pg_replication_slots", &[&written])
            .await
            .unwrap();
        if row.get(0) { Ok(()) } else { Err(format!("{} < {written}", row.get::<_, String>(1))) }
    })
    .await;
}
