//! What `walferry check` sees of a ClickHouse follower. Changes nothing.

use super::checkpoint::OWN_TABLES;
use super::failure::Doing;
use super::http::Http;
use super::refuse::refuse_unheld;
use super::shape::{self, Plan, wanted};
use super::tables::{Preparing, columns, has_rows, not_there};
use super::types::Kind;
use super::{refuse_old, sql};
use crate::config::ClickHouseSinkSettings;
use crate::error::Result;
use crate::model::TableSchema;
use crate::sink::databases::Databases;
use crate::sink::look::{pass, warning};
use crate::sink::{Looked, Verdict};

/// Looks at the follower with the tables that the sink would take.
pub(crate) async fn look(settings: &ClickHouseSinkSettings, tables: &[TableSchema]) -> Looked {
    let http = Http::new(settings.server.clone(), settings.statement_timeout);
    let mut looked = Looked::new();
    if let Err(error) = refuse_old(&http).await {
        looked.push(("connection", Verdict::unreachable(&error)));
        return looked;
    }
    looked.push(("connection", pass("connected")));
    let databases = Databases::new(&settings.server.url.database, &settings.databases);
    looked.push(("settings of tables", names(settings, tables)));
    let mut failures = 0;
    for table in tables {
        if let Err(error) = of_table(&http, (settings, &databases), table).await {
            failures += 1;
            looked.push(("table", Verdict::unanswered(&error)));
        }
    }
    if failures == 0 {
        looked.push(("tables", pass(format!("{} can be held", tables.len()))));
    }
    let arrays = nullable_arrays(settings, tables);
    if !arrays.is_empty() {
        looked.push((
            "arrays",
            warning(
                format!("NULL becomes the empty array in {}", arrays.join(", ")),
                "declare them NOT NULL on the leader, or hold them as text where the difference matters: [columns] \
                 with \"String\"",
            ),
        ));
    }
    looked
}

/// Whether `[columns]` and `[layout]` name what the leader has.
fn names(settings: &ClickHouseSinkSettings, tables: &[TableSchema]) -> Verdict {
    let has_column = |name: &&String| {
        let mut all = tables.iter().flat_map(|table| {
            let columns = table.columns.iter();
            columns.map(|column| format!("{}.{}", table.table, column.name))
        });
        all.any(|column| column == **name)
    };
    let has_table = |name: &&String| tables.iter().any(|table| table.table.to_string() == **name);
    let columns = settings.columns.keys().filter(|name| !has_column(name));
    let layouts = settings.layout.keys().filter(|name| !has_table(name));
    let unknown: Vec<&str> = columns.chain(layouts).map(String::as_str).collect();
    match unknown.is_empty() {
        true => pass("[columns] and [layout] name what the leader has"),
        false => warning(
            format!(
                "[columns] or [layout] name what the leader does not have: {}",
                unknown.join(", ")
            ),
            "write schema.table.column and schema.table as on the leader, without quotes",
        ),
    }
}

async fn of_table(
    http: &Http,
    (settings, databases): (&ClickHouseSinkSettings, &Databases),
    schema: &TableSchema,
) -> Result<()> {
    refuse_unheld(settings, databases, schema)?;
    for column in &schema.columns {
        wanted(settings, schema, column)?;
    }
    let table = &schema.table;
    let (database, name) = databases.of(table)?;
    let preparing = Preparing {
        http,
        settings,
        databases,
    };
    let quoted = sql::table(database, name);
    preparing.creation(schema, &quoted)?;
    let found = columns(http, database, name).await?;
    if found.is_empty() {
        return match settings.create_tables {
            true => Ok(()),
            false => Err(not_there(table, &quoted)),
        };
    }
    preparing.is_fit(schema, (database, name)).await?;
    if let Plan::Anew(why) = shape::plan(settings, schema, &found)? {
        let may = preparing.has_to_be_made_anew(schema, &found, why);
        return may.map(drop);
    }
    // The table is there and walferry has no checkpoint: whose rows are in it?
    let there = format!(
        "SELECT count() FROM system.tables WHERE database = {} AND name = '{}'",
        sql::text(databases.own()),
        OWN_TABLES[0]
    );
    let is_known = http.is_any(&there).await;
    let is_known = is_known.doing("looking for walferry's tables")?;
    match !is_known && has_rows(http, &quoted).await? {
        true => Err(super::foreign_rows(table, &quoted)),
        false => Ok(()),
    }
}

/// Columns whose NULLs are told apart from empty arrays on the leader only.
fn nullable_arrays(settings: &ClickHouseSinkSettings, tables: &[TableSchema]) -> Vec<String> {
    let mut found = Vec::new();
    for table in tables {
        for column in &table.columns {
            let of = wanted(settings, table, column);
            if !column.not_null && of.is_ok_and(|of| matches!(of.kind, Kind::Array(_))) {
                found.push(format!("{}.{}", table.table, column.name));
            }
        }
    }
    found
}
