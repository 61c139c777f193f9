//! The log's clients against a real Kafka. `WALFERRY_TEST_KAFKA` names a broker (host:port) that may
//! be filled with test topics; every test works in topics of its own.

mod support;

use std::collections::BTreeMap;

use std::time::{Duration, Instant};

use support::{DEADLINE, ForgetfulKafka, kafka_settings, unique, until};
use walferry::config::{Durability, KafkaSettings, Secret};
use walferry::error::{Class, Error};
use walferry::log::commit_log::{BatchEntry, Entry, EpochEntry};
use walferry::log::header::{
    COPY_HEADER, CopyHeader, NEW_KEY_HEADER, PART_HEADER, PartHeader, RECORD_HEADER, RecordHeader,
};
use walferry::log::producer::{EpochProducer, Header, PartitionSlot, Sent};
use walferry::log::progress::{Progress, ProgressReader, ProgressWriter};
use walferry::log::records::RecordReader;
use walferry::log::schemas::SchemaStore;
use walferry::log::tail::{From, LogTail};
use walferry::log::topics::{Retention, TopicAdmin, TopicSpec, Topics};
use walferry::model::{
    Column, ColumnKind, Epoch, Lsn, Oid, Position, ReplicaIdentity, SchemaVersion, TableName,
    TableSchema,
};

const WAIT: Duration = Duration::from_secs(20);
const QUEUE: usize = 64 << 20;

/// A pipeline name that no other test or run has.
fn pipeline() -> String {
    format!("t{}", unique())
}

async fn topic(name: &str, partitions: i32, retention: Retention) -> String {
    topic_at(&kafka_settings(), name, partitions, retention).await
}

async fn topic_at(
    kafka: &KafkaSettings,
    name: &str,
    partitions: i32,
    retention: Retention,
) -> String {
    let spec = TopicSpec {
        name: name.to_owned(),
        partitions,
        retention,
    };
    let admin = TopicAdmin::open(kafka).expect("admin");
    admin.ensure(&[spec]).await.expect("topic is made");
    name.to_owned()
}

fn header(ordinal: u32) -> [u8; RecordHeader::LEN] {
    RecordHeader {
        epoch: Epoch(3),
        position: Position {
            commit: Lsn(0x10),
            ordinal,
        },
        version: SchemaVersion(9),
    }
    .to_bytes()
}

async fn send_all(
    producer: &EpochProducer,
    slot: PartitionSlot,
    records: impl IntoIterator<Item = (Option<Vec<u8>>, Option<Vec<u8>>)>,
) -> walferry::log::producer::Acked {
    let batch = producer.open_batch();
    for (ordinal, (key, value)) in records.into_iter().enumerate() {
        let bytes = header(ordinal as u32);
        let headers: [Header<'_>; 1] = [(RECORD_HEADER, &bytes)];
        while producer
            .send(batch, slot, key.as_deref(), value.as_deref(), &headers)
            .expect("sent")
            == Sent::Full
        {
            producer.room().await.expect("room");
        }
    }
    producer.acked(batch).await.expect("acked")[&slot]
}

fn error<T>(result: Result<T, Error>) -> Error {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error,
    }
}

fn batch(from: u64, to: u64) -> Entry {
    Entry::Batch(BatchEntry {
        bytes: 0,
        epoch: Epoch(0),
        from: Lsn(from),
        to: Lsn(to),
        last_commit: None,
        transactions: 1,
        changes: 0,
        offsets: BTreeMap::new(),
        sample: None,
    })
}

async fn append(producer: &EpochProducer, topic: &str, entry: &Entry) -> i64 {
    let value = serde_json::to_vec(entry).expect("JSON");
    let slot = producer.partition_slot(topic, 0);
    let acked = send_all(producer, slot, [(None, Some(value))]).await;
    acked.last.expect("an offset")
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_as_they_were_sent() {
    let name = topic(&format!("{}.s.t", pipeline()), 3, Retention::Settings).await;
    let producer = EpochProducer::open(&kafka_settings(), QUEUE).expect("producer");
    let slots: Vec<_> = (0..3).map(|p| producer.partition_slot(&name, p)).collect();
    assert_eq!(slots[1], producer.partition_slot(&name, 1));
    assert_eq!(producer.partition_of(slots[2]), (name.clone(), 2));
    let batch = producer.open_batch();
    let (copy, part) = (
        CopyHeader {
            copy: 5,
            sequence: 6,
        },
        PartHeader { index: 1, count: 2 },
    );
    let (first, copy_bytes, part_bytes) = (header(0), copy.to_bytes(), part.to_bytes());
    let all: [Header<'_>; 4] = [
        (RECORD_HEADER, &first),
        (COPY_HEADER, &copy_bytes),
        (PART_HEADER, &part_bytes),
        (NEW_KEY_HEADER, b""),
    ];
    let sent = [
        producer.send(batch, slots[0], Some(b"k"), Some(b"v"), &all),
        producer.send(batch, slots[0], Some(b"k"), None, &[]),
        producer.send(batch, slots[2], None, Some(b""), &[]),
    ];
    assert!(sent.into_iter().all(|s| s.expect("sent") == Sent::Taken));
    let acked = producer.acked(batch).await.expect("acked");
    assert_eq!(acked.len(), 2);
    assert_eq!(
        (acked[&slots[0]].last, acked[&slots[0]].count),
        (Some(1), 2)
    );
    assert_eq!(acked[&slots[2]].largest_named, Some(0));
    assert_eq!(producer.unacknowledged_bytes(), 0);
    assert_eq!(producer.high_watermark(slots[0]).await.expect("asked"), 2);

    tokio::task::spawn_blocking(move || {
        let mut reader = RecordReader::open(&kafka_settings(), 1 << 20).expect("reader");
        for partition in 0..3 {
            reader.assign(&name, partition, 0).expect("assigned");
        }
        let seen = reader.next(&name, 0, WAIT, |record| {
            assert_eq!(
                (record.key, record.value),
                (Some(&b"k"[..]), Some(&b"v"[..]))
            );
            assert_eq!(record.header, RecordHeader::from_bytes(&first));
            assert_eq!((record.copy, record.part), (Some(copy), Some(part)));
            assert_eq!((record.new_key, record.old_key), (Some(&b""[..]), None));
            record.offset
        });
        assert_eq!(seen.expect("read"), Some(0));
        let tombstone = reader.next(&name, 0, WAIT, |record| {
            (
                record.value.is_none(),
                record.header.is_none(),
                record.offset,
            )
        });
        assert_eq!(tombstone.expect("read"), Some((true, true, 1)));
        let empty = reader.next(&name, 2, WAIT, |record| {
            (record.key.is_none(), record.value.map(<[u8]>::len))
        });
        assert_eq!(empty.expect("read"), Some((true, Some(0))));
        let none = reader.next(&name, 1, Duration::from_millis(50), |_| ());
        assert_eq!(none.expect("idle"), None);
        assert_eq!(reader.watermarks(&name, 0).expect("asked"), (0, 2));
    })
    .await
    .expect("reader thread");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_waited_for_and_everything_arrives_in_order() {
    const RECORDS: usize = 50_000;
    let name = topic(&format!("{}.s.t", pipeline()), 1, Retention::Settings).await;
    // So small that it is full most of the time.
    let producer = EpochProducer::open(&kafka_settings(), 100_000).expect("producer");
    let slot = producer.partition_slot(&name, 0);
    let number = |n: usize| (Some(n.to_be_bytes().to_vec()), Some(vec![7; 100]));
    let acked = send_all(&producer, slot, (0..RECORDS).map(number)).await;
    assert_eq!(acked.count, RECORDS as u64);
    assert_eq!(acked.last, Some(RECORDS as i64 - 1));
    tokio::task::spawn_blocking(move || {
        let mut reader = RecordReader::open(&kafka_settings(), 1 << 20).expect("reader");
        reader.assign(&name, 0, 0).expect("assigned");
        for n in 0..RECORDS {
            let key = reader.next(&name, 0, WAIT, |record| record.key.map(<[u8]>::to_vec));
            assert_eq!(key.expect("read"), Some(Some(n.to_be_bytes().to_vec())));
        }
        // Moved back: what was fetched before does not come again in between.
        for begin in [100, 40_000, 7] {
            reader.assign(&name, 0, begin).expect("moved");
            for n in begin..begin + 500 {
                let offset = reader.next(&name, 0, WAIT, |record| record.offset);
                assert_eq!(offset.expect("read"), Some(n));
            }
        }
    })
    .await
    .expect("reader thread");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_partitions_than_shares_go_on_where_they_were() {
    const PARTITIONS: i32 = 11;
    let name = topic(
        &format!("{}.s.t", pipeline()),
        PARTITIONS,
        Retention::Settings,
    )
    .await;
    let producer = EpochProducer::open(&kafka_settings(), QUEUE).expect("producer");
    for partition in 0..PARTITIONS {
        let slot = producer.partition_slot(&name, partition);
        send_all(&producer, slot, (0..100).map(|_| (None, Some(vec![1; 50])))).await;
    }
    tokio::task::spawn_blocking(move || {
        let mut reader = RecordReader::open(&kafka_settings(), 1 << 20).expect("reader");
        for assigned in 0..PARTITIONS {
            reader.assign(&name, assigned, 0).expect("assigned");
            for partition in 0..=assigned {
                let offset = reader.next(&name, partition, WAIT, |record| record.offset);
                assert_eq!(offset.expect("read"), Some(i64::from(assigned - partition)));
            }
        }
        reader.unassign(&name, 3).expect("unassigned");
        let offset = reader.next(&name, 4, WAIT, |record| record.offset);
        assert_eq!(offset.expect("read"), Some(i64::from(PARTITIONS - 4)));
        // What was fetched ahead before a partition was left is not what comes when it is read again.
        for start in [50, 2] {
            reader.assign(&name, 3, start).expect("assigned");
            for expected in start..start + 3 {
                let offset = reader.next(&name, 3, WAIT, |record| record.offset);
                assert_eq!(offset.expect("read"), Some(expected));
            }
            reader.unassign(&name, 3).expect("unassigned");
        }
    })
    .await
    .expect("reader thread");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_halts() {
    let name = topic(&format!("{}.s.t", pipeline()), 1, Retention::Settings).await;
    let producer = EpochProducer::open(&kafka_settings(), QUEUE).expect("producer");
    let slot = producer.partition_slot(&name, 0);
    send_all(&producer, slot, (0..10).map(|_| (None, Some(vec![1; 50])))).await;
    let admin = TopicAdmin::open(&kafka_settings()).expect("admin");
    admin.trim(&name, 0, 4).await.expect("trimmed");
    let missing = format!("{name}.gone");
    let other = topic(&format!("{}.s.u", pipeline()), 2, Retention::Settings).await;
    tokio::task::spawn_blocking(move || {
        for offset in [2, 11] {
            let mut reader = RecordReader::open(&kafka_settings(), 1 << 20).expect("reader");
            reader.assign(&name, 0, offset).expect("assigned");
            let error = error(reader.next(&name, 0, WAIT, |record| record.offset));
            assert_eq!(error.class(), Class::Halt, "{error}");
            assert!(error.what().contains("4 to 10"), "{error}");
        }
        let mut reader = RecordReader::open(&kafka_settings(), 1 << 20).expect("reader");
        reader.assign(&name, 0, 4).expect("assigned");
        let offset = reader.next(&name, 0, WAIT, |record| record.offset);
        assert_eq!(offset.expect("read"), Some(4));
        let low = |of: &[(&str, i32)]| reader.lows(of);
        assert_eq!(low(&[(&name, 0), (&other, 1)]).expect("told"), [4, 0]);
        assert_eq!(low(&[]).expect("nothing asked"), [] as [i64; 0]);
        for error in [
            error(low(&[(&name, 0), (&missing, 0)])),
            error(reader.watermarks(&missing, 0)),
        ] {
            assert_eq!(error.class(), Class::Halt, "{error}");
            assert!(error.what().contains(&missing), "{error}");
        }
    })
    .await
    .expect("reader thread");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_gives_entries_in_order_and_asks_for_the_end() {
    let commits = Topics::new(pipeline()).commits();
    let absent = error(LogTail::open(&kafka_settings(), &commits, From::Low).await);
    assert_eq!(absent.class(), Class::Halt, "{absent}");
    topic(&commits, 1, Retention::Unlimited).await;
    let producer = EpochProducer::open(&kafka_settings(), QUEUE).expect("producer");
    let mut tail = LogTail::open(&kafka_settings(), &commits, From::Low)
        .await
        .expect("tail");
    assert_eq!(tail.read_to_end().await.expect("read"), (vec![], 0));
    let epoch = Entry::Epoch(EpochEntry {
        after: 0,
        instance: "i".to_owned(),
        system_id: "7".to_owned(),
        timeline: 1,
        captured: vec![],
        dropped: Vec::new(),
    });
    assert_eq!(append(&producer, &commits, &epoch).await, 0);
    assert_eq!(append(&producer, &commits, &batch(1, 2)).await, 1);
    assert_eq!(tail.next().await.expect("next"), (0, epoch));
    append(&producer, &commits, &batch(2, 3)).await;
    let (entries, end) = tail.read_to_end().await.expect("read");
    assert_eq!(entries, [(1, batch(1, 2)), (2, batch(2, 3))]);
    assert_eq!(end, 3);
    assert!(tail.try_next().expect("nothing").is_none());

    let admin = TopicAdmin::open(&kafka_settings()).expect("admin");
    admin.trim(&commits, 0, 1).await.expect("trimmed");
    let low = LogTail::open(&kafka_settings(), &commits, From::Low).await;
    assert_eq!(low.expect("tail").low(), 1);
    for outside in [0, 4] {
        let error = error(LogTail::open(&kafka_settings(), &commits, From::Offset(outside)).await);
        assert_eq!(error.class(), Class::Halt, "{error}");
    }
    let mut end = LogTail::open(&kafka_settings(), &commits, From::End)
        .await
        .expect("tail");
    let slot = producer.partition_slot(&commits, 0);
    send_all(&producer, slot, [(None, Some(b"{}".to_vec()))]).await;
    let error = error(end.next().await);
    assert_eq!(error.class(), Class::Halt, "{error}");
    assert!(error.what().contains("offset 3"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_entry_is_out_of_the_tail_within_milliseconds() {
    let commits = topic(&Topics::new(pipeline()).commits(), 1, Retention::Unlimited).await;
    let table = topic(&format!("{commits}.s.t"), 1, Retention::Settings).await;
    let producer = EpochProducer::open(&kafka_settings(), QUEUE).expect("producer");
    let mut tail = LogTail::open(&kafka_settings(), &commits, From::End)
        .await
        .expect("tail");
    let (sender, receiver) = std::sync::mpsc::channel();
    let reading = table.clone();
    let reader = std::thread::spawn(move || {
        let mut reader = RecordReader::open(&kafka_settings(), 1 << 20).expect("reader");
        reader.assign(&reading, 0, 0).expect("assigned");
        for _ in 0..200 {
            reader
                .next(&reading, 0, WAIT, |_| ())
                .expect("read")
                .expect("in time");
            sender.send(Instant::now()).expect("received");
        }
    });
    let slot = producer.partition_slot(&table, 0);
    let (mut acks, mut entries, mut records) = (vec![], vec![], vec![]);
    for n in 0..200 {
        let begun = Instant::now();
        send_all(&producer, slot, [(None, Some(vec![1; 300]))]).await;
        let acked = Instant::now();
        acks.push(acked - begun);
        let came = receiver.recv_timeout(WAIT).expect("a record");
        records.push(came.saturating_duration_since(acked));
        append(&producer, &commits, &batch(n, n + 1)).await;
        let acked = Instant::now();
        tail.next().await.expect("next");
        entries.push(acked.elapsed());
    }
    reader.join().expect("reader");
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        (times[times.len() / 2], times[times.len() * 99 / 100])
    };
    let (ack, entry, record) = (
        median(&mut acks),
        median(&mut entries),
        median(&mut records),
    );
    println!("median, p99: ack {ack:?}, then entry {entry:?}, record {record:?}");
    assert!(entry.0 < Duration::from_millis(5), "entry {entry:?}");
    assert!(record.0 < Duration::from_millis(5), "record {record:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_halts_and_ends_the_epoch() {
    let name = topic(&format!("{}.s.t", pipeline()), 1, Retention::Settings).await;
    let producer = EpochProducer::open(&kafka_settings(), QUEUE).expect("producer");
    let slot = producer.partition_slot(&name, 0);
    let largest = vec![b'x'; producer.record_max_bytes()];
    let acked = send_all(&producer, slot, [(None, Some(largest))]).await;
    assert_eq!(acked.count, 1);
    let too_large = vec![b'x'; producer.record_max_bytes() + (1 << 20)];
    let batch = producer.open_batch();
    let error = error(producer.send(batch, slot, None, Some(&too_large), &[]));
    assert_eq!(error.class(), Class::Halt, "{error}");
    assert_eq!(producer.failed().await.class(), Class::Halt);
    assert!(producer.send(batch, slot, None, None, &[]).is_err());
    assert!(producer.acked(batch).await.is_err());
    assert!(producer.room().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_without_brokers_is_dropped_at_once() {
    let mut nowhere = kafka_settings();
    nowhere.brokers = "127.0.0.1:1".to_owned();
    let producer = EpochProducer::open(&nowhere, QUEUE).expect("producer");
    let slot = producer.partition_slot("t", 0);
    let batch = producer.open_batch();
    for _ in 0..1000 {
        let sent = producer.send(batch, slot, None, Some(&[1; 1000]), &[]);
        assert_eq!(sent.expect("queued"), Sent::Taken);
    }
    assert_eq!(producer.unacknowledged_bytes(), 1_000_000);
    let waiting = tokio::time::timeout(Duration::from_millis(100), producer.acked(batch));
    assert!(waiting.await.is_err(), "nobody acknowledged it");
    let begun = Instant::now();
    drop(producer);
    assert!(begun.elapsed() < Duration::from_millis(100));
}

/// Few would not show it: not each client is left without brokers for good (`log::kept`).
const CLIENTS: u32 = 24;
const ROUNDS: i64 = 4;

/// Reads a partition up to an offset; begins anew at an error, as a sink does.
fn read_up_to(kafka: &KafkaSettings, name: &str, end: i64) {
    let by = Instant::now() + DEADLINE;
    let mut next = 0;
    while next < end {
        let mut reader = RecordReader::open(kafka, 1 << 20).expect("reader");
        reader.assign(name, 0, next).expect("assigned");
        while let Ok(read) = reader.next(name, 0, WAIT, |record| record.offset) {
            assert!(Instant::now() < by, "a reader is stuck at {next}");
            next = read.map_or(next, |offset| offset + 1);
            if next >= end {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_were_told_of_no_brokers_go_on() {
    let forgetful = ForgetfulKafka::start("forgetful");
    let mut through = kafka_settings();
    through.brokers = forgetful.bootstrap();
    let often = ("topic.metadata.refresh.interval.ms", "100");
    through
        .properties
        .insert(often.0.to_owned(), Secret::new(often.1));
    let name = topic_at(&through, "s.t", 1, Retention::Settings).await;
    let producers: Vec<_> = (0..CLIENTS)
        .map(|_| EpochProducer::open(&through, QUEUE).expect("producer"))
        .collect();
    let readers = (0..CLIENTS).map(|_| {
        let (through, name) = (through.clone(), name.clone());
        let end = i64::from(CLIENTS) * ROUNDS;
        tokio::task::spawn_blocking(move || read_up_to(&through, &name, end))
    });
    let readers = futures_util::future::join_all(readers);
    for round in 0..ROUNDS {
        let before = forgetful.forgot();
        if round > 0 {
            forgetful.forgets(true);
        }
        let sends = producers.iter().map(|producer| {
            let slot = producer.partition_slot(&name, 0);
            send_all(producer, slot, [(None, Some(b"v".to_vec()))])
        });
        let remembering = async {
            if round > 0 {
                until("answers without brokers", async || {
                    let forgot = forgetful.forgot() - before;
                    (forgot >= CLIENTS / 2)
                        .then_some(())
                        .ok_or(forgot.to_string())
                })
                .await;
                forgetful.forgets(false);
            }
        };
        let all = async { tokio::join!(futures_util::future::join_all(sends), remembering) };
        tokio::time::timeout(DEADLINE, all)
            .await
            .unwrap_or_else(|_| panic!("a producer is stuck in round {round}"));
    }
    for read in readers.await {
        read.expect("a reader got to the end");
    }
}

/// A session or a command begins by reading topics to their ends; a broker that is gone for a moment meanwhile is no
/// reason to begin anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_read_to_its_end_across_an_outage() {
    let forgetful = ForgetfulKafka::start("leaving");
    let mut through = kafka_settings();
    through.brokers = forgetful.bootstrap();
    let name = topic_at(&through, "p.schemas", 1, Retention::Unlimited).await;
    let producer = EpochProducer::open(&through, QUEUE).expect("producer");
    let slot = producer.partition_slot(&name, 0);
    // Several answers: each has a megabyte of a partition, and names like these are hard to compress.
    let column = |n: u128| Column {
        name: format!(
            "{:032x}",
            n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
        ),
        ..schema("t").columns[0].clone()
    };
    let wide = |n: u128| TableSchema {
        columns: (0..2_000).map(|i| column((n << 16) + i + 1)).collect(),
        ..schema(&format!("t{n}"))
    };
    let written = 40;
    let records = (0..written).map(|n| {
        let schema = wide(n);
        let key = schema.version().to_string().into_bytes();
        (Some(key), Some(serde_json::to_vec(&schema).expect("JSON")))
    });
    send_all(&producer, slot, records).await;
    forgetful.leaves_behind_answer_of(300_000);
    let reading = tokio::task::spawn_blocking(move || SchemaStore::open(&through, &name));
    let store = reading.await.expect("joined").expect("read to its end");
    assert!(forgetful.has_been_gone());
    for n in 0..written {
        assert!(store.contains(wide(n).version()), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_tells_why_it_cannot_be_used() {
    let mut nowhere = kafka_settings();
    nowhere
        .properties
        .insert("no.such.property".to_owned(), Secret::new("hunter2"));
    let error = error(EpochProducer::open(&nowhere, QUEUE));
    assert_eq!(error.class(), Class::Halt, "{error}");
    assert!(error.to_string().contains("no.such.property"), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

fn schema(table: &str) -> TableSchema {
    TableSchema {
        table: TableName::new("s", table),
        relation: Oid(1),
        columns: vec![Column {
            name: "id".to_owned(),
            type_oid: Oid(23),
            type_modifier: -1,
            type_name: "integer".to_owned(),
            kind: ColumnKind::Integer,
            not_null: true,
            number: None,
            fill: None,
        }],
        key: vec![0],
        primary_key: vec![0],
        identity: ReplicaIdentity::Default,
        partitions: 1,
        types: vec![],
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_version_written_later_is_found_and_a_missing_one_halts() {
    let name = topic(&Topics::new(pipeline()).schemas(), 1, Retention::Unlimited).await;
    let producer = EpochProducer::open(&kafka_settings(), QUEUE).expect("producer");
    let slot = producer.partition_slot(&name, 0);
    let write = |schema: TableSchema| {
        let key = schema.version().to_string().into_bytes();
        (Some(key), Some(serde_json::to_vec(&schema).expect("JSON")))
    };
    send_all(&producer, slot, [write(schema("a"))]).await;
    let opened = name.clone();
    let mut store =
        tokio::task::spawn_blocking(move || SchemaStore::open(&kafka_settings(), &opened))
            .await
            .expect("joined")
            .expect("store");
    assert!(store.contains(schema("a").version()));
    assert!(!store.contains(schema("b").version()));
    send_all(&producer, slot, [write(schema("b"))]).await;
    tokio::task::spawn_blocking(move || {
        let found = store.get(schema("b").version()).expect("found");
        assert_eq!(*found, schema("b"));
        let error = error(store.get(SchemaVersion(1)));
        assert_eq!(error.class(), Class::Halt, "{error}");
    })
    .await
    .expect("joined");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_progress_of_each_sink_is_known() {
    let name = topic(&Topics::new(pipeline()).progress(), 1, Retention::Compacted).await;
    let progress = |sink: &str, applied: u64| Progress {
        sink: sink.to_owned(),
        applied: Lsn(applied),
        log_offset: 4,
        wants: vec![],
    };
    let writer = ProgressWriter::open(&kafka_settings(), &name).expect("writer");
    for step in 1..=3 {
        writer.write(&progress("a", step));
    }
    writer.write(&progress("b", 9));
    let mut reader = ProgressReader::open(&kafka_settings(), &name)
        .await
        .expect("reader");
    let deadline = Instant::now() + WAIT;
    while reader.newest().len() < 2 {
        assert!(Instant::now() < deadline);
        let _timeout = tokio::time::timeout(WAIT, reader.changed()).await;
    }
    assert_eq!(reader.newest()["a"], progress("a", 3));
    writer.write(&progress("b", 10));
    // The last record is not lost with its writer.
    drop(writer);
    while reader.newest()["b"].applied != Lsn(10) {
        assert!(Instant::now() < deadline);
        let _timeout = tokio::time::timeout(WAIT, reader.changed()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_would_lose_data_are_refused() {
    let admin = TopicAdmin::open(&kafka_settings()).expect("admin");
    assert!(!admin.cluster_id().await.expect("asked").is_empty());
    assert_eq!(admin.brokers().await.expect("asked"), 1);
    let config = admin.broker_config().await.expect("asked");
    assert!(config.contains_key("message.max.bytes"));

    let spec = |name: &str, partitions, retention| TopicSpec {
        name: name.to_owned(),
        partitions,
        retention,
    };
    let names = Topics::new(pipeline());
    let table = names.table(&TableName::new("s", "t"));
    let specs = [
        spec(&table, 2, Retention::Settings),
        spec(&names.commits(), 1, Retention::Unlimited),
        spec(&names.progress(), 1, Retention::Compacted),
    ];
    admin.ensure(&specs).await.expect("made");
    admin.ensure(&specs).await.expect("made before");
    let found = admin
        .describe(&[table.clone(), "no.such.topic".to_owned()])
        .await
        .expect("asked");
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[&table].partitions, found[&table].replication),
        (2, 1)
    );
    assert_eq!(found[&table].config["retention.ms"], "3600000");
    assert_eq!(found[&table].config["min.insync.replicas"], "1");

    for (wrong, says) in [
        (spec(&table, 3, Retention::Settings), "2 partitions"),
        (
            spec(&table, 2, Retention::Compacted),
            "cleanup.policy=delete",
        ),
        (
            spec(&table, 2, Retention::Unlimited),
            "retention.ms=3600000",
        ),
    ] {
        let error = error(admin.ensure(&[wrong]).await);
        assert_eq!(error.class(), Class::Halt, "{error}");
        assert!(error.what().contains(says), "{error}");
    }
    let mut replicated = kafka_settings();
    replicated.durability = Durability::Replicated;
    replicated.replication_factor = 3;
    let admin = TopicAdmin::open(&replicated).expect("admin");
    for existing_or_new in [table, names.schemas()] {
        let error = error(
            admin
                .ensure(&[spec(&existing_or_new, 2, Retention::Settings)])
                .await,
        );
        assert_eq!(error.class(), Class::Halt, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_takes_the_topics_of_tables_that_differ_only_in_dots_and_underscores() {
    let names = Topics::new(pipeline());
    let tables = [
        ("a_b", "c"),
        ("a", "b_c"),
        ("a", "b.c"),
        ("a.b", "c"),
        ("copy", "a_b"),
        ("Copy", "A b"),
        ("😀", "\u{10FFFF}"),
    ];
    let mut specs = vec![];
    for (schema, name) in tables {
        let table = TableName::new(schema, name);
        for name in [names.table(&table), names.copy(&table)] {
            specs.push(TopicSpec {
                name,
                partitions: 1,
                retention: Retention::Settings,
            });
        }
    }
    let long = TableName::new("é".repeat(31), "😀".repeat(15));
    specs.push(TopicSpec {
        name: names.copy(&long),
        partitions: 1,
        retention: Retention::Settings,
    });
    let admin = TopicAdmin::open(&kafka_settings()).expect("admin");
    admin.ensure(&specs).await.expect("made");
}

/// CPU-seconds so far, in and out of the kernel, of this process and of this thread
/// (proc_pid_stat(5), 100 ticks a second).
fn cpu_seconds() -> [f64; 2] {
    ["/proc/self/stat", "/proc/thread-self/stat"].map(|path| {
        let stat = std::fs::read_to_string(path).expect("Linux");
        let after_name = stat.rsplit(')').next().expect("a name in parentheses");
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<f64>().expect("ticks");
        (ticks(11) + ticks(12)) / 100.0
    })
}

fn measured(what: &str, work: impl FnOnce()) {
    let (begun, before) = (Instant::now(), cpu_seconds());
    work();
    let after = cpu_seconds();
    println!(
        "{what:20} {:5.2} s, CPU-s: {:.2}, of it this thread {:.2}",
        begun.elapsed().as_secs_f64(),
        after[0] - before[0],
        after[1] - before[1]
    );
}

const MILLION: u32 = 1_000_000;

fn send_all_of(producer: &EpochProducer, name: &str, records: u32, value: &[u8]) {
    let wait = tokio::runtime::Handle::current();
    let slot = producer.partition_slot(name, 0);
    let batch = producer.open_batch();
    for n in 0..records {
        let (key, bytes) = (n.to_be_bytes(), header(n));
        let headers: [Header<'_>; 1] = [(RECORD_HEADER, &bytes)];
        while producer
            .send(batch, slot, Some(&key), Some(value), &headers)
            .expect("sent")
            == Sent::Full
        {
            wait.block_on(producer.room()).expect("room");
        }
    }
}

type SafeProducer = rdkafka::producer::ThreadedProducer<rdkafka::producer::DefaultProducerContext>;

fn send_all_safely(producer: &SafeProducer, name: &str, records: u32, value: &[u8]) {
    use rdkafka::message::{Header, OwnedHeaders};
    for n in 0..records {
        let (key, bytes) = (n.to_be_bytes(), header(n));
        let headers = OwnedHeaders::new_with_capacity(1).insert(Header {
            key: RECORD_HEADER,
            value: Some(&bytes),
        });
        let record = rdkafka::producer::BaseRecord::to(name)
            .partition(0)
            .key(&key)
            .payload(value)
            .headers(headers);
        assert!(producer.send(record).is_ok(), "room for all");
    }
}

fn read_million(kafka: &KafkaSettings, name: &str) {
    let mut reader = RecordReader::open(kafka, 32 << 20).expect("reader");
    reader.assign(name, 0, 0).expect("assigned");
    for _ in 0..MILLION {
        let read = reader.next(name, 0, WAIT, |record| record.header.is_some());
        assert_eq!(read.expect("read"), Some(true));
    }
}

/// What a million records of 500 bytes with one header cost to send and to read.
/// `LINGER_MS=1 cargo test --release --test log_kafka a_million_costs -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn a_million_costs() {
    let mut kafka = kafka_settings();
    let linger = std::env::var("LINGER_MS").unwrap_or_else(|_| "1".to_owned());
    kafka
        .properties
        .insert("linger.ms".to_owned(), Secret::new(linger));
    let name = topic(&format!("{}.s.t", pipeline()), 1, Retention::Settings).await;
    let mut value = vec![0_u8; 480];
    let mut random = 1_u32;
    // Half of it compresses, as rows do.
    for byte in &mut value[..240] {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (random >> 24) as u8;
    }
    tokio::task::spawn_blocking(move || {
        measured("send", || {
            let producer = EpochProducer::open(&kafka, QUEUE).expect("producer");
            send_all_of(&producer, &name, MILLION, &value);
            let batch = producer.open_batch();
            let last = producer.send(batch, producer.partition_slot(&name, 0), None, None, &[]);
            assert_eq!(last.expect("sent"), Sent::Taken);
            let acked = producer.acked(batch);
            tokio::runtime::Handle::current()
                .block_on(acked)
                .expect("acked");
        });
        measured("read", || read_million(&kafka, &name));
    })
    .await
    .expect("joined");
}

/// What handing records to librdkafka costs the sending thread, without a broker: by
/// `EpochProducer` (counting included) and by rdkafka's safe `BaseProducer::send`. The reason for
/// the `unsafe` in log/producer/native.rs.
/// `cargo test --release --test log_kafka handing_over_costs -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn handing_over_costs() {
    const RECORDS: u32 = 300_000;
    let mut nowhere = kafka_settings();
    nowhere.brokers = "127.0.0.1:1".to_owned();
    tokio::task::spawn_blocking(move || {
        let value = vec![1_u8; 480];
        for _round in 0..3 {
            let producer = EpochProducer::open(&nowhere, 1 << 30).expect("producer");
            measured("EpochProducer::send", || {
                send_all_of(&producer, "t", RECORDS, &value)
            });
            drop(producer);
            let producer: SafeProducer = rdkafka::ClientConfig::new()
                .set("bootstrap.servers", &nowhere.brokers)
                .set("enable.idempotence", "true")
                .set("queue.buffering.max.messages", "0")
                .create()
                .expect("producer");
            measured("BaseProducer::send", || {
                send_all_safely(&producer, "t", RECORDS, &value)
            });
        }
    })
    .await
    .expect("joined");
}
