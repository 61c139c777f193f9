//! What a database has beside what the new one will have: everything that somebody has made there, except the
//! tables that walferry fills with their columns, keys, indexes and types.

use tokio_postgres::Client;

use super::{Followed, get, names};
use crate::config::TakenIndexes;
use crate::error::Result;
use crate::postgres::classify;
use crate::sink::postgres::indexes::takes;

/// Everything below 16384 was there before anybody made something (`FirstNormalObjectId`). What belongs to an
/// extension or to a type (a range's functions) comes with it; an extension that the role may not create stays
/// behind. Types that followed tables
/// use come with these, whatever they are made of. Parameters: schemas and names of the followed tables;
/// schemas, tables and names of their leader's columns; of their offers; schemas, tables and sorted columns
/// of their keys.
const BEHIND: &str = "WITH RECURSIVE spaces AS (
    SELECT oid FROM pg_catalog.pg_namespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'walferry')
        AND nspname NOT LIKE 'pg\\_toast%' AND nspname NOT LIKE 'pg\\_temp%'
), followed AS (
    SELECT c.oid, w.s, w.t, c.relrowsecurity FROM unnest($1::text[], $2::text[]) AS w(s, t)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.s
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.t AND c.relkind IN ('r', 'p')
), used(classid, objid) AS (
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::oid, oid FROM followed
    UNION SELECT ref.classid, ref.objid FROM used CROSS JOIN LATERAL (
        SELECT d.refclassid, d.refobjid FROM pg_catalog.pg_depend d
        WHERE d.classid = used.classid AND d.objid = used.objid
            AND d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass
        UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::oid, t.typrelid FROM pg_catalog.pg_type t
        WHERE used.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid = used.objid AND t.typrelid <> 0
    ) AS ref(classid, objid)
), offers AS (
    SELECT f.oid, w.o FROM unnest($6::text[], $7::text[], $8::text[]) AS w(s, t, o) JOIN followed f USING (s, t)
), keys AS (
    SELECT f.oid, w.k FROM unnest($9::text[], $10::text[], $11::text[]) AS w(s, t, k) JOIN followed f USING (s, t)
), objects(classid, objid, subid) AS (
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, 0 FROM pg_catalog.pg_class c
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relnamespace IN (SELECT oid FROM spaces)
        AND c.oid NOT IN (SELECT oid FROM followed)
    UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, a.attrelid, a.attnum::int
    FROM followed f JOIN pg_catalog.pg_attribute a ON a.attrelid = f.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE NOT EXISTS (SELECT FROM unnest($3::text[], $4::text[], $5::text[]) AS w(s, t, c)
        WHERE w.s = f.s AND w.t = f.t AND w.c = a.attname)
    UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, c.oid, 0
    FROM followed f JOIN pg_catalog.pg_constraint c ON c.conrelid = f.oid
    WHERE c.contype IN ('c', 'f', 'u', 'x')
        AND NOT EXISTS (SELECT FROM offers o WHERE o.oid = f.oid AND o.o = c.conname)
    UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, x.oid, 0
    FROM followed f JOIN pg_catalog.pg_index i ON i.indrelid = f.oid
    JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
    WHERE i.indisunique AND NOT i.indisprimary
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conindid = x.oid AND c.contype IN ('u', 'x'))
        AND NOT EXISTS (SELECT FROM offers o WHERE o.oid = f.oid AND o.o = x.relname)
        AND NOT EXISTS (SELECT FROM keys k WHERE k.oid = f.oid AND k.k = (
            SELECT pg_catalog.string_agg(a.attname::text, ',' ORDER BY a.attname::text COLLATE \"C\")
            FROM pg_catalog.pg_attribute a WHERE a.attrelid = x.oid))
    UNION ALL SELECT 'pg_catalog.pg_trigger'::pg_catalog.regclass, t.oid, 0
    FROM followed f JOIN pg_catalog.pg_trigger t ON t.tgrelid = f.oid WHERE NOT t.tgisinternal
    UNION ALL SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, r.oid, 0
    FROM followed f JOIN pg_catalog.pg_rewrite r ON r.ev_class = f.oid
    UNION ALL SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, p.oid, 0
    FROM followed f JOIN pg_catalog.pg_policy p ON p.polrelid = f.oid
    UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, s.oid, 0
    FROM followed f JOIN pg_catalog.pg_statistic_ext s ON s.stxrelid = f.oid
    UNION ALL SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_proc
    WHERE pronamespace IN (SELECT oid FROM spaces)
    UNION ALL SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, 0 FROM pg_catalog.pg_type t
    LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
    WHERE t.typnamespace IN (SELECT oid FROM spaces)
        AND (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND c.relkind = 'c')
        AND NOT EXISTS (SELECT FROM used u WHERE u.objid = t.oid
            AND u.classid = 'pg_catalog.pg_type'::pg_catalog.regclass)
    UNION ALL SELECT 'pg_catalog.pg_operator'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_operator
    UNION ALL SELECT 'pg_catalog.pg_opclass'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_opclass
    UNION ALL SELECT 'pg_catalog.pg_collation'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_collation
    UNION ALL SELECT 'pg_catalog.pg_cast'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_cast
    UNION ALL SELECT 'pg_catalog.pg_conversion'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_conversion
    UNION ALL SELECT 'pg_catalog.pg_ts_config'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_ts_config
    UNION ALL SELECT 'pg_catalog.pg_ts_dict'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_ts_dict
    UNION ALL SELECT 'pg_catalog.pg_language'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_language
    UNION ALL SELECT 'pg_catalog.pg_largeobject'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_largeobject_metadata
    UNION ALL SELECT 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass, oid, 0
    FROM pg_catalog.pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_catalog.pg_foreign_server'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_foreign_server
    UNION ALL SELECT 'pg_catalog.pg_event_trigger'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_event_trigger
    UNION ALL SELECT 'pg_catalog.pg_publication'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_publication
    UNION ALL SELECT 'pg_catalog.pg_default_acl'::pg_catalog.regclass, oid, 0 FROM pg_catalog.pg_default_acl
    UNION ALL SELECT 'pg_catalog.pg_subscription'::pg_catalog.regclass, s.oid, 0 FROM pg_catalog.pg_subscription s
    JOIN pg_catalog.pg_database b ON b.oid = s.subdbid WHERE b.datname = pg_catalog.current_database()
    UNION ALL SELECT 'pg_catalog.pg_extension'::pg_catalog.regclass, e.oid, 0 FROM pg_catalog.pg_extension e
    JOIN pg_catalog.pg_roles r ON r.rolname = current_user
    WHERE e.extname <> 'plpgsql' AND NOT r.rolsuper AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_available_extension_versions v
        WHERE v.name = e.extname AND v.version = e.extversion AND (v.trusted OR NOT v.superuser))
)
SELECT pg_catalog.pg_describe_object(o.classid, o.objid, o.subid) FROM objects o
WHERE o.objid >= 16384 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = o.classid AND d.objid = o.objid AND (d.deptype = 'e' OR d.deptype = 'i'
        AND d.classid IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_cast'::pg_catalog.regclass)))
UNION ALL SELECT 'row security of table ' || s || '.' || t FROM followed WHERE relrowsecurity
UNION ALL SELECT 'replication slot ' || slot_name FROM pg_catalog.pg_replication_slots
WHERE database = pg_catalog.current_database()
ORDER BY 1";

/// What the new database, which will have these tables, would not have, as Postgres describes it.
pub(super) async fn behind(
    client: &Client,
    tables: &[Followed],
    taken: TakenIndexes,
) -> Result<Vec<String>> {
    let (schemas, of) = names(tables);
    let columns = Triples::of(tables, |table| table.columns.clone());
    let offers = Triples::of(tables, |table| {
        let offers = table.offers.iter().filter(|offer| takes(taken, offer.kind));
        offers.map(|offer| offer.name.clone()).collect()
    });
    let keys = Triples::of(tables, |table| {
        let mut key = table.key.clone();
        key.sort();
        vec![key.join(",")]
    });
    let rows = client
        .query(
            BEHIND,
            &[
                &schemas,
                &of,
                &columns.schemas,
                &columns.tables,
                &columns.names,
                &offers.schemas,
                &offers.tables,
                &offers.names,
                &keys.schemas,
                &keys.tables,
                &keys.names,
            ],
        )
        .await
        .map_err(|error| classify(&error, "looking for what the new database would not have"))?;
    rows.iter().map(|row| get(row, 0)).collect()
}

/// All that somebody has made in a database, and walferry's own schema.
pub(super) async fn all(client: &Client) -> Result<Vec<String>> {
    let mut all = behind(client, &[], TakenIndexes::None).await?;
    let schema = "SELECT 'schema ' || nspname FROM pg_catalog.pg_namespace \
        WHERE oid >= 16384 AND nspname NOT LIKE 'pg\\_%' ORDER BY 1";
    let rows = client.query(schema, &[]).await;
    let rows =
        rows.map_err(|error| classify(&error, "looking into the database named by --beside"))?;
    for row in &rows {
        all.push(get(row, 0)?);
    }
    Ok(all)
}

/// Names of something that tables have, as three arrays.
struct Triples<'a> {
    schemas: Vec<&'a str>,
    tables: Vec<&'a str>,
    names: Vec<String>,
}

impl<'a> Triples<'a> {
    fn of(tables: &'a [Followed], names: impl Fn(&'a Followed) -> Vec<String>) -> Self {
        let mut all = Triples {
            schemas: Vec::new(),
            tables: Vec::new(),
            names: Vec::new(),
        };
        for table in tables {
            for name in names(table) {
                all.schemas.push(&table.table.schema);
                all.tables.push(&table.table.name);
                all.names.push(name);
            }
        }
        all
    }
}
