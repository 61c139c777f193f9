//! What is written, by example, and that it is read back exactly, by property.

mod properties;

use std::sync::Arc;

use super::*;
use crate::error::Class;
use crate::model::{
    Cell, Change, Column, Oid, Op, Position, ReplicaIdentity, RowRef, Rows, TableName,
};

/// A table of (name, kind) columns.
fn table(columns: &[(&str, ColumnKind)], key: &[usize]) -> Arc<TableSchema> {
    let column = |(name, kind): &(&str, ColumnKind)| Column {
        name: (*name).to_owned(),
        type_oid: Oid(0),
        type_modifier: -1,
        type_name: "text".to_owned(),
        kind: *kind,
        not_null: false,
        number: None,
        fill: None,
    };
    Arc::new(TableSchema {
        table: TableName::new("public", "it\"ems"),
        relation: Oid(16_384),
        columns: columns.iter().map(column).collect(),
        key: key.to_vec(),
        primary_key: key.to_vec(),
        identity: ReplicaIdentity::Default,
        partitions: 3,
        types: Vec::new(),
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    })
}

fn items() -> Arc<TableSchema> {
    let columns = [
        ("id", ColumnKind::Integer),
        ("na\"me", ColumnKind::Text),
        ("ok", ColumnKind::Bool),
        ("rate", ColumnKind::Float),
        ("big", ColumnKind::Text),
    ];
    table(&columns, &[0])
}

const ORIGIN: Origin = Origin {
    commit_time_us: 770_558_400_123_456,
    xid: 771,
    lsn: Lsn(24_023_128),
};

fn encode(
    encoder: &RecordEncoder,
    op: Op,
    before: Option<&[Field<'_>]>,
    after: Option<&[Field<'_>]>,
) -> String {
    let mut out = Vec::new();
    encoder
        .value(op, before, after, &ORIGIN, &mut out)
        .expect("rows that can be written");
    String::from_utf8(out).expect("records are UTF-8")
}

fn text(text: &str) -> Field<'_> {
    Field::Text(text.as_bytes())
}

#[test]
fn an_update_is_written_as_documented() {
    let encoder = RecordEncoder::new(items(), "shop", "app");
    let row = [
        text("-7"),
        text("a\"\\\n\u{1}é"),
        text("t"),
        text("1e+20"),
        Field::Absent,
    ];
    let expected = concat!(
        r#"{"op":"u","absent":["big"],"before":null,"after":{"id":-7,"na\"me":"a\"\\\n\u0001é","#,
        r#""ok":true,"rate":1e+20,"big":"__debezium_unavailable_value"},"#,
        r#""source":{"version":"0.1.0","connector":"postgresql","name":"shop","ts_ms":1717243200123,"#,
        r#""snapshot":"false","db":"app","schema":"public","table":"it\"ems","txId":771,"#,
        r#""lsn":24023128},"ts_ms":1717243200123}"#,
    );
    let expected = expected.replace("0.1.0", env!("CARGO_PKG_VERSION"));
    assert_eq!(encode(&encoder, Op::Update, None, Some(&row)), expected);
}

#[test]
fn every_operation_has_its_rows() {
    let encoder = RecordEncoder::new(items(), "shop", "app");
    let row = [text("1"), Field::Null, text("f"), text("NaN"), text("x")];
    let key = [
        text("1"),
        Field::Absent,
        Field::Absent,
        Field::Absent,
        Field::Absent,
    ];
    let full = r#"{"id":1,"na\"me":null,"ok":false,"rate":"NaN","big":"x"}"#;
    let copy = encode(&encoder, Op::Read, None, Some(&row));
    assert!(copy.starts_with(&format!(r#"{{"op":"r","before":null,"after":{full},"#)));
    assert!(copy.contains(r#""snapshot":"true""#));
    let delete = encode(&encoder, Op::Delete, Some(&key), None);
    assert!(delete.starts_with(r#"{"op":"d","before":{"id":1},"after":null,"source""#));
    let truncate = encode(&encoder, Op::Truncate, None, None);
    assert!(truncate.starts_with(r#"{"op":"t","before":null,"after":null,"source""#));
    let update = encode(&encoder, Op::Update, Some(&row), Some(&row));
    assert!(update.starts_with(&format!(r#"{{"op":"u","before":{full},"after":{full},"#)));
}

#[test]
fn a_key_has_the_key_columns_in_key_order() {
    let columns = [
        ("b", ColumnKind::Text),
        ("x", ColumnKind::Text),
        ("id", ColumnKind::Integer),
    ];
    let encoder = RecordEncoder::new(table(&columns, &[2, 0]), "shop", "app");
    let mut out = b"before".to_vec();
    let row = [text("x\t"), Field::Absent, text("12")];
    encoder.key(&row, &mut out).unwrap();
    assert_eq!(out, br#"before{"id":12,"b":"x\t"}"#);
    assert_eq!(encoder.partition(&out[6..]), key_partition(&out[6..], 3));
}

#[test]
fn what_cannot_be_written_halts_and_leaves_the_buffer_alone() {
    let encoder = RecordEncoder::new(items(), "shop", "app");
    let good = [text("1"), text("x"), text("t"), text("1"), text("x")];
    let broken: [(usize, Field<'_>, &str); 8] = [
        (0, text("1x"), "id"),
        (0, text(""), "id"),
        (0, Field::Null, "id"),
        (0, Field::Absent, "id"),
        (1, Field::Text(b"secret\xff"), "na\"me"),
        (4, Field::Text(b"secret\xc3"), "big"),
        (2, text("true"), "ok"),
        (3, text("Inf"), "rate"),
    ];
    for (index, field, column) in broken {
        let mut row = good;
        row[index] = field;
        let mut out = b"kept".to_vec();
        let error = encoder
            .value(Op::Insert, None, Some(&row), &ORIGIN, &mut out)
            .unwrap_err();
        assert_eq!(error.class(), Class::Halt);
        let what = error.to_string();
        assert!(what.contains("public.it\"ems"), "{what}");
        assert!(what.contains(&format!("column \"{column}\"")), "{what}");
        assert!(!what.contains("secret"), "{what}");
        assert_eq!(out, b"kept");
        if index == 0 {
            assert!(encoder.key(&row, &mut out).is_err());
            assert_eq!(out, b"kept");
        }
    }
}

#[test]
fn a_table_without_columns_or_key_has_empty_objects() {
    let encoder = RecordEncoder::new(table(&[], &[]), "shop", "app");
    let insert = encode(&encoder, Op::Insert, None, Some(&[]));
    assert!(insert.starts_with(r#"{"op":"c","before":null,"after":{},"#));
    let mut key = Vec::new();
    encoder.key(&[], &mut key).unwrap();
    assert!(key.is_empty());
}

/// A row read back, as fields.
fn fields(rows: &Rows, row: RowRef) -> Vec<Field<'_>> {
    let field = |cell: &Cell| match cell {
        Cell::Absent => Field::Absent,
        Cell::Null => Field::Null,
        Cell::Text { .. } => Field::Text(rows.text(*cell).expect("a text has bytes")),
    };
    rows.row(row).iter().map(field).collect()
}

const POSITION: Position = Position {
    commit: Lsn(0x16_B374_D848),
    ordinal: 3,
};

#[test]
fn every_accepted_record_is_what_the_encoder_writes_and_no_other_is() {
    let schema = items();
    let decoder = RecordDecoder::new(schema.clone());
    let row = r#"{"id":1,"na\"me":"x","ok":true,"rate":1,"big":"y"}"#;
    let toast = r#"{"id":1,"na\"me":"x","ok":true,"rate":1,"big":"__debezium_unavailable_value"}"#;
    let end = r#","source":{},"ts_ms":1}"#;
    let accepted = [
        format!(r#"{{"op":"c","before":null,"after":{row}{end}"#),
        format!(r#"{{"op":"r","before":null,"after":{toast}{end}"#),
        format!(r#"{{"op":"u","before":{{"id":1,"ok":false}},"after":{row}{end}"#),
        format!(r#"{{"op":"u","absent":["big"],"before":null,"after":{toast}{end}"#),
        format!(r#"{{"op":"d","before":{{"id":2}},"after":null{end}"#),
        format!(r#"{{"op":"t","before":null,"after":null{end}"#),
    ];
    for value in &accepted {
        let read = decoder.value(POSITION, value.as_bytes(), &mut Rows::new(5));
        assert!(read.is_ok(), "{value}: {read:?}");
    }
    let refused = [
        String::new(),
        "{}".to_owned(),
        "null".to_owned(),
        format!(r#"{{"op":"x","before":null,"after":{row}{end}"#),
        format!(r#"{{ "op":"c","before":null,"after":{row}{end}"#),
        format!(r#"{{"before":null,"op":"c","after":{row}{end}"#),
        format!(r#"{{"op":"c","before":null,"after":{row}"#),
        format!(r#"{{"op":"c","before":null,"after":{row},"source":{{"#),
        format!(r#"{{"op":"c","before":null,"after":null{end}"#),
        format!(r#"{{"op":"c","before":{row},"after":{row}{end}"#),
        format!(r#"{{"op":"d","before":null,"after":null{end}"#),
        format!(r#"{{"op":"d","before":{{}},"after":null{end}"#),
        format!(r#"{{"op":"d","before":{{"ok":true}},"after":null{end}"#),
        format!(r#"{{"op":"d","before":{{"id":null}},"after":null{end}"#),
        format!(r#"{{"op":"d","before":{{"ok":true,"id":1}},"after":null{end}"#),
        format!(r#"{{"op":"d","before":{{"id":1,"id":1}},"after":null{end}"#),
        format!(r#"{{"op":"d","before":{{"id":1,}},"after":null{end}"#),
        format!(r#"{{"op":"t","before":null,"after":{row}{end}"#),
        format!(r#"{{"op":"r","absent":["big"],"before":null,"after":{toast}{end}"#),
        format!(r#"{{"op":"u","absent":[],"before":null,"after":{row}{end}"#),
        format!(r#"{{"op":"u","absent":["big",],"before":null,"after":{toast}{end}"#),
        format!(r#"{{"op":"u","absent":["big","big"],"before":null,"after":{toast}{end}"#),
        format!(r#"{{"op":"u","absent":["big"],"before":null,"after":{row}{end}"#),
        format!(r#"{{"op":"u","absent":["other"],"before":null,"after":{toast}{end}"#),
    ];
    let values = [
        (r#""id":1"#, r#""id":01"#),
        (r#""id":1"#, r#""id":"1""#),
        (r#""id":1"#, r#""id":null"#),
        (r#""id":1"#, r#""id":1.5"#),
        (r#""id":1"#, r#""id":-"#),
        (r#""ok":true"#, r#""ok":1"#),
        (r#""ok":true"#, r#""ok":tru"#),
        (r#""ok":true"#, r#""ok":nul"#),
        (r#""rate":1"#, r#""rate":NaN"#),
        (r#""rate":1"#, r#""rate":"inf""#),
        (r#""rate":1"#, r#""rate":{}"#),
        (r#""big":"y""#, r#""big":["y"]"#),
        (r#""big":"y""#, r#""big":"\/""#),
        (r#""big":"y""#, r#""big":"\u000a""#),
        (r#""big":"y""#, r#""big":"\u001F""#),
        (r#""big":"y""#, "\"big\":\"\n\""),
        (r#""big":"y""#, r#""big":"y"#),
        (r#""big":"y""#, r#""bug":"y""#),
        (r#","big":"y""#, ""),
    ];
    let altered = values.map(|(good, bad)| accepted[0].replacen(good, bad, 1));
    for value in refused.iter().chain(&altered) {
        let error = decoder
            .value(POSITION, value.as_bytes(), &mut Rows::new(5))
            .map_err(|error| (error.class(), error.what()));
        let Err((Class::Halt, what)) = error else {
            panic!("{value}: {error:?}")
        };
        assert!(
            what.starts_with("16/B374D848:3: table public.it\"ems"),
            "{what}"
        );
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    let decoder = RecordDecoder::new(items());
    let mut value =
        br#"{"op":"c","before":null,"after":{"id":1,"na\"me":"?","ok":true,"rate":1,"big":"y"},"source":{}}"#
            .to_vec();
    let at = value.iter().position(|&b| b == b'?').unwrap();
    assert!(decoder.value(POSITION, &value, &mut Rows::new(5)).is_ok());
    value[at] = 0xff;
    assert!(decoder.value(POSITION, &value, &mut Rows::new(5)).is_err());
}

#[test]
fn the_documented_example_is_what_is_written() {
    let page = include_str!("../../../docs/event-format.md");
    let (_, rest) = page.split_once("```json\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let columns = [
        ("id", ColumnKind::Integer),
        ("paid", ColumnKind::Bool),
        ("rate", ColumnKind::Float),
        ("total", ColumnKind::Text),
        ("notes", ColumnKind::Text),
    ];
    let mut schema = (*table(&columns, &[0])).clone();
    schema.table = TableName::new("public", "orders");
    let encoder = RecordEncoder::new(Arc::new(schema), "shop", "app");
    let row = [
        text("42"),
        text("t"),
        text("1.25"),
        text("99.90"),
        Field::Absent,
    ];
    let written = encode(&encoder, Op::Update, None, Some(&row));
    let compact: String = example.split_whitespace().collect();
    let compact = compact.replace("0.1.0", env!("CARGO_PKG_VERSION"));
    assert_eq!(written, compact);
}
