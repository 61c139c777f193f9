//! A leader, a store, and walferry between them.

use std::time::Instant;

use serde_json::Value;
use tokio_postgres::Client;

use crate::store::{Store, Table, leaders_rows, table};
use crate::support::content::mark;
use crate::support::http::{comes_into, get, part};
use crate::support::{DEADLINE, Pipeline, Postgres, Walferry, until};

/// Name of the sink.
pub const SINK: &str = "s";

/// One leader, one follower, one pipeline.
pub struct World<S> {
    leader: Postgres,
    /// A client on the leader.
    pub from: Client,
    pub store: S,
    pub pipeline: Pipeline,
    pub walferry: Option<Walferry>,
}

impl<S: Store> World<S> {
    /// With these tables on the leader; walferry does not run yet.
    pub async fn new(tables: &str) -> Self {
        Self::with(tables, "").await
    }

    /// The same with more lines in the sink's file.
    pub async fn with(tables: &str, lines: &str) -> Self {
        let world = Self::over(S::start().await, tables).await;
        world.configure(lines);
        world
    }

    /// With these tables on the leader and this store; the sink has no file yet.
    pub async fn over(store: S, tables: &str) -> Self {
        let leader = Postgres::start("leader");
        leader.sql(tables).await;
        let from = leader.client().await;
        let set = "SET extra_float_digits = 3; SET TimeZone = 'UTC'";
        from.batch_execute(set).await.unwrap();
        let pipeline = Pipeline::between(&leader.url("postgres"), &[], "", "");
        World {
            leader,
            from,
            store,
            pipeline,
            walferry: None,
        }
    }

    /// The same, with walferry running, and all copied.
    pub async fn begin(tables: &str) -> Self {
        let mut world = Self::new(tables).await;
        world.run();
        world.caught_up().await;
        world
    }

    /// Writes the sink's file.
    pub fn configure(&self, lines: &str) {
        let text = self.store.connector() + lines;
        self.pipeline
            .write(&format!("connectors/{SINK}.toml"), &text);
    }

    /// Writes the source's file.
    pub fn configure_source(&self, lines: &str) {
        let url = self.leader.url("postgres");
        let text = format!("kind = \"postgres-source\"\nurl = \"{url}\"\n{lines}");
        self.pipeline.write("connectors/leader.toml", &text);
    }

    pub fn run(&mut self) {
        self.walferry = Some(self.pipeline.run());
    }

    pub fn walferry(&self) -> &Walferry {
        self.walferry.as_ref().expect("walferry runs")
    }

    /// Ends walferry in order.
    pub fn stop(&mut self) {
        let walferry = self.walferry.take().expect("walferry runs");
        assert_eq!(walferry.terminate(), 0);
    }

    /// The same where a part of it has halted, which the exit code says.
    pub fn stop_halted(&mut self) {
        let walferry = self.walferry.take().expect("walferry runs");
        assert_eq!(walferry.terminate(), 3);
    }

    /// Ends it in order and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.run();
    }

    /// Waits until the follower has no such table.
    pub async fn has_no(&self, table: &str) {
        let place = self.store.place("public", table);
        let count = format!("SELECT count(*) FROM {place}");
        until(&format!("there is no {table}"), || async {
            match self.store.numbers(&count).await {
                Ok(_) => Err("it is there".to_owned()),
                Err(_) => Ok(()),
            }
        })
        .await;
    }

    /// Runs statements on the leader.
    pub async fn sql(&self, statements: &str) {
        let done = self.from.batch_execute(statements).await;
        done.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// Runs a transaction on the leader.
    pub async fn transaction(&self, statements: &str) {
        self.sql(&format!("BEGIN; {statements}; COMMIT")).await;
    }

    /// Waits until the follower shows all that the leader has committed.
    pub async fn caught_up(&self) {
        self.has_caught_up(SINK).await;
    }

    /// The same for any sink. Panics when it needs a person.
    pub async fn has_caught_up(&self, sink: &str) {
        let lsn = mark(&self.from).await;
        let path = format!("/v1/sinks/{sink}/wait?lsn={lsn}&timeout_ms=10000");
        let end = Instant::now() + DEADLINE;
        loop {
            let told = match get(&self.pipeline, &path).await {
                Ok((200, _)) => return,
                Ok((503, body)) if body.contains("halted") || body.contains("fenced") => {
                    panic!(
                        "sink {sink} does not come to {lsn}: {body}\n{:?}",
                        part(&self.pipeline, sink).await
                    )
                }
                Ok((status, body)) => format!("{status} {body}"),
                Err(error) => error,
            };
            assert!(Instant::now() < end, "sink {sink} is not at {lsn}: {told}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Waits until the sink needs a person; its error.
    pub async fn halted(&self) -> Value {
        let sink = comes_into(&self.pipeline, SINK, "halted").await;
        sink["last_error"].clone()
    }

    /// What the follower has of a table, sorted.
    pub async fn rows(&self, table: &Table) -> Result<Vec<String>, String> {
        let shown = self.walferry.as_ref().map(Walferry::output);
        let mut rows = self.store.rows(table, &shown.unwrap_or_default()).await?;
        rows.sort();
        Ok(rows)
    }

    /// Whether a table is the same on both sides; the first differences if not.
    pub async fn same(&self, name: &str, as_text: &[&str]) -> Result<(), String> {
        let table = table(&self.from, name, as_text).await;
        let leaders = leaders_rows::<S>(&self.from, &table).await;
        let followers = self.rows(&table).await?;
        if leaders == followers {
            return Ok(());
        }
        let only = |a: &[String], b: &[String]| -> Vec<String> {
            let only = a.iter().filter(|row| b.binary_search(row).is_err());
            only.take(5)
                .map(|row| row.chars().take(2000).collect())
                .collect()
        };
        Err(format!(
            "{name}: {} rows on the leader, {} on the follower\nonly on the leader: {:#?}\nonly on the follower: {:#?}",
            leaders.len(),
            followers.len(),
            only(&leaders, &followers),
            only(&followers, &leaders)
        ))
    }

    /// Panics when one of the tables is not the same on both sides.
    pub async fn equal(&self, tables: &[&str]) {
        for name in tables {
            if let Err(difference) = self.same(name, &[]).await {
                panic!("{difference}");
            }
        }
    }

    /// Waits until the follower has caught up, and panics when a table is not the same.
    pub async fn follows(&self, tables: &[&str]) {
        self.caught_up().await;
        self.equal(tables).await;
    }

    /// Waits until the tables are the same on both sides, which they may be before or after the follower has been
    /// copied: tables that are new, or copied anew.
    pub async fn comes_to(&self, tables: &[&str]) {
        for name in tables {
            until(name, || self.same(name, &[])).await;
        }
        self.follows(tables).await;
    }

    /// What the follower has of a table is not what the leader has.
    pub async fn differs(&self, name: &str) {
        assert!(self.same(name, &[]).await.is_err(), "{name} is the same");
    }
}
