//! Keys of ClickHouse's tables that somebody has chosen.

use super::world::World;
use crate::store::Store;

const LAYOUT: &str = r#"
[layout."public.parted"]
order_by = ["id", "kind"]
partition_by = "toYYYYMM(at)"

[layout."public.maybe"]
partition_by = "toYear(at)"
"#;

const TABLES: &[&str] = &["parted", "maybe"];

/// Each moves rows from one part of the table to another, or says nothing about the part that they are in.
const STEPS: &[&str] = &[
    "UPDATE parted SET at = at + interval '40 days' WHERE id % 3 = 0; UPDATE maybe SET at = NULL WHERE id < 20",
    "UPDATE parted SET n = n + 1; UPDATE maybe SET at = '2001-02-03' WHERE id BETWEEN 10 AND 40",
    "DELETE FROM parted WHERE id % 5 = 0; DELETE FROM maybe WHERE at IS NULL",
    "UPDATE parted SET kind = 'moved' WHERE id % 7 = 0; UPDATE parted SET id = -id, at = '1990-01-01' WHERE id % 11 = 0",
    "INSERT INTO parted SELECT i, 'a', '1971-05-05', i, NULL FROM generate_series(5, 50, 5) i ON CONFLICT DO NOTHING;
     INSERT INTO maybe SELECT i, NULL FROM generate_series(1, 9) i",
];

pub async fn keys_that_somebody_chose_are_taken_and_the_tables_are_equal<S: Store>() {
    let mut world = World::<S>::with(
        "CREATE TABLE parted (id int, kind text, at timestamptz NOT NULL, n int, body text, PRIMARY KEY (kind, id));
         ALTER TABLE parted ALTER COLUMN body SET STORAGE EXTERNAL;
         INSERT INTO parted SELECT i, 'a', timestamptz '1980-01-15' + i * interval '1 month', i, repeat('b', 2500)
         FROM generate_series(1, 250) i;
         CREATE TABLE maybe (id int PRIMARY KEY, at date);
         INSERT INTO maybe SELECT i, date '1975-01-01' + i * 100 FROM generate_series(1, 100) i",
        LAYOUT,
    )
    .await;
    world.run();
    world.follows(TABLES).await;
    let keys = "SELECT toInt64(countIf(name = 'parted' AND partition_key = 'toYYYYMM(at)' AND sorting_key = 'id, kind')),
                       toInt64(countIf(name = 'maybe' AND partition_key = 'toYear(at)' AND sorting_key IN ('id', '(id)')))
                FROM system.tables WHERE database = 'follower'";
    assert_eq!(world.store.numbers(keys).await, Ok(vec![1, 1]));
    for step in STEPS {
        world.transaction(step).await;
        world.follows(TABLES).await;
    }
    for table in TABLES {
        let place = world.store.place("public", table);
        world
            .store
            .sql(&format!("OPTIMIZE TABLE {place} FINAL"))
            .await;
    }
    world.equal(TABLES).await;
    // One more, of as many parts as the first copy had.
    world
        .transaction("TRUNCATE maybe; UPDATE parted SET n = 0")
        .await;
    world.follows(TABLES).await;
    world.pipeline.do_it(&["resync", "s", "public.parted"]);
    world.follows(TABLES).await;
    world.pipeline.do_it(&["verify", "s"]);
    world.stop();
}
