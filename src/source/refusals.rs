//! What speaks against capturing a table. Pure.

use std::collections::BTreeSet;

use crate::model::{Oid, ReplicaIdentity, TableName, TableSchema};
use crate::source::catalog::{CatalogTable, Leaf};

/// Why a table cannot be captured, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The table.
    pub table: TableName,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// What stands against capturing the tables; empty when nothing does.
///
/// Updates and deletes of a published table without a usable replica identity fail on the leader
/// ("cannot update table … because it does not have a replica identity"), so such a table must not
/// even get into a publication.
pub fn refusals(tables: &[CatalogTable]) -> Vec<Refusal> {
    let mut found = Vec::new();
    for table in tables {
        let mut refuse = |what: String, remedy: String| {
            found.push(Refusal {
                table: table.schema.table.clone(),
                what,
                remedy,
            });
        };
        if !table.missing_key_columns.is_empty() {
            refuse(
                format!(
                    "its key holds generated columns, which the leader does not send: {}",
                    table.missing_key_columns.join(", ")
                ),
                identity_remedy(&table.schema.table),
            );
            continue;
        }
        let generated = listed_generated_columns(table);
        if !generated.is_empty() {
            refuse(
                format!(
                    "its column list names generated columns, which walferry does not carry: {}",
                    generated.join(", ")
                ),
                "take them out of the publication's column list, and have followers generate them"
                    .to_owned(),
            );
            continue;
        }
        let key_names = sorted_key_names(&table.schema);
        for leaf in &table.leaves {
            if leaf.foreign {
                refuse(
                    format!("its partition {} is a foreign table", leaf.table),
                    format!("detach the partition {}, or exclude the table", leaf.table),
                );
                continue;
            }
            if leaf.unlogged {
                refuse(
                    format!("its partition {} is unlogged", leaf.table),
                    format!(
                        "run ALTER TABLE {} SET LOGGED, or detach the partition, or exclude the table",
                        leaf.table.quoted()
                    ),
                );
                continue;
            }
            if let Some(what) = identity_problem(table, leaf, &key_names) {
                refuse(what, identity_remedy(&leaf.table));
            }
        }
    }
    found
}

/// Takes out the tables that cannot be captured and are not yet (`captured` are the OIDs that are);
/// returns what stands against them.
pub fn leave_out(tables: &mut Vec<CatalogTable>, captured: &BTreeSet<Oid>) -> Vec<Refusal> {
    let mut all = Vec::new();
    tables.retain(|table| {
        if captured.contains(&table.schema.relation) {
            return true;
        }
        let found = refusals(std::slice::from_ref(table));
        let stays = found.is_empty();
        all.extend(found);
        stays
    });
    all
}

fn identity_remedy(table: &TableName) -> String {
    format!(
        "add a primary key, or run ALTER TABLE {} REPLICA IDENTITY FULL, or exclude the table in the source's settings",
        table.quoted()
    )
}

/// Columns that the publication's list names and the schema has not: generated ones, since a listed
/// column cannot be dropped. Rows of a copy would lack what changes carry.
fn listed_generated_columns(table: &CatalogTable) -> Vec<&str> {
    let listed = table.limits.columns.iter().flatten();
    let known = |name: &str| {
        table
            .schema
            .columns
            .iter()
            .any(|column| column.name == name)
    };
    listed
        .map(String::as_str)
        .filter(|name| !known(name))
        .collect()
}

fn sorted_key_names(schema: &TableSchema) -> Vec<String> {
    let mut names: Vec<String> = schema
        .key
        .iter()
        .map(|&index| schema.columns[index].name.clone())
        .collect();
    names.sort();
    names
}

fn identity_problem(table: &CatalogTable, leaf: &Leaf, key_names: &[String]) -> Option<String> {
    let place = if table.partitioned {
        format!("its partition {} has ", leaf.table)
    } else {
        "it has ".to_owned()
    };
    match leaf.identity {
        ReplicaIdentity::Full => None,
        ReplicaIdentity::Nothing => Some(place + "REPLICA IDENTITY NOTHING"),
        ReplicaIdentity::Default if leaf.identity_columns.is_empty() => Some(
            place + "no (immediate) primary key and no REPLICA IDENTITY that tells its rows apart",
        ),
        ReplicaIdentity::Index if leaf.identity_columns.is_empty() => {
            Some(place + "REPLICA IDENTITY USING INDEX, but the index is gone")
        }
        ReplicaIdentity::Default | ReplicaIdentity::Index => {
            // Old rows of a partition carry the partition's identity, records the root's key.
            (leaf.identity_columns != key_names)
                .then(|| place + "another replica identity than the partitioned table")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with partitions of these names, foreign or not, unlogged or not.
    fn table(relation: u32, leaves: &[(&str, bool, bool)]) -> CatalogTable {
        let leaf = |&(name, foreign, unlogged): &(&str, bool, bool)| Leaf {
            relation: Oid(relation + 1000),
            table: TableName::new("public", name),
            identity: ReplicaIdentity::Full,
            identity_columns: Vec::new(),
            foreign,
            unlogged,
        };
        let mut table = CatalogTable::bare(&format!("t{relation}"), relation);
        table.schema.identity = ReplicaIdentity::Full;
        table.leaves = leaves.iter().map(leaf).collect();
        table.partitioned = true;
        table
    }

    #[test]
    fn a_partition_whose_changes_no_wal_holds_is_refused() {
        let leaves = [
            ("good", false, false),
            ("far", true, false),
            ("fast", false, true),
        ];
        let found: Vec<String> = refusals(&[table(1, &leaves)])
            .into_iter()
            .map(|refusal| refusal.what)
            .collect();
        assert_eq!(
            found,
            [
                "its partition public.far is a foreign table",
                "its partition public.fast is unlogged"
            ]
        );
    }

    #[test]
    fn a_column_list_with_generated_columns_is_refused() {
        let mut listed = table(1, &[]);
        listed.limits.columns = Some(vec!["computed".to_owned()]);
        let found = refusals(&[listed]);
        assert!(found[0].what.contains("computed"), "{found:?}");
    }

    #[test]
    fn a_refused_table_is_left_out_unless_it_is_captured() {
        let bad = [("fast", false, true)];
        let mut tables = vec![table(1, &bad), table(2, &[]), table(3, &bad)];
        let left_out = leave_out(&mut tables, &BTreeSet::from([Oid(1)]));
        let oids = tables.iter().map(|table| table.schema.relation);
        assert_eq!(oids.collect::<Vec<_>>(), [Oid(1), Oid(2)]);
        assert_eq!(left_out.len(), 1);
        assert_eq!(left_out[0].table, TableName::new("public", "t3"));
        assert_eq!(refusals(&tables).len(), 1, "the captured one still is");
    }
}
