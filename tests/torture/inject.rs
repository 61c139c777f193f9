//! Doing faults. Each begins, lasts, and is made good again in one function.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

use crate::columns;
use crate::fault::{Fault, Role, Side, Victim};
use crate::load;
use crate::rivals;
use crate::servers::NODES;
use crate::world::World;

/// Does a fault for a time; returns what was seen of its effect.
pub async fn inject(world: &World, fault: Fault, hold: Duration) -> anyhow::Result<Option<String>> {
    match fault {
        Fault::Kill(victim) => kill(world, victim, hold).await?,
        Fault::Pause(victim) => pause(world, victim, hold).await,
        Fault::Link(ill, pair) => {
            world.links.harm(ill, pair).await?;
            sleep(hold).await;
            world.links.heal(ill, pair).await?;
        }
        Fault::DiskFull => return disk_full(world, hold).await.map(Some),
        Fault::ReadOnly(side) => read_only(world, side, hold).await?,
        Fault::Lock(side) => lock(world, side, hold).await?,
        Fault::Quota => quota(world, hold).await?,
        Fault::Walsender => return walsender(world, hold).await.map(Some),
        Fault::TwoSources { first_dies } => rivals::two_sources(world, first_dies, hold).await?,
        Fault::StaleSource { first_dies } => rivals::stale_source(world, first_dies, hold).await?,
        Fault::TwoSinks(side) => rivals::two_sinks(world, side, hold).await?,
        Fault::StaleSink(side) => rivals::stale_sink(world, side, hold).await?,
        Fault::Clock(role) => clock(world, role, hold).await?,
        Fault::Rebuild(side) => rebuild(world, side, hold).await?,
        Fault::Alter(table) => columns::alter(world, table, hold).await?,
        Fault::Travel(side) => travel(world, side, hold).await?,
        Fault::Lend { from, to } => lend(world, (from, to), hold).await?,
    }
    Ok(None)
}

async fn kill(world: &World, victim: Victim, hold: Duration) -> anyhow::Result<()> {
    match victim {
        Victim::Worker(role) => {
            world.workers.kill(world.workers.of(role)?).await?;
            sleep(hold).await;
            world.workers.start(role, &[])?;
            Ok(())
        }
        Victim::Leader => {
            world.leader.kill(&world.paused).await?;
            sleep(hold).await;
            world.leader.start_again().await
        }
        Victim::Follower(side) => {
            let server = world.follower(side);
            server.kill(&world.paused).await?;
            sleep(hold).await;
            server.start_again().await
        }
        Victim::Broker(node) => {
            world.kafka.kill(&[node]).await?;
            sleep(hold).await;
            world.kafka.start_again().await
        }
        Victim::Brokers => {
            world.kafka.kill(&NODES).await?;
            sleep(hold).await;
            world.kafka.start_again().await
        }
    }
}

async fn pause(world: &World, victim: Victim, hold: Duration) {
    let pids = match victim {
        Victim::Worker(role) => {
            let pids = world.workers.of(role).map(|id| world.workers.pid(id));
            let pids = pids.unwrap_or_default();
            world.paused.pause(&pids);
            pids
        }
        Victim::Leader => world.leader.pause(&world.paused),
        Victim::Follower(side) => world.follower(side).pause(&world.paused),
        Victim::Broker(node) => pause_brokers(world, &[node]),
        Victim::Brokers => pause_brokers(world, &NODES),
    };
    sleep(hold).await;
    world.paused.resume(&pids);
}

fn pause_brokers(world: &World, nodes: &[u32]) -> Vec<u32> {
    let pids = world.kafka.pids(nodes);
    world.paused.pause(&pids);
    pids
}

/// Fills follower b's file system to the last byte.
async fn disk_full(world: &World, hold: Duration) -> anyhow::Result<String> {
    let server = world.follower(Side::B);
    let disk = world.machine.small_disk.as_ref().context("no small disk")?;
    let ballast = disk.join("ballast");
    let refusals = || occurrences(&server.dir.join("log"), "No space left on device");
    let before = refusals();
    let end = tokio::time::Instant::now() + hold;
    while tokio::time::Instant::now() < end {
        fill(&ballast)?; // again and again: what the server frees must not help it
        sleep(Duration::from_millis(200)).await;
    }
    fs::remove_file(&ballast)?;
    // A server that could not write its WAL has ended by PANIC.
    server.start_again().await?;
    Ok(format!("{} times no space left", refusals() - before))
}

fn fill(ballast: &Path) -> anyhow::Result<()> {
    let mut file = fs::File::options()
        .create(true)
        .append(true)
        .open(ballast)?;
    let block = vec![0; 1 << 16];
    // The error is what we are after.
    while file.write_all(&block).is_ok() {}
    while file.write_all(&block[..512]).is_ok() {}
    Ok(())
}

fn occurrences(log: &Path, text: &str) -> usize {
    let log = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&log).matches(text).count()
}

async fn read_only(world: &World, side: Side, hold: Duration) -> anyhow::Result<()> {
    let client = world.follower(side).client().await?;
    client
        .batch_execute("ALTER SYSTEM SET default_transaction_read_only = on")
        .await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    sleep(hold).await;
    client
        .batch_execute("ALTER SYSTEM RESET default_transaction_read_only")
        .await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    Ok(())
}

async fn lock(world: &World, side: Side, hold: Duration) -> anyhow::Result<()> {
    let client = world.follower(side).client().await?;
    client
        .batch_execute("BEGIN; LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        .await?;
    sleep(hold).await;
    client.batch_execute("COMMIT").await?;
    Ok(())
}

/// Limits what clients named `walferry` may write and read.
async fn quota(world: &World, hold: Duration) -> anyhow::Result<()> {
    let rates = "producer_byte_rate=40000,consumer_byte_rate=80000";
    world
        .kafka
        .configure_clients(&["--add-config", rates])
        .await?;
    sleep(hold).await;
    let names = "producer_byte_rate,consumer_byte_rate";
    world
        .kafka
        .configure_clients(&["--delete-config", names])
        .await
}

async fn walsender(world: &World, hold: Duration) -> anyhow::Result<String> {
    let client = world.leader.client().await?;
    let mut ended = 0;
    for _ in 0..3 {
        let rows = client
            .query(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active AND NOT temporary",
                &[],
            )
            .await?;
        ended += rows.len();
        sleep(hold / 3).await;
    }
    Ok(format!("{ended} walsenders ended"))
}

/// Runs a worker under libfaketime: an hour ahead, then two back, then as it was.
async fn clock(world: &World, role: Role, hold: Duration) -> anyhow::Result<()> {
    let library = world.machine.faketime.as_ref().context("no libfaketime")?;
    let file = world.dir().join(format!("clock-{}", role.name()));
    let step = |offset: &str| fs::write(&file, offset);
    step("+0")?;
    let environment = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        // As on a real machine: a step of the clock does not move the monotonic one.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    world.workers.kill(world.workers.of(role)?).await?;
    let id = world.workers.start(role, &environment)?;
    for offset in ["+0", "+3600", "-3600", "+0"] {
        step(offset)?;
        sleep(hold / 4).await;
    }
    world.workers.kill(id).await?;
    world.workers.start(role, &[])?;
    Ok(())
}

/// What operators are told to do with a follower that cannot be saved: empty its tables, drop the
/// schema `walferry`, start the sink. Columns that the leader has dropped and that have not been dropped
/// here yet would be the follower's own from then on.
async fn rebuild(world: &World, side: Side, hold: Duration) -> anyhow::Result<()> {
    let role = Role::Sink(side);
    world.workers.kill(world.workers.of(role)?).await?;
    let client = world.follower(side).client().await?;
    let emptying = format!(
        "BEGIN; TRUNCATE {}; {} DROP SCHEMA walferry CASCADE; COMMIT",
        load::NAMES.join(", "),
        columns::without_extras()
    );
    // The killed worker's session may still be at its last statements, with locks on tables that are
    // emptied in another order here.
    client
        .batch_execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
             WHERE application_name LIKE 'walferry %'",
        )
        .await?;
    // Twice: what is seen before and after the emptying is not to be compared.
    world.begin_anew(side);
    client.batch_execute(&emptying).await?;
    world.begin_anew(side);
    sleep(hold).await;
    world.workers.start(role, &[])?;
    Ok(())
}

/// Longest wait until Kafka has what the leader had, with other faults going on.
const REACHED_MAX: Duration = Duration::from_secs(120);

/// Back to a moment ago by `walferry rebuild`, and forward again by `walferry sink resume`.
async fn travel(world: &World, side: Side, hold: Duration) -> anyhow::Result<()> {
    let leader = world.leader.client().await?;
    let row = leader
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .await?;
    let then: String = row.get(0);
    sleep(hold).await;
    let name = Role::Sink(side).name();
    let target = async || -> anyhow::Result<Option<String>> {
        let client = world.follower(side).client().await?;
        let query = "SELECT state ->> 'target' FROM walferry.checkpoint";
        Ok(client.query_one(query, &[]).await?.get(0))
    };
    let order = ["rebuild", name, "--detach", "--to-lsn", &then];
    built_anew(world, side, async || {
        world.workers.command(side, &order).await?;
        target().await?.context("it is not to stop anywhere")
    })
    .await?;
    sleep(hold).await;
    until_done(async || {
        // One whose answer was lost may have done it.
        let said = world.workers.command(side, &["sink", "resume", name]).await;
        match target().await? {
            None => Ok(()),
            Some(_) => said.and_then(|()| bail!("it is still to stop")),
        }
    })
    .await
}

/// A copy of all tables whose rows are read from one follower, and another one that begins with it.
async fn lend(world: &World, (from, to): (Side, Side), hold: Duration) -> anyhow::Result<()> {
    let copy = ["copy", "--from", from.name()];
    until_done(async || world.workers.command(from, &copy).await).await?;
    sleep(hold).await;
    let order = ["rebuild", to.name(), "--detach"];
    built_anew(world, to, async || world.workers.command(to, &order).await).await
}

/// Orders a follower to be built anew, until that succeeds. What was seen before is not to be compared with what
/// comes, and neither is what is seen while it is ordered.
async fn built_anew<T>(
    world: &World,
    side: Side,
    order: impl AsyncFn() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    world.begin_anew(side);
    let ordered = until_done(order).await;
    world.begin_anew(side);
    ordered
}

/// Does it again until it succeeds: a server that it needs may be away.
pub async fn until_done<T>(act: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let end = Instant::now() + REACHED_MAX;
    loop {
        match act().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_not_yet) => sleep(Duration::from_millis(200)).await,
        }
    }
}
