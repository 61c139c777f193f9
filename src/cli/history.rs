//! `walferry history`: prints what Kafka has of the past.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::Failure;
use super::status::{count, table};
use super::tables::patterns;
use crate::config::Settings;
use crate::error::Error;
use crate::history::{Boundary, CopyInfo, Gone, History, TableHistory, Work};
use crate::log::topics::Topics;
use crate::model::clock::POSTGRES_EPOCH_US;
use crate::model::{Lsn, Selection, TableName};

/// What to do about a table that nothing can be rebuilt of.
const REMEDY: &str = "to have the past from now on, have a copy made: walferry copy";

/// RFC 3339 has four digits for the year.
const YEAR_10000_UNIX_SECONDS: u64 = 253_402_300_800;

pub(super) async fn run(settings: &Settings, tables: &[String], json: bool) -> Result<(), Failure> {
    let chosen = patterns(tables).map_err(Failure::Usage)?;
    let topics = Topics::new(settings.pipeline.as_str());
    let read = History::read(&settings.kafka, &topics).await;
    let history = read.map_err(Failure::of)?;
    let report = Report::of(&settings.pipeline, &history, &Selection::new(&chosen, &[]));
    if !tables.is_empty() && report.tables.is_empty() {
        return Err(Failure::Usage(Error::halt(
            format!("no captured table is called {}", tables.join(" or ")),
            "walferry history without --tables shows all that are captured",
        )));
    }
    if json {
        let text = serde_json::to_string(&report).map_err(|error| {
            Failure::RunTime(Error::transient("the report cannot be printed").caused_by(error))
        })?;
        println!("{text}");
    } else {
        print!("{}", picture(&report));
    }
    if report.is_whole() {
        Ok(())
    } else {
        Err(Failure::Unhealthy)
    }
}

/// A boundary as it is printed.
#[derive(Clone, Debug, Serialize)]
struct Moment {
    lsn: Lsn,
    /// The leader's clock, RFC 3339, UTC.
    time: Option<String>,
}

impl From<Boundary> for Moment {
    fn from(boundary: Boundary) -> Self {
        Moment {
            lsn: boundary.lsn,
            time: boundary.time_us.and_then(time),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
struct CopyReport {
    copy: i64,
    point: Moment,
    rows: u64,
    usable: bool,
    newest_usable: bool,
    /// Why it is not usable.
    gone: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct TableReport {
    table: String,
    /// Kafka has all changes from here on.
    changes_from: Option<Moment>,
    /// The oldest first.
    copies: Vec<CopyReport>,
    /// A copy under way.
    running: Option<i64>,
}

impl TableReport {
    fn of(known: &TableHistory) -> Self {
        let newest = known.usable().next_back().map(|copy| copy.copy);
        let copy = |copy: &CopyInfo| CopyReport {
            copy: copy.copy,
            point: copy.point.into(),
            rows: copy.rows,
            usable: copy.gone.is_none(),
            newest_usable: newest == Some(copy.copy),
            gone: copy.gone.as_ref().map(why),
        };
        TableReport {
            table: known.table.to_string(),
            changes_from: known.changes_from.map(Moment::from),
            copies: known.copies.iter().map(copy).collect(),
            running: known.running,
        }
    }

    fn is_usable(&self) -> bool {
        self.copies.iter().any(|copy| copy.usable)
    }
}

#[derive(Clone, Debug, Serialize)]
struct Report {
    pipeline: String,
    /// All these tables can be rebuilt to any boundary from here on; none: not all of them can be.
    earliest: Option<Moment>,
    /// The log's end.
    latest: Option<Moment>,
    /// Between the two.
    transactions: Option<u64>,
    /// Between the two.
    changes: Option<u64>,
    tables: Vec<TableReport>,
}

impl Report {
    fn of(pipeline: &str, history: &History, selection: &Selection) -> Self {
        let known = history.tables.values();
        let known: Vec<&TableHistory> = known.filter(|of| selection.takes(&of.table)).collect();
        let names: BTreeSet<TableName> = known.iter().map(|of| of.table.clone()).collect();
        let earliest = history.earliest(&names);
        let work = earliest.map(|from| history.work_since(from.lsn));
        let Work {
            transactions,
            changes,
        } = work.unwrap_or_default();
        Report {
            pipeline: pipeline.to_owned(),
            earliest: earliest.map(Moment::from),
            latest: history.latest().map(Moment::from),
            transactions: work.map(|_| transactions),
            changes: work.map(|_| changes),
            tables: known.into_iter().map(TableReport::of).collect(),
        }
    }

    fn is_whole(&self) -> bool {
        !self.tables.is_empty() && self.tables.iter().all(TableReport::is_usable)
    }
}

fn why(gone: &Gone) -> String {
    match gone {
        Gone::Rows { topic, partition } => {
            format!("its rows in {topic} {partition} are gone")
        }
        Gone::Changes {
            topic,
            partition,
            up_to,
        } => format!(
            "changes behind it, up to {}, are gone from {topic} {partition}",
            up_to.lsn
        ),
    }
}

/// Microseconds since 2000-01-01 UTC as text; none for what no clock shows.
fn time(at_us: i64) -> Option<String> {
    let unix_us = u64::try_from(at_us.checked_add(POSTGRES_EPOCH_US)?).ok()?;
    let since = Duration::from_micros(unix_us);
    let is_printable = since.as_secs() < YEAR_10000_UNIX_SECONDS;
    is_printable.then(|| humantime::format_rfc3339_micros(UNIX_EPOCH + since).to_string())
}

fn moment(moment: &Moment) -> String {
    match &moment.time {
        Some(time) => format!("{} ({time})", moment.lsn),
        None => moment.lsn.to_string(),
    }
}

fn shown(moment: Option<&Moment>) -> (String, String) {
    let dash = || "-".to_owned();
    match moment {
        Some(moment) => (
            moment.lsn.to_string(),
            moment.time.clone().unwrap_or_else(dash),
        ),
        None => (dash(), dash()),
    }
}

fn picture(report: &Report) -> String {
    let mut out = String::new();
    if report.tables.is_empty() {
        let _infallible = writeln!(
            out,
            "{}: the log captures no table; the source begins it",
            report.pipeline
        );
        return out;
    }
    let mut rows = table(&["table", "copy", "point", "reached", "rows", ""]);
    for of in &report.tables {
        if of.copies.is_empty() {
            rows.add_row(vec![of.table.as_str(), "-", "-", "-", "-", "no copy"]);
        }
        for copy in &of.copies {
            let (lsn, time) = shown(Some(&copy.point));
            let state = match (copy.usable, copy.newest_usable) {
                (true, true) => "usable, the newest",
                (true, false) => "usable",
                (false, _) => "GONE",
            };
            rows.add_row(vec![
                of.table.clone(),
                copy.copy.to_string(),
                lsn,
                time,
                count(copy.rows),
                state.to_owned(),
            ]);
        }
    }
    let _infallible = writeln!(out, "{rows}");
    let mut changes = table(&["table", "has all changes from", "time"]);
    for of in &report.tables {
        let (lsn, time) = shown(of.changes_from.as_ref());
        changes.add_row(vec![of.table.clone(), lsn, time]);
    }
    let _infallible = writeln!(out, "{changes}");
    for of in &report.tables {
        out.push_str(&notes(of));
    }
    out.push_str(&verdict(report));
    out
}

/// What is to be said of a table beside its row.
fn notes(of: &TableReport) -> String {
    let mut out = String::new();
    for copy in &of.copies {
        if let Some(gone) = &copy.gone {
            let _infallible = writeln!(out, "{}: copy {}: {gone}", of.table, copy.copy);
        }
    }
    match (of.is_usable(), of.running) {
        (true, _) => {}
        (false, Some(running)) => {
            let _infallible = writeln!(
                out,
                "{}: no usable copy; copy {running} is under way",
                of.table
            );
        }
        (false, None) => {
            let _infallible = writeln!(out, "{}: no usable copy: {REMEDY}", of.table);
        }
    }
    out
}

fn verdict(report: &Report) -> String {
    let lacking = report.tables.iter().filter(|of| !of.is_usable()).count();
    let end = report
        .latest
        .as_ref()
        .map_or_else(|| "no boundary yet".to_owned(), moment);
    match &report.earliest {
        Some(earliest) => format!(
            "{}: all can be rebuilt to any boundary from {} to {end}: {} transactions, {} changes in between\n",
            report.pipeline,
            moment(earliest),
            count(report.transactions.unwrap_or(0)),
            count(report.changes.unwrap_or(0)),
        ),
        None => format!(
            "{}: NOT ALL can be rebuilt: {lacking} of {} tables have no usable copy; the log ends at {end}\n",
            report.pipeline,
            report.tables.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(id: i64, gone: Option<&str>) -> CopyReport {
        let point = Boundary {
            lsn: Lsn(0x16E_9248),
            time_us: Some(770_558_400_123_456),
        };
        CopyReport {
            copy: id,
            point: point.into(),
            rows: 12_345,
            usable: gone.is_none(),
            newest_usable: gone.is_none(),
            gone: gone.map(str::to_owned),
        }
    }

    fn report(copies: Vec<CopyReport>, running: Option<i64>) -> Report {
        let earliest = copies.iter().find(|copy| copy.usable);
        let at = |lsn| Moment {
            lsn: Lsn(lsn),
            time: None,
        };
        Report {
            pipeline: "shop".to_owned(),
            earliest: earliest.map(|copy| copy.point.clone()),
            latest: Some(at(0x16F_0000)),
            transactions: Some(7),
            changes: Some(1_234),
            tables: vec![TableReport {
                table: "public.a".to_owned(),
                changes_from: Some(at(0x16E_0000)),
                copies,
                running,
            }],
        }
    }

    fn assert_says(report: &Report, parts: &[&str]) {
        let text = picture(report);
        for part in parts {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }

    #[test]
    fn the_picture_says_how_far_back_one_can_go() {
        let whole = report(
            vec![copy(3, Some("its rows are gone")), copy(9, None)],
            None,
        );
        assert!(whole.is_whole());
        let said = [
            "12,345",
            "usable, the newest",
            "public.a: copy 3: its rows are gone",
            "0/16E0000",
            "shop: all can be rebuilt to any boundary from 0/16E9248 (2024-06-01T12:00:00.123456Z) to 0/16F0000: 7 transactions, 1,234 changes",
        ];
        assert_says(&whole, &said);
    }

    #[test]
    fn what_cannot_be_rebuilt_is_said_with_what_to_do() {
        let gone = report(vec![copy(3, Some("its rows are gone"))], None);
        assert!(!gone.is_whole());
        let said = [
            "GONE",
            "public.a: no usable copy: to have the past from now on",
            "shop: NOT ALL can be rebuilt: 1 of 1 tables",
        ];
        assert_says(&gone, &said);
        let under_way = report(Vec::new(), Some(12));
        assert_says(&under_way, &["no copy", "copy 12 is under way"]);
        assert!(!under_way.is_whole());
    }

    #[test]
    fn times_that_no_clock_shows_are_none() {
        assert_eq!(time(0).as_deref(), Some("2000-01-01T00:00:00.000000Z"));
        assert_eq!(time(i64::MAX), None);
        assert_eq!(time(i64::MAX - POSTGRES_EPOCH_US), None);
        assert_eq!(time(i64::MIN), None);
    }
}
