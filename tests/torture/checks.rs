//! Checks that run all the time: what a reader of a follower sees, and what the workers say.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;

use crate::fault::{Role, Side};
use crate::lag::Witness;
use crate::load::{BRANCHES, NAMES, OPENING_BALANCE};
use crate::lsn;
use crate::report::{Diary, Findings, Looks};
use crate::transaction::{ACCOUNTS, DOCUMENTS, WANDERERS};
use crate::workers::Said;
use crate::world::World;

/// Longest wait for a follower to catch up after a fault. Generous: nothing is decided by speed.
pub const RECOVERY_MAX: Duration = Duration::from_secs(180);

/// One look: the checkpoint and all invariants in one statement, so in one snapshot.
fn look_query() -> String {
    format!(
        "SELECT c.applied::text, c.state -> 'joins' = '[]'::jsonb AND jsonb_array_length(c.state -> 'in_effect') = {},
            (SELECT sum(balance) FROM accounts)::bigint, (SELECT count(*) FROM accounts), (SELECT sum(place) FROM accounts)::bigint,
            (SELECT count(*) FROM branches b WHERE balance <> (SELECT sum(balance) FROM accounts a WHERE a.branch = b.id)),
            (SELECT sum(transactions) FROM totals)::bigint, (SELECT count(*) FROM ledger), (SELECT count(*) FROM journal),
            (SELECT count(*) FROM documents), (SELECT sum(id) FROM documents)::bigint,
            (SELECT count(*) FROM remarks r LEFT JOIN documents d ON d.id = r.document WHERE d.id IS NULL),
            (SELECT count(*) FROM wanderers), (SELECT sum(id / 1000 - hops) FROM wanderers)::bigint,
            (SELECT count(*) FROM bulk), (SELECT coalesce(sum(rows), 0) FROM bulk_loads)::bigint,
            (SELECT count(*) FROM scratch), (SELECT rows FROM scratch_total),
            (SELECT count(*) FROM scratch_parts), (SELECT parts FROM scratch_total)
         FROM walferry.checkpoint c",
        NAMES.len()
    )
}

/// What is wrong with a look's row.
fn torn(row: &Row) -> Result<(), String> {
    let number = |column: usize| row.get::<_, Option<i64>>(column).unwrap_or(-1);
    let accounts = i64::from(ACCOUNTS);
    let pairs = [
        ("sum of balances", number(2), accounts * OPENING_BALANCE),
        ("accounts", number(3), accounts),
        ("sum of places", number(4), accounts * (accounts + 1) / 2),
        (
            &format!("branches of {BRANCHES} that differ from their accounts"),
            number(5),
            0,
        ),
        ("ledger, by totals", number(7), number(6)),
        ("journal, by totals", number(8), number(6)),
        ("documents", number(9), i64::from(DOCUMENTS)),
        (
            "sum of documents' ids",
            number(10),
            i64::from(DOCUMENTS) * i64::from(DOCUMENTS + 1) / 2,
        ),
        ("remarks without a document", number(11), 0),
        ("wanderers", number(12), i64::from(WANDERERS)),
        ("wanderers' places less hops", number(13), 0),
        ("bulk rows, by loads", number(14), number(15)),
        ("scratch rows, by total", number(16), number(17)),
        ("scratch parts, by total", number(18), number(19)),
    ];
    match pairs.iter().find(|(_, is, should)| is != should) {
        Some((what, is, should)) => Err(format!("{what}: {is}, not {should}")),
        None => Ok(()),
    }
}

/// What one session of the checker has seen.
#[derive(Default)]
struct Seen {
    applied: u64,
    ledger: i64,
    was_whole: bool,
    generation: u32,
}

impl Seen {
    fn take(&mut self, row: &Row, looks: &Looks) -> Result<(), String> {
        let text: String = row.get(0);
        let applied = lsn::parse(&text)?;
        if applied < self.applied {
            return Err(format!(
                "the applied boundary stepped back from {:X} to {text}",
                self.applied
            ));
        }
        let new = applied > self.applied;
        self.applied = applied;
        looks.applied.store(applied, Ordering::Relaxed);
        if row.get::<_, Option<bool>>(1) != Some(true) {
            looks.copying.fetch_add(1, Ordering::Relaxed);
            return if self.was_whole {
                Err("it is copying again".to_owned())
            } else {
                Ok(())
            };
        }
        self.was_whole = true;
        torn(row).map_err(|what| format!("at {text} a torn state: {what}"))?;
        let ledger = row.get(7);
        if ledger < self.ledger {
            return Err(format!(
                "the ledger shrank from {} to {ledger} rows",
                self.ledger
            ));
        }
        self.ledger = ledger;
        looks.whole.fetch_add(1, Ordering::Relaxed);
        looks.new.fetch_add(u64::from(new), Ordering::Relaxed);
        Ok(())
    }
}

/// Looks at a follower until told to stop; lives through its restarts.
pub async fn watch(
    world: Arc<World>,
    side: Side,
    looks: Arc<[Looks; 2]>,
    findings: Arc<Findings>,
    diary: Arc<Diary>,
    stop: CancellationToken,
) {
    let (query, looks) = (look_query(), &looks[side.index()]);
    let mut seen = Seen::default();
    while !stop.is_cancelled() {
        let looked = tokio::select! {
            looked = look_on(&world, side, &query, looks, &mut seen) => looked,
            () = stop.cancelled() => return,
        };
        if let Err(what) = looked {
            findings.add(&diary, format!("follower {}: {what}", side.name()));
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Looks until the session fails (`Ok`) or shows what must not be (`Err`).
async fn look_on(
    world: &World,
    side: Side,
    query: &str,
    looks: &Looks,
    seen: &mut Seen,
) -> Result<(), String> {
    let Ok(client) = world.follower(side).client().await else {
        looks.failed.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    };
    loop {
        let generation = world.generation(side);
        if generation % 2 == 1 {
            // It is being emptied, or sent back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        if generation != seen.generation {
            *seen = Seen {
                generation,
                ..Seen::default()
            };
        }
        match client.query_opt(query, &[]).await {
            // It may have been emptied while we looked.
            Ok(Some(_)) if world.generation(side) != generation => {}
            Ok(Some(row)) => seen.take(&row, looks)?,
            Ok(None) => {}
            Err(_down_or_without_tables_yet) => {
                looks.failed.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What is wrong with what a worker says: it has halted, is fenced without a rival, has ended, or says
/// that nothing is missing when something is.
fn unwell(said: &Said, must_have: u64) -> Option<String> {
    let state = said.state.as_deref().unwrap_or("?");
    if let Some(status) = &said.ended {
        return Some(format!("ended by itself: {status}"));
    }
    if state == "halted" || (state == "fenced" && !said.may_be_fenced) {
        let why = said.last_error.as_deref().unwrap_or_default();
        return Some(format!("is {state}: {why}"));
    }
    let says_zero = said.lag_seconds == Some(0.0) || said.lag_bytes == Some(0);
    let lied = said.applied.filter(|a| says_zero && *a < must_have);
    lied.map(|applied| {
        format!("says that its lag is 0 at {applied:X}, when the leader had {must_have:X} seconds before")
    })
}

/// Asks every worker each second.
pub async fn listen(
    world: Arc<World>,
    lag: Arc<[std::sync::Mutex<String>; 2]>,
    findings: Arc<Findings>,
    diary: Arc<Diary>,
    stop: CancellationToken,
) {
    let mut witness = Witness::default();
    while !stop.is_cancelled() {
        witness.look(&world).await;
        let must_have = witness.must_have(Instant::now());
        for said in world.workers.ask().await {
            if let Role::Sink(side) = said.role {
                let state = said.state.as_deref().unwrap_or("?");
                let text = said
                    .lag_seconds
                    .map_or_else(|| state.to_owned(), |s| format!("{s:.1} s"));
                *lag[side.index()].lock().expect("no panic holds it") = text;
            }
            if let Some(what) = unwell(&said, must_have) {
                findings.add(&diary, format!("{:?} ({:?}) {what}", said.role, said.id));
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Where the leader's WAL ends, when it is up again.
async fn leader_end(world: &World) -> anyhow::Result<String> {
    let client = world.leader.client().await?;
    let row = client
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .await?;
    // Something behind it, so that the log gets a boundary beyond it even on an idle leader.
    client
        .batch_execute("SELECT pg_logical_emit_message(true, 'torture', 'boundary')")
        .await?;
    Ok(row.get(0))
}

async fn at(world: &World, side: Side, target: &str) -> anyhow::Result<()> {
    let client = world.follower(side).client().await?;
    let query = format!(
        "SELECT applied::text, applied >= $1::text::pg_lsn, state -> 'joins' = '[]'::jsonb AND jsonb_array_length(state -> 'in_effect') = {}
         FROM walferry.checkpoint", NAMES.len());
    let row = client
        .query_opt(&query, &[&target])
        .await?
        .context("no checkpoint yet")?;
    ensure!(row.get::<_, Option<bool>>(2) == Some(true), "it is copying");
    ensure!(
        row.get::<_, bool>(1),
        "it is at {}",
        row.get::<_, String>(0)
    );
    Ok(())
}

/// Waits until both followers have what the leader has now; returns how long it took.
pub async fn caught_up(world: &World) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let end = begun + RECOVERY_MAX;
    let target = loop {
        match leader_end(world).await {
            Ok(target) => break target,
            Err(error) if Instant::now() > end => bail!("the leader does not answer: {error:#}"),
            Err(_not_yet) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    for side in Side::BOTH {
        while let Err(error) = at(world, side, &target).await {
            if Instant::now() > end {
                bail!(
                    "follower {} is not at {target} after {RECOVERY_MAX:?}: {error:#}",
                    side.name()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(begun.elapsed())
}

/// Every row of a table as text, sorted.
pub async fn rows(client: &Client, table: &str) -> anyhow::Result<Vec<String>> {
    client.batch_execute("SET extra_float_digits = 3").await?;
    let query = format!("SELECT the_row::text FROM {table} the_row ORDER BY 1");
    let rows = client
        .query(&query, &[])
        .await
        .with_context(|| table.to_owned())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
