//! What one row costs in our own code: encode, decode, plan. `cargo bench --bench codec`.
//!
//! Prints nanoseconds a row, the best of several rounds, for a row of five columns.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use walferry::apply::plan::plan;
use walferry::log::codec::{Field, Origin, RecordDecoder, RecordEncoder};
use walferry::model::{
    Column, ColumnKind, Lsn, Oid, Op, Position, ReplicaIdentity, Rows, TableChanges, TableName,
    TableSchema,
};

const ROWS: usize = 10_000;
const ROUNDS: usize = 30;

fn schema() -> Arc<TableSchema> {
    let column = |(name, oid, type_name): (&str, u32, &str)| Column {
        name: name.to_owned(),
        type_oid: Oid(oid),
        type_modifier: -1,
        type_name: type_name.to_owned(),
        kind: ColumnKind::of(Oid(oid)),
        not_null: true,
    };
    let columns = [
        ("id", 20, "bigint"),
        ("customer", 23, "integer"),
        ("amount", 1700, "numeric(10,2)"),
        ("note", 25, "text"),
        ("placed_at", 1184, "timestamp with time zone"),
    ];
    Arc::new(TableSchema {
        table: TableName::new("shop", "orders"),
        relation: Oid(16_384),
        columns: columns.map(column).to_vec(),
        key: vec![0],
        primary_key: vec![0],
        identity: ReplicaIdentity::Default,
        partitions: 1,
        types: Vec::new(),
    })
}

/// Runs `round` several times and prints its best time a row.
fn measure(name: &str, mut round: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed().as_nanos() as f64 / ROWS as f64);
    }
    println!("{name:<28} {best:>8.0} ns a row");
}

fn main() {
    let schema = schema();
    let encoder = RecordEncoder::new(schema.clone(), "shop", "app");
    let decoder = RecordDecoder::new(schema.clone());
    let origin = Origin {
        commit_time_us: 770_558_400_123_456,
        xid: 771,
        lsn: Lsn(24_023_128),
    };
    let ids: Vec<String> = (0..ROWS).map(|id| (id + 1_000_000).to_string()).collect();
    let row = |id: usize| {
        [
            Field::Text(ids[id].as_bytes()),
            Field::Text(b"48213"),
            Field::Text(b"1234.50"),
            Field::Text(b"please leave it with the neighbour, thanks a lot"),
            Field::Text(b"2024-06-01 12:00:00.123456+00"),
        ]
    };
    let position = |ordinal: usize| Position {
        commit: Lsn(24_023_128),
        ordinal: u32::try_from(ordinal).expect("few rows"),
    };

    let mut out = Vec::new();
    measure("encode key and value", || {
        for id in 0..ROWS {
            out.clear();
            encoder.key(&row(id), &mut out).expect("a good row");
            encoder
                .value(Op::Insert, None, Some(&row(id)), &origin, &mut out)
                .expect("a good row");
            black_box(&out);
        }
    });

    let values: Vec<Vec<u8>> = (0..ROWS)
        .map(|id| {
            let op = if id % 2 == 0 { Op::Insert } else { Op::Update };
            let mut value = Vec::new();
            encoder
                .value(op, None, Some(&row(id)), &origin, &mut value)
                .expect("a good row");
            value
        })
        .collect();
    measure("decode value", || {
        let mut rows = Rows::new(schema.columns.len());
        for (id, value) in values.iter().enumerate() {
            let change = decoder.value(position(id), value, &mut rows);
            black_box(change.expect("a good record"));
        }
    });

    let mut rows = Rows::new(schema.columns.len());
    let changes = values
        .iter()
        .enumerate()
        .map(|(id, value)| decoder.value(position(id), value, &mut rows))
        .collect::<Result<Vec<_>, _>>()
        .expect("good records");
    let changes = TableChanges {
        schema,
        rows,
        changes,
    };
    // The copies are made outside of what is measured.
    let mut copies: Vec<TableChanges> = (0..ROUNDS).map(|_| changes.clone()).collect();
    measure("plan", || {
        let changes = copies.pop().expect("one for each round");
        black_box(plan(changes).expect("changes that fit together"));
    });
}
