//! Reading the records of one entry: from each partition what the entry counts, merged by position
//! within a table, or within the entry for a store that shows every change. Blocking; can be left and
//! resumed when a chunk is full.

use std::collections::BTreeMap;
use std::ops::Range;

use super::chunk::{ChunkBuilder, Decoders, Held, Slot};
use super::partitions::{AHEAD, Cut, Partitions, Records, lost_records};
use super::take::{Taken, Taker};
use crate::error::Result;
use crate::log::commit_log::BatchEntry;
use crate::model::{Cursors, Lsn, Position, TableName};

struct PartitionPull {
    partition: i32,
    taker: Taker,
    head: Held,
}

struct TablePull {
    table: TableName,
    topic: String,
    slot: Slot,
    partitions: Vec<PartitionPull>,
    /// The consumer stands at its records.
    stands: bool,
}

/// Whether an entry is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// All its records are in the chunk, or passed over.
    Done,
    /// The chunk is full: hand it on, then go on with this entry.
    Full,
}

/// The records of one entry while they are read.
pub struct EntryPull {
    tables: Vec<TablePull>,
    /// Only records with these commit LSNs are wanted; the others are only counted.
    wanted: Range<Lsn>,
    leftovers: u64,
    /// Tables are merged too, not read one after the other.
    in_order: bool,
}

impl EntryPull {
    /// Begins to read the records of an entry. `tables`: topics to be read and their tables. Where retention
    /// may have taken records away they are counted first.
    pub fn new<R: Records>(
        batch: &BatchEntry,
        tables: &BTreeMap<String, TableName>,
        wanted: Range<Lsn>,
        cursors: &Cursors,
        (source, builder): (&mut Partitions<R>, &mut ChunkBuilder),
    ) -> Result<Self, Cut> {
        let mut pulls: Vec<TablePull> = Vec::new();
        let mut unsure = Vec::new();
        for (topic, extents) in &batch.offsets {
            let Some(table) = tables.get(topic) else {
                continue;
            };
            let mut partitions = Vec::with_capacity(extents.len());
            for (&partition, &extent) in extents.iter().filter(|(_, extent)| extent.count > 0) {
                let cursor = cursors.get(topic).and_then(|p| p.get(&partition)).copied();
                if cursor.is_none() || source.next_offset(topic, partition) != cursor {
                    unsure.push((
                        (topic.as_str(), partition),
                        cursor,
                        (pulls.len(), partitions.len()),
                    ));
                }
                let (range, first) = ((batch.from, batch.to), cursor.unwrap_or(0));
                partitions.push(PartitionPull {
                    partition,
                    taker: Taker::new(batch.epoch, range, extent, first),
                    head: Held::default(),
                });
            }
            pulls.push(TablePull {
                slot: builder.slot(table),
                table: table.clone(),
                topic: topic.clone(),
                partitions,
                stands: false,
            });
        }
        let places: Vec<_> = unsure.iter().map(|(place, ..)| *place).collect();
        let lows = source.lows(&places)?;
        for ((place, cursor, (table, at)), low) in unsure.into_iter().zip(lows) {
            let table = &mut pulls[table];
            let taker = &mut table.partitions[at].taker;
            let start = match cursor {
                Some(cursor) => source.start(place, (cursor, low), taker),
                None => source.locate(place, low, taker),
            };
            *taker = taker.restarted(start.map_err(|cut| of_table(cut, &table.table))?);
        }
        Ok(EntryPull {
            tables: pulls,
            wanted,
            leftovers: 0,
            in_order: false,
        })
    }

    /// With records in the leader's order across all tables of the entry, if that is so. All of its partitions
    /// are read at once then.
    #[must_use]
    pub fn in_order(mut self, is_so: bool) -> Self {
        self.in_order = is_so;
        self
    }

    /// Reads on until the entry is done or the chunk is full. Moves the cursors of tables done.
    pub fn fill<R: Records>(
        &mut self,
        source: &mut Partitions<R>,
        builder: &mut ChunkBuilder,
        decoders: &mut Decoders,
        cursors: &mut Cursors,
    ) -> Result<Filled, Cut> {
        if self.in_order {
            return self.fill_in_order(source, builder, decoders, cursors);
        }
        loop {
            self.stand_ahead(source, AHEAD)?;
            let Some(table) = self.tables.last_mut() else {
                return Ok(Filled::Done);
            };
            let filled = table
                .fill(source, builder, decoders, &self.wanted)
                .map_err(|cut| of_table(cut, &table.table))?;
            if filled == Filled::Full {
                return Ok(Filled::Full);
            }
            self.finish_last(source, cursors)?;
        }
    }

    fn fill_in_order<R: Records>(
        &mut self,
        source: &mut Partitions<R>,
        builder: &mut ChunkBuilder,
        decoders: &mut Decoders,
        cursors: &mut Cursors,
    ) -> Result<Filled, Cut> {
        self.stand_ahead(source, usize::MAX)?;
        loop {
            let mut first: Option<(Position, usize, &mut TablePull)> = None;
            for table in &mut self.tables {
                let next = table.next(source);
                let next = next.map_err(|cut| of_table(cut, &table.table))?;
                first = match (first, next) {
                    (Some(first), Some((position, _))) if first.0 < position => Some(first),
                    (first, None) => first,
                    (_, Some((position, at))) => Some((position, at, table)),
                };
            }
            let Some((position, at, table)) = first else {
                break;
            };
            let wanted = self.wanted.contains(&position.commit);
            table.hand_on(at, wanted, builder, decoders)?;
            if builder.is_full() {
                return Ok(Filled::Full);
            }
        }
        while !self.tables.is_empty() {
            self.finish_last(source, cursors)?;
        }
        Ok(Filled::Done)
    }

    /// Moves the cursors of the table that is read last, which is done.
    fn finish_last<R: Records>(
        &mut self,
        source: &mut Partitions<R>,
        cursors: &mut Cursors,
    ) -> Result<(), Cut> {
        let table = self.tables.pop().expect("a table is done");
        source.rest(&table.topic)?;
        let places = cursors.entry(table.topic).or_default();
        for partition in table.partitions {
            self.leftovers += partition.taker.skipped();
            places.insert(partition.partition, partition.taker.next_offset());
        }
        Ok(())
    }

    /// Assigns the table whose turn it is, and some more.
    fn stand_ahead<R: Records>(
        &mut self,
        source: &mut Partitions<R>,
        partitions: usize,
    ) -> Result<(), Cut> {
        let mut ahead = 0;
        for table in self.tables.iter_mut().rev() {
            if !table.stands {
                for partition in &table.partitions {
                    let start = partition.taker.next_offset();
                    source.stand(&table.topic, partition.partition, start)?;
                }
                table.stands = true;
            }
            ahead += table.partitions.len();
            if ahead >= partitions {
                break;
            }
        }
        Ok(())
    }

    /// Records passed over in the tables done.
    pub fn leftovers(&self) -> u64 {
        self.leftovers
    }
}

impl TablePull {
    fn fill<R: Records>(
        &mut self,
        source: &mut Partitions<R>,
        builder: &mut ChunkBuilder,
        decoders: &mut Decoders,
        wanted: &Range<Lsn>,
    ) -> Result<Filled, Cut> {
        while let Some((position, at)) = self.next(source)? {
            self.hand_on(at, wanted.contains(&position.commit), builder, decoders)?;
            if builder.is_full() {
                return Ok(Filled::Full);
            }
        }
        Ok(Filled::Done)
    }

    /// The record that comes next in the table, and in which of its partitions; none when it is done.
    fn next<R: Records>(
        &mut self,
        source: &mut Partitions<R>,
    ) -> Result<Option<(Position, usize)>, Cut> {
        for partition in &mut self.partitions {
            partition.refill(source, &self.topic)?;
        }
        let heads = self.partitions.iter_mut().enumerate();
        let heads =
            heads.filter_map(|(at, partition)| Some((partition.head.whole()?.position, at)));
        Ok(heads.min())
    }

    /// Puts that record into the chunk, if it is wanted, and makes room for the next.
    fn hand_on(
        &mut self,
        at: usize,
        is_wanted: bool,
        builder: &mut ChunkBuilder,
        decoders: &mut Decoders,
    ) -> Result<(), Cut> {
        let head = &mut self.partitions[at].head;
        if is_wanted {
            builder
                .append(self.slot, head, decoders)
                .map_err(|error| error.at(&self.table))?;
        }
        head.clear();
        Ok(())
    }
}

impl PartitionPull {
    /// Reads until a whole record is at hand, or the entry has none left here.
    fn refill<R: Records>(&mut self, source: &mut Partitions<R>, topic: &str) -> Result<(), Cut> {
        while self.head.whole().is_none() && !self.taker.done() {
            let (partition, head) = (self.partition, &mut self.head);
            let lost = self.taker.lost()
                || source.offer(topic, partition, &mut self.taker, |header, record| {
                    head.absorb(header, record)
                })? == Taken::Lost;
            if lost {
                return Err(lost_records(topic, partition, &self.taker));
            }
        }
        if self.head.in_pieces() {
            return Err(lost_records(topic, self.partition, &self.taker));
        }
        Ok(())
    }
}

fn of_table(cut: Cut, table: &TableName) -> Cut {
    match cut {
        Cut::Lost { what, .. } => Cut::Lost {
            table: table.clone(),
            what: format!("table {table}: {what}"),
        },
        Cut::Stopped => Cut::Stopped,
        Cut::Failed(error) => Cut::Failed(error),
    }
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
