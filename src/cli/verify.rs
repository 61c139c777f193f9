//! `walferry verify`: asks both servers, prints what was found.

use std::io::IsTerminal;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::bar::{Bar, Done};
use super::rebuild;
use super::status::{count, table};
use super::tables::patterns;
use super::{Failure, sink_names};
use crate::config::{Settings, SinkSettings};
use crate::error::Error;
use crate::model::{Selection, TableName};
use crate::verify::{self, Differences, Progress, Report, TableReport};

/// Keys on a line of the report.
const KEYS_SHOWN: usize = 5;
/// How often the bar is drawn, at most.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// Sinks; all if none is named.
    pub sinks: Vec<String>,
    /// Patterns of tables; all if none is given.
    pub tables: Vec<String>,
    /// Print JSON.
    pub json: bool,
    /// Have tables that differ copied anew.
    pub repair: bool,
    /// Rows of each server that are read a second, at most; none: what the sink's settings say.
    pub max_rows_per_second: Option<NonZeroU64>,
    /// Longest wait for a follower.
    pub patience: Duration,
}

pub(super) async fn run(settings: &Settings, asked: &Asked) -> Result<(), Failure> {
    let Some(source) = &settings.source else {
        return Err(Failure::Usage(Error::halt(
            "there is no source in connectors/, so no leader to compare with",
            "name the directory that has it with --connectors: verify reads the leader",
        )));
    };
    if asked.repair && !source.copy {
        return Err(Failure::Usage(Error::halt(
            format!(
                "the source {} makes no copies (copy.enabled = false), and --repair needs one",
                source.name
            ),
            "let it make copies, or use walferry resync, which takes the newest copy that is there",
        )));
    }
    let tables = Selection::new(&patterns(&asked.tables).map_err(Failure::Usage)?, &[]);
    let mut reports = Vec::new();
    for sink in chosen(settings, &asked.sinks)? {
        let rate = asked.max_rows_per_second;
        let pair = verify::Asked {
            pipeline: &settings.pipeline,
            source,
            sink,
            selection: &Selection::new(&sink.include, &sink.exclude),
            tables: &tables,
            patience: asked.patience,
            max_rows_per_second: rate.or(sink.verify().max_rows_per_second),
        };
        let mut report = compare(pair, asked).await?;
        if asked.repair {
            report = repair(settings, pair, asked, report).await?;
        }
        reports.push(report);
    }
    if asked.json {
        let text = serde_json::to_string(&reports).map_err(|error| {
            Failure::RunTime(Error::transient("the report cannot be printed").caused_by(error))
        })?;
        println!("{text}");
    }
    if reports.iter().all(Report::is_equal) {
        Ok(())
    } else {
        Err(Failure::Unhealthy)
    }
}

/// Compares, with a bar on a terminal, and prints what was found.
async fn compare(pair: verify::Asked<'_>, asked: &Asked) -> Result<Report, Failure> {
    let bar = Mutex::new((Bar::new("rows"), None::<Instant>));
    let told = |progress: Progress<'_>| {
        let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
        let (bar, drawn_at) = &mut *bar;
        let now = Instant::now();
        if !std::io::stderr().is_terminal() || drawn_at.is_some_and(|at| now - at < DRAW_EVERY) {
            return;
        }
        *drawn_at = Some(now);
        let done = Done {
            done: progress.rows,
            total: progress.rows_estimate,
        };
        bar.show(&under_way(&pair.sink.name, progress), done, "comparing");
    };
    let compared = verify::run(pair, &told).await;
    bar.into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .0
        .clear();
    let report = compared.map_err(Failure::of)?;
    if !asked.json {
        print!("{}", picture(&report));
    }
    Ok(report)
}

/// Has tables that differ copied anew, and compares those again.
///
/// The source makes the copy now. One that is in Kafka already would do where somebody has written to the
/// follower. It would not where the leader's rows changed without a change in the log, as by an ALTER TABLE
/// that rewrites them, nor where the log itself is wrong; and a comparison has just read the table as a whole,
/// so the leader can bear that once more.
async fn repair(
    settings: &Settings,
    pair: verify::Asked<'_>,
    asked: &Asked,
    report: Report,
) -> Result<Report, Failure> {
    for of in report.left_alone() {
        eprintln!(
            "{}: {} is not repaired: it could not be compared",
            pair.sink.name, of.table
        );
    }
    let tables = report.repairable();
    if tables.is_empty() {
        return Ok(report);
    }
    let order = rebuild::Asked {
        sink: pair.sink.name.clone(),
        what: rebuild::What::Resync {
            tables: rebuild::Tables::These(tables.clone()),
            fresh: true,
        },
        target: None,
        detach: false,
    };
    rebuild::run(settings, order).await?;
    let again = verify::Asked {
        tables: &Selection::of(tables),
        ..pair
    };
    Ok(report.repaired(compare(again, asked).await?))
}

/// `warehouse: public.items (3 of 12 tables)`
fn under_way(sink: &str, progress: Progress<'_>) -> String {
    let Progress {
        table,
        tables_done,
        tables,
        ..
    } = progress;
    format!("{sink}: {table} ({} of {tables} tables)", tables_done + 1)
}

fn chosen<'a>(settings: &'a Settings, names: &[String]) -> Result<Vec<&'a SinkSettings>, Failure> {
    let is_follower = |sink: &&SinkSettings| sink.is_follower();
    if names.is_empty() {
        return Ok(settings.sinks.iter().filter(is_follower).collect());
    }
    let found = names.iter().map(|name| {
        let mut sinks = settings.sinks.iter().filter(is_follower);
        sinks.find(|sink| sink.name == *name).ok_or_else(|| {
            Failure::Usage(Error::halt(
                format!("there is no sink {name} with a follower in connectors/"),
                format!("name one of: {}", sink_names(settings)),
            ))
        })
    });
    found.collect()
}

fn picture(report: &Report) -> String {
    let mut table = table(&[
        "table",
        "rows",
        "missing",
        "extra",
        "different",
        "boundary",
        "",
    ]);
    for of in &report.tables {
        let counts = [
            of.rows,
            of.missing.count,
            of.extra.count,
            of.different.count,
        ];
        let counts = counts.map(|number| {
            if of.compared() {
                count(number)
            } else {
                "-".to_owned()
            }
        });
        let [rows, missing, extra, different] = counts;
        let boundary = of.boundary.map(|lsn| lsn.to_string());
        let row = [
            of.table.to_string(),
            rows,
            missing,
            extra,
            different,
            boundary.unwrap_or_default(),
            verdict(of).to_owned(),
        ];
        table.add_row(row.to_vec());
    }
    let mut out = format!("{}\n{table}\n", report.sink);
    for of in &report.tables {
        if let Some(note) = &of.note {
            out.push_str(&format!("{}: {note}\n", of.table));
        }
        for (what, rows) in [
            ("the follower lacks", &of.missing),
            ("only the follower has", &of.extra),
            ("not the same", &of.different),
        ] {
            out.push_str(&keys(&of.table, what, rows));
        }
    }
    let unequal = report.tables.iter().filter(|of| !of.is_equal()).count();
    out.push_str(&match unequal {
        0 => format!("EQUAL: {} holds what the leader holds\n", report.sink),
        _ => format!(
            "NOT EQUAL, or not known: {unequal} of {} tables\n",
            report.tables.len()
        ),
    });
    out
}

fn verdict(of: &TableReport) -> &'static str {
    match of {
        _ if !of.compared() => "not compared",
        _ if of.is_equal() => "equal",
        _ => "NOT EQUAL",
    }
}

fn keys(table: &TableName, what: &str, rows: &Differences) -> String {
    if rows.keys.is_empty() {
        return String::new();
    }
    let shown = rows.keys.iter().take(KEYS_SHOWN);
    let shown: Vec<String> = shown.map(|key| format!("({})", key.join(", "))).collect();
    let more = match rows.count as usize - shown.len() {
        0 => String::new(),
        more => format!(" and {} more", count(more as u64)),
    };
    format!("{table}: {what} {}{more}\n", shown.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Lsn;

    fn of(table: &str) -> TableReport {
        TableReport::of(&TableName::new("public", table))
    }

    fn report() -> Report {
        let equal = TableReport {
            rows: 1_234,
            boundary: Some(Lsn(0xA7)),
            ..of("a")
        };
        let different = Differences {
            count: 7,
            keys: (0..7)
                .map(|id| vec![id.to_string(), "x".to_owned()])
                .collect(),
        };
        let unequal = TableReport {
            rows: 9,
            boundary: Some(Lsn(0xA7)),
            different,
            ..of("b")
        };
        let not_there = TableReport {
            note: Some("the follower has no table of this name".to_owned()),
            ..of("c")
        };
        Report {
            sink: "dw".to_owned(),
            tables: vec![equal, unequal, not_there],
            before_repair: Vec::new(),
        }
    }

    #[test]
    fn the_bar_says_which_table_of_how_many() {
        let progress = Progress {
            table: &TableName::new("public", "items"),
            tables_done: 2,
            tables: 12,
            rows: 0,
            rows_estimate: 0,
        };
        let text = under_way("dw", progress);
        assert_eq!(text, "dw: public.items (3 of 12 tables)");
    }

    #[test]
    fn the_picture_counts_and_names_keys() {
        let text = picture(&report());
        for part in [
            "1,234",
            "0/A7",
            "equal",
            "NOT EQUAL",
            "not compared",
            "public.b: not the same (0, x) (1, x) (2, x) (3, x) (4, x) and 2 more",
            "public.c: the follower has no table of this name",
            "NOT EQUAL, or not known: 2 of 3 tables",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }

    #[test]
    fn equal_is_only_what_was_compared() {
        let mut report = report();
        report.tables.truncate(1);
        assert!(picture(&report).contains("EQUAL: dw holds what the leader holds"));
        report.tables[0].boundary = None;
        assert!(!report.is_equal());
        assert!(picture(&report).contains("NOT EQUAL, or not known: 1 of 1 tables"));
    }
}
