//! `walferry replay`: exactly the transactions of a range, in order, as often as it is asked for.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio_postgres::Client;
use walferry::log::held::{End, watermarks_of};
use walferry::log::progress::ProgressReader;
use walferry::log::topics::{TopicAdmin, Topics};
use walferry::model::Position;

use crate::support::{Pipeline, Postgres, kafka_settings, until, wait_caught_up};

/// Transactions that the source meets as a backlog, so that entries hold many of them.
const TRANSACTIONS: usize = 300;

fn replay(pipeline: &Pipeline, arguments: &[&str]) -> Output {
    let arguments = [&["replay", "--json"], arguments].concat();
    pipeline.command(&arguments).output().unwrap()
}

fn printed(pipeline: &Pipeline, arguments: &[&str]) -> String {
    let output = replay(pipeline, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Exit code and what is said, where nothing is to be printed.
fn refused(pipeline: &Pipeline, arguments: &[&str]) -> (Option<i32>, String) {
    let output = replay(pipeline, arguments);
    assert!(output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said)
}

fn lines(text: &str) -> Vec<Value> {
    let line = |line| serde_json::from_str(line).unwrap();
    text.lines().map(line).collect()
}

fn assert_in_order(changes: &[Value]) {
    let position =
        |change: &Value| -> Position { change["position"].as_str().unwrap().parse().unwrap() };
    let positions: Vec<Position> = changes.iter().map(position).collect();
    let wrong = positions.windows(2).find(|two| two[0] >= two[1]);
    assert_eq!(wrong, None);
}

/// Numbers of the transactions that these changes are of, each with its two changes.
fn transactions(changes: &[Value]) -> Vec<usize> {
    let of = changes.chunks(2).map(|two| {
        let [event, item] = two else {
            panic!("half a transaction: {two:?}")
        };
        assert_eq!(
            (&event["op"], &event["table"]),
            (&"c".into(), &"public.events".into())
        );
        assert_eq!(
            (&item["op"], &item["table"]),
            (&"u".into(), &"public.items".into())
        );
        assert_eq!(event["after"]["number"], item["after"]["n"]);
        usize::try_from(event["after"]["number"].as_u64().unwrap()).unwrap()
    });
    of.collect()
}

/// Transaction `number`; where the leader is behind it.
async fn write(leader: &Client, number: usize) -> String {
    let write = format!(
        "BEGIN; INSERT INTO events VALUES ({number}); UPDATE items SET n = {number} WHERE id = 1; COMMIT"
    );
    leader.batch_execute(&write).await.unwrap();
    let lsn = "SELECT pg_current_wal_insert_lsn()::text";
    leader.query_one(lsn, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_transactions_of_a_range_are_printed() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE items (id int PRIMARY KEY, n int); CREATE TABLE events (number int PRIMARY KEY);
             INSERT INTO items VALUES (1, 0)",
        )
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(walferry.terminate(), 0);
    let mut lsns = vec![String::new()];
    for number in 1..=TRANSACTIONS {
        lsns.push(write(&from, number).await);
    }
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;

    let whole = printed(&pipeline, &[]);
    assert_in_order(&lines(&whole));
    assert_eq!(
        transactions(&lines(&whole)),
        (1..=TRANSACTIONS).collect::<Vec<_>>()
    );
    for (first, last) in [(1, 2), (37, 38), (100, 250), (7, 299)] {
        let range = ["--from-lsn", &lsns[first], "--to-lsn", &lsns[last]];
        let once = printed(&pipeline, &range);
        let expected: Vec<usize> = (first + 1..=last).collect();
        assert_eq!(transactions(&lines(&once)), expected);
        assert_eq!(printed(&pipeline, &range), once);
    }
    let (before, after) = (["--to-lsn", &lsns[111]], ["--from-lsn", &lsns[111]]);
    let halves = printed(&pipeline, &before) + &printed(&pipeline, &after);
    assert_eq!(halves, whole);
    let xmin = "SELECT xmin::text FROM events WHERE number = 20";
    let xid: String = from.query_one(xmin, &[]).await.unwrap().get(0);
    let named = |kind| printed(&pipeline, &["--from-lsn", &lsns[10], kind, &xid]);
    let up_to = |last: usize| {
        printed(
            &pipeline,
            &["--from-lsn", &lsns[10], "--to-lsn", &lsns[last]],
        )
    };
    assert_eq!(named("--to-transaction"), up_to(20));
    assert_eq!(named("--before-transaction"), up_to(19));
    let long_ago = printed(&pipeline, &["--from-time", "2020-02-02T20:20:20"]);
    assert_eq!(long_ago, whole);
    assert_eq!(printed(&pipeline, &["--into", "stdout"]), whole);
    let items = printed(&pipeline, &["--tables", "items", "--from-lsn", &lsns[290]]);
    assert_eq!(lines(&items).len(), 10);
    assert!(!items.contains("public.events"), "{items}");

    // As `| head`: the reader goes, and replay with it, without an error.
    let mut replay = pipeline.command(&["replay"]);
    let mut replay = replay.stdout(Stdio::piped()).spawn().unwrap();
    drop(replay.stdout.take());
    let ended = until("replay ends when nobody reads it", || {
        let status = replay.try_wait().unwrap();
        async move { status.ok_or_else(|| "it is still there".to_owned()) }
    });
    assert!(ended.await.success());
    nothing_is_left_of_readers(&pipeline).await;
    assert_eq!(walferry.terminate(), 0);
    what_is_not_there_is_said(&pipeline, &lsns).await;
}

/// The commit log is kept for sinks, and none of these comes back.
async fn nothing_is_left_of_readers(pipeline: &Pipeline) {
    let topics = Topics::new(pipeline.name.as_str());
    let reader = ProgressReader::open(&kafka_settings(), &topics.progress()).await;
    let sinks: Vec<String> = reader.unwrap().newest().into_keys().collect();
    assert_eq!(sinks, ["a"]);
}

async fn what_is_not_there_is_said(pipeline: &Pipeline, lsns: &[String]) {
    let (code, said) = refused(pipeline, &["--to-lsn", "FFFF/0"]);
    assert!(
        code == Some(2) && said.contains("FFFF/0 is beyond"),
        "{said}"
    );
    let (code, said) = refused(pipeline, &["--from-lsn", &lsns[9], "--to-lsn", &lsns[3]]);
    assert!(
        code == Some(2) && said.contains("before it begins"),
        "{said}"
    );
    let (code, said) = refused(pipeline, &["--tables", "nobody"]);
    assert!(
        code == Some(2) && said.contains("no captured table"),
        "{said}"
    );
    let (code, said) = refused(pipeline, &["--from-lsn", &lsns[5], "--to-lsn", &lsns[5]]);
    assert!(code == Some(0), "{said}");

    // Retention takes some of one table's records.
    let topics = Topics::new(pipeline.name.as_str());
    let (kafka, events) = (kafka_settings(), format!("{}.public.events", pipeline.name));
    let low = watermarks_of(&kafka, &topics, End::Low).await.unwrap()[&events][&0];
    let admin = TopicAdmin::open(&kafka).unwrap();
    admin.trim(&events, 0, low + 3).await.unwrap();
    let (code, said) = refused(pipeline, &[]);
    assert_eq!(code, Some(2), "{said}");
    let needed = "retention has removed changes of public.events";
    assert!(said.contains(needed) && said.contains("remedy: "), "{said}");
    let items = printed(pipeline, &["--tables", "items"]);
    assert_eq!(lines(&items).len(), TRANSACTIONS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_larger_than_memory_comes_in_order_across_tables() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    // Some 12 MB, of which 8 are held.
    from.batch_execute(
        "DO $$ BEGIN FOR i IN 1..6000 LOOP
           INSERT INTO a VALUES (i, repeat('x', 1000)); INSERT INTO b VALUES (i, repeat('y', 1000));
         END LOOP; END $$",
    )
    .await
    .unwrap();
    wait_caught_up(&from, &to, "a").await;
    let changes = lines(&printed(&pipeline, &[]));
    assert_eq!(changes.len(), 12_000);
    assert_in_order(&changes);
    assert_eq!(walferry.terminate(), 0);
}
