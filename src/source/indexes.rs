//! What the leader's tables have beside their keys: indexes and constraints, for copies to offer.
//!
//! Reads only, and what it finds is an offer: a follower takes it by its own settings and as far as it
//! can. Not offered: primary keys (schema versions have them), foreign keys (tables come into effect at
//! different moments), what is not valid, and what belongs to an extension.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::error::Result;
use crate::model::{Offer, OfferKind, TableOffers};
use crate::postgres::classify;
use crate::source::catalog::CatalogTable;

/// Bytes of names and definitions that one copy offers at most: its entry has to go into one record of the
/// commit log, beside the tables' offsets.
const OFFERS_MAX_BYTES: usize = 1 << 20;

/// `pg_get_indexdef` writes ON ONLY for a partitioned table's index; a follower's table need not be
/// partitioned, and if it is, its partitions are to have the index too.
const INDEXES: &str = "SELECT i.indrelid, x.relname::text, i.indisunique, \
    CASE WHEN x.relkind = 'I' THEN regexp_replace(pg_catalog.pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ') \
         ELSE pg_catalog.pg_get_indexdef(i.indexrelid) END \
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid \
    WHERE i.indrelid = ANY($1) AND i.indisvalid AND NOT i.indisprimary AND NOT i.indisexclusion \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c \
            WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x')) \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.deptype = 'e' AND d.objid = i.indexrelid \
            AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass) \
    ORDER BY i.indrelid, i.indisunique DESC, x.relname";

/// Rows of before need not hold to a constraint that is not validated, so it is not put upon a follower.
const CONSTRAINTS: &str = "SELECT conrelid, conname::text, contype::text, pg_catalog.pg_get_constraintdef(oid) \
    FROM pg_catalog.pg_constraint WHERE conrelid = ANY($1) AND contype IN ('u', 'x', 'c') AND convalidated \
    ORDER BY conrelid, conname";

/// What these tables have now. The session's `search_path` is empty (`catalog::prepare_session`), so
/// definitions name everything in full.
///
/// # Errors
/// As a query.
pub async fn offers(client: &Client, tables: &[CatalogTable]) -> Result<Vec<TableOffers>> {
    let oids: Vec<u32> = tables.iter().map(|table| table.schema.relation.0).collect();
    let mut found: BTreeMap<u32, Vec<Offer>> = BTreeMap::new();
    let failed = |error| classify(&error, "reading the leader's constraints and indexes");
    for row in client.query(CONSTRAINTS, &[&oids]).await.map_err(failed)? {
        let letter: String = row.try_get(2).map_err(failed)?;
        let kind = match letter.as_str() {
            "u" => OfferKind::Unique,
            "x" => OfferKind::Exclude,
            "c" => OfferKind::Check,
            other => unreachable!("no constraint of type {other} was asked for"),
        };
        let name = row.try_get(1).map_err(failed)?;
        let definition: Option<String> = row.try_get(3).map_err(failed)?;
        add(
            &mut found,
            row.try_get(0).map_err(failed)?,
            (name, kind, definition),
        );
    }
    for row in client.query(INDEXES, &[&oids]).await.map_err(failed)? {
        let kind = match row.try_get(2).map_err(failed)? {
            true => OfferKind::UniqueIndex,
            false => OfferKind::Index,
        };
        let name = row.try_get(1).map_err(failed)?;
        let definition: Option<String> = row.try_get(3).map_err(failed)?;
        add(
            &mut found,
            row.try_get(0).map_err(failed)?,
            (name, kind, definition),
        );
    }
    let of_tables = tables.iter().filter_map(|table| {
        Some(TableOffers {
            table: table.schema.table.clone(),
            offers: found.remove(&table.schema.relation.0)?,
        })
    });
    let (kept, left_out) = bounded(of_tables.collect(), OFFERS_MAX_BYTES);
    if let Some(first) = left_out.first() {
        tracing::warn!(
            tables = left_out.len(),
            first = %first.table,
            "indexes and constraints of so many tables do not go into one copy's entry: those of these tables \
             are not offered to followers; copy them in smaller groups (copy.group_max_bytes)"
        );
    }
    Ok(kept)
}

fn add(
    found: &mut BTreeMap<u32, Vec<Offer>>,
    relation: u32,
    (name, kind, definition): (String, OfferKind, Option<String>),
) {
    // None: dropped while it was read.
    if let Some(definition) = definition {
        found.entry(relation).or_default().push(Offer {
            name,
            kind,
            definition,
        });
    }
}

/// As many tables' as go into so many bytes, in their order, and those that do not.
fn bounded(all: Vec<TableOffers>, max_bytes: usize) -> (Vec<TableOffers>, Vec<TableOffers>) {
    let mut left_bytes = max_bytes;
    all.into_iter().partition(|table| {
        let own = table.offers.iter();
        let bytes: usize = own.map(|o| o.name.len() + o.definition.len()).sum();
        let goes = bytes <= left_bytes;
        if goes {
            left_bytes -= bytes;
        }
        goes
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableName;

    #[test]
    fn a_table_whose_offers_are_too_long_is_left_out_alone() {
        let table = |name: &str, bytes: usize| TableOffers {
            table: TableName::new("s", name),
            offers: vec![Offer {
                name: String::new(),
                kind: OfferKind::Index,
                definition: "x".repeat(bytes),
            }],
        };
        let (kept, left) = bounded(vec![table("a", 6), table("b", 5), table("c", 4)], 10);
        let names = |all: &[TableOffers]| -> Vec<String> {
            all.iter().map(|one| one.table.name.clone()).collect()
        };
        assert_eq!(names(&kept), ["a", "c"]);
        assert_eq!(names(&left), ["b"]);
    }
}
