//! Transactions larger than a batch, and what is rolled back.

use super::world::World;
use crate::store::Store;

const SCHEMA: &str = "CREATE TABLE big (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, v text);
    CREATE TABLE small (id int PRIMARY KEY, n int NOT NULL);
    INSERT INTO small SELECT i, 0 FROM generate_series(1, 20) i";

/// Each of them is one transaction.
const STEPS: &[&str] = &[
    "UPDATE small SET n = 1; INSERT INTO big SELECT i, 0, repeat('x', 100) FROM generate_series(1, 4000) i; UPDATE small SET n = n + 1",
    "UPDATE big SET n = 1; UPDATE big SET n = n + 1 WHERE id % 2 = 0; UPDATE small SET n = n + 1; UPDATE big SET n = n + 1 WHERE id % 3 = 0",
    // Keys that move from one chunk into another, and are taken again.
    "UPDATE big SET id = id + 10000 WHERE id <= 2000; INSERT INTO big SELECT i, 5, repeat('y', 100) FROM generate_series(1, 2000) i;
     DELETE FROM big WHERE id BETWEEN 11000 AND 11500; UPDATE big SET id = id - 20000 WHERE id > 11500",
    "DELETE FROM big WHERE id > 3000; SAVEPOINT s; DELETE FROM small; INSERT INTO big SELECT i, 9, repeat('z', 100) FROM generate_series(50001, 52000) i;
     ROLLBACK TO s; UPDATE small SET n = n + 1",
    "DELETE FROM big WHERE id > 0; INSERT INTO big SELECT i, 6, repeat('w', 100) FROM generate_series(1, 3000) i; TRUNCATE big;
     INSERT INTO big SELECT i, 7, repeat('v', 100) FROM generate_series(1500, 4000) i; TRUNCATE small; INSERT INTO small VALUES (1, 1)",
];

pub async fn a_transaction_larger_than_a_batch_arrives_and_what_is_rolled_back_does_not<
    S: Store,
>() {
    let mut world = World::<S>::with(SCHEMA, "batch_max_bytes = \"64KiB\"\n").await;
    world.run();
    world.caught_up().await;
    let rolled_back = "BEGIN; DELETE FROM small; INSERT INTO big SELECT i, 8, repeat('r', 100) FROM generate_series(70001, 71000) i; ROLLBACK";
    for step in STEPS {
        world.sql(rolled_back).await;
        world.transaction(step).await;
        world.caught_up().await;
        for table in ["big", "small"] {
            if let Err(difference) = world.same(table, &[]).await {
                panic!("after {step}: {difference}");
            }
        }
    }
    world.stop();
}
