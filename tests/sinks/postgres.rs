//! Postgres as a store of the suite.

use walferry::killpoint::Point;

use crate::store::{NULL, Store, Table, Type, Unheld, printed};
use crate::support;

/// A server with a database `follower`.
pub struct Postgres(support::Postgres);

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Store for Postgres {
    const UNHELD: &'static [Unheld] = &[];
    const POINTS: &'static [(Point, u32)] = &[
        (Point::RowsLoaded, 1),
        (Point::BeforeEffect, 1),
        (Point::InEffect, 1),
        (Point::BeforeBegin, 2),
        (Point::ChunkApplied, 2),
        (Point::BeforeCommit, 3),
        (Point::CommitSent, 4),
        (Point::AfterCommit, 3),
        (Point::BeforeProgress, 2),
    ];
    const INTEGER: &'static str = "bigint";

    async fn start() -> Self {
        let server = support::Postgres::start("follower");
        server.sql("CREATE DATABASE follower").await;
        Postgres(server)
    }

    fn connector(&self) -> String {
        format!(
            "kind = \"postgres\"\nurl = \"{}\"\n",
            self.0.url("follower")
        )
    }

    async fn elsewhere(&self, database: &str) -> String {
        self.0.sql(&format!("CREATE DATABASE {database}")).await;
        format!("kind = \"postgres\"\nurl = \"{}\"\n", self.0.url(database))
    }

    fn crash_and_restart(&mut self) {
        self.0.crash_and_restart();
    }

    fn stop(&mut self) {
        self.0.stop();
    }

    fn start_again(&mut self) {
        self.0.start_again();
    }

    async fn sql(&self, statement: &str) {
        let client = self.0.client_on("follower").await;
        let done = client.batch_execute(statement).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }

    async fn numbers(&self, query: &str) -> Result<Vec<i64>, String> {
        let client = self.0.client_on("follower").await;
        let row = client.query_one(query, &[]).await;
        let row = row.map_err(|error| format!("{error:?}"))?;
        Ok((0..row.len()).map(|n| row.get(n)).collect())
    }

    fn place(&self, schema: &str, table: &str) -> String {
        format!("{}.{}", quoted(schema), quoted(table))
    }

    fn strangers(&self) -> Vec<String> {
        vec![
            "CREATE TABLE strange (id int PRIMARY KEY, note text)".to_owned(),
            "INSERT INTO strange VALUES (1, 'theirs')".to_owned(),
        ]
    }

    fn on_leader(_of: &Type, value: &str) -> String {
        printed(value)
    }

    async fn rows(&self, table: &Table, _shown: &str) -> Result<Vec<String>, String> {
        let client = self.0.client_on("follower").await;
        let set = "SET extra_float_digits = 3; SET TimeZone = 'UTC'";
        let done = client.batch_execute(set).await;
        done.map_err(|error| format!("{error:?}"))?;
        let values = table.columns.iter().map(|column| {
            let text = printed(&quoted(&column.name));
            format!("coalesce({text}, '{NULL}')")
        });
        let query = format!(
            "SELECT array_to_string(ARRAY[{}]::text[], E'\\x1f') FROM {}",
            values.collect::<Vec<_>>().join(", "),
            self.place(&table.schema, &table.name)
        );
        let rows = client.query(&query, &[]).await;
        let rows = rows.map_err(|error| format!("{error:?}"))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
