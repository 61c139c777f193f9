//! The publication: what it has to be, and keeping a managed one up.
//!
//! Nothing is recreated here: whether one may be created at all is the take-over's decision.

use std::collections::BTreeSet;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::{Error, Result};
use crate::model::TableName;
use crate::model::relation::{quote_identifier, quote_literal};
use crate::postgres::classify;

/// A publication as the leader has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Whether all four kinds of change are published.
    pub all_changes: bool,
    /// `publish_generated_columns` is not `none` (from version 18).
    pub generated_columns: bool,
    /// `publish_via_partition_root`.
    pub via_root: bool,
    /// FOR ALL TABLES, or with schemas: its tables cannot be managed one by one.
    pub open_ended: bool,
    /// The tables named in it (roots of partitioned tables).
    pub tables: BTreeSet<TableName>,
}

/// Reads a publication; `None` when there is none of that name.
pub async fn read(client: &Client, name: &str) -> Result<Option<Publication>> {
    let doing = "reading the publication";
    // pg_publication_namespace came with version 15: it is asked only where it is.
    let row = client
        .query_opt(
            "SELECT p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate, p.pubviaroot,
                    p.puballtables, pg_catalog.to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL,
                    coalesce(to_jsonb(p)->>'pubgencols', 'n') <> 'n'
             FROM pg_catalog.pg_publication p WHERE p.pubname = $1",
            &[&name],
        )
        .await
        .map_err(|error| classify(&error, doing))?;
    let Some(row) = row else {
        return Ok(None);
    };
    let mut open_ended: bool = row.get(2);
    if row.get(3) {
        let schemas = client
            .query_one(
                "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_publication_namespace s
                 JOIN pg_catalog.pg_publication p ON p.oid = s.pnpubid WHERE p.pubname = $1)",
                &[&name],
            )
            .await
            .map_err(|error| classify(&error, doing))?;
        open_ended |= schemas.get::<_, bool>(0);
    }
    let tables = client
        .query(
            "SELECT n.nspname, c.relname FROM pg_catalog.pg_publication_rel r
             JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
             JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1",
            &[&name],
        )
        .await
        .map_err(|error| classify(&error, doing))?;
    Ok(Some(Publication {
        all_changes: row.get(0),
        generated_columns: row.get(4),
        via_root: row.get(1),
        open_ended,
        tables: tables
            .iter()
            .map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)))
            .collect(),
    }))
}

/// Checks that a publication carries everything that followers need.
///
/// # Errors
/// Halt, with the statement that puts it right.
pub fn check(publication: &Publication, name: &str, managed: bool) -> Result<()> {
    let quoted = quote_identifier(name);
    if !publication.all_changes {
        return Err(Error::halt(
            format!(
                "publication {name} does not publish all of insert, update, delete and truncate: followers would diverge"
            ),
            format!(
                "run ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate')"
            ),
        ));
    }
    // The catalog's columns are those of the records: rows of a copy would lack what changes carry.
    if publication.generated_columns {
        return Err(Error::halt(
            format!(
                "publication {name} publishes generated columns, which walferry does not carry"
            ),
            format!(
                "run ALTER PUBLICATION {quoted} SET (publish_generated_columns = none), and have followers generate them"
            ),
        ));
    }
    if managed && !publication.via_root {
        return Err(Error::halt(
            format!("publication {name} does not publish partitions via their root"),
            format!("run ALTER PUBLICATION {quoted} SET (publish_via_partition_root = true)"),
        ));
    }
    if managed && publication.open_ended {
        return Err(Error::halt(
            format!(
                "publication {name} is FOR ALL TABLES or has schemas, so walferry cannot manage its tables"
            ),
            "set manage_publication = false to use it as it is, or name another publication in the source's settings",
        ));
    }
    Ok(())
}

/// The statement that makes a managed publication of these tables.
pub fn create_statement(name: &str, tables: &[&TableName]) -> String {
    let quoted = quote_identifier(name);
    let list = table_list(tables);
    // An empty publication has no FOR clause.
    let tables = if list.is_empty() {
        String::new()
    } else {
        format!(" FOR TABLE {list}")
    };
    format!("CREATE PUBLICATION {quoted}{tables} WITH (publish_via_partition_root = true)")
}

/// The statement that adds tables.
pub fn add_statement(name: &str, tables: &[&TableName]) -> String {
    format!(
        "ALTER PUBLICATION {} ADD TABLE {}",
        quote_identifier(name),
        table_list(tables)
    )
}

/// The statement that takes tables out.
pub fn drop_statement(name: &str, tables: &[&TableName]) -> String {
    format!(
        "ALTER PUBLICATION {} DROP TABLE {}",
        quote_identifier(name),
        table_list(tables)
    )
}

/// ONLY: inheritance children are tables of their own; of partitioned tables it changes nothing.
fn table_list(tables: &[&TableName]) -> String {
    let names: Vec<String> = tables
        .iter()
        .map(|table| format!("ONLY {}", table.quoted()))
        .collect();
    names.join(", ")
}

/// Longest wait for the lock of a table that joins or leaves. Who waits here may hold the slot.
const LOCK_TIMEOUT: &str = "5s";

/// Runs one of the statements above with a commit that waits for no standby: walferry may be the
/// standby that it would wait for. The session is usable afterwards, whatever happened.
///
/// # Errors
/// Transient when another session was quicker or a table stays locked; else by SQLSTATE.
pub async fn run(client: &Client, statement: &str) -> Result<()> {
    const DOING: &str = "changing the publication";
    let statements = format!(
        "BEGIN; SET LOCAL synchronous_commit = {}; SET LOCAL lock_timeout = {}; {statement}; COMMIT",
        quote_literal("local"),
        quote_literal(LOCK_TIMEOUT),
    );
    let Err(error) = client.batch_execute(&statements).await else {
        return Ok(());
    };
    if !error.is_closed() {
        client
            .batch_execute("ROLLBACK")
            .await
            .map_err(|error| classify(&error, DOING))?;
    }
    let classified = classify(&error, DOING);
    if error.code().is_some_and(is_race) {
        return Err(
            Error::transient(format!("{DOING}: tables or publication changed meanwhile"))
                .caused_by(classified.what()),
        );
    }
    Err(classified)
}

/// Whether a statement came too late: publication or member are there already (one that is made at
/// the same moment is met as a violation of the catalog's unique index), or a table, schema or
/// publication has gone since it was looked at. The next look sees what is so.
fn is_race(code: &SqlState) -> bool {
    [
        SqlState::DUPLICATE_OBJECT,
        SqlState::UNIQUE_VIOLATION,
        SqlState::UNDEFINED_OBJECT,
        SqlState::UNDEFINED_TABLE,
        SqlState::INVALID_SCHEMA_NAME,
    ]
    .contains(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_name_tables_exactly() {
        let odd = TableName::new("My \"shop\"", "o.rders");
        assert_eq!(
            create_statement("p", &[&odd, &TableName::new("public", "a")]),
            "CREATE PUBLICATION \"p\" FOR TABLE ONLY \"My \"\"shop\"\"\".\"o.rders\", ONLY \"public\".\"a\" WITH (publish_via_partition_root = true)"
        );
        assert_eq!(
            create_statement("p", &[]),
            "CREATE PUBLICATION \"p\" WITH (publish_via_partition_root = true)"
        );
        assert_eq!(
            add_statement("p", &[&TableName::new("s", "t")]),
            "ALTER PUBLICATION \"p\" ADD TABLE ONLY \"s\".\"t\""
        );
    }

    #[test]
    fn a_publication_that_leaves_changes_out_is_refused() {
        let good = Publication {
            all_changes: true,
            generated_columns: false,
            via_root: true,
            open_ended: false,
            tables: BTreeSet::new(),
        };
        assert!(check(&good, "p", true).is_ok());
        for (bad, managed) in [
            (
                Publication {
                    all_changes: false,
                    ..good.clone()
                },
                false,
            ),
            (
                Publication {
                    generated_columns: true,
                    ..good.clone()
                },
                false,
            ),
            (
                Publication {
                    via_root: false,
                    ..good.clone()
                },
                true,
            ),
            (
                Publication {
                    open_ended: true,
                    ..good.clone()
                },
                true,
            ),
        ] {
            let error = check(&bad, "p", managed).expect_err("refused");
            assert!(error.remedy().is_some());
        }
        assert!(
            check(
                &Publication {
                    open_ended: true,
                    ..good
                },
                "p",
                false
            )
            .is_ok()
        );
    }
}
