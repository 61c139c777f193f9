use std::collections::BTreeMap;

use super::super::in_memory::{TOPIC, from_start, memory, schema, stored};
use super::*;
use crate::log::commit_log::{Captured, EpochEntry, Extent, judge};
use crate::log::topics::Topics;
use crate::model::checkpoint::LogPlace;
use crate::model::selection::Selection;
use crate::model::{Epoch, Limits, Lsn, Oid};

/// Entries of the log from offset 0 on.
struct Log(Vec<Entry>);

impl Entries for Log {
    fn next(&mut self, from: i64, _stop: &CancellationToken) -> Result<(i64, Entry), Cut> {
        let at = usize::try_from(from).expect("not negative");
        Ok((from, self.0[at].clone()))
    }
}

const ENTRIES: u64 = 12;
const RECORDS: u32 = 20;

/// An epoch, then entries of so many records each.
fn log() -> Vec<Entry> {
    let epoch = Entry::Epoch(EpochEntry {
        after: -1,
        instance: "i".to_owned(),
        system_id: "1".to_owned(),
        timeline: 1,
        captured: vec![Captured {
            table: TableName::new("public", "a"),
            relation: Oid(1),
            limits: Limits::default(),
        }],
        dropped: Vec::new(),
    });
    let batch = |number: u64| {
        let extent = Extent {
            last: i64::try_from((number + 1) * u64::from(RECORDS)).expect("small") - 1,
            count: u64::from(RECORDS),
        };
        Entry::Batch(BatchEntry {
            bytes: 0,
            epoch: Epoch(0),
            from: Lsn(100 + number),
            to: Lsn(101 + number),
            last_commit: None,
            transactions: 1,
            changes: u64::from(RECORDS),
            offsets: [(TOPIC.to_owned(), [(0, extent)].into())].into(),
            sample: None,
        })
    };
    [epoch].into_iter().chain((0..ENTRIES).map(batch)).collect()
}

#[test]
fn a_transaction_ends_with_the_entry_that_needs_a_second_chunk() {
    let log = log();
    let mut place = LogPlace::at_low_end(0);
    judge(&mut place, 0, &log[0]).expect("an epoch");
    place.next_offset = 1;
    let records = (0..ENTRIES)
        .flat_map(|number| (0..RECORDS).map(move |ordinal| stored(0, 100 + number, ordinal)))
        .collect();
    let table = TableName::new("public", "a");
    let mut loader = Loader::new(LoaderParts {
        join: Join {
            copy: 0,
            tables: [table].into(),
            point: Some(Lsn(100)),
            rows: BTreeMap::new(),
            complete: true,
            log: place,
            cursors: from_start(1),
            changes: 0,
        },
        records: memory(&[records]),
        entries: Log(log.clone()),
        decoders: Decoders::new(Box::new(|version| {
            Ok(schema(usize::try_from(version.0).expect("small")))
        })),
        terms: Terms {
            topics: Topics::new("p"),
            selection: Selection::new(&["*.*".to_owned()], &[]),
            takes_copies: true,
            moves_tables: false,
        },
        wants: Wants::Changes,
        // One and a half entries: every chunk is full in the middle of one.
        batch_max_bytes: 2_000,
        skips: Skips::default(),
        stop: CancellationToken::new(),
    });
    let end = i64::try_from(log.len()).expect("small");
    let (mut changes, mut entries, mut chunked) = (0, Vec::new(), 0);
    let mut durable = 1;
    while durable < end {
        let loaded = loader.step(None, end).expect("whole");
        changes += loaded.planned.map_or(0, |planned| planned.changes);
        if loaded.more {
            chunked += 1;
        } else {
            entries.push(loaded.join.log.next_offset - durable);
            durable = loaded.join.log.next_offset;
        }
    }
    assert_eq!(changes, ENTRIES * u64::from(RECORDS));
    assert!(chunked >= 3, "{chunked} chunks ended within an entry");
    assert!(entries.iter().all(|entries| *entries <= 2), "{entries:?}");
}
