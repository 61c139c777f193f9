//! `walferry verify` compares both servers at one boundary; for a moment the follower stands there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Client;

use super::verify::{of, verify};
use crate::support::http::{get, metric, part};
use crate::support::{Pipeline, Postgres, Walferry, until, wait_caught_up};

/// What `walferry verify` names its locks by.
const LOCKS: i32 = 0x7761_6c66;

const HOT: &str = "
    CREATE TABLE hot (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, v text, doc text);
    ALTER TABLE hot ALTER doc SET STORAGE EXTERNAL;
    INSERT INTO hot SELECT i, 0, 'x', repeat(md5(i::text), 100) FROM generate_series(1, 200) i;
    CREATE TABLE heap (a bigint, b text);
    ALTER TABLE heap REPLICA IDENTITY FULL;
    INSERT INTO heap SELECT i, 'x' FROM generate_series(1, 40) i;
    ANALYZE";

/// How often every row is changed: as often as a small machine can follow.
const EVERY: Duration = Duration::from_millis(200);

/// Updates every row again and again, but one; how often.
async fn heat(client: Client, rest: i32, stop: Arc<AtomicBool>) -> u64 {
    let mut rounds = 0;
    let mut pace = tokio::time::interval(EVERY);
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        rounds += 1;
        let all = format!(
            "UPDATE hot SET n = n + 1, v = md5(n::text) WHERE id % 2 = {rest} AND id <> 100;
             UPDATE heap SET a = a + 2 WHERE a % 2 = {rest}"
        );
        client.batch_execute(&all).await.unwrap();
    }
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_never_rest_are_compared_as_exactly_as_others() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(HOT).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for rest in 0..2 {
        writers.push(tokio::spawn(heat(
            leader.client().await,
            rest,
            stop.clone(),
        )));
    }
    let mut boundaries = Vec::new();
    for _ in 0..5 {
        let (code, text) = verify(&pipeline, &["--json"]).await;
        assert_eq!(code, Some(0), "{text}");
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(of(&report, "public.hot")["rows"], 200, "{text}");
        let boundary = of(&report, "public.hot")["boundary"].as_str().unwrap();
        boundaries.push(boundary.parse::<walferry::model::Lsn>().unwrap());
    }
    assert!(boundaries.is_sorted_by(|a, b| a < b), "{boundaries:?}");

    // Updates do not bring `doc`, as it does not change; every other cell of a hot row is soon the leader's again.
    to.batch_execute(
        "UPDATE hot SET doc = overlay(doc placing '?' from 3000 for 1) WHERE id = 17;
         DELETE FROM hot WHERE id = 100;
         INSERT INTO hot VALUES (-5, 0, 'x', 'y')",
    )
    .await
    .unwrap();
    let (code, text) = verify(&pipeline, &["--json"]).await;
    assert_eq!(code, Some(3), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let hot = of(&report, "public.hot");
    let keys = |kind: &str| hot[kind]["keys"].to_string();
    assert_eq!(keys("different"), r#"[["17"]]"#);
    assert_eq!(keys("missing"), r#"[["100"]]"#);
    assert_eq!(keys("extra"), r#"[["-5"]]"#);
    let heap = of(&report, "public.heap");
    assert_eq!(heap["missing"]["count"], 0, "{heap}");
    assert_eq!(heap["extra"]["count"], 0, "{heap}");

    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        assert!(writer.await.unwrap() > 10, "there was load");
    }
    let retries = metric(&pipeline, "walferry_sink_retries_total", Some("a")).await;
    assert_eq!(retries, Some(0.0), "an order is no error");
    assert_eq!(walferry.terminate(), 0);
}

const SMALL: &str = "CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t DEFAULT VALUES";

/// A pipeline whose follower has its tables.
async fn caught_up() -> (Postgres, Postgres, Pipeline, Walferry) {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(SMALL).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let walferry = pipeline.run();
    wait_caught_up(&leader.client().await, &follower.client().await, "a").await;
    (leader, follower, pipeline, walferry)
}

/// Orders the follower as `walferry verify` does: to stand at the leader's end, for so long at most, while this
/// session has the lock. The boundary; the leader has written since.
async fn hold(leader: &Client, follower: &Client, longest: &str) -> String {
    // With the checkpoint locked it cannot be beyond already.
    let lock = "BEGIN; SELECT FROM walferry.checkpoint FOR UPDATE";
    follower.batch_execute(lock).await.unwrap();
    let insert = "INSERT INTO t DEFAULT VALUES";
    leader.batch_execute(insert).await.unwrap();
    let end = "SELECT pg_current_wal_insert_lsn()::text";
    let at: String = leader.query_one(end, &[]).await.unwrap().get(0);
    leader.batch_execute(insert).await.unwrap();
    follower
        .batch_execute(&format!(
            "SELECT pg_advisory_lock({LOCKS}, 7);
             UPDATE walferry.checkpoint SET version = version + 1, state = state || jsonb_build_object(
                'version', version + 1,
                'hold', jsonb_build_object('at', '{at}', 'lock', 7, 'until_us',
                    (extract(epoch FROM clock_timestamp() + '{longest}'::interval) * 1000000)::bigint));
             COMMIT"
        ))
        .await
        .unwrap();
    at
}

async fn stands_at(follower: &Client, at: &str) {
    until(&format!("the follower stands at {at}"), || async {
        let shows = "SELECT applied::text, state -> 'hold' ->> 'at' FROM walferry.checkpoint";
        let row = follower.query_one(shows, &[]).await.unwrap();
        let shown: (String, Option<String>) = (row.get(0), row.get(1));
        let is_there = shown.0 == at && shown.1.as_deref() == Some(at);
        is_there.then_some(()).ok_or(format!("{shown:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_stands_as_long_as_somebody_wants_it_to_and_no_longer_than_its_time() {
    let (leader, follower, pipeline, walferry) = caught_up().await;
    let (from, to) = (leader.client().await, follower.client().await);
    let holder = follower.client().await;

    // Whoever held it has gone, in whatever way.
    let at = hold(&from, &holder, "1 hour").await;
    stands_at(&to, &at).await;
    let sink = part(&pipeline, "a").await.unwrap();
    assert_eq!(sink["state"], "streaming", "{sink}");
    let (code, not_ready) = get(&pipeline, "/readyz").await.unwrap();
    assert_eq!(code, 200, "{not_ready}");
    drop(holder);
    wait_caught_up(&from, &to, "a").await;

    // It wants it for ever.
    let holder = follower.client().await;
    let at = hold(&from, &holder, "2 s").await;
    stands_at(&to, &at).await;
    wait_caught_up(&from, &to, "a").await;
    holder
        .batch_execute("SELECT pg_advisory_unlock_all()")
        .await
        .unwrap();

    // An operator wants it to follow, or to be built anew.
    hold(&from, &holder, "1 hour").await;
    let said = pipeline.do_it(&["sink", "resume", "a"]);
    assert!(said.contains("follows the leader again"), "{said}");
    wait_caught_up(&from, &to, "a").await;
    let at = hold(&from, &holder, "1 hour").await;
    stands_at(&to, &at).await;
    pipeline.do_it(&["rebuild", "a"]);
    wait_caught_up(&from, &to, "a").await;

    // Somebody else who verifies waits for their turn.
    let at = hold(&from, &holder, "1 hour").await;
    stands_at(&to, &at).await;
    let (code, text) = verify(&pipeline, &["--patience", "300ms"]).await;
    assert_eq!(code, Some(1), "{text}");
    drop(holder);
    let (code, text) = verify(&pipeline, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    let retries = metric(&pipeline, "walferry_sink_retries_total", Some("a")).await;
    assert_eq!(retries, Some(0.0), "an order is no error");
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_held_by_a_comparison_that_is_killed_goes_on_by_itself() {
    let (leader, follower, pipeline, walferry) = caught_up().await;
    let (from, to) = (leader.client().await, follower.client().await);
    let mut killed = pipeline.command(&["verify"]);
    let output = killed
        .env("WALFERRY_DIE_AT", "FollowerHeld")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), None, "killed: {output:?}");
    wait_caught_up(&from, &to, "a").await;
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'walferry_verify%'";
    until("the slot is gone", || async {
        let slots: i64 = from.query_one(slots, &[]).await.unwrap().get(0);
        (slots == 0).then_some(()).ok_or(format!("{slots} slots"))
    })
    .await;
    let (code, text) = verify(&pipeline, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_the_leader_from_giving_a_snapshot_is_named() {
    let settings = ["max_replication_slots=2"];
    let leader = Postgres::start_with("leader", &settings);
    let follower = Postgres::start("follower");
    leader.sql(SMALL).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;

    let writer = leader.client().await;
    writer
        .batch_execute("SET application_name = 'month end'; BEGIN; INSERT INTO t DEFAULT VALUES")
        .await
        .unwrap();
    let pid = "SELECT pg_backend_pid()";
    let pid: i32 = writer.query_one(pid, &[]).await.unwrap().get(0);
    let (code, text) = verify(&pipeline, &["--patience", "1s"]).await;
    assert_eq!(code, Some(1), "{text}");
    for said in [
        &format!("of process {pid}, application_name month end, open since 20"),
        &format!("SELECT pg_terminate_backend({pid})"),
        "--patience",
    ] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    // Nobody was held for it.
    from.batch_execute("INSERT INTO t DEFAULT VALUES")
        .await
        .unwrap();
    wait_caught_up(&from, &to, "a").await;
    let log = walferry.output();
    assert!(!log.contains("an order stands in the checkpoint"), "{log}");
    writer.batch_execute("COMMIT").await.unwrap();
    let (code, text) = verify(&pipeline, &[]).await;
    assert_eq!(code, Some(0), "{text}");

    from.batch_execute("SELECT pg_create_physical_replication_slot('standby')")
        .await
        .unwrap();
    let (code, text) = verify(&pipeline, &[]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("max_replication_slots"), "{text}");
    from.batch_execute("INSERT INTO t DEFAULT VALUES")
        .await
        .unwrap();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_truncated_before_its_turn_is_compared_at_a_later_boundary() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text);
             INSERT INTO a SELECT i, 'x' FROM generate_series(1, 20000) i;
             INSERT INTO b SELECT i, 'x' FROM generate_series(1, 100) i; ANALYZE",
        )
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let slowly = ["--json", "--max-rows-per-second", "5000"];
    let comparison = verify(&pipeline, &slowly);
    let meanwhile = async {
        let reads = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity USING (pid)
            WHERE relation = 'a'::regclass AND application_name = 'walferry verify leader'";
        until("table a is read", || async {
            let reads: i64 = from.query_one(reads, &[]).await.unwrap().get(0);
            (reads > 0).then_some(()).ok_or(String::new())
        })
        .await;
        let anew = "TRUNCATE b; INSERT INTO b SELECT i, 'y' FROM generate_series(1, 50) i";
        from.batch_execute(anew).await.unwrap();
    };
    let ((code, text), ()) = tokio::join!(comparison, meanwhile);
    assert_eq!(code, Some(0), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let lsn = |table: &str| -> walferry::model::Lsn {
        let boundary = of(&report, table)["boundary"].as_str().unwrap();
        boundary.parse().unwrap()
    };
    assert!(lsn("public.a") < lsn("public.b"), "{text}");
    assert_eq!(of(&report, "public.b")["rows"], 50, "{text}");
    assert_eq!(walferry.terminate(), 0);
}
