//! Changes that somebody has ordered to be passed over: `walferry_skips`.
//!
//! An order stands in the follower before the sink meets the change, and is marked as done in the transaction that
//! goes on without it, so what a follower lacks is known in the follower itself.

use super::Identity;
use super::failure::{plain_error, unreadable};
use super::session::{Missing, connect, lay_out, set_up};
use super::wire::{Wire, literal};
use crate::config::MySqlSinkSettings;
use crate::error::{Error, Result};
use crate::model::{Lsn, Position, Skipped};
use crate::sink::{SkipOrder, SkipOrders};

fn is_at(me: &Identity, position: Position) -> String {
    format!(
        "{} AND commit_lsn = {} AND ordinal = {}",
        me.is_mine(),
        literal(&position.commit.to_string()),
        position.ordinal
    )
}

/// All orders of a sink.
pub(super) async fn read(wire: &mut Wire, me: &Identity) -> Result<SkipOrders> {
    let sql = format!(
        "SELECT commit_lsn, ordinal, skipped_at IS NOT NULL FROM walferry_skips WHERE {}",
        me.is_mine()
    );
    let rows = wire.rows(&sql).await;
    let rows = rows.map_err(|cause| plain_error(&cause, "reading walferry_skips"))?;
    let mut orders = SkipOrders::default();
    for row in rows {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        if text(2) == "1" {
            orders.done += 1;
            continue;
        }
        let position = format!("{}:{}", text(0), text(1)).parse();
        orders.ordered.insert(position.map_err(|what: String| {
            Error::halt(
                format!("walferry_skips on the follower: {what}"),
                "delete the row that nobody ordered with walferry sink skip",
            )
        })?);
    }
    Ok(orders)
}

/// Marks an order as done; whether it was still there.
pub(super) async fn note(wire: &mut Wire, me: &Identity, skipped: &Skipped) -> Result<bool> {
    let sql = format!(
        "UPDATE walferry_skips SET skipped_at = UTC_TIMESTAMP(6), table_schema = {}, table_name = {} WHERE {}",
        literal(&skipped.table.schema),
        literal(&skipped.table.name),
        is_at(me, skipped.position)
    );
    let noted = wire.command(&sql).await;
    Ok(noted.map_err(|cause| plain_error(&cause, "noting a change as passed over"))? == 1)
}

/// Writes or withdraws an order.
///
/// # Errors
/// As [`sink::order`](crate::sink::order).
pub async fn order(
    pipeline: &str,
    sink: &str,
    settings: &MySqlSinkSettings,
    position: Position,
    order: &SkipOrder,
) -> Result<String> {
    let (mut wire, server) = connect(
        &settings.server,
        settings.statement_timeout,
        Missing::Refuse,
    )
    .await?;
    set_up(&mut wire, server, settings.statement_timeout).await?;
    let me = Identity::onlooker(pipeline, sink);
    let failed = |cause| plain_error(&cause, "writing walferry_skips on the follower");
    lay_out(&mut wire, server).await?;
    wire.command("START TRANSACTION").await.map_err(failed)?;
    not_passed(&mut wire, &me, position).await?;
    let (sql, said) = match order {
        SkipOrder::Skip { reason } => (
            format!(
                "INSERT IGNORE INTO walferry_skips (pipeline, sink, commit_lsn, ordinal, reason, ordered_by) \
                 VALUES ({}, {}, {}, {}, CURRENT_USER())",
                me.values(),
                literal(&position.commit.to_string()),
                position.ordinal,
                literal(reason)
            ),
            [
                "will be passed over",
                "was ordered to be passed over already",
            ],
        ),
        SkipOrder::Withdraw => (
            format!(
                "DELETE FROM walferry_skips WHERE {} AND skipped_at IS NULL",
                is_at(&me, position)
            ),
            [
                "will be applied after all",
                "was not ordered to be passed over",
            ],
        ),
    };
    let changed = wire.command(&sql).await.map_err(failed)?;
    wire.command("COMMIT").await.map_err(failed)?;
    wire.close().await;
    let said = said[usize::from(changed == 0)];
    Ok(format!(
        "{sink}: the change at {position} {said}; it counts from the sink's next session on: walferry sink resume {sink}"
    ))
}

/// The lock keeps the sink from passing the position meanwhile.
async fn not_passed(wire: &mut Wire, me: &Identity, position: Position) -> Result<()> {
    let sql = format!(
        "SELECT applied FROM walferry_checkpoint WHERE {} FOR UPDATE",
        me.is_mine()
    );
    let rows = wire.rows(&sql).await;
    let rows = rows.map_err(|cause| plain_error(&cause, "reading the checkpoint"))?;
    let Some(applied) = rows
        .into_iter()
        .next()
        .and_then(|mut row| row.pop().flatten())
    else {
        return Err(Error::halt(
            format!(
                "sink {} of pipeline {} has no checkpoint on this follower",
                me.sink, me.pipeline
            ),
            "name a sink that has run; its file in connectors/ says which follower is its own",
        ));
    };
    let applied: Lsn = applied
        .parse()
        .map_err(|_not_an_lsn| unreadable("walferry_checkpoint"))?;
    if position.commit < applied {
        return Err(Error::halt(
            format!(
                "{} has applied up to {applied}, which is beyond {position}",
                me.sink
            ),
            format!(
                "give the position that the halted sink names: walferry status, or the log of {}",
                me.sink
            ),
        ));
    }
    Ok(())
}
