//! Followers built anew from Kafka: to the present, to a position in the past, and some tables only.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::Client;

use crate::support::http::{comes_into, part};
use crate::support::{Pipeline, Postgres, Walferry, assert_equal, until, wait_caught_up};

const TABLES: &[&str] = &["items", "events"];
/// Rows of `items`, all of them copied first.
const ITEMS: i32 = 500;

async fn leader() -> Postgres {
    let leader = Postgres::start_with("leader", &["track_commit_timestamp=on"]);
    leader
        .sql(&format!(
            "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL, note text NOT NULL);
             CREATE TABLE events (number int NOT NULL, item int NOT NULL);
             ALTER TABLE events REPLICA IDENTITY FULL;
             INSERT INTO items SELECT i, 0, repeat('x', 100) FROM generate_series(1, {ITEMS}) i;"
        ))
        .await;
    leader
}

/// Transaction `number`: an event, and an item that it counts up. Where the leader is behind it.
async fn write(leader: &Client, number: i32) -> String {
    let item = number * 7 % ITEMS + 1;
    leader
        .batch_execute(&format!(
            "BEGIN; INSERT INTO events VALUES ({number}, {item});
             UPDATE items SET n = n + 1 WHERE id = {item}; COMMIT"
        ))
        .await
        .unwrap();
    let lsn = leader
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .await
        .unwrap();
    lsn.get(0)
}

/// What a follower shows of the transactions written: how many, the last one, and what they added.
async fn shows(follower: &Client) -> (i64, i32, i64) {
    let row = follower
        .query_one(
            "SELECT count(*), coalesce(max(number), 0), (SELECT sum(n) FROM items) FROM events",
            &[],
        )
        .await
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// What it shows when it has the first `number` transactions and no other.
fn exactly(number: i32) -> (i64, i32, i64) {
    (number.into(), number, number.into())
}

async fn position(follower: &Client) -> Option<String> {
    let row = follower
        .query_one("SELECT lsn::text FROM walferry.position", &[])
        .await
        .unwrap();
    row.get(0)
}

/// A pipeline with copies of both tables in Kafka, and behind them `transactions` that it meets as a
/// backlog, so that entries hold many of them. Gives where the leader was behind each.
async fn with_backlog(
    (leader, followers): (&Postgres, &[&Postgres]),
    sink: &str,
    transactions: i32,
) -> (Pipeline, Walferry, Vec<String>) {
    let pipeline = Pipeline::with(leader, followers, "", sink);
    let from = leader.client().await;
    let walferry = pipeline.run();
    for (follower, name) in followers.iter().zip(["a", "b"]) {
        wait_caught_up(&from, &follower.client().await, name).await;
    }
    assert_eq!(walferry.terminate(), 0);
    let mut lsns = Vec::new();
    for number in 1..=transactions {
        lsns.push(write(&from, number).await);
    }
    let walferry = pipeline.run();
    for (follower, name) in followers.iter().zip(["a", "b"]) {
        wait_caught_up(&from, &follower.client().await, name).await;
    }
    (pipeline, walferry, lsns)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_rebuilt_to_a_position_shows_exactly_that_and_stays_until_it_is_resumed() {
    let (leader, one, other) = (
        leader().await,
        Postgres::start("follower"),
        Postgres::start("follower"),
    );
    let (pipeline, walferry, lsns) = with_backlog((&leader, &[&one, &other]), "", 400).await;
    let (from, to) = (leader.client().await, one.client().await);
    for number in [137, 1, 399, 250] {
        let lsn = &lsns[number - 1];
        let said = pipeline.do_it(&["rebuild", "a", "--to-lsn", lsn]);
        assert!(said.contains("stays there"), "{said}");
        let number = i32::try_from(number).unwrap();
        assert_eq!(shows(&to).await, exactly(number));
        assert_eq!(position(&to).await.as_ref(), Some(lsn));
    }
    comes_into(&pipeline, "a", "paused").await;
    // It stays there while the leader goes on, and after a crash.
    write(&from, 401).await;
    wait_caught_up(&from, &other.client().await, "b").await;
    walferry.kill();
    let walferry = pipeline.run();
    write(&from, 402).await;
    wait_caught_up(&from, &other.client().await, "b").await;
    comes_into(&pipeline, "a", "paused").await;
    assert_eq!(shows(&to).await, exactly(250));
    let (code, said) = pipeline.say(&["resync", "a", "items"]);
    assert!(code == 2 && said.contains("sink resume"), "{said}");

    let said = pipeline.do_it(&["sink", "resume", "a"]);
    assert!(said.contains("follows the leader again"), "{said}");
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(shows(&to).await, exactly(402));
    assert_equal(&from, &to, TABLES).await;
    comes_into(&pipeline, "a", "streaming").await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_is_moved_on_step_by_step_and_stays_at_each() {
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    let (pipeline, walferry, lsns) = with_backlog((&leader, &[&follower]), "", 400).await;
    let (from, to) = (leader.client().await, follower.client().await);
    let lsn = |number: usize| lsns[number - 1].as_str();
    pipeline.do_it(&["rebuild", "a", "--to-lsn", lsn(100)]);
    // Steps inside of one entry, to where it stands already, and one that a crash interrupts.
    for number in [101, 103, 103, 250] {
        let said = pipeline.do_it(&["replay", "--into", "a", "--to-lsn", lsn(number)]);
        assert!(said.contains("stays there"), "{said}");
        assert_eq!(shows(&to).await, exactly(i32::try_from(number).unwrap()));
    }
    let xmin = "SELECT xmin::text FROM events WHERE number = 300";
    let xid: String = from.query_one(xmin, &[]).await.unwrap().get(0);
    let range = ["--from-lsn", lsn(250), "--before-transaction", &xid];
    pipeline.do_it(&[&["replay", "--into", "a"], &range[..]].concat());
    assert_eq!(shows(&to).await, exactly(299));
    let stands = position(&to).await.unwrap();
    for (arguments, part) in [
        (
            ["--from-lsn", lsn(290), "--to-lsn", lsn(310)],
            "leave --from-lsn out",
        ),
        (["--from-lsn", &stands, "--to-lsn", lsn(298)], "goes back"),
        (["--from-lsn", &stands, "--to-lsn", "FFFF/0"], "is beyond"),
    ] {
        let (code, said) = pipeline.say(&[&["replay", "--into", "a"], &arguments[..]].concat());
        assert!(code == 2 && said.contains(part), "{said}");
        assert_eq!(shows(&to).await, exactly(299));
    }
    let (code, said) = pipeline.say(&["replay", "--into", "a", "--json"]);
    assert!(
        code == 2 && said.contains("do not go with --into a"),
        "{said}"
    );
    let (code, said) = pipeline.say(&["replay", "--into", "nobody", "--to-lsn", lsn(310)]);
    assert!(code == 2 && said.contains("no sink nobody"), "{said}");

    // To the end of the log as it is, and no further.
    walferry.kill();
    let walferry = pipeline.run();
    pipeline.do_it(&["replay", "--into", "a"]);
    assert_eq!(shows(&to).await, exactly(400));
    comes_into(&pipeline, "a", "paused").await;
    write(&from, 401).await;
    pipeline.do_it(&["sink", "resume", "a"]);
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_goes_on_after_every_kill_and_counts_nothing_twice() {
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    // Chunks smaller than an entry: the part of one that is wanted is many of them.
    let small = "batch_max_bytes = \"64KiB\"";
    let (pipeline, mut walferry, lsns) = with_backlog((&leader, &[&follower]), small, 2_000).await;
    let (from, to) = (leader.client().await, follower.client().await);
    for (round, point) in [
        "RowsLoaded",
        "BeforeEffect",
        "InEffect",
        "ChunkApplied",
        "BeforeCommit",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(walferry.terminate(), 0);
        let number = 700 + 250 * round;
        let lsn = &lsns[number - 1];
        pipeline.do_it(&["rebuild", "a", "--detach", "--to-lsn", lsn]);
        let dying = Mutex::new(pipeline.run_until(point));
        // Where the target lies in its entry decides whether there is a chunk before the last one.
        until(
            &format!("walferry dies at {point}, or has no more to do"),
            || async {
                if dying.lock().unwrap().ended().is_some() {
                    return Ok(());
                }
                match part(&pipeline, "a").await?["state"].as_str() {
                    Some("paused") => Ok(()),
                    _other => Err(dying.lock().unwrap().output()),
                }
            },
        )
        .await;
        dying.into_inner().unwrap().kill();
        walferry = pipeline.run();
        comes_into(&pipeline, "a", "paused").await;
        assert_eq!(
            shows(&to).await,
            exactly(i32::try_from(number).unwrap()),
            "{point}"
        );
    }
    pipeline.do_it(&["rebuild", "a"]);
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_broken_on_one_follower_is_copied_anew_while_all_else_goes_on() {
    let (leader, one, other) = (
        leader().await,
        Postgres::start("follower"),
        Postgres::start("follower"),
    );
    let (pipeline, walferry, _) = with_backlog((&leader, &[&one, &other]), "", 50).await;
    let (from, to) = (leader.client().await, one.client().await);
    let ways = [
        &["resync", "a", "items"][..],
        &["resync", "a", "items", "--fresh"],
        &["rebuild", "a", "--tables", "items"],
    ];
    for (round, arguments) in ways.into_iter().enumerate() {
        one.sql(
            "DELETE FROM items WHERE id % 3 = 0; UPDATE items SET note = 'broken' WHERE id % 3 = 1",
        )
        .await;
        let untouched = "SELECT string_agg(xmin::text || ctid::text, ',' ORDER BY number) FROM events \
            WHERE number <= 50";
        let before: String = to.query_one(untouched, &[]).await.unwrap().get(0);
        let stop = AtomicBool::new(false);
        let writing = async {
            let writer = leader.client().await;
            let mut number = 1_000_000 * i32::try_from(round + 1).unwrap();
            while !stop.load(Ordering::Relaxed) {
                write(&writer, number).await;
                number += 1;
            }
        };
        let resyncing = async {
            let mut command = pipeline.command(arguments);
            let output = tokio::task::spawn_blocking(move || command.output().unwrap());
            let output = output.await.unwrap();
            stop.store(true, Ordering::Relaxed);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            assert!(said.contains("the others go on"), "{said}");
        };
        tokio::join!(writing, resyncing);
        wait_caught_up(&from, &to, "a").await;
        assert_equal(&from, &to, TABLES).await;
        let after: String = to.query_one(untouched, &[]).await.unwrap().get(0);
        assert_eq!(before, after, "rows of the other table were written again");
    }
    let others = walferry.output();
    let others = others
        .matches("sink goes on from its checkpoint sink=b")
        .count();
    assert_eq!(others, 1, "b was not to notice");
    for tables in [&["nowhere"][..], &["items", "nowhere"]] {
        let (code, said) = pipeline.say(&[&["resync", "a"], tables].concat());
        assert!(code == 2 && said.contains("nowhere"), "{said}");
        assert!(said.contains("public.events, public.items"), "{said}");
    }
    let both = ["rebuild", "a", "--tables", "items", "--to-lsn", "0/1"];
    let (code, said) = pipeline.say(&both);
    assert!(code == 2 && said.contains("shows one boundary"), "{said}");
    let (code, said) = pipeline.say(&["rebuild", "c"]);
    assert!(code == 2 && said.contains("name one of: a, b"), "{said}");
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_kafka_does_not_reach_is_refused_before_anything_changes() {
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    let (pipeline, walferry, _) = with_backlog((&leader, &[&follower]), "", 20).await;
    let (from, to) = (leader.client().await, follower.client().await);
    for (lsn, part) in [
        (
            "0/1",
            "no copy from before 0/1 of public.events, public.items",
        ),
        ("FFFF/0", "is beyond"),
        ("17", "LSN"),
    ] {
        let (code, said) = pipeline.say(&["rebuild", "a", "--to-lsn", lsn]);
        assert!(code == 2 && said.contains(part), "{code} {said}");
    }
    assert_eq!(shows(&to).await, exactly(20));
    write(&from, 21).await;
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(shows(&to).await, exactly(21));
    // What is told to be the earliest can be had.
    let history: serde_json::Value =
        serde_json::from_str(&pipeline.do_it(&["history", "--json"])).unwrap();
    let earliest = history["earliest"]["lsn"].as_str().unwrap();
    pipeline.do_it(&["rebuild", "a", "--to-lsn", earliest]);
    assert_eq!(shows(&to).await, exactly(0));
    assert_eq!(position(&to).await.as_deref(), Some(earliest));
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_and_a_transaction_name_the_position_too() {
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    let pipeline = Pipeline::with(&leader, &[&follower], "partitions = 3", "");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(walferry.terminate(), 0);
    let mut told = Vec::new();
    for number in 1..=60 {
        write(&from, number).await;
        // Commit times in milliseconds name one transaction only where the next one is later.
        let row = from
            .query_one(
                "SELECT xmin::text, to_char(pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC', \
                    'YYYY-MM-DD\"T\"HH24:MI:SS.MS') FROM events WHERE number = $1",
                &[&number],
            )
            .await
            .unwrap();
        told.push((row.get::<_, String>(0), row.get::<_, String>(1)));
    }
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let xid = told[29].0.as_str();
    pipeline.do_it(&["rebuild", "a", "--to-transaction", xid]);
    assert_eq!(shows(&to).await, exactly(30));
    pipeline.do_it(&["rebuild", "a", "--before-transaction", xid]);
    assert_eq!(shows(&to).await, exactly(29));
    // The last transaction of the same millisecond, as the time's digits end there.
    let time = told[39].1.as_str();
    let last = told.iter().rposition(|(_, other)| other == time).unwrap() + 1;
    pipeline.do_it(&["rebuild", "a", "--to-time", time]);
    assert_eq!(shows(&to).await, exactly(i32::try_from(last).unwrap()));
    // A time that is not over yet: all there is.
    pipeline.do_it(&["rebuild", "a", "--to-time", "2999-01-01 00:00:00"]);
    assert_eq!(shows(&to).await, exactly(60));
    for (arguments, part) in [
        (
            ["--to-transaction", "4000000000"],
            "no change of transaction",
        ),
        (["--to-time", "yesterday"], "in UTC"),
    ] {
        let (code, said) = pipeline.say(&[&["rebuild", "a"], &arguments[..]].concat());
        assert!(code == 2 && said.contains(part), "{code} {said}");
    }
    assert_eq!(walferry.terminate(), 0);
}
