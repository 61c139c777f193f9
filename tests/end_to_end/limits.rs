//! Row filters and column lists of a publication that somebody else manages.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::Client;

use crate::support::content::rows;
use crate::support::{Pipeline, Postgres, until, wait_caught_up};

const ITEMS: &str =
    "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL, note text, secret text)";
const THIRDS: &str = "items (id, n, note) WHERE (id % 3 = 0)";
const HALVES: &str = "items (id, n, secret) WHERE (id % 2 = 0)";

/// A leader with rows and a publication of them; none on servers without row filters (before 15).
async fn leader() -> Option<Postgres> {
    let leader = Postgres::start("leader");
    if leader.major().await < 15 {
        eprintln!("skipped: row filters and column lists came with Postgres 15");
        return None;
    }
    leader
        .sql(&format!(
            "{ITEMS}; CREATE TABLE whole (id int PRIMARY KEY, n int);
             INSERT INTO items SELECT i, 0, 'note ' || i, 'secret ' || i FROM generate_series(1, 3000) i;
             INSERT INTO whole VALUES (1, 0);
             CREATE PUBLICATION theirs FOR TABLE {THIRDS}, whole"
        ))
        .await;
    Some(leader)
}

fn pipeline(leader: &Postgres, follower: &Postgres) -> Pipeline {
    let source = "publication = \"theirs\"\nmanage_publication = false";
    Pipeline::with(leader, &[follower], source, "")
}

/// Changes rows, moves them from one filter to another, until told to stop.
async fn write_until(leader: &Postgres, stop: &AtomicBool) {
    let client = leader.client().await;
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = (done * 7919) % 3000 + 1;
        client
            .batch_execute(&format!(
                "BEGIN; UPDATE items SET n = n + 1 WHERE id BETWEEN {id} AND {id} + 5;
                 UPDATE items SET id = id + 100001, note = note || '!' WHERE id = {id} + 7;
                 DELETE FROM items WHERE id = {id} + 8;
                 INSERT INTO items VALUES (10000 + {done}, 1, 'new', 'hidden');
                 UPDATE whole SET n = n + 1; COMMIT"
            ))
            .await
            .unwrap();
        done += 1;
    }
}

/// Panics unless the follower has exactly these rows of the leader's.
async fn assert_holds(from: &Client, to: &Client, of_leader: &str) {
    let (wanted, found) = (
        rows(from, &format!("({of_leader})")).await,
        rows(to, "items").await,
    );
    assert!(!wanted.is_empty());
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        let missing = a.iter().filter(|row| !b.contains(row));
        missing.take(5).cloned().collect()
    };
    assert!(
        wanted == found,
        "{} rows wanted, {} found\nmissing: {:#?}\ntoo much: {:#?}",
        wanted.len(),
        found.len(),
        only(&wanted, &found),
        only(&found, &wanted)
    );
    assert_eq!(rows(from, "whole").await, rows(to, "whole").await);
}

const HOLDS_THIRDS: &str = "SELECT id, n, note, NULL::text FROM items WHERE id % 3 = 0";
const HOLDS_HALVES: &str = "SELECT id, n, NULL::text, secret FROM items WHERE id % 2 = 0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_another_filter_and_column_list_under_load_a_follower_has_exactly_their_rows() {
    let Some(leader) = leader().await else { return };
    let follower = Postgres::start("follower");
    follower.sql(ITEMS).await;
    let pipeline = pipeline(&leader, &follower);
    let walferry = pipeline.run();
    let (from, to) = (leader.client().await, follower.client().await);
    wait_caught_up(&from, &to, "a").await;
    assert_holds(&from, &to, HOLDS_THIRDS).await;

    let stop = AtomicBool::new(false);
    tokio::join!(write_until(&leader, &stop), async {
        wait_caught_up(&from, &to, "a").await;
        let set = format!("ALTER PUBLICATION theirs SET TABLE {HALVES}, whole");
        leader.sql(&set).await;
        until("another copy", || async {
            match walferry.output().matches("tables copied").count() {
                0 | 1 => Err(walferry.output()),
                _ => Ok(()),
            }
        })
        .await;
        wait_caught_up(&from, &to, "a").await;
        stop.store(true, Ordering::Relaxed);
    });
    wait_caught_up(&from, &to, "a").await;
    assert_holds(&from, &to, HOLDS_HALVES).await;
    let output = walferry.output();
    assert!(
        output.contains("row filter or column list of public.items has changed"),
        "the stream saw it before the watch"
    );
    let copied: Vec<&str> = output
        .lines()
        .filter(|line| line.contains("tables are in effect"))
        .collect();
    assert!(copied[0].contains("public.whole"), "{copied:?}");
    let again = copied.iter().skip(1).any(|line| line.contains("whole"));
    assert!(!again, "whole was no other table: {copied:?}");
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_was_another_one_while_the_source_was_away_costs_no_change() {
    let Some(leader) = leader().await else { return };
    let follower = Postgres::start("follower");
    follower.sql(ITEMS).await;
    let pipeline = pipeline(&leader, &follower);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(walferry.terminate(), 0);

    // 3 is sent under neither filter but the first, 4 under the second only.
    leader
        .sql(&format!(
            "ALTER PUBLICATION theirs SET TABLE {HALVES}, whole;
             UPDATE items SET n = n + 1 WHERE id IN (3, 4, 6); UPDATE items SET id = -9 WHERE id = 9;
             DELETE FROM items WHERE id = 15;"
        ))
        .await;
    leader
        .sql(&format!(
            "ALTER PUBLICATION theirs SET TABLE {THIRDS}, whole; UPDATE items SET n = n + 1 WHERE id < 30"
        ))
        .await;
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_holds(&from, &to, HOLDS_THIRDS).await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_dropped_from_their_publication_and_added_again_is_copied_again() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(&format!(
            "{ITEMS}; CREATE TABLE whole (id int PRIMARY KEY, n int);
             INSERT INTO items SELECT i, 0, 'note', 'secret' FROM generate_series(1, 20) i;
             CREATE PUBLICATION theirs FOR TABLE items, whole; INSERT INTO whole VALUES (1, 0)"
        ))
        .await;
    let pipeline = pipeline(&leader, &follower);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(walferry.terminate(), 0);
    leader
        .sql("ALTER PUBLICATION theirs DROP TABLE items")
        .await;
    leader
        .sql("DELETE FROM items WHERE id < 5; INSERT INTO items VALUES (21, 1)")
        .await;
    leader.sql("ALTER PUBLICATION theirs ADD TABLE items").await;
    let walferry = pipeline.run();
    leader
        .sql("UPDATE items SET n = n + 1; UPDATE whole SET n = 1")
        .await;
    wait_caught_up(&from, &to, "a").await;
    assert_holds(&from, &to, "SELECT * FROM items").await;
    assert_eq!(walferry.terminate(), 0);
}
