//! A batch that was cut off before its checkpoint, and is begun anew with more changes than it had.

use super::world::{SINK, World};
use crate::store::Store;
use crate::support::http::part;

/// Another sink of the same pipeline, which shows that all stands in the log.
const OTHER: &str = "other";

const TABLES: &[&str] = &["kv", "pure", "docs", "notes", "enough"];

const SCHEMA: &str = "CREATE TABLE kv (id int PRIMARY KEY, v text);
    INSERT INTO kv SELECT i, 'v' FROM generate_series(1, 20) i;
    CREATE TABLE pure (a int, b text, PRIMARY KEY (b, a));
    INSERT INTO pure SELECT i, 'k' FROM generate_series(1, 20) i;
    CREATE TABLE docs (id int PRIMARY KEY, body text NOT NULL);
    ALTER TABLE docs ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO docs SELECT i, repeat(chr(64 + i), 3000) FROM generate_series(1, 20) i;
    CREATE TABLE notes (id int PRIMARY KEY, title text, body text NOT NULL);
    ALTER TABLE notes ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO notes SELECT i, 'first', repeat(chr(64 + i), 3000) FROM generate_series(1, 20) i;
    CREATE TABLE enough (id int PRIMARY KEY, v text)";

/// What the attempt has written that is cut off, and what comes meanwhile.
const CASES: &[(&str, &str)] = &[
    (
        "INSERT INTO kv VALUES (101, 'new')",
        "DELETE FROM kv WHERE id = 101",
    ),
    (
        "UPDATE kv SET id = 102 WHERE id = 1",
        "UPDATE kv SET id = 103 WHERE id = 102",
    ),
    (
        "UPDATE kv SET id = 104 WHERE id = 2",
        "DELETE FROM kv WHERE id = 104",
    ),
    (
        "DELETE FROM kv WHERE id = 3",
        "INSERT INTO kv VALUES (3, 'again')",
    ),
    (
        "DELETE FROM pure WHERE a = 1",
        "INSERT INTO pure VALUES (1, 'k')",
    ),
    (
        "UPDATE pure SET a = 102 WHERE a = 2",
        "UPDATE pure SET a = 2 WHERE a = 102",
    ),
    (
        "INSERT INTO pure VALUES (103, 'k')",
        "DELETE FROM pure WHERE a = 103",
    ),
    (
        "UPDATE docs SET id = 101 WHERE id = 1",
        "UPDATE docs SET id = 1 WHERE id = 101",
    ),
    (
        "UPDATE docs SET id = 102 WHERE id = 2",
        "UPDATE docs SET id = 103 WHERE id = 102",
    ),
    (
        "UPDATE notes SET title = 'cut off' WHERE id < 10",
        "UPDATE notes SET title = 'meanwhile' WHERE id % 3 = 0",
    ),
];

/// Rows of a kilobyte that fill a batch.
fn rows(from: u32, to: u32) -> String {
    format!("INSERT INTO enough SELECT i, repeat('x', 1000) FROM generate_series({from}, {to}) i")
}

pub async fn a_batch_that_is_begun_anew_with_more_changes_leaves_equal_tables<S: Store>() {
    let mut world = World::<S>::new(SCHEMA).await;
    let elsewhere = world.store.elsewhere("elsewhere").await;
    world
        .pipeline
        .write(&format!("connectors/{OTHER}.toml"), &elsewhere);
    world.run();
    world.follows(TABLES).await;
    world.has_caught_up(OTHER).await;
    world.stop();
    let (before, meanwhile): (Vec<&str>, Vec<&str>) = CASES.iter().copied().unzip();
    let rest = format!("SYSTEM STOP MERGES {}", world.store.place("public", "docs"));
    world.store.sql(&rest).await;
    // All of it stands in the log before the sink sees any, and no two of them in one entry.
    world.walferry = Some(world.pipeline.run_only(&["leader", OTHER]));
    for transaction in [
        before.join(";"),
        rows(1, 70),
        meanwhile.join(";"),
        rows(71, 3000),
    ] {
        world.transaction(&transaction).await;
        world.has_caught_up(OTHER).await;
    }
    world.stop();
    // A batch is over when it is full only.
    let connector = world.store.connector().replace("50ms", "10min");
    let batches_of = |size: &str| format!("{connector}batch_max_bytes = \"{size}\"\n");
    let file = format!("connectors/{SINK}.toml");
    world.pipeline.write(&file, &batches_of("64KiB"));
    world.pipeline.run_until("BeforeCommit:1").dies().await;
    // Rows that the attempt has replaced are gone.
    let merge = format!(
        "OPTIMIZE TABLE {} FINAL",
        world.store.place("public", "notes")
    );
    world.store.sql(&merge).await;
    world.pipeline.write(&file, &batches_of("2MiB"));
    world.run();
    world.follows(TABLES).await;
    let sink = part(&world.pipeline, SINK).await.expect("it runs");
    assert_eq!(sink["batches"], 1, "{sink}");
    // What was merged away is in the rows that the attempt has left.
    assert!(!sink["copies"].to_string().contains("notes"), "{sink}");
    world.stop();
}
