//! Copies that are read from a follower: `walferry copy --from`.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::Client;
use walferry::model::Lsn;

use crate::copies::{TABLES, copies_of, leader_with_rows, write_until};
use crate::new_copies::{Asking, add_follower, add_sink, newer_copy, newest_copy};
use crate::support::http::part;
use crate::support::{Pipeline, Postgres, Walferry, assert_equal, until, wait_caught_up};

/// How often somebody has read all of a table on the leader, whatever for.
async fn whole_reads(leader: &Client, table: &str) -> i64 {
    let query = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = $1";
    leader.query_one(query, &[&table]).await.unwrap().get(0)
}

/// Whether a source's log tells of a copy that was read there.
fn tells_of(walferry: &Walferry, from: &str) -> bool {
    let output = walferry.output();
    let mut lines = output
        .lines()
        .filter(|line| line.contains("copying tables"));
    lines.any(|line| line.contains(from))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_read_from_a_follower_while_writes_go_on_is_what_a_later_follower_is_built_from() {
    let leader = leader_with_rows().await;
    let (first, second) = (Postgres::start("first"), Postgres::start("second"));
    let pipeline = Pipeline::with(&leader, &[&first], "copy.readers = 3", "");
    let (from, to) = (leader.client().await, first.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert!(!tells_of(&walferry, "the follower of"), "the first copies");
    until("the first copy's reading is counted", || async {
        let reads = whole_reads(&from, "items").await;
        (reads > 0).then_some(()).ok_or("not yet".to_owned())
    })
    .await;
    let reads = whole_reads(&from, "items").await;

    let first_copy = newer_copy(&walferry, None).await;
    let stop = AtomicBool::new(false);
    let (written, (code, said)) = tokio::join!(write_until(&leader, &stop), async {
        let ended = Asking::begin_with(&pipeline, &[], &["--from", "a"])
            .ended()
            .await;
        stop.store(true, Ordering::Relaxed);
        ended
    });
    assert_eq!(code, Some(0), "{said}");
    assert!(written > 0);
    for table in ["public.items", "public.events", "public.empty_one"] {
        for part in [
            "a new copy is asked for, from the follower of a",
            "copied as it was at",
        ] {
            assert!(said.contains(&format!("{table}: {part}")), "{said}");
        }
    }
    assert!(tells_of(&walferry, "the follower of a"));
    assert_eq!(whole_reads(&from, "items").await, reads, "of the leader");
    let new_copy = newer_copy(&walferry, Some(first_copy)).await;
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    assert_eq!(walferry.terminate(), 0);

    leader
        .sql("UPDATE items SET n = n + 1 WHERE id < 500; DELETE FROM items WHERE id % 97 = 0")
        .await;
    let loaded = add_follower(&pipeline, &from, &second).await;
    assert_eq!(loaded, Some(new_copy), "that of the follower is loaded");
    assert_eq!(copies_of(&pipeline, TABLES).await, [2, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_behind_is_waited_for_and_read_in_the_shape_that_it_shows() {
    let leader = leader_with_rows().await;
    let (first, second) = (Postgres::start("first"), Postgres::start("second"));
    let pipeline = Pipeline::new(&leader, &[&first]);
    let (from, to) = (leader.client().await, first.client().await);
    let source = pipeline.run_only(&["leader"]);
    let elsewhere = pipeline.twin();
    let sink = elsewhere.run_only(&["a"]);
    wait_caught_up(&from, &to, "a").await;
    for change in [
        "ALTER TABLE items ADD COLUMN added int DEFAULT 7",
        "ALTER TABLE items RENAME COLUMN n TO number",
        "UPDATE items SET number = 5, added = id WHERE id < 50",
        "ALTER TABLE items DROP COLUMN note",
        "UPDATE items SET number = 6 WHERE id BETWEEN 40 AND 60",
    ] {
        leader.sql(change).await;
        wait_caught_up(&from, &to, "a").await;
    }
    // What the follower is not told before the next change.
    leader.sql("ALTER TABLE items ADD COLUMN later text").await;
    assert_eq!(sink.terminate(), 0);
    leader
        .sql("UPDATE events SET item = 1; INSERT INTO events (item) VALUES (1), (2)")
        .await;
    let written = from
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .await
        .unwrap();
    let written: Lsn = written.get::<_, String>(0).parse().unwrap();
    until("the source has published it", || async {
        let source = part(&pipeline, "leader").await?;
        let published: Option<Lsn> = source["published"].as_str().and_then(|p| p.parse().ok());
        let is_there = published.is_some_and(|published| published >= written);
        is_there.then_some(()).ok_or_else(|| source.to_string())
    })
    .await;
    let asking = Asking::begin_with(&pipeline, &[], &["--from", "a"]);
    until("the source waits for the follower", || async {
        let output = source.output();
        let waits = output.contains("the copy waits for the follower");
        waits.then_some(()).ok_or(output)
    })
    .await;
    let sink = elsewhere.run_only(&["a"]);
    let (code, said) = asking.ended().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(tells_of(&source, "the follower of a"));

    leader
        .sql("UPDATE items SET later = 'x' WHERE id % 10 = 0")
        .await;
    add_sink(&elsewhere, "b", &second);
    let other = elsewhere.twin();
    let joined = other.run_only(&["b"]);
    for (follower, name) in [(&first, "a"), (&second, "b")] {
        let to = follower.client().await;
        wait_caught_up(&from, &to, name).await;
        assert_equal(&from, &to, TABLES).await;
    }
    let copy = newest_copy(&source.output(), "tables copied");
    assert_eq!(newest_copy(&joined.output(), "loading a copy"), copy);
    for walferry in [source, sink, joined] {
        assert_eq!(walferry.terminate(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_altered_between_a_copys_snapshot_and_its_locks_is_never_read_by_names_of_another_moment()
 {
    let leader = leader_with_rows().await;
    let (first, second) = (Postgres::start("first"), Postgres::start("second"));
    let pipeline = Pipeline::new(&leader, &[&first]);
    let (from, to) = (leader.client().await, first.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    // Whoever reads column note by its name finds another one behind the lock.
    to.batch_execute("BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let asking = Asking::begin_with(&pipeline, &["items"], &["--from", "a"]);
    let watcher = first.client().await;
    until("the copy waits for the lock", || async {
        let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                       WHERE NOT granted AND mode = 'AccessShareLock' AND query LIKE 'LOCK TABLE%'";
        let waiting: i64 = watcher.query_one(waiting, &[]).await.unwrap().get(0);
        (waiting > 0).then_some(()).ok_or(walferry.output())
    })
    .await;
    to.batch_execute(
        "ALTER TABLE items RENAME COLUMN note TO theirs; ALTER TABLE items ADD COLUMN note text DEFAULT 'own'; COMMIT",
    )
    .await
    .unwrap();
    let (code, said) = asking.ended().await;
    assert_eq!(code, Some(0), "{said}");
    let output = walferry.output();
    assert!(
        output.contains("altered, truncated or rewritten while its copy began"),
        "{output}"
    );
    assert_eq!(walferry.terminate(), 0);
    add_follower(&pipeline, &from, &second).await;
}

/// What `walferry copy --from` says where it asks for nothing.
async fn refused(pipeline: &Pipeline, from: &str, code: i32) -> String {
    let asking = Asking::begin_with(pipeline, &["items"], &["--from", from]);
    let (exit, said) = asking.ended().await;
    assert_eq!(exit, Some(code), "{said}");
    assert!(!said.contains("is asked for"), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_that_are_not_fit_for_it_are_refused_and_nothing_is_asked_of_the_leader() {
    let (leader, follower) = (leader_with_rows().await, Postgres::start("follower"));
    let pipeline = Pipeline::new(&leader, &[&follower]);
    pipeline.write("connectors/lines.toml", "kind = \"stdout\"\n");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run_only(&["leader", "a"]);
    wait_caught_up(&from, &to, "a").await;

    let said = refused(&pipeline, "nobody", 2).await;
    assert!(said.contains("name one of: a, lines"), "{said}");
    let said = refused(&pipeline, "lines", 2).await;
    assert!(said.contains("Postgres follower"), "{said}");

    // Nobody reads the note but whoever looks for it.
    to.batch_execute(
        "INSERT INTO walferry.skips (pipeline, sink, commit_lsn, ordinal, reason, skipped_at, table_schema, table_name)
         SELECT pipeline, sink, '0/1', 1, 'test', now(), 'public', 'items' FROM walferry.checkpoint",
    )
    .await
    .unwrap();
    let said = refused(&pipeline, "a", 2).await;
    assert!(said.contains("passed over"), "{said}");
    to.batch_execute("DELETE FROM walferry.skips")
        .await
        .unwrap();

    let lsn = to
        .query_one("SELECT lsn::text FROM walferry.position", &[])
        .await
        .unwrap();
    pipeline.do_it(&["rebuild", "a", "--to-lsn", lsn.get(0)]);
    let said = refused(&pipeline, "a", 2).await;
    assert!(said.contains("walferry sink resume a"), "{said}");
    pipeline.do_it(&["sink", "resume", "a"]);
    wait_caught_up(&from, &to, "a").await;

    assert_eq!(walferry.terminate(), 0);
    pipeline.do_it(&["resync", "a", "items", "--detach"]);
    let said = refused(&pipeline, "a", 1).await;
    assert!(
        said.contains("not in effect on the follower of a"),
        "{said}"
    );

    // The rebuild has loaded the first copies; no other one was made.
    let walferry = pipeline.run_only(&["leader", "a"]);
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(copies_of(&pipeline, TABLES).await, [1, 1]);
    assert_equal(&from, &to, TABLES).await;
    assert_eq!(walferry.terminate(), 0);
}
