//! How copies of tables get on, for people: bars below the log on a terminal, else lines in the log. Told
//! is what parts say of themselves (`status`); only rates are counted here.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use super::status::count;
use crate::status::{CopyProgress, ProcessStatus};

/// How often parts are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often the log says how far a table is, at most.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Rates are those of so long.
const RATE_OVER: Duration = Duration::from_secs(10);
/// Bars of one part; a copy may be of thousands of tables.
const BARS_MAX: usize = 8;
/// Cells of a bar.
const BAR_CELLS: usize = 20;

/// Shows copies for as long as it is polled; with bars, or else in the log.
pub(super) async fn show(status: &ProcessStatus, mut bars: Option<Bars>) -> Infallible {
    let (mut paces, mut log) = (Paces::default(), Log::default());
    loop {
        let (parts, now) = (look(status), Instant::now());
        paces.see(&parts, now);
        if let Some(bars) = &mut bars {
            let lines: Vec<String> = parts.iter().flat_map(|part| part.bars(&paces)).collect();
            bars.draw(&lines);
        } else {
            for note in log.notes(&parts, now) {
                say(&note, &paces);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The copies of a source or a sink.
#[derive(Clone, Debug)]
pub(super) struct PartCopies {
    /// Name of the source or sink.
    pub part: String,
    /// Its copies.
    pub copies: Vec<CopyProgress>,
}

fn look(status: &ProcessStatus) -> Vec<PartCopies> {
    let shown = status.parts();
    let source = shown.source.iter().map(|(name, view)| PartCopies {
        part: name.clone(),
        copies: view.get().copies,
    });
    let sinks = shown.sinks.iter().map(|sink| PartCopies {
        part: sink.name.clone(),
        copies: sink.view.get().copies,
    });
    source.chain(sinks).collect()
}

fn is_under_way(copy: &CopyProgress) -> bool {
    copy.rows > 0 && !copy.done
}

impl PartCopies {
    /// A line for each table under way, as many as there is room for, and one for the rest.
    pub(super) fn bars(&self, paces: &Paces) -> Vec<String> {
        let under_way = self.copies.iter().filter(|copy| is_under_way(copy));
        let bar = |copy| bar(&self.part, copy, paces.rate(&self.part, copy));
        let mut lines: Vec<String> = under_way.take(BARS_MAX).map(bar).collect();
        let left = self.copies.iter().filter(|copy| !copy.done).count() - lines.len();
        if left > 0 {
            let more = if lines.is_empty() { "" } else { " more" };
            let tables = if left == 1 { "table" } else { "tables" };
            lines.push(format!("{}: {left}{more} {tables} to copy", self.part));
        }
        lines
    }
}

/// `leader: public.items [██████░░░░░░░░░░░░░░]  31%  41,000 rows/s  1m 5s left  (1,234,567 of about 4,000,000)`
fn bar(part: &str, copy: &CopyProgress, rate: Option<f64>) -> String {
    let (table, rows) = (&copy.table, count(copy.rows));
    let pace = rate.map(|rate| format!("  {} rows/s", count(rate as u64)));
    let pace = pace.unwrap_or_default();
    let Some(share) = share(copy) else {
        return format!("{part}: {table}  {rows} rows{pace}");
    };
    let full = (share * BAR_CELLS as f64) as usize;
    let cells = "█".repeat(full) + &"░".repeat(BAR_CELLS - full);
    let left = seconds_left(copy, rate).map(Duration::from_secs);
    let left = left.map(|left| format!("  {} left", humantime::format_duration(left)));
    let left = left.unwrap_or_default();
    let of = count(copy.rows_estimate.unwrap_or_default());
    let percent = share * 100.0;
    format!("{part}: {table} [{cells}] {percent:>3.0}%{pace}{left}  ({rows} of about {of})")
}

/// The part of a copy's rows that is done; below 1 until it is complete, as their number is estimated.
fn share(copy: &CopyProgress) -> Option<f64> {
    let estimate = copy.rows_estimate.filter(|rows| *rows > 0)?;
    Some((copy.rows as f64 / estimate as f64).min(0.99))
}

/// Seconds until the estimated number of rows is reached at this rate; `None` when that is not known.
fn seconds_left(copy: &CopyProgress, rate: Option<f64>) -> Option<u64> {
    let left = copy.rows_estimate?.checked_sub(copy.rows)?;
    let rate = rate.filter(|rate| *rate > 0.0)?;
    Some((left as f64 / rate).ceil() as u64)
}

/// A part and one of its tables.
type Of = (String, String);

/// How fast copies get on, from what was seen of them.
#[derive(Debug, Default)]
pub(super) struct Paces(BTreeMap<Of, VecDeque<(Instant, u64)>>);

impl Paces {
    /// Notes how far all copies are now.
    pub(super) fn see(&mut self, parts: &[PartCopies], now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        for (part, copy) in each(parts).filter(|(_, copy)| is_under_way(copy)) {
            let of = (part.part.clone(), copy.table.clone());
            let mut seen = before.remove(&of).unwrap_or_default();
            if seen.back().is_some_and(|(_, rows)| *rows > copy.rows) {
                // It was begun again.
                seen.clear();
            }
            seen.push_back((now, copy.rows));
            while seen.get(1).is_some_and(|(at, _)| now - *at >= RATE_OVER) {
                seen.pop_front();
            }
            self.0.insert(of, seen);
        }
    }

    /// Rows a second; `None` until a copy was seen twice.
    fn rate(&self, part: &str, copy: &CopyProgress) -> Option<f64> {
        let seen = self.0.get(&(part.to_owned(), copy.table.clone()))?;
        let ((since, from), (at, to)) = (seen.front()?, seen.back()?);
        let seconds = (*at - *since).as_secs_f64();
        (seconds > 0.0).then(|| (to - from) as f64 / seconds)
    }
}

fn each(parts: &[PartCopies]) -> impl Iterator<Item = (&PartCopies, &CopyProgress)> {
    parts
        .iter()
        .flat_map(|part| std::iter::repeat(part).zip(&part.copies))
}

/// What the log has said of copies.
#[derive(Debug, Default)]
struct Log(BTreeMap<Of, Said>);

#[derive(Clone, Debug)]
struct Said {
    at: Instant,
    copy: CopyProgress,
}

/// What the log is to say of one copy.
#[derive(Clone, Debug)]
struct Note {
    part: String,
    stage: Stage,
    copy: CopyProgress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Begins,
    GoesOn,
    Ends,
}

impl Log {
    /// What is to be said now: once when a table's copy begins and ends, and in between now and then.
    fn notes(&mut self, parts: &[PartCopies], now: Instant) -> Vec<Note> {
        let mut notes = Vec::new();
        let mut before = std::mem::take(&mut self.0);
        for (part, copy) in each(parts) {
            let of = (part.part.clone(), copy.table.clone());
            let said = before.remove(&of);
            let stage = match &said {
                _ if !copy.done && copy.rows == 0 => continue, // it waits for its turn
                Some(said) if said.copy.done && copy.done => None,
                Some(_) | None if copy.done => Some(Stage::Ends),
                Some(said) if !said.copy.done && said.copy.rows <= copy.rows => {
                    (now - said.at >= SAY_EVERY).then_some(Stage::GoesOn)
                }
                Some(_) | None => Some(Stage::Begins),
            };
            let at = match (&stage, said) {
                (None, Some(said)) => said.at,
                (Some(_), _) | (None, None) => now,
            };
            let copy = copy.clone();
            if let Some(stage) = stage {
                let (part, copy) = (part.part.clone(), copy.clone());
                notes.push(Note { part, stage, copy });
            }
            self.0.insert(of, Said { at, copy });
        }
        notes
    }
}

fn say(note: &Note, paces: &Paces) {
    let Note { part, stage, copy } = note;
    let (table, rows, rows_estimate) = (&copy.table, copy.rows, copy.rows_estimate);
    match stage {
        Stage::Begins => tracing::info!(part, table, rows, rows_estimate, "copy of a table begins"),
        Stage::GoesOn => {
            let rate = paces.rate(part, copy);
            let (rows_a_second, seconds_left) = (rate.map(|r| r as u64), seconds_left(copy, rate));
            tracing::info!(
                part,
                table,
                rows,
                rows_estimate,
                rows_a_second,
                seconds_left,
                "copying a table"
            );
        }
        Stage::Ends => tracing::info!(part, table, rows, rows_estimate, "table copied"),
    }
}

/// Lines below the log on a terminal; gone when dropped.
pub(super) struct Bars {
    all: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Bars {
    /// None yet, at the end of standard error.
    pub(super) fn new() -> Self {
        Bars {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            lines: Vec::new(),
        }
    }

    /// Where the log goes.
    pub(super) fn above(&self) -> AboveBars {
        AboveBars(self.all.clone())
    }

    fn draw(&mut self, texts: &[String]) {
        for gone in self.lines.drain(texts.len().min(self.lines.len())..) {
            gone.finish_and_clear();
            self.all.remove(&gone);
        }
        while self.lines.len() < texts.len() {
            let style = ProgressStyle::with_template("{wide_msg}").expect("a valid template");
            let line = self.all.add(ProgressBar::new_spinner());
            line.set_style(style);
            self.lines.push(line);
        }
        for (line, text) in self.lines.iter().zip(texts) {
            line.set_message(text.clone());
            line.tick();
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.draw(&[]);
    }
}

/// Standard error above the bars: they are taken away for each piece that is written, and drawn again.
#[derive(Clone)]
pub(super) struct AboveBars(MultiProgress);

impl Write for AboveBars {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write_all(piece))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for AboveBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
