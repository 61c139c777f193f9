//! Whether rows under REPLICA IDENTITY FULL may have the table's primary key as their key.
//!
//! The primary key is the catalog's of now, the rows are of the WAL, which may be older: rows from
//! before the key may have NULL in its columns, or be duplicates. Without a key they are told apart
//! as a whole, which is always right under FULL. So the key counts only if it is older than all WAL
//! that the slot still sends. That it goes away later is seen by the next Relation message.

use std::collections::HashSet;

use tokio_postgres::Client;

use crate::error::Result;
use crate::model::{Oid, ReplicaIdentity};
use crate::postgres::classify;
use crate::source::catalog::CatalogTable;

/// Takes the key away from tables under FULL that must not have it.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn settle_keys(client: &Client, slot: &str, tables: &mut [CatalogTable]) -> Result<()> {
    let full = |table: &&mut CatalogTable| table.schema.identity == ReplicaIdentity::Full;
    let asked: Vec<Oid> = tables
        .iter_mut()
        .filter(full)
        .map(|table| table.schema.relation)
        .collect();
    if asked.is_empty() {
        return Ok(());
    }
    let proven = proven(client, slot, &asked).await?;
    for table in tables.iter_mut().filter(full) {
        if !counts(table, proven.contains(&table.schema.relation)) {
            table.schema.key.clear();
        }
    }
    Ok(())
}

/// Whether the primary key counts as the key of the table's rows under FULL.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn has_key(client: &Client, slot: &str, table: &CatalogTable) -> Result<bool> {
    let relation = table.schema.relation;
    let proven = proven(client, slot, &[relation]).await?;
    Ok(counts(table, proven.contains(&relation)))
}

/// Old rows of a partition carry the partition's identity: where one is not FULL they hold the key
/// only, and hold it for certain.
fn counts(table: &CatalogTable, proven: bool) -> bool {
    let whole = |identity| identity == ReplicaIdentity::Full;
    proven || !table.leaves.iter().all(|leaf| whole(leaf.identity))
}

/// Relations whose immediate primary key is older than the WAL that the slot still sends.
///
/// Transactions before the slot's `catalog_xmin` had ended at its confirmed position. An age is
/// the largest number for an xmin that is frozen for good; a frozen one that wrapped around may look
/// young, which costs the key and nothing else. Without a slot all WAL to come is younger than what
/// this query sees.
async fn proven(client: &Client, slot: &str, relations: &[Oid]) -> Result<HashSet<Oid>> {
    let relations: Vec<u32> = relations.iter().map(|oid| oid.0).collect();
    let rows = client
        .query(
            "SELECT i.indrelid FROM pg_catalog.pg_index i
             WHERE i.indrelid = ANY($1) AND i.indisprimary AND i.indisvalid AND i.indimmediate
               AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_replication_slots s
                 WHERE s.slot_name = $2
                   AND (pg_catalog.age(i.xmin) > pg_catalog.age(s.catalog_xmin)) IS NOT TRUE)",
            &[&relations, &slot],
        )
        .await
        .map_err(|error| classify(&error, "comparing primary keys with the slot"))?;
    Ok(rows.iter().map(|row| Oid(row.get(0))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableName;
    use crate::source::catalog::Leaf;

    #[test]
    fn a_key_counts_when_it_is_proven_or_when_some_rows_have_nothing_else() {
        let leaf = |identity| Leaf {
            relation: Oid(2),
            table: TableName::new("public", "leaf"),
            identity,
            identity_columns: Vec::new(),
            foreign: false,
            unlogged: false,
        };
        let table = |identities: &[ReplicaIdentity]| CatalogTable {
            leaves: identities.iter().map(|&identity| leaf(identity)).collect(),
            partitioned: true,
            ..CatalogTable::bare("t", 1)
        };
        let full = table(&[ReplicaIdentity::Full, ReplicaIdentity::Full]);
        assert!(counts(&full, true) && !counts(&full, false));
        let mixed = table(&[ReplicaIdentity::Full, ReplicaIdentity::Default]);
        assert!(counts(&mixed, false));
    }
}
