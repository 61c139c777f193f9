//! How fast a backlog that waits in slots is drained, end to end and by sources alone.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, TryStreamExt};
use serde::Serialize;

use super::debezium::{self, Connect};
use super::load::Load;
use super::support::{self, Pipeline, Postgres, wait_caught_up};
use super::{Plan, load, process};

/// One measured drain.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Drained {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Changes a second.
    pub rate: f64,
    /// CPU-seconds of the leader's walsender.
    pub walsender_cpu: f64,
    /// CPU-seconds of the reading process (walferry, pg_recvlogical, Connect; for native the apply worker).
    pub reader_cpu: f64,
    /// CPU-seconds of the follower's backends that walferry or Debezium uses.
    pub backend_cpu: f64,
    /// CPU-seconds of Kafka.
    pub kafka_cpu: f64,
    /// Peak memory of the reading process in bytes.
    pub peak_bytes: u64,
}

/// All drains of one run; none: left out by `--only`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Drains {
    /// Postgres's own logical replication, end to end.
    pub native: Option<Drained>,
    /// walferry, end to end through Kafka.
    pub walferry: Option<Drained>,
    /// `pg_recvlogical` to /dev/null.
    pub recvlogical: Option<Drained>,
    /// walferry's source into Kafka.
    pub source: Option<Drained>,
    /// walferry's sink from full topics.
    pub sink: Option<Drained>,
    /// A plain COPY of the rows at the end into an empty table.
    pub copy: Option<Drained>,
    /// Debezium as its documentation sets it up, end to end through Kafka.
    pub debezium: Option<Drained>,
    /// The same, tuned.
    pub debezium_tuned: Option<Drained>,
}

/// Settings of the servers.
pub const SETTINGS: &[&str] = &[
    "fsync=on",
    "shared_buffers=256MB",
    "max_wal_size=8GB",
    "checkpoint_timeout=30min",
    "autovacuum=off",
];

/// Rows and transactions of the load that Debezium has before any is measured.
const WARM_UP: (u64, u64) = (400_000, 20_000);

/// How long Debezium may take before it counts as failed.
const LONGEST_DRAIN: Duration = Duration::from_secs(1800);

/// Starts equal servers, lets the backlog of a load wait in slots of the leader, and drains one after the
/// other; at the end every follower must hold what the leader holds.
pub async fn measure(plan: &Plan, load: Load) -> anyhow::Result<Drains> {
    let leader = Postgres::start_with("leader", SETTINGS);
    let (native, follower, late) = (
        Postgres::start_with("native", SETTINGS),
        Postgres::start_with("follower", SETTINGS),
        Postgres::start_with("late", SETTINGS),
    );
    let client = leader.client().await;
    client.batch_execute(load::TABLES).await?;
    let peers = Peer::all(plan, &leader, &client).await?;
    client.batch_execute(&load.first_rows()).await?;
    client
        .batch_execute("CREATE PUBLICATION native FOR TABLE bulk, marker")
        .await?;
    let on_native = native.client().await;
    on_native.batch_execute(load::TABLES).await?;
    on_native.batch_execute(&load.first_rows()).await?;
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
    // Both pipelines have made their slots and their first copies before the load is written.
    let whole = Pipeline::new(&leader, &[&follower]);
    let halves = Pipeline::new(&leader, &[&late]);
    let (on_follower, on_late) = (follower.client().await, late.client().await);
    for (pipeline, at) in [(&whole, &on_follower), (&halves, &on_late)] {
        let first = pipeline.run();
        wait_caught_up(&client, at, "a").await;
        ensure!(first.terminate() == 0, "walferry did not stop in order");
    }

    let end = load.write(&client, plan).await?;
    eprintln!("  the backlog is written, up to {end}");
    let content = load::content(&client).await?;
    let mut drains = Drains::default();
    let changes = load.changes(plan);
    if plan.measures("native") {
        let done = drain_native(&leader, &on_native).await;
        drains.native = Some(done.context("native")?.of(changes));
    }
    if plan.measures("walferry") {
        let done = drain_walferry(&leader, &on_follower, &whole, &[]).await;
        drains.walferry = Some(done.context("walferry")?.of(changes));
    }
    if plan.measures("recvlogical") {
        let done = drain_recvlogical(&leader, &end).await;
        drains.recvlogical = Some(done.context("pg_recvlogical")?.of(changes));
    }
    if plan.measures("source") || plan.measures("sink") {
        let done = drain_source(&leader, &halves, &end).await;
        drains.source = Some(done.context("source")?.of(changes));
    }
    if plan.measures("sink") {
        let done = drain_walferry(&leader, &on_late, &halves, &["a"]).await;
        drains.sink = Some(done.context("sink")?.of(changes));
    }
    let whole_load = (load.last_changes(plan), content.clone());
    for peer in peers {
        let done = drain_debezium(&leader, &peer, &whole_load).await;
        let done = done.context(peer.setting)?.of(changes);
        *drains.of_debezium(peer.setting) = Some(done);
    }
    for (what, drained, at) in [
        ("native's", &drains.native, &on_native),
        ("walferry's", &drains.walferry, &on_follower),
        ("walferry's late", &drains.sink, &on_late),
    ] {
        if drained.is_none() {
            continue;
        }
        let held = load::content(at).await?;
        ensure!(
            held == content,
            "{what} follower differs from the leader: {held:?}, {content:?}"
        );
    }
    if plan.measures("copy") {
        drains.copy = Some(copy_of(&client, &on_late).await?);
    }
    Ok(drains)
}

/// A plain COPY of the leader's rows into an emptied table of a follower: what any sink must pay for inserts.
async fn copy_of(
    leader: &tokio_postgres::Client,
    follower: &tokio_postgres::Client,
) -> anyhow::Result<Drained> {
    let rows: i64 = leader
        .query_one("SELECT count(*) FROM bulk", &[])
        .await?
        .get(0);
    let content = leader.copy_out("COPY bulk TO STDOUT").await?;
    let pieces: Vec<bytes::Bytes> = content.try_collect().await?;
    follower.batch_execute("TRUNCATE bulk").await?;
    let backend: i32 = follower
        .query_one("SELECT pg_backend_pid()", &[])
        .await?
        .get(0);
    let backend = backend.unsigned_abs();
    let (begin, cpu) = (Instant::now(), process::cpu_seconds(backend));
    let sink = follower.copy_in("COPY bulk FROM STDIN").await?;
    tokio::pin!(sink);
    for piece in pieces {
        sink.feed(piece).await?;
    }
    sink.finish().await?;
    let mut result = drained(begin);
    result.backend_cpu = process::cpu_seconds(backend) - cpu;
    Ok(result.of(rows.unsigned_abs()))
}

impl Drains {
    fn of_debezium(&mut self, setting: &str) -> &mut Option<Drained> {
        if setting == debezium::SETTINGS[0] {
            &mut self.debezium
        } else {
            &mut self.debezium_tuned
        }
    }
}

impl Drained {
    /// With its rate.
    fn of(mut self, changes: u64) -> Self {
        self.rate = changes as f64 / self.seconds;
        self
    }
}

fn drained(begin: Instant) -> Drained {
    Drained {
        seconds: begin.elapsed().as_secs_f64(),
        ..Drained::default()
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
    leader: &Postgres,
    follower: &tokio_postgres::Client,
) -> anyhow::Result<Drained> {
    let begin = Instant::now();
    follower
        .batch_execute("ALTER SUBSCRIPTION native ENABLE")
        .await?;
    load::arrived(follower).await?;
    let mut result = drained(begin);
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

/// The whole pipeline, or its sink alone from topics that the source has filled (no walsender then).
async fn drain_walferry(
    leader: &Postgres,
    follower: &tokio_postgres::Client,
    pipeline: &Pipeline,
    only: &[&str],
) -> anyhow::Result<Drained> {
    let brokers = process::kafka_pids();
    let kafka = process::cpu_of(&brokers);
    let begin = Instant::now();
    let walferry = pipeline.run_only(only);
    load::arrived(follower).await?;
    let mut result = drained(begin);
    result.walsender_cpu =
        process::cpu_seconds(walsender(leader, &format!("walferry_{}", pipeline.name)).await);
    of_pipeline(&mut result, walferry.pid(), &brokers, kafka);
    result.backend_cpu = backends_of(follower, "walferry%").await?;
    ensure!(walferry.terminate() == 0, "walferry did not stop in order");
    Ok(result)
}

/// A running Debezium whose source is stopped, and its follower.
struct Peer {
    setting: &'static str,
    connect: Connect,
    on_follower: tokio_postgres::Client,
    _follower: Postgres,
}

impl Peer {
    /// Those that are measured. They have had a load already, so that what a JVM does once (loading and
    /// compiling its code) does not count: a pipeline runs for months. Then all tables are empty again.
    async fn all(
        plan: &Plan,
        leader: &Postgres,
        on_leader: &tokio_postgres::Client,
    ) -> anyhow::Result<Vec<Peer>> {
        let mut peers = Vec::new();
        for setting in debezium::SETTINGS {
            if plan.measures(setting) {
                let peer = Peer::start(setting, leader).await;
                peers.push(peer.context(setting)?);
            }
        }
        if peers.is_empty() {
            return Ok(peers);
        }
        let warm = Plan {
            rows: plan.rows.min(WARM_UP.0),
            transactions: plan.transactions.min(WARM_UP.1),
            ..plan.clone()
        };
        Load::Mixed.write(on_leader, &warm).await?;
        let whole_load = (
            Load::Mixed.last_changes(&warm),
            load::content(on_leader).await?,
        );
        for peer in &peers {
            peer.arrived(&whole_load, async || Ok(())).await?;
            peer.connect.stop_source(on_leader).await?;
        }
        let clients = peers.iter().map(|peer| &peer.on_follower);
        for client in clients.chain([on_leader]) {
            client.batch_execute("TRUNCATE bulk, marker").await?;
        }
        Ok(peers)
    }

    async fn start(setting: &'static str, leader: &Postgres) -> anyhow::Result<Self> {
        let follower = Postgres::start_with(setting, SETTINGS);
        let on_follower = follower.client().await;
        on_follower.batch_execute(load::TABLES).await?;
        let connect = Connect::start(setting, leader, &follower, &["bulk", "marker"]).await?;
        Ok(Peer {
            setting,
            connect,
            on_follower,
            _follower: follower,
        })
    }

    /// Waits until a load is on the follower, and returns what `now` finds at that moment. The tables have
    /// topics of their own, so the marker says nothing of `bulk`: its last change must be there too, and
    /// the content must be the leader's.
    async fn arrived<T>(
        &self,
        (last_changes, content): &WholeLoad,
        now: impl AsyncFn() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let begin = Instant::now();
        let wait = async {
            let mut held = None;
            while begin.elapsed() < LONGEST_DRAIN {
                if self
                    .on_follower
                    .query_opt(last_changes, &[])
                    .await?
                    .is_some()
                {
                    let found = now().await?;
                    let holds = load::content(&self.on_follower).await?;
                    if holds == *content {
                        return Ok(found);
                    }
                    held = Some(holds);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            bail!("the follower does not hold what the leader holds: {held:?}, {content:?}")
        };
        self.connect.unless_it_fails(wait).await
    }
}

/// What finds the last changes of a load, and the leader's content behind it.
type WholeLoad = (String, (i64, String));

/// The whole pipeline, from the moment that the source streams from its slot.
async fn drain_debezium(
    leader: &Postgres,
    peer: &Peer,
    whole_load: &WholeLoad,
) -> anyhow::Result<Drained> {
    let connect = &peer.connect;
    let backends = || backends_of(&peer.on_follower, "debezium");
    connect.resume_source(&leader.client().await).await?;
    let begin = Instant::now();
    let (reader_before, backend_before) = (process::cpu_seconds(connect.pid()), backends().await?);
    let brokers = process::kafka_pids();
    let kafka = process::cpu_of(&brokers);
    peer.arrived(whole_load, async || {
        let mut result = drained(begin);
        result.walsender_cpu = process::cpu_seconds(walsender(leader, connect.slot()).await);
        of_pipeline(&mut result, connect.pid(), &brokers, kafka);
        result.reader_cpu -= reader_before;
        result.backend_cpu = backends().await? - backend_before;
        Ok(result)
    })
    .await
}

async fn drain_recvlogical(leader: &Postgres, end: &str) -> anyhow::Result<Drained> {
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
            break drained(begin);
        }
        if sender == 0 {
            sender = walsender(leader, "plain").await;
        }
        reader_cpu = process::cpu_seconds(child.id()).max(reader_cpu);
        sender_cpu = process::cpu_seconds(sender).max(sender_cpu);
        peak = process::peak_bytes(child.id()).max(peak);
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    (result.reader_cpu, result.walsender_cpu, result.peak_bytes) = (reader_cpu, sender_cpu, peak);
    Ok(result)
}

async fn drain_source(leader: &Postgres, alone: &Pipeline, end: &str) -> anyhow::Result<Drained> {
    let brokers = process::kafka_pids();
    let kafka = process::cpu_of(&brokers);
    let client = leader.client().await;
    let begin = Instant::now();
    let walferry = alone.run_only(&["leader"]);
    wait_confirmed(&client, alone, end).await;
    let mut result = drained(begin);
    result.walsender_cpu =
        process::cpu_seconds(walsender(leader, &format!("walferry_{}", alone.name)).await);
    of_pipeline(&mut result, walferry.pid(), &brokers, kafka);
    ensure!(walferry.terminate() == 0, "walferry did not stop in order");
    Ok(result)
}

/// What the process of a pipeline and Kafka have used.
fn of_pipeline(result: &mut Drained, pid: u32, brokers: &[u32], kafka_before: f64) {
    result.reader_cpu = process::cpu_seconds(pid);
    result.peak_bytes = process::peak_bytes(pid);
    result.kafka_cpu = process::cpu_of(brokers) - kafka_before;
}

/// CPU-seconds of a follower's backends that an application uses.
async fn backends_of(follower: &tokio_postgres::Client, application: &str) -> anyhow::Result<f64> {
    let backends = follower
        .query("SELECT pid FROM pg_stat_activity WHERE application_name LIKE $1 AND backend_type = 'client backend'", &[&application])
        .await?;
    let pids = backends
        .iter()
        .map(|row| row.get::<_, i32>(0).unsigned_abs());
    Ok(pids.map(process::cpu_seconds).sum())
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
