//! The decoder against bytes that Postgres 18 and 14 sent, against an encoder of its own, and against
//! bytes that nobody sent.

use proptest::prelude::*;

use super::*;
use crate::model::{Lsn, Oid};

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn datums<'a>(tuple: &Tuple<'a>) -> Vec<Datum<'a>> {
    assert_eq!(tuple.iter().len(), tuple.len());
    let datums: Vec<_> = tuple.iter().collect();
    assert_eq!(datums.len(), tuple.len());
    datums
}

const MOOD: Oid = Oid(0x4001);
const ODD_TABLE: Oid = Oid(0x4005);
const FULL_TABLE: Oid = Oid(0x400d);

#[test]
fn a_transactions_frame() {
    assert_eq!(
        decode(&bytes("4200000000017902c8000303eb551d3728000002f6")),
        Ok(Message::Begin(Begin {
            commit: Lsn(0x17902c8),
            time_us: 0x0003_03eb_551d_3728,
            xid: 758,
        }))
    );
    assert_eq!(
        decode(&bytes(
            "430000000000017902c800000000017902f8000303eb551d3728"
        )),
        Ok(Message::Commit(Commit {
            commit: Lsn(0x17902c8),
            end: Lsn(0x17902f8),
            time_us: 0x0003_03eb_551d_3728,
        }))
    );
}

#[test]
fn shapes_of_types_and_tables() {
    assert_eq!(
        decode(&bytes("59000040017075626c6963006d6f6f6400")),
        Ok(Message::Type {
            oid: MOOD,
            schema: "public",
            name: "mood",
        })
    );
    let column = |key, name, type_oid| RelationColumn {
        key,
        name,
        type_oid,
        type_modifier: -1,
    };
    assert_eq!(
        decode(&bytes(
            "52000040057075626c6963004f6464202274006400030169640000000017ffffffff006d0000004001\
             ffffffff006e6f74650000000019ffffffff"
        )),
        Ok(Message::Relation(Relation {
            oid: ODD_TABLE,
            schema: "public",
            name: "Odd \"t",
            identity: b'd',
            columns: vec![
                column(true, "id", Oid(23)),
                column(false, "m", MOOD),
                column(false, "note", Oid(25)),
            ],
        }))
    );
}

#[test]
fn an_empty_schema_is_pg_catalog() {
    assert_eq!(
        decode(b"Y\0\0\0\x01\0t\0"),
        Ok(Message::Type {
            oid: Oid(1),
            schema: "pg_catalog",
            name: "t",
        })
    );
}

#[test]
fn changes_of_rows() {
    let insert = bytes("49000040054e00037400000001326e7400000002c3a9");
    let Ok(Message::Insert { relation, new }) = decode(&insert) else {
        panic!()
    };
    assert_eq!(relation, ODD_TABLE);
    assert_eq!(
        datums(&new),
        [Datum::Text(b"2"), Datum::Null, Datum::Text("é".as_bytes())]
    );

    let unchanged_toast = bytes("55000040054e0003740000000131740000000373616475");
    let Ok(Message::Update { relation, old, new }) = decode(&unchanged_toast) else {
        panic!()
    };
    assert_eq!((relation, old), (ODD_TABLE, None));
    assert_eq!(
        datums(&new),
        [Datum::Text(b"1"), Datum::Text(b"sad"), Datum::Unchanged]
    );

    let key_change = bytes("55000040054b00037400000001326e6e4e00037400000001336e7400000002c3a9");
    let Ok(Message::Update {
        old: Some(Old::Key(old)),
        new,
        ..
    }) = decode(&key_change)
    else {
        panic!()
    };
    assert_eq!(datums(&old), [Datum::Text(b"2"), Datum::Null, Datum::Null]);
    assert_eq!(datums(&new)[0], Datum::Text(b"3"));

    let full = bytes("550000400d4f00027400000001376e4e00027400000001377400000000");
    let Ok(Message::Update {
        old: Some(Old::Full(old)),
        new,
        ..
    }) = decode(&full)
    else {
        panic!()
    };
    assert_eq!(datums(&old), [Datum::Text(b"7"), Datum::Null]);
    assert_eq!(datums(&new), [Datum::Text(b"7"), Datum::Text(b"")]);

    let delete = bytes("44000040054b00037400000001336e6e");
    let Ok(Message::Delete {
        old: Old::Key(old), ..
    }) = decode(&delete)
    else {
        panic!()
    };
    assert_eq!(datums(&old), [Datum::Text(b"3"), Datum::Null, Datum::Null]);

    let delete = bytes("440000400d4f00027400000001377400000000");
    let Ok(Message::Delete {
        relation,
        old: Old::Full(old),
    }) = decode(&delete)
    else {
        panic!()
    };
    assert_eq!(relation, FULL_TABLE);
    assert_eq!(datums(&old), [Datum::Text(b"7"), Datum::Text(b"")]);
}

#[test]
fn truncates_messages_and_origins() {
    assert_eq!(
        decode(&bytes("5400000002030000400d00004005")),
        Ok(Message::Truncate {
            relations: vec![FULL_TABLE, ODD_TABLE],
            cascade: true,
            restart_identity: true,
        })
    );
    assert_eq!(
        decode(&bytes("4d010000000001791a38707265000000000200ff")),
        Ok(Message::Logical {
            transactional: true,
            lsn: Lsn(0x1791a38),
            prefix: b"pre",
            content: &[0, 0xff],
        })
    );
    assert_eq!(
        decode(&bytes("4d0000000000017203a06e6f6e000000000474657874")),
        Ok(Message::Logical {
            transactional: false,
            lsn: Lsn(0x17203a0),
            prefix: b"non",
            content: b"text",
        })
    );
    assert_eq!(
        decode(b"O\0\0\0\0\0\0\0\x2anode \xff\0"),
        Ok(Message::Origin {
            commit: Lsn(42),
            name: b"node \xff",
        })
    );
}

#[test]
fn what_is_malformed_is_named_with_its_place() {
    for (bytes, tag, offset, what) in [
        (&b""[..], '?', 0, "the message is empty"),
        (
            b"\x07",
            '\u{FFFD}',
            1,
            "protocol version 1 has no message with this tag",
        ),
        (
            b"S\0\0\0\x01\x01",
            'S',
            1,
            "protocol version 1 has no message with this tag",
        ),
        (b"B\0", 'B', 1, "an LSN is cut off"),
        (b"I\0\0\0\x01K", 'I', 6, "an insert's tuple is not marked N"),
        (
            b"I\0\0\0\x01N\xff\xff",
            'I',
            8,
            "the column count is negative",
        ),
        (
            b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff",
            'I',
            13,
            "a column's length is negative",
        ),
        (
            b"I\0\0\0\x01N\0\x01t\0\0\0\x05abc",
            'I',
            13,
            "a column's value is cut off",
        ),
        (
            b"I\0\0\0\x01N\0\x01x",
            'I',
            9,
            "a column is of no known kind",
        ),
        (
            b"I\0\0\0\x01N\0\x01nn",
            'I',
            9,
            "bytes follow the end of the message",
        ),
        (b"D\0\0\0\x01N", 'D', 6, "an old tuple is not marked K or O"),
        (
            b"U\0\0\0\x01K\0\0K",
            'U',
            9,
            "an update's new tuple is not marked N",
        ),
        (b"Y\0\0\0\x01a\0b", 'Y', 7, "the type's name is cut off"),
        (b"Y\0\0\0\x01\xff\0b\0", 'Y', 7, "a name is not UTF-8"),
        (b"T\x7f\xff\xff\xff\0", 'T', 6, "an OID is cut off"),
        (
            b"R\0\0\0\x01s\0t\0d\x7f\xff",
            'R',
            12,
            "a column is cut off",
        ),
    ] {
        assert_eq!(decode(bytes), Err(Malformed { tag, offset, what }));
    }
}

/// The inverse of the decoder, as simple as can be.
fn encode(message: &Message<'_>) -> Vec<u8> {
    fn c_string(out: &mut Vec<u8>, text: &[u8]) {
        out.extend(text);
        out.push(0);
    }
    fn tuple(out: &mut Vec<u8>, mark: u8, tuple: &Tuple<'_>) {
        out.push(mark);
        out.extend((tuple.len() as u16).to_be_bytes());
        for datum in tuple.iter() {
            let (kind, value) = match datum {
                Datum::Null => (b'n', None),
                Datum::Unchanged => (b'u', None),
                Datum::Text(value) => (b't', Some(value)),
                Datum::Binary(value) => (b'b', Some(value)),
            };
            out.push(kind);
            if let Some(value) = value {
                out.extend((value.len() as u32).to_be_bytes());
                out.extend(value);
            }
        }
    }
    fn old_tuple(out: &mut Vec<u8>, old: &Old<'_>) {
        match old {
            Old::Key(old) => tuple(out, b'K', old),
            Old::Full(old) => tuple(out, b'O', old),
        }
    }
    let mut out = Vec::new();
    match message {
        Message::Begin(begin) => {
            out.push(b'B');
            out.extend(begin.commit.0.to_be_bytes());
            out.extend(begin.time_us.to_be_bytes());
            out.extend(begin.xid.to_be_bytes());
        }
        Message::Commit(commit) => {
            out.extend([b'C', 0]);
            out.extend(commit.commit.0.to_be_bytes());
            out.extend(commit.end.0.to_be_bytes());
            out.extend(commit.time_us.to_be_bytes());
        }
        Message::Origin { commit, name } => {
            out.push(b'O');
            out.extend(commit.0.to_be_bytes());
            c_string(&mut out, name);
        }
        Message::Relation(relation) => {
            out.push(b'R');
            out.extend(relation.oid.0.to_be_bytes());
            c_string(&mut out, relation.schema.as_bytes());
            c_string(&mut out, relation.name.as_bytes());
            out.push(relation.identity);
            out.extend((relation.columns.len() as u16).to_be_bytes());
            for column in &relation.columns {
                out.push(u8::from(column.key));
                c_string(&mut out, column.name.as_bytes());
                out.extend(column.type_oid.0.to_be_bytes());
                out.extend(column.type_modifier.to_be_bytes());
            }
        }
        Message::Type { oid, schema, name } => {
            out.push(b'Y');
            out.extend(oid.0.to_be_bytes());
            c_string(&mut out, schema.as_bytes());
            c_string(&mut out, name.as_bytes());
        }
        Message::Insert { relation, new } => {
            out.push(b'I');
            out.extend(relation.0.to_be_bytes());
            tuple(&mut out, b'N', new);
        }
        Message::Update { relation, old, new } => {
            out.push(b'U');
            out.extend(relation.0.to_be_bytes());
            if let Some(old) = old {
                old_tuple(&mut out, old);
            }
            tuple(&mut out, b'N', new);
        }
        Message::Delete { relation, old } => {
            out.push(b'D');
            out.extend(relation.0.to_be_bytes());
            old_tuple(&mut out, old);
        }
        Message::Truncate {
            relations,
            cascade,
            restart_identity,
        } => {
            out.push(b'T');
            out.extend((relations.len() as u32).to_be_bytes());
            out.push(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            for relation in relations {
                out.extend(relation.0.to_be_bytes());
            }
        }
        Message::Logical {
            transactional,
            lsn,
            prefix,
            content,
        } => {
            out.extend([b'M', u8::from(*transactional)]);
            out.extend(lsn.0.to_be_bytes());
            c_string(&mut out, prefix);
            out.extend((content.len() as u32).to_be_bytes());
            out.extend(*content);
        }
    }
    out
}

/// A tuple's columns on the wire, behind its count.
fn tuple_bytes() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let value = (
        prop_oneof![Just(b't'), Just(b'b')],
        prop::collection::vec(any::<u8>(), 0..40),
    );
    let column = prop_oneof![
        Just(vec![b'n']),
        Just(vec![b'u']),
        value.prop_map(|(kind, value)| {
            let mut column = vec![kind];
            column.extend((value.len() as u32).to_be_bytes());
            column.extend(value);
            column
        }),
    ];
    prop::collection::vec(column, 0..10)
        .prop_map(|columns| (columns.len() as u16, columns.concat()))
}

/// Messages own nothing, so a test hands out what they are made of and builds them in place.
#[derive(Clone, Debug)]
struct Parts {
    numbers: (u64, u64, i64, u32),
    flags: (bool, bool),
    names: (String, String),
    blob: Vec<u8>,
    old: (u16, Vec<u8>),
    new: (u16, Vec<u8>),
    columns: Vec<(bool, String, u32, i32)>,
    oids: Vec<u32>,
    identity: u8,
}

fn parts() -> impl Strategy<Value = Parts> {
    let name = "[^\0]{1,20}";
    let column = (any::<bool>(), name, any::<u32>(), any::<i32>());
    (
        any::<(u64, u64, i64, u32)>(),
        any::<(bool, bool)>(),
        (name, name),
        prop::collection::vec(1u8.., 0..40),
        tuple_bytes(),
        tuple_bytes(),
        prop::collection::vec(column, 0..8),
        prop::collection::vec(any::<u32>(), 0..8),
        prop::sample::select(&b"dnfi"[..]),
    )
        .prop_map(
            |(numbers, flags, names, blob, old, new, columns, oids, identity)| Parts {
                numbers,
                flags,
                names,
                blob,
                old,
                new,
                columns,
                oids,
                identity,
            },
        )
}

fn tuple((columns, bytes): &(u16, Vec<u8>)) -> Tuple<'_> {
    Tuple {
        columns: *columns,
        bytes,
    }
}

fn messages(parts: &Parts) -> Vec<Message<'_>> {
    let (a, b, time_us, xid) = parts.numbers;
    let (commit, end, relation) = (Lsn(a), Lsn(b), Oid(xid));
    let (schema, name) = (parts.names.0.as_str(), parts.names.1.as_str());
    let (old, new) = (tuple(&parts.old), tuple(&parts.new));
    let columns = parts
        .columns
        .iter()
        .map(|(key, name, type_oid, type_modifier)| RelationColumn {
            key: *key,
            name,
            type_oid: Oid(*type_oid),
            type_modifier: *type_modifier,
        })
        .collect();
    vec![
        Message::Begin(Begin {
            commit,
            time_us,
            xid,
        }),
        Message::Commit(Commit {
            commit,
            end,
            time_us,
        }),
        Message::Origin {
            commit,
            name: &parts.blob,
        },
        Message::Relation(Relation {
            oid: relation,
            schema,
            name,
            identity: parts.identity,
            columns,
        }),
        Message::Type {
            oid: relation,
            schema,
            name,
        },
        Message::Insert { relation, new },
        Message::Update {
            relation,
            old: None,
            new,
        },
        Message::Update {
            relation,
            old: Some(Old::Key(old)),
            new,
        },
        Message::Delete {
            relation,
            old: Old::Full(old),
        },
        Message::Truncate {
            relations: parts.oids.iter().copied().map(Oid).collect(),
            cascade: parts.flags.0,
            restart_identity: parts.flags.1,
        },
        Message::Logical {
            transactional: parts.flags.0,
            lsn: commit,
            prefix: &parts.blob,
            content: &parts.new.1,
        },
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(tag: u8, bytes: Vec<u8>) {
        let _ = decode(&bytes);
        let mut tagged = vec![tag];
        tagged.extend(bytes);
        let _ = decode(&tagged);
    }

    #[test]
    fn a_decoded_tuple_has_as_many_columns_as_it_says(tag in prop::sample::select(&b"IUD"[..]), mark in prop::sample::select(&b"NKO"[..]), bytes: Vec<u8>) {
        let mut message = vec![tag, 0, 0, 0, 1, mark];
        message.extend(bytes);
        if let Ok(Message::Insert { new, .. } | Message::Update { new, .. }) = decode(&message) {
            prop_assert_eq!(new.iter().count(), new.len());
        }
    }

    #[test]
    fn every_message_comes_out_as_it_went_in_and_no_part_of_it_is_one(parts in parts()) {
        for message in messages(&parts) {
            let encoded = encode(&message);
            prop_assert_eq!(decode(&encoded), Ok(message));
            for end in 0..encoded.len() {
                prop_assert!(decode(&encoded[..end]).is_err());
            }
            let mut longer = encoded;
            longer.push(0);
            prop_assert!(decode(&longer).is_err());
        }
    }
}
