//! Lag of a follower that is added when there is much to copy.

use super::leader;
use super::witness::{Reading, Witness};
use super::{pause, write_row};
use crate::support::{Pipeline, Postgres, assert_equal, until, wait_caught_up};

/// Whether nothing at all is said of the lag of sink `b`, which is in this state.
fn says_nothing_while(reading: &Reading, state: &str) -> bool {
    let label = format!("state=\"{state}\"");
    let is = reading.series("walferry_sink_state", &["sink=\"b\"", &label]);
    if is != Some(1.0) {
        return false;
    }
    let said = (reading.bytes, reading.seconds, reading.staleness);
    assert_eq!(said, (None, None, None), "{state}");
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_of_a_follower_added_late_is_unknown_until_it_has_every_table() {
    let leader = leader().await;
    let (first, mut late) = (Postgres::start("first"), Postgres::start("late"));
    leader
        .sql(
            "CREATE TABLE small (id int PRIMARY KEY); INSERT INTO small VALUES (1);
             INSERT INTO t (v) SELECT repeat('x', 100) FROM generate_series(1, 50000)",
        )
        .await;
    // A copy a table, the smaller one first.
    let one_by_one = "copy.group_max_bytes = \"64KiB\"";
    let pipeline = Pipeline::with(&leader, &[&first], one_by_one, "");
    let from = leader.client().await;
    let walferry = pipeline.run();
    wait_caught_up(&from, &first.client().await, "a").await;
    assert_eq!(walferry.terminate(), 0);

    late.sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .await;
    let locker = pause(&late).await;
    let settings = format!("kind = \"postgres\"\nurl = \"{}\"\n", late.url("postgres"));
    pipeline.write("connectors/b.toml", &settings);
    let walferry = pipeline.run();
    let mut of_first = Witness::new(&pipeline, "a", &leader, &first);
    let mut of_late = Witness::new(&pipeline, "b", &leader, &late);
    let to = late.client().await;
    until("the late follower has the small table", || async {
        let query = "SELECT jsonb_array_length(state -> 'in_effect') = 1 FROM walferry.checkpoint";
        match to.query_opt(query, &[]).await {
            Ok(Some(row)) if row.get(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    write_row(&from).await;
    of_late
        .until("it says nothing while it copies", |now| {
            says_nothing_while(now, "copying")
        })
        .await;
    wait_caught_up(&from, &first.client().await, "a").await;
    of_first
        .until("the first follower is at zero", |now| now.is_zero())
        .await;

    // What it lacks it lacks also while it cannot be reached.
    drop((locker, to));
    late.stop();
    of_late
        .until("it says nothing while it is tried again", |now| {
            says_nothing_while(now, "retrying")
        })
        .await;
    late.start_again();
    let to = late.client().await;
    wait_caught_up(&from, &to, "b").await;
    of_late
        .until("the late follower is at zero", |now| now.is_zero())
        .await;
    assert_equal(&from, &to, &["t", "small"]).await;

    let locker = pause(&late).await;
    write_row(&from).await;
    of_late
        .rises("lag of the late follower", 3.0, |now| {
            now.seconds.filter(|s| *s > 0.0)
        })
        .await;
    of_first
        .until("the first follower is at zero", |now| now.is_zero())
        .await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    wait_caught_up(&from, &to, "b").await;
    of_late.until("it has drained", |now| now.is_zero()).await;
    assert_eq!(walferry.terminate(), 0);
}
