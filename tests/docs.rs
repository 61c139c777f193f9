//! The reference pages list exactly what the code has.

use std::collections::BTreeSet;

use clap::CommandFactory;
use walferry::cli::Cli;
use walferry::config::all_keys;
use walferry::http::{HEADROOM_BAD_SECONDS, LAG_BAD_SECONDS, LAG_WATCH_SECONDS};
use walferry::log::topics::Topics;
use walferry::metrics;
use walferry::model::TableName;

fn page(name: &str) -> String {
    let path = format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// First cells of the tables' rows, without backquotes, in the section under `## heading`
/// (all sections when it is empty).
fn listed(page: &str, heading: &str) -> Vec<String> {
    let mut inside = heading.is_empty();
    let mut found = Vec::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            inside = heading.is_empty() || title == heading;
        }
        if let Some(rest) = line.strip_prefix("| `").filter(|_| inside) {
            found.extend(rest.split_once('`').map(|(name, _)| name.to_owned()));
        }
    }
    found
}

/// A mapping of types stands in its module's head, and on the page.
#[test]
fn the_page_of_stores_has_the_mappings_of_types_as_the_code_has_them() {
    let page = page("sinks.md");
    for store in ["clickhouse", "mysql"] {
        let path = format!("{}/src/sink/{store}/types.rs", env!("CARGO_MANIFEST_DIR"));
        let code = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let rows = code.lines().filter_map(|line| line.strip_prefix("//! | "));
        let rows: Vec<&str> = rows.collect();
        assert!(rows.len() > 10, "{path} has a table");
        for row in rows {
            let row = row.replace("[`json`](super::json)", "below");
            assert!(page.contains(&row), "{store}: {row}");
        }
    }
}

#[test]
fn the_configuration_page_lists_every_key_and_no_other() {
    let page = page("configuration.md");
    let keys = all_keys();
    let files: BTreeSet<&str> = keys.iter().map(|(file, _)| *file).collect();
    assert_eq!(files.len(), 6, "{files:?}");
    for file in files {
        let known: BTreeSet<String> = keys
            .iter()
            .filter(|(of, _)| *of == file)
            .map(|(_, key)| key.clone())
            .collect();
        let documented: BTreeSet<String> = listed(&page, file).into_iter().collect();
        assert_eq!(documented, known, "section {file}");
    }
}

/// What stands behind a word at the beginnings of a file's lines, such as `expr:`.
fn after<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let lines = text.lines().map(str::trim_start);
    lines.filter_map(|line| line.strip_prefix(word)).collect()
}

fn rules(file: &str) -> String {
    let path = format!("{}/grafana/prometheus/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Asserts that expressions of rules name metrics that there are.
fn assert_known_metrics(rules: &str) {
    for expr in after(rules, "expr:") {
        for name in words(expr).filter(|word| word.starts_with("walferry_")) {
            let histogram = name.strip_suffix("_bucket");
            let known = metrics::ALL.iter().any(|metric| {
                let of_histogram = metric.kind == metrics::Kind::Histogram;
                metric.name == name || (of_histogram && Some(metric.name) == histogram)
            });
            assert!(known, "{name} in {expr}");
        }
    }
}

/// The words of a text, where names hold letters, digits and `_`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

#[test]
fn alert_rules_name_metrics_that_there_are_and_each_alert_has_its_section() {
    let rules = rules("alerts.yml");
    let page = page("operations.md");
    assert_known_metrics(&rules);
    let alerts = after(&rules, "- alert: ");
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in &alerts {
        let runbook = format!("runbook: docs/operations.md#{}", alert.to_lowercase());
        assert!(rules.contains(&runbook), "{alert}");
    }
    let sections: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .filter(|title| title.starts_with("Walferry"))
        .collect();
    assert_eq!(sections, alerts);
}

#[test]
fn the_status_page_calls_a_follower_behind_when_the_alerts_do() {
    let rules = rules("alerts.yml");
    for (metric, sign, threshold) in [
        ("walferry_sink_lag_seconds", '>', LAG_WATCH_SECONDS),
        ("walferry_sink_lag_seconds", '>', LAG_BAD_SECONDS),
        (
            "walferry_sink_retention_headroom_seconds",
            '<',
            HEADROOM_BAD_SECONDS,
        ),
    ] {
        let rule = format!("'{metric} {sign} {threshold}'");
        assert!(rules.contains(&rule), "{rule}");
    }
}

#[test]
fn recording_rules_name_metrics_that_there_are_and_the_page_lists_them() {
    let rules = rules("recording.yml");
    assert_known_metrics(&rules);
    let recorded = after(&rules, "- record: ");
    assert!(recorded.len() > 5, "{recorded:?}");
    for name in &recorded {
        let parts: Vec<&str> = name.split(':').collect();
        assert_eq!(parts.len(), 3, "{name} is not level:metric:operation");
    }
    assert_eq!(listed(&page("operations.md"), "Recording rules"), recorded);
}

#[test]
fn the_metrics_page_lists_every_metric_as_the_code_describes_it() {
    let page = page("metrics.md");
    for metric in metrics::ALL {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", metric.name)))
            .unwrap_or_else(|| panic!("{} is not listed", metric.name));
        let kind = match metric.kind {
            metrics::Kind::Counter => "counter",
            metrics::Kind::Gauge => "gauge",
            metrics::Kind::Histogram => "histogram",
        };
        let cells: Vec<&str> = row.split(" | ").collect();
        assert_eq!(cells[1], kind, "{}", metric.name);
        assert_eq!(cells[2], metric.unit.as_str(), "{}", metric.name);
        for label in metric.labels {
            assert!(
                cells[3].contains(&format!("`{label}`")),
                "{}: {label}",
                metric.name
            );
        }
        assert!(row.contains(metric.help), "{}: {row}", metric.name);
    }
    let known: BTreeSet<String> = metrics::ALL.iter().map(|m| m.name.to_owned()).collect();
    let documented: BTreeSet<String> = listed(&page, "").into_iter().collect();
    assert_eq!(documented, known);
}

#[test]
fn the_operations_page_names_only_metrics_that_exist() {
    let page = page("operations.md");
    let names = metrics::ALL.iter().map(|m| m.name);
    let known: BTreeSet<&str> = names.collect();
    let recorded = rules("recording.yml");
    let recorded = after(&recorded, "- record: ").join("\n");
    for word in words(&page).filter(|word| !words(&recorded).any(|name| name == *word)) {
        if word.starts_with("walferry_sink_") || word.starts_with("walferry_source_") {
            assert!(known.contains(word), "{word}");
        }
    }
}

/// Commands that do something, with those they are part of.
fn commands(of: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
    let parts = || {
        of.get_subcommands()
            .filter(|part| part.get_name() != "help")
    };
    if parts().next().is_none() {
        found.insert(path.to_owned());
    }
    for part in parts() {
        commands(part, &format!("{path} {}", part.get_name()), found);
    }
}

#[test]
fn the_operations_page_lists_every_command_and_no_other() {
    let mut known = BTreeSet::new();
    commands(&Cli::command(), "walferry", &mut known);
    assert!(known.contains("walferry run"), "{known:?}");
    let listed: BTreeSet<String> = listed(&page("operations.md"), "Commands")
        .into_iter()
        .collect();
    assert_eq!(listed, known);
}

#[test]
fn the_format_page_lists_every_topic() {
    let topics = Topics::new("P");
    let table = TableName::new("<schema>", "<table>");
    let of_tables = [topics.table(&table), topics.copy(&table)]
        .map(|topic| topic.replace("-3c", "<").replace("-3e", ">"));
    let own = [topics.commits(), topics.schemas(), topics.progress()];
    let known: BTreeSet<String> = own.into_iter().chain(of_tables).collect();
    let page = page("event-format.md");
    let (head, _rest) = page.split_once("\n## ").expect("sections");
    assert_eq!(listed(head, "").into_iter().collect::<BTreeSet<_>>(), known);
}
