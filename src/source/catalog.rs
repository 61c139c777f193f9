//! What the leader's catalog says of the tables that can be captured.
//!
//! Reads only. Which tables are wanted is decided by [`Selection`], what speaks against one by
//! [`refusals`](super::refusals); both are pure. The session's `search_path` is emptied first, so that
//! `format_type` qualifies every type that is not built in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::error::Result;
use crate::model::{
    Column, ColumnKind, Fill, Limits, Oid, ReplicaIdentity, Selection, TableName, TableSchema,
    UserType,
};
use crate::postgres::classify;
use crate::source::user_types;

/// How long a table that somebody has locked is waited for: some of the catalog's functions and every
/// read of rows need it. It is said then and tried again, and whoever waits behind this request for
/// the same table goes on.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// A table of the leader that can be captured, as the catalog has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogTable {
    /// Its shape. `partitions` is 1 until the topic is known.
    pub schema: TableSchema,
    /// Where rows lie: the table itself, or the leaf partitions of a partitioned table.
    pub leaves: Vec<Leaf>,
    /// Whether it is partitioned.
    pub partitioned: bool,
    /// `reltuples` of all leaves, where ANALYZE has counted.
    pub rows_estimate: Option<u64>,
    /// What the publication leaves of it, when walferry does not manage that.
    pub limits: Limits,
    /// Names of key columns that the stream does not carry (generated ones).
    pub missing_key_columns: Vec<String>,
}

/// A relation with storage that belongs to a captured table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its OID.
    pub relation: Oid,
    /// Its name.
    pub table: TableName,
    /// What its old rows carry.
    pub identity: ReplicaIdentity,
    /// Names of the columns in its old rows: the identity index's, sorted; empty under FULL and NOTHING.
    pub identity_columns: Vec<String>,
    /// Whether it is a foreign table, whose changes no WAL holds.
    pub foreign: bool,
    /// Whether it is unlogged: no WAL holds its changes either.
    pub unlogged: bool,
}

/// Makes the session's names unambiguous and its waits for locks bounded; to be called once on a
/// connection used for this module, or for reading rows.
pub async fn prepare_session(client: &Client) -> Result<()> {
    client
        .batch_execute(&format!(
            "SELECT pg_catalog.set_config('search_path', '', false); SET lock_timeout = {}",
            LOCK_TIMEOUT.as_millis()
        ))
        .await
        .map_err(|error| classify(&error, "setting search_path and lock_timeout"))
}

/// Ordinary and partitioned tables that the selection takes: not temporary, unlogged, foreign,
/// partitions (their root stands for them), of the system's, or walferry's own.
pub async fn selected(client: &Client, selection: &Selection) -> Result<Vec<CatalogTable>> {
    let rows = client
        .query(
            "SELECT c.oid, n.nspname, c.relname
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
               AND n.nspname NOT IN ('information_schema', 'walferry') AND n.nspname !~ '^pg_'
             ORDER BY n.nspname, c.relname",
            &[],
        )
        .await
        .map_err(|error| classify(&error, "listing tables"))?;
    let oids: Vec<Oid> = rows
        .iter()
        .filter(|row| {
            selection.takes(&TableName::new(
                row.get::<_, String>(1),
                row.get::<_, String>(2),
            ))
        })
        .map(|row| Oid(row.get(0)))
        .collect();
    describe(client, &oids).await
}

/// Time between two looks at whether a commit is visible.
const COMMIT_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until what a transaction did to the catalog is to be seen, for `patience` at most; whether it is. A
/// commit is in the WAL, and may have been streamed, a moment before other sessions see what it did, or long
/// before where it waits for a synchronous standby; until then the transaction holds the lock of its number.
///
/// # Errors
/// When the leader cannot be asked.
pub async fn await_commit(client: &Client, xid: u32, patience: Duration) -> Result<bool> {
    let given_up = Instant::now() + patience;
    let xid = xid.to_string();
    loop {
        let row = client
            .query_one(
                "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_locks
                 WHERE locktype = 'transactionid' AND granted AND transactionid = $1::text::xid)",
                &[&xid],
            )
            .await
            .map_err(|error| classify(&error, "looking for a transaction's lock"))?;
        if !row.get::<_, bool>(0) {
            return Ok(true);
        }
        if Instant::now() >= given_up {
            return Ok(false);
        }
        tokio::time::sleep(COMMIT_INTERVAL).await;
    }
}

/// Whether the columns of a schema are there still, under their numbers, as nullable as they were. One query,
/// for when a table is announced again in the same shape.
pub async fn still_has(client: &Client, schema: &TableSchema) -> Result<bool> {
    let rows = client
        .query(
            "SELECT attnum, attnotnull FROM pg_catalog.pg_attribute
             WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped",
            &[&schema.relation.0],
        )
        .await
        .map_err(|error| classify(&error, "looking at a table's columns"))?;
    let now: HashMap<i16, bool> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    Ok(schema.columns.iter().all(|column| {
        let now = column.number.and_then(|number| now.get(&number));
        now == Some(&column.not_null)
    }))
}

/// Which of these relations are there.
///
/// # Errors
/// As a query.
pub async fn there(client: &Client, oids: &[Oid]) -> Result<BTreeSet<Oid>> {
    if oids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let oids: Vec<u32> = oids.iter().map(|oid| oid.0).collect();
    let found = relations(client, &oids).await?;
    Ok(found.into_keys().map(Oid).collect())
}

#[derive(Default)]
struct Indexes {
    primary: Option<(Vec<i16>, bool)>,
    identity: Option<Vec<i16>>,
}

/// The tables with these OIDs that are there, in the same order.
pub async fn describe(client: &Client, oids: &[Oid]) -> Result<Vec<CatalogTable>> {
    let roots: Vec<u32> = oids.iter().map(|oid| oid.0).collect();
    let leaves = leaves(client, &roots).await?;
    let mut all = roots.clone();
    all.extend(leaves.iter().map(|leaf| leaf.relation));
    all.sort_unstable();
    all.dedup();
    let columns = columns(client, &all).await?;
    let dropped = dropped(client, &roots).await?;
    let indexes = indexes(client, &all).await?;
    let relations = relations(client, &all).await?;
    let types = {
        let wanted = roots.iter().filter_map(|oid| columns.get(oid)).flatten();
        let wanted: Vec<Oid> = wanted.map(|c| c.column.type_oid).collect();
        user_types::load(client, &wanted).await?
    };
    let none = Vec::new();
    let facts = |oid: u32| {
        let relation = relations.get(&oid)?;
        let columns = columns.get(&oid).unwrap_or(&none);
        Some((relation, columns, indexes.get(&oid)))
    };
    let mut tables = Vec::with_capacity(roots.len());
    for &root in &roots {
        let Some((relation, columns, found)) = facts(root) else {
            continue;
        };
        let (mut schema, missing) = table_schema(root, relation, columns, found);
        schema.dropped = dropped.get(&root).cloned().unwrap_or_default();
        schema.types = types.needed(schema.columns.iter().map(|column| column.type_oid));
        let mut table = CatalogTable {
            partitioned: relation.kind == "p",
            schema,
            leaves: Vec::new(),
            rows_estimate: None,
            limits: Limits::default(),
            missing_key_columns: missing,
        };
        let mut fills = Vec::new();
        for leaf in leaves.iter().filter(|leaf| leaf.root == root) {
            let Some((relation, columns, found)) = facts(leaf.relation) else {
                continue;
            };
            table.leaves.push(Leaf {
                relation: Oid(leaf.relation),
                table: relation.name.clone(),
                identity: relation.identity,
                identity_columns: identity_columns(relation.identity, columns, found),
                foreign: relation.kind == "f",
                unlogged: relation.unlogged,
            });
            fills.push(columns);
            if let Some(rows) = relation.rows {
                *table.rows_estimate.get_or_insert(0) += rows;
            }
        }
        if table.partitioned {
            fill_from_leaves(&mut table.schema, &fills);
        }
        tables.push(table);
    }
    Ok(tables)
}

/// A partitioned table has no rows, so what they have in an added column is noted for its partitions.
fn fill_from_leaves(schema: &mut TableSchema, leaves: &[&Vec<ColumnFacts>]) {
    for column in schema.columns.iter_mut().filter(|c| c.fill.is_some()) {
        let of_leaf = |leaf: &&Vec<ColumnFacts>| {
            let mut columns = leaf.iter().map(|facts| &facts.column);
            columns
                .find(|other| other.name == column.name)?
                .fill
                .clone()
        };
        let mut fills = leaves.iter().map(of_leaf);
        if let Some(Some(first)) = fills.next()
            && fills.all(|fill| fill.as_ref() == Some(&first))
        {
            column.fill = Some(first);
        }
    }
}

struct RelationFacts {
    name: TableName,
    kind: String,
    identity: ReplicaIdentity,
    rows: Option<u64>,
    unlogged: bool,
}

async fn relations(client: &Client, oids: &[u32]) -> Result<HashMap<u32, RelationFacts>> {
    let rows = client
        .query(
            "SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relreplident::text,
                    CASE WHEN c.reltuples >= 0 THEN c.reltuples::int8 END, c.relpersistence = 'u'
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = ANY($1)",
            &[&oids],
        )
        .await
        .map_err(|error| classify(&error, "reading pg_class"))?;
    let facts = rows.iter().map(|row| {
        let facts = RelationFacts {
            name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
            kind: row.get(3),
            identity: identity_of(row.get::<_, String>(4).as_bytes().first().copied()),
            rows: row
                .get::<_, Option<i64>>(5)
                .and_then(|rows| u64::try_from(rows).ok()),
            unlogged: row.get(6),
        };
        (row.get::<_, u32>(0), facts)
    });
    Ok(facts.collect())
}

/// `pg_class.relreplident`, as it also stands in Relation messages.
pub fn identity_of(letter: Option<u8>) -> ReplicaIdentity {
    match letter {
        Some(b'd') => ReplicaIdentity::Default,
        Some(b'i') => ReplicaIdentity::Index,
        Some(b'f') => ReplicaIdentity::Full,
        // 'n', or a letter of a later version that this one cannot rely on.
        Some(_) | None => ReplicaIdentity::Nothing,
    }
}

struct LeafRow {
    root: u32,
    relation: u32,
}

/// Relations with storage of the roots. `pg_partition_tree` would do, but it locks every partition and
/// so waits behind whoever has one locked. `inhdetachpending` came with version 14.
async fn leaves(client: &Client, roots: &[u32]) -> Result<Vec<LeafRow>> {
    let rows = client
        .query(
            "WITH RECURSIVE tree(root, relation) AS (
                 SELECT c.oid, c.oid FROM pg_catalog.pg_class c WHERE c.oid = ANY($1)
                 UNION ALL
                 SELECT t.root, i.inhrelid FROM tree t
                 JOIN pg_catalog.pg_class p ON p.oid = t.relation AND p.relkind = 'p'
                 JOIN pg_catalog.pg_inherits i ON i.inhparent = t.relation
                 WHERE NOT coalesce((to_jsonb(i)->>'inhdetachpending')::boolean, false))
             SELECT t.root, t.relation FROM tree t
             JOIN pg_catalog.pg_class c ON c.oid = t.relation AND c.relkind <> 'p'
             ORDER BY 1, 2",
            &[&roots],
        )
        .await
        .map_err(|error| classify(&error, "reading partitions"))?;
    Ok(rows
        .iter()
        .map(|row| LeafRow {
            root: row.get(0),
            relation: row.get(1),
        })
        .collect())
}

struct ColumnFacts {
    number: i16,
    column: Column,
    generated: bool,
}

async fn columns(client: &Client, oids: &[u32]) -> Result<BTreeMap<u32, Vec<ColumnFacts>>> {
    let rows = client
        .query(
            "SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod,
                    pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> '',
                    (a.attmissingval::text::text[])[1],
                    (a.atthasdef OR a.attidentity <> '') AND NOT a.atthasmissing
             FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attrelid, a.attnum",
            &[&oids],
        )
        .await
        .map_err(|error| classify(&error, "reading columns"))?;
    let mut columns: BTreeMap<u32, Vec<ColumnFacts>> = BTreeMap::new();
    for row in &rows {
        let type_oid = Oid(row.get(3));
        let number: i16 = row.get(1);
        columns.entry(row.get(0)).or_default().push(ColumnFacts {
            number,
            column: Column {
                name: row.get(2),
                type_oid,
                type_modifier: row.get(4),
                type_name: row.get(5),
                kind: ColumnKind::of(type_oid),
                not_null: row.get(6),
                number: Some(number),
                fill: match (row.get::<_, Option<String>>(8), row.get::<_, bool>(9)) {
                    (Some(value), _) => Some(Fill::Value(value)),
                    (None, true) => Some(Fill::Unknown),
                    (None, false) => None,
                },
            },
            generated: row.get(7),
        });
    }
    Ok(columns)
}

/// `attnum`s of dropped columns.
async fn dropped(client: &Client, oids: &[u32]) -> Result<HashMap<u32, Vec<i16>>> {
    let rows = client
        .query(
            "SELECT attrelid, array_agg(attnum ORDER BY attnum) FROM pg_catalog.pg_attribute
             WHERE attrelid = ANY($1) AND attnum > 0 AND attisdropped GROUP BY attrelid",
            &[&oids],
        )
        .await
        .map_err(|error| classify(&error, "reading dropped columns"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn indexes(client: &Client, oids: &[u32]) -> Result<HashMap<u32, Indexes>> {
    let rows = client
        .query(
            "SELECT i.indrelid, i.indisprimary, i.indisreplident, i.indimmediate,
                    (SELECT array_agg(k ORDER BY o) FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(k, o)
                     WHERE o <= i.indnkeyatts)
             FROM pg_catalog.pg_index i
             WHERE i.indrelid = ANY($1) AND i.indisvalid AND (i.indisprimary OR i.indisreplident)",
            &[&oids],
        )
        .await
        .map_err(|error| classify(&error, "reading keys"))?;
    let mut found: HashMap<u32, Indexes> = HashMap::new();
    for row in &rows {
        let numbers: Vec<i16> = row.get::<_, Option<Vec<i16>>>(4).unwrap_or_default();
        let entry = found.entry(row.get(0)).or_default();
        if row.get(2) {
            entry.identity = Some(numbers.clone());
        }
        if row.get(1) {
            entry.primary = Some((numbers, row.get(3)));
        }
    }
    Ok(found)
}

/// Attribute numbers of the columns that old rows carry; a deferrable primary key is no identity.
fn identity_numbers(identity: ReplicaIdentity, found: Option<&Indexes>) -> Vec<i16> {
    let found = match (identity, found) {
        (ReplicaIdentity::Default, Some(found)) => match &found.primary {
            Some((numbers, true)) => Some(numbers),
            Some((_, false)) | None => None,
        },
        (ReplicaIdentity::Index, Some(found)) => found.identity.as_ref(),
        (ReplicaIdentity::Full | ReplicaIdentity::Nothing, _) | (_, None) => None,
    };
    found.cloned().unwrap_or_default()
}

fn identity_columns(
    identity: ReplicaIdentity,
    columns: &[ColumnFacts],
    found: Option<&Indexes>,
) -> Vec<String> {
    let numbers = identity_numbers(identity, found);
    let mut names: Vec<String> = columns
        .iter()
        .filter(|column| numbers.contains(&column.number))
        .map(|column| column.column.name.clone())
        .collect();
    names.sort();
    names
}

/// The schema, and the names of key columns that are not in the stream.
fn table_schema(
    oid: u32,
    relation: &RelationFacts,
    columns: &[ColumnFacts],
    found: Option<&Indexes>,
) -> (TableSchema, Vec<String>) {
    let streamed: Vec<&ColumnFacts> = columns.iter().filter(|c| !c.generated).collect();
    let place = |number: i16| streamed.iter().position(|c| c.number == number);
    let primary = found.and_then(|found| found.primary.as_ref());
    let primary_numbers = primary
        .map(|(numbers, _)| numbers.clone())
        .unwrap_or_default();
    let key_numbers = match relation.identity {
        // Rows may share a deferrable key until their transaction commits.
        ReplicaIdentity::Full => identity_numbers(ReplicaIdentity::Default, found),
        identity @ (ReplicaIdentity::Default
        | ReplicaIdentity::Index
        | ReplicaIdentity::Nothing) => identity_numbers(identity, found),
    };
    let missing = columns
        .iter()
        .filter(|c| c.generated && key_numbers.contains(&c.number))
        .map(|c| c.column.name.clone())
        .collect();
    let mut key: Vec<usize> = key_numbers
        .iter()
        .filter_map(|&number| place(number))
        .collect();
    key.sort_unstable();
    let primary_key: Option<Vec<usize>> = primary_numbers.iter().map(|&n| place(n)).collect();
    let schema = TableSchema {
        table: relation.name.clone(),
        relation: Oid(oid),
        columns: streamed.iter().map(|c| c.column.clone()).collect(),
        key,
        primary_key: primary_key.unwrap_or_default(),
        identity: relation.identity,
        partitions: 1,
        types: Vec::<UserType>::new(),
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    };
    (schema, missing)
}

#[cfg(test)]
impl CatalogTable {
    /// A table `public.<name>` of which nothing else is known.
    pub(crate) fn bare(name: &str, relation: u32) -> Self {
        CatalogTable {
            schema: TableSchema {
                table: TableName::new("public", name),
                relation: Oid(relation),
                columns: Vec::new(),
                key: Vec::new(),
                primary_key: Vec::new(),
                identity: ReplicaIdentity::Default,
                partitions: 1,
                types: Vec::new(),
                dropped: Vec::new(),
                rewritten: None,
                unpublished: Vec::new(),
                exact: false,
            },
            leaves: Vec::new(),
            partitioned: false,
            rows_estimate: None,
            limits: Limits::default(),
            missing_key_columns: Vec::new(),
        }
    }
}
