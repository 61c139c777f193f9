use std::sync::Arc;

use super::*;
use crate::log::codec::RecordEncoder;
use crate::log::producer::PartitionSlot;
use crate::model::{Column, ColumnKind, Oid, ReplicaIdentity, SchemaVersion, TableSchema};
use crate::pgoutput::message::{Message, decode};

const NEW: u8 = b'N';
const KEY: u8 = b'K';
const FULL: u8 = b'O';

/// A value as on the wire: text, NULL, or unchanged.
#[derive(Clone, Copy)]
enum Wire<'a> {
    T(&'a str),
    N,
    U,
}
use Wire::{N, T, U};

fn tuple(kind: u8, values: &[Wire<'_>], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend((values.len() as u16).to_be_bytes());
    for value in values {
        match value {
            N => out.push(b'n'),
            U => out.push(b'u'),
            T(text) => {
                out.push(b't');
                out.extend((text.len() as u32).to_be_bytes());
                out.extend(text.as_bytes());
            }
        }
    }
}

fn message(tag: u8, tuples: &[(u8, &[Wire<'_>])]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(7u32.to_be_bytes());
    for (kind, values) in tuples {
        tuple(*kind, values, &mut out);
    }
    out
}

/// `t(id int4 primary key, a text, big text)`, or without a key.
fn table(identity: ReplicaIdentity, keyed: bool) -> CapturedTable {
    let column = |name: &str, type_oid| Column {
        name: name.into(),
        type_oid: Oid(type_oid),
        type_modifier: -1,
        type_name: "x".into(),
        kind: ColumnKind::of(Oid(type_oid)),
        not_null: false,
        number: None,
        fill: None,
    };
    let key = if keyed { vec![0] } else { Vec::new() };
    let schema = TableSchema {
        table: TableName::new("public", "t"),
        relation: Oid(7),
        columns: vec![column("id", 23), column("a", 25), column("big", 25)],
        key: key.clone(),
        primary_key: key,
        identity,
        partitions: 1,
        types: Vec::new(),
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    };
    CapturedTable {
        encoder: RecordEncoder::new(Arc::new(schema), "p", "db"),
        version: SchemaVersion(9),
        is_key: vec![keyed, false, false],
        slots: vec![PartitionSlot(0)],
    }
}

struct Sent {
    key: Option<String>,
    value: Option<serde_json::Value>,
    moved: Option<(&'static str, String)>,
    ordinal: u32,
    part: Option<PartHeader>,
}

fn encode(table: &CapturedTable, limit_bytes: usize, messages: &[Vec<u8>]) -> Vec<Sent> {
    let mut encoder = TxEncoder::new(Epoch(1), limit_bytes);
    encoder.begin(&Begin {
        commit: Lsn(100),
        time_us: 0,
        xid: 5,
    });
    let mut out = Outbox::default();
    for bytes in messages {
        match decode(bytes).expect("a message") {
            Message::Insert { new, .. } => encoder.insert(table, &new, &mut out),
            Message::Update { old, new, .. } => encoder.update(table, old.as_ref(), &new, &mut out),
            Message::Delete { old, .. } => encoder.delete(table, &old, &mut out),
            other => panic!("{other:?} is no row change"),
        }
        .expect("encoded");
    }
    let (records, bytes) = out.records();
    let text =
        |range: &Range<usize>| String::from_utf8(bytes[range.clone()].to_vec()).expect("text");
    records
        .iter()
        .map(|record| {
            let header = record.header.expect("a header");
            assert_eq!((header.epoch, header.version), (Epoch(1), SchemaVersion(9)));
            assert_eq!(header.position.commit, Lsn(100));
            Sent {
                key: record.key.as_ref().map(text),
                value: match record.part {
                    None => record
                        .value
                        .as_ref()
                        .map(|value| serde_json::from_str(&text(value)).expect("JSON")),
                    Some(_) => None,
                },
                moved: record.moved.as_ref().map(|(name, key)| (*name, text(key))),
                ordinal: header.position.ordinal,
                part: record.part,
            }
        })
        .collect()
}

fn op(sent: &Sent) -> &str {
    match &sent.value {
        None => "tombstone",
        Some(value) => value["op"].as_str().expect("an op"),
    }
}

fn ops(sent: &[Sent]) -> Vec<&str> {
    sent.iter().map(op).collect()
}

#[test]
fn inserts_updates_and_deletes_are_records_with_ordinals_of_their_own() {
    let table = table(ReplicaIdentity::Default, true);
    let sent = encode(
        &table,
        1 << 20,
        &[
            message(b'I', &[(NEW, &[T("1"), T("x"), N])]),
            message(b'U', &[(NEW, &[T("1"), T("y"), U])]),
            message(b'D', &[(KEY, &[T("1"), N, N])]),
        ],
    );
    assert_eq!(ops(&sent), ["c", "u", "d", "tombstone"]);
    for (index, record) in sent.iter().enumerate() {
        assert_eq!(record.ordinal as usize, index);
        assert_eq!(record.key.as_deref(), Some("{\"id\":1}"));
    }
    let update = sent[1].value.as_ref().expect("a value");
    assert_eq!(update["absent"], serde_json::json!(["big"]));
    assert!(update["before"].is_null());
    let delete = sent[2].value.as_ref().expect("a value");
    assert_eq!(delete["before"], serde_json::json!({"id": 1}));
}

#[test]
fn a_key_change_is_one_move() {
    let table = table(ReplicaIdentity::Default, true);
    let sent = encode(
        &table,
        1 << 20,
        &[message(
            b'U',
            &[(KEY, &[T("1"), N, N]), (NEW, &[T("2"), T("y"), U])],
        )],
    );
    assert_eq!(ops(&sent), ["d", "tombstone", "c"]);
    let (old, new) = ("{\"id\":1}".to_owned(), "{\"id\":2}".to_owned());
    assert_eq!(sent[0].key.as_ref(), Some(&old));
    assert_eq!(sent[0].moved, Some((NEW_KEY_HEADER, new.clone())));
    assert_eq!(sent[1].key.as_ref(), Some(&old));
    assert_eq!(sent[2].key.as_ref(), Some(&new));
    assert_eq!(sent[2].moved, Some((OLD_KEY_HEADER, old)));
    let insert = sent[2].value.as_ref().expect("a value");
    assert_eq!(insert["absent"], serde_json::json!(["big"]));
}

#[test]
fn a_key_that_was_sent_but_did_not_change_is_a_plain_update() {
    let table = table(ReplicaIdentity::Default, true);
    // Postgres sends the old key also when it lies out of line, and then the new one as unchanged.
    for new_key in [T("1"), U] {
        let sent = encode(
            &table,
            1 << 20,
            &[message(
                b'U',
                &[(KEY, &[T("1"), N, N]), (NEW, &[new_key, T("y"), N])],
            )],
        );
        assert_eq!(ops(&sent), ["u"]);
        assert_eq!(sent[0].key.as_deref(), Some("{\"id\":1}"));
    }
}

#[test]
fn under_full_identity_unchanged_values_come_from_the_old_row() {
    let table = table(ReplicaIdentity::Full, true);
    let update = |old: &str, new: &str| {
        message(
            b'U',
            &[
                (FULL, &[T(old), T("x"), T("long")]),
                (NEW, &[T(new), T("y"), U]),
            ],
        )
    };
    let sent = encode(&table, 1 << 20, &[update("1", "1"), update("1", "2")]);
    assert_eq!(ops(&sent), ["u", "d", "tombstone", "c"]);
    let value = sent[0].value.as_ref().expect("a value");
    assert_eq!(value["after"]["big"], "long");
    assert_eq!(value["before"]["a"], "x");
    assert_eq!(
        sent[3].value.as_ref().expect("a value")["after"]["big"],
        "long"
    );
}

#[test]
fn a_table_without_a_key_has_no_tombstones_and_no_moves() {
    let table = table(ReplicaIdentity::Full, false);
    let sent = encode(
        &table,
        1 << 20,
        &[
            message(
                b'U',
                &[(FULL, &[T("1"), T("x"), N]), (NEW, &[T("2"), T("x"), N])],
            ),
            message(b'D', &[(FULL, &[T("2"), T("x"), N])]),
        ],
    );
    assert_eq!(ops(&sent), ["u", "d"]);
    assert!(sent.iter().all(|record| record.key.is_none()));
    assert_eq!(sent[1].value.as_ref().expect("a value")["before"]["a"], "x");
}

#[test]
fn a_value_too_large_for_a_record_travels_in_parts() {
    let table = table(ReplicaIdentity::Default, true);
    let big = "x".repeat(10_000);
    let sent = encode(
        &table,
        4096,
        &[
            message(b'I', &[(NEW, &[T("1"), T(&big), N])]),
            message(b'D', &[(KEY, &[T("1"), N, N])]),
        ],
    );
    let parts: Vec<_> = sent.iter().filter_map(|record| record.part).collect();
    assert!(parts.len() > 2);
    assert!(
        parts
            .iter()
            .enumerate()
            .all(|(i, part)| part.index as usize == i)
    );
    assert!(parts.iter().all(|part| part.count as usize == parts.len()));
    assert_eq!(sent.len(), parts.len() + 2);
    let ordinals: Vec<u32> = sent.iter().map(|record| record.ordinal).collect();
    assert_eq!(ordinals, (0..sent.len() as u32).collect::<Vec<_>>());
}

#[test]
fn a_row_that_does_not_fit_the_table_is_refused() {
    let table = table(ReplicaIdentity::Default, true);
    let bytes = message(b'I', &[(NEW, &[T("1")])]);
    let Message::Insert { new, .. } = decode(&bytes).expect("a message") else {
        panic!("an insert");
    };
    let mut encoder = TxEncoder::new(Epoch(1), 1 << 20);
    assert!(
        encoder
            .insert(&table, &new, &mut Outbox::default())
            .is_err()
    );
}

#[test]
fn a_row_of_another_width_halts_and_says_what_to_keep() {
    let table = table(ReplicaIdentity::Default, true);
    let bytes = message(b'I', &[(NEW, &[T("1"), T("a")])]);
    let Message::Insert { new, .. } = decode(&bytes).expect("a message") else {
        panic!("an insert")
    };
    let error = TxEncoder::new(Epoch(1), 1000)
        .insert(&table, &new, &mut Outbox::default())
        .expect_err("refused");
    assert_eq!(error.class(), crate::error::Class::Halt);
    assert!(error.what().contains("2 columns") && error.what().contains("has 3"));
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("slot")));
}
