//! The rows of one table, rebuilt from its records. Columns that come and go are passed over: the leader has none
//! of them when the rows are compared.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

use super::records::Record;
use crate::columns::EXTRA;

/// Columns and their values as text; None is NULL.
pub type Row = BTreeMap<String, Option<String>>;

/// Debezium's text for a value that is not there.
const PLACEHOLDER: &str = "__debezium_unavailable_value";

/// A table as of a boundary.
#[derive(Default)]
pub struct Table {
    /// Rows by key, as it stands in the records.
    keyed: BTreeMap<Vec<u8>, Row>,
    /// Rows of a table without a key, and how often each is there.
    keyless: BTreeMap<Row, u64>,
    /// Rows on their way to a new key, by that key.
    moving: BTreeMap<Vec<u8>, Row>,
}

impl Table {
    /// A row of a copy.
    pub fn copied(&mut self, record: &Record) -> anyhow::Result<()> {
        let value = parse(record)?;
        ensure!(value["op"] == "r", "a row of a copy is op {}", value["op"]);
        self.put(record, row(&value["after"])?)
    }

    /// A change; records come in order of position.
    pub fn change(&mut self, record: &Record) -> anyhow::Result<()> {
        if record.value.is_none() {
            return Ok(()); // a tombstone says nothing that its delete has not said
        }
        let value = parse(record)?;
        let op = value["op"].as_str().context("a change without op")?;
        match op {
            "c" => {
                let mut new = row(&value["after"])?;
                if record.old_key.is_some() {
                    let key = record.key.as_ref().context("a moved row without a key")?;
                    let old = self
                        .moving
                        .remove(key)
                        .context("a row arrives that had not left")?;
                    fill(&mut new, &old, &value)?;
                } else {
                    ensure!(value["absent"].is_null(), "an insert with absent columns");
                }
                self.put(record, new)
            }
            "u" => self.update(record, &value),
            "d" => self.delete(record, &value),
            "t" => {
                self.keyed.clear();
                self.keyless.clear();
                Ok(())
            }
            other => bail!("a change is op {other}"),
        }
    }

    fn put(&mut self, record: &Record, new: Row) -> anyhow::Result<()> {
        match &record.key {
            Some(key) => {
                let before = self.keyed.insert(key.clone(), new);
                ensure!(
                    before.is_none(),
                    "a row is inserted twice: {}",
                    String::from_utf8_lossy(key)
                );
            }
            None => *self.keyless.entry(new).or_default() += 1,
        }
        Ok(())
    }

    fn update(&mut self, record: &Record, value: &Value) -> anyhow::Result<()> {
        let mut new = row(&value["after"])?;
        match &record.key {
            Some(key) => {
                let old = self
                    .keyed
                    .get_mut(key)
                    .context("an update of a row that is not there")?;
                fill(&mut new, old, value)?;
                *old = new;
            }
            None => {
                let old = row(&value["before"])?;
                fill(&mut new, &old, value)?;
                self.remove_one(&old)?;
                *self.keyless.entry(new).or_default() += 1;
            }
        }
        Ok(())
    }

    fn delete(&mut self, record: &Record, value: &Value) -> anyhow::Result<()> {
        let Some(key) = &record.key else {
            return self.remove_one(&row(&value["before"])?);
        };
        let old = self
            .keyed
            .remove(key)
            .context("a delete of a row that is not there")?;
        if let Some(new_key) = &record.new_key {
            self.moving.insert(new_key.clone(), old);
        }
        Ok(())
    }

    fn remove_one(&mut self, old: &Row) -> anyhow::Result<()> {
        let count = self
            .keyless
            .get_mut(old)
            .context("a row without a key is not there")?;
        *count -= 1;
        if *count == 0 {
            self.keyless.remove(old);
        }
        Ok(())
    }

    /// Whether no row is between two keys, as it must be at a boundary.
    pub fn is_at_rest(&self) -> bool {
        self.moving.is_empty()
    }

    /// All rows as text, sorted.
    pub fn rows(&self) -> Vec<String> {
        let keyless = self.keyless.iter();
        let repeated = keyless.flat_map(|(row, n)| {
            std::iter::repeat_n(row, usize::try_from(*n).unwrap_or(usize::MAX))
        });
        let mut rows: Vec<String> = self.keyed.values().chain(repeated).map(print).collect();
        rows.sort();
        rows
    }

    /// Sum of a column of whole numbers, by another column.
    pub fn sums(&self, column: &str, by: &str) -> anyhow::Result<BTreeMap<String, i64>> {
        let mut sums = BTreeMap::new();
        for row in self.keyed.values() {
            let cell = |name: &str| {
                row.get(name)
                    .and_then(Option::as_deref)
                    .context("a column is missing")
            };
            *sums.entry(cell(by)?.to_owned()).or_default() += cell(column)?.parse::<i64>()?;
        }
        Ok(sums)
    }
}

/// A row as one line of text.
pub fn print(row: &Row) -> String {
    let cell = |(name, value): (&String, &Option<String>)| {
        format!("{name}={}", value.as_deref().unwrap_or("NULL"))
    };
    row.iter().map(cell).collect::<Vec<_>>().join("|")
}

fn parse(record: &Record) -> anyhow::Result<Value> {
    serde_json::from_slice(record.value.as_deref().context("no value")?)
        .with_context(|| format!("offset {}", record.offset))
}

fn row(columns: &Value) -> anyhow::Result<Row> {
    let columns: &Map<String, Value> = columns.as_object().context("a row that is no object")?;
    let cell = |value: &Value| match value {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(flag.to_string())),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Array(_) | Value::Object(_) => bail!("a value that is no scalar"),
    };
    columns
        .iter()
        .filter(|(name, _)| !name.starts_with(EXTRA))
        .map(|(name, value)| Ok((name.clone(), cell(value)?)))
        .collect()
}

/// Takes what is absent in the new row from the old one.
fn fill(new: &mut Row, old: &Row, value: &Value) -> anyhow::Result<()> {
    for name in value["absent"].as_array().into_iter().flatten() {
        let name = name.as_str().context("an absent column's name")?;
        if name.starts_with(EXTRA) {
            continue;
        }
        ensure!(
            new.get(name) == Some(&Some(PLACEHOLDER.to_owned())),
            "absent column {name} has a value"
        );
        let known = old
            .get(name)
            .context("an absent value that was never there")?;
        new.insert(name.to_owned(), known.clone());
    }
    Ok(())
}
