//! Standard output as a store of the suite: what it holds is what its lines, taken one after the other, make.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use walferry::killpoint::Point;

use crate::store::{NULL, SEPARATOR, Store, Table, Type, Unheld, printed};

/// Nothing but a name.
pub struct Stdout;

/// A line. Values stay as they are written: a number of JSON would not keep all digits.
#[derive(Deserialize)]
struct Line {
    op: String,
    table: String,
    before: Option<Row>,
    after: Option<Row>,
}

type Row = BTreeMap<String, Box<RawValue>>;

impl Store for Stdout {
    const UNHELD: &'static [Unheld] = &[];
    const POINTS: &'static [(Point, u32)] = &[];
    const INTEGER: &'static str = "bigint";

    async fn start() -> Self {
        Stdout
    }

    fn connector(&self) -> String {
        "kind = \"stdout\"\nfrom = \"earliest\"\n".to_owned()
    }

    async fn elsewhere(&self, _database: &str) -> String {
        unreachable!("there is one standard output")
    }

    fn crash_and_restart(&mut self) {
        unreachable!("standard output has no server")
    }

    fn stop(&mut self) {
        unreachable!("standard output has no server")
    }

    fn start_again(&mut self) {
        unreachable!("standard output has no server")
    }

    async fn sql(&self, _statement: &str) {
        unreachable!("standard output takes no statements")
    }

    async fn numbers(&self, _query: &str) -> Result<Vec<i64>, String> {
        unreachable!("standard output answers no query")
    }

    fn place(&self, _schema: &str, _table: &str) -> String {
        unreachable!("standard output has no tables")
    }

    fn strangers(&self) -> Vec<String> {
        Vec::new()
    }

    fn on_leader(of: &Type, value: &str) -> String {
        match of.name.as_str() {
            "boolean" => format!("({value})::text"),
            _text => printed(value),
        }
    }

    async fn rows(&self, table: &Table, shown: &str) -> Result<Vec<String>, String> {
        let name = format!("{}.{}", table.schema, table.name);
        let key =
            |row: &Row| -> Vec<String> { table.key.iter().map(|name| text(row, name)).collect() };
        let mut rows: BTreeMap<Vec<String>, Row> = BTreeMap::new();
        let mut left: Option<Row> = None;
        for line in shown.lines().filter(|line| line.starts_with("{\"op\":")) {
            let line: Line =
                serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
            if line.table != name {
                continue;
            }
            if line.op == "t" {
                rows.clear();
                continue;
            }
            // The old key is told where it is another one.
            let old = line.before.as_ref().or(line.after.as_ref()).map(key);
            let known = old.and_then(|old| rows.remove(&old));
            let Some(after) = line.after else {
                left = known;
                continue;
            };
            // Only the second half of a changed key says nothing about a column of a new row: that is as it was
            // in the row that the first half, right before it, has taken away.
            let is_half = line.op == "c"
                && table
                    .columns
                    .iter()
                    .any(|column| !after.contains_key(&column.name));
            let known = if is_half { left.take() } else { known };
            let mut row = known.unwrap_or_default();
            row.extend(after);
            rows.insert(key(&row), row);
            left = None;
        }
        let rows = rows.values().map(|row| {
            let values = table.columns.iter().map(|column| text(row, &column.name));
            values.collect::<Vec<_>>().join(&SEPARATOR.to_string())
        });
        Ok(rows.collect())
    }
}

fn text(row: &Row, name: &str) -> String {
    match row.get(name).map(|value| value.get()) {
        None => "nothing".to_owned(),
        Some("null") => NULL.to_owned(),
        Some(quoted) if quoted.starts_with('"') => {
            serde_json::from_str(quoted).expect("a string that was read")
        }
        Some(other) => other.to_owned(),
    }
}
