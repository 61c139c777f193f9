//! The tables of a publication that walferry does not manage, and what it leaves of them.
//!
//! pgoutput takes row filters and column lists from the catalog as it was at each change, so they
//! can become others in the middle of the stream. What tells is the table's membership: Postgres
//! makes it anew with every change of its filter or list (`AlterPublicationTables`).

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::Client;

use crate::error::Result;
use crate::model::{Limits, Oid, TableSchema};
use crate::postgres::classify;
use crate::source::catalog::{self, CatalogTable};

/// Time between two looks at a lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// The tables of a publication, with its row filters and column lists.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn tables(client: &Client, publication: &str) -> Result<Vec<CatalogTable>> {
    let has_limits = has_limits(client).await?;
    // Membership and limits come from one snapshot: pg_publication_tables would show limits of now.
    let limits = if has_limits {
        "pg_catalog.pg_get_expr(r.prqual, r.prrelid),
         (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = r.prrelid AND a.attnum = ANY(r.prattrs))"
    } else {
        "NULL::text, NULL::text[]"
    };
    let rows = client
        .query(
            &format!(
                "SELECT c.oid, r.oid, {limits} FROM pg_catalog.pg_publication_tables t
                 JOIN pg_catalog.pg_publication p ON p.pubname = t.pubname
                 JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
                 JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
                 LEFT JOIN pg_catalog.pg_publication_rel r ON r.prrelid = c.oid AND {}
                 WHERE t.pubname = $1 ORDER BY n.nspname, c.relname",
                counts(has_limits)
            ),
            &[&publication],
        )
        .await
        .map_err(|error| classify(&error, "listing the publication's tables"))?;
    let oids: Vec<Oid> = rows.iter().map(|row| Oid(row.get(0))).collect();
    let limits = rows.iter().map(|row| Limits {
        membership: row.get::<_, Option<u32>>(1).map(Oid),
        row_filter: row.get(2),
        columns: row.get(3),
    });
    let mut limits: HashMap<Oid, Limits> = oids.iter().copied().zip(limits).collect();
    let mut tables = catalog::describe(client, &oids).await?;
    for table in &mut tables {
        if let Some(limits) = limits.remove(&table.schema.relation) {
            table.limit(limits);
        }
    }
    Ok(tables)
}

/// OIDs of the memberships that these relations have.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn memberships(
    client: &Client,
    publication: &str,
    relations: &[Oid],
) -> Result<HashMap<Oid, Oid>> {
    let relations: Vec<u32> = relations.iter().map(|oid| oid.0).collect();
    let rows = client
        .query(
            &format!(
                "SELECT r.prrelid, r.oid FROM pg_catalog.pg_publication p
                 JOIN pg_catalog.pg_class c ON c.oid = ANY($2)
                 JOIN pg_catalog.pg_publication_rel r ON r.prrelid = c.oid AND {}
                 WHERE p.pubname = $1",
                counts(has_limits(client).await?)
            ),
            &[&publication, &relations],
        )
        .await
        .map_err(|error| classify(&error, "reading the publication's memberships"))?;
    Ok(rows
        .iter()
        .map(|row| (Oid(row.get(0)), Oid(row.get(1))))
        .collect())
}

/// Row filters, column lists and schemas in publications came together, with version 15.
async fn has_limits(client: &Client) -> Result<bool> {
    client
        .query_one(
            "SELECT pg_catalog.to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL",
            &[],
        )
        .await
        .map(|row| row.get(0))
        .map_err(|error| classify(&error, "asking for the leader's version"))
}

/// Whether membership `r` of table `c` in publication `p` counts, as SQL: where the publication has
/// the table with its schema or with all tables too, pgoutput passes over the membership and its
/// limits (`pgoutput_row_filter_init`).
fn counts(has_schemas: bool) -> &'static str {
    if has_schemas {
        "r.prpubid = p.oid AND NOT p.puballtables
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_publication_namespace s
                         WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace)"
    } else {
        "r.prpubid = p.oid AND NOT p.puballtables"
    }
}

/// Waits while a session holds the lock of ALTER PUBLICATION, and takes the time from `patience`. A
/// commit is in the WAL, and may have been streamed, a moment before other sessions see what it did;
/// until then its locks are held.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn await_alter(
    client: &Client,
    publication: &str,
    patience: &mut Duration,
) -> Result<()> {
    loop {
        let held: bool = client
            .query_one(
                "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_locks l
                 JOIN pg_catalog.pg_publication p ON p.oid = l.objid
                 JOIN pg_catalog.pg_database d ON d.oid = l.database
                 WHERE p.pubname = $1 AND d.datname = pg_catalog.current_database()
                   AND l.locktype = 'object' AND l.granted AND l.mode = 'AccessExclusiveLock'
                   AND l.classid = 'pg_catalog.pg_publication'::pg_catalog.regclass)",
                &[&publication],
            )
            .await
            .map_err(|error| classify(&error, "looking at the publication's lock"))?
            .get(0);
        if !held || patience.is_zero() {
            return Ok(());
        }
        let pause = LOCK_INTERVAL.min(*patience);
        tokio::time::sleep(pause).await;
        *patience -= pause;
    }
}

impl CatalogTable {
    /// Takes on what a named publication leaves of the table.
    pub fn limit(&mut self, limits: Limits) {
        if let Some(names) = &limits.columns {
            keep_columns(&mut self.schema, names);
        }
        self.limits = limits;
    }
}

/// Leaves only the named columns in a schema. Postgres demands that a column list holds the replica
/// identity; a primary key that it cuts is no key of the records.
fn keep_columns(schema: &mut TableSchema, names: &[String]) {
    let old = std::mem::take(&mut schema.columns);
    let mut moved = vec![None; old.len()];
    for (index, column) in old.into_iter().enumerate() {
        if names.contains(&column.name) {
            moved[index] = Some(schema.columns.len());
            schema.columns.push(column);
        } else {
            schema.unpublished.extend(column.number);
        }
    }
    for indexes in [&mut schema.key, &mut schema.primary_key] {
        *indexes = indexes
            .iter()
            .map(|&index| moved[index])
            .collect::<Option<Vec<usize>>>()
            .unwrap_or_default();
    }
}
