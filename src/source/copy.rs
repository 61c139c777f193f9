//! Reading the rows of tables as they were at one point: an exported snapshot, chunks of blocks,
//! COPY's text format. On the leader; a snapshot of a follower (`capture::copy_follower`) is read in the same way.
//!
//! The snapshot belongs to a temporary slot's consistent point C: what transactions with a commit
//! LSN below C left is visible, and nothing else. Two things can change under a snapshot although
//! it is one: TRUNCATE and rewriting ALTER TABLE (documented caveats of MVCC). So tables are locked
//! against them first, and what happened between C and the lock is looked for.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use tokio_postgres::Client;

use crate::config::PostgresSettings;
use crate::error::{Error, Result};
use crate::model::relation::{quote_identifier, quote_literal};
use crate::model::{Lsn, Oid, TableName};
use crate::postgres::{classify, connect};
use crate::source::catalog::{self, CatalogTable};
use crate::source::connection::{ReplicationConnection, SystemIdentity};

/// Blocks that one COPY reads: small enough to share the work evenly.
const CHUNK_BLOCKS: u64 = 4096;

/// How long asking for sizes waits for a table that somebody has locked.
const SIZE_LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Sessions that see the leader at one point, or a follower that shows it at that point.
pub struct Snapshot {
    /// The point C.
    pub point: Lsn,
    /// The leader that it is a point of.
    pub identity: SystemIdentity,
    /// One session a reader, each in a transaction with the snapshot.
    pub readers: Vec<Client>,
    /// A session on the same server that sees it as it is now.
    pub outside: Client,
}

/// Creates a temporary slot and gives its snapshot to so many sessions. Waits for transactions that
/// are open now.
///
/// # Errors
/// As connecting and creating a slot.
pub async fn open_snapshot(
    settings: &PostgresSettings,
    application_name: &str,
    slot: &str,
    readers: u32,
) -> Result<Snapshot> {
    let mut exporter = ReplicationConnection::open(settings, application_name, &[]).await?;
    let identity = exporter.identify_system().await?;
    let created = exporter.create_slot(slot, true, true).await?;
    let snapshot = created
        .snapshot
        .ok_or_else(|| Error::transient("the leader exported no snapshot with the slot"))?;
    let sessions = import(settings, application_name, &snapshot, readers.max(1)).await?;
    // The sessions hold the snapshot themselves now; the slot would only keep WAL.
    drop(exporter);
    Ok(Snapshot {
        point: created.consistent_point,
        identity,
        readers: sessions,
        outside: session(settings, application_name).await?,
    })
}

/// Begins the transaction of a reader.
pub const BEGIN: &str = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET row_security = off;
    BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";

/// A session in which values have the text that records have.
///
/// # Errors
/// As connecting.
pub async fn session(settings: &PostgresSettings, application_name: &str) -> Result<Client> {
    let session = connect(settings, application_name).await?;
    catalog::prepare_session(&session).await?;
    Ok(session)
}

/// So many sessions that see what an exported snapshot shows.
///
/// # Errors
/// As connecting, and when the snapshot is gone.
pub async fn import(
    settings: &PostgresSettings,
    application_name: &str,
    snapshot: &str,
    sessions: u32,
) -> Result<Vec<Client>> {
    let mut all = Vec::new();
    for _ in 0..sessions {
        let session = session(settings, application_name).await?;
        begin_with(&session, snapshot).await?;
        all.push(session);
    }
    Ok(all)
}

/// Begins a transaction that sees what an exported snapshot shows.
///
/// # Errors
/// When the snapshot is gone.
pub async fn begin_with(session: &Client, snapshot: &str) -> Result<()> {
    let begin = format!(
        "{BEGIN}; SET TRANSACTION SNAPSHOT {}",
        quote_literal(snapshot)
    );
    let begun = session.batch_execute(&begin).await;
    begun.map_err(|error| classify(&error, "importing a snapshot"))
}

impl Snapshot {
    /// The tables as they were at the point, locked against what a snapshot does not protect from, by
    /// every reader: one that had to lock a table later could meet a TRUNCATE that waits for another
    /// reader, and Postgres cannot see that they wait for each other.
    ///
    /// # Errors
    /// Transient when a table was dropped, renamed, altered, truncated or rewritten since, or when somebody
    /// waits to do so right now: copy again.
    pub async fn lock(&self, relations: &[Oid]) -> Result<Vec<CatalogTable>> {
        let session = self
            .readers
            .first()
            .ok_or_else(|| Error::transient("a copy has no reader"))?;
        let tables = catalog::describe(session, relations).await?;
        let leaves: Vec<(u32, String)> = tables
            .iter()
            .flat_map(|table| &table.leaves)
            .map(|leaf| (leaf.relation.0, leaf.table.quoted()))
            .collect();
        if tables.len() != relations.len() {
            return Err(changed());
        }
        if leaves.is_empty() {
            return Ok(tables);
        }
        let list: Vec<String> = leaves
            .iter()
            .map(|(_, name)| format!("ONLY {name}"))
            .collect();
        let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", list.join(", "));
        for (number, reader) in self.readers.iter().enumerate() {
            // The first may wait. With its locks held, whatever another one would wait for waits for the
            // first itself (a TRUNCATE in the queue).
            let waits = if number == 0 { "" } else { " NOWAIT" };
            reader
                .batch_execute(&format!("{lock}{waits}"))
                .await
                .map_err(|error| classify(&error, "locking tables for their copy"))?;
        }
        let (oids, names): (Vec<u32>, Vec<String>) = leaves.into_iter().unzip();
        // pg_class is read under the snapshot, the functions look at the catalog as it is now.
        let row = session
            .query_one(
                "SELECT count(*) FILTER (WHERE c.oid IS NOT NULL
                        AND c.relfilenode = pg_catalog.pg_relation_filenode(l.o)
                        AND l.o = pg_catalog.to_regclass(l.n)::oid) = count(*)
                 FROM unnest($1::oid[], $2::text[]) l(o, n)
                 LEFT JOIN pg_catalog.pg_class c ON c.oid = l.o",
                &[&oids, &names],
            )
            .await
            .map_err(|error| classify(&error, "checking tables before their copy"))?;
        // Rows are read by columns' names as they are now. Nobody alters the tables from here on.
        let is_same =
            row.get(0) && shapes(&self.outside, &oids).await? == shapes(session, &oids).await?;
        match is_same {
            true => Ok(tables),
            false => Err(changed()),
        }
    }

    /// Blocks of each leaf now: rows of the snapshot lie in them or (for the last chunk) beyond.
    pub async fn blocks(&self, leaves: &[Oid]) -> Result<Vec<u64>> {
        let session = self
            .readers
            .first()
            .ok_or_else(|| Error::transient("a copy has no reader"))?;
        let oids: Vec<u32> = leaves.iter().map(|oid| oid.0).collect();
        let rows = session
            .query(
                "SELECT pg_catalog.pg_relation_size(o) / pg_catalog.current_setting('block_size')::int8
                 FROM unnest($1::oid[]) WITH ORDINALITY l(o, i) ORDER BY i",
                &[&oids],
            )
            .await
            .map_err(|error| classify(&error, "measuring tables"))?;
        Ok(rows
            .iter()
            .map(|row| row.get::<_, Option<i64>>(0).unwrap_or(0).unsigned_abs())
            .collect())
    }
}

/// A table is not any more what it was at the point: copy again.
fn changed() -> Error {
    Error::transient(
        "a table was dropped, renamed, altered, truncated or rewritten while its copy began",
    )
}

/// Numbers, names and types of the columns of some relations.
const SHAPES: &str = "SELECT attrelid, attnum, attname::text, atttypid, atttypmod
    FROM pg_catalog.pg_attribute
    WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum";

/// A column of a relation: number, name, type and its modifier.
type ColumnShape = (u32, i16, String, u32, i32);

async fn shapes(client: &Client, oids: &[u32]) -> Result<Vec<ColumnShape>> {
    let rows = client.query(SHAPES, &[&oids]).await;
    let rows = rows.map_err(|error| classify(&error, "reading the columns of a copy's tables"))?;
    let shape =
        |row: &tokio_postgres::Row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
    Ok(rows.iter().map(shape).collect())
}

/// A range of blocks of one leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Index of the table among those of the copy.
    pub table: usize,
    /// The leaf.
    pub leaf: TableName,
    /// First block.
    pub from: u64,
    /// First block behind it; none: to the end.
    pub to: Option<u64>,
}

/// Cuts leaves (table index, name, blocks) into chunks; the last of each is open-ended.
pub fn plan_chunks(leaves: &[(usize, TableName, u64)]) -> VecDeque<Chunk> {
    let mut chunks = VecDeque::new();
    for (table, leaf, blocks) in leaves {
        let mut from = 0;
        loop {
            let to = from + CHUNK_BLOCKS;
            let last = to >= *blocks;
            chunks.push_back(Chunk {
                table: *table,
                leaf: leaf.clone(),
                from,
                to: (!last).then_some(to),
            });
            if last {
                break;
            }
            from = to;
        }
    }
    chunks
}

/// Bytes of the tables' rows on disk, TOAST included and indexes not, by the tables' OIDs. One that
/// is gone meanwhile has none.
///
/// # Errors
/// As a query; transient while somebody holds a lock on a table that lets nobody read it.
pub async fn table_bytes(client: &Client, tables: &[CatalogTable]) -> Result<HashMap<Oid, u64>> {
    let leaves = tables.iter().flat_map(|table| {
        let leaves = table.leaves.iter();
        leaves.map(move |leaf| (table.schema.relation.0, leaf.relation.0))
    });
    let (roots, leaves): (Vec<u32>, Vec<u32>) = leaves.unzip();
    let query = "SELECT root, pg_catalog.sum(pg_catalog.pg_table_size(leaf))::bigint
                 FROM ROWS FROM (pg_catalog.unnest($1::oid[]), pg_catalog.unnest($2::oid[])) AS of (root, leaf)
                 GROUP BY root";
    let failed = |error: tokio_postgres::Error| classify(&error, "asking for the tables' sizes");
    let limit = format!("SET lock_timeout = {}", SIZE_LOCK_TIMEOUT.as_millis());
    client.batch_execute(&limit).await.map_err(failed)?;
    let rows = client
        .query(query, &[&roots, &leaves])
        .await
        .map_err(failed)?;
    let sizes = rows.iter().filter_map(|row| {
        let bytes = row.get::<_, Option<i64>>(1)?;
        Some((Oid(row.get(0)), u64::try_from(bytes).unwrap_or(0)))
    });
    Ok(sizes.collect())
}

/// The COPY that reads these columns of a chunk.
pub fn statement(columns: &[String], row_filter: Option<&str>, chunk: &Chunk) -> String {
    let columns: Vec<String> = columns.iter().map(|name| quote_identifier(name)).collect();
    let mut conditions = Vec::new();
    if chunk.from > 0 {
        conditions.push(format!("ctid >= '({},0)'::pg_catalog.tid", chunk.from));
    }
    if let Some(to) = chunk.to {
        conditions.push(format!("ctid < '({to},0)'::pg_catalog.tid"));
    }
    if let Some(filter) = row_filter {
        conditions.push(format!("({filter})"));
    }
    let filter = if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    };
    format!(
        "COPY (SELECT {} FROM ONLY {}{filter}) TO STDOUT",
        columns.join(", "),
        chunk.leaf.quoted()
    )
}

/// Rows of COPY's text format (Postgres docs, "COPY: Text Format"), one line at a time.
#[derive(Debug, Default)]
pub struct RowParser {
    text: Vec<u8>,
    cells: Vec<Option<Range<usize>>>,
}

impl RowParser {
    /// Reads a line (without its newline) of `width` columns.
    ///
    /// # Errors
    /// Transient when the line is not what COPY writes.
    pub fn parse(&mut self, line: &[u8], width: usize) -> Result<()> {
        self.text.clear();
        self.cells.clear();
        if width == 0 && line.is_empty() {
            return Ok(());
        }
        let mut rest = line;
        loop {
            let end = memchr::memchr2(b'\t', b'\\', rest);
            let start = self.text.len();
            match end {
                // Most values have nothing to unescape.
                Some(at) if rest[at] == b'\t' => {
                    self.text.extend_from_slice(&rest[..at]);
                    self.cells.push(Some(start..self.text.len()));
                    rest = &rest[at + 1..];
                    continue;
                }
                None => {
                    self.text.extend_from_slice(rest);
                    self.cells.push(Some(start..self.text.len()));
                    break;
                }
                Some(_) => {}
            }
            let stop = memchr::memchr(b'\t', rest).unwrap_or(rest.len());
            if &rest[..stop] == b"\\N" {
                self.cells.push(None);
            } else {
                unescape(&rest[..stop], &mut self.text)?;
                self.cells.push(Some(start..self.text.len()));
            }
            if stop == rest.len() {
                break;
            }
            rest = &rest[stop + 1..];
        }
        if self.cells.len() == width {
            Ok(())
        } else {
            Err(Error::transient(format!(
                "COPY sent a line of {} columns instead of {width}",
                self.cells.len()
            )))
        }
    }

    /// The values of the line: text, or none for NULL.
    pub fn values(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.cells
            .iter()
            .map(|cell| cell.as_ref().map(|range| &self.text[range.clone()]))
    }
}

/// `CopyAttributeOutText` in Postgres's copyto.c escapes exactly these.
fn unescape(value: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut rest = value;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let plain = match rest.get(at + 1) {
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 0x0b,
            Some(b'\\') => b'\\',
            Some(_) | None => {
                return Err(Error::transient(
                    "COPY sent an escape that it does not write",
                ));
            }
        };
        out.push(plain);
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `CopyAttributeOutText` does.
    fn escape(values: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut line = Vec::new();
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                line.push(b'\t');
            }
            let Some(value) = value else {
                line.extend_from_slice(b"\\N");
                continue;
            };
            for &byte in value {
                let letter = match byte {
                    0x08 => b'b',
                    0x0c => b'f',
                    b'\n' => b'n',
                    b'\r' => b'r',
                    b'\t' => b't',
                    0x0b => b'v',
                    b'\\' => b'\\',
                    other => {
                        line.push(other);
                        continue;
                    }
                };
                line.extend_from_slice(&[b'\\', letter]);
            }
        }
        line
    }

    proptest! {
        #[test]
        fn lines_give_back_what_copy_escaped(
            values in proptest::collection::vec(
                proptest::option::of(proptest::collection::vec(prop_oneof![Just(b'\\'), Just(b'\t'), Just(b'N'), any::<u8>()], 0..12)),
                1..6,
            )
        ) {
            let mut parser = RowParser::default();
            parser.parse(&escape(&values), values.len()).expect("a line");
            let got: Vec<Option<Vec<u8>>> = parser.values().map(|v| v.map(<[u8]>::to_vec)).collect();
            prop_assert_eq!(got, values);
        }

        #[test]
        fn any_bytes_are_read_or_refused(line: Vec<u8>, width in 0usize..4) {
            let _ = RowParser::default().parse(&line, width);
        }
    }

    #[test]
    fn rows_without_columns_are_rows() {
        let mut parser = RowParser::default();
        parser.parse(b"", 0).expect("no columns");
        assert_eq!(parser.values().count(), 0);
        parser.parse(b"", 1).expect("one empty value");
        assert_eq!(parser.values().collect::<Vec<_>>(), vec![Some(&b""[..])]);
        assert!(parser.parse(b"a\tb", 1).is_err());
    }

    #[test]
    fn chunks_cover_every_block_once_and_the_last_is_open() {
        let name = TableName::new("public", "t");
        for blocks in [0, 1, CHUNK_BLOCKS, CHUNK_BLOCKS + 1, 5 * CHUNK_BLOCKS - 1] {
            let chunks = plan_chunks(&[(0, name.clone(), blocks)]);
            let mut next = Some(0);
            for chunk in &chunks {
                assert_eq!(Some(chunk.from), next);
                next = chunk.to;
            }
            assert_eq!(next, None, "{blocks} blocks");
            assert_eq!(chunks.len() as u64, blocks.div_ceil(CHUNK_BLOCKS).max(1));
        }
    }
}
