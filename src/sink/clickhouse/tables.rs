//! The follower's tables: made and brought into shape.

use serde::de::DeserializeOwned;

use super::checkpoint::Store;
use super::failure::Doing;
use super::http::{Http, Query};
use super::native;
use super::projection::{Table, Target};
use super::refuse::refuse_unheld;
use super::shape::{self, DELETED, Found, Plan, VERSION, own_columns, wanted};
use super::sql;
use super::types::{self, Type};
use crate::config::{ClickHouseMode, ClickHouseSinkSettings};
use crate::error::{Error, Result};
use crate::model::relation::Fill;
use crate::model::{Column, TableName, TableSchema};
use crate::sink::databases::Databases;

/// Most identical inserts that the server remembers, so that one that is sent again is not written twice.
const DEDUPLICATION_WINDOW: u32 = 1_000;

/// What is needed to prepare a table.
pub(super) struct Preparing<'a> {
    /// The connection.
    pub http: &'a Http,
    /// The sink's settings.
    pub settings: &'a ClickHouseSinkSettings,
    /// Where tables are.
    pub databases: &'a Databases,
}

/// How a table is prepared.
pub(super) enum Prepared {
    /// It takes rows.
    Ready(Table),
    /// It has to be copied anew, and why.
    NeedsCopy(String),
}

impl Preparing<'_> {
    /// Brings the table into the shape of `schema`.
    ///
    /// # Errors
    /// Halt when it cannot be held here, or the settings do not allow what is needed.
    pub(super) async fn prepare(
        &self,
        schema: &TableSchema,
        store: &Store<'_>,
    ) -> Result<Prepared> {
        refuse_unheld(self.settings, self.databases, schema)?;
        let (database, name) = self.databases.of(&schema.table)?;
        let quoted = sql::table(database, name);
        let found = columns(self.http, database, name).await?;
        if found.is_empty() {
            if self.settings.create_tables {
                // What is found there from now on is walferry's own, whatever comes of this attempt.
                store.note_filled(&schema.table).await?;
            }
            self.create(schema, (database, &quoted)).await?;
        } else {
            self.is_fit(schema, (database, name)).await?;
            if let Some(why) = self.alter(schema, &quoted, &found).await? {
                return Ok(Prepared::NeedsCopy(why));
            }
        }
        let table = self.there(schema, (database, name)).await?;
        Ok(Prepared::Ready(table))
    }

    async fn there(&self, schema: &TableSchema, (database, name): (&str, &str)) -> Result<Table> {
        let found = columns(self.http, database, name).await?;
        self.table(schema, sql::table(database, name), &found)
    }

    /// The table as it is, for rows of any version.
    fn table(&self, schema: &TableSchema, quoted: String, found: &[Found]) -> Result<Table> {
        let mut columns = Vec::new();
        for column in &schema.columns {
            let Some(found) = found.iter().find(|found| found.name == column.name) else {
                continue;
            };
            columns.push(Target {
                name: column.name.clone(),
                number: column.number,
                of: self.written(schema, column, found)?,
                fill: match &column.fill {
                    Some(Fill::Value(value)) => Some(value.clone()),
                    Some(Fill::Unknown) | None => None,
                },
            });
        }
        let own = own_columns(self.settings.mode).iter();
        let own = own.map(|&(name, of)| (name, of.to_owned()));
        let all = columns
            .iter()
            .map(|target| (target.name.as_str(), target.of.to_string()))
            .chain(own);
        let (names, heads): (Vec<String>, Vec<_>) = all
            .map(|(name, of)| (sql::name(name), native::head(name, &of)))
            .unzip();
        Ok(Table {
            name: schema.table.clone(),
            insert: format!("INSERT INTO {quoted} ({}) FORMAT Native", names.join(", ")),
            heads,
            quoted,
            columns,
            sorted_by: shape::sorted_by(found)
                .into_iter()
                .map(str::to_owned)
                .collect(),
        })
    }

    /// The type as which values go into a column that is there.
    fn written(&self, schema: &TableSchema, column: &Column, found: &Found) -> Result<Type> {
        let want = wanted(self.settings, schema, column)?;
        let has = found.of().ok_or_else(|| {
            Error::halt(
                format!(
                    "table {} column {}: walferry writes no {}",
                    schema.table, found.name, found.type_name
                ),
                "give the follower's column a type that docs/sinks.md names",
            )
        })?;
        // A String may be a text or bytes: only the leader's type tells.
        let kind = match has.kind.to_string() == want.kind.to_string() {
            true => want.kind,
            false => types::chosen(schema, column, &found.type_name).map_or(has.kind, |of| of.kind),
        };
        let nullable = has.nullable;
        Ok(Type { kind, nullable })
    }

    async fn create(&self, schema: &TableSchema, (database, quoted): (&str, &str)) -> Result<()> {
        let table = &schema.table;
        if !self.settings.create_tables {
            return Err(not_there(table, quoted));
        }
        let doing = format!("creating table {quoted}");
        make_database(self.http, database, &doing).await?;
        let statement = self.creation(schema, quoted)?;
        self.http.run(&statement).await.doing(&doing)?;
        tracing::info!(%table, as_ = quoted, "table created on the follower");
        Ok(())
    }

    /// The statement that makes it.
    pub(super) fn creation(&self, schema: &TableSchema, quoted: &str) -> Result<String> {
        let mut clauses = Vec::new();
        for column in &schema.columns {
            let of = wanted(self.settings, schema, column)?;
            let comment = shape::comment(schema, column);
            clauses.push(format!("{} {of}{comment}", sql::name(&column.name)));
        }
        let mode = self.settings.mode;
        clauses.extend(
            own_columns(mode)
                .iter()
                .map(|(name, of)| format!("{} {of}", sql::name(name))),
        );
        let layout = self.settings.layout.get(&schema.table.to_string());
        let mut order = order_by(
            schema,
            layout.and_then(|layout| layout.order_by.as_deref()),
            mode,
        )?;
        let engine = match mode {
            ClickHouseMode::Current => format!("ReplacingMergeTree({VERSION}, {DELETED})"),
            ClickHouseMode::History => {
                order.push(VERSION.to_owned());
                format!("ReplacingMergeTree({VERSION})")
            }
        };
        let partition = layout.and_then(|layout| layout.partition_by.as_deref());
        let partition = partition.map_or_else(String::new, |by| format!(" PARTITION BY {by}"));
        let order: Vec<String> = order.iter().map(|name| sql::name(name)).collect();
        // Whoever chose keys may have chosen columns that are NULL for some rows.
        let nullable = layout.map_or("", |_| ", allow_nullable_key = 1");
        Ok(format!(
            "CREATE TABLE IF NOT EXISTS {quoted} ({}) ENGINE = {engine}{partition} ORDER BY ({}) \
             SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}, fsync_after_insert = 1, \
             fsync_part_directory = 1{nullable}",
            clauses.join(", "),
            order.join(", ")
        ))
    }

    /// Alters it as far as that is possible; else why it is to be made anew.
    async fn alter(
        &self,
        schema: &TableSchema,
        quoted: &str,
        found: &[Found],
    ) -> Result<Option<String>> {
        let steps = match shape::plan(self.settings, schema, found)? {
            Plan::Alter(steps) => steps,
            Plan::Anew(why) => return self.has_to_be_made_anew(schema, found, why).map(Some),
        };
        for step in &steps {
            let statement = shape::statement(self.settings, schema, (quoted, step))?;
            let Some(statement) = statement else {
                let why = format!("what older rows have in a new column is not known: {step:?}");
                return self.has_to_be_made_anew(schema, found, why).map(Some);
            };
            self.http
                .run(&statement)
                .await
                .doing(format!("altering table {quoted}"))?;
            tracing::info!(table = %schema.table, ?step, "table altered on the follower");
        }
        Ok(None)
    }

    /// Why it is made anew, if it is walferry's own and the settings let it be.
    ///
    /// # Errors
    /// Halt, with what may be done by hand.
    pub(super) fn has_to_be_made_anew(
        &self,
        schema: &TableSchema,
        found: &[Found],
        why: String,
    ) -> Result<String> {
        match shape::made_by_hand(schema, found) {
            None => self.may_be_made_anew(schema, why),
            Some(column) => Err(Error::halt(
                format!(
                    "table {} on the follower cannot be altered to take the leader's rows: {why}; and it is not \
                     walferry's to be made anew, as somebody made its column {column}",
                    schema.table
                ),
                "alter it by hand so that it can; or rename or drop it, so that walferry makes its own, and have the \
                 table copied anew with walferry resync",
            )),
        }
    }

    /// Why it is made anew, if the settings let it be.
    pub(super) fn may_be_made_anew(&self, schema: &TableSchema, why: String) -> Result<String> {
        use crate::config::SchemaChanges;
        match (
            self.settings.schema_changes,
            self.settings.mode,
            self.settings.create_tables,
        ) {
            (SchemaChanges::Follow, ClickHouseMode::Current, true) => Ok(why),
            (SchemaChanges::Follow | SchemaChanges::Compatible | SchemaChanges::Halt, _, _) => {
                Err(Error::halt(
                    format!(
                        "table {} on the follower cannot be altered to take the leader's rows: {why}",
                        schema.table
                    ),
                    "rename or drop the follower's table and have it copied anew with walferry resync; a sink that \
                     keeps current rows does so itself with schema_changes = \"follow\"",
                ))
            }
        }
    }

    /// Drops the table and makes it in the shape of `schema`, without rows.
    ///
    /// # Errors
    /// As a statement.
    pub(super) async fn make_anew(&self, schema: &TableSchema, why: &str) -> Result<Table> {
        let (database, name) = self.databases.of(&schema.table)?;
        let quoted = sql::table(database, name);
        tracing::info!(table = %schema.table, why, "table is made anew on the follower, for a copy");
        let statement = format!("DROP TABLE IF EXISTS {quoted} SYNC");
        let dropped = self.http.remove(&statement).await;
        dropped.doing(format!("dropping table {quoted}"))?;
        self.create(schema, (database, &quoted)).await?;
        self.there(schema, (database, name)).await
    }

    /// That a table that is there replaces rows by version.
    pub(super) async fn is_fit(
        &self,
        schema: &TableSchema,
        (database, name): (&str, &str),
    ) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Engine {
            engine: String,
            engine_full: String,
        }
        let ask = format!(
            "SELECT engine, engine_full FROM system.tables WHERE database = {} AND name = {} FORMAT JSONEachRow",
            sql::text(database),
            sql::text(name)
        );
        let found: Vec<Engine> = rows(self.http, &ask, "reading a table's engine").await?;
        let versioned = match self.settings.mode {
            ClickHouseMode::Current => format!("{VERSION}, {DELETED}"),
            ClickHouseMode::History => VERSION.to_owned(),
        };
        let fits = |of: &Engine| {
            of.engine.ends_with("ReplacingMergeTree") && of.engine_full.contains(&versioned)
        };
        match found.first() {
            Some(engine) if fits(engine) => Ok(()),
            Some(engine) => Err(Error::halt(
                format!(
                    "table {} on the follower has the engine {}, not ReplacingMergeTree({versioned})",
                    schema.table, engine.engine
                ),
                "rename or drop it, so that walferry makes its own; or name another database in the sink's url",
            )),
            None => Ok(()),
        }
    }
}

/// Columns of ORDER BY.
fn order_by(
    schema: &TableSchema,
    chosen: Option<&[String]>,
    mode: ClickHouseMode,
) -> Result<Vec<String>> {
    let key: Vec<String> = schema
        .key
        .iter()
        .map(|&n| schema.columns[n].name.clone())
        .collect();
    let Some(chosen) = chosen else {
        return Ok(key);
    };
    let table = &schema.table;
    let wrong = |what: String, remedy: &str| {
        Err(Error::halt(
            format!("[layout.\"{table}\"] order_by: {what}"),
            remedy,
        ))
    };
    if let Some(unknown) = chosen
        .iter()
        .find(|name| !schema.columns.iter().any(|c| c.name == **name))
    {
        return wrong(
            format!("the leader's table has no column {unknown}"),
            "name columns of the table",
        );
    }
    if mode == ClickHouseMode::History {
        return Ok(chosen.to_vec());
    }
    // Rows replace one another by these columns: one more would keep rows apart that are the same, one less would
    // make one of two.
    let same = chosen.len() == key.len() && key.iter().all(|name| chosen.contains(name));
    match same {
        true => Ok(chosen.to_vec()),
        false => wrong(
            format!(
                "rows replace one another by their key, so it must be the columns of the key in some order: {}",
                key.join(", ")
            ),
            "name exactly these; for other orders add a projection or a materialized view to the follower's table",
        ),
    }
}

/// The columns of a table; none when it is not there.
pub(super) async fn columns(http: &Http, database: &str, name: &str) -> Result<Vec<Found>> {
    let ask = format!(
        "SELECT name, type, comment, default_kind, toBool(is_in_sorting_key) AS is_sorted_by \
         FROM system.columns WHERE database = {} AND table = {} ORDER BY position FORMAT JSONEachRow",
        sql::text(database),
        sql::text(name)
    );
    rows(http, &ask, "reading a table's columns").await
}

/// Makes a database that is not there; one that is there may be somebody else's to make.
pub(super) async fn make_database(http: &Http, database: &str, doing: &str) -> Result<()> {
    let there = format!(
        "SELECT count() FROM system.databases WHERE name = {}",
        sql::text(database)
    );
    if http.is_any(&there).await.doing("looking for a database")? {
        return Ok(());
    }
    let statement = format!("CREATE DATABASE IF NOT EXISTS {}", sql::name(database));
    http.run(&statement).await.doing(doing)
}

/// Whether a table has rows.
pub(super) async fn has_rows(http: &Http, quoted: &str) -> Result<bool> {
    let ask = format!("SELECT count() FROM (SELECT 1 FROM {quoted} LIMIT 1)");
    http.is_any(&ask).await.doing("looking for rows")
}

/// That a table is not there, and walferry may not make it.
pub(super) fn not_there(table: &TableName, quoted: &str) -> Error {
    Error::halt(
        format!("table {table} is not there on the follower: {quoted}"),
        "create it as docs/sinks.md says, or let walferry do it with create_tables = true",
    )
}

/// Rows that are answered as JSON, one a line.
pub(super) async fn rows<T: DeserializeOwned>(
    http: &Http,
    ask: &str,
    doing: &str,
) -> Result<Vec<T>> {
    let answer = http.ask(Query::new(ask)).await.doing(doing)?;
    let lines = answer
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let parsed = lines.map(|line| {
        serde_json::from_slice(line).map_err(|error| {
            Error::transient(format!("{doing}: ClickHouse's answer cannot be read"))
                .caused_by(error)
        })
    });
    parsed.collect()
}
