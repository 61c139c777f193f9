//! docs/examples/transactions: a reader that knows only docs/event-format.md gives out whole
//! transactions, in commit order.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tokio_postgres::Client;
use walferry::log::held::{End, watermarks_of};
use walferry::log::topics::{TopicAdmin, Topics};

use crate::support::{
    DEADLINE, Pipeline, Postgres, directory, kafka, kafka_settings, until, wait_caught_up,
};

/// The example, as a process.
struct Reader {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Reader {
    fn start(pipeline: &Pipeline, arguments: &[&str]) -> Self {
        let packages = std::env::var_os("WALFERRY_PYTHONPATH")
            .expect("WALFERRY_PYTHONPATH is not set: run the tests by `./dev test`, which fetches what it names");
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/transactions");
        let dir = directory("reader");
        let [out, err] = ["out", "err"].map(|name| dir.join(name));
        let file = |path: &Path| std::fs::File::create(path).unwrap();
        let child = Command::new("python3")
            .args(["-B", "transactions.py", &kafka(), &pipeline.name])
            .args(arguments)
            .current_dir(example)
            .env("PYTHONPATH", packages)
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&err))
            .spawn()
            .expect("python3 can be started");
        Reader { child, out, err }
    }

    /// What it has printed so far.
    fn given(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.out).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _cut)| whole);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits until it has printed so many transactions.
    async fn gives(&mut self, transactions: usize) -> Vec<Value> {
        let (out, err) = (self.out.clone(), self.err.clone());
        let ended = std::cell::RefCell::new(&mut self.child);
        let given = until("the reader gives out all", || async {
            let text = std::fs::read_to_string(&out).unwrap();
            let ended = ended.borrow_mut().try_wait().unwrap();
            let said = std::fs::read_to_string(&err).unwrap();
            assert!(ended.is_none(), "{ended:?}: {said}");
            let given = text.matches('\n').count();
            (given >= transactions)
                .then_some(given)
                .ok_or(format!("{given} transactions; {said}"))
        });
        assert_eq!(given.await, transactions);
        self.given()
    }

    /// Waits until it ends by itself.
    async fn ends(mut self) -> (bool, Vec<Value>, String) {
        let ended = tokio::task::spawn_blocking(move || {
            let status = self.child.wait().unwrap();
            let said = std::fs::read_to_string(&self.err).unwrap();
            (status.success(), self.given(), said)
        });
        tokio::time::timeout(DEADLINE, ended)
            .await
            .expect("it ends")
            .unwrap()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn begin(client: &Client, statements: &str) -> u64 {
    client
        .batch_execute(&format!("BEGIN; {statements}"))
        .await
        .unwrap();
    let xid = client
        .query_one("SELECT pg_current_xact_id()::text", &[])
        .await;
    xid.unwrap().get::<_, String>(0).parse().unwrap()
}

/// Commits a transaction; its id.
async fn transaction(client: &Client, statements: &str) -> u64 {
    let xid = begin(client, statements).await;
    client.batch_execute("COMMIT").await.unwrap();
    xid
}

fn number(of: &Value) -> u64 {
    let (high, low) = of.as_str().unwrap().split_once('/').unwrap();
    let half = |text: &str| u64::from_str_radix(text, 16).unwrap();
    half(high) << 32 | half(low)
}

/// Asserts that commit LSNs increase strictly.
fn assert_in_commit_order(given: &[Value]) {
    let lsns: Vec<u64> = given.iter().map(|given| number(&given["lsn"])).collect();
    assert!(lsns.is_sorted_by(|a, b| a < b), "{lsns:X?}");
}

const SCHEMA: &str = "
    CREATE TABLE a (id int PRIMARY KEY, v text);
    CREATE TABLE b (id int PRIMARY KEY, n bigint, body text);
    ALTER TABLE b ALTER body SET STORAGE EXTERNAL;
    CREATE TABLE c (v int);
    ALTER TABLE c REPLICA IDENTITY FULL;";

/// Transactions of all kinds; their ids and what each changed, in commit order.
async fn write_all_kinds(leader: &Postgres) -> Vec<(u64, Value)> {
    let (client, other) = (leader.client().await, leader.client().await);
    let mut written = Vec::new();
    let xid = transaction(&client, "INSERT INTO a VALUES (1, 'x'), (2, NULL); INSERT INTO b VALUES (1, 9223372036854775807, repeat('t', 9000)); INSERT INTO c VALUES (5), (5)").await;
    let body = "t".repeat(9000);
    written.push((xid, json!([
        {"table": "public.a", "op": "c", "key": {"id": 1}, "after": {"id": 1, "v": "x"}},
        {"table": "public.a", "op": "c", "key": {"id": 2}, "after": {"id": 2, "v": null}},
        {"table": "public.b", "op": "c", "key": {"id": 1}, "after": {"id": 1, "n": 9_223_372_036_854_775_807_u64, "body": body}},
        {"table": "public.c", "op": "c", "after": {"v": 5}},
        {"table": "public.c", "op": "c", "after": {"v": 5}},
    ])));
    client
        .batch_execute("BEGIN; INSERT INTO a VALUES (99, 'never'); ROLLBACK")
        .await
        .unwrap();
    // The value that did not change is not sent, and not shown. The key of a row moves with it.
    let xid = transaction(&client, "UPDATE b SET n = -1; UPDATE a SET id = 100 WHERE id = 1; DELETE FROM c WHERE ctid = '(0,1)'").await;
    written.push((xid, json!([
        {"table": "public.b", "op": "u", "key": {"id": 1}, "after": {"id": 1, "n": -1}},
        {"table": "public.a", "op": "u", "key": {"id": 100}, "old_key": {"id": 1}, "before": {"id": 1}, "after": {"id": 100, "v": "x"}},
        {"table": "public.c", "op": "d", "before": {"v": 5}},
    ])));
    // Two that overlap: the one that commits first comes first, whole.
    let late = begin(&client, "INSERT INTO a VALUES (3, 'late')").await;
    let early = transaction(
        &other,
        "INSERT INTO a VALUES (4, 'early'); INSERT INTO c VALUES (6)",
    )
    .await;
    client
        .batch_execute("INSERT INTO b VALUES (2, 2, ''); COMMIT")
        .await
        .unwrap();
    written.push((
        early,
        json!([
            {"table": "public.a", "op": "c", "key": {"id": 4}, "after": {"id": 4, "v": "early"}},
            {"table": "public.c", "op": "c", "after": {"v": 6}},
        ]),
    ));
    written.push((late, json!([
        {"table": "public.a", "op": "c", "key": {"id": 3}, "after": {"id": 3, "v": "late"}},
        {"table": "public.b", "op": "c", "key": {"id": 2}, "after": {"id": 2, "n": 2, "body": ""}},
    ])));
    // A value that travels in pieces, and one that is larger than a batch.
    let xid = transaction(
        &client,
        "INSERT INTO b VALUES (3, 3, repeat('0123456789', 1000000)); DELETE FROM b WHERE id = 2",
    )
    .await;
    written.push((xid, json!([
        {"table": "public.b", "op": "c", "key": {"id": 3}, "after": {"id": 3, "n": 3, "body": "0123456789".repeat(1_000_000)}},
        {"table": "public.b", "op": "d", "key": {"id": 2}, "before": {"id": 2}},
    ])));
    let xid = transaction(
        &client,
        "INSERT INTO a VALUES (5, 'gone'); TRUNCATE a, c; INSERT INTO a VALUES (6, 'stays')",
    )
    .await;
    written.push((
        xid,
        json!([
            {"table": "public.a", "op": "c", "key": {"id": 5}, "after": {"id": 5, "v": "gone"}},
            {"table": "public.a", "op": "t"},
            {"table": "public.c", "op": "t"},
            {"table": "public.a", "op": "c", "key": {"id": 6}, "after": {"id": 6, "v": "stays"}},
        ]),
    ));
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_all_kinds_come_out_whole_and_in_commit_order() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(SCHEMA).await;
    let pipeline = Pipeline::with(&leader, &[&follower], "partitions = 3", "");
    let walferry = pipeline.run();
    let (from, to) = (leader.client().await, follower.client().await);
    wait_caught_up(&from, &to, "a").await;
    let mut following = Reader::start(&pipeline, &["--follow"]);
    let written = write_all_kinds(&leader).await;
    let given = following.gives(written.len()).await;
    for (given, (xid, changes)) in given.iter().zip(&written) {
        assert_eq!(given["xid"], *xid, "{given}");
        assert_eq!(given["changes"], *changes);
        assert!(
            given["time"]
                .as_str()
                .is_some_and(|time| time.ends_with('Z'))
        );
    }
    assert_in_commit_order(&given);
    // And to whoever comes later.
    wait_caught_up(&from, &to, "a").await;
    let (well, again, said) = Reader::start(&pipeline, &[]).ends().await;
    assert!(well, "{said}");
    assert_eq!(again, given);
    expire(&pipeline, "b").await;
    let xid = transaction(&from, "INSERT INTO a VALUES (7, 'whole')").await;
    wait_caught_up(&from, &to, "a").await;
    let (well, left, said) = Reader::start(&pipeline, &[]).ends().await;
    assert!(well, "{said}");
    let (last, before) = left.split_last().expect("the newest one");
    assert_eq!(last["xid"], xid);
    assert!(given.ends_with(before), "{left:?}");
    let of_b = |change: &Value| change["table"] == "public.b";
    let changes = before
        .iter()
        .flat_map(|given| given["changes"].as_array().unwrap());
    assert!(
        !changes.clone().any(of_b),
        "what has expired is passed over"
    );
    assert_eq!(walferry.terminate(), 0);
}

/// Removes all records of a table's topic.
async fn expire(pipeline: &Pipeline, table: &str) {
    let topics = Topics::new(pipeline.name.as_str());
    let topic = format!("{}.public.{table}", pipeline.name);
    let admin = TopicAdmin::open(&kafka_settings()).unwrap();
    let highs = watermarks_of(&kafka_settings(), &topics, End::High).await;
    for (partition, high) in &highs.unwrap()[&topic] {
        admin.trim(&topic, *partition, *high).await.unwrap();
    }
}

/// What the transaction with this number changes: two tables, and the key of a row moves on.
fn numbered(number: usize) -> String {
    format!(
        "INSERT INTO b VALUES ({number}, {number}, ''); UPDATE a SET id = id + 1; INSERT INTO c VALUES ({number})"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_killed_again_and_again_shows_its_reader_each_transaction_once() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(SCHEMA).await;
    leader.sql("INSERT INTO a VALUES (0, 'moves')").await;
    let pipeline = Pipeline::with(&leader, &[&follower], "partitions = 2", "");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let mut following = Reader::start(&pipeline, &["--follow"]);
    walferry.kill();

    let mut xids = Vec::new();
    // Records without an entry, half a transaction, an entry that nobody confirmed, an epoch that nothing followed.
    for point in [
        "BatchAcked:3",
        "AfterSend:40",
        "EntrySent:4",
        "AfterEpochEntry",
        "EntryAcked:3",
    ] {
        let mut dying = pipeline.run_until(point);
        let end = Instant::now() + DEADLINE;
        while dying.ended().is_none() {
            assert!(Instant::now() < end, "it does not die at {point}");
            xids.push(transaction(&from, &numbered(xids.len())).await);
        }
    }
    let walferry = pipeline.run();
    for _ in 0..10 {
        xids.push(transaction(&from, &numbered(xids.len())).await);
    }
    wait_caught_up(&from, &to, "a").await;
    let given = following.gives(xids.len()).await;
    for (number, (given, xid)) in given.iter().zip(&xids).enumerate() {
        let changes = json!([
            {"table": "public.b", "op": "c", "key": {"id": number}, "after": {"id": number, "n": number, "body": ""}},
            {"table": "public.a", "op": "u", "key": {"id": number + 1}, "old_key": {"id": number}, "before": {"id": number}, "after": {"id": number + 1, "v": "moves"}},
            {"table": "public.c", "op": "c", "after": {"v": number}},
        ]);
        assert_eq!(
            (&given["xid"], &given["changes"]),
            (&(*xid).into(), &changes)
        );
    }
    assert_in_commit_order(&given);
    let topics = Topics::new(pipeline.name.as_str());
    let highs = watermarks_of(&kafka_settings(), &topics, End::High)
        .await
        .unwrap();
    let of_c = highs[&format!("{}.public.c", pipeline.name)][&0];
    assert!(
        of_c > xids.len() as i64,
        "{of_c}: no source has left anything behind"
    );
    let (well, again, said) = Reader::start(&pipeline, &[]).ends().await;
    assert!(well, "{said}");
    assert_eq!(again, given);
    assert_eq!(walferry.terminate(), 0);
}
