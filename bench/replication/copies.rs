//! A first copy, a rebuild from Kafka and a verification of one large table, against native replication's
//! first copy of the same table.

use std::time::Instant;

use anyhow::ensure;
use serde::Serialize;
use tokio_postgres::Client;

use super::drain::SETTINGS;
use super::support::{self, Pipeline, Postgres, wait_caught_up};
use super::{load, process};

/// The table, with a secondary index, on the leader and, empty, on followers.
const TABLE: &str = "CREATE TABLE large (id bigint PRIMARY KEY, tag int NOT NULL, note text NOT NULL); \
    CREATE INDEX large_tag ON large (tag)";

/// Bytes of a row's text: with its other columns and header a row has some 200.
const NOTE_BYTES: u32 = 152;

/// One thing that was done with all rows.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    /// What.
    pub what: &'static str,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Rows a second.
    pub rate: f64,
    /// CPU-seconds of the walferry processes; none for native.
    pub walferry_cpu: Option<f64>,
    /// Peak memory of the largest of them in bytes.
    pub peak_bytes: Option<u64>,
    /// The rate over native's in the same run.
    pub of_native: f64,
}

/// Fills a table of so many rows and measures each in turn; every follower must hold what the leader holds.
pub async fn measure(rows: u64) -> anyhow::Result<Vec<Done>> {
    let leader = Postgres::start_with("leader", SETTINGS);
    let (native, follower) = (
        Postgres::start_with("native", SETTINGS),
        Postgres::start_with("follower", SETTINGS),
    );
    let (client, on_native, on_follower) = (
        leader.client().await,
        native.client().await,
        follower.client().await,
    );
    for at in [&client, &on_native, &on_follower] {
        at.batch_execute(TABLE).await?;
    }
    fill(&client, rows).await?;
    let content = load::content_of(&client, "large").await?;
    let mut done = vec![copied_by_native(&leader, &client, &on_native, rows).await?];
    let native_rate = done[0].rate;
    let holds = async |at: &Client, what: &str| -> anyhow::Result<()> {
        let held = load::content_of(at, "large").await?;
        ensure!(
            held == content,
            "{what}: the follower differs from the leader"
        );
        Ok(())
    };
    holds(&on_native, "native").await?;

    let sink = process::sink_settings();
    let pipeline = Pipeline::with(&leader, &[&follower], "", &sink);
    let begin = Instant::now();
    let walferry = pipeline.run();
    shows_all(&on_follower, "a").await;
    let pid = walferry.pid();
    let mut first = of(rows, "walferry, first copy", begin, native_rate);
    first.walferry_cpu = Some(process::cpu_seconds(pid));
    first.peak_bytes = Some(process::peak_bytes(pid));
    done.push(first);
    holds(&on_follower, "first copy").await?;

    // Processes of their own, so that what each has used is its own.
    ensure!(walferry.terminate() == 0, "walferry did not stop in order");
    let walferry = pipeline.run();
    wait_caught_up(&client, &on_follower, "a").await;
    let (pid, before) = (walferry.pid(), process::cpu_seconds(walferry.pid()));
    let begin = Instant::now();
    let status = pipeline.command(&["rebuild", "a", "--detach"]).status()?;
    ensure!(status.success(), "the rebuild was not ordered");
    shows_all(&on_follower, "a").await;
    let mut rebuilt = of(rows, "walferry, rebuild from Kafka", begin, native_rate);
    rebuilt.walferry_cpu = Some(process::cpu_seconds(pid) - before);
    rebuilt.peak_bytes = Some(process::peak_bytes(pid));
    done.push(rebuilt);
    holds(&on_follower, "rebuild").await?;

    let begin = Instant::now();
    let mut verify = pipeline.command(&["verify", "a"]).spawn()?;
    let (mut cpu, mut peak) = (0.0_f64, 0);
    let status = loop {
        if let Some(status) = verify.try_wait()? {
            break status;
        }
        // Read while it lives: the numbers are gone with the process.
        cpu = cpu.max(process::cpu_seconds(verify.id()));
        peak = peak.max(process::peak_bytes(verify.id()));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    ensure!(status.success(), "verify found differences");
    let mut verified = of(rows, "walferry, verify", begin, native_rate);
    (verified.walferry_cpu, verified.peak_bytes) = (Some(cpu), Some(peak));
    done.push(verified);
    ensure!(walferry.terminate() == 0, "walferry did not stop in order");
    print(&done, rows);
    Ok(done)
}

fn of(rows: u64, what: &'static str, begin: Instant, native_rate: f64) -> Done {
    let seconds = begin.elapsed().as_secs_f64();
    let rate = rows as f64 / seconds;
    Done {
        what,
        seconds,
        rate,
        walferry_cpu: None,
        peak_bytes: None,
        of_native: if native_rate > 0.0 {
            rate / native_rate
        } else {
            1.0
        },
    }
}

async fn fill(leader: &Client, rows: u64) -> anyhow::Result<()> {
    // Hexadecimal digits that do not repeat: about as compressible as ordinary text.
    leader
        .batch_execute(&format!(
            "INSERT INTO large SELECT i, (i::bigint * 7919) % 100000, left(md5(i::text) || md5((i + 1)::text) || \
                md5((i + 2)::text) || md5((i + 3)::text) || md5((i + 4)::text), {NOTE_BYTES}) \
             FROM generate_series(1, {rows}) i; ANALYZE large; CHECKPOINT"
        ))
        .await?;
    Ok(())
}

async fn copied_by_native(
    leader: &Postgres,
    on_leader: &Client,
    follower: &Client,
    rows: u64,
) -> anyhow::Result<Done> {
    on_leader
        .batch_execute("CREATE PUBLICATION native FOR TABLE large")
        .await?;
    let begin = Instant::now();
    follower
        .batch_execute(&format!(
            "CREATE SUBSCRIPTION native CONNECTION 'host=127.0.0.1 port={} user=postgres dbname=postgres'
             PUBLICATION native WITH (copy_data = true)",
            leader.port
        ))
        .await?;
    support::until("native has copied the table", || async {
        let state = "SELECT 1 FROM pg_subscription_rel WHERE srsubstate = 'r'";
        match follower.query_opt(state, &[]).await {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let done = of(rows, "native, first copy", begin, 0.0);
    follower.batch_execute("DROP SUBSCRIPTION native").await?;
    Ok(done)
}

/// Waits until every table of a follower is in effect.
async fn shows_all(follower: &Client, sink: &str) {
    support::until("every table is in effect", || async {
        let query = "SELECT 1 FROM walferry.checkpoint WHERE sink = $1 AND NOT copying";
        match follower.query_opt(query, &[&sink]).await {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

fn print(done: &[Done], rows: u64) {
    println!(
        "\n{:<30} {:>8} {:>10} {:>10} {:>15} {:>10}",
        format!("{rows} rows"),
        "seconds",
        "rows/s",
        "of native",
        "walferry CPU-s",
        "peak MiB"
    );
    for one in done {
        let known = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
        println!(
            "{:<30} {:>8.2} {:>10.0} {:>10.2} {:>15} {:>10}",
            one.what,
            one.seconds,
            one.rate,
            one.of_native,
            known(one.walferry_cpu.map(|cpu| format!("{cpu:.1}"))),
            known(
                one.peak_bytes
                    .map(|peak| format!("{:.0}", process::mib(peak)))
            ),
        );
    }
}
