//! Inserts, updates, deletes, keys that change, truncates.

use super::world::World;
use crate::store::Store;

pub const TABLES: &[&str] = &["items", "pairs"];

pub const SCHEMA: &str = "CREATE TABLE items (id int PRIMARY KEY, n int, note text);
    CREATE TABLE pairs (a int, b text, v bigint NOT NULL DEFAULT 0, PRIMARY KEY (b, a));";

/// What is there before the first copy.
pub const ROWS: &str =
    "INSERT INTO items SELECT i, i * 10, 'row ' || i FROM generate_series(1, 60) i;
    INSERT INTO pairs SELECT i % 7, 'k' || i, i FROM generate_series(1, 40) i";

/// Each is one transaction. They find [`ROWS`].
pub const STEPS: &[&str] = &[
    "INSERT INTO items SELECT i, NULL, NULL FROM generate_series(101, 120) i",
    "UPDATE items SET n = n + 1 WHERE id <= 20; UPDATE items SET note = NULL WHERE id = 3",
    "DELETE FROM items WHERE id BETWEEN 15 AND 18; DELETE FROM pairs WHERE a = 3",
    "UPDATE items SET id = 1001 WHERE id = 1",
    // A chain.
    "UPDATE items SET id = 1002 WHERE id = 4; UPDATE items SET id = 4 WHERE id = 5; UPDATE items SET id = 5 WHERE id = 6",
    // A swap, and a cycle of three, each by way of a free key.
    "UPDATE items SET id = -1 WHERE id = 7; UPDATE items SET id = 7 WHERE id = 8; UPDATE items SET id = 8 WHERE id = -1",
    "UPDATE items SET id = -1 WHERE id = 9; UPDATE items SET id = 9 WHERE id = 10; UPDATE items SET id = 10 WHERE id = 11;
     UPDATE items SET id = 11 WHERE id = -1; UPDATE items SET note = 'turned' WHERE id IN (9, 10)",
    // Away and back.
    "UPDATE items SET id = -2 WHERE id = 12; UPDATE items SET n = 7 WHERE id = -2; UPDATE items SET id = 12 WHERE id = -2",
    // The same key deleted and inserted, updated around it; and inserted and deleted.
    "UPDATE items SET n = 0 WHERE id = 13; DELETE FROM items WHERE id = 13; INSERT INTO items VALUES (13, 1, 'again');
     UPDATE items SET n = 2 WHERE id = 13; INSERT INTO items VALUES (900, 1, 'short'); DELETE FROM items WHERE id = 900",
    // Moved and deleted, another row at the old key; a deleted row's key is taken by a moved one.
    "UPDATE items SET id = 901 WHERE id = 14; DELETE FROM items WHERE id = 901; INSERT INTO items VALUES (14, 3, 'other');
     DELETE FROM items WHERE id = 20; UPDATE items SET id = 20 WHERE id = 21",
    // Inserted, moved, changed.
    "INSERT INTO items VALUES (902, 1, 'new'); UPDATE items SET id = 903 WHERE id = 902; UPDATE items SET n = 2 WHERE id = 903",
    // Keys of two columns.
    "UPDATE pairs SET b = b || '!' WHERE a = 1; UPDATE pairs SET a = a + 100, v = -v WHERE a = 2;
     UPDATE pairs SET b = 'K' WHERE b = 'k4'; UPDATE pairs SET b = 'k4 ' WHERE b = 'k5'",
    // A truncate in the middle, with rows before and behind it, some of them of the same keys.
    "INSERT INTO items VALUES (950, 1, 'before'); UPDATE items SET n = -5 WHERE id = 30; TRUNCATE items;
     INSERT INTO items SELECT i, i, 'behind' FROM generate_series(25, 60) i; UPDATE items SET note = 'late' WHERE id = 31",
    "UPDATE items SET n = n + 1; UPDATE pairs SET v = v + 1",
    // Of two tables at once, and twice.
    "TRUNCATE items, pairs; INSERT INTO pairs VALUES (1, 'x', 1); TRUNCATE pairs; INSERT INTO pairs VALUES (1, 'x', 2), (2, 'y', 3);
     INSERT INTO items VALUES (1, 1, 'one')",
    "UPDATE pairs SET a = 5 WHERE b = 'x'; UPDATE pairs SET v = 9 WHERE a = 5; UPDATE items SET id = 2",
    // Nothing is left.
    "TRUNCATE items; DELETE FROM pairs",
    "INSERT INTO items VALUES (1, 1, 'one'), (2, 2, 'two'); INSERT INTO pairs VALUES (1, 'x', 2)",
];

pub async fn a_copied_table_and_what_is_done_to_it_are_equal<S: Store>() {
    let mut world = World::<S>::begin(&format!("{SCHEMA} {ROWS}")).await;
    world.equal(TABLES).await;
    for step in STEPS {
        world.transaction(step).await;
        world.caught_up().await;
        for name in TABLES {
            if let Err(difference) = world.same(name, &[]).await {
                panic!("after {step}: {difference}");
            }
        }
    }
    // As a backlog, which the sink meets as few batches.
    world.stop();
    world.sql(&format!("TRUNCATE items, pairs; {ROWS}")).await;
    for step in STEPS {
        world.transaction(step).await;
    }
    world.run();
    world.follows(TABLES).await;
    world.stop();
}

/// Numbers without a pattern, the same in every run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// One of `0..below` (Knuth's MMIX generator).
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

pub const RANDOM: &str = "CREATE TABLE r (id int PRIMARY KEY, n int NOT NULL, note text, body text);
    ALTER TABLE r ALTER COLUMN body SET STORAGE EXTERNAL;
    CREATE TABLE q (a text, b int, v text, PRIMARY KEY (a, b));
    INSERT INTO r SELECT i, 0, 'first', repeat(chr(65 + i % 26), 3000) FROM generate_series(1, 30) i";

/// A transaction over few keys, so that its changes meet one another. It never fails.
pub fn random(dice: &mut Dice) -> String {
    let mut statements = Vec::new();
    for n in 0..1 + dice.below(8) {
        let (a, b, new) = (dice.below(40), dice.below(40), dice.below(100_000));
        statements.push(match dice.below(24) {
            0..6 => format!(
                "INSERT INTO r VALUES ({a}, {new}, 'new', repeat(chr(65 + {b} % 26), 100 * ({new} % 40)))
                 ON CONFLICT (id) DO UPDATE SET n = r.n + 1"
            ),
            6..10 => format!("UPDATE r SET n = {new}, note = 'n{new}' WHERE id IN ({a}, {b})"),
            10..13 => format!("UPDATE r SET id = {b}, n = n + 1 WHERE id = {a} AND NOT EXISTS (SELECT FROM r WHERE id = {b})"),
            13..15 => format!("UPDATE r SET body = repeat('{n}', 2500) WHERE id = {a}"),
            15..18 => format!("DELETE FROM r WHERE id = {a}"),
            18..20 => format!(
                "INSERT INTO q VALUES ('{a}', {b} % 3, 'v{new}') ON CONFLICT (a, b) DO UPDATE SET v = 'w{new}'"
            ),
            20..22 => format!(
                "UPDATE q SET a = '{b}' WHERE a = '{a}' AND NOT EXISTS (SELECT FROM q z WHERE z.a = '{b}')"
            ),
            22 => format!("SAVEPOINT s; DELETE FROM r WHERE id > {a}; UPDATE q SET v = 'undone'; ROLLBACK TO s"),
            _rare if dice.below(6) == 0 => format!("TRUNCATE {}", ["r", "q", "r, q"][dice.below(3) as usize]),
            _rest => format!("DELETE FROM q WHERE a = '{a}'"),
        });
    }
    format!("BEGIN; {}; COMMIT", statements.join("; "))
}

pub async fn random_transactions_leave_equal_tables<S: Store>() {
    let mut world = World::<S>::begin(RANDOM).await;
    for seed in 1..=6 {
        let mut dice = Dice::new(seed);
        for _ in 0..60 {
            world.sql(&random(&mut dice)).await;
        }
        world.caught_up().await;
        for table in ["r", "q"] {
            if let Err(difference) = world.same(table, &[]).await {
                panic!("seed {seed}: {difference}");
            }
        }
        // Every other seed is met as a backlog.
        if seed % 2 == 1 {
            world.stop();
            for _ in 0..60 {
                world.sql(&random(&mut dice)).await;
            }
            world.run();
            world.follows(&["r", "q"]).await;
        }
    }
    world.stop();
}
