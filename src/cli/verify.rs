//! `walferry verify`: asks both servers, prints what was found.

use std::io::IsTerminal;
use std::time::Duration;

use super::status::{count, table};
use super::tail::patterns;
use super::{Failure, sink_names};
use crate::config::{Settings, SinkSettings, StoreSettings};
use crate::error::Error;
use crate::model::Selection;
use crate::verify::{self, Differences, Pair, Report, TableReport};

/// Keys on a line of the report.
const KEYS_SHOWN: usize = 5;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// Sinks; all if none is named.
    pub sinks: Vec<String>,
    /// Patterns of tables; all if none is given.
    pub tables: Vec<String>,
    /// Print JSON.
    pub json: bool,
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
    let sinks = chosen(settings, &asked.sinks)?;
    let tables = Selection::new(&patterns(&asked.tables).map_err(Failure::Usage)?, &[]);
    let mut reports = Vec::new();
    for sink in sinks {
        let StoreSettings::Postgres(follower) = &sink.store else {
            continue;
        };
        let pair = Pair {
            pipeline: &settings.pipeline,
            source,
            sink: &sink.name,
            selection: &Selection::new(&sink.include, &sink.exclude),
            follower,
            tables: &tables,
            patience: asked.patience,
        };
        let told = |table: &_| {
            if std::io::stderr().is_terminal() {
                eprint!("\r\x1b[2K{}: comparing {table}", sink.name);
            }
        };
        let compared = verify::run(pair, told).await;
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[2K");
        }
        let report = compared.map_err(Failure::of)?;
        if !asked.json {
            print!("{}", picture(&report));
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

fn chosen<'a>(settings: &'a Settings, names: &[String]) -> Result<Vec<&'a SinkSettings>, Failure> {
    let is_postgres = |sink: &&SinkSettings| matches!(sink.store, StoreSettings::Postgres(_));
    if names.is_empty() {
        return Ok(settings.sinks.iter().filter(is_postgres).collect());
    }
    let found = names.iter().map(|name| {
        let mut sinks = settings.sinks.iter().filter(is_postgres);
        sinks.find(|sink| sink.name == *name).ok_or_else(|| {
            Failure::Usage(Error::halt(
                format!("there is no Postgres sink {name} in connectors/"),
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
        "undecided",
        "",
    ]);
    for of in &report.tables {
        let counts = [
            of.rows,
            of.missing.count,
            of.extra.count,
            of.different.count,
            of.undecided,
        ];
        let counts = counts.map(|number| {
            if of.compared {
                count(number)
            } else {
                "-".to_owned()
            }
        });
        let [rows, missing, extra, different, undecided] = counts;
        let row = [
            of.table.clone(),
            rows,
            missing,
            extra,
            different,
            undecided,
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
        _ if !of.compared => "not compared",
        _ if of.is_equal() => "equal",
        _ if of.missing.count + of.extra.count + of.different.count == 0 => "not known",
        _ => "NOT EQUAL",
    }
}

fn keys(table: &str, what: &str, rows: &Differences) -> String {
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

    fn report() -> Report {
        let equal = TableReport {
            table: "public.a".to_owned(),
            rows: 1_234,
            compared: true,
            ..TableReport::default()
        };
        let different = Differences {
            count: 7,
            keys: (0..7)
                .map(|id| vec![id.to_string(), "x".to_owned()])
                .collect(),
        };
        let unequal = TableReport {
            table: "public.b".to_owned(),
            rows: 9,
            compared: true,
            different,
            ..TableReport::default()
        };
        let not_there = TableReport {
            table: "public.c".to_owned(),
            note: Some("the follower has no table of this name".to_owned()),
            ..TableReport::default()
        };
        Report {
            sink: "dw".to_owned(),
            tables: vec![equal, unequal, not_there],
        }
    }

    #[test]
    fn the_picture_counts_and_names_keys() {
        let text = picture(&report());
        for part in [
            "1,234",
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
        report.tables[0].undecided = 1;
        assert!(!report.is_equal());
        assert!(picture(&report).contains("not known"));
    }
}
