//! Tables without a key.

use super::world::World;
use crate::store::Store;

const STEPS: &[&str] = &[
    "INSERT INTO k VALUES (1, 'twice'), (1, 'twice'), (2, NULL), (NULL, NULL), (NULL, NULL)",
    "UPDATE k SET b = 'changed' WHERE a = 3",
    // One of two that are the same.
    "DELETE FROM k WHERE ctid = (SELECT min(ctid) FROM k WHERE a = 1)",
    "DELETE FROM k WHERE ctid = (SELECT min(ctid) FROM k WHERE a IS NULL)",
    "UPDATE k SET a = a + 1; INSERT INTO k VALUES (9, 'behind')",
    "INSERT INTO k VALUES (5, 'gone'); TRUNCATE k; INSERT INTO k VALUES (5, 'stays'), (5, 'stays')",
];

pub async fn a_table_without_a_key_is_equal<S: Store>() {
    let mut world = World::<S>::begin(
        "CREATE TABLE k (a int, b text); ALTER TABLE k REPLICA IDENTITY FULL;
         INSERT INTO k SELECT i % 4, 'row ' || i % 3 FROM generate_series(1, 30) i",
    )
    .await;
    world.equal(&["k"]).await;
    for step in STEPS {
        world.transaction(step).await;
        world.caught_up().await;
        if let Err(difference) = world.same("k", &[]).await {
            panic!("after {step}: {difference}");
        }
    }
    world.stop();
}
