//! What a change costs as one thing grows: sinks, width of rows, partitions, size of transactions, tables.
//!
//! One point is one pipeline on servers of its own. The source and each sink are processes of their own, so
//! that each one's cost can be told; all start at once on a backlog that waits in the slot.

use std::time::Instant;

use anyhow::ensure;
use serde::Serialize;
use tokio_postgres::Client;

use super::drain::SETTINGS;
use super::support::{Pipeline, Postgres, wait_caught_up};
use super::{load, process};

/// What is held back until everything is there: it is in the last transaction.
const MARKER: &str = "CREATE TABLE marker (id int PRIMARY KEY)";

/// What a point has of each thing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shape {
    /// Sinks, each with a follower.
    pub sinks: usize,
    /// Bytes of each row's text.
    pub width: u64,
    /// Partitions of each table's topic.
    pub partitions: u32,
    /// Rows that one transaction inserts.
    pub transaction: u64,
    /// Tables, which take turns.
    pub tables: u64,
    /// Rows in all.
    pub rows: u64,
}

const BASE: Shape = Shape {
    sinks: 1,
    width: 100,
    partitions: 1,
    transaction: 1_000,
    tables: 1,
    rows: 200_000,
};

/// One curve: a name, what it is drawn against, and its points.
struct Curve {
    name: &'static str,
    points: Vec<Shape>,
    at: fn(&Shape) -> u64,
}

fn curves() -> Vec<Curve> {
    fn curve<const N: usize>(
        name: &'static str,
        at: fn(&Shape) -> u64,
        points: [Shape; N],
    ) -> Curve {
        Curve {
            name,
            at,
            points: points.to_vec(),
        }
    }
    let sinks = |sinks| Shape { sinks, ..BASE };
    let width = |(width, rows)| Shape {
        width,
        rows,
        ..BASE
    };
    let partitions = |partitions| Shape { partitions, ..BASE };
    let transaction = |(transaction, rows)| Shape {
        transaction,
        rows,
        ..BASE
    };
    let tables = |tables| Shape { tables, ..BASE };
    let of_ten = |number| Shape {
        partitions: 10,
        ..tables(number)
    };
    vec![
        curve("sinks", |s| s.sinks as u64, [1, 2, 4, 8].map(sinks)),
        curve(
            "bytes of a row",
            |s| s.width,
            [(100, 200_000), (1_000, 100_000), (10_000, 20_000)].map(width),
        ),
        curve(
            "partitions",
            |s| u64::from(s.partitions),
            [1, 4, 16].map(partitions),
        ),
        curve(
            "changes a transaction",
            |s| s.transaction,
            [
                (1, 100_000),
                (10, 200_000),
                (1_000, 200_000),
                (1_000_000, 1_000_000),
            ]
            .map(transaction),
        ),
        curve("tables", |s| s.tables, [1, 100, 1_000].map(tables)),
        curve(
            "tables of 10 partitions",
            |s| s.tables,
            [10, 100].map(of_ten),
        ),
    ]
}

/// What one point has cost.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// The curve.
    pub curve: &'static str,
    /// What it is drawn against.
    pub at: u64,
    /// All that it has.
    pub shape: Shape,
    /// Wall-clock seconds until the last follower has everything.
    pub seconds: f64,
    /// Changes a second.
    pub rate: f64,
    /// CPU-seconds of the source for a million changes.
    pub source_cpu: f64,
    /// CPU-seconds of one sink for a million changes, their mean.
    pub sink_cpu: f64,
    /// Peak memory of the source in bytes.
    pub source_peak: u64,
    /// Peak memory of the largest sink in bytes.
    pub sink_peak: u64,
}

/// Measures all curves, or the one named.
///
/// # Errors
/// When there is no such curve, or what a point needs fails.
pub async fn measure(only: Option<&str>) -> anyhow::Result<Vec<Point>> {
    let mut curves = curves();
    if let Some(only) = only {
        let known = curves.iter().map(|curve| curve.name).collect::<Vec<_>>();
        let known = known.join(", ");
        curves.retain(|curve| curve.name == only);
        ensure!(
            !curves.is_empty(),
            "there is no curve {only}; there are {known}"
        );
    }
    let mut points = Vec::new();
    for curve in curves {
        println!(
            "\n{:<22} {:>8} {:>10} {:>14} {:>12} {:>12} {:>10}",
            curve.name,
            "seconds",
            "changes/s",
            "source CPU-s/M",
            "sink CPU-s/M",
            "source MiB",
            "sink MiB"
        );
        for shape in curve.points {
            let point = point(curve.name, (curve.at)(&shape), shape).await?;
            println!(
                "{:<22} {:>8.2} {:>10.0} {:>14.2} {:>12.2} {:>12.0} {:>10.0}",
                point.at,
                point.seconds,
                point.rate,
                point.source_cpu,
                point.sink_cpu,
                process::mib(point.source_peak),
                process::mib(point.sink_peak)
            );
            points.push(point);
        }
    }
    Ok(points)
}

async fn point(curve: &'static str, at: u64, shape: Shape) -> anyhow::Result<Point> {
    let leader = Postgres::start_with("leader", SETTINGS);
    let servers: Vec<Postgres> = (0..shape.sinks)
        .map(|n| Postgres::start_with(&format!("follower-{n}"), SETTINGS))
        .collect();
    let client = leader.client().await;
    client.batch_execute(MARKER).await?;
    for table in 0..shape.tables {
        client
            .batch_execute(&format!(
                "CREATE TABLE wide_{table} (id bigint PRIMARY KEY, v text NOT NULL)"
            ))
            .await?;
    }
    let pipeline = Pipeline::with(
        &leader,
        &servers.iter().collect::<Vec<_>>(),
        &format!("partitions = {}", shape.partitions),
        "",
    );
    let mut followers = Vec::new();
    let first = pipeline.run();
    for (server, name) in servers.iter().zip('a'..) {
        let follower = server.client().await;
        wait_caught_up(&client, &follower, &name.to_string()).await;
        followers.push(follower);
    }
    ensure!(first.terminate() == 0, "walferry did not stop in order");
    write(&client, shape).await?;

    let twins: Vec<Pipeline> = servers.iter().map(|_| pipeline.twin()).collect();
    let begin = Instant::now();
    let source = pipeline.run_only(&["leader"]);
    let sinks: Vec<_> = twins
        .iter()
        .zip('a'..)
        .map(|(twin, name)| twin.run_only(&[&name.to_string()]))
        .collect();
    for follower in &followers {
        load::arrived(follower).await?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let million = shape.rows as f64 / 1e6;
    let sink_cpu: f64 = sinks.iter().map(|s| process::cpu_seconds(s.pid())).sum();
    let peaks = sinks.iter().map(|sink| process::peak_bytes(sink.pid()));
    let point = Point {
        curve,
        at,
        shape,
        seconds,
        rate: shape.rows as f64 / seconds,
        source_cpu: process::cpu_seconds(source.pid()) / million,
        sink_cpu: sink_cpu / million / shape.sinks as f64,
        source_peak: process::peak_bytes(source.pid()),
        sink_peak: peaks.max().unwrap_or(0),
    };
    for process in sinks.into_iter().chain([source]) {
        ensure!(process.terminate() == 0, "walferry did not stop in order");
    }
    let held = rows_of(&client, shape).await?;
    for follower in &followers {
        ensure!(
            rows_of(follower, shape).await? == held,
            "a follower differs from the leader"
        );
    }
    Ok(point)
}

/// Inserts the rows, so many a transaction; the tables take turns by transaction.
async fn write(leader: &Client, shape: Shape) -> anyhow::Result<()> {
    let Shape {
        width,
        transaction,
        tables,
        rows,
        ..
    } = shape;
    // Hexadecimal digits that do not repeat: about as compressible as ordinary text.
    let text = format!(
        "(SELECT left(string_agg(md5(i::text || ' ' || j), ''), {width}) FROM generate_series(0, {width} / 32) j)"
    );
    let body = format!(
        "FOR low IN 1..{rows} BY {transaction} LOOP
           EXECUTE 'INSERT INTO wide_' || (low / {transaction} % {tables}) || $q$ SELECT i, {text} FROM generate_series($1, $2) i $q$
           USING low, least(low + {transaction} - 1, {rows});
           COMMIT;
         END LOOP;"
    );
    load::fill(leader, &body).await
}

/// Rows in all, and a number for their contents.
async fn rows_of(client: &Client, shape: Shape) -> anyhow::Result<(i64, String)> {
    let (mut count, mut sums) = (0, String::new());
    for table in 0..shape.tables {
        let (rows, sum) = load::content_of(client, &format!("wide_{table}")).await?;
        count += rows;
        sums.push_str(&sum);
        sums.push(' ');
    }
    ensure!(
        count.unsigned_abs() == shape.rows,
        "{count} rows instead of {}",
        shape.rows
    );
    Ok((count, sums))
}
