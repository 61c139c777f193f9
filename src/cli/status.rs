//! `walferry status`: asks a running walferry and prints what it says.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use comfy_table::{ContentArrangement, Table, presets};

use super::Failure;
use super::ask::{fetch, parse};
use super::progress::{Paces, PartCopies};
use crate::config::values::print_size;
use crate::http::{SinkReport, SourceReport, StatusReport, print_span};
use crate::model::Lsn;
use crate::status::{CopyProgress, LastError, State};

/// Time between two pictures of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(address: &str, watch: bool, json: bool) -> Result<(), Failure> {
    let mut before: Option<(Instant, StatusReport)> = None;
    let mut paces = Paces::default();
    let bars = watch && std::io::stdout().is_terminal();
    loop {
        let answer = fetch(address).await;
        let at = Instant::now();
        let answer = match answer {
            Ok(answer) => answer,
            // One that is restarting comes back.
            Err(error) if watch && before.is_some() => {
                show(true, &format!("error: {}\n", error.what()));
                tokio::time::sleep(WATCH_EVERY).await;
                continue;
            }
            Err(error) => return Err(Failure::RunTime(error)),
        };
        let report = parse(address, &answer).map_err(Failure::RunTime)?;
        if json {
            println!("{}", answer.trim_end());
        } else {
            let rates = before.as_ref().map(|(then, old)| Rates {
                seconds: (at - *then).as_secs_f64().max(0.001),
                old,
            });
            paces.see(&copies(&report), at);
            let paces = bars.then_some(&paces);
            show(watch, &picture(&report, rates.as_ref(), paces));
        }
        if !watch {
            return if unwell(&report) {
                Err(Failure::Unhealthy)
            } else {
                Ok(())
            };
        }
        before = Some((at, report));
        tokio::time::sleep_until((at + WATCH_EVERY).into()).await;
    }
}

fn show(clear: bool, text: &str) {
    let clear = clear && std::io::stdout().is_terminal();
    print!("{}{text}", if clear { "\x1b[H\x1b[2J" } else { "" });
    // Nobody to show it to is no reason to fail.
    let _ = std::io::Write::flush(&mut std::io::stdout());
}

fn unwell(report: &StatusReport) -> bool {
    let bad = |state: State| matches!(state, State::Halted | State::Fenced);
    report.source.iter().any(|s| bad(s.view.state))
        || report.sinks.iter().any(|s| bad(s.view.state))
}

/// What rates are counted from.
struct Rates<'a> {
    seconds: f64,
    old: &'a StatusReport,
}

impl Rates<'_> {
    fn a_second(&self, now: u64, then: u64) -> String {
        count((now.saturating_sub(then) as f64 / self.seconds).round() as u64) + "/s"
    }
}

/// All copies that a report tells of: the source's first, then those of each sink.
fn copies(report: &StatusReport) -> Vec<PartCopies> {
    let of = |part: &str, copies: &[CopyProgress]| PartCopies {
        part: part.to_owned(),
        copies: copies.to_vec(),
    };
    let source = report.source.iter();
    let source = source.map(|source| of(&source.name, &source.view.copies));
    let sinks = report.sinks.iter();
    let sinks = sinks.map(|sink| of(&sink.name, &sink.view.copies));
    source.chain(sinks).collect()
}

/// What is shown. With `paces` copies are bars.
fn picture(report: &StatusReport, rates: Option<&Rates<'_>>, paces: Option<&Paces>) -> String {
    let mut out = format!(
        "pipeline {}  walferry {}\n{}\n",
        report.pipeline, report.version, report.verdict.headline
    );
    if let Some(source) = &report.source {
        let _ = writeln!(out, "{}", source_table(source, rates));
    }
    if !report.sinks.is_empty() {
        let _ = writeln!(out, "{}", sink_table(&report.sinks, rates));
    }
    for part in copies(report) {
        let lines = match paces {
            Some(paces) => part.bars(paces),
            None => part
                .copies
                .iter()
                .filter_map(|copy| copy_line(&part.part, copy))
                .collect(),
        };
        for line in lines {
            let _ = writeln!(out, "{line}");
        }
    }
    if let Some(source) = &report.source {
        if source.view.copies_paused {
            let name = &source.name;
            let _ = writeln!(
                out,
                "{name}: copies are paused; walferry copy --resume lets them go on"
            );
        }
        last_error(&mut out, &source.name, source.view.last_error.as_ref());
    }
    for sink in &report.sinks {
        if let Some((now, later)) = sink.view.building.split_first() {
            let (name, later) = (&sink.name, later.len());
            let _ = writeln!(
                out,
                "{name}: building an index of {now}; {later} more to build"
            );
        }
        last_error(&mut out, &sink.name, sink.view.last_error.as_ref());
        if sink.view.skipped > 0 {
            let _ = writeln!(
                out,
                "{}: its follower lacks what was passed over by order, in all {} (table walferry.skips there)",
                sink.name,
                count(sink.view.skipped)
            );
        }
    }
    out
}

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.to_vec());
    table
}

fn source_table(source: &SourceReport, rates: Option<&Rates<'_>>) -> Table {
    let view = &source.view;
    let mut table = table(&[
        "source",
        "state",
        "leader flush",
        "received",
        "published",
        "confirmed",
        "slot keeps",
        "epoch",
        "transactions",
        "changes",
    ]);
    let then = rates.and_then(|r| r.old.source.as_ref().map(|s| (r, &s.view)));
    let (transactions, changes) = match then {
        Some((rates, old)) => (
            rates.a_second(view.transactions, old.transactions),
            rates.a_second(view.changes, old.changes),
        ),
        None => (count(view.transactions), count(view.changes)),
    };
    table.add_row(vec![
        source.name.clone(),
        view.state.name().to_owned(),
        lsn(view.leader_flush),
        lsn(view.received),
        lsn(view.published),
        lsn(view.confirmed),
        view.slot
            .and_then(|slot| slot.retained_bytes)
            .map_or_else(unknown, print_size),
        view.epoch.map_or_else(unknown, |epoch| epoch.to_string()),
        transactions,
        changes,
    ]);
    table
}

fn sink_table(sinks: &[SinkReport], rates: Option<&Rates<'_>>) -> Table {
    let mut table = table(&[
        "sink",
        "state",
        "applied",
        "lag",
        "lag seconds",
        "staleness",
        "transactions",
        "changes",
        "rows",
        "retries",
    ]);
    for sink in sinks {
        let view = &sink.view;
        let then = rates.and_then(|r| {
            let old = r.old.sinks.iter().find(|old| old.name == sink.name);
            old.map(|old| (r, &old.view))
        });
        let counts = match then {
            Some((rates, old)) => [
                rates.a_second(view.transactions, old.transactions),
                rates.a_second(view.changes, old.changes),
                rates.a_second(view.rows.total(), old.rows.total()),
            ],
            None => [view.transactions, view.changes, view.rows.total()].map(count),
        };
        let [transactions, changes, rows] = counts;
        table.add_row(vec![
            sink.name.clone(),
            view.state.name().to_owned(),
            lsn(view.applied),
            sink.lag.bytes.map_or_else(unknown, print_size),
            sink.lag.seconds.map_or_else(unknown, print_span),
            sink.lag.staleness_seconds.map_or_else(unknown, print_span),
            transactions,
            changes,
            rows,
            count(view.retries),
        ]);
    }
    table
}

/// How far a copy is, unless it is done.
fn copy_line(part: &str, copy: &CopyProgress) -> Option<String> {
    let of = copy.rows_estimate;
    let of = of.map_or_else(String::new, |rows| format!(" of about {}", count(rows)));
    let rows = count(copy.rows);
    (!copy.done).then(|| format!("{part}: copying {}: {rows}{of} rows", copy.table))
}

fn last_error(out: &mut String, part: &str, error: Option<&LastError>) {
    let Some(error) = error else { return };
    let at = Duration::from_secs(error.at_unix_seconds);
    let at = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + at);
    let _ = writeln!(out, "{part}: last error, {at}: {}", error.what);
    if let Some(remedy) = &error.remedy {
        let _ = writeln!(out, "  remedy: {remedy}");
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn lsn(lsn: Option<Lsn>) -> String {
    lsn.map_or_else(unknown, |lsn| lsn.to_string())
}

/// A number with thin groups of three: `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Level, Verdict};
    use crate::lag::Lag;
    use crate::status::{SinkView, SourceView};

    fn report() -> StatusReport {
        StatusReport {
            version: "0.1.0".to_owned(),
            pipeline: "shop".to_owned(),
            now_unix_seconds: 0.0,
            verdict: Verdict {
                level: Level::Bad,
                headline: "Follower dw has halted".to_owned(),
                facts: vec![],
            },
            source: Some(SourceReport {
                name: "leader".to_owned(),
                since_unix_seconds: None,
                unpublished_bytes: None,
                view: SourceView {
                    state: State::Streaming,
                    transactions: 1000,
                    ..SourceView::default()
                },
            }),
            sinks: vec![SinkReport {
                name: "dw".to_owned(),
                standing: Level::Bad,
                since_unix_seconds: None,
                view: SinkView {
                    state: State::Halted,
                    applied: Some(Lsn(0x16_B374_D848)),
                    last_error: Some(LastError {
                        what: "table public.a diverged".to_owned(),
                        remedy: Some("rebuild it".to_owned()),
                        at_unix_seconds: 0,
                    }),
                    ..SinkView::default()
                },
                lag: Lag {
                    bytes: Some(1536),
                    seconds: Some(1.25),
                    staleness_seconds: None,
                    ..Lag::default()
                },
            }],
            not_ready: vec![],
        }
    }

    #[test]
    fn the_picture_shows_positions_lag_and_the_last_error_with_its_remedy() {
        let text = picture(&report(), None, None);
        for part in [
            "Follower dw has halted",
            "leader",
            "streaming",
            "16/B374D848",
            "1.5 KiB",
            "1.2 s",
            "unknown",
            "halted",
            "dw: last error, 1970-01-01T00:00:00Z: table public.a diverged",
            "remedy: rebuild it",
        ] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
        assert!(unwell(&report()));
    }

    #[test]
    fn rates_are_differences_by_time() {
        let old = report();
        let mut new = report();
        if let Some(source) = &mut new.source {
            source.view.transactions += 3000;
        }
        let rates = Rates {
            seconds: 2.0,
            old: &old,
        };
        assert!(picture(&new, Some(&rates), None).contains("1,500/s"));
    }

    #[test]
    fn a_watched_copy_is_a_bar_with_the_time_left() {
        let (mut report, begun) = (report(), Instant::now());
        let mut paces = Paces::default();
        let mut shown = String::new();
        for seconds in 0..3 {
            if let Some(source) = &mut report.source {
                source.view.copies = vec![CopyProgress {
                    table: "public.t".to_owned(),
                    rows: 1000 + 500 * seconds,
                    rows_estimate: Some(8000),
                    done: false,
                }];
            }
            paces.see(&copies(&report), begun + Duration::from_secs(seconds));
            shown = picture(&report, None, Some(&paces));
        }
        let bar = "leader: public.t [█████░░░░░░░░░░░░░░░]  25%  500 rows/s  12s left";
        assert!(shown.contains(bar), "{shown}");
        let plain = picture(&report, None, None);
        assert!(!plain.contains("paused"), "{plain}");
        let line = "leader: copying public.t: 2,000 of about 8,000 rows\n";
        assert!(plain.contains(line), "{plain}");
        if let Some(source) = &mut report.source {
            source.view.copies_paused = true;
        }
        let plain = picture(&report, None, None);
        assert!(plain.contains("leader: copies are paused"), "{plain}");
    }
}
