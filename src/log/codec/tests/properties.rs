//! Over random schemas, rows and damage.

use super::*;
use proptest::collection::{hash_set, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A value of a row to be encoded.
#[derive(Clone, Debug)]
enum Value {
    Null,
    Absent,
    Text(String),
}

impl Value {
    fn field(&self) -> Field<'_> {
        match self {
            Value::Null => Field::Null,
            Value::Absent => Field::Absent,
            Value::Text(text) => Field::Text(text.as_bytes()),
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    schema: Arc<TableSchema>,
    op: Op,
    before: Option<Vec<Value>>,
    after: Option<Vec<Value>>,
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c]{1,3}",
        "[\"\\\\,:{}🐘 \n]{1,4}",
        any::<String>().prop_filter("names are not empty", |name| !name.is_empty()),
    ]
}

fn kind() -> impl Strategy<Value = ColumnKind> {
    select(vec![
        ColumnKind::Bool,
        ColumnKind::Integer,
        ColumnKind::Float,
        ColumnKind::Text,
        ColumnKind::Text,
    ])
}

/// A text that Postgres could print for a column.
fn postgres_text(kind: ColumnKind) -> BoxedStrategy<String> {
    match kind {
        ColumnKind::Bool => select(vec!["t", "f"]).prop_map(str::to_owned).boxed(),
        ColumnKind::Integer => any::<i64>().prop_map(|number| number.to_string()).boxed(),
        ColumnKind::Float => prop_oneof![
            select(vec![
                "NaN",
                "Infinity",
                "-Infinity",
                "-0",
                "1e+20",
                "1.5e-07"
            ])
            .prop_map(str::to_owned),
            any::<f64>()
                .prop_filter("special forms above", |number| number.is_finite())
                .prop_map(|number| number.to_string()),
        ]
        .boxed(),
        ColumnKind::Text => prop_oneof![
            select(vec![
                PLACEHOLDER,
                "",
                "null",
                "\"",
                "\\",
                "\u{0}\u{1f}\u{7f}"
            ])
            .prop_map(str::to_owned),
            any::<String>(),
            "[a-z\"\\\\\n\r\t\u{8}\u{c}é🐘]{0,60}",
        ]
        .boxed(),
    }
}

/// A row; key columns have texts, the others what `absent` and chance allow.
fn row(schema: &TableSchema, absent: bool) -> BoxedStrategy<Vec<Value>> {
    let value = |index: usize| {
        let text = postgres_text(schema.columns[index].kind).prop_map(Value::Text);
        if schema.key.contains(&index) {
            return text.boxed();
        }
        let weight = u32::from(absent);
        prop_oneof![
            6 => text,
            1 => Just(Value::Null),
            weight => Just(Value::Absent),
        ]
        .boxed()
    };
    (0..schema.columns.len())
        .map(value)
        .collect::<Vec<_>>()
        .boxed()
}

fn schema() -> impl Strategy<Value = Arc<TableSchema>> {
    (
        hash_set(name(), 0..7),
        vec(kind(), 7),
        vec(any::<Index>(), 0..3),
    )
        .prop_map(|(names, kinds, picks)| {
            let names: Vec<String> = names.into_iter().collect();
            let columns: Vec<(&str, ColumnKind)> =
                names.iter().map(String::as_str).zip(kinds).collect();
            let mut key = Vec::new();
            for pick in picks {
                if !names.is_empty() && !key.contains(&pick.index(names.len())) {
                    key.push(pick.index(names.len()));
                }
            }
            table(&columns, &key)
        })
}

fn case() -> impl Strategy<Value = Case> {
    let op = select(vec![
        Op::Insert,
        Op::Update,
        Op::Delete,
        Op::Read,
        Op::Truncate,
    ]);
    (schema(), op, any::<bool>()).prop_flat_map(|(schema, op, full)| {
        let keyed = schema.has_key();
        let before = row(&schema, keyed);
        let after = row(&schema, op != Op::Read);
        (before, after).prop_map(move |(before, after)| Case {
            schema: schema.clone(),
            op,
            before: match op {
                Op::Delete => Some(before),
                Op::Update => full.then_some(before),
                Op::Insert | Op::Read | Op::Truncate => None,
            },
            after: match op {
                Op::Insert | Op::Update | Op::Read => Some(after),
                Op::Delete | Op::Truncate => None,
            },
        })
    })
}

fn row_fields(row: &Option<Vec<Value>>) -> Option<Vec<Field<'_>>> {
    row.as_ref()
        .map(|row| row.iter().map(Value::field).collect())
}

fn encoded(case: &Case) -> Vec<u8> {
    let before = row_fields(&case.before);
    let after = row_fields(&case.after);
    let mut out = Vec::new();
    RecordEncoder::new(case.schema.clone(), "shop", "app")
        .value(
            case.op,
            before.as_deref(),
            after.as_deref(),
            &ORIGIN,
            &mut out,
        )
        .expect("a valid case");
    out
}

/// Encodes a change that was read: the canonical form of what was accepted.
fn encoded_again(schema: &Arc<TableSchema>, change: &Change, rows: &Rows) -> Vec<u8> {
    let before = change.before.map(|row| fields(rows, row));
    let after = change.after.map(|row| fields(rows, row));
    let mut out = Vec::new();
    RecordEncoder::new(schema.clone(), "shop", "app")
        .value(
            change.op,
            before.as_deref(),
            after.as_deref(),
            &ORIGIN,
            &mut out,
        )
        .expect("what was read can be written");
    out
}

proptest! {
    #[test]
    fn what_is_read_is_what_was_written(case in case()) {
        let value = encoded(&case);
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&value).is_ok());
        let decoder = RecordDecoder::new(case.schema.clone());
        let mut rows = Rows::new(case.schema.columns.len());
        rows.push_text(b"of an earlier record");
        let change = decoder.value(POSITION, &value, &mut rows).unwrap();
        prop_assert_eq!((change.op, change.position, change.moved), (case.op, POSITION, None));
        for (written, read) in [(&case.before, change.before), (&case.after, change.after)] {
            let written = row_fields(written);
            let read: Option<Vec<Field<'_>>> = read.map(|row| fields(&rows, row));
            prop_assert_eq!(read, written);
        }
    }

    #[test]
    fn a_key_read_is_the_key_written(
        (schema, row) in schema().prop_flat_map(|schema| {
            let row = row(&schema, true);
            (Just(schema), row)
        })
    ) {
        let row: Vec<Field<'_>> = row.iter().map(Value::field).collect();
        let mut key = Vec::new();
        RecordEncoder::new(schema.clone(), "shop", "app").key(&row, &mut key).unwrap();
        let mut rows = Rows::new(row.len());
        let read = RecordDecoder::new(schema.clone()).key(&key, &mut rows);
        prop_assert_eq!(read.is_ok(), schema.has_key());
        let Ok(read) = read else { return Ok(()) };
        for (index, field) in fields(&rows, read).into_iter().enumerate() {
            let is_key = schema.key.contains(&index);
            prop_assert_eq!(field, if is_key { row[index] } else { Field::Absent });
        }
    }

    #[test]
    fn a_damaged_record_is_refused_or_is_another_valid_one(
        case in case(), at: Index, byte: u8, cut: Index, how in 0..3
    ) {
        let mut value = encoded(&case);
        match how {
            0 => { let at = at.index(value.len()); value[at] = byte; }
            1 => { let at = at.index(value.len()); value.insert(at, byte); }
            _ => {
                let (a, b) = (at.index(value.len()), cut.index(value.len()));
                value.drain(a.min(b)..a.max(b));
            }
        }
        let mut rows = Rows::new(case.schema.columns.len());
        let read = RecordDecoder::new(case.schema.clone()).value(POSITION, &value, &mut rows);
        if let Ok(change) = read {
            let again = encoded_again(&case.schema, &change, &rows);
            let read_to = again.windows(11).rposition(|w| w == b",\"source\":{").unwrap();
            prop_assert_eq!(&again[..read_to], &value[..read_to]);
        }
    }

    #[test]
    fn any_bytes_as_key_are_refused_or_canonical(schema in schema(), key: Vec<u8>) {
        let mut rows = Rows::new(schema.columns.len());
        if let Ok(row) = RecordDecoder::new(schema.clone()).key(&key, &mut rows) {
            let mut again = Vec::new();
            let row = fields(&rows, row);
            RecordEncoder::new(schema.clone(), "shop", "app").key(&row, &mut again).unwrap();
            prop_assert_eq!(again, key);
        }
    }
}
