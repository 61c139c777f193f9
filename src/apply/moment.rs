//! The boundary that a person means who names a time or a transaction: found by reading records. Blocking.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::Vacant;
use std::ops::Bound::{Excluded, Unbounded};

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::chunk::Held;
use super::partitions::{Cut, Partitions, Records, lost_records};
use super::take::{Taken, Taker};
use crate::error::{Error, NEW_PIPELINE, Result};
use crate::log::commit_log::{BatchEntry, Entry, Verdict, judge};
use crate::model::Lsn;
use crate::model::checkpoint::LogPlace;
use crate::model::clock::POSTGRES_EPOCH_US;

/// What names a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the first transaction that committed later: milliseconds since 1970 by the leader's clock.
    Time(i64),
    /// Behind the newest transaction of this number.
    Behind(u32),
    /// Before it.
    Before(u32),
}

/// A transaction as its records tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
struct Told {
    #[serde(rename = "txId")]
    xid: u32,
    /// Commit time, milliseconds since 1970.
    #[serde(rename = "ts_ms")]
    commit_ms: i64,
}

/// The part of a value that is looked at.
#[derive(Deserialize)]
struct Value {
    source: Told,
}

/// Looks for a moment in the commit log, entry by entry.
pub struct Search<R> {
    moment: Moment,
    place: LogPlace,
    source: Partitions<R>,
    found: Option<Lsn>,
}

impl<R: Records> Search<R> {
    /// Of a log that begins at `low`.
    pub fn new(moment: Moment, low: i64, records: R, stop: CancellationToken) -> Self {
        Search {
            moment,
            place: LogPlace::at_low_end(low),
            source: Partitions::new(records, stop),
            found: None,
        }
    }

    /// Looks into the entry at `offset`, if the moment can lie there. Whether the search is over.
    ///
    /// # Errors
    /// Halt at a hole in the log, and where records of an entry that has to be read are gone.
    pub fn see(&mut self, offset: i64, entry: &Entry) -> Result<bool> {
        if judge(&mut self.place, offset, entry)? != Verdict::Valid {
            return Ok(false);
        }
        let Entry::Batch(batch) = entry else {
            return Ok(false);
        };
        match self.moment {
            Moment::Time(until_ms) => self.see_time(batch, until_ms),
            Moment::Behind(xid) | Moment::Before(xid) => {
                self.see_transaction(batch, xid)?;
                Ok(false) // the number may come again
            }
        }
    }

    /// The boundary, when all of the log was seen. A time that all of it lies before is its end.
    ///
    /// # Errors
    /// Halt when the transaction is not there.
    pub fn boundary(self) -> Result<Lsn> {
        let end = match self.moment {
            Moment::Time(_) => self.place.to,
            Moment::Behind(_) | Moment::Before(_) => None,
        };
        self.found.or(end).ok_or_else(|| {
            Error::halt(
                match self.moment {
                    Moment::Time(_) => "the commit log has no boundary yet".to_owned(),
                    Moment::Behind(xid) | Moment::Before(xid) => {
                        format!("Kafka has no change of transaction {xid}")
                    }
                },
                "name what walferry tail --from earliest shows as txId, or a position or a time instead",
            )
        })
    }

    fn see_time(&mut self, batch: &BatchEntry, until_ms: i64) -> Result<bool> {
        let ends_later = |us: i64| ms(us) > until_ms;
        if !batch
            .last_commit
            .is_some_and(|last| ends_later(last.time_us))
        {
            return Ok(false);
        }
        let transactions = self.read(batch).map_err(given_up)?;
        let mut later = transactions
            .iter()
            .filter(|(_, told)| told.commit_ms > until_ms);
        // One without a change of a captured table may be what ends it.
        self.found = Some(later.next().map_or(batch.to, |(commit, _)| *commit));
        Ok(true)
    }

    fn see_transaction(&mut self, batch: &BatchEntry, xid: u32) -> Result<()> {
        let Some(transactions) = self.read_if_there(batch)? else {
            return Ok(());
        };
        let Some((commit, _)) = transactions.iter().find(|(_, told)| told.xid == xid) else {
            return Ok(());
        };
        let mut behind = transactions.range((Excluded(*commit), Unbounded));
        self.found = Some(match self.moment {
            Moment::Before(_) => *commit,
            Moment::Behind(_) | Moment::Time(_) => {
                behind.next().map_or(batch.to, |(commit, _)| *commit)
            }
        });
        Ok(())
    }

    /// As [`Search::read`]; none when retention has passed some of its records.
    fn read_if_there(&mut self, batch: &BatchEntry) -> Result<Option<BTreeMap<Lsn, Told>>> {
        match self.read(batch) {
            Ok(transactions) => Ok(Some(transactions)),
            Err(Cut::Lost { .. }) => {
                // The consumer may have gone beyond the entry.
                for topic in batch.offsets.keys() {
                    self.source.forget(topic)?;
                }
                Ok(None)
            }
            Err(cut) => Err(given_up(cut)),
        }
    }

    /// Transactions of an entry by commit LSN: those with changes of captured tables.
    fn read(&mut self, batch: &BatchEntry) -> Result<BTreeMap<Lsn, Told>, Cut> {
        let mut transactions = BTreeMap::new();
        for (topic, extents) in &batch.offsets {
            for (&partition, &extent) in extents.iter().filter(|(_, extent)| extent.count > 0) {
                let range = (batch.from, batch.to);
                let taker = Taker::new(batch.epoch, range, extent, 0);
                self.read_partition((topic, partition), taker, &mut transactions)?;
            }
            self.source.rest(topic)?;
        }
        Ok(transactions)
    }

    fn read_partition(
        &mut self,
        (topic, partition): (&str, i32),
        taker: Taker,
        transactions: &mut BTreeMap<Lsn, Told>,
    ) -> Result<(), Cut> {
        let start = match self.source.next_offset(topic, partition) {
            Some(next) => next,
            None => {
                let (low, _high) = self.source.watermarks(topic, partition)?;
                self.source.locate((topic, partition), low, &taker)?
            }
        };
        self.source.stand(topic, partition, start)?;
        let mut taker = taker.restarted(start);
        let mut held = Held::default();
        while !taker.done() {
            let taken = self
                .source
                .offer(topic, partition, &mut taker, |header, record| {
                    held.absorb(header, record)?;
                    // One record of a transaction tells for all.
                    if held.whole().is_some()
                        && let Vacant(first) = transactions.entry(header.position.commit)
                    {
                        let told = tell(held.value());
                        first.insert(told.map_err(|error| no_event(topic, partition, error))?);
                    }
                    Ok(())
                })?;
            if held.whole().is_some() {
                held.clear();
            }
            if taken == Taken::Lost {
                return Err(lost_records(topic, partition, &taker));
            }
        }
        Ok(())
    }
}

fn no_event(topic: &str, partition: i32, error: serde_json::Error) -> Error {
    Error::halt(
        format!("topic {topic} partition {partition}: a record that is no change event"),
        NEW_PIPELINE,
    )
    .caused_by(error)
}

fn tell(value: &[u8]) -> Result<Told, serde_json::Error> {
    Ok(serde_json::from_slice::<Value>(value)?.source)
}

/// Milliseconds since 1970 of a leader's time, as records have them.
fn ms(postgres_us: i64) -> i64 {
    (postgres_us + POSTGRES_EPOCH_US).div_euclid(1_000)
}

fn given_up(cut: Cut) -> Error {
    cut.into_error()
        .unwrap_or_else(|| Error::transient("asked to stop while looking for a position"))
}
