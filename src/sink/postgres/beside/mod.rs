//! A follower that is built in a database beside the one in use, and takes its name in the end.
//!
//! Where the work stands is in the databases' comments, which any session of the server can read and which
//! are changed in one transaction with the names ([`Mark`]): so a command that was killed at any step finds out
//! what is left to do. Nothing of this keeps the sink from its work on the database in use, until [`Held`]
//! does for the moment of the change.
//!
//! `standing` decides whether it may be done at all, `left` finds what the new database would not have,
//! `settings` and `privileges` carry over what is of the database and of readers, `swap` changes the names.

mod left;
mod privileges;
mod settings;
mod standing;
mod swap;

use tokio_postgres::Client;

use super::session::lay_out;
use crate::config::{PostgresSettings, PostgresSinkSettings, Secret};
use crate::error::{Error, Result};
use crate::killpoint::{self, Point};
use crate::model::relation::{quote_identifier, quote_literal};
use crate::model::{Lsn, Offer, TableName};
use crate::postgres::{classify, connect, with_database};

pub use standing::{Found, Mark, Stage};
pub use swap::Held;

/// How sessions of the command are named.
const NAME: &str = "walferry rebuild";

/// As for orders: what is waited for may take long, and no name is found by a search path.
const SET_UP: &str = "SET lock_timeout = 0; SET statement_timeout = 0; SET search_path = ''; \
    SET idle_in_transaction_session_timeout = 0; SET default_transaction_read_only = off; \
    SET standard_conforming_strings = on";

/// Orders to pass changes over, those that were carried out too: the new follower reads the same changes from
/// its copies on.
const ORDERS: &str = "SELECT commit_lsn::text, ordinal, reason, ordered_by, ordered_at::text \
    FROM walferry.skips WHERE pipeline = $1 AND sink = $2";

const ORDER: &str = "INSERT INTO walferry.skips (pipeline, sink, commit_lsn, ordinal, reason, ordered_by, ordered_at) \
    VALUES ($1, $2, $3::text::pg_lsn, $4, $5, $6, $7::text::timestamptz) ON CONFLICT DO NOTHING";

/// Indexes of the follower's own that nothing relies on, those among them that a copy has set aside; see
/// [`super::indexes`].
const INDEXES: &str = "SELECT n.nspname::text, t.relname::text, x.relname::text, \
        pg_catalog.pg_get_indexdef(x.oid), COALESCE(s.spcname::text, ''), \
        pg_catalog.obj_description(x.oid, 'pg_class') \
    FROM unnest($1::text[], $2::text[]) AS w(s, t) \
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.s \
    JOIN pg_catalog.pg_class t ON t.relnamespace = n.oid AND t.relname = w.t \
    JOIN pg_catalog.pg_index i ON i.indrelid = t.oid \
    JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid \
    LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = x.reltablespace \
    WHERE i.indisvalid AND NOT (i.indisunique OR i.indisexclusion) \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d \
            WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = x.oid AND d.deptype = 'e') \
    UNION SELECT table_schema, table_name, name, statement, tablespace, comment \
    FROM walferry.indexes i JOIN unnest($1::text[], $2::text[]) AS w(s, t) \
        ON i.table_schema = w.s AND i.table_name = w.t WHERE NOT offered \
    ORDER BY 1, 2, 3";

/// They are built behind the rows, as those that a copy sets aside. One that is there was noted before.
const NOTE_INDEX: &str = "INSERT INTO walferry.indexes \
        (table_schema, table_name, name, offered, statement, tablespace, comment) \
    SELECT $1::text, $2::text, $3::text, false, $4::text, $5::text, $6::text \
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class x \
        JOIN pg_catalog.pg_namespace n ON n.oid = x.relnamespace WHERE n.nspname = $1 AND x.relname = $3) \
    ON CONFLICT DO NOTHING";

const BOUNDARY: &str =
    "SELECT applied::text FROM walferry.checkpoint WHERE pipeline = $1 AND sink = $2";

const EXTENSIONS: &str = "SELECT e.extname::text, n.nspname::text FROM pg_catalog.pg_extension e \
    JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql' ORDER BY 1";

/// A table that the new follower will have.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Its name.
    pub table: TableName,
    /// The leader's columns, as the newest version in the log has them.
    pub columns: Vec<String>,
    /// Names of the columns by which its rows are found.
    pub key: Vec<String>,
    /// What its newest copy offers beside.
    pub offers: Vec<Offer>,
}

/// The follower in use, and the database beside it.
pub struct Beside<'a> {
    pipeline: &'a str,
    sink: &'a str,
    settings: &'a PostgresSinkSettings,
    database: &'a str,
}

impl<'a> Beside<'a> {
    /// Nothing is connected. `settings` are those of the follower in use.
    pub fn new(
        pipeline: &'a str,
        sink: &'a str,
        settings: &'a PostgresSinkSettings,
        database: &'a str,
    ) -> Self {
        Beside {
            pipeline,
            sink,
            settings,
            database,
        }
    }

    /// How the new follower is reached.
    pub fn new_settings(&self) -> PostgresSinkSettings {
        PostgresSinkSettings {
            postgres: self.on(self.database),
            ..self.settings.clone()
        }
    }

    fn on(&self, database: &str) -> PostgresSettings {
        let url = with_database(self.settings.postgres.url.reveal(), database);
        PostgresSettings {
            url: Secret::new(url),
            ..self.settings.postgres.clone()
        }
    }

    async fn connect(&self, settings: &PostgresSettings) -> Result<Client> {
        let client = connect(settings, NAME).await?;
        run(&client, SET_UP, "setting up a session").await?;
        Ok(client)
    }

    async fn in_use(&self) -> Result<Client> {
        self.connect(&self.settings.postgres).await
    }

    async fn beside(&self) -> Result<Client> {
        self.connect(&self.on(self.database)).await
    }

    /// What is there now, and what the role may do.
    ///
    /// # Errors
    /// As a connection, and as a query.
    pub async fn look(&self) -> Result<Found> {
        let client = self.in_use().await?;
        let mut found = standing::look(&client, self.database).await?;
        if found
            .beside
            .as_ref()
            .is_some_and(|there| there.mark.is_none())
        {
            let beside = self.beside().await?;
            found.objects = left::all(&beside).await?;
        }
        Ok(found)
    }

    /// What the database in use has and the new one would not have.
    ///
    /// # Errors
    /// As a query.
    pub async fn left_behind(&self, tables: &[Followed]) -> Result<Vec<String>> {
        left::behind(&self.in_use().await?, tables, self.settings.indexes).await
    }

    /// Makes the new database where it is not there, and lays the ground for its sink: the database's own
    /// settings and privileges, extensions, orders to pass changes over, and the indexes that are to be
    /// built. May be repeated.
    ///
    /// # Errors
    /// Halt when a right is missing; transient when a server cannot be reached.
    pub async fn prepare(&self, found: &Found, stage: &Stage, tables: &[Followed]) -> Result<()> {
        let old = self.in_use().await?;
        match stage {
            Stage::Create => {
                let sql = found.kind.create(self.database, found.owner_to_be());
                let made = run(&old, &sql, "creating the new database");
                made.await?;
                killpoint::pass(Point::BesideMade);
                self.mark(&old).await?;
            }
            Stage::Begin => self.mark(&old).await?,
            Stage::GoOn | Stage::Finish(_) => {}
        }
        settings::carry(&old, &found.name, self.database).await?;
        let new = self.beside().await?;
        for client in [&old, &new] {
            lay_out(client).await?;
        }
        let failed = |error| classify(&error, "reading the catalog of the follower in use");
        for row in old.query(EXTENSIONS, &[]).await.map_err(failed)? {
            let (name, schema): (String, String) = (get(&row, 0)?, get(&row, 1)?);
            extend(&new, &name, &schema).await?;
        }
        self.carry_orders(&old, &new).await?;
        self.note_indexes(&old, &new, tables).await
    }

    async fn mark(&self, client: &Client) -> Result<()> {
        let mark = Mark {
            pipeline: self.pipeline.to_owned(),
            sink: self.sink.to_owned(),
            database: self.database.to_owned(),
            before: None,
        };
        let sql = comment(self.database, Some(&mark.to_string()));
        run(client, &sql, "marking the new database").await
    }

    async fn carry_orders(&self, old: &Client, new: &Client) -> Result<()> {
        let failed = |error| classify(&error, "carrying walferry.skips over");
        let of = [&self.pipeline, &self.sink];
        for row in old.query(ORDERS, &[of[0], of[1]]).await.map_err(failed)? {
            let (commit, ordinal): (String, i64) = (get(&row, 0)?, get(&row, 1)?);
            let (reason, by, at): (String, String, String) =
                (get(&row, 2)?, get(&row, 3)?, get(&row, 4)?);
            new.execute(ORDER, &[of[0], of[1], &commit, &ordinal, &reason, &by, &at])
                .await
                .map_err(failed)?;
        }
        Ok(())
    }

    async fn note_indexes(&self, old: &Client, new: &Client, tables: &[Followed]) -> Result<()> {
        let failed = |error| classify(&error, "carrying indexes over");
        let (schemas, names) = names(tables);
        for row in old
            .query(INDEXES, &[&schemas, &names])
            .await
            .map_err(failed)?
        {
            let (schema, table, name): (String, String, String) =
                (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
            let (statement, tablespace): (String, String) = (get(&row, 3)?, get(&row, 4)?);
            let comment: Option<String> = get(&row, 5)?;
            new.execute(
                NOTE_INDEX,
                &[&schema, &table, &name, &statement, &tablespace, &comment],
            )
            .await
            .map_err(failed)?;
        }
        Ok(())
    }

    /// Up to where the follower in use shows the leader.
    ///
    /// # Errors
    /// As [`Beside::look`].
    pub async fn boundary(&self) -> Result<Lsn> {
        let client = self.in_use().await?;
        let of = [&self.pipeline, &self.sink];
        let row = client.query_opt(BOUNDARY, &[of[0], of[1]]).await;
        read_boundary(row.map_err(|error| classify(&error, "reading the checkpoint in use"))?)
    }

    /// Carries owners and privileges over, and what has changed of the database's own settings. Nobody
    /// writes into the new database meanwhile.
    ///
    /// # Errors
    /// Halt when a right is missing.
    pub async fn carry(&self, found: &Found, tables: &[Followed]) -> Result<()> {
        let (old, new) = (self.in_use().await?, self.beside().await?);
        settings::carry(&old, &found.name, self.database).await?;
        let (schemas, names) = names(tables);
        privileges::carry(&old, (&new, self.database), (&schemas, &names)).await
    }

    /// Ends a command whose database has taken the place of the one before: its mark goes, and its comment
    /// is what it was.
    ///
    /// # Errors
    /// As [`Beside::look`].
    pub async fn finish(&self, found: &Found, before: &str) -> Result<()> {
        let client = self.in_use().await?;
        let was = standing::comment_of(&client, before).await?;
        let sql = comment(&found.name, was.as_deref());
        run(&client, &sql, "removing the mark").await
    }
}

fn names(tables: &[Followed]) -> (Vec<&str>, Vec<&str>) {
    let tables = tables.iter().map(|of| &of.table);
    tables
        .map(|table| (table.schema.as_str(), table.name.as_str()))
        .unzip()
}

/// The boundary in a checkpoint's row.
fn read_boundary(row: Option<tokio_postgres::Row>) -> Result<Lsn> {
    let gone = || {
        Error::halt(
            "the follower in use has no checkpoint of this sink any more",
            "start the sink with walferry run, or rebuild it without --beside",
        )
    };
    let applied: String = get(&row.ok_or_else(gone)?, 0)?;
    applied.parse().map_err(|_not_an_lsn| gone())
}

/// `COMMENT ON DATABASE`.
fn comment(database: &str, text: Option<&str>) -> String {
    let text = text.map_or_else(|| "NULL".to_owned(), quote_literal);
    format!(
        "COMMENT ON DATABASE {} IS {text}",
        quote_identifier(database)
    )
}

/// Makes an extension that the database in use has, where it is to be had.
async fn extend(new: &Client, name: &str, schema: &str) -> Result<()> {
    let (extension, of) = (quote_identifier(name), quote_identifier(schema));
    let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = $1), \
        EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $2)";
    let row = new.query_one(there, &[&name, &schema]).await;
    let row = row.map_err(|error| classify(&error, "looking at the new database"))?;
    if get(&row, 0)? {
        return Ok(());
    }
    // Some extensions make their schema themselves.
    let within = if get(&row, 1)? {
        format!(" WITH SCHEMA {of}")
    } else {
        String::new()
    };
    let sql = format!("CREATE EXTENSION {extension}{within} CASCADE");
    run(new, &sql, "creating an extension").await
}

async fn run(client: &Client, sql: &str, doing: &str) -> Result<()> {
    let done = client.batch_execute(sql).await;
    done.map_err(|error| classify(&error, doing))
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a tokio_postgres::Row,
    column: usize,
) -> Result<T> {
    row.try_get(column)
        .map_err(|error| classify(&error, "reading the server's catalog"))
}
