//! From a commit on the leader to its being visible on a follower, at 500 transactions a second.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;
use tokio_postgres::Client;

use super::debezium::Connect;
use super::support::{Pipeline, Postgres, wait_caught_up};
use super::{Plan, debezium};

/// Milliseconds from commit to visible.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Transactions measured.
    pub transactions: usize,
}

/// All sides.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Transactions a second asked for.
    pub rate: u64,
    /// Postgres's own logical replication.
    pub native: Quantiles,
    /// walferry.
    pub walferry: Quantiles,
    /// Debezium in the settings that are measured.
    pub debezium: BTreeMap<&'static str, Quantiles>,
}

const RATE: u64 = 500;
const SETTINGS: [&str; 2] = ["fsync=on", "synchronous_commit=on"];
/// How long Connect has the same load before it counts: its code is compiled as it runs.
const WARM_JVM_SECONDS: u64 = 10;
const TABLE: &str = "CREATE TABLE pulse (id bigint PRIMARY KEY, v text)";

/// Measures one side after the other on the same servers.
pub async fn measure(plan: &Plan) -> anyhow::Result<Latency> {
    let leader = Postgres::start_with("leader", &SETTINGS);
    let (native, follower) = (
        Postgres::start_with("native", &SETTINGS),
        Postgres::start_with("follower", &SETTINGS),
    );
    let writer = leader.client().await;
    writer.batch_execute(TABLE).await?;
    writer
        .batch_execute("CREATE PUBLICATION native FOR TABLE pulse")
        .await?;
    let on_native = native.client().await;
    on_native.batch_execute(TABLE).await?;
    on_native
        .batch_execute(&format!(
            "CREATE SUBSCRIPTION native CONNECTION 'host=127.0.0.1 port={} user=postgres dbname=postgres' PUBLICATION native",
            leader.port
        ))
        .await?;
    let seconds = plan.seconds.max(1);
    run(&writer, &on_native, 0, 2).await?; // warm
    let of_native = run(&writer, &on_native, 10_000_000, seconds).await?;
    on_native.batch_execute("DROP SUBSCRIPTION native").await?;

    let pipeline = Pipeline::new(&leader, &[&follower]);
    let on_follower = follower.client().await;
    let walferry = pipeline.run();
    wait_caught_up(&writer, &on_follower, "a").await;
    run(&writer, &on_follower, 20_000_000, 2).await?;
    let of_walferry = run(&writer, &on_follower, 30_000_000, seconds).await?;
    ensure!(walferry.terminate() == 0, "walferry did not stop in order");
    let mut of_debezium = BTreeMap::new();
    let bases = (40_000_000..).step_by(20_000_000);
    for (setting, base) in debezium::SETTINGS.into_iter().zip(bases) {
        if plan.measures(setting) {
            let measured = of_peer(plan, setting, base, &leader, &writer).await?;
            of_debezium.insert(setting, measured);
        }
    }
    Ok(Latency {
        rate: RATE,
        native: of_native,
        walferry: of_walferry,
        debezium: of_debezium,
    })
}

async fn of_peer(
    plan: &Plan,
    setting: &'static str,
    base: i64,
    leader: &Postgres,
    writer: &Client,
) -> anyhow::Result<Quantiles> {
    let follower = Postgres::start_with(setting, &SETTINGS);
    let on_follower = follower.client().await;
    on_follower.batch_execute(TABLE).await?;
    let connect = Connect::start(setting, leader, &follower, &["pulse"]).await?;
    let warm = run(writer, &on_follower, base, WARM_JVM_SECONDS);
    connect.unless_it_fails(warm).await?;
    let measured = run(writer, &on_follower, base + 10_000_000, plan.seconds.max(1));
    connect.unless_it_fails(measured).await
}

/// Writes `RATE` transactions a second and looks at the follower each millisecond.
async fn run(
    leader: &Client,
    follower: &Client,
    base: i64,
    seconds: u64,
) -> anyhow::Result<Quantiles> {
    let committed = std::cell::RefCell::new(VecDeque::new());
    let done = std::cell::Cell::new(false);
    let insert = leader
        .prepare("INSERT INTO pulse VALUES ($1, 'some words of a row')")
        .await?;
    let newest = follower
        .prepare("SELECT coalesce(max(id), 0) FROM pulse WHERE id > $1")
        .await?;
    let write = async {
        let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for n in 1..=i64::try_from(RATE * seconds)? {
            tick.tick().await;
            leader.execute(&insert, &[&(base + n)]).await?;
            committed.borrow_mut().push_back((base + n, Instant::now()));
        }
        done.set(true);
        anyhow::Ok(())
    };
    let watch = async {
        let (mut latencies, mut tick) =
            (Vec::new(), tokio::time::interval(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !(done.get() && committed.borrow().is_empty()) {
            tick.tick().await;
            let seen: i64 = follower.query_one(&newest, &[&base]).await?.get(0);
            let now = Instant::now();
            let mut waiting = committed.borrow_mut();
            while waiting.front().is_some_and(|(id, _)| *id <= seen) {
                let (_, at) = waiting.pop_front().expect("there is a front");
                latencies.push(now.duration_since(at).as_secs_f64() * 1000.0);
            }
        }
        anyhow::Ok(latencies)
    };
    let ((), mut latencies) = tokio::try_join!(write, watch)?;
    latencies.sort_by(f64::total_cmp);
    let at = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize];
    Ok(Quantiles {
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        transactions: latencies.len(),
    })
}
