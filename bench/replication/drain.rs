//! How fast a backlog that waits in slots is drained, end to end and by sources alone.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::support::{self, Pipeline, Postgres, wait_caught_up};
use super::{Plan, load, process};

/// One measured drain.
#[derive(Clone, Debug, Serialize)]
pub struct Drained {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Changes a second.
    pub rate: f64,
    /// CPU-seconds of the leader's walsender.
    pub walsender_cpu: f64,
    /// CPU-seconds of the reading process (walferry, pg_recvlogical; for native the apply worker).
    pub reader_cpu: f64,
    /// CPU-seconds of the follower's backend that walferry uses.
    pub backend_cpu: f64,
    /// CPU-seconds of Kafka.
    pub kafka_cpu: f64,
    /// Peak memory of the reading process in bytes.
    pub peak_bytes: u64,
}

/// All drains of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Drains {
    /// Postgres's own logical replication, end to end.
    pub native: Drained,
    /// walferry, end to end through Kafka.
    pub walferry: Drained,
    /// `pg_recvlogical` to /dev/null.
    pub recvlogical: Drained,
    /// walferry's source into Kafka.
    pub source: Drained,
}

const SETTINGS: &[&str] = &[
    "fsync=on",
    "shared_buffers=256MB",
    "max_wal_size=8GB",
    "checkpoint_timeout=30min",
    "autovacuum=off",
];

/// Starts three equal servers, lets the backlog wait in four slots, and drains one after the other.
pub async fn measure(plan: &Plan) -> anyhow::Result<Drains> {
    let leader = Postgres::start_with("leader", SETTINGS);
    let (native, follower) = (
        Postgres::start_with("native", SETTINGS),
        Postgres::start_with("follower", SETTINGS),
    );
    let client = leader.client().await;
    client.batch_execute(load::TABLES).await?;
    client
        .batch_execute("CREATE PUBLICATION native FOR TABLE bulk, marker")
        .await?;
    let on_native = native.client().await;
    on_native.batch_execute(load::TABLES).await?;
    on_native
        .batch_execute(&format!(
            "CREATE SUBSCRIPTION native CONNECTION 'host=127.0.0.1 port={} user=postgres dbname=postgres'
             PUBLICATION native WITH (copy_data = false, enabled = false, create_slot = true)",
            leader.port
        ))
        .await?;
    client
        .batch_execute("SELECT pg_create_logical_replication_slot('plain', 'pgoutput')")
        .await?;
    // Both pipelines have made their slots and their (empty) first copies before the load is written.
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let alone = Pipeline::new(&leader, &[]);
    let on_follower = follower.client().await;
    let first = pipeline.run();
    wait_caught_up(&client, &on_follower, "a").await;
    ensure!(first.terminate() == 0, "walferry did not stop in order");
    let first = alone.run();
    wait_confirmed(&client, &alone, "0/1").await;
    ensure!(first.terminate() == 0, "walferry did not stop in order");

    let end = load::write(&client, plan).await?;
    eprintln!("  the backlog is written, up to {end}");
    let drains = Drains {
        native: drain_native(plan, &leader, &on_native)
            .await
            .context("native")?,
        walferry: drain_walferry(plan, &leader, &on_follower, &pipeline)
            .await
            .context("walferry")?,
        recvlogical: drain_recvlogical(plan, &leader, &end)
            .await
            .context("pg_recvlogical")?,
        source: drain_source(plan, &leader, &alone, &end)
            .await
            .context("source")?,
    };
    let contents = (
        load::content(&client).await?,
        load::content(&on_native).await?,
        load::content(&on_follower).await?,
    );
    ensure!(
        contents.0 == contents.1,
        "native's follower differs from the leader: {contents:?}"
    );
    ensure!(
        contents.0 == contents.2,
        "walferry's follower differs from the leader: {contents:?}"
    );
    Ok(drains)
}

fn drained(plan: &Plan, begin: Instant) -> Drained {
    let seconds = begin.elapsed().as_secs_f64();
    let rate = load::changes(plan) as f64 / seconds;
    Drained {
        seconds,
        rate,
        walsender_cpu: 0.0,
        reader_cpu: 0.0,
        backend_cpu: 0.0,
        kafka_cpu: 0.0,
        peak_bytes: 0,
    }
}

/// Process id of the walsender of a slot.
async fn walsender(leader: &Postgres, slot: &str) -> u32 {
    let client = leader.client().await;
    let row = client
        .query_opt(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1",
            &[&slot],
        )
        .await;
    row.ok()
        .flatten()
        .and_then(|row| row.get::<_, Option<i32>>(0))
        .map_or(0, i32::unsigned_abs)
}

async fn drain_native(
    plan: &Plan,
    leader: &Postgres,
    follower: &tokio_postgres::Client,
) -> anyhow::Result<Drained> {
    let begin = Instant::now();
    follower
        .batch_execute("ALTER SUBSCRIPTION native ENABLE")
        .await?;
    load::arrived(follower).await?;
    let mut result = drained(plan, begin);
    result.walsender_cpu = process::cpu_seconds(walsender(leader, "native").await);
    let worker = follower
        .query_one(
            "SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL",
            &[],
        )
        .await?;
    let worker = worker.get::<_, i32>(0).unsigned_abs();
    (result.reader_cpu, result.peak_bytes) =
        (process::cpu_seconds(worker), process::peak_bytes(worker));
    follower
        .batch_execute("ALTER SUBSCRIPTION native DISABLE")
        .await?;
    Ok(result)
}

async fn drain_walferry(
    plan: &Plan,
    leader: &Postgres,
    follower: &tokio_postgres::Client,
    pipeline: &Pipeline,
) -> anyhow::Result<Drained> {
    let brokers = process::kafka_pids();
    let kafka = process::cpu_of(&brokers);
    let begin = Instant::now();
    let walferry = pipeline.run();
    load::arrived(follower).await?;
    let mut result = drained(plan, begin);
    result.walsender_cpu =
        process::cpu_seconds(walsender(leader, &format!("walferry_{}", pipeline.name)).await);
    result.reader_cpu = process::cpu_seconds(walferry.pid());
    result.peak_bytes = process::peak_bytes(walferry.pid());
    result.kafka_cpu = process::cpu_of(&brokers) - kafka;
    let backends = follower
        .query("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'walferry%' AND backend_type = 'client backend'", &[])
        .await?;
    result.backend_cpu = backends
        .iter()
        .map(|row| process::cpu_seconds(row.get::<_, i32>(0).unsigned_abs()))
        .sum();
    ensure!(walferry.terminate() == 0, "walferry did not stop in order");
    Ok(result)
}

async fn drain_recvlogical(plan: &Plan, leader: &Postgres, end: &str) -> anyhow::Result<Drained> {
    let begin = Instant::now();
    let mut child = Command::new(support::dev())
        .args([
            "pg_recvlogical",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-p",
            &leader.port.to_string(),
        ])
        .args([
            "--slot",
            "plain",
            "--start",
            "--endpos",
            end,
            "-f",
            "/dev/null",
        ])
        .args(["-o", "proto_version=1", "-o", "publication_names=native"])
        .stderr(Stdio::null())
        .spawn()?;
    // Read while they live: the numbers are gone with the processes.
    let (mut reader_cpu, mut sender_cpu, mut peak) = (0.0, 0.0, 0);
    let mut sender = 0;
    let mut result = loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "pg_recvlogical ended with {status}");
            break drained(plan, begin);
        }
        if sender == 0 {
            sender = walsender(leader, "plain").await;
        }
        reader_cpu = process::cpu_seconds(child.id()).max(reader_cpu);
        sender_cpu = process::cpu_seconds(sender).max(sender_cpu);
        peak = process::peak_bytes(child.id()).max(peak);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    (result.reader_cpu, result.walsender_cpu, result.peak_bytes) = (reader_cpu, sender_cpu, peak);
    Ok(result)
}

async fn drain_source(
    plan: &Plan,
    leader: &Postgres,
    alone: &Pipeline,
    end: &str,
) -> anyhow::Result<Drained> {
    let brokers = process::kafka_pids();
    let kafka = process::cpu_of(&brokers);
    let client = leader.client().await;
    let begin = Instant::now();
    let walferry = alone.run();
    wait_confirmed(&client, alone, end).await;
    let mut result = drained(plan, begin);
    result.walsender_cpu =
        process::cpu_seconds(walsender(leader, &format!("walferry_{}", alone.name)).await);
    result.reader_cpu = process::cpu_seconds(walferry.pid());
    result.peak_bytes = process::peak_bytes(walferry.pid());
    result.kafka_cpu = process::cpu_of(&brokers) - kafka;
    ensure!(walferry.terminate() == 0, "walferry did not stop in order");
    Ok(result)
}

/// Waits until a pipeline's slot is confirmed up to a position.
async fn wait_confirmed(leader: &tokio_postgres::Client, pipeline: &Pipeline, end: &str) {
    let slot = format!("walferry_{}", pipeline.name);
    support::until("the slot is confirmed", || async {
        let query = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND confirmed_flush_lsn >= $2::text::pg_lsn AND active";
        match leader.query_opt(query, &[&slot, &end]).await {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
