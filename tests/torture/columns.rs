//! A fault that is none for Postgres: tables are altered while they are written.
//!
//! What is added is dropped again, so that at the end the tables are the load's. Defaults are constants: what
//! older rows have in a column is known, and no follower needs a copy.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::sleep;

use crate::fault::{ALTERED, Side};
use crate::inject::until_done;
use crate::load::NAMES;
use crate::world::World;

/// What the names of columns begin with that come and go.
pub const EXTRA: &str = "extra";

/// A statement that writes a row of a table and changes nothing.
fn touch(table: &str) -> &'static str {
    match table {
        "accounts" => "UPDATE accounts SET note = note WHERE id = 1",
        "journal" => {
            "UPDATE journal SET kind = kind WHERE (client, seq) = (SELECT client, max(seq) FROM journal GROUP BY client LIMIT 1)"
        }
        "documents" => {
            "UPDATE documents SET revision = revision WHERE id = (SELECT min(id) FROM documents)"
        }
        "wanderers" => {
            "UPDATE wanderers SET hops = hops WHERE id = (SELECT min(id) FROM wanderers)"
        }
        other => unreachable!("{other} is not among those that are altered"),
    }
}

/// Adds columns to a table of the leader, renames one, writes them, and drops them.
///
/// # Errors
/// When the leader does not take a statement for too long.
pub async fn alter(world: &World, table: &str, hold: Duration) -> anyhow::Result<()> {
    // A copy that is made meanwhile would have the columns, and a table made by hand would lack them.
    until_done(async || all_in_effect(world).await).await?;
    let touch = touch(table);
    // A journal's rows are found by all of their columns, one by one.
    let write = match table {
        "journal" => touch.to_owned(),
        _ => format!("UPDATE {table} SET extra = extra || '.'"),
    };
    let added = format!(
        "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS extra text NOT NULL DEFAULT 'before'; {write}"
    );
    // Between statements that write, so that both shapes are in one transaction. After an answer that was
    // lost it has been renamed already.
    let renamed = format!(
        "{touch}; ALTER TABLE {table} DROP COLUMN IF EXISTS extra_number; ALTER TABLE {table} ADD COLUMN extra_number int DEFAULT 7;
         DO $$ BEGIN IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attname = 'extra' AND NOT attisdropped)
               THEN ALTER TABLE {table} RENAME COLUMN extra TO extra_text; END IF; END $$; {touch}"
    );
    let dropped = format!(
        "ALTER TABLE {table} DROP COLUMN IF EXISTS extra_text, DROP COLUMN IF EXISTS extra_number; {touch}"
    );
    for (pause, statements) in [
        (Duration::ZERO, added),
        (hold / 2, renamed),
        (hold / 2, dropped),
    ] {
        sleep(pause).await;
        until_done(async || {
            let client = world.leader.client().await?;
            client
                .batch_execute("SET lock_timeout = '2s'; SET statement_timeout = '10s'")
                .await?;
            Ok(client.batch_execute(&statements).await?)
        })
        .await?;
    }
    Ok(())
}

async fn all_in_effect(world: &World) -> anyhow::Result<()> {
    for side in Side::BOTH {
        let client = world.follower(side).client().await?;
        let query = "SELECT jsonb_array_length(state -> 'in_effect') FROM walferry.checkpoint";
        let tables: i32 = client.query_one(query, &[]).await?.get(0);
        ensure!(usize::try_from(tables)? == NAMES.len(), "it is copying");
    }
    Ok(())
}

/// Statements that drop what a table may have of such columns.
pub fn without_extras() -> String {
    let drop = |table: &&str| {
        format!(
            "ALTER TABLE {table} DROP COLUMN IF EXISTS extra, DROP COLUMN IF EXISTS extra_text, DROP COLUMN IF EXISTS extra_number;"
        )
    };
    ALTERED.iter().map(drop).collect()
}
