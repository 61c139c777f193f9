//! Any bytes as a record's value and as its key: never a panic, and whatever is accepted is byte
//! for byte what the encoder writes. The first byte chooses the schema.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use walferry_fuzz::log::codec::{Field, Origin, RecordDecoder, RecordEncoder};
use walferry_fuzz::model::{
    Cell, Column, ColumnKind, Lsn, Oid, Position, ReplicaIdentity, RowRef, Rows, TableName,
    TableSchema,
};

/// Encoders and decoders of a few schemas: all kinds, odd names, no key, no columns.
static SCHEMAS: LazyLock<Vec<(RecordEncoder, RecordDecoder)>> = LazyLock::new(|| {
    let all = [
        ("id", ColumnKind::Integer),
        ("b", ColumnKind::Bool),
        ("f", ColumnKind::Float),
        ("t", ColumnKind::Text),
        ("\"\\🐘", ColumnKind::Text),
    ];
    [
        codec(&all, &[0]),
        codec(&all, &[4, 0]),
        codec(&all, &[]),
        codec(&[], &[]),
    ]
    .into()
});

fn codec(columns: &[(&str, ColumnKind)], key: &[usize]) -> (RecordEncoder, RecordDecoder) {
    let column = |(name, kind): &(&str, ColumnKind)| Column {
        name: (*name).to_owned(),
        type_oid: Oid(25),
        type_modifier: -1,
        type_name: "text".to_owned(),
        kind: *kind,
        not_null: false,
        number: None,
        fill: None,
    };
    let schema = Arc::new(TableSchema {
        table: TableName::new("public", "fuzzed"),
        relation: Oid(16_384),
        columns: columns.iter().map(column).collect(),
        key: key.to_vec(),
        primary_key: key.to_vec(),
        identity: ReplicaIdentity::Default,
        partitions: 1,
        types: Vec::new(),
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    });
    (
        RecordEncoder::new(schema.clone(), "p", "d"),
        RecordDecoder::new(schema),
    )
}

fn fields(rows: &Rows, row: RowRef) -> Vec<Field<'_>> {
    let field = |cell: &Cell| match cell {
        Cell::Absent => Field::Absent,
        Cell::Null => Field::Null,
        Cell::Text { .. } => Field::Text(rows.text(*cell).expect("a text has bytes")),
    };
    rows.row(row).iter().map(field).collect()
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else {
        return;
    };
    let (encoder, decoder) = &SCHEMAS[usize::from(*choice) % SCHEMAS.len()];
    let mut rows = Rows::new(decoder.schema().columns.len());
    let position = Position {
        commit: Lsn(1),
        ordinal: 0,
    };
    if let Ok(change) = decoder.value(position, bytes, &mut rows) {
        let before = change.before.map(|row| fields(&rows, row));
        let after = change.after.map(|row| fields(&rows, row));
        let origin = Origin {
            commit_time_us: 0,
            xid: 0,
            lsn: Lsn(0),
        };
        let mut again = Vec::new();
        encoder
            .value(
                change.op,
                before.as_deref(),
                after.as_deref(),
                &origin,
                &mut again,
            )
            .expect("what was read can be written");
        let source = b",\"source\":{";
        let end = again
            .windows(source.len())
            .rposition(|window| window == source)
            .expect("every value has a source");
        assert!(bytes.starts_with(&again[..end]), "read, but not canonical");
    }
    let mut rows = Rows::new(decoder.schema().columns.len());
    if let Ok(row) = decoder.key(bytes, &mut rows) {
        let mut again = Vec::new();
        encoder
            .key(&fields(&rows, row), &mut again)
            .expect("what was read can be written");
        assert_eq!(again, bytes, "read, but not canonical");
    }
});
