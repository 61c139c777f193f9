//! Changes that somebody has ordered to be passed over: `walferry.skips`.
//!
//! An order stands in the follower before the sink meets the change, and is marked as done in the
//! transaction that goes on without it, so what a follower lacks is known in the follower itself.

use tokio_postgres::{Client, Transaction};

use super::Identity;
use crate::config::PostgresSinkSettings;
use crate::error::{Error, Result};
use crate::model::{Lsn, Position, Skipped};
use crate::postgres::{classify, connect};
use crate::sink::{SkipOrder, SkipOrders};

const READ: &str = "SELECT commit_lsn::text, ordinal, skipped_at IS NOT NULL FROM walferry.skips \
    WHERE pipeline = $1 AND sink = $2";

const NOTE: &str = "UPDATE walferry.skips SET skipped_at = clock_timestamp(), table_schema = $5, table_name = $6 \
    WHERE pipeline = $1 AND sink = $2 AND commit_lsn = $3::text::pg_lsn AND ordinal = $4";

const ORDER: &str = "INSERT INTO walferry.skips (pipeline, sink, commit_lsn, ordinal, reason) \
    VALUES ($1, $2, $3::text::pg_lsn, $4, $5) ON CONFLICT DO NOTHING";

const WITHDRAW: &str = "DELETE FROM walferry.skips WHERE pipeline = $1 AND sink = $2 \
    AND commit_lsn = $3::text::pg_lsn AND ordinal = $4 AND skipped_at IS NULL";

/// The lock keeps the sink from passing the position meanwhile.
const APPLIED: &str = "SELECT applied::text FROM walferry.checkpoint \
    WHERE pipeline = $1 AND sink = $2 FOR UPDATE";

/// All orders of a sink.
pub(super) async fn read(client: &Client, me: &Identity) -> Result<SkipOrders> {
    let failed = |error| classify(&error, "reading walferry.skips");
    let rows = client.query(READ, &[&me.pipeline, &me.sink]).await;
    let mut orders = SkipOrders::default();
    for row in rows.map_err(failed)? {
        let commit: String = row.try_get(0).map_err(failed)?;
        let ordinal: i64 = row.try_get(1).map_err(failed)?;
        if row.try_get(2).map_err(failed)? {
            orders.done += 1;
            continue;
        }
        let position = format!("{commit}:{ordinal}").parse();
        orders.ordered.insert(position.map_err(|what: String| {
            Error::halt(
                format!("walferry.skips on the follower: {what}"),
                "delete the row that nobody ordered with walferry sink skip",
            )
        })?);
    }
    Ok(orders)
}

/// Marks an order as done; whether it was still there.
pub(super) async fn note(
    client: &Client,
    me: &Identity,
    skipped: &Skipped,
) -> Result<bool, tokio_postgres::Error> {
    let Skipped { position, table } = skipped;
    let (commit, ordinal) = (position.commit.to_string(), i64::from(position.ordinal));
    let (schema, name) = (&table.schema, &table.name);
    let noted = client
        .execute(
            NOTE,
            &[&me.pipeline, &me.sink, &commit, &ordinal, schema, name],
        )
        .await?;
    Ok(noted == 1)
}

/// Writes or withdraws an order.
///
/// # Errors
/// As [`sink::order`](crate::sink::order).
pub async fn order(
    pipeline: &str,
    sink: &str,
    settings: &PostgresSinkSettings,
    position: Position,
    order: &SkipOrder,
) -> Result<String> {
    let mut client = connect(&settings.postgres, "walferry sink skip").await?;
    let transaction = client
        .transaction()
        .await
        .map_err(|error| classify(&error, "beginning a transaction on the follower"))?;
    not_passed(&transaction, (pipeline, sink), position).await?;
    let (commit, ordinal) = (position.commit.to_string(), i64::from(position.ordinal));
    let (changed, said) = match order {
        SkipOrder::Skip { reason } => (
            transaction
                .execute(ORDER, &[&pipeline, &sink, &commit, &ordinal, reason])
                .await,
            [
                "will be passed over",
                "was ordered to be passed over already",
            ],
        ),
        SkipOrder::Withdraw => (
            transaction
                .execute(WITHDRAW, &[&pipeline, &sink, &commit, &ordinal])
                .await,
            [
                "will be applied after all",
                "was not ordered to be passed over",
            ],
        ),
    };
    let failed = |error| classify(&error, "writing walferry.skips on the follower");
    let changed = changed.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    let said = said[usize::from(changed == 0)];
    Ok(format!(
        "{sink}: the change at {position} {said}; it counts from the sink's next session on: walferry sink resume {sink}"
    ))
}

async fn not_passed(
    transaction: &Transaction<'_>,
    (pipeline, sink): (&str, &str),
    position: Position,
) -> Result<()> {
    let never_ran = || {
        Error::halt(
            format!("sink {sink} of pipeline {pipeline} has no checkpoint on this follower"),
            "name a sink that has run; its file in connectors/ says which follower is its own",
        )
    };
    let layout = "SELECT pg_catalog.to_regclass('walferry.skips') IS NOT NULL";
    let failed = |error| classify(&error, "reading the checkpoint on the follower");
    let there = transaction.query_one(layout, &[]).await.map_err(failed)?;
    if !there.try_get::<_, bool>(0).map_err(failed)? {
        return Err(never_ran());
    }
    let row = transaction
        .query_opt(APPLIED, &[&pipeline, &sink])
        .await
        .map_err(failed)?
        .ok_or_else(never_ran)?;
    let applied: String = row.try_get(0).map_err(failed)?;
    let applied: Lsn = applied.parse().map_err(|_not_an_lsn| never_ran())?;
    if position.commit < applied {
        return Err(Error::halt(
            format!("{sink} has applied up to {applied}, which is beyond {position}"),
            format!(
                "give the position that the halted sink names: walferry status, or the log of {sink}"
            ),
        ));
    }
    Ok(())
}
