//! From a commit on the leader to its being visible on a follower, at some rates of transactions.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
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
    /// Transactions a second that there were.
    pub rate: f64,
}

/// All sides at one rate.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Transactions a second asked for.
    pub rate: u64,
    /// Postgres's own logical replication.
    pub native: Quantiles,
    /// The same with `synchronous_commit=on`, so with commits as durable as walferry's.
    pub native_durable: Quantiles,
    /// walferry.
    pub walferry: Quantiles,
    /// Debezium in the settings that are measured.
    pub debezium: BTreeMap<&'static str, Quantiles>,
}

/// Transactions a second that are measured.
const RATES: [u64; 2] = [500, 2_000];
/// What one writer does of them: it waits for each of its commits, so for the leader's disk.
const RATE_OF_WRITER: u64 = 250;
/// How long both sides run before anything is measured.
const WARM_SECONDS: u64 = 2;
/// How long Connect does before: its code is compiled as it runs.
const WARM_JVM_SECONDS: u64 = 10;
const SETTINGS: [&str; 2] = ["fsync=on", "synchronous_commit=on"];
const TABLE: &str =
    "CREATE TABLE pulse (writer int, n bigint, v text NOT NULL, PRIMARY KEY (writer, n))";

/// Measures one side after the other on the same servers.
pub async fn measure(plan: &Plan) -> anyhow::Result<Vec<Latency>> {
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
    let of_native = at_all_rates(plan, &leader, &on_native).await?;
    writer.batch_execute("TRUNCATE pulse").await?;
    on_native
        .batch_execute("ALTER SUBSCRIPTION native SET (synchronous_commit = on)")
        .await?;
    let of_durable = at_all_rates(plan, &leader, &on_native).await?;
    on_native.batch_execute("DROP SUBSCRIPTION native").await?;
    writer.batch_execute("TRUNCATE pulse").await?;

    let pipeline = Pipeline::new(&leader, &[&follower]);
    let on_follower = follower.client().await;
    let walferry = pipeline.run();
    wait_caught_up(&writer, &on_follower, "a").await;
    let of_walferry = at_all_rates(plan, &leader, &on_follower).await?;
    ensure!(walferry.terminate() == 0, "walferry did not stop in order");
    let mut of_debezium = BTreeMap::new();
    for setting in debezium::SETTINGS {
        if plan.measures(setting) {
            writer.batch_execute("TRUNCATE pulse").await?;
            let measured = with_debezium(plan, setting, &leader).await;
            of_debezium.insert(setting, measured.context(setting)?);
        }
    }
    let each = RATES.into_iter().enumerate();
    Ok(each
        .map(|(at, rate)| Latency {
            rate,
            native: of_native[at],
            native_durable: of_durable[at],
            walferry: of_walferry[at],
            debezium: of_debezium.iter().map(|(s, of)| (*s, of[at])).collect(),
        })
        .collect())
}

async fn with_debezium(
    plan: &Plan,
    setting: &str,
    leader: &Postgres,
) -> anyhow::Result<Vec<Quantiles>> {
    let follower = Postgres::start_with(setting, &SETTINGS);
    let on_follower = follower.client().await;
    on_follower.batch_execute(TABLE).await?;
    let connect = Connect::start(setting, leader, &follower, &["pulse"]).await?;
    let measured = async {
        let warm = (RATES[0], 1_000_000_000, WARM_JVM_SECONDS);
        run(leader, &on_follower, warm).await?;
        on_follower.batch_execute("TRUNCATE pulse").await?;
        at_all_rates(plan, leader, &on_follower).await
    };
    connect.unless_it_fails(measured).await
}

async fn at_all_rates(
    plan: &Plan,
    leader: &Postgres,
    follower: &Client,
) -> anyhow::Result<Vec<Quantiles>> {
    let (mut found, mut base) = (Vec::new(), 0);
    for rate in RATES {
        run(leader, follower, (rate, base, WARM_SECONDS)).await?;
        base += 10_000_000;
        found.push(run(leader, follower, (rate, base, plan.seconds.max(1))).await?);
        base += 10_000_000;
    }
    Ok(found)
}

/// Transactions of one writer that were committed and not yet seen, with the time of each commit's return.
type Unseen = RefCell<VecDeque<(i64, Instant)>>;

/// Writes some transactions a second, with numbers above `base`, and looks at the follower each millisecond.
async fn run(
    leader: &Postgres,
    follower: &Client,
    (rate, base, seconds): (u64, i64, u64),
) -> anyhow::Result<Quantiles> {
    let writers = usize::try_from(rate / RATE_OF_WRITER)?;
    let unseen: Vec<Unseen> = (0..writers).map(|_| Unseen::default()).collect();
    let done = Cell::new(false);
    let count = i64::try_from(RATE_OF_WRITER * seconds)?;
    let write = async {
        let each = unseen
            .iter()
            .enumerate()
            .map(|(writer, unseen)| write(leader, (i32::try_from(writer), base, count), unseen));
        try_join_all(each).await?;
        done.set(true);
        anyhow::Ok(())
    };
    let newest = follower
        .prepare(
            "SELECT (SELECT coalesce(max(n), 0) FROM pulse WHERE writer = w AND n > $2)
             FROM generate_series(0, $1 - 1) AS w ORDER BY w",
        )
        .await?;
    let watch = async {
        let (mut latencies, mut tick) =
            (Vec::new(), tokio::time::interval(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !(done.get() && unseen.iter().all(|unseen| unseen.borrow().is_empty())) {
            tick.tick().await;
            let rows = follower
                .query(&newest, &[&i32::try_from(writers)?, &base])
                .await?;
            let now = Instant::now();
            for (row, unseen) in rows.iter().zip(&unseen) {
                let (seen, mut waiting): (i64, _) = (row.get(0), unseen.borrow_mut());
                while waiting.front().is_some_and(|(n, _)| *n <= seen) {
                    let (_, at) = waiting.pop_front().expect("there is a front");
                    latencies.push(now.duration_since(at).as_secs_f64() * 1000.0);
                }
            }
        }
        anyhow::Ok(latencies)
    };
    let begin = Instant::now();
    let ((), mut latencies) = tokio::try_join!(write, watch)?;
    latencies.sort_by(f64::total_cmp);
    let at = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize];
    Ok(Quantiles {
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        transactions: latencies.len(),
        rate: latencies.len() as f64 / begin.elapsed().as_secs_f64(),
    })
}

/// One writer, at its rate.
async fn write(
    leader: &Postgres,
    (writer, base, count): (Result<i32, std::num::TryFromIntError>, i64, i64),
    unseen: &Unseen,
) -> anyhow::Result<()> {
    let (writer, client) = (writer?, leader.client().await);
    let insert = client
        .prepare("INSERT INTO pulse VALUES ($1, $2, 'some words of a row')")
        .await?;
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / RATE_OF_WRITER));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    for n in base + 1..=base + count {
        tick.tick().await;
        client.execute(&insert, &[&writer, &n]).await?;
        unseen.borrow_mut().push_back((n, Instant::now()));
    }
    Ok(())
}
