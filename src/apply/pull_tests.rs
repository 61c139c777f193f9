use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::super::in_memory::{
    Memory, TOPIC, from_start, in_pieces, memory, moved_away, of_version, schema, stored, tombstone,
};
use super::*;
use crate::log::commit_log::Extent;
use crate::model::{Epoch, TableChanges, TableSchema};

/// The entry [100, 200) of epoch 7.
fn entry(offsets: BTreeMap<String, BTreeMap<i32, Extent>>) -> BatchEntry {
    BatchEntry {
        bytes: 0,
        epoch: Epoch(7),
        from: Lsn(100),
        to: Lsn(200),
        last_commit: None,
        transactions: 0,
        changes: 0,
        offsets,
        sample: None,
    }
}

/// What reading the [`entry`] gives: chunks, cursors, records passed over.
struct Pulled {
    chunks: Vec<Vec<TableChanges>>,
    cursors: Cursors,
    leftovers: u64,
    skipped: Vec<u32>,
}

impl Pulled {
    fn positions(&self) -> Vec<Vec<(u64, u32)>> {
        let of = |chunk: &Vec<TableChanges>| {
            let changes = chunk.iter().flat_map(|table| &table.changes);
            changes
                .map(|change| (change.position.commit.0, change.position.ordinal))
                .collect()
        };
        self.chunks.iter().map(of).collect()
    }
}

fn pull(
    memory: Memory,
    extents: &[(i32, i64, u64)],
    cursors: Cursors,
    budget: usize,
    from: Lsn,
) -> Result<Pulled, Cut> {
    let builder = ChunkBuilder::new(budget);
    pull_into(builder, memory, extents, cursors, from..Lsn(200))
}

/// As [`pull`], all in one chunk, without the changes of commit 150 with these ordinals.
fn pull_without(memory: Memory, extents: &[(i32, i64, u64)], skipped: &[u32]) -> Pulled {
    let position = |&ordinal: &u32| Position {
        commit: Lsn(150),
        ordinal,
    };
    let mut builder = ChunkBuilder::new(LARGE);
    builder.skip(skipped.iter().map(position).collect());
    let partitions = i32::try_from(extents.len()).expect("few");
    let pulled = pull_into(
        builder,
        memory,
        extents,
        from_start(partitions),
        Lsn::ZERO..Lsn(200),
    );
    pulled.expect("whole")
}

fn pull_into(
    mut builder: ChunkBuilder,
    memory: Memory,
    extents: &[(i32, i64, u64)],
    cursors: Cursors,
    wanted: Range<Lsn>,
) -> Result<Pulled, Cut> {
    let mut source = Partitions::new(memory, CancellationToken::new());
    let mut decoders = Decoders::new(Box::new(|version| Ok(schema(version.0 as usize))));
    let extents = extents
        .iter()
        .map(|&(p, last, count)| (p, Extent { last, count }));
    let batch = entry([(TOPIC.to_owned(), extents.collect())].into());
    let tables = [(TOPIC.to_owned(), TableName::new("public", "a"))].into();
    let mut pulled = Pulled {
        chunks: Vec::new(),
        cursors,
        leftovers: 0,
        skipped: Vec::new(),
    };
    let mut pull = EntryPull::new(
        &batch,
        &tables,
        wanted,
        &pulled.cursors,
        (&mut source, &mut builder),
    )?;
    while pull.fill(
        &mut source,
        &mut builder,
        &mut decoders,
        &mut pulled.cursors,
    )? == Filled::Full
    {
        pulled.chunks.push(builder.take());
    }
    pulled.leftovers = pull.leftovers();
    pulled.chunks.push(builder.take());
    let skipped = builder.take_skipped();
    pulled.skipped = skipped.iter().map(|s| s.position.ordinal).collect();
    Ok(pulled)
}

const LARGE: usize = 1 << 20;

#[test]
fn partitions_of_a_table_are_merged_by_position() {
    let first = vec![stored(7, 110, 0), stored(3, 110, 1), stored(7, 130, 0)];
    let second = vec![stored(7, 110, 1), stored(7, 120, 0), stored(7, 130, 2)];
    let pulled = pull(
        memory(&[first, second]),
        &[(0, 2, 2), (1, 2, 3)],
        from_start(2),
        LARGE,
        Lsn::ZERO,
    )
    .expect("whole");
    assert_eq!(
        pulled.positions(),
        [[(110, 0), (110, 1), (120, 0), (130, 0), (130, 2)]]
    );
    assert_eq!(pulled.cursors[TOPIC], [(0, 3), (1, 3)].into());
    assert_eq!(pulled.leftovers, 1);
}

#[test]
fn an_entry_larger_than_the_budget_comes_in_chunks_in_order() {
    let even = (0..10).map(|n| stored(7, 150, 2 * n)).collect();
    let odd = (0..10).map(|n| stored(7, 150, 2 * n + 1)).collect();
    let pulled = pull(
        memory(&[even, odd]),
        &[(0, 9, 10), (1, 9, 10)],
        from_start(2),
        400,
        Lsn::ZERO,
    )
    .expect("whole");
    assert!(pulled.chunks.len() > 3, "{} chunks", pulled.chunks.len());
    let all: Vec<_> = pulled.positions().concat();
    assert_eq!(all, (0..20).map(|n| (150, n)).collect::<Vec<_>>());
}

#[test]
fn tables_are_merged_too_where_every_change_is_shown_in_order() {
    let even = (0..10).map(|n| stored(7, 150, 2 * n)).collect();
    let odd = (0..10).map(|n| of_version(3, 7, 150, 2 * n + 1)).collect();
    let mut source = Partitions::new(memory(&[even, odd]), CancellationToken::new());
    let mut decoders = Decoders::new(Box::new(|version| {
        let name = if version.0 == 3 { "b" } else { "a" };
        Ok(Arc::new(TableSchema {
            table: TableName::new("public", name),
            ..(*schema(version.0 as usize)).clone()
        }))
    }));
    let mut builder = ChunkBuilder::new(400);
    let of = |partition| BTreeMap::from([(partition, Extent { last: 9, count: 10 })]);
    let topics = ["p.public.a", "p.public.b"].map(str::to_owned);
    let batch = entry(topics.clone().into_iter().zip([of(0), of(1)]).collect());
    let names = ["a", "b"].map(|name| TableName::new("public", name));
    let tables = topics.clone().into_iter().zip(names).collect();
    let begin = |partition| BTreeMap::from([(partition, 0)]);
    let mut cursors: Cursors = topics.into_iter().zip([begin(0), begin(1)]).collect();
    let pull = EntryPull::new(
        &batch,
        &tables,
        Lsn::ZERO..Lsn(200),
        &cursors,
        (&mut source, &mut builder),
    );
    let mut pull = pull.expect("all is there").in_order(true);
    let (mut chunks, mut filled) = (Vec::new(), Filled::Full);
    while filled == Filled::Full {
        filled = pull
            .fill(&mut source, &mut builder, &mut decoders, &mut cursors)
            .expect("whole");
        let tables = builder.take();
        let changes = tables.iter().flat_map(|table| &table.changes);
        let mut ordinals: Vec<u32> = changes.map(|change| change.position.ordinal).collect();
        ordinals.sort_unstable();
        chunks.push(ordinals);
    }
    assert!(chunks.len() > 3, "{} chunks", chunks.len());
    assert_eq!(chunks.concat(), (0..20).collect::<Vec<_>>());
    let ends: Vec<_> = cursors.into_values().collect();
    assert_eq!(ends, [[(0, 10)].into(), [(1, 10)].into()]);
}

#[test]
fn the_halves_of_a_move_stay_in_one_chunk_and_its_tombstone_leaves_nothing() {
    let delete = moved_away(7, 150, 1);
    let first = vec![stored(7, 150, 0), delete.clone(), tombstone(&delete, 2)];
    let second = vec![stored(7, 150, 3), stored(7, 150, 4)];
    let pulled = pull(
        memory(&[first, second]),
        &[(0, 2, 3), (1, 1, 2)],
        from_start(2),
        1,
        Lsn::ZERO,
    )
    .expect("whole");
    let expected: [&[(u64, u32)]; 4] = [&[(150, 0)], &[(150, 1), (150, 3)], &[(150, 4)], &[]];
    assert_eq!(pulled.positions(), expected);
    let change = pulled.chunks[1][0].changes[0];
    let rows = &pulled.chunks[1][0].rows;
    let new_key = rows.row(change.moved.expect("names the new key"))[0];
    assert_eq!(rows.text(new_key), Some(&b"2"[..]));
}

#[test]
fn what_is_ordered_to_be_passed_over_is_not_even_decoded_and_still_counts() {
    let mut undecodable = stored(7, 150, 1);
    undecodable.value = Some(b"no record".to_vec());
    let partition = vec![stored(7, 150, 0), undecodable, stored(7, 150, 2)];
    let pulled = pull_without(memory(&[partition]), &[(0, 2, 3)], &[1, 9]);
    assert_eq!(pulled.positions(), [[(150, 0), (150, 2)]]);
    assert_eq!(pulled.skipped, [1]);
    assert_eq!(pulled.cursors[TOPIC], [(0, 3)].into());
}

#[test]
fn a_move_is_passed_over_whole_whichever_half_is_named() {
    let delete = moved_away(7, 150, 1);
    let mut insert = stored(7, 150, 3);
    insert.new_key = Some(b"{\"c0\":1}".to_vec());
    let first = vec![stored(7, 150, 0), delete.clone(), tombstone(&delete, 2)];
    let memory = memory(&[first, vec![insert, stored(7, 150, 4)]]);
    for half in [1, 3] {
        let pulled = pull_without(memory.clone(), &[(0, 2, 3), (1, 1, 2)], &[half]);
        assert_eq!(pulled.positions(), [[(150, 0), (150, 4)]]);
        assert_eq!(pulled.skipped, [half]);
    }
}

#[test]
fn a_record_in_pieces_is_passed_over_by_its_first_position() {
    let mut partition = vec![stored(7, 150, 0)];
    partition.extend(in_pieces(&stored(7, 150, 1), 3));
    partition.push(stored(7, 150, 4));
    let pulled = pull_without(memory(&[partition]), &[(0, 4, 5)], &[1]);
    assert_eq!(pulled.positions(), [[(150, 0), (150, 4)]]);
    assert_eq!(pulled.skipped, [1]);
}

#[test]
fn pieces_of_a_record_are_put_together_and_each_counts() {
    let mut partition = vec![stored(7, 110, 0)];
    partition.extend(in_pieces(&stored(7, 120, 0), 3));
    // Another source's record between two pieces changes nothing.
    partition.insert(2, stored(3, 120, 1));
    let pulled = pull(
        memory(&[partition]),
        &[(0, 4, 4)],
        from_start(1),
        LARGE,
        Lsn::ZERO,
    )
    .expect("whole");
    assert_eq!(pulled.positions(), [[(110, 0), (120, 0)]]);
    let table = &pulled.chunks[0][0];
    let text = |n: usize| {
        table
            .rows
            .text(table.rows.row(table.changes[n].after.expect("a row"))[1])
    };
    assert_eq!(text(0), text(1));
}

#[test]
fn an_entry_that_is_split_at_any_boundary_is_applied_whole_in_two_parts() {
    let mut first = vec![stored(7, 110, 0), stored(7, 130, 0)];
    first.extend(in_pieces(&stored(7, 140, 0), 3));
    let second = vec![stored(7, 110, 1), stored(3, 120, 0), stored(7, 150, 0)];
    let part = |wanted: Range<Lsn>, budget: usize| {
        let builder = ChunkBuilder::new(budget);
        let memory = memory(&[first.clone(), second.clone()]);
        let extents = [(0, 4, 5), (1, 2, 2)];
        let pulled = pull_into(builder, memory, &extents, from_start(2), wanted).expect("whole");
        (pulled.positions().concat(), pulled.cursors)
    };
    let (whole, cursors) = part(Lsn::ZERO..Lsn(200), LARGE);
    assert_eq!(whole.len(), 5);
    for boundary in 100..=200 {
        for budget in [1, LARGE] {
            let (before, passed) = part(Lsn::ZERO..Lsn(boundary), budget);
            assert!(before.iter().all(|(commit, _)| *commit < boundary));
            let (behind, end) = part(Lsn(boundary)..Lsn(200), budget);
            assert_eq!([before, behind].concat(), whole, "split at {boundary}");
            assert_eq!(
                (&passed, &end),
                (&cursors, &cursors),
                "all of it is counted"
            );
        }
    }
}

#[test]
fn a_new_schema_version_begins_new_changes() {
    let partition = vec![
        of_version(2, 7, 110, 0),
        of_version(3, 7, 110, 1),
        of_version(2, 7, 120, 0),
    ];
    let pulled = pull(
        memory(&[partition]),
        &[(0, 2, 3)],
        from_start(1),
        LARGE,
        Lsn::ZERO,
    )
    .expect("whole");
    let widths: Vec<_> = pulled.chunks[0]
        .iter()
        .map(|table| table.rows.width())
        .collect();
    assert_eq!(widths, [2, 3, 2]);
}

#[test]
fn missing_records_are_lost_data_and_the_place_is_named() {
    let partition = vec![stored(7, 110, 0), stored(7, 210, 0)];
    let cut = pull(
        memory(&[partition]),
        &[(0, 1, 2)],
        from_start(1),
        LARGE,
        Lsn::ZERO,
    )
    .err();
    let Some(Cut::Lost { table, what }) = cut else {
        panic!("expected lost data, not {cut:?}");
    };
    assert_eq!(table, TableName::new("public", "a"));
    for part in [
        "table public.a",
        "topic p.public.a partition 0",
        "1 of 2 records",
        "offset 1",
    ] {
        assert!(what.contains(part), "{part:?} in {what:?}");
    }
}

#[test]
fn records_below_the_copys_point_are_counted_and_not_applied() {
    let partition = vec![stored(7, 110, 0), stored(7, 150, 0), stored(7, 160, 0)];
    let pulled = pull(
        memory(&[partition]),
        &[(0, 2, 3)],
        from_start(1),
        LARGE,
        Lsn(150),
    )
    .expect("whole");
    assert_eq!(pulled.positions(), [[(150, 0), (160, 0)]]);
}

#[test]
fn without_a_cursor_the_entrys_records_are_found_by_their_count() {
    let mut partition = vec![stored(7, 50, 0); 200];
    partition.push(stored(7, 110, 0));
    partition.extend(vec![stored(3, 110, 1); 100]);
    partition.push(stored(7, 120, 0));
    let pulled = pull(
        memory(&[partition]),
        &[(0, 301, 2)],
        Cursors::new(),
        LARGE,
        Lsn::ZERO,
    )
    .expect("whole");
    assert_eq!(pulled.positions(), [[(110, 0), (120, 0)]]);
    assert_eq!(pulled.cursors[TOPIC][&0], 302);
}

#[test]
fn what_retention_took_below_the_entry_does_not_matter() {
    let partition = vec![stored(3, 50, 0), stored(3, 50, 1), stored(7, 110, 0)];
    let mut kept = memory(std::slice::from_ref(&partition));
    kept.low = 2;
    let pulled = pull(kept, &[(0, 2, 1)], from_start(1), LARGE, Lsn::ZERO).expect("whole");
    assert_eq!(pulled.positions(), [[(110, 0)]]);
    let mut passed = memory(&[partition]);
    passed.low = 3;
    let cut = pull(passed, &[(0, 2, 1)], from_start(1), LARGE, Lsn::ZERO).err();
    assert!(matches!(cut, Some(Cut::Lost { .. })), "{cut:?}");
}

#[test]
fn nothing_of_an_entry_that_retention_has_cut_is_handed_on() {
    let mut partitions = memory(&[(0..6).map(|n| stored(7, 150, n)).collect()]);
    partitions.low = 2;
    let batch = entry([(TOPIC.to_owned(), [(0, Extent { last: 5, count: 6 })].into())].into());
    let tables = [(TOPIC.to_owned(), TableName::new("public", "a"))].into();
    for cursors in [from_start(1), Cursors::new()] {
        let mut source = Partitions::new(partitions.clone(), CancellationToken::new());
        let mut builder = ChunkBuilder::new(1);
        let into = (&mut source, &mut builder);
        let pull = EntryPull::new(&batch, &tables, Lsn::ZERO..batch.to, &cursors, into);
        assert!(
            matches!(pull, Err(Cut::Lost { .. })),
            "known before a chunk is full"
        );
    }
}
