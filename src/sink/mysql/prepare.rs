//! Making the follower's tables fit a schema version, outside of a transaction: [`shape`] says what
//! may be done there.

use std::collections::BTreeSet;

use super::MySqlSink;
use super::catalog::{self, Found};
use super::failure::{plain_error, unfit_error};
use super::session::make_database;
use super::shape::{self, Change, Hindrance, Note};
use super::tables::{self, Table, Wanted};
use super::types::{self, Held};
use super::wire::quoted;
use crate::config::SchemaChanges;
use crate::error::{Error, Result};
use crate::model::{SchemaVersion, TableName, TableSchema};
use crate::sink::place::Place;

/// A table of the leader's on the follower.
#[derive(Clone, Debug)]
pub(super) struct Named {
    /// Its database.
    pub database: String,
    /// Its name there.
    pub name: String,
    /// Both, in backquotes.
    pub quoted: String,
}

impl MySqlSink {
    /// Where a table is.
    pub(super) fn named(&self, table: &TableName) -> Result<Named> {
        let (database, name) = self.databases.of(table)?;
        if tables::is_walferrys(database, self.databases.own(), name) {
            return Err(tables::name_is_taken(table));
        }
        Ok(Named {
            database: database.to_owned(),
            name: name.to_owned(),
            quoted: format!("{}.{}", quoted(database), quoted(name)),
        })
    }

    /// How the columns of a version are to be held.
    pub(super) fn held(&mut self, schema: &TableSchema) -> Result<Vec<Held>> {
        let server = self.session()?.server;
        let columns = &self.settings.columns;
        let told = |column: &crate::model::Column| {
            let name = format!("{}.{}", schema.table, column.name);
            columns.get(&name).map(String::as_str)
        };
        types::held(schema, server, told).map_err(|wrong| {
            let column = wrong.column.map_or_else(String::new, |n| {
                format!(", column {}", schema.columns[n].name)
            });
            Error::halt(
                format!("table {}{column}: {}", schema.table, wrong.what),
                wrong.remedy,
            )
        })
    }

    /// Prepares a version.
    pub(super) async fn prepare(
        &mut self,
        schema: &TableSchema,
        newest: Option<&TableSchema>,
    ) -> Result<()> {
        let named = self.named(&schema.table)?;
        tables::check_names(
            schema,
            (&named.database, &named.name),
            self.session()?.tells_case,
        )?;
        let held = self.held(schema)?;
        let found = match self.find(&named).await? {
            Some(found) => found,
            None => self.create(schema, &named, &held).await?,
        };
        let notes = self.notes(&schema.table).await?;
        let version = schema.version().to_string();
        let last = notes.last().map(|note| note.version.as_str());
        let shown = newest.map(|newest| newest.version().to_string());
        // Where columns have no numbers it cannot be told what has become of them.
        let is_numbered = schema.columns.iter().all(|column| column.number.is_some());
        let is_past = notes.iter().any(|note| note.version == version)
            || (is_numbered && shown.is_some() && shown.as_deref() == last);
        let past = is_past && last != Some(version.as_str());
        if last.is_none() || is_past || self.settings.schema_changes == SchemaChanges::Halt {
            let fit = self.fit((schema, &held), &named, (&notes, &found), past);
            let table = match fit {
                Ok(table) => table,
                // What is held in another form than the settings say now is not exactly what they ask for.
                Err(_other_type) if self.is_told_anew(schema, &notes) => {
                    let why = "[columns] in the sink's file names another type";
                    self.session()?.expect_copy(schema, why.to_owned());
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if !is_past {
                self.write_note(schema, &notes, &found).await?;
            }
            self.session()?.keep(schema.version(), table);
            return Ok(());
        }
        self.follow((schema, &held), &named, (&notes, found)).await
    }

    /// Whether the settings name types of the table's columns, and walferry may give them to it.
    fn is_told_anew(&self, schema: &TableSchema, notes: &[Note]) -> bool {
        let told = |column: &crate::model::Column| {
            let name = format!("{}.{}", schema.table, column.name);
            self.settings.columns.contains_key(&name)
        };
        let follows = self.settings.schema_changes == SchemaChanges::Follow;
        follows && !notes.is_empty() && schema.columns.iter().any(told)
    }

    pub(super) async fn find(&mut self, named: &Named) -> Result<Option<Found>> {
        catalog::read(&mut self.session()?.wire, &named.database, &named.name).await
    }

    pub(super) fn fit(
        &mut self,
        (schema, held): (&TableSchema, &[Held]),
        named: &Named,
        (notes, found): (&[Note], &Found),
        past: bool,
    ) -> Result<Table> {
        let homes = shape::homes(schema, notes, found);
        tables::fit(Wanted {
            schema,
            quoted: &named.quoted,
            held,
            homes: &homes,
            found,
            server: self.session()?.server,
            past,
        })
    }

    async fn create(
        &mut self,
        schema: &TableSchema,
        named: &Named,
        held: &[Held],
    ) -> Result<Found> {
        let server = self.session()?.server;
        let sql = tables::create_sql(schema, &named.quoted, held, server);
        if !self.settings.create_tables {
            return Err(Error::halt(
                format!("table {} does not exist on the follower", schema.table),
                format!("create it ({sql}), or set create_tables = true"),
            ));
        }
        make_database(&mut self.session()?.wire, server, &named.database).await?;
        // Notes of one that had the name before.
        self.forget_notes(&schema.table).await?;
        self.ddl(&schema.table, "creating", &sql).await?;
        let found = self.find(named).await?;
        found.ok_or_else(|| {
            Error::transient(format!(
                "table {} was made on the follower and is gone",
                schema.table
            ))
        })
    }

    /// Alters the table for a version to come, or notes that it needs a copy.
    async fn follow(
        &mut self,
        (schema, held): (&TableSchema, &[Held]),
        named: &Named,
        (notes, found): (&[Note], Found),
    ) -> Result<()> {
        // A version before this one needs a copy: until then the table stays as it is.
        if let Some((_, why)) = self.session()?.awaited(&schema.table).cloned() {
            self.session()?.expect_copy(schema, why);
            return Ok(());
        }
        let empty = !self.has_rows(named).await?;
        let change = Change {
            schema,
            held,
            notes,
            found: &found,
            server: self.session()?.server,
            may: self.settings.schema_changes,
            empty,
        };
        let plan = match shape::plan(change) {
            Ok(plan) => plan,
            Err(Hindrance::NeedsCopy(why)) => {
                self.session()?.expect_copy(schema, why);
                return Ok(());
            }
            // It is copied anew, and may be of the same shape.
            Err(Hindrance::MadeAnew) => {
                match self.fit((schema, held), named, (notes, &found), false) {
                    Ok(table) => {
                        self.write_note(schema, notes, &found).await?;
                        self.session()?.keep(schema.version(), table);
                    }
                    Err(_other_shape) => {
                        let why = "the leader has made the table anew".to_owned();
                        self.session()?.expect_copy(schema, why);
                    }
                }
                return Ok(());
            }
            Err(Hindrance::Unfit(column, unfit)) => {
                let place = Place::of_table(&schema.table);
                return Err(unfit_error(&place, (&schema.table, &column), unfit, None));
            }
        };
        let mut clauses = plan.clauses;
        // While rows of an older version may come in this session, what they have stays.
        let now = !self.session()?.has_others(schema);
        if now {
            clauses.extend(drops(&plan.left));
        } else if !plan.left.is_empty() {
            let left = (schema.version(), schema.table.clone(), plan.left);
            self.session()?.left.push(left);
        }
        let mut found = found;
        if !clauses.is_empty() {
            let sql = format!("ALTER TABLE {} {}", named.quoted, clauses.join(", "));
            self.ddl(&schema.table, "altering", &sql).await?;
            tracing::info!(table = %schema.table, version = %schema.version(), "the follower's table is altered as the leader's");
            found = self.find(named).await?.unwrap_or(found);
        }
        if !plan.fills.is_empty() {
            let sql = format!("UPDATE {} SET {}", named.quoted, plan.fills.join(", "));
            self.ddl(&schema.table, "filling", &sql).await?;
        }
        let table = self.fit((schema, held), named, (notes, &found), false)?;
        self.write_note(schema, notes, &found).await?;
        let session = self.session()?;
        // Older versions are where they were by number; their names may have changed.
        session.forget(&BTreeSet::from([schema.table.clone()]));
        session.keep(schema.version(), table);
        self.again_past(&schema.table, named, &found).await
    }

    /// Finds the columns of older versions anew that this session has prepared.
    async fn again_past(&mut self, table: &TableName, named: &Named, found: &Found) -> Result<()> {
        let past = std::mem::take(&mut self.past);
        let notes = self.notes(table).await?;
        for schema in past.iter().filter(|schema| schema.table == *table) {
            let held = self.held(schema)?;
            if !self.session()?.is_prepared(schema.version()) {
                let fit = self.fit((schema, &held), named, (&notes, found), true)?;
                self.session()?.keep(schema.version(), fit);
            }
        }
        self.past = past;
        Ok(())
    }

    /// Empties a table that is not in effect and gives it the shape of the version that waits for it, both for good
    /// and before the transaction: its rows promise nothing, and whoever reads the checkpoint next empties it again.
    pub(super) async fn reshape(
        &mut self,
        table: &TableName,
        named: &Named,
        (version, reshapes): (Option<i64>, bool),
    ) -> Result<()> {
        let truncate = format!("TRUNCATE TABLE {}", named.quoted);
        let awaited = self.session()?.awaited(table).cloned();
        let Some((schema, _why)) = awaited.filter(|_| reshapes) else {
            return self.fenced_ddl(table, version, vec![truncate]).await;
        };
        let held = self.held(&schema)?;
        let notes = self.notes(table).await?;
        let Some(found) = self.find(named).await? else {
            return Err(missing(table));
        };
        let change = Change {
            schema: &schema,
            held: &held,
            notes: &notes,
            found: &found,
            server: self.session()?.server,
            may: self.settings.schema_changes,
            empty: true,
        };
        let plan = shape::plan(change).map_err(|hindrance| match hindrance {
            Hindrance::NeedsCopy(why) => Error::transient(format!("table {table}: {why}")),
            Hindrance::MadeAnew => unreachable!("an empty table takes any shape: {table}"),
            Hindrance::Unfit(column, unfit) => {
                unfit_error(&Place::of_table(table), (table, &column), unfit, None)
            }
        })?;
        let mut clauses = plan.clauses;
        clauses.extend(drops(&plan.left));
        let mut ddl = vec![truncate];
        if !clauses.is_empty() {
            ddl.push(format!(
                "ALTER TABLE {} {}",
                named.quoted,
                clauses.join(", ")
            ));
        }
        self.fenced_ddl(table, version, ddl).await?;
        let found = self.find(named).await?.unwrap_or(found);
        let fit = self.fit((&schema, &held), named, (&notes, &found), false)?;
        self.write_note(&schema, &notes, &found).await?;
        let session = self.session()?;
        session.forget(&BTreeSet::from([table.clone()]));
        session.keep(schema.version(), fit);
        Ok(())
    }

    /// Drops columns that only rows of older versions had, now that none of those can come. What fails is said and
    /// done another time: the columns are NULL in new rows.
    pub(super) async fn after_commit(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        let Some(session) = &mut self.session else {
            return;
        };
        if session.left.is_empty() {
            return;
        }
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut session.left)
            .into_iter()
            .partition(|(version, _, _)| touched.contains(version));
        session.left = later;
        for (version, table, columns) in now {
            if let Err(error) = self.drop_left(version, &table, &columns).await {
                tracing::warn!(%table, ?columns, %error, "columns that the leader has dropped stay on the follower for now");
            }
        }
    }

    async fn drop_left(
        &mut self,
        version: SchemaVersion,
        table: &TableName,
        columns: &[String],
    ) -> Result<()> {
        let named = self.named(table)?;
        let sql = format!("ALTER TABLE {} {}", named.quoted, drops(columns).join(", "));
        self.ddl(table, "altering", &sql).await?;
        let session = self.session()?;
        let schema = session
            .versions(table)
            .into_iter()
            .find(|t| t.schema.version() == version)
            .map(|t| t.schema.clone());
        session.forget(&BTreeSet::from([table.clone()]));
        if let Some(schema) = schema {
            let held = self.held(&schema)?;
            let notes = self.notes(table).await?;
            let found = self.find(&named).await?.ok_or_else(|| missing(table))?;
            let fit = self.fit((&schema, &held), &named, (&notes, &found), false)?;
            self.session()?.keep(version, fit);
            self.again_past(table, &named, &found).await?;
        }
        Ok(())
    }

    /// Whether a table has rows.
    pub(super) async fn has_rows(&mut self, named: &Named) -> Result<bool> {
        let sql = format!("SELECT 1 FROM {} LIMIT 1", named.quoted);
        let rows = self.session()?.wire.rows(&sql).await;
        let rows = rows.map_err(|cause| plain_error(&cause, "looking for rows on the follower"))?;
        Ok(!rows.is_empty())
    }
}

fn drops(columns: &[String]) -> Vec<String> {
    let drop = |column: &String| format!("DROP COLUMN {}", quoted(column));
    columns.iter().map(drop).collect()
}

/// That a table is not there.
pub(super) fn missing(table: &TableName) -> Error {
    Error::halt(
        format!("table {table} does not exist on the follower"),
        "restart walferry: it creates the table, or says what is missing",
    )
}
