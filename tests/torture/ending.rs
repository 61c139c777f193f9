//! Checks at the end, when faults have ended and the load has stopped: contents, and the ledger
//! against what the load's clients know.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{bail, ensure};
use tokio_postgres::Client;

use crate::checks::rows;
use crate::fault::Side;
use crate::load::{Book, NAMES};
use crate::world::World;

/// Compares every table of both followers with the leader's.
pub async fn contents(world: &World) -> anyhow::Result<()> {
    let leader = world.leader.client().await?;
    for side in Side::BOTH {
        let follower = world.follower(side).client().await?;
        for table in NAMES {
            let (on_leader, on_follower) =
                (rows(&leader, table).await?, rows(&follower, table).await?);
            if let Some(difference) = difference(&on_leader, &on_follower) {
                bail!("follower {}, table {table}: {difference}", side.name());
            }
        }
    }
    Ok(())
}

/// The first rows that only one of two sorted lists has.
pub fn difference(leader: &[String], other: &[String]) -> Option<String> {
    let (mut missing, mut extra) = (count(leader), count(other));
    for (row, n) in missing.clone() {
        let common = n.min(extra.get(row).copied().unwrap_or(0));
        *missing.entry(row).or_default() -= common;
        *extra.entry(row).or_default() -= common;
    }
    let show = |rows: BTreeMap<&str, usize>| -> Vec<String> {
        let left = rows.into_iter().filter(|(_, n)| *n > 0);
        left.take(5)
            .map(|(row, n)| format!("{n} x {:.200}", row))
            .collect()
    };
    let (missing, extra) = (show(missing), show(extra));
    (!missing.is_empty() || !extra.is_empty()).then(|| {
        format!(
            "{} rows on the leader, {} here; missing {missing:?}, too many {extra:?}",
            leader.len(),
            other.len()
        )
    })
}

fn count(rows: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.as_str()).or_default() += 1;
    }
    counts
}

/// No double and no gap: every follower has each sequence number that a client knows to be committed,
/// once, and none that it does not know of.
pub async fn ledger(world: &World, books: &[Book]) -> anyhow::Result<()> {
    let mut servers = vec![("the leader".to_owned(), world.leader.client().await?)];
    for side in Side::BOTH {
        servers.push((
            format!("follower {}", side.name()),
            world.follower(side).client().await?,
        ));
    }
    for (name, client) in servers {
        for table in ["ledger", "journal"] {
            for (number, book) in books.iter().enumerate() {
                let found = sequence(&client, table, i32::try_from(number)?).await?;
                known(book, &found)
                    .map_err(|what| anyhow::anyhow!("{name}, {table}, client {number}: {what}"))?;
            }
        }
    }
    Ok(())
}

async fn sequence(client: &Client, table: &str, number: i32) -> anyhow::Result<BTreeSet<i64>> {
    let query = format!("SELECT seq FROM {table} WHERE client = $1");
    let mut found = BTreeSet::new();
    for row in client.query(&query, &[&number]).await? {
        let seq = row.get(0);
        ensure!(
            found.insert(seq),
            "{table}: client {number}'s transaction {seq} stands there twice"
        );
    }
    Ok(found)
}

fn known(book: &Book, found: &BTreeSet<i64>) -> Result<(), String> {
    if let Some(lost) = book.committed.difference(found).next() {
        return Err(format!("transaction {lost} was committed and is not there"));
    }
    let unexpected = |seq: &&i64| !book.committed.contains(seq) && !book.unknown.contains(seq);
    match found.iter().find(unexpected) {
        Some(seq) => Err(format!("transaction {seq} was rolled back and is there")),
        None => Ok(()),
    }
}
