//! Indexes that are built behind the rows of a copy: `walferry.indexes` notes those that are still to be
//! made.
//!
//! A note is written in the follower transaction that drops the index, and removed in the one that makes
//! it (`build`): at any moment an index is there or noted. Notes belong to the follower's table, not to
//! a sink: whoever brings the table into effect builds them.
//!
//! Set aside is only what nothing relies on while rows and changes come, and what can be made again
//! exactly as it was by its statement, tablespace and comment. Unique indexes stay: they are how a row
//! that is there twice is found.

use std::collections::BTreeSet;

use tokio_postgres::{Client, Row};

use super::failure::{plain_error, rows_error};
use super::pipeline::{Cause, within};
use super::{Ending, PostgresSink};
use crate::config::{BuildIndexes, TakenIndexes};
use crate::error::Result;
use crate::model::relation::quote_identifier;
use crate::model::{Offer, OfferKind, TableName};
use crate::sink::place::Place;

/// Indexes of an ordinary table that can go: not unique, of no constraint, not clustered on, no part of a
/// partitioned index, without statistics targets, nobody depending on them and they on no extension;
/// and of which the role can make each again.
const CAN_GO: &str = "SELECT x.relname::text, pg_catalog.pg_get_indexdef(x.oid), \
        COALESCE(s.spcname::text, ''), pg_catalog.obj_description(x.oid, 'pg_class'), \
        m.amname = 'btree' AND i.indpred IS NULL AND i.indexprs IS NULL \
    FROM pg_catalog.pg_class t \
    JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
    JOIN pg_catalog.pg_index i ON i.indrelid = t.oid \
    JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid \
    JOIN pg_catalog.pg_am m ON m.oid = x.relam \
    LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = x.reltablespace \
    WHERE n.nspname = $1 AND t.relname = $2 AND t.relkind = 'r' \
        AND x.relkind = 'i' AND NOT x.relispartition \
        AND i.indisvalid AND i.indisready AND i.indislive \
        AND NOT (i.indisunique OR i.indisprimary OR i.indisexclusion OR i.indisclustered OR i.indisreplident) \
        AND pg_catalog.pg_has_role(t.relowner, 'USAGE') \
        AND pg_catalog.has_schema_privilege(n.oid, 'CREATE') \
        AND (x.reltablespace = 0 OR pg_catalog.has_tablespace_privilege(x.reltablespace, 'CREATE')) \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a \
            WHERE a.attrelid = x.oid AND COALESCE(a.attstattarget, -1) >= 0) \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d \
            WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = x.oid \
                AND d.deptype NOT IN ('a', 'n')) \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d \
            WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = x.oid) \
    ORDER BY x.relname";

/// What is noted already of an index that was remade by hand meanwhile is out of date.
const NOTE: &str = "INSERT INTO walferry.indexes \
        (table_schema, table_name, name, offered, statement, tablespace, comment) \
    VALUES ($1, $2, $3, false, $4, $5, $6) \
    ON CONFLICT (table_schema, table_name, name) DO UPDATE SET offered = false, \
        statement = excluded.statement, tablespace = excluded.tablespace, comment = excluded.comment, \
        noted_at = excluded.noted_at";

/// The follower's own index of this name goes before the leader's.
const NOTE_OFFER: &str = "INSERT INTO walferry.indexes \
        (table_schema, table_name, name, offered, statement) \
    VALUES ($1, $2, $3, true, $4) ON CONFLICT DO NOTHING";

const DROP_OFFERS: &str = "DELETE FROM walferry.indexes \
    WHERE table_schema = $1 AND table_name = $2 AND offered";

/// Definitions of all indexes that a table has or is to have again.
const DEFINITIONS: &str = "SELECT pg_catalog.pg_get_indexdef(i.indexrelid) \
    FROM pg_catalog.pg_class t \
    JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
    JOIN pg_catalog.pg_index i ON i.indrelid = t.oid \
    WHERE n.nspname = $1 AND t.relname = $2 \
    UNION ALL SELECT statement FROM walferry.indexes WHERE table_schema = $1 AND table_name = $2";

/// Which of these names the table's constraints or its schema's relations have.
const TAKEN_NAMES: &str = "SELECT w.name FROM unnest($3::text[]) AS w(name) \
    JOIN pg_catalog.pg_namespace n ON n.nspname = $1 \
    JOIN pg_catalog.pg_class t ON t.relnamespace = n.oid AND t.relname = $2 \
    WHERE EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conrelid = t.oid AND c.conname = w.name) \
        OR EXISTS (SELECT FROM pg_catalog.pg_class x WHERE x.relnamespace = n.oid AND x.relname = w.name)";

const NOTED: &str = "SELECT i.table_schema, i.table_name, i.name, i.offered, i.statement, i.tablespace, i.comment \
    FROM unnest($1::text[], $2::text[]) AS w(s, t) \
    JOIN walferry.indexes i ON i.table_schema = w.s AND i.table_name = w.t \
    ORDER BY i.table_schema, i.table_name, i.offered, i.noted_at, i.name";

/// An index or constraint that is still to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// The follower's table.
    pub table: TableName,
    /// Name of the index or constraint.
    pub name: String,
    /// The leader's, which the follower never had; else the follower's own.
    pub offered: bool,
    /// What makes it.
    pub statement: String,
    /// Its tablespace; empty: the database's own.
    pub tablespace: String,
    /// Its comment.
    pub comment: Option<String>,
}

impl PostgresSink {
    /// Drops and notes what can go of a table's indexes, in the open transaction.
    pub(super) async fn set_aside(&mut self, table: &TableName) -> Result<(), Ending> {
        if self.settings.build_indexes == BuildIndexes::WithRows {
            return Ok(());
        }
        // Rows of a table without a key are found by such an index; of one that is not known it is not known.
        let session = self.session()?;
        let Some(has_key) = session.has_key(table) else {
            return Ok(());
        };
        let client = std::sync::Arc::clone(&session.client);
        let limit = session.limit;
        let set_aside = within(limit, drop_and_note(&client, table, has_key)).await;
        match set_aside {
            Ok(names) if names.is_empty() => Ok(()),
            Ok(names) => {
                tracing::info!(
                    sink = %self.me.sink,
                    %table,
                    indexes = ?names,
                    "indexes are set aside, to be built behind the rows"
                );
                Ok(())
            }
            Err(cause) => {
                let place = Place::of_table(table);
                Err(rows_error(&place, None, &cause, "setting indexes aside").into())
            }
        }
    }

    /// Notes what the follower lacks of what the leader offers, in the open transaction.
    pub(super) async fn note_offers(
        &mut self,
        table: &TableName,
        offers: &[Offer],
    ) -> Result<(), Ending> {
        let taken = self.settings.indexes;
        let session = self.session()?;
        let wanted: Vec<&Offer> = offers
            .iter()
            .filter(|offer| takes(taken, offer.kind))
            .collect();
        if !wanted.is_empty() && !session.has_same_names(table) {
            tracing::warn!(
                sink = %self.me.sink,
                %table,
                "columns have other names on the follower: it gets none of the leader's indexes"
            );
            return Ok(());
        }
        let client = std::sync::Arc::clone(&session.client);
        let limit = session.limit;
        within(limit, note(&client, table, &wanted))
            .await
            .map_err(|cause: Cause| plain_error(&cause, "writing walferry.indexes").into())
    }

    /// What is still to be made on these tables.
    pub(super) async fn noted(&mut self, tables: &BTreeSet<TableName>) -> Result<Vec<Note>> {
        let session = self.session()?;
        let client = std::sync::Arc::clone(&session.client);
        let (schemas, names): (Vec<&str>, Vec<&str>) = tables
            .iter()
            .map(|table| (table.schema.as_str(), table.name.as_str()))
            .unzip();
        let noted = async {
            client
                .query(NOTED, &[&schemas, &names])
                .await?
                .iter()
                .map(read)
                .collect()
        };
        within(session.limit, noted)
            .await
            .map_err(|cause| plain_error(&cause, "reading walferry.indexes"))
    }
}

/// Whether the setting takes what is offered.
pub(super) fn takes(taken: TakenIndexes, kind: OfferKind) -> bool {
    match taken {
        TakenIndexes::None => false,
        TakenIndexes::Unique => kind.is_unique(),
        TakenIndexes::All => true,
    }
}

fn read(row: &Row) -> Result<Note, tokio_postgres::Error> {
    Ok(Note {
        table: TableName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?),
        name: row.try_get(2)?,
        offered: row.try_get(3)?,
        statement: row.try_get(4)?,
        tablespace: row.try_get(5)?,
        comment: row.try_get(6)?,
    })
}

/// Names of the indexes dropped.
async fn drop_and_note(
    client: &Client,
    table: &TableName,
    has_key: bool,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let mut names = Vec::new();
    for row in client.query(CAN_GO, &[&table.schema, &table.name]).await? {
        let (name, statement): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (tablespace, comment): (String, Option<String>) = (row.try_get(2)?, row.try_get(3)?);
        let leads_plainly: bool = row.try_get(4)?;
        if leads_plainly && !has_key {
            continue;
        }
        let of = [&table.schema, &table.name, &name, &statement, &tablespace];
        let [schema, of_table, index, made_by, space] = of;
        client
            .execute(NOTE, &[schema, of_table, index, made_by, space, &comment])
            .await?;
        let schema = quote_identifier(&table.schema);
        let drop = format!("DROP INDEX {schema}.{}", quote_identifier(&name));
        client.batch_execute(&drop).await?;
        names.push(name);
    }
    Ok(names)
}

async fn note(
    client: &Client,
    table: &TableName,
    wanted: &[&Offer],
) -> Result<(), tokio_postgres::Error> {
    let (schema, name) = (&table.schema, &table.name);
    // Those of an earlier copy that came to nothing may be the leader's no more.
    client.execute(DROP_OFFERS, &[schema, name]).await?;
    if wanted.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = wanted.iter().map(|offer| offer.name.as_str()).collect();
    let taken = client.query(TAKEN_NAMES, &[schema, name, &names]).await?;
    let taken: BTreeSet<String> = taken
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    let there = client.query(DEFINITIONS, &[schema, name]).await?;
    let there: Vec<String> = there
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    for offer in lacking(wanted, &taken, &there) {
        let statement = offer.statement(table);
        client
            .execute(NOTE_OFFER, &[schema, name, &offer.name, &statement])
            .await?;
    }
    Ok(())
}

/// What a table lacks of these offers: no name of its is the same, and no index does the same.
fn lacking<'a>(
    wanted: &[&'a Offer],
    taken_names: &BTreeSet<String>,
    there: &[String],
) -> Vec<&'a Offer> {
    let there: BTreeSet<(bool, &str)> = there.iter().filter_map(|sql| does(sql)).collect();
    let is_lacking = |offer: &&&Offer| {
        let of_constraint;
        let same = match offer.kind {
            OfferKind::Index | OfferKind::UniqueIndex => does(&offer.definition),
            OfferKind::Unique => {
                of_constraint = offer.definition.replacen("UNIQUE", "USING btree", 1);
                Some((true, of_constraint.as_str()))
            }
            OfferKind::Check | OfferKind::Exclude => None,
        };
        !taken_names.contains(&offer.name) && !same.is_some_and(|same| there.contains(&same))
    };
    wanted.iter().filter(is_lacking).copied().collect()
}

/// What an index does, whatever its name: whether it is unique, and method, columns and condition as
/// `pg_get_indexdef` writes them behind the table's name. A name that looks like SQL only makes two indexes
/// look different.
fn does(definition: &str) -> Option<(bool, &str)> {
    let at = definition.find(" USING ")?;
    let unique = definition.starts_with("CREATE UNIQUE INDEX ");
    Some((unique, &definition[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(name: &str, kind: OfferKind, definition: &str) -> Offer {
        Offer {
            name: name.to_owned(),
            kind,
            definition: definition.to_owned(),
        }
    }

    #[test]
    fn the_setting_says_what_is_taken() {
        let all = [
            OfferKind::Index,
            OfferKind::UniqueIndex,
            OfferKind::Unique,
            OfferKind::Check,
            OfferKind::Exclude,
        ];
        let taken = |setting| -> Vec<OfferKind> {
            all.into_iter()
                .filter(|kind| takes(setting, *kind))
                .collect()
        };
        assert!(taken(TakenIndexes::None).is_empty());
        assert_eq!(
            taken(TakenIndexes::Unique),
            [OfferKind::UniqueIndex, OfferKind::Unique]
        );
        assert_eq!(taken(TakenIndexes::All), all);
    }

    #[test]
    fn what_is_there_under_its_own_or_another_name_is_not_lacking() {
        let offers = [
            offer(
                "a",
                OfferKind::Index,
                "CREATE INDEX a ON s.t USING btree (n)",
            ),
            offer(
                "b",
                OfferKind::Index,
                "CREATE INDEX b ON s.t USING btree (m)",
            ),
            offer(
                "c",
                OfferKind::UniqueIndex,
                "CREATE UNIQUE INDEX c ON s.t USING btree (n)",
            ),
            offer("d", OfferKind::Unique, "UNIQUE (k)"),
            offer("e", OfferKind::Unique, "UNIQUE (k) DEFERRABLE"),
            offer("f", OfferKind::Check, "CHECK ((n > 0))"),
            offer("g", OfferKind::Check, "CHECK ((n > 0))"),
        ];
        let wanted: Vec<&Offer> = offers.iter().collect();
        let taken = BTreeSet::from(["b".to_owned(), "g".to_owned()]);
        let there = [
            "CREATE INDEX other ON s.t USING btree (n)".to_owned(),
            "CREATE UNIQUE INDEX t_k_idx ON s.t USING btree (k)".to_owned(),
            "ALTER TABLE s.t ADD CONSTRAINT x CHECK ((n > 0))".to_owned(),
        ];
        let names: Vec<&str> = lacking(&wanted, &taken, &there)
            .iter()
            .map(|offer| offer.name.as_str())
            .collect();
        assert_eq!(names, ["c", "e", "f"]);
    }
}
