//! What a comparison found, and what of it can be repaired. Pure.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};

use crate::model::{Lsn, TableName};

/// Keys that are named of each kind.
const KEYS_NAMED: usize = 20;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The sink.
    pub sink: String,
    /// Tables, by name.
    pub tables: Vec<TableReport>,
    /// What had been found of those that were copied anew since; empty where nothing was repaired.
    pub before_repair: Vec<TableReport>,
}

/// What was found of one table.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    /// The table; in JSON `schema.name`.
    #[serde(serialize_with = "as_text")]
    pub table: TableName,
    /// The boundary at which it was compared; none: it was not.
    pub boundary: Option<Lsn>,
    /// Rows on the leader there.
    pub rows: u64,
    /// Rows of the leader that the follower lacks.
    pub missing: Differences,
    /// Rows of the follower that the leader has not.
    pub extra: Differences,
    /// Rows that are not the same.
    pub different: Differences,
    /// Why the table could not be compared, or what is to be known of the result.
    pub note: Option<String>,
}

/// Rows that differ in one way.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Differences {
    /// How many.
    pub count: u64,
    /// Keys of some of them, column by column in the order of the table; none for tables without a key.
    pub keys: Vec<Vec<String>>,
}

impl Differences {
    pub(super) fn add(&mut self, key: Vec<String>) {
        self.count += 1;
        if self.keys.len() < KEYS_NAMED {
            self.keys.push(key);
        }
    }
}

impl TableReport {
    /// Nothing is known of it yet.
    pub fn of(table: &TableName) -> Self {
        TableReport {
            table: table.clone(),
            boundary: None,
            rows: 0,
            missing: Differences::default(),
            extra: Differences::default(),
            different: Differences::default(),
            note: None,
        }
    }

    /// Whether it was compared at all.
    pub fn compared(&self) -> bool {
        self.boundary.is_some()
    }

    /// Rows that differ.
    pub fn differing(&self) -> u64 {
        self.missing.count + self.extra.count + self.different.count
    }

    /// Whether every row is equal.
    pub fn is_equal(&self) -> bool {
        self.compared() && self.differing() == 0
    }
}

impl Report {
    /// Whether every row of every table is equal.
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(TableReport::is_equal)
    }

    /// Tables that differ: copying them anew makes them equal. One that could not be compared is none of them.
    pub fn repairable(&self) -> BTreeSet<TableName> {
        let differ = self.tables.iter().filter(|of| of.differing() > 0);
        differ.map(|of| of.table.clone()).collect()
    }

    /// Tables that could not be compared, and that a repair leaves as they are.
    pub fn left_alone(&self) -> impl Iterator<Item = &TableReport> {
        self.tables.iter().filter(|of| !of.compared())
    }

    /// With what was found of some tables once they had been copied anew.
    #[must_use]
    pub fn repaired(mut self, again: Report) -> Report {
        for table in again.tables {
            let mut known = self.tables.iter_mut();
            if let Some(known) = known.find(|known| known.table == table.table) {
                self.before_repair.push(std::mem::replace(known, table));
            }
        }
        self
    }
}

fn as_text<S: Serializer>(table: &TableName, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(table: &str) -> TableName {
        TableName::new("public", table)
    }

    fn of(table: &str, missing: u64) -> TableReport {
        TableReport {
            boundary: Some(Lsn(7)),
            missing: Differences {
                count: missing,
                keys: Vec::new(),
            },
            ..TableReport::of(&name(table))
        }
    }

    fn report(tables: Vec<TableReport>) -> Report {
        Report {
            sink: "dw".to_owned(),
            tables,
            before_repair: Vec::new(),
        }
    }

    #[test]
    fn what_differs_is_repaired_and_nothing_else() {
        let found = report(vec![
            of("equal", 0),
            of("differs", 2),
            TableReport::of(&name("not_there")),
        ]);
        assert_eq!(found.repairable(), [name("differs")].into());
        let left: Vec<&TableName> = found.left_alone().map(|of| &of.table).collect();
        assert_eq!(left, [&name("not_there")]);
        assert!(!found.is_equal());
    }

    #[test]
    fn a_repaired_report_has_what_is_true_now_and_what_was() {
        let found = report(vec![of("a", 0), of("b", 2)]);
        let repaired = found.clone().repaired(report(vec![of("b", 0)]));
        assert!(repaired.is_equal());
        assert_eq!(repaired.tables.len(), 2);
        assert_eq!(repaired.before_repair[0].differing(), 2);
        let in_vain = found.repaired(report(vec![of("b", 1)]));
        assert!(!in_vain.is_equal());
    }
}
