//! The kinds of work that are measured, each on [`ROWS`] rows. What a case needs is made beforehand,
//! and what it leaves is dropped afterwards: neither is measured.

use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

use walferry::apply::plan::plan;
use walferry::capture::encode_tx::TxEncoder;
use walferry::capture::outbox::Outbox;
use walferry::capture::tables::CapturedTable;
use walferry::log::codec::{Field, Origin, RecordDecoder, RecordEncoder};
use walferry::log::producer::PartitionSlot;
use walferry::model::{
    Column, ColumnKind, Epoch, Lsn, Oid, Op, Position, ReplicaIdentity, Rows, TableChanges,
    TableName, TableSchema,
};
use walferry::pgoutput::{Begin, Datum, Message, Old, Tuple, decode};

/// Rows of a case.
pub const ROWS: usize = 1000;
/// Rows that the updates of [`Load::HotUpdates`] are of.
const HOT_ROWS: usize = 20;
const RELATION: Oid = Oid(16_384);
const COMMIT: Lsn = Lsn(24_023_128);
const COMMIT_TIME_US: i64 = 770_558_400_123_456;
const XID: u32 = 771;
const NOTE: &str = "please leave it with the neighbour, thanks a lot";

/// All of them.
pub const ALL: [Case; 15] = [
    Case(Work::Decode, Load::Inserts),
    Case(Work::Decode, Load::FullUpdates),
    Case(Work::Decode, Load::WideInserts),
    Case(Work::Encode, Load::Inserts),
    Case(Work::Encode, Load::FullUpdates),
    Case(Work::Encode, Load::WideInserts),
    Case(Work::Capture, Load::Inserts),
    Case(Work::Capture, Load::FullUpdates),
    Case(Work::Capture, Load::WideInserts),
    Case(Work::Parse, Load::Inserts),
    Case(Work::Parse, Load::FullUpdates),
    Case(Work::Parse, Load::WideInserts),
    Case(Work::Plan, Load::Inserts),
    Case(Work::Plan, Load::FullUpdates),
    Case(Work::Plan, Load::HotUpdates),
];

/// A kind of work on a kind of rows.
pub struct Case(Work, Load);

/// What is done.
#[derive(Clone, Copy)]
enum Work {
    /// Messages of pgoutput to tuples, walked to their ends.
    Decode,
    /// Fields to key, partition and value of a record.
    Encode,
    /// Messages of pgoutput to records that wait for the producer: both of the above and what the source adds.
    Capture,
    /// Values of records to rows.
    Parse,
    /// Changes of a chunk to their net change.
    Plan,
}

/// What it is done with: rows of five columns, most of them short.
#[derive(Clone, Copy)]
enum Load {
    Inserts,
    /// Under REPLICA IDENTITY FULL, so old and new row.
    FullUpdates,
    /// With a text of 1 kB that has characters to escape.
    WideInserts,
    /// Of few rows, again and again.
    HotUpdates,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let work = match self.0 {
            Work::Decode => "decode",
            Work::Encode => "encode",
            Work::Capture => "capture",
            Work::Parse => "parse",
            Work::Plan => "plan",
        };
        let load = match self.1 {
            Load::Inserts => "inserts",
            Load::FullUpdates => "full-updates",
            Load::WideInserts => "wide-inserts",
            Load::HotUpdates => "hot-updates",
        };
        write!(f, "{work}-{load}")
    }
}

impl Case {
    /// The work, once, ready to be done.
    pub fn prepare(&self) -> Box<dyn FnMut()> {
        let load = self.1;
        match self.0 {
            Work::Decode => decoding(load),
            Work::Encode => encoding(load),
            Work::Capture => capturing(load),
            Work::Parse => parsing(load),
            Work::Plan => planning(load),
        }
    }
}

fn decoding(load: Load) -> Box<dyn FnMut()> {
    let messages: Vec<Vec<u8>> = (0..ROWS).map(|n| message(load, n)).collect();
    Box::new(move || {
        for message in &messages {
            match decode(message).expect("a good message") {
                Message::Insert { new, .. } => walk(new),
                Message::Update { old, new, .. } => {
                    if let Some(Old::Full(old) | Old::Key(old)) = old {
                        walk(old);
                    }
                    walk(new);
                }
                other => unreachable!("{other:?}"),
            }
        }
    })
}

fn walk(tuple: Tuple<'_>) {
    for datum in tuple {
        black_box::<Datum<'_>>(datum);
    }
}

fn encoding(load: Load) -> Box<dyn FnMut()> {
    let encoder = encoder();
    let rows: Vec<Row> = (0..ROWS).map(|n| Row::new(load, n)).collect();
    let mut out = Vec::new();
    Box::new(move || {
        for row in &rows {
            out.clear();
            encoder.key(&row.new_row(), &mut out).expect("a good row");
            black_box(encoder.partition(&out));
            row.write_value(&encoder, &mut out);
            black_box(&out);
        }
    })
}

fn capturing(load: Load) -> Box<dyn FnMut()> {
    let messages: Vec<Vec<u8>> = (0..ROWS).map(|n| message(load, n)).collect();
    let table = CapturedTable {
        encoder: encoder(),
        version: schema().version(),
        is_key: vec![true, false, false, false, false],
        slots: (0..schema().partitions).map(PartitionSlot).collect(),
    };
    let mut encoder = TxEncoder::new(Epoch(7), 1 << 20);
    let mut out = Outbox::default();
    Box::new(move || {
        encoder.begin(&Begin {
            commit: COMMIT,
            time_us: COMMIT_TIME_US,
            xid: XID,
        });
        for message in &messages {
            encoder.at(COMMIT);
            match decode(message).expect("a good message") {
                Message::Insert { new, .. } => encoder.insert(&table, &new, &mut out),
                Message::Update { old, new, .. } => {
                    encoder.update(&table, old.as_ref(), &new, &mut out)
                }
                other => unreachable!("{other:?}"),
            }
            .expect("a good row");
        }
        black_box(&out);
    })
}

fn parsing(load: Load) -> Box<dyn FnMut()> {
    let decoder = RecordDecoder::new(schema());
    let values = values(load);
    let mut rows = Rows::new(decoder.schema().columns.len());
    Box::new(move || {
        for (n, value) in values.iter().enumerate() {
            let change = decoder.value(position(n), value, &mut rows);
            black_box(change.expect("a good record"));
        }
    })
}

fn planning(load: Load) -> Box<dyn FnMut()> {
    let schema = schema();
    let decoder = RecordDecoder::new(schema.clone());
    let mut rows = Rows::new(schema.columns.len());
    let changes = values(load)
        .iter()
        .enumerate()
        .map(|(n, value)| decoder.value(position(n), value, &mut rows))
        .collect::<Result<Vec<_>, _>>()
        .expect("good records");
    let mut changes = Some(TableChanges {
        schema,
        rows,
        changes,
        times_ms: Vec::new(),
    });
    let mut planned = None;
    Box::new(move || {
        let changes = changes.take().expect("a chunk is planned once");
        let plan = plan(changes).expect("changes that fit together");
        black_box(planned.insert(plan));
    })
}

fn schema() -> Arc<TableSchema> {
    let column = |(name, oid, type_name): (&str, u32, &str)| Column {
        name: name.to_owned(),
        type_oid: Oid(oid),
        type_modifier: -1,
        type_name: type_name.to_owned(),
        kind: ColumnKind::of(Oid(oid)),
        not_null: true,
        number: None,
        fill: None,
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
        relation: RELATION,
        columns: columns.map(column).to_vec(),
        key: vec![0],
        primary_key: vec![0],
        identity: ReplicaIdentity::Default,
        partitions: 8,
        types: Vec::new(),
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    })
}

fn encoder() -> RecordEncoder {
    RecordEncoder::new(schema(), "shop", "app")
}

fn position(ordinal: usize) -> Position {
    Position {
        commit: COMMIT,
        ordinal: u32::try_from(ordinal).expect("few rows"),
    }
}

/// A change: texts of the old row, if there is one, and of the new one.
struct Row {
    id: String,
    old_amount: Option<&'static str>,
    note: String,
}

impl Row {
    fn new(load: Load, n: usize) -> Self {
        let (id, old_amount, note) = match load {
            Load::Inserts => (n, None, NOTE.to_owned()),
            Load::FullUpdates => (n, Some("1199.00"), NOTE.to_owned()),
            Load::WideInserts => (n, None, format!("{NOTE}: \"{NOTE}\"\n").repeat(10)),
            Load::HotUpdates => (n % HOT_ROWS, Some("1199.00"), NOTE.to_owned()),
        };
        Row {
            id: (id + 1_000_000).to_string(),
            old_amount,
            note,
        }
    }

    fn old(&self) -> Option<[Field<'_>; 5]> {
        self.old_amount.map(|amount| self.fields(amount))
    }

    fn new_row(&self) -> [Field<'_>; 5] {
        self.fields("1234.50")
    }

    fn fields<'a>(&'a self, amount: &'a str) -> [Field<'a>; 5] {
        [
            &self.id,
            "48213",
            amount,
            &self.note,
            "2024-06-01 12:00:00.123456+00",
        ]
        .map(|text| Field::Text(text.as_bytes()))
    }

    fn write_value(&self, encoder: &RecordEncoder, out: &mut Vec<u8>) {
        let origin = Origin {
            commit_time_us: COMMIT_TIME_US,
            xid: XID,
            lsn: COMMIT,
        };
        let (old, new) = (self.old(), self.new_row());
        let op = if old.is_some() {
            Op::Update
        } else {
            Op::Insert
        };
        encoder
            .value(
                op,
                old.as_ref().map(|old| &old[..]),
                Some(&new),
                &origin,
                out,
            )
            .expect("a good row");
    }
}

fn values(load: Load) -> Vec<Vec<u8>> {
    let encoder = encoder();
    let value = |n| {
        let mut value = Vec::new();
        Row::new(load, n).write_value(&encoder, &mut value);
        value
    };
    (0..ROWS).map(value).collect()
}

/// A message as pgoutput writes it (Postgres docs, "Logical Replication Message Formats").
fn message(load: Load, n: usize) -> Vec<u8> {
    let row = Row::new(load, n);
    let old = row.old();
    let mut out = vec![if old.is_some() { b'U' } else { b'I' }];
    out.extend_from_slice(&RELATION.0.to_be_bytes());
    if let Some(old) = old {
        write_tuple(b'O', &old, &mut out);
    }
    write_tuple(b'N', &row.new_row(), &mut out);
    out
}

fn write_tuple(kind: u8, fields: &[Field<'_>; 5], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&5_i16.to_be_bytes());
    for field in fields {
        let Field::Text(text) = field else {
            unreachable!("all columns are set")
        };
        out.push(b't');
        out.extend_from_slice(&i32::try_from(text.len()).expect("short").to_be_bytes());
        out.extend_from_slice(text);
    }
}
