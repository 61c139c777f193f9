//! What the follower's catalog says of a table: relation, columns, indexes.

use tokio_postgres::{Client, Row};

use super::columns::Live;
use crate::error::Result;
use crate::model::{TableName, TableSchema};
use crate::postgres::classify;

const RELATION: &str = "SELECT c.oid, c.relkind, EXISTS (SELECT FROM pg_catalog.pg_constraint f \
    WHERE f.confrelid = c.oid AND f.contype = 'f' AND f.conrelid <> c.oid) \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relname = $2";

const COLUMNS: &str = "SELECT a.attname::text, w.n::int4, \
    COALESCE(a.atttypid = pg_catalog.to_regtype(w.type_name) AND a.atttypmod = w.modifier, false), \
    pg_catalog.format_type(a.atttypid, a.atttypmod), a.atttypid, \
    a.attnotnull, a.atthasdef, a.attgenerated, a.attidentity, a.attcollation <> 0, \
    EXISTS (SELECT FROM pg_catalog.pg_cast x WHERE x.castsource = 'pg_catalog.text'::pg_catalog.regtype \
        AND x.casttarget = a.atttypid AND x.castmethod = 'f' \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_cast y WHERE y.casttarget = a.atttypid \
            AND y.castsource = 'pg_catalog.bpchar'::pg_catalog.regtype)), \
    a.atttypmod \
    FROM pg_catalog.pg_attribute a \
    LEFT JOIN unnest($2::text[], $3::text[], $4::int4[]) \
        WITH ORDINALITY AS w(name, type_name, modifier, n) ON w.name = a.attname \
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const INDEXES: &str = "SELECT i.indisunique, i.indisexclusion, \
    i.indpred IS NULL AND i.indexprs IS NULL AND i.indrelid = $1, am.amname = 'btree', \
    (SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.n) \
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n) \
        LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
        WHERE k.n <= i.indnkeyatts), \
    (SELECT pg_catalog.array_agg(o.nspname::text ORDER BY m.strategy, k.n) \
            || pg_catalog.array_agg(o.oprname::text ORDER BY m.strategy, k.n) \
        FROM unnest(i.indclass::oid[]) WITH ORDINALITY AS k(opclass, n) \
        CROSS JOIN (VALUES (1, 3), (2, 1)) AS m(strategy, number) \
        LEFT JOIN LATERAL (SELECT p.oprname, s.nspname FROM pg_catalog.pg_opclass c \
            JOIN pg_catalog.pg_amop a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype \
                AND a.amoprighttype = c.opcintype AND a.amopstrategy = m.number AND am.amname = 'btree' \
            JOIN pg_catalog.pg_operator p ON p.oid = a.amopopr \
            JOIN pg_catalog.pg_namespace s ON s.oid = p.oprnamespace \
            WHERE c.oid = k.opclass) o ON true) \
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class r ON r.oid = i.indexrelid \
    JOIN pg_catalog.pg_am am ON am.oid = r.relam \
    WHERE i.indisvalid AND (i.indrelid = $1 OR i.indrelid IN \
        (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::pg_catalog.regclass)))";

const LIVE: &str = "SELECT attnum, attname::text FROM pg_catalog.pg_attribute \
    WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

/// A relation of the follower.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relation {
    pub oid: u32,
    pub kind: u8,
    pub referenced: bool,
}

/// A column of the follower's table.
pub(super) struct Attribute {
    pub name: String,
    pub leader: Option<usize>,
    pub same_type: bool,
    pub type_text: String,
    pub type_oid: u32,
    pub type_modifier: i32,
    pub not_null: bool,
    pub has_default: bool,
    pub generated: bool,
    pub identity: u8,
    pub collatable: bool,
    pub text_cast_function: bool,
}

/// An index of the follower's table or of one of its partitions.
pub(super) struct Index {
    pub unique: bool,
    pub exclusion: bool,
    /// On the table itself, over all rows, of columns only.
    pub plain: bool,
    pub btree: bool,
    /// Names; `None` for expressions.
    pub columns: Vec<Option<String>>,
    /// Schemas, then names, of the operators `=` of all columns, then `<` of all columns.
    pub operators: Vec<Option<String>>,
}

/// The relation of this name, of whatever kind.
pub(super) async fn relation(client: &Client, table: &TableName) -> Result<Option<Relation>> {
    let failed = |error| classify(&error, "reading the follower's catalog");
    let row = client
        .query_opt(RELATION, &[&table.schema, &table.name])
        .await
        .map_err(failed)?;
    row.map(|row| {
        Ok(Relation {
            oid: row.try_get(0)?,
            kind: row.try_get::<_, i8>(1)?.cast_unsigned(),
            referenced: row.try_get(2)?,
        })
    })
    .transpose()
    .map_err(failed)
}

/// Numbers and names of a relation's columns.
pub(super) async fn live(client: &Client, oid: u32) -> Result<Vec<Live>> {
    let failed = |error| classify(&error, "reading the follower's columns");
    let rows = client.query(LIVE, &[&oid]).await.map_err(failed)?;
    let one = |row: &Row| {
        Ok(Live {
            number: row.try_get(0)?,
            name: row.try_get(1)?,
        })
    };
    rows.iter()
        .map(one)
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// The columns of a relation, beside those of the leader, which have these names here if any.
pub(super) async fn attributes(
    client: &Client,
    oid: u32,
    (schema, names): (&TableSchema, &[Option<&str>]),
) -> Result<Vec<Attribute>> {
    let types: Vec<&str> = schema
        .columns
        .iter()
        .map(|c| c.type_name.as_str())
        .collect();
    let modifiers: Vec<i32> = schema.columns.iter().map(|c| c.type_modifier).collect();
    let failed = |error| classify(&error, "reading the follower's columns");
    let rows = client
        .query(COLUMNS, &[&oid, &names, &types, &modifiers])
        .await
        .map_err(failed)?;
    let one = |row: &Row| {
        let ordinal: Option<i32> = row.try_get(1)?;
        Ok(Attribute {
            name: row.try_get(0)?,
            leader: ordinal.and_then(|n| usize::try_from(n - 1).ok()),
            same_type: row.try_get(2)?,
            type_text: row.try_get(3)?,
            type_oid: row.try_get(4)?,
            not_null: row.try_get(5)?,
            has_default: row.try_get(6)?,
            generated: row.try_get::<_, i8>(7)? != 0,
            identity: row.try_get::<_, i8>(8)?.cast_unsigned(),
            collatable: row.try_get(9)?,
            text_cast_function: row.try_get(10)?,
            type_modifier: row.try_get(11)?,
        })
    };
    rows.iter()
        .map(one)
        .collect::<Result<_, _>>()
        .map_err(failed)
}

/// The valid indexes of a relation and of its partitions.
pub(super) async fn indexes(client: &Client, oid: u32) -> Result<Vec<Index>> {
    let failed = |error| classify(&error, "reading the follower's indexes");
    let rows = client.query(INDEXES, &[&oid]).await.map_err(failed)?;
    let one = |row: &Row| {
        Ok(Index {
            unique: row.try_get(0)?,
            exclusion: row.try_get(1)?,
            plain: row.try_get(2)?,
            btree: row.try_get(3)?,
            columns: row.try_get(4)?,
            operators: row.try_get(5)?,
        })
    };
    rows.iter()
        .map(one)
        .collect::<Result<_, _>>()
        .map_err(failed)
}
