//! The loads that a backlog is made of.

use std::fmt::Display;

use tokio_postgres::Client;

use super::Plan;

/// Tables of the load, and the row that says that all of it is there.
pub const TABLES: &str = "CREATE TABLE bulk (id bigint PRIMARY KEY, customer int NOT NULL, amount numeric(12,2) NOT NULL,
                                             state text NOT NULL, note text, at timestamptz NOT NULL);
                          CREATE TABLE marker (id int PRIMARY KEY);";

/// What is written while the slots wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Bulk inserts, then small transactions of two updates, an insert and a delete.
    Mixed,
    /// Bulk inserts alone, 10,000 rows a transaction.
    Inserts,
    /// Transactions that update the same 1,000 rows again and again, 50 of them each.
    HotRows,
}

/// Rows that a transaction of `HotRows` updates, and of how many.
const HOT_ROWS: (u64, u64) = (50, 1_000);

impl Load {
    /// All, as they are named in options.
    pub const ALL: [(&'static str, Load); 3] = [
        ("mixed", Load::Mixed),
        ("inserts", Load::Inserts),
        ("hot-rows", Load::HotRows),
    ];

    /// Its name in options.
    pub fn name(self) -> &'static str {
        Load::ALL
            .into_iter()
            .find_map(|(name, load)| (load == self).then_some(name))
            .expect("ALL has all")
    }

    /// Changes in all.
    pub fn changes(self, plan: &Plan) -> u64 {
        match self {
            Load::Mixed => plan.rows + plan.transactions * 4,
            Load::Inserts => plan.rows,
            Load::HotRows => plan.transactions / 10 * HOT_ROWS.0,
        }
    }

    /// What is there before the slots are made.
    pub fn first_rows(self) -> String {
        match self {
            Load::Mixed | Load::Inserts => String::new(),
            Load::HotRows => insert(1, HOT_ROWS.1),
        }
    }

    /// A query of a follower that finds a row once the marker and the last change of `bulk` are there.
    pub fn last_changes(self, plan: &Plan) -> String {
        let (rows, transactions) = (plan.rows, plan.transactions);
        let last_of_bulk = match self {
            Load::Inserts => format!("id = {rows}"),
            Load::Mixed => format!(
                "id = {rows} + {transactions} AND NOT EXISTS (SELECT 1 FROM bulk WHERE id = 3 * {transactions})"
            ),
            Load::HotRows => {
                let last = transactions / 10;
                let id = last * HOT_ROWS.0 % HOT_ROWS.1 + 1;
                format!("id = {id} AND note = 'note {last}'")
            }
        };
        format!("SELECT 1 FROM bulk, marker WHERE bulk.{last_of_bulk}")
    }

    /// Writes the load on the leader; returns the WAL position behind it.
    pub async fn write(self, leader: &Client, plan: &Plan) -> anyhow::Result<String> {
        let (rows, transactions) = (plan.rows, plan.transactions);
        let inserts = format!(
            "FOR low IN 1..{rows} BY {ROWS_A_COMMIT} LOOP {} COMMIT; END LOOP;",
            insert("low", format!("least(low + {ROWS_A_COMMIT} - 1, {rows})"))
        );
        let body = match self {
            Load::Inserts => inserts,
            Load::Mixed => format!(
                "{inserts}
                 FOR t IN 1..{transactions} LOOP
                   UPDATE bulk SET amount = amount + 1, state = 'changed' WHERE id = t;
                   UPDATE bulk SET note = 'another note ' || t WHERE id = {transactions} + t;
                   INSERT INTO bulk VALUES ({rows} + t, t % 5000, t, 'new', 'a new row', timestamptz '2026-06-01');
                   DELETE FROM bulk WHERE id = 2 * {transactions} + t;
                   COMMIT;
                 END LOOP;"
            ),
            Load::HotRows => format!(
                "FOR t IN 1..{} LOOP
                   UPDATE bulk SET amount = amount + 1, note = 'note ' || t
                   WHERE id > (t * {each}) % {all} AND id <= (t * {each}) % {all} + {each};
                   COMMIT;
                 END LOOP;",
                transactions / 10,
                each = HOT_ROWS.0,
                all = HOT_ROWS.1
            ),
        };
        fill(leader, &body).await?;
        Ok(leader
            .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
            .await?
            .get(0))
    }
}

/// Writes a backlog: what `body` does in PL/pgSQL, which commits by itself, then the marker.
pub async fn fill(leader: &Client, body: &str) -> anyhow::Result<()> {
    // One at a time: a procedure that commits cannot run inside the transaction of several statements.
    for statement in [
        &format!("CREATE OR REPLACE PROCEDURE fill() LANGUAGE plpgsql AS $$ BEGIN {body} END $$"),
        "SET synchronous_commit = off",
        "CALL fill()",
        "SET synchronous_commit = on",
        "INSERT INTO marker VALUES (1)",
        "CHECKPOINT",
    ] {
        leader.batch_execute(statement).await?;
    }
    Ok(())
}

/// Rows that one transaction inserts.
const ROWS_A_COMMIT: u64 = 10_000;

fn insert(low: impl Display, high: impl Display) -> String {
    format!(
        "INSERT INTO bulk SELECT i, i % 5000, i % 100000 / 7.0, 'state ' || i % 5, 'a note for row number ' || i,
                timestamptz '2026-01-01' + i * interval '1 second'
         FROM generate_series({low}, {high}) i;"
    )
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

/// A number of rows and one number for the contents of `bulk`.
pub async fn content(client: &Client) -> anyhow::Result<(i64, String)> {
    content_of(client, "bulk").await
}

/// The same of any table.
pub async fn content_of(client: &Client, table: &str) -> anyhow::Result<(i64, String)> {
    let query = format!(
        "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {table} AS t"
    );
    let row = client.query_one(&query, &[]).await?;
    Ok((row.get(0), row.get(1)))
}
