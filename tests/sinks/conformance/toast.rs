//! Large values that a change does not carry, as it has not changed them.

use super::world::World;
use crate::store::Store;

const SCHEMA: &str = "CREATE TABLE docs (id int PRIMARY KEY, title text, body text, more text NOT NULL);
    ALTER TABLE docs ALTER COLUMN body SET STORAGE EXTERNAL, ALTER COLUMN more SET STORAGE EXTERNAL";

/// The statement that makes rows of these keys.
fn rows(from: u32, to: u32) -> String {
    format!(
        "INSERT INTO docs SELECT i, 't' || i, repeat(chr(65 + i % 26), 10000), repeat(chr(97 + i % 26), 9000)
           FROM generate_series({from}, {to}) i"
    )
}

const STEPS: &[&str] = &[
    "UPDATE docs SET title = 'changed' WHERE id <= 3",
    // Two in one transaction, and one between others.
    "UPDATE docs SET title = 'once' WHERE id = 4; UPDATE docs SET title = 'twice' WHERE id = 4",
    // With the key.
    "UPDATE docs SET id = 105 WHERE id = 5",
    "UPDATE docs SET id = 106, title = 'moved' WHERE id = 6; UPDATE docs SET title = 'and changed' WHERE id = 106",
    "UPDATE docs SET title = 'changed' WHERE id = 7; UPDATE docs SET id = 107 WHERE id = 7",
    "UPDATE docs SET id = 108 WHERE id = 8; UPDATE docs SET id = 208 WHERE id = 108; UPDATE docs SET id = 8 WHERE id = 208",
    // A swap: each row takes the other's key with its own values.
    "UPDATE docs SET id = -1 WHERE id = 9; UPDATE docs SET id = 9 WHERE id = 10; UPDATE docs SET id = 10 WHERE id = -1",
    // One of two.
    "UPDATE docs SET body = repeat('new', 4000) WHERE id = 11; UPDATE docs SET title = 'behind' WHERE id = 11",
    "UPDATE docs SET title = 'before' WHERE id = 12; UPDATE docs SET more = repeat('new', 4000) WHERE id = 12",
    "UPDATE docs SET body = NULL WHERE id = 13; UPDATE docs SET title = 'n' WHERE id = 13",
    // A row of another's key.
    "DELETE FROM docs WHERE id = 14; UPDATE docs SET id = 14 WHERE id = 15",
    "DELETE FROM docs WHERE id = 16; INSERT INTO docs VALUES (16, 'again', repeat('z', 10000), 'small'); UPDATE docs SET title = 'touched' WHERE id = 16",
    "UPDATE docs SET id = 117 WHERE id = 17; DELETE FROM docs WHERE id = 117",
    // Moved while another row takes the old key.
    "UPDATE docs SET id = 118 WHERE id = 18; INSERT INTO docs VALUES (18, 'other', repeat('o', 10000), 'o'); UPDATE docs SET title = 'both' WHERE id IN (18, 118)",
    "UPDATE docs SET title = title || '!' WHERE id > 20",
];

pub async fn unchanged_large_values_stay<S: Store>() {
    let mut world = World::<S>::begin(&format!("{SCHEMA}; {}", rows(1, 40))).await;
    for step in STEPS {
        world.transaction(step).await;
        world.caught_up().await;
        if let Err(difference) = world.same("docs", &[]).await {
            panic!("after {step}: {difference}");
        }
    }
    world.restart();
    world
        .sql("UPDATE docs SET title = 'after a restart' WHERE id % 3 = 0")
        .await;
    world.follows(&["docs"]).await;
    // All at once, of keys that no step has met.
    world.stop();
    world.sql(&format!("TRUNCATE docs; {}", rows(1, 40))).await;
    for step in STEPS {
        world.transaction(step).await;
    }
    // More rows than are read at a time, with one of another key and one that is gone among them.
    world.sql(&rows(1001, 2000)).await;
    world
        .transaction(
            "UPDATE docs SET title = title || '?' WHERE id > 1000; UPDATE docs SET id = 3001 WHERE id = 1300;
             DELETE FROM docs WHERE id = 1301; UPDATE docs SET title = title WHERE id > 1900",
        )
        .await;
    world.run();
    world.follows(&["docs"]).await;
    world
        .sql("UPDATE docs SET title = title || '!' WHERE id > 1000")
        .await;
    world.follows(&["docs"]).await;
    world.stop();
}
