//! `walferry check`: everything that can be known before starting, as passes, warnings and failures
//! with remedies. Looks through ordinary connections and changes nothing.
//!
//! Each part is looked at by its own module, which reads facts and hands them to pure judges.

mod follower;
mod kafka;
mod leader;

use std::fmt;
use std::io::IsTerminal;

use comfy_table::{ContentArrangement, Table, presets};

use crate::config::{Settings, StoreSettings};
use crate::model::TableSchema;
use crate::sink::look::{failure, pass, warning};
use crate::sink::{self, Verdict};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it must be.
    Pass,
    /// It works, but somebody should know.
    Warning,
    /// It would not work, or would lose data.
    Failure,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Pass => "ok",
            Outcome::Warning => "warning",
            Outcome::Failure => "FAILED",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whose: `settings`, `kafka`, or a connector's name.
    pub part: String,
    /// What was looked at.
    pub subject: String,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// Everything that was looked at, in order.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The findings.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether anything failed.
    pub fn failed(&self) -> bool {
        self.count(Outcome::Failure) > 0
    }

    fn part<'a>(&'a mut self, name: &'a str) -> Part<'a> {
        Part {
            name,
            findings: &mut self.findings,
        }
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.findings
            .iter()
            .filter(|f| f.outcome == outcome)
            .count()
    }
}

/// Findings of one part.
struct Part<'a> {
    name: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl Part<'_> {
    fn add(&mut self, subject: &str, verdict: Verdict) {
        let (outcome, found, remedy) = match verdict {
            Verdict::Pass(found) => (Outcome::Pass, found, None),
            Verdict::Warning(found, remedy) => (Outcome::Warning, found, Some(remedy)),
            Verdict::Failure(found, remedy) => (Outcome::Failure, found, Some(remedy)),
        };
        self.findings.push(Finding {
            part: self.name.to_owned(),
            subject: subject.to_owned(),
            outcome,
            found,
            remedy,
        });
    }
}

/// What the leader told that others are compared with.
#[derive(Debug, Default)]
struct LeaderFacts {
    /// Its system identifier and database, to notice a follower that is the leader.
    identity: Option<(String, String)>,
    /// Tables that will be captured.
    tables: Vec<TableSchema>,
}

/// Looks at everything the settings name.
pub async fn run(settings: &Settings) -> Report {
    let mut report = Report::default();
    let mut connectors: Vec<&str> = settings.sinks.iter().map(|s| s.name.as_str()).collect();
    connectors.extend(settings.source.iter().map(|s| s.name.as_str()));
    connectors.sort_unstable();
    let read = format!("pipeline {}: {}", settings.pipeline, connectors.join(", "));
    report.part("settings").add("files", pass(read));
    let mut facts = LeaderFacts::default();
    if let Some(source) = &settings.source {
        facts = leader::look(source, &mut report.part(&source.name)).await;
    }
    kafka::look(settings, &facts, &mut report.part("kafka")).await;
    for sink_settings in &settings.sinks {
        match &sink_settings.store {
            StoreSettings::Postgres(store) => {
                let mut part = report.part(&sink_settings.name);
                follower::look(sink_settings, store, &facts, &mut part).await;
            }
            StoreSettings::ClickHouse(_) | StoreSettings::MySql(_) => {
                let looked = sink::look(sink_settings, &facts.tables).await;
                let mut part = report.part(&sink_settings.name);
                for (subject, verdict) in looked.into_iter().flatten() {
                    part.add(subject, verdict);
                }
            }
            StoreSettings::Stdout(_) => report
                .part(&sink_settings.name)
                .add("store", pass("standard output")),
        }
    }
    report
}

/// A server's version as people write it, from `server_version_num`.
fn version_text(number: i32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

/// Oldest Postgres that is supported, in both roles.
const OLDEST_MAJOR: i32 = 14;
/// Newest Postgres that this version has been tested with.
const NEWEST_MAJOR: i32 = 18;

fn judge_version(number: i32) -> Verdict {
    let (major, text) = (number / 10_000, version_text(number));
    if major < OLDEST_MAJOR {
        failure(
            format!("Postgres {text}"),
            format!("upgrade it: walferry needs Postgres {OLDEST_MAJOR} or newer"),
        )
    } else if major > NEWEST_MAJOR {
        warning(
            format!("Postgres {text}"),
            format!(
                "newer than what this walferry was tested with ({NEWEST_MAJOR}): try it on a copy first"
            ),
        )
    } else {
        pass(format!("Postgres {text}"))
    }
}

fn judge_encoding(encoding: &str) -> Verdict {
    match encoding {
        "UTF8" => pass("UTF8"),
        "SQL_ASCII" => failure(
            "SQL_ASCII: the server does not know what its bytes mean",
            "dump the database and restore it into one with ENCODING 'UTF8'",
        ),
        other => failure(
            format!("{other}: text would have to be converted, which is not exact for every value"),
            "dump the database and restore it into one with ENCODING 'UTF8'",
        ),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if std::io::stdout().is_terminal() {
            self.table(f)?;
        } else {
            self.lines(f)?;
        }
        writeln!(
            f,
            "{} ok, {} warnings, {} failed",
            self.count(Outcome::Pass),
            self.count(Outcome::Warning),
            self.count(Outcome::Failure)
        )
    }
}

impl Report {
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_HORIZONTAL_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(vec!["part", "check", "", "found"]);
        for finding in &self.findings {
            let mut found = finding.found.clone();
            if let Some(remedy) = &finding.remedy {
                found.push_str(&format!("\nremedy: {remedy}"));
            }
            table.add_row(vec![
                finding.part.as_str(),
                &finding.subject,
                finding.outcome.name(),
                &found,
            ]);
        }
        writeln!(f, "{table}")
    }

    /// One finding a line, for files and `grep`.
    fn lines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let name = finding.outcome.name();
            write!(
                f,
                "{name:8}{} {}: {}",
                finding.part, finding.subject, finding.found
            )?;
            match &finding.remedy {
                Some(remedy) => writeln!(f, "; remedy: {remedy}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_encodings_are_judged() {
        assert_eq!(judge_version(180_006), pass("Postgres 18.6"));
        assert!(matches!(judge_version(130_011), Verdict::Failure(..)));
        assert!(matches!(judge_version(190_000), Verdict::Warning(..)));
        assert!(matches!(judge_encoding("UTF8"), Verdict::Pass(_)));
        assert!(matches!(judge_encoding("SQL_ASCII"), Verdict::Failure(..)));
    }

    #[test]
    fn a_report_prints_remedies_and_counts() {
        let mut report = Report::default();
        let mut part = Part {
            name: "leader",
            findings: &mut report.findings,
        };
        part.add("version", pass("Postgres 18.6"));
        part.add("wal_level", failure("replica", "set it"));
        assert!(report.failed());
        let text = report.to_string();
        assert!(
            text.contains("FAILED  leader wal_level: replica; remedy: set it"),
            "{text}"
        );
        assert!(text.ends_with("1 ok, 0 warnings, 1 failed\n"), "{text}");
    }
}
