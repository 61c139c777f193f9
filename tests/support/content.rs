//! Comparing a follower with its leader.

use tokio_postgres::Client;

use super::until;

/// The leader's WAL position now, with something behind it, so that the log has a boundary beyond it even
/// on an idle leader.
pub async fn mark(leader: &Client) -> String {
    let target: String = leader
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .await
        .unwrap()
        .get(0);
    leader
        .batch_execute("SELECT pg_logical_emit_message(true, 'test', 'boundary')")
        .await
        .unwrap();
    target
}

/// Waits until the follower's applied boundary has reached what is flushed on the leader now.
pub async fn wait_caught_up(leader: &Client, follower: &Client, sink: &str) {
    let target = mark(leader).await;
    until(&format!("sink {sink} at {target}"), || async {
        let query = "SELECT applied::text, applied >= $2::text::pg_lsn FROM walferry.checkpoint WHERE sink = $1";
        match follower.query_opt(query, &[&sink, &target]).await {
            Ok(Some(row)) if row.get::<_, bool>(1) => copying(follower, sink).await,
            Ok(Some(row)) => Err(format!("it is at {}", row.get::<_, String>(0))),
            Ok(None) => Err("it has no checkpoint yet".to_owned()),
            Err(error) => Err(format!("{error:?}")),
        }
    })
    .await;
}

/// Waits until Kafka holds all that the leader has written; entries before and after are apart.
pub async fn published(leader: &Client) {
    let target = mark(leader).await;
    until("the slot is at the leader's end", || async {
        let query = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots";
        match leader.query_one(query, &[&target]).await.unwrap().get(0) {
            true => Ok(()),
            false => Err(target.clone()),
        }
    })
    .await;
}

async fn copying(follower: &Client, sink: &str) -> Result<(), String> {
    let query = "SELECT state -> 'joins' = '[]'::jsonb AND jsonb_array_length(state -> 'in_effect')
                        >= jsonb_array_length(state -> 'log' -> 'captured'), state::text
                 FROM walferry.checkpoint WHERE sink = $1";
    let row = follower
        .query_one(query, &[&sink])
        .await
        .map_err(|e| format!("{e:?}"))?;
    if row.get(0) {
        Ok(())
    } else {
        Err(format!("still copying: {}", row.get::<_, String>(1)))
    }
}

/// Every row of a table as text, sorted.
pub async fn rows(client: &Client, table: &str) -> Vec<String> {
    client
        .batch_execute("SET extra_float_digits = 3; SET TimeZone = 'UTC'")
        .await
        .unwrap();
    let query = format!("SELECT the_row::text FROM {table} the_row ORDER BY 1");
    let rows = client
        .query(&query, &[])
        .await
        .unwrap_or_else(|error| panic!("{table}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// Panics with the first differences when the tables do not hold the same rows.
pub async fn assert_equal(leader: &Client, follower: &Client, tables: &[&str]) {
    for table in tables {
        let (on_leader, on_follower) = (rows(leader, table).await, rows(follower, table).await);
        if on_leader != on_follower {
            let only = |a: &[String], b: &[String]| -> Vec<String> {
                a.iter()
                    .filter(|row| b.binary_search(row).is_err())
                    .take(5)
                    .cloned()
                    .collect()
            };
            let (mut l, mut f) = (on_leader.clone(), on_follower.clone());
            l.sort();
            f.sort();
            panic!(
                "{table}: {} rows on the leader, {} on the follower\nonly on the leader: {:#?}\nonly on the follower: {:#?}",
                l.len(),
                f.len(),
                only(&l, &f),
                only(&f, &l)
            );
        }
    }
}
