//! First copies while writes go on, and followers that join later.

use walferry::log::commit_log::Entry;
use walferry::log::tail::{From, LogTail};
use walferry::model::Oid;
use walferry::source::copy::open_snapshot;

use crate::support::{
    self, Pipeline, Postgres, assert_equal, kafka_settings, until, wait_caught_up,
};

pub const TABLES: &[&str] = &["items", "events"];

pub async fn leader_with_rows() -> Postgres {
    let leader = Postgres::start("leader");
    leader
        .sql(
            "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL, note text);
             CREATE TABLE events (id bigserial PRIMARY KEY, item int, at timestamptz DEFAULT clock_timestamp());
             CREATE TABLE empty_one (id int PRIMARY KEY);
             INSERT INTO items SELECT i, 0, repeat('x', i % 200) FROM generate_series(1, 20000) i;",
        )
        .await;
    leader
}

/// Writes until told to stop; counts its transactions.
pub async fn write_until(leader: &Postgres, stop: &std::sync::atomic::AtomicBool) -> u32 {
    let client = leader.client().await;
    let mut done = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let id = (done * 7919) % 20000 + 1;
        client
            .batch_execute(&format!(
                "BEGIN; UPDATE items SET n = n + 1 WHERE id = {id}; INSERT INTO events (item) VALUES ({id});
                 DELETE FROM items WHERE id = {} AND n = 0; INSERT INTO items VALUES ({}, 1, 'new'); COMMIT",
                (id + 5000) % 20000 + 1,
                100_000 + done
            ))
            .await
            .unwrap();
        done += 1;
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_exist_arrive_while_writes_go_on() {
    let (leader, follower) = (leader_with_rows().await, Postgres::start("follower"));
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let walferry = pipeline.run();
    let (from, to) = (leader.client().await, follower.client().await);
    let (written, ()) = tokio::join!(write_until(&leader, &stop), async {
        wait_caught_up(&from, &to, "a").await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(written > 0);
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    assert_equal(&from, &to, &["empty_one"]).await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_killed_during_the_copy_loses_and_doubles_nothing() {
    let (leader, follower) = (leader_with_rows().await, Postgres::start("follower"));
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let stop = std::sync::atomic::AtomicBool::new(false);
    tokio::join!(write_until(&leader, &stop), async {
        for kill_at in [
            "slot created",
            "copying tables",
            "loading a copy",
            "tables copied",
        ] {
            let walferry = pipeline.run();
            crate::support::until(&format!("the log says {kill_at}"), || async {
                if walferry.output().contains(kill_at) {
                    Ok(())
                } else {
                    Err(walferry.output())
                }
            })
            .await;
            walferry.kill();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_and_a_table_that_join_later_are_copied_without_a_stop() {
    let leader = leader_with_rows().await;
    let (first, second) = (Postgres::start("first"), Postgres::start("second"));
    let pipeline = Pipeline::new(&leader, &[&first]);
    let from = leader.client().await;
    let walferry = pipeline.run();
    wait_caught_up(&from, &first.client().await, "a").await;
    leader
        .sql("UPDATE items SET n = n + 1 WHERE id < 100; DELETE FROM items WHERE id > 19000")
        .await;
    assert_eq!(walferry.terminate(), 0);

    leader.sql("CREATE TABLE late (id int PRIMARY KEY, v text); INSERT INTO late VALUES (1, 'one'), (2, 'two')").await;
    pipeline.write(
        "connectors/b.toml",
        &format!(
            "kind = \"postgres\"\nurl = \"{}\"\n",
            second.url("postgres")
        ),
    );
    let _walferry = pipeline.run();
    for (follower, sink) in [(&first, "a"), (&second, "b")] {
        let to = follower.client().await;
        wait_caught_up(&from, &to, sink).await;
        assert_equal(&from, &to, TABLES).await;
        assert_equal(&from, &to, &["late"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_table_with_rows_of_its_own_is_never_emptied() {
    let (leader, follower) = (leader_with_rows().await, Postgres::start("follower"));
    follower.sql("CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL, note text); INSERT INTO items VALUES (1, 1, 'mine')").await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let walferry = pipeline.run();
    crate::support::until("the sink halts and names the table", || async {
        let output = walferry.output();
        if output.contains("public.items") && output.contains("remedy") {
            Ok(())
        } else {
            Err(output)
        }
    })
    .await;
    let rows = crate::support::content::rows(&follower.client().await, "items").await;
    assert_eq!(rows, ["(1,1,mine)"]);
}

/// How often the log has a finished copy of each of these tables.
pub async fn copies_of(pipeline: &Pipeline, tables: &[&str]) -> Vec<usize> {
    let commits = format!("{}.commits", pipeline.name);
    let mut tail = LogTail::open(&kafka_settings(), &commits, From::Low)
        .await
        .unwrap();
    let (entries, _end) = tail.read_to_end().await.unwrap();
    let ended = |copy: i64| {
        let ends = |entry: &Entry| matches!(entry, Entry::CopyEnd(end) if end.copy == copy);
        entries.iter().any(|(_, entry)| ends(entry))
    };
    let count = |table: &&str| {
        let has = |(offset, entry): &&(i64, Entry)| match entry {
            Entry::CopyBegin(begin) => {
                ended(*offset) && begin.tables.iter().any(|copied| copied.name == **table)
            }
            Entry::Epoch(_) | Entry::Batch(_) | Entry::CopyEnd(_) => false,
        };
        entries.iter().filter(has).count()
    };
    tables.iter().map(count).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_killed_between_two_groups_of_tables_repeats_only_what_was_unfinished() {
    let (leader, follower) = (leader_with_rows().await, Postgres::start("follower"));
    leader
        .sql("INSERT INTO items SELECT i, 0, '' FROM generate_series(20001, 300000) i")
        .await;
    let small = "copy.group_max_bytes = \"64KiB\"";
    let pipeline = Pipeline::with(&leader, &[&follower], small, "");
    let walferry = pipeline.run();
    let (from, to) = (leader.client().await, follower.client().await);
    let tables = ["events", "empty_one", "items"];
    until("the first group is copied", || async {
        if !walferry.output().contains("tables copied") {
            return Err("not yet".to_owned());
        }
        let copies = copies_of(&pipeline, &tables).await;
        if copies[..2] == [1, 1] {
            Ok(())
        } else {
            Err(format!("{copies:?}"))
        }
    })
    .await;
    walferry.kill();
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &tables).await;
    assert_eq!(copies_of(&pipeline, &tables).await, [1, 1, 1]);
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_that_waits_for_a_copy_does_not_stop_the_copys_readers() {
    let leader = Postgres::start("leader");
    leader
        .sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 10)")
        .await;
    let client = leader.client().await;
    let oid: u32 = client
        .query_one("SELECT 't'::regclass::oid", &[])
        .await
        .unwrap()
        .get(0);
    let settings = support::postgres_settings(&leader.url("postgres"));
    let snapshot = open_snapshot(&settings, "copy", "a_copy", 2).await.unwrap();
    snapshot.lock(&[Oid(oid)]).await.unwrap();
    let truncating = leader.client().await;
    tokio::spawn(async move { truncating.batch_execute("TRUNCATE t").await });
    support::until("the TRUNCATE waits", || async {
        let waiting = "SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'";
        match client.query(waiting, &[]).await {
            Ok(rows) if !rows.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for reader in &snapshot.readers {
        let read = tokio::time::timeout(
            support::DEADLINE,
            reader.query_one("SELECT count(*) FROM public.t", &[]),
        );
        let rows: i64 = read
            .await
            .expect("the reader waits for the TRUNCATE")
            .unwrap()
            .get(0);
        assert_eq!(rows, 10);
    }
}
