//! Reading no faster than is allowed: how a table is cut into parts, and how long to rest behind one.
//!
//! A part is a range of blocks. How many rows it will have is not known before it is read, so parts begin
//! small enough for whatever may be in a block, and grow by what was found.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// Rows of a part where no rate is set: some tenths of a second.
const PART_ROWS: u64 = 200_000;
/// A part has at least so many rows a bucket where no rate is set: each part sends a sum of each bucket.
const PART_ROWS_A_BUCKET: u64 = 10;
/// A block of 8 KiB has no more (`MaxHeapTuplesPerPage`).
const BLOCK_ROWS_MAX: u64 = 291;
/// A part has at most so many times the blocks of the one before.
const GROWTH: u64 = 4;

/// Blocks `from <= block < to` of each relation of a table; without `to`: all from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    /// The first.
    pub from: u64,
    /// The first of the next part.
    pub to: Option<u64>,
}

/// Rows that a part should have.
pub(super) fn part_rows(rate: Option<NonZeroU64>, buckets: u64) -> u64 {
    match rate {
        // What is read at once is read within a second.
        Some(rate) => rate.get().min(PART_ROWS),
        None => PART_ROWS.max(buckets * PART_ROWS_A_BUCKET),
    }
}

/// How long to rest behind a part, so that over it and the rest no more than the rate was read.
fn rest(rate: Option<NonZeroU64>, rows: u64, took: Duration) -> Duration {
    let Some(rate) = rate else {
        return Duration::ZERO;
    };
    let least = Duration::from_secs_f64(rows as f64 / rate.get() as f64);
    least.saturating_sub(took)
}

/// A table that is cut into parts while it is read.
#[derive(Debug)]
pub(super) struct Parts {
    blocks: u64,
    part_rows: u64,
    /// The next block.
    at: Option<u64>,
    /// Blocks of the next part.
    size: u64,
    /// Rows found so far.
    rows: u64,
}

impl Parts {
    /// Of a table whose largest relation has so many blocks, and which consists of so many relations.
    pub(super) fn new(blocks: u64, relations: u64, part_rows: u64) -> Self {
        let surely = part_rows / (BLOCK_ROWS_MAX * relations.max(1));
        Parts {
            blocks,
            part_rows,
            at: Some(0),
            size: surely.max(1),
            rows: 0,
        }
    }

    /// The part to read next; none when all were read.
    pub(super) fn next(&self) -> Option<Blocks> {
        let from = self.at?;
        let to = Some(from + self.size).filter(|to| *to < self.blocks);
        Some(Blocks { from, to })
    }

    /// The part had so many rows.
    pub(super) fn read(&mut self, part: Blocks, rows: u64) {
        self.rows += rows;
        self.at = part.to;
        let Some(read) = part.to else {
            return;
        };
        let fitting = match self.rows {
            0 => u64::MAX,
            rows => self.part_rows.saturating_mul(read) / rows,
        };
        self.size = fitting.clamp(1, self.size * GROWTH);
    }
}

/// The rate of one server.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<NonZeroU64>,
    free_at: Instant,
}

impl Pace {
    /// At most so many rows a second.
    pub(super) fn new(rate: Option<NonZeroU64>) -> Self {
        Pace {
            rate,
            free_at: Instant::now(),
        }
    }

    /// Waits until more may be read; when that begins.
    pub(super) async fn turn(&self) -> Instant {
        tokio::time::sleep_until(self.free_at).await;
        Instant::now()
    }

    /// So many rows were read since `begun`.
    pub(super) fn read(&mut self, rows: u64, begun: Instant) {
        let now = Instant::now();
        self.free_at = now + rest(self.rate, rows, now - begun);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(rows: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(rows)
    }

    /// Reads a table with so many rows a block; blocks and rows of its parts.
    fn cut(parts: &mut Parts, rows: impl Fn(u64) -> u64) -> Vec<(Blocks, u64)> {
        let mut cut = Vec::new();
        while let Some(part) = parts.next() {
            let to = part.to.unwrap_or(parts.blocks.max(part.from + 1));
            let found = (part.from..to).map(&rows).sum();
            parts.read(part, found);
            cut.push((part, found));
        }
        cut
    }

    proptest! {
        #[test]
        fn parts_are_all_of_the_table_once(blocks in 0u64..5_000, part_rows in 1u64..100_000, seed in 0u64..292) {
            let mut parts = Parts::new(blocks, 1, part_rows);
            let cut = cut(&mut parts, |block| block * seed % 292);
            let mut at = Some(0);
            for (part, _) in &cut {
                prop_assert_eq!(Some(part.from), at);
                prop_assert!(part.to.is_none_or(|to| to > part.from));
                at = part.to;
            }
            prop_assert_eq!(at, None);
        }

        /// Whatever parts take, from the beginning of one to that of a later one no more is read than the rate.
        #[test]
        fn no_stretch_of_time_has_more_rows_than_the_rate(
            allowed in 1u64..1_000_000,
            parts in prop::collection::vec((0u64..1_000_000, 0u64..10_000), 1..20),
        ) {
            let mut begins = Vec::new();
            let (mut now, mut rows_before) = (Duration::ZERO, 0);
            for (rows, took_ms) in parts {
                begins.push((now, rows_before));
                let took = Duration::from_millis(took_ms);
                now += took + rest(rate(allowed), rows, took);
                rows_before += rows;
            }
            begins.push((now, rows_before));
            for (at, (from, rows_then)) in begins.iter().enumerate() {
                for (to, rows) in &begins[at..] {
                    let most = (*to - *from).as_secs_f64() * allowed as f64;
                    prop_assert!((rows - rows_then) as f64 <= most * 1.000_001 + 0.01);
                }
            }
        }
    }

    #[test]
    fn a_part_is_a_second_of_the_rate_and_grows_by_what_was_found() {
        let mut parts = Parts::new(100_000, 1, part_rows(rate(50_000), 1_000));
        assert_eq!(
            parts.next().unwrap().to,
            Some(171),
            "as if blocks were full"
        );
        let cut = cut(&mut parts, |_| 20);
        assert!(cut.iter().all(|(_, rows)| *rows <= 50_000), "{cut:?}");
        assert_eq!(cut[10].1, 50_000);
        // Blocks without a row at its beginning.
        let mut parts = Parts::new(100_000, 1, 50_000);
        let cut = self::cut(&mut parts, |block| if block < 40_000 { 0 } else { 200 });
        let most = cut.iter().map(|(_, rows)| *rows).max().unwrap();
        assert!(most < 50_000 * 100, "{most}");
    }

    #[test]
    fn a_small_table_is_one_part_and_many_relations_are_many_rows_a_block() {
        assert_eq!(Parts::new(100, 1, PART_ROWS).next().unwrap().to, None);
        assert_eq!(Parts::new(0, 1, 1).next().unwrap().to, None);
        assert_eq!(Parts::new(100, 50, PART_ROWS).next().unwrap().to, Some(13));
        assert_eq!(part_rows(None, 100_000), 1_000_000);
    }

    #[test]
    fn without_a_rate_nobody_rests() {
        assert_eq!(rest(None, u64::MAX, Duration::ZERO), Duration::ZERO);
        let second = Duration::from_secs(1);
        assert_eq!(rest(rate(100), 200, Duration::ZERO), 2 * second);
        assert_eq!(rest(rate(100), 200, second), second);
        assert_eq!(rest(rate(100), 200, 3 * second), Duration::ZERO);
    }
}
