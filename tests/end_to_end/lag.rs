//! Lag is never a lie: idle, busy, with a paused follower, with a dead leader.

use crate::support::http::{self, get};
use crate::support::{Pipeline, Postgres, until, wait_caught_up};

/// The value of a metric of sink `a`, if it is there.
async fn metric(pipeline: &Pipeline, name: &str) -> Option<f64> {
    http::metric(pipeline, name, Some("a")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_is_zero_when_idle_grows_with_a_paused_follower_and_is_absent_without_a_leader() {
    let (mut leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE t (id serial PRIMARY KEY, v text)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    until("lag is zero on an idle leader", || async {
        let lag = (
            metric(&pipeline, "walferry_sink_lag_bytes").await,
            metric(&pipeline, "walferry_sink_lag_seconds").await,
        );
        if lag == (Some(0.0), Some(0.0)) {
            Ok(())
        } else {
            Err(format!("{lag:?}"))
        }
    })
    .await;
    assert_eq!(get(&pipeline, "/readyz").await.unwrap().0, 200);

    // Somebody holds a lock on the follower: lag grows by what the leader writes, in bytes and seconds.
    let locker = follower.client().await;
    locker
        .batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let before = from
        .query_one("SELECT (pg_current_wal_flush_lsn() - '0/0')::float8", &[])
        .await
        .unwrap()
        .get::<_, f64>(0);
    from.batch_execute("INSERT INTO t (v) SELECT repeat('x', 100) FROM generate_series(1, 2000)")
        .await
        .unwrap();
    let after = from
        .query_one("SELECT (pg_current_wal_flush_lsn() - '0/0')::float8", &[])
        .await
        .unwrap()
        .get::<_, f64>(0);
    until("lag is what was written, and some seconds old", || async {
        let bytes = metric(&pipeline, "walferry_sink_lag_bytes")
            .await
            .ok_or("lag_bytes is absent")?;
        let seconds = metric(&pipeline, "walferry_sink_lag_seconds")
            .await
            .ok_or("lag_seconds is absent")?;
        let staleness = metric(&pipeline, "walferry_sink_staleness_seconds")
            .await
            .ok_or("staleness is absent")?;
        // The leader's own background writes come on top.
        let plausible = bytes >= after - before && bytes < (after - before) + 300_000.0;
        if plausible && seconds > 2.0 && staleness >= seconds {
            Ok(())
        } else {
            Err(format!("{bytes} {seconds} {staleness}"))
        }
    })
    .await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    wait_caught_up(&from, &to, "a").await;
    until("lag is zero again", || async {
        match metric(&pipeline, "walferry_sink_lag_seconds").await {
            Some(0.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    leader.stop();
    until(
        "without a leader lag is absent, staleness grows, and readyz says why",
        || async {
            let lag = (
                metric(&pipeline, "walferry_sink_lag_bytes").await,
                metric(&pipeline, "walferry_sink_lag_seconds").await,
            );
            let staleness = metric(&pipeline, "walferry_sink_staleness_seconds").await;
            let (status, body) = get(&pipeline, "/readyz").await?;
            if lag == (None, None) && staleness > Some(3.0) && status == 503 {
                Ok(())
            } else {
                Err(format!("{lag:?} {staleness:?} {status} {body}"))
            }
        },
    )
    .await;
    leader.start_again();
    let from = leader.client().await;
    wait_caught_up(&from, &to, "a").await;
    until("everything is well again", || async {
        match (
            metric(&pipeline, "walferry_sink_lag_bytes").await,
            get(&pipeline, "/readyz").await?.0,
        ) {
            (Some(0.0), 200) => Ok(()),
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
