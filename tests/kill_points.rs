//! The process dies at every place between two durable states, and starts again: nothing is lost,
//! doubled or torn.

#[path = "support/mod.rs"]
mod support;

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use support::{DEADLINE, Pipeline, Postgres, Walferry, assert_equal, wait_caught_up};
use tokio_postgres::Client;
use walferry::killpoint::Point;

/// SIGABRT: how a process ends that kills itself.
const ABORTED: i32 = 6;
/// How much WAL may wait for the process: what a slow machine reads soon.
const AHEAD_BYTES: i64 = 8 << 20;
/// Points tried at a time.
const AT_ONCE: usize = 6;

/// How often each point is passed before the process dies: the first time it is one of the copy, of
/// an empty log, of a first transaction; later ones are amid the stream.
fn times(point: Point) -> &'static [u32] {
    match point {
        Point::TopicsMade
        | Point::PublicationMade
        | Point::SlotMade
        | Point::BeforeEpochEntry
        | Point::AfterEpochEntry
        | Point::CopyBegun
        | Point::CopySnapshot
        | Point::CopyChunk
        | Point::CopyRowsAcked
        | Point::CopyEnded
        | Point::BeforeIndex
        | Point::IndexBuilt
        | Point::BeforeEffect
        | Point::InEffect
        | Point::FollowerHeld
        | Point::ChunkApplied => &[1],
        Point::RowsLoaded => &[1, 2],
        Point::BeforeFeedback | Point::AfterFeedback | Point::EntrySent | Point::EntryAcked => {
            &[2, 9]
        }
        Point::BeforeSend | Point::AfterSend => &[2, 40],
        Point::BatchAcked
        | Point::BeforeBegin
        | Point::BeforeCommit
        | Point::AfterCommit
        | Point::CommitSent
        | Point::BeforeProgress => &[1, 4],
        // Of stores without transactions over tables: tests/sinks.
        Point::RowsInserted => &[],
        // Of a command: tests/end_to_end/beside.rs.
        Point::BesideMade | Point::BesideLevel | Point::BesideRenaming | Point::BesideRenamed => {
            &[]
        }
    }
}

const TABLES: &[&str] = &["accounts", "ledger", "documents"];

const SCHEMA: &str =
    "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL DEFAULT 1000);
     CREATE TABLE ledger (id bigserial PRIMARY KEY, source int REFERENCES accounts, target int REFERENCES accounts, amount int);
     CREATE TABLE documents (id int PRIMARY KEY, title text UNIQUE, body text);
     INSERT INTO accounts SELECT i FROM generate_series(1, 50) i;
     INSERT INTO documents SELECT i, i::text, string_agg(md5(i::text || j), '')
       FROM generate_series(1, 200) i, generate_series(1, 80) j GROUP BY i";

/// One transaction of the load: a transfer, a swap of unique values by way of a third, a changed key
/// around an unchanged large value, and now and then more than a chunk: not for ever, or a slow machine is busy
/// with no more than copying what was added.
fn transaction(n: u32) -> String {
    let (a, b, d) = (n % 50 + 1, (n * 7 + 1) % 50 + 1, n % 199 + 1);
    let large = if n % 10 == 5 && n < 200 {
        format!(
            "INSERT INTO documents SELECT {n} * 10000 + i, {n} || '/' || i, repeat(md5(i::text), 40)
               FROM generate_series(1, 300) i;"
        )
    } else {
        String::new()
    };
    format!(
        "BEGIN;
         UPDATE accounts SET balance = balance - 3 WHERE id = {a};
         UPDATE accounts SET balance = balance + 3 WHERE id = {b};
         INSERT INTO ledger (source, target, amount) VALUES ({a}, {b}, 3);
         UPDATE documents SET title = 'swap {n}' WHERE id = {d};
         UPDATE documents SET title = {d} WHERE id = {d} + 1;
         UPDATE documents SET title = {d} + 1 WHERE id = {d};
         UPDATE documents SET id = -id WHERE id = {d};
         {large}
         UPDATE documents SET id = -id WHERE id = -{d};
         UPDATE documents SET title = 't ' || id || ' {n}' WHERE id IN ({d}, {d} + 1);
         COMMIT"
    )
}

/// A follower whose tables are all in effect shows accounts that agree with the ledger.
async fn shows_a_boundary(follower: &Client, case: &str) {
    let known = "SELECT to_regclass('walferry.checkpoint') IS NOT NULL";
    let is_known: bool = follower.query_one(known, &[]).await.unwrap().get(0);
    if !is_known {
        return;
    }
    let in_effect = "SELECT count(*) FROM walferry.checkpoint
                     WHERE jsonb_array_length(state -> 'in_effect') = 3";
    let all: i64 = follower.query_one(in_effect, &[]).await.unwrap().get(0);
    if all == 0 {
        return;
    }
    let query = "SELECT count(*) FROM accounts a WHERE balance <> 1000
                   + (SELECT coalesce(sum(amount), 0) FROM ledger WHERE target = a.id)
                   - (SELECT coalesce(sum(amount), 0) FROM ledger WHERE source = a.id)";
    let torn: i64 = follower.query_one(query, &[]).await.unwrap().get(0);
    assert_eq!(torn, 0, "{case}: a transaction is torn at the follower");
}

/// Writes transactions until the process has died, never far ahead of what it has read; how many.
async fn write_until_dead(
    leader: &Client,
    pipeline: &str,
    walferry: &mut Walferry,
    case: &str,
) -> u32 {
    let unread = "SELECT sum(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn))::bigint
                  FROM pg_replication_slots WHERE slot_name = 'walferry_' || $1";
    let end = std::time::Instant::now() + DEADLINE;
    let mut written = 0;
    loop {
        let unread: Option<i64> = leader.query_one(unread, &[&pipeline]).await.unwrap().get(0);
        if unread.map_or(written < 50, |bytes| bytes < AHEAD_BYTES) {
            leader.batch_execute(&transaction(written)).await.unwrap();
            written += 1;
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if let Some(status) = walferry.ended() {
            let how = walferry.output();
            assert_eq!(status.signal(), Some(ABORTED), "{case}: {status}\n{how}");
            return written;
        }
        assert!(
            std::time::Instant::now() < end,
            "{case}: never passed\n{}",
            walferry.output()
        );
    }
}

async fn dies_and_goes_on(leader: &Postgres, follower: &Postgres, point: Point, times: u32) {
    let case = format!("{point:?}:{times}");
    let database = format!("{point:?}_{times}").to_lowercase();
    for server in [leader, follower] {
        server.sql(&format!("CREATE DATABASE {database}")).await;
    }
    let from = leader.client_on(&database).await;
    let to = follower.client_on(&database).await;
    from.batch_execute(SCHEMA).await.unwrap();
    let pipeline = Pipeline::new(leader, &[follower]);
    let (source, sink) = (leader.url(&database), follower.url(&database));
    // The leader's UNIQUE constraint is what there is to build.
    let builds = matches!(point, Point::BeforeIndex | Point::IndexBuilt);
    let indexes = if builds { "indexes = \"unique\"\n" } else { "" };
    let verifies = match point {
        Point::FollowerHeld => "verify_every = \"1s\"\n",
        _others => "",
    };
    pipeline.write(
        "connectors/leader.toml",
        &format!(
            "kind = \"postgres-source\"\nurl = \"{source}\"\ncopy.group_max_bytes = \"64KiB\"\n"
        ),
    );
    pipeline.write(
        "connectors/a.toml",
        &format!("kind = \"postgres\"\nurl = \"{sink}\"\nbatch_max_bytes = \"64KiB\"\n{indexes}{verifies}"),
    );

    let mut dying = pipeline.run_until(&case);
    let written = write_until_dead(&from, &pipeline.name, &mut dying, &case).await;
    shows_a_boundary(&to, &case).await;
    for n in written..written + 20 {
        from.batch_execute(&transaction(n)).await.unwrap();
    }
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    shows_a_boundary(&to, &case).await;
    assert_equal(&from, &to, TABLES).await;
    assert_eq!(walferry.terminate(), 0, "{case}");
    drop((from, to));
    let slot = format!(
        "SELECT pg_drop_replication_slot('walferry_{}')",
        pipeline.name
    );
    leader.sql(&slot).await;
    for server in [leader, follower] {
        server.sql(&format!("DROP DATABASE {database}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_between_any_two_durable_states_loses_doubles_and_tears_nothing() {
    let leader = Postgres::start("leader");
    let follower = Postgres::start("follower");
    let mut cases = Point::ALL
        .into_iter()
        .flat_map(|point| times(point).iter().map(move |times| (point, *times)))
        .collect::<Vec<_>>()
        .into_iter();
    let turns = std::sync::Mutex::new(&mut cases);
    let worker = async || {
        loop {
            let next = turns.lock().unwrap().next();
            let Some((point, times)) = next else { return };
            dies_and_goes_on(&leader, &follower, point, times).await;
        }
    };
    futures_util::future::join_all((0..AT_ONCE).map(|_| worker())).await;
}
