//! The load: bulk inserts, then small transactions of 2 updates, 1 insert and 1 delete.

use tokio_postgres::Client;

use super::Plan;

/// Tables of the load, and the row that says that all of it is there.
pub const TABLES: &str = "CREATE TABLE bulk (id bigint PRIMARY KEY, customer int NOT NULL, amount numeric(12,2) NOT NULL,
                                             state text NOT NULL, note text, at timestamptz NOT NULL);
                          CREATE TABLE marker (id int PRIMARY KEY);";

/// Changes in all.
pub fn changes(plan: &Plan) -> u64 {
    plan.rows + plan.transactions * 4
}

/// Writes the load on the leader; returns the WAL position behind it.
pub async fn write(leader: &Client, plan: &Plan) -> anyhow::Result<String> {
    let (rows, transactions) = (plan.rows, plan.transactions);
    let chunk = 10_000.min(rows.max(1));
    leader
        .batch_execute(&format!(
            "CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$
             BEGIN
               FOR low IN 1..{rows} BY {chunk} LOOP
                 INSERT INTO bulk SELECT i, i % 5000, i % 100000 / 7.0, 'state ' || i % 5, 'a note for row number ' || i,
                        timestamptz '2026-01-01' + i * interval '1 second'
                 FROM generate_series(low, least(low + {chunk} - 1, {rows})) i;
                 COMMIT;
               END LOOP;
               FOR t IN 1..{transactions} LOOP
                 UPDATE bulk SET amount = amount + 1, state = 'changed' WHERE id = t;
                 UPDATE bulk SET note = 'another note ' || t WHERE id = {transactions} + t;
                 INSERT INTO bulk VALUES ({rows} + t, t % 5000, t, 'new', 'a new row', timestamptz '2026-06-01');
                 DELETE FROM bulk WHERE id = 2 * {transactions} + t;
                 COMMIT;
               END LOOP;
             END $$;"
        ))
        .await?;
    // One at a time: a procedure that commits cannot run inside the transaction of several statements.
    for statement in [
        "SET synchronous_commit = off",
        "CALL fill()",
        "SET synchronous_commit = on",
        "INSERT INTO marker VALUES (1)",
        "CHECKPOINT",
    ] {
        leader.batch_execute(statement).await?;
    }
    Ok(leader
        .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .await?
        .get(0))
}

/// Waits until the marker is on a follower.
pub async fn arrived(follower: &Client) -> anyhow::Result<()> {
    loop {
        if follower
            .query_opt("SELECT 1 FROM marker", &[])
            .await?
            .is_some()
        {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// One number for the contents of `bulk`.
pub async fn content(client: &Client) -> anyhow::Result<(i64, String)> {
    let row = client
        .query_one("SELECT count(*), coalesce(sum(hashtextextended(bulk::text, 0)::numeric), 0)::text FROM bulk", &[])
        .await?;
    Ok((row.get(0), row.get(1)))
}
