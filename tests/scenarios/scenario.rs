//! One scenario: a database on the leader and one on the follower that all scenarios share, and a
//! pipeline between them.

use std::io::Write as _;
use std::sync::{Arc, Mutex, Weak};

use tokio_postgres::Client;

use crate::support::{Pipeline, Postgres, Walferry, assert_equal, content, until, wait_caught_up};

/// A leader that spills every transaction but the smallest, and knows two-phase commit.
const LEADER: &[&str] = &[
    "logical_decoding_work_mem=64kB",
    "max_prepared_transactions=20",
    "max_replication_slots=60",
    "max_wal_senders=60",
];
const FOLLOWER: &[&str] = &[
    "max_prepared_transactions=20",
    "max_replication_slots=20",
    "track_commit_timestamp=on",
];

/// The servers of all scenarios that run now; stopped with the last of them.
pub struct Servers {
    pub leader: Postgres,
    pub follower: Postgres,
}

impl Servers {
    fn get() -> Arc<Self> {
        static NOW: Mutex<Weak<Servers>> = Mutex::new(Weak::new());
        let mut now = NOW.lock().unwrap_or_else(|broken| broken.into_inner());
        if let Some(servers) = now.upgrade() {
            return servers;
        }
        let servers = Arc::new(Servers {
            leader: Postgres::start_with("leader", LEADER),
            follower: Postgres::start_with("follower", FOLLOWER),
        });
        *now = Arc::downgrade(&servers);
        servers
    }
}

/// A pair of databases with a pipeline.
pub struct Scenario {
    pub database: String,
    /// On the leader.
    pub from: Client,
    /// On the follower.
    pub to: Client,
    pub pipeline: Pipeline,
    /// The servers' major.
    pub major: i32,
    pub servers: Arc<Servers>,
    walferry: Option<Walferry>,
}

impl Scenario {
    /// Empty databases, and a pipeline that is not yet started.
    pub async fn new() -> Self {
        Self::with("", "").await
    }

    /// The same with more lines in the source's and the sink's settings.
    pub async fn with(source: &str, sink: &str) -> Self {
        Self::with_databases("", source, sink).await
    }

    /// The same with options of CREATE DATABASE.
    pub async fn with_databases(options: &str, source: &str, sink: &str) -> Self {
        let servers = Servers::get();
        let database = format!("s{}", crate::support::unique());
        for server in [&servers.leader, &servers.follower] {
            let create = format!("CREATE DATABASE {database} {options}");
            server.sql(&create).await;
        }
        let (leader, follower) = (&servers.leader, &servers.follower);
        let (from_url, to_url) = (leader.url(&database), follower.url(&database));
        Scenario {
            from: leader.client_on(&database).await,
            to: follower.client_on(&database).await,
            pipeline: Pipeline::between(&from_url, &[to_url], source, sink),
            major: leader.major().await,
            database,
            walferry: None,
            servers,
        }
    }

    /// A scenario for servers of this major or newer; says so where it is skipped.
    pub async fn since(major: i32, what: &str, source: &str) -> Option<Self> {
        let scenario = Self::with(source, "").await;
        if scenario.major < major {
            skipped(&format!(
                "{what} came with Postgres {major}, this is {}",
                scenario.major
            ));
            return None;
        }
        Some(scenario)
    }

    /// Runs statements on the leader, those of one string in one transaction.
    pub async fn leader(&self, statements: &str) {
        run(&self.from, statements).await;
    }

    /// Runs statements on the follower.
    pub async fn follower(&self, statements: &str) {
        run(&self.to, statements).await;
    }

    /// Runs statements on both.
    pub async fn both(&self, statements: &str) {
        self.leader(statements).await;
        self.follower(statements).await;
    }

    /// Another session on the leader's database.
    pub async fn another(&self) -> Client {
        self.servers.leader.client_on(&self.database).await
    }

    /// Starts walferry.
    pub fn start(&mut self) {
        self.walferry = Some(self.pipeline.run());
    }

    /// What walferry has logged since its start.
    pub fn output(&self) -> String {
        self.walferry.as_ref().expect("it was started").output()
    }

    /// Stops walferry; nothing may have halted.
    pub fn stop(&mut self) {
        let walferry = self.walferry.take().expect("it was started");
        let output = walferry.output();
        assert_eq!(walferry.terminate(), 0, "{output}");
    }

    /// Stops walferry, of which a part has halted.
    pub fn stop_halted(&mut self) {
        let walferry = self.walferry.take().expect("it was started");
        assert_eq!(walferry.terminate(), 3);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.walferry.take().expect("it was started").kill();
    }

    /// Waits until the follower has all that the leader has; panics as soon as a part halts.
    pub async fn caught_up(&self) {
        tokio::select! {
            () = wait_caught_up(&self.from, &self.to, "a") => {}
            line = self.halted() => panic!("a part has halted: {line}"),
        }
    }

    /// Waits, then compares tables row by row.
    pub async fn equal(&self, tables: &[&str]) {
        self.caught_up().await;
        assert_equal(&self.from, &self.to, tables).await;
    }

    /// Waits, then compares the rows of the follower's table with the expected ones, as text.
    pub async fn follower_has(&self, table: &str, rows: &[&str]) {
        self.caught_up().await;
        assert_eq!(content::rows(&self.to, table).await, rows, "{table}");
    }

    /// Waits until a part has halted; the line that says so.
    async fn halted(&self) -> String {
        loop {
            let line = self.output().lines().find(|l| is_halt(l)).map(String::from);
            match line {
                Some(line) => return line,
                None => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    }

    /// Waits until a part halts with an error that holds all these words and a remedy.
    pub async fn halts(&self, words: &[&str]) -> String {
        let what = format!("a part halts and says {words:?}");
        until(&what, || async {
            let output = self.output();
            let halt = output.lines().find(|line| is_halt(line));
            let halt = halt.ok_or_else(|| output.clone())?.to_owned();
            for word in words {
                assert!(halt.contains(word), "{word} is not in: {halt}");
            }
            assert!(halt.contains("remedy"), "{halt}");
            Ok(halt)
        })
        .await
    }

    /// Waits until the log says something.
    pub async fn says(&self, words: &str) {
        until(&format!("the log says {words}"), || async {
            let output = self.output();
            output.contains(words).then_some(()).ok_or(output)
        })
        .await;
    }

    /// One value of one row.
    pub async fn ask(client: &Client, query: &str) -> String {
        let query = format!("SELECT ({query})::text");
        let row = client.query_one(&query, &[]).await;
        row.unwrap_or_else(|error| panic!("{query}: {error:?}"))
            .get::<_, Option<String>>(0)
            .unwrap_or_else(|| "NULL".to_owned())
    }

    /// Stops walferry without a halt and frees the slot.
    pub async fn end(mut self) {
        if self.walferry.is_some() {
            self.stop();
        }
        self.drop_slot().await;
    }

    /// Stops walferry, a part of which has halted, and frees the slot.
    pub async fn end_halted(mut self) {
        self.stop_halted();
        self.drop_slot().await;
    }

    async fn drop_slot(&self) {
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'walferry_{}'",
            self.pipeline.name
        );
        self.servers.leader.sql(&drop).await;
    }
}

/// Says that a scenario is skipped, in the output of the run: what a test prints is shown only when it fails.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn is_halt(line: &str) -> bool {
    line.contains("ERROR") && line.contains("halted")
}

async fn run(client: &Client, statements: &str) {
    client
        .batch_execute(statements)
        .await
        .unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}
