//! How fast full topics go into followers of other stores, against the store's own bulk insert of the same rows from
//! a file.
//!
//! The table's copy is in effect before the rows are written, so what is measured is the stream: from the start of the
//! sink's process until the follower shows the leader's end, by what walferry says of it. Beside that, how fast the
//! sink writes alone (`writing`).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::load::{Load, TABLES};
use super::{Plan, process, writing};
use crate::support::{self, ClickHouse, MariaDb, Pipeline, Postgres, http};

/// The stores, as `--only` names them.
pub const NAMES: [&str; 2] = ["clickhouse", "mariadb"];

/// One store.
#[derive(Serialize)]
pub struct Store {
    name: &'static str,
    rows: u64,
    /// Seconds of walferry's sink.
    seconds: f64,
    /// CPU-seconds of its process, of the store and of Kafka.
    cpu: f64,
    store_cpu: f64,
    kafka_cpu: f64,
    peak_bytes: u64,
    /// Seconds of the store's own bulk insert.
    own_seconds: f64,
    /// CPU-seconds of the store in them.
    own_cpu: f64,
    /// Rows a second, of those of the bulk insert.
    of_own: f64,
    /// Seconds in which the sink writes the rows by itself.
    alone_seconds: f64,
    /// Rows a second of that, of those of the bulk insert.
    alone_of_own: f64,
}

/// A store's server.
enum Server {
    ClickHouse(ClickHouse),
    MariaDb(MariaDb),
}

impl Server {
    /// Settings of a sink whose follower is this database.
    fn connector(&self, database: &str) -> String {
        match self {
            Server::ClickHouse(server) => {
                let url = server.url(database);
                let more = process::sink_settings();
                format!("kind = \"clickhouse\"\nurl = \"{url}\"\nbatch_max_age = \"0s\"\n{more}\n")
            }
            Server::MariaDb(server) => {
                format!("kind = \"mysql\"\nurl = \"{}\"\n", server.url(database))
            }
        }
    }

    /// CPU-seconds of the server by now; 0 where its process is not known.
    fn cpu_seconds(&self) -> f64 {
        let pid = match self {
            Server::ClickHouse(server) => server.pid(),
            Server::MariaDb(server) => Some(server.pid()),
        };
        pid.map_or(0.0, process::cpu_seconds)
    }

    /// Rows of the table.
    async fn rows(&self) -> anyhow::Result<u64> {
        let told = match self {
            Server::ClickHouse(server) => {
                server.query("SELECT count() FROM bench.bulk FINAL").await
            }
            Server::MariaDb(server) => server.query("SELECT count(*) FROM bench.bulk"),
        };
        told.trim().parse().with_context(|| told.clone())
    }

    /// Waits until the server does no more with the rows than keep them.
    async fn is_quiet(&self) {
        let Server::ClickHouse(server) = self else {
            return;
        };
        support::until("merges have ended", || async {
            let told = server.query("SELECT count() FROM system.merges").await;
            if told.trim() == "0" {
                Ok(())
            } else {
                Err(told)
            }
        })
        .await;
    }

    /// Writes the rows into a file, and has the server insert them into a table like the first: seconds and
    /// CPU-seconds of that.
    async fn inserts_itself(&self) -> anyhow::Result<(f64, f64)> {
        let directory = support::directory("bench-rows");
        // The server writes it, as its own user.
        std::fs::set_permissions(&directory, Permissions::from_mode(0o777))?;
        let file = directory.join("rows");
        let file = file.to_str().context("a path of text")?;
        let (before, insert) = match self {
            Server::ClickHouse(_) => (
                vec![
                    "CREATE TABLE bench.own AS bench.bulk".to_owned(),
                    format!(
                        "INSERT INTO FUNCTION file('{file}', 'RowBinary') SELECT * FROM bench.bulk FINAL"
                    ),
                ],
                format!(
                    "INSERT INTO bench.own SELECT * FROM file('{file}', 'RowBinary', \
                     'id Int64, customer Int32, amount Decimal(12, 2), state String, note Nullable(String), \
                     at DateTime64(6, \\'UTC\\'), _version UInt128, _deleted UInt8')"
                ),
            ),
            Server::MariaDb(_) => (
                vec![
                    "CREATE TABLE bench.own LIKE bench.bulk".to_owned(),
                    format!("SELECT * INTO OUTFILE '{file}' FROM bench.bulk"),
                ],
                format!("LOAD DATA INFILE '{file}' INTO TABLE bench.own"),
            ),
        };
        for statement in before {
            self.run(&statement).await;
        }
        self.is_quiet().await;
        let (begin, cpu) = (Instant::now(), self.cpu_seconds());
        self.run(&insert).await;
        Ok((begin.elapsed().as_secs_f64(), self.cpu_seconds() - cpu))
    }

    async fn run(&self, statement: &str) {
        match self {
            Server::ClickHouse(server) => server.sql(statement).await,
            Server::MariaDb(server) => server.sql(statement),
        }
    }
}

/// Measures every store.
pub async fn measure(plan: &Plan) -> anyhow::Result<Vec<Store>> {
    let mut stores = Vec::new();
    for run in 0..plan.runs {
        for name in NAMES.into_iter().filter(|name| plan.measures(name)) {
            eprintln!(
                "{name}, run {} of {}: {} rows",
                run + 1,
                plan.runs,
                plan.rows
            );
            let server = match name {
                "clickhouse" => Server::ClickHouse(ClickHouse::start("bench-clickhouse")),
                _mariadb => Server::MariaDb(MariaDb::start_with(
                    "bench-mariadb",
                    &[
                        "innodb_flush_log_at_trx_commit=1",
                        "innodb_buffer_pool_size=512M",
                    ],
                )),
            };
            stores.push(one(plan, name, &server).await.context(name)?);
        }
    }
    print(&stores);
    Ok(stores)
}

async fn one(plan: &Plan, name: &'static str, server: &Server) -> anyhow::Result<Store> {
    let leader = Postgres::start_with("bench-leader", &["shared_buffers=256MB"]);
    let on_leader = leader.client().await;
    on_leader.batch_execute(TABLES).await?;
    let pipeline = Pipeline::between(&leader.url("postgres"), &[], "", "");
    pipeline.write("connectors/store.toml", &server.connector("bench"));
    let both = pipeline.run();
    shows(&pipeline, &support::content::mark(&on_leader).await).await?;
    ensure!(both.terminate() == 0, "walferry did not stop in order");
    let source = pipeline.run_only(&["leader"]);
    let end = Load::Inserts.write(&on_leader, plan).await?;
    support::content::published(&on_leader).await;
    ensure!(source.terminate() == 0, "the source did not stop in order");

    let kafka = process::kafka_pids();
    let (store_before, kafka_before) = (server.cpu_seconds(), process::cpu_of(&kafka));
    let begin = Instant::now();
    let sink = pipeline.run_only(&["store"]);
    shows(&pipeline, &end).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let store_cpu = server.cpu_seconds() - store_before;
    let kafka_cpu = process::cpu_of(&kafka) - kafka_before;
    let (cpu, peak_bytes) = (
        process::cpu_seconds(sink.pid()),
        process::peak_bytes(sink.pid()),
    );
    ensure!(sink.terminate() == 0, "the sink did not stop in order");
    let rows = server.rows().await?;
    ensure!(rows == plan.rows, "{rows} rows are there");
    let (own_seconds, own_cpu) = server.inserts_itself().await?;
    pipeline.write("connectors/alone.toml", &server.connector("alone"));
    server.is_quiet().await;
    let alone = writing::settings(&pipeline, "alone")?;
    let alone_seconds = writing::seconds(&pipeline, &alone, &on_leader).await?;
    Ok(Store {
        name,
        rows,
        seconds,
        cpu,
        store_cpu,
        kafka_cpu,
        peak_bytes,
        own_seconds,
        own_cpu,
        of_own: own_seconds / seconds,
        alone_seconds,
        alone_of_own: own_seconds / alone_seconds,
    })
}

/// Waits until the follower shows the position.
async fn shows(pipeline: &Pipeline, lsn: &str) -> anyhow::Result<()> {
    let path = format!("/v1/sinks/store/wait?lsn={lsn}&timeout_ms=10000");
    let begin = Instant::now();
    loop {
        match http::get(pipeline, &path).await {
            Ok((200, _)) => return Ok(()),
            Ok((503, body)) if body.contains("halted") => anyhow::bail!("{body}"),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
        ensure!(
            begin.elapsed() < support::DEADLINE,
            "the follower does not come to {lsn}"
        );
    }
}

fn print(stores: &[Store]) {
    const HEAD: [&str; 12] = [
        "sink", "rows", "seconds", "CPU-s", "store's", "Kafka's", "MiB", "bulk: s", "CPU-s",
        "of bulk", "alone: s", "of bulk",
    ];
    let line = |cells: [String; 12]| {
        let [name, rest @ ..] = cells;
        let rest = rest.map(|cell| format!("{cell:>9}")).join(" ");
        println!("{name:<11}{rest}");
    };
    println!();
    line(HEAD.map(str::to_owned));
    for one in stores {
        let number = |number: f64| format!("{number:.2}");
        line([
            one.name.to_owned(),
            one.rows.to_string(),
            number(one.seconds),
            number(one.cpu),
            number(one.store_cpu),
            number(one.kafka_cpu),
            format!("{:.0}", process::mib(one.peak_bytes)),
            number(one.own_seconds),
            number(one.own_cpu),
            number(one.of_own),
            number(one.alone_seconds),
            number(one.alone_of_own),
        ]);
    }
}
