//! Batches that wait for more.

use super::world::{SINK, World};
use crate::store::Store;
use crate::support::content::{mark, published};
use crate::support::http::{comes_into, get};

/// The sink's file with another age, and batches that are soon full.
fn aged<S: Store>(world: &World<S>, age: &str) {
    let file = world.store.connector();
    let lines = file
        .lines()
        .filter(|line| !line.starts_with("batch_max_age"));
    let lines = lines.collect::<Vec<_>>().join("\n");
    let more = format!("\nbatch_max_age = \"{age}\"\nbatch_max_bytes = \"64KiB\"\n");
    world
        .pipeline
        .write(&format!("connectors/{SINK}.toml"), &(lines + &more));
}

pub async fn changes_are_collected_until_a_batch_is_full_or_old<S: Store>() {
    let mut world = World::<S>::begin(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0, 'copied')",
    )
    .await;
    world.stop();
    // An hour is not over in this test.
    aged(&world, "1h");
    world.run();
    for id in 1..=5 {
        world
            .sql(&format!("INSERT INTO t VALUES ({id}, 'small')"))
            .await;
    }
    let lsn = mark(&world.from).await;
    // All of it is in Kafka, and the sink reads.
    published(&world.from).await;
    comes_into(&world.pipeline, SINK, "streaming").await;
    let wait = format!("/v1/sinks/{SINK}/wait?lsn={lsn}&timeout_ms=3000");
    let waited = get(&world.pipeline, &wait).await;
    assert_eq!(waited.map(|(status, _)| status), Ok(504));
    world.differs("t").await;
    world
        .sql("INSERT INTO t SELECT i, repeat(md5(i::text), 10) FROM generate_series(10, 1000) i")
        .await;
    crate::support::until("the batch is full", || async {
        match get(&world.pipeline, &wait).await? {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // What was collected and not applied is read again.
    world.sql("UPDATE t SET v = 'last' WHERE id = 5").await;
    world.stop();
    aged(&world, "100ms");
    world.run();
    world.follows(&["t"]).await;
    world.stop();
}
