//! What the metrics count, against what the databases say.

use crate::support::http::{self, series};
use crate::support::{Pipeline, Postgres, until, wait_caught_up};

/// Waits until a look at all metrics succeeds; it says what is wrong.
async fn shows<T>(pipeline: &Pipeline, what: &str, look: impl Fn(&str) -> Result<T, String>) -> T {
    until(what, || async {
        let text = http::scrape(pipeline).await?;
        look(&text).map_err(|wrong| format!("{wrong}\n{text}"))
    })
    .await
}

/// Whether a value is there and close enough.
fn is(found: Option<f64>, wanted: f64, tolerance: f64, what: &str) -> Result<(), String> {
    let close = found.is_some_and(|found| (found - wanted).abs() <= tolerance);
    close
        .then_some(())
        .ok_or_else(|| format!("{what}: {found:?}, not {wanted}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_say_what_the_servers_say() {
    let (mut leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE t (id serial PRIMARY KEY, v text)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;

    shows(&pipeline, "an idle pipeline is current and safe", |text| {
        for of in ["entries", "changes", "bytes"] {
            let name = format!("walferry_sink_waiting_{of}");
            is(series(text, &name, &[]), 0.0, 0.0, &name)?;
        }
        is(
            series(text, "walferry_source_slot_active", &[]),
            1.0,
            0.0,
            "slot active",
        )?;
        let status = |name| series(text, "walferry_source_slot_wal_status", &[name]);
        is(status("status=\"reserved\""), 1.0, 0.0, "reserved")?;
        is(status("status=\"lost\""), 0.0, 0.0, "lost")?;
        // Both run on this machine, so on one clock.
        let offset = series(text, "walferry_source_clock_offset_seconds", &[]);
        is(offset, 0.0, 0.5, "clock offset")?;
        // kafka.retention is a week if not set, and nothing older than some seconds is needed.
        let headroom = series(text, "walferry_sink_retention_headroom_seconds", &[]);
        is(headroom, 7.0 * 86_400.0 - 5.0, 5.0, "retention headroom")?;
        let copies = series(text, "walferry_source_copied_rows", &[]);
        copies
            .is_none()
            .then_some(())
            .ok_or_else(|| "a copy is under way".to_owned())
    })
    .await;

    // Somebody holds a lock on the follower while the leader writes 60 rows.
    let locker = follower.client().await;
    locker
        .batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    for rows in [10, 20, 30] {
        let insert = format!("INSERT INTO t (v) SELECT 'x' FROM generate_series(1, {rows})");
        from.batch_execute(&insert).await.unwrap();
    }
    let flush = "SELECT (pg_current_wal_flush_lsn() - '0/0')::float8";
    let applied = "SELECT (applied - '0/0')::float8 FROM walferry.checkpoint";
    until(
        "60 changes wait in Kafka, and lag is what SQL computes",
        || async {
            let text = http::scrape(&pipeline).await?;
            let behind = from.query_one(flush, &[]).await.unwrap().get::<_, f64>(0)
                - to.query_one(applied, &[]).await.unwrap().get::<_, f64>(0);
            let found = |name: &str| series(&text, name, &["sink=\"a\""]);
            is(
                found("walferry_sink_waiting_changes"),
                60.0,
                0.0,
                "changes waiting",
            )?;
            is(
                found("walferry_sink_waiting_entries"),
                2.0,
                1.0,
                "entries waiting",
            )?;
            // The leader writes a record of its running transactions now and then.
            is(found("walferry_sink_lag_bytes"), behind, 1000.0, "lag")?;
            let bytes = found("walferry_sink_waiting_bytes");
            bytes
                .filter(|bytes| *bytes > 60.0 * 100.0)
                .ok_or(format!("{bytes:?} bytes wait"))?;
            let seconds = found("walferry_sink_lag_seconds");
            seconds
                .filter(|s| *s > 2.0)
                .map(drop)
                .ok_or(format!("{seconds:?} seconds"))
        },
    )
    .await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    wait_caught_up(&from, &to, "a").await;

    from.batch_execute("UPDATE t SET v = 'y' WHERE id <= 5; DELETE FROM t WHERE id IN (6, 7)")
        .await
        .unwrap();
    wait_caught_up(&from, &to, "a").await;
    from.batch_execute(
        "DO $$ BEGIN FOR n IN 1..10 LOOP UPDATE t SET v = n::text WHERE id = 8; END LOOP; END $$",
    )
    .await
    .unwrap();
    wait_caught_up(&from, &to, "a").await;
    shows(
        &pipeline,
        "what was applied is counted by what it was",
        |text| {
            for of in ["entries", "changes", "bytes"] {
                let name = format!("walferry_sink_waiting_{of}");
                is(series(text, &name, &[]), 0.0, 0.0, &name)?;
            }
            let rows = |op| series(text, "walferry_sink_rows_written_total", &[op]);
            is(rows("op=\"insert\""), 60.0, 0.0, "inserted")?;
            is(rows("op=\"update\""), 6.0, 0.0, "updated")?;
            is(rows("op=\"delete\""), 2.0, 0.0, "deleted")?;
            is(
                series(text, "walferry_sink_coalesced_total", &[]),
                9.0,
                0.0,
                "coalesced",
            )?;
            let batches = series(text, "walferry_sink_batches_total", &[]).unwrap_or(-1.0);
            for histogram in [
                "sink_batch_changes",
                "sink_commit_to_visible_seconds",
                "sink_stage_seconds",
            ] {
                let count = series(text, &format!("walferry_{histogram}_count"), &[]);
                is(count, batches, 0.0, histogram)?;
            }
            // The lock was held for more than two seconds; nothing else was.
            let visible = |le| {
                series(
                    text,
                    "walferry_sink_commit_to_visible_seconds_bucket",
                    &[le],
                )
            };
            let (quick, all) = (visible("le=\"1\""), visible("le=\"+Inf\""));
            (quick < all)
                .then_some(())
                .ok_or(format!("{quick:?} of {all:?} took up to a second"))?;
            let durable = series(text, "walferry_source_commit_to_durable_seconds_count", &[]);
            let published = series(text, "walferry_source_publish_seconds_count", &[]);
            (durable >= Some(3.0) && durable == published)
                .then_some(())
                .ok_or(format!("{durable:?} of {published:?} batches durable"))
        },
    )
    .await;

    leader.stop();
    shows(
        &pipeline,
        "of a leader that cannot be asked nothing is said",
        |text| {
            for name in [
                "slot_active",
                "slot_wal_status",
                "slot_retained_bytes",
                "clock_offset_seconds",
            ] {
                if let Some(value) = series(text, &format!("walferry_source_{name}"), &[]) {
                    return Err(format!("{name}: {value}"));
                }
            }
            Ok(())
        },
    )
    .await;
}
