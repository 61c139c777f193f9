//! The source against a real Postgres and a real Kafka: what it writes is read back as a follower
//! would, and compared with the leader.
//!
//! Servers are started by `./dev server` (`WALFERRY_DEV` names another copy of it, `WALFERRY_TEST_PG` the
//! major); `WALFERRY_TEST_KAFKA` names a broker that may be filled with test topics.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Postgres, kafka_settings, postgres_settings, unique};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use walferry::capture::own_log::KeptLog;
use walferry::capture::{self, CaptureContext};
use walferry::config::{PostgresSettings, SourceSettings};
use walferry::error::{Class, Result};
use walferry::log::commit_log::{Entry, Extent, Verdict, judge};
use walferry::log::copies::CopyLedger;
use walferry::log::records::{Record, RecordReader};
use walferry::log::tail::{From, LogTail};
use walferry::log::takeover::parse_timeline_history;
use walferry::log::topics::Topics;
use walferry::model::checkpoint::LogPlace;
use walferry::model::{Lsn, TableName};
use walferry::postgres;
use walferry::source::connection::ReplicationConnection;
use walferry::status::{Shared, SourceView, State};

const WAIT: Duration = Duration::from_secs(60);

/// How the source reaches a server.
fn settings(server: &Postgres) -> PostgresSettings {
    postgres_settings(&server.url("postgres"))
}

async fn connect(server: &Postgres) -> Client {
    postgres::connect(&settings(server), "test").await.unwrap()
}

/// A pipeline name that no other test or run has.
fn pipeline() -> String {
    format!("c{}", unique())
}

fn context(server: &Postgres, pipeline: &str, instance: &str) -> CaptureContext {
    CaptureContext {
        leader_clock: Default::default(),
        pipeline: pipeline.to_owned(),
        instance: instance.to_owned(),
        source: SourceSettings {
            name: "leader".into(),
            postgres: settings(server),
            slot: format!("walferry_{pipeline}"),
            publication: format!("walferry_{pipeline}"),
            manage_publication: true,
            event_trigger: false,
            include: vec!["*.*".into()],
            exclude: vec!["public.left_out".into()],
            partitions: 3,
            copy: true,
            copy_readers: 2,
            copy_group_max_bytes: 64 << 10,
            copy_every: None,
            copy_max_bytes_per_second: None,
            wal_sender_timeout: Duration::from_secs(10),
            epoch_max: Duration::from_secs(86_400),
            batch_max_bytes: 4 << 20,
            queue_max_bytes: 64 << 20,
        },
        kafka: kafka_settings(),
        sinks: watch::channel(Vec::new()).1,
        kept_log: KeptLog::default(),
        traces: Default::default(),
        samples: watch::channel(None).1,
        status: Arc::new(Shared::default()),
        look: Default::default(),
        stop: CancellationToken::new(),
    }
}

/// A source that runs until it is stopped or lost.
struct Source {
    context: CaptureContext,
    task: JoinHandle<Result<()>>,
}

impl Source {
    fn start(context: CaptureContext) -> Self {
        let (newest, samples) = watch::channel(None);
        let context = CaptureContext { samples, ..context };
        tokio::spawn(capture::sample_leader(context.clone(), newest));
        let own = context.clone();
        let task = tokio::spawn(async move {
            let ended = capture::run(&own).await;
            if let Err(error) = &ended {
                eprintln!("{}: {error}", own.instance);
            }
            ended
        });
        Source { context, task }
    }

    fn view(&self) -> SourceView {
        self.context.status.get()
    }

    async fn until(&self, what: &str, holds: impl Fn(&SourceView) -> bool) {
        let deadline = Instant::now() + WAIT;
        while !holds(&self.view()) {
            assert!(
                !self.task.is_finished(),
                "the source ended while waiting for {what}"
            );
            assert!(Instant::now() < deadline, "{what}: {:?}", self.view());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop(self) {
        self.context.stop.cancel();
        let ended = tokio::time::timeout(WAIT, self.task).await.expect("stops");
        ended.expect("no panic").expect("an orderly end");
    }
}

async fn run(admin: &Client, statements: &[&str]) {
    for statement in statements {
        let ran = admin.batch_execute(statement).await;
        ran.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

async fn wal_end(admin: &Client) -> Lsn {
    let row = admin
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .await
        .unwrap();
    row.get::<_, String>(0).parse().unwrap()
}

type Row = serde_json::Map<String, Value>;

/// A table as a follower would hold it: rows by key, or in any order without one.
#[derive(Default)]
struct Replica {
    keyed: BTreeMap<String, Row>,
    loose: Vec<Row>,
}

impl Replica {
    fn rows(&self) -> Vec<String> {
        let mut rows: Vec<String> = self
            .keyed
            .values()
            .chain(&self.loose)
            .map(|row| serde_json::to_string(row).unwrap())
            .collect();
        rows.sort();
        rows
    }
}

struct Taken {
    position: (u64, u32),
    key: Option<String>,
    value: Option<Value>,
    old_key: Option<String>,
}

/// Reads the log as a follower that begins now with the newest complete copy of each table.
struct Follower {
    reader: RecordReader,
    cursors: BTreeMap<(String, i32), i64>,
}

impl Follower {
    /// Takes `count` records that fit from each partition of the extents.
    fn take(
        &mut self,
        extents: &BTreeMap<i32, Extent>,
        topic: &str,
        low: &BTreeMap<i32, i64>,
        fits: impl Fn(&Record<'_>) -> bool,
    ) -> Vec<Taken> {
        let mut out = Vec::new();
        for (&partition, extent) in extents {
            let at = (topic.to_owned(), partition);
            if !self.cursors.contains_key(&at) {
                let from = low.get(&partition).copied().unwrap_or(0);
                self.reader.assign(topic, partition, from).unwrap();
                self.cursors.insert(at.clone(), from);
            }
            let (mut count, mut pieces) = (0, Vec::new());
            while count < extent.count {
                let (offset, taken) = self
                    .reader
                    .next(topic, partition, WAIT, |record| {
                        let text =
                            |b: Option<&[u8]>| b.map(|b| String::from_utf8(b.to_vec()).unwrap());
                        let taken = fits(&record).then(|| {
                            let header = record.header.expect("a header");
                            (
                                header.position,
                                text(record.key),
                                record.value.map(<[u8]>::to_vec),
                                text(record.old_key),
                                record.part,
                            )
                        });
                        (record.offset, taken)
                    })
                    .unwrap()
                    .expect("a record that the entry counts");
                assert!(
                    offset <= extent.last,
                    "{topic}/{partition} {offset} {extent:?}"
                );
                self.cursors.insert(at.clone(), offset + 1);
                let Some((position, key, value, old_key, part)) = taken else {
                    continue;
                };
                count += 1;
                let value = match (value, part) {
                    (Some(bytes), Some(part)) => {
                        pieces.extend(bytes);
                        if part.index + 1 < part.count {
                            continue;
                        }
                        Some(std::mem::take(&mut pieces))
                    }
                    (value, _) => value,
                };
                out.push(Taken {
                    position: (position.commit.0, position.ordinal),
                    key,
                    value: value.map(|bytes| serde_json::from_slice(&bytes).unwrap()),
                    old_key,
                });
            }
        }
        out.sort_by_key(|taken| taken.position);
        out
    }
}

fn apply(replica: &mut Replica, changes: Vec<Taken>) {
    let mut moved: BTreeMap<String, Row> = BTreeMap::new();
    for change in changes {
        let Some(value) = change.value else { continue };
        let row = |side: &str| value[side].as_object().cloned();
        let key = change.key.clone();
        match (value["op"].as_str().unwrap(), key) {
            ("t", _) => *replica = Replica::default(),
            ("r" | "c", Some(key)) => {
                let mut after = row("after").unwrap();
                let old = change.old_key.and_then(|old| moved.remove(&old));
                fill(&value, &mut after, old.as_ref());
                assert!(
                    replica.keyed.insert(key.clone(), after).is_none(),
                    "{key} twice"
                );
            }
            ("u", Some(key)) => {
                let mut after = row("after").unwrap();
                let old = replica.keyed.get(&key).cloned();
                assert!(old.is_some(), "{key} is not there");
                fill(&value, &mut after, old.as_ref());
                replica.keyed.insert(key, after);
            }
            ("d", Some(key)) => {
                let old = replica.keyed.remove(&key).expect("a row to delete");
                moved.insert(key, old);
            }
            ("r" | "c", None) => replica.loose.push(row("after").unwrap()),
            ("u" | "d", None) => {
                let before = row("before").unwrap();
                let at = replica.loose.iter().position(|row| *row == before);
                replica.loose.remove(at.expect("the old row"));
                replica.loose.extend(row("after"));
            }
            (other, _) => panic!("op {other}"),
        }
    }
}

fn fill(value: &Value, after: &mut Row, old: Option<&Row>) {
    for name in value["absent"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap();
        let old = old.expect("absent values have an old row");
        after.insert(name.to_owned(), old[name].clone());
    }
}

/// The whole log and every table of its captured set, rebuilt.
async fn rebuild(pipeline: &str) -> BTreeMap<TableName, Replica> {
    let topics = Topics::new(pipeline);
    let mut tail = LogTail::open(&kafka_settings(), &topics.commits(), From::Low)
        .await
        .unwrap();
    let (entries, _) = tail.read_to_end().await.unwrap();
    let mut place = LogPlace::at_low_end(tail.low());
    let mut ledger = CopyLedger::new();
    let mut valid = Vec::new();
    for (offset, entry) in entries {
        if judge(&mut place, offset, &entry).unwrap() == Verdict::Valid {
            ledger.valid(offset, &entry);
            valid.push((offset, entry));
        }
    }
    tokio::task::spawn_blocking(move || {
        let mut follower = Follower {
            reader: RecordReader::open(&kafka_settings(), 16 << 20).unwrap(),
            cursors: BTreeMap::new(),
        };
        let captured: Vec<TableName> = ledger.captured().keys().cloned().collect();
        let rebuilt = captured.into_iter().map(|table| {
            let replica = rebuild_table(&topics, &ledger, &valid, &mut follower, &table);
            (table, replica)
        });
        rebuilt.collect()
    })
    .await
    .unwrap()
}

fn rebuild_table(
    topics: &Topics,
    ledger: &CopyLedger,
    valid: &[(i64, Entry)],
    follower: &mut Follower,
    table: &TableName,
) -> Replica {
    let (id, copy) = ledger.choose(table, None, None).expect("a copy");
    let end = copy.end.as_ref().expect("a complete copy");
    let mut replica = Replica::default();
    let topic = topics.copy(table);
    let rows = follower.take(
        &end.rows[&topic],
        &topic,
        &copy.begin.offsets[&topic],
        |record| record.copy.is_some_and(|header| header.copy == id),
    );
    apply(&mut replica, rows);
    let topic = topics.table(table);
    for (_, entry) in valid.iter().filter(|(offset, _)| *offset > id) {
        let Entry::Batch(batch) = entry else { continue };
        let Some(extents) = batch.offsets.get(&topic) else {
            continue;
        };
        let mut changes = follower.take(extents, &topic, &copy.begin.offsets[&topic], |record| {
            let header = record.header.expect("a header");
            let commit = header.position.commit;
            header.epoch == batch.epoch && batch.from <= commit && commit < batch.to
        });
        changes.retain(|change| change.position.0 >= end.point.0);
        apply(&mut replica, changes);
    }
    replica
}

/// Compares every captured table with the leader.
async fn assert_equal(admin: &Client, pipeline: &str, tables: usize) {
    let rebuilt = rebuild(pipeline).await;
    assert_eq!(rebuilt.len(), tables, "{:?}", rebuilt.keys());
    for (table, replica) in rebuilt {
        let rows = admin
            .query(
                &format!(
                    "SELECT to_jsonb(whole_row) FROM {} whole_row",
                    table.quoted()
                ),
                &[],
            )
            .await
            .unwrap();
        let mut expected: Vec<String> = rows
            .iter()
            .map(|row| serde_json::to_string(&row.get::<_, Value>(0)).unwrap())
            .collect();
        expected.sort();
        let rows = replica.rows();
        assert_eq!(rows.len(), expected.len(), "{table}");
        if let Some((ours, theirs)) = rows.iter().zip(&expected).find(|(a, b)| a != b) {
            panic!("{table} differs: {ours} instead of {theirs}");
        }
    }
}

async fn published(source: &Source, admin: &Client) {
    let end = wal_end(admin).await;
    source
        .until("everything published", |view| view.published >= Some(end))
        .await;
}

fn copied(view: &SourceView) -> bool {
    !view.copies.is_empty() && view.copies.iter().all(|copy| copy.done)
}

const SHAPES: &[&str] = &[
    "CREATE TABLE t (id int PRIMARY KEY, a text, big text)",
    "ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
    "INSERT INTO t SELECT i, 'a' || i, CASE WHEN i % 10 = 0 THEN repeat('x', 5000) END FROM generate_series(1, 1000) i",
    "CREATE SCHEMA \"My.Shop\"",
    "CREATE TABLE \"My.Shop\".\"Or\"\"ders\" (\"Id\" int, \"b c\" text, PRIMARY KEY (\"Id\"))",
    "INSERT INTO \"My.Shop\".\"Or\"\"ders\" VALUES (1, E'tab\\t back\\\\slash \\n new'), (2, NULL), (3, '')",
    "CREATE TABLE loose (a int, b text)",
    "ALTER TABLE loose REPLICA IDENTITY FULL",
    "INSERT INTO loose SELECT i % 3, 'x' FROM generate_series(1, 30) i",
    "CREATE TABLE parts (k int, v text, PRIMARY KEY (k)) PARTITION BY RANGE (k)",
    "CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE parts_high (v text, k int NOT NULL)",
    "ALTER TABLE parts ATTACH PARTITION parts_high FOR VALUES FROM (100) TO (200)",
    "INSERT INTO parts SELECT i, 'p' || i FROM generate_series(50, 150) i",
    "CREATE TABLE left_out (a int)",
    "CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY)",
    "CREATE TABLE empty (id bigint PRIMARY KEY)",
];

const CHANGES: &[&str] = &[
    "UPDATE t SET a = 'new' WHERE id % 10 = 0",
    "UPDATE t SET id = id + 10000 WHERE id % 20 = 0",
    "DELETE FROM t WHERE id BETWEEN 1 AND 50",
    "BEGIN; UPDATE t SET id = -1 WHERE id = 51; UPDATE t SET id = 51 WHERE id = 52; UPDATE t SET id = 52 WHERE id = -1; COMMIT",
    "INSERT INTO t VALUES (77777, 'huge', repeat('y', 3000000))",
    "UPDATE \"My.Shop\".\"Or\"\"ders\" SET \"b c\" = 'changed' WHERE \"Id\" = 2",
    "DELETE FROM loose WHERE ctid IN (SELECT ctid FROM loose WHERE a = 1 LIMIT 3)",
    "UPDATE loose SET b = 'y' WHERE a = 2",
    "UPDATE parts SET k = k + 100 WHERE k BETWEEN 80 AND 99",
    "INSERT INTO left_out VALUES (1)",
    "BEGIN; INSERT INTO empty VALUES (1), (2); TRUNCATE empty; INSERT INTO empty VALUES (3); COMMIT",
    "ALTER TABLE t ADD extra int DEFAULT 7",
    "UPDATE t SET extra = 8 WHERE id BETWEEN 100 AND 110",
    "BEGIN; INSERT INTO t VALUES (90001, 'a', NULL, 1); ALTER TABLE t DROP extra; INSERT INTO t VALUES (90002, 'b', NULL); COMMIT",
    "TRUNCATE loose",
    "INSERT INTO loose VALUES (9, 'after'), (9, 'after')",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_kafka_is_what_the_leader_has() {
    let server = Postgres::start("leader");
    let admin = connect(&server).await;
    run(&admin, SHAPES).await;
    let pipeline = pipeline();
    let source = Source::start(context(&server, &pipeline, "one"));
    source.until("the copy", copied).await;
    run(&admin, &CHANGES[..11]).await;
    published(&source, &admin).await;
    assert_equal(&admin, &pipeline, 5).await;
    source.stop().await;

    // What happens while the source is away is there when it is back; no table is copied again.
    run(&admin, &CHANGES[11..]).await;
    let source = Source::start(context(&server, &pipeline, "two"));
    published(&source, &admin).await;
    assert!(source.view().copies.is_empty());
    source.stop().await;
    run(&admin, &["UPDATE t SET a = 'x' WHERE id = 77777"]).await;
    let source = Source::start(context(&server, &pipeline, "three"));
    published(&source, &admin).await;
    source.stop().await;
    let rebuilt = rebuild(&pipeline).await;
    assert_eq!(rebuilt[&TableName::new("public", "loose")].rows().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_made_while_writes_go_on_join_the_stream_exactly() {
    let server = Postgres::start("leader");
    let admin = connect(&server).await;
    run(
        &admin,
        &[
            "CREATE TABLE a (id int PRIMARY KEY, n int)",
            "CREATE TABLE b (id int PRIMARY KEY, t text)",
            "INSERT INTO a SELECT i, 0 FROM generate_series(1, 20000) i",
            "INSERT INTO b SELECT i, repeat('z', 200) FROM generate_series(1, 60000) i",
        ],
    )
    .await;
    let pipeline = pipeline();
    let source = Source::start(context(&server, &pipeline, "one"));
    let writer = connect(&server).await;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let writes = tokio::spawn(async move {
        let mut n = 0;
        while !stopped.is_cancelled() {
            n += 1;
            let sql = format!(
                "BEGIN; UPDATE a SET n = n + 1 WHERE id = {id}; DELETE FROM b WHERE id = {id};
                 INSERT INTO b VALUES ({id}, 'again {n}'); UPDATE b SET id = id + 100000 WHERE id = {other}; COMMIT",
                id = n % 20000 + 1,
                other = n * 3 % 60000,
            );
            writer.batch_execute(&sql).await.unwrap();
        }
        n
    });
    source.until("the copy", copied).await;
    stop.cancel();
    assert!(writes.await.unwrap() > 10);
    published(&source, &admin).await;
    assert_equal(&admin, &pipeline, 2).await;

    // A table made now joins with the next epoch, and one that is excluded leaves.
    run(
        &admin,
        &[
            "CREATE TABLE c (id int PRIMARY KEY)",
            "INSERT INTO c VALUES (1), (2)",
        ],
    )
    .await;
    source.stop().await;
    let mut next = context(&server, &pipeline, "two");
    next.source.exclude.push("public.a".into());
    let source = Source::start(next);
    source.until("the copy", copied).await;
    assert_eq!(source.view().copies.len(), 1);
    run(
        &admin,
        &[
            "INSERT INTO c VALUES (3)",
            "UPDATE b SET t = 'q' WHERE id = 5",
        ],
    )
    .await;
    published(&source, &admin).await;
    assert_equal(&admin, &pipeline, 2).await;
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_source_waits_and_takes_over_and_sources_killed_lose_nothing() {
    let server = Postgres::start("leader");
    let admin = connect(&server).await;
    run(&admin, &["CREATE TABLE a (id int PRIMARY KEY, n int)"]).await;
    let pipeline = pipeline();
    let first = Source::start(context(&server, &pipeline, "first"));
    first
        .until("streaming", |view| view.state == State::Streaming)
        .await;
    let mut source = Source::start(context(&server, &pipeline, "second"));
    source
        .until("waiting", |view| view.state == State::Waiting)
        .await;
    first.stop().await;
    source
        .until("streaming", |view| view.state == State::Streaming)
        .await;

    let writer = connect(&server).await;
    for round in 0..8 {
        for n in 0..50 {
            let id = round * 50 + n;
            run(
                &writer,
                &[
                    &format!("INSERT INTO a VALUES ({id}, 0)"),
                    &format!("UPDATE a SET n = {round} WHERE id <= {id} AND id > {id} - 5"),
                ],
            )
            .await;
        }
        source.task.abort();
        source = Source::start(context(&server, &pipeline, &format!("round {round}")));
        source
            .until("streaming", |view| view.state == State::Streaming)
            .await;
    }
    source
        .until("the copy", |view| view.published.is_some())
        .await;
    published(&source, &admin).await;
    source.stop().await;
    let last = Source::start(context(&server, &pipeline, "last"));
    published(&last, &admin).await;
    let deadline = Instant::now() + WAIT;
    loop {
        let rows = rebuild_ready(&pipeline).await;
        if rows {
            break;
        }
        assert!(Instant::now() < deadline, "no complete copy");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    published(&last, &admin).await;
    assert_equal(&admin, &pipeline, 1).await;
    last.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_much_larger_than_the_queue_streams_through() {
    let server = Postgres::start("leader");
    let admin = connect(&server).await;
    run(&admin, &["CREATE TABLE a (id int PRIMARY KEY, t text)"]).await;
    let pipeline = pipeline();
    let small = |instance: &str| {
        let mut context = context(&server, &pipeline, instance);
        context.source.queue_max_bytes = 1 << 20;
        context.source.batch_max_bytes = 1 << 18;
        context
    };
    let source = Source::start(small("one"));
    source.until("the copy", copied).await;
    run(
        &admin,
        &[
            "INSERT INTO a SELECT i, repeat('x', 200) FROM generate_series(1, 150000) i",
            "UPDATE a SET t = 'y' WHERE id % 2 = 0",
        ],
    )
    .await;
    published(&source, &admin).await;
    assert_eq!(source.view().changes, 150_000 + 75_000);
    // Asked to stop while a large transaction is under way, it ends at a boundary all the same.
    run(&admin, &["UPDATE a SET t = 'z'"]).await;
    source.stop().await;
    let source = Source::start(small("two"));
    published(&source, &admin).await;
    assert_equal(&admin, &pipeline, 1).await;
    source.stop().await;
}

/// Waits until the log has a complete copy of each captured table.
async fn copies_logged(source: &Source, pipeline: &str) {
    source.until("the copy", copied).await;
    let deadline = Instant::now() + WAIT;
    while !rebuild_ready(pipeline).await {
        assert!(Instant::now() < deadline, "no complete copy");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether every captured table has a complete copy.
async fn rebuild_ready(pipeline: &str) -> bool {
    let topics = Topics::new(pipeline);
    let mut tail = LogTail::open(&kafka_settings(), &topics.commits(), From::Low)
        .await
        .unwrap();
    let (entries, _) = tail.read_to_end().await.unwrap();
    let mut place = LogPlace::at_low_end(tail.low());
    let mut ledger = CopyLedger::new();
    for (offset, entry) in entries {
        if judge(&mut place, offset, &entry).unwrap() == Verdict::Valid {
            ledger.valid(offset, &entry);
        }
    }
    ledger.captured().keys().all(|table| {
        ledger
            .choose(table, None, None)
            .is_some_and(|(_, copy)| copy.end.is_some())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_halts_with_a_remedy_and_changes_nothing() {
    let server = Postgres::start("leader");
    let admin = connect(&server).await;
    run(&admin, &["CREATE TABLE nokey (a int)"]).await;
    let pipeline = pipeline();
    let refused = capture::run(&context(&server, &pipeline, "one"))
        .await
        .expect_err("refused");
    assert_eq!(refused.class(), Class::Halt);
    assert!(refused.what().contains("public.nokey"), "{refused}");
    let made = admin
        .query_one("SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots)", &[])
        .await
        .unwrap();
    assert_eq!(made.get::<_, i64>(0), 0);

    run(&admin, &["ALTER TABLE nokey REPLICA IDENTITY FULL"]).await;
    let source = Source::start(context(&server, &pipeline, "two"));
    source
        .until("an entry", |view| view.published.is_some())
        .await;
    source.stop().await;
    let slot =
        format!("SELECT pg_replication_slot_advance('walferry_{pipeline}', pg_current_wal_lsn())");
    run(
        &admin,
        &["INSERT INTO nokey VALUES (1)", "CHECKPOINT", &slot],
    )
    .await;
    let advanced = capture::run(&context(&server, &pipeline, "three"))
        .await
        .expect_err("halted");
    assert_eq!(advanced.class(), Class::Halt, "{advanced}");
    assert!(advanced.remedy().is_some());
    let drop_slot = format!("SELECT pg_drop_replication_slot('walferry_{pipeline}')");
    let deadline = Instant::now() + WAIT;
    // The server notices a moment later that the halted source has gone.
    while let Err(error) = admin.batch_execute(&drop_slot).await {
        assert!(Instant::now() < deadline, "{error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let gone = capture::run(&context(&server, &pipeline, "four"))
        .await
        .expect_err("halted");
    assert_eq!(gone.class(), Class::Halt, "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_dropped_from_the_publication_is_copied_again() {
    let server = Postgres::start("leader");
    let admin = connect(&server).await;
    run(
        &admin,
        &[
            "CREATE TABLE a (id int PRIMARY KEY)",
            "CREATE TABLE b (id int PRIMARY KEY)",
        ],
    )
    .await;
    let pipeline = pipeline();
    let source = Source::start(context(&server, &pipeline, "one"));
    copies_logged(&source, &pipeline).await;
    source.stop().await;
    let drop = format!("ALTER PUBLICATION walferry_{pipeline} DROP TABLE a");
    run(&admin, &[&drop, "INSERT INTO a VALUES (1)"]).await;

    let ended = capture::run(&context(&server, &pipeline, "two"))
        .await
        .expect_err("an epoch without the table");
    assert_eq!(ended.class(), Class::Transient, "{ended}");
    assert!(ended.what().contains("public.a"), "{ended}");
    let source = Source::start(context(&server, &pipeline, "three"));
    copies_logged(&source, &pipeline).await;
    run(
        &admin,
        &["INSERT INTO a VALUES (2)", "INSERT INTO b VALUES (3)"],
    )
    .await;
    published(&source, &admin).await;
    assert_eq!(source.view().copies.len(), 1, "b is not copied again");
    source.stop().await;
    assert_equal(&admin, &pipeline, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_full_identity_a_key_younger_than_the_rows_does_not_count() {
    let server = Postgres::start("leader");
    let admin = connect(&server).await;
    run(
        &admin,
        &[
            "CREATE TABLE late (id int, n int)",
            "ALTER TABLE late REPLICA IDENTITY FULL",
            "INSERT INTO late VALUES (NULL, 1), (2, 2), (2, 3)",
            "CREATE TABLE early (id int PRIMARY KEY, n int)",
            "ALTER TABLE early REPLICA IDENTITY FULL",
            "INSERT INTO early VALUES (1, 1)",
        ],
    )
    .await;
    let pipeline = pipeline();
    let source = Source::start(context(&server, &pipeline, "one"));
    copies_logged(&source, &pipeline).await;
    run(&admin, &["UPDATE early SET n = 2"]).await;
    published(&source, &admin).await;
    source.stop().await;
    let early = TableName::new("public", "early");
    assert_eq!(
        rebuild(&pipeline).await[&early].keyed.len(),
        1,
        "has its key"
    );

    run(
        &admin,
        &[
            "UPDATE late SET n = n + 10",
            "DELETE FROM late WHERE n = 12",
            "UPDATE late SET id = 1 WHERE id IS NULL",
            "ALTER TABLE late ADD PRIMARY KEY (id)",
            "UPDATE late SET n = n + 10",
        ],
    )
    .await;
    let source = Source::start(context(&server, &pipeline, "two"));
    published(&source, &admin).await;
    source.stop().await;
    assert_equal(&admin, &pipeline, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_leader_that_has_everything_is_followed() {
    let mut server = Postgres::start("leader");
    let admin = connect(&server).await;
    run(&admin, &["CREATE TABLE a (id int PRIMARY KEY)"]).await;
    let pipeline = pipeline();
    let source = Source::start(context(&server, &pipeline, "one"));
    copies_logged(&source, &pipeline).await;
    run(&admin, &["INSERT INTO a VALUES (1)"]).await;
    published(&source, &admin).await;
    source.stop().await;

    drop(admin);
    server.stop();
    let data = server.dir.join("data");
    std::fs::write(data.join("standby.signal"), "").unwrap();
    server.start_again();
    let admin = connect(&server).await;
    run(&admin, &["SELECT pg_promote()", "INSERT INTO a VALUES (2)"]).await;
    let mut connection = ReplicationConnection::open(&settings(&server), "test", &[])
        .await
        .unwrap();
    assert_eq!(connection.identify_system().await.unwrap().timeline, 2);
    let history = connection.timeline_history(2).await.unwrap().unwrap();
    assert_eq!(parse_timeline_history(&history).unwrap().len(), 1);
    assert_eq!(connection.timeline_history(3).await.unwrap(), None);
    let source = Source::start(context(&server, &pipeline, "two"));
    published(&source, &admin).await;
    source.stop().await;
    assert_equal(&admin, &pipeline, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_start_a_pipeline_together_do_not_halt_each_other() {
    let server = Postgres::start("leader");
    let admin = connect(&server).await;
    run(&admin, &["CREATE TABLE a (id int PRIMARY KEY)"]).await;
    for _ in 0..3 {
        let pipeline = pipeline();
        let sources: Vec<Source> = ["one", "two", "three"]
            .iter()
            .map(|instance| Source::start(context(&server, &pipeline, instance)))
            .collect();
        let deadline = Instant::now() + WAIT;
        let settled = |source: &Source| {
            source.task.is_finished()
                || [State::Streaming, State::Waiting].contains(&source.view().state)
        };
        while !sources.iter().all(settled) {
            assert!(Instant::now() < deadline, "no instance streams");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for source in sources {
            source.context.stop.cancel();
            if let Err(error) = source.task.await.expect("no panic") {
                assert_eq!(error.class(), Class::Transient, "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_table_that_cannot_be_captured_is_left_out_and_the_others_go_on() {
    let server = Postgres::start("leader");
    let admin = connect(&server).await;
    run(&admin, &["CREATE TABLE a (id int PRIMARY KEY)"]).await;
    let pipeline = pipeline();
    let source = Source::start(context(&server, &pipeline, "one"));
    source.until("the copy", copied).await;
    source.stop().await;

    let new = [
        "CREATE TABLE keyless (n int)",
        "INSERT INTO keyless VALUES (1)",
        "CREATE TABLE locked (id int PRIMARY KEY)",
    ];
    run(&admin, &new).await;
    let holder = connect(&server).await;
    run(&holder, &["BEGIN; LOCK TABLE locked IN SHARE MODE"]).await;
    let says = |view: &SourceView, table: &str| {
        let last = view.last_error.as_ref();
        last.is_some_and(|error| error.what.contains(table))
    };
    let source = Source::start(context(&server, &pipeline, "two"));
    source
        .until("both left out", |view| {
            says(view, "public.keyless") && says(view, "public.locked")
        })
        .await;
    let changes = ["INSERT INTO a VALUES (1)", "DELETE FROM keyless"];
    run(&admin, &changes).await;
    published(&source, &admin).await;
    source.stop().await;

    run(&holder, &["ROLLBACK"]).await;
    let source = Source::start(context(&server, &pipeline, "three"));
    source
        .until("the copy of the other", |view| {
            copied(view) && says(view, "public.keyless") && !says(view, "public.locked")
        })
        .await;
    source.stop().await;
}
