//! The leader's tables are altered while they are followed.

use super::world::World;
use crate::store::Store;

/// Each step with what is written behind it, which needs the new shape.
const STEPS: &[(&str, &str)] = &[
    (
        "ALTER TABLE t ADD COLUMN plain text",
        "INSERT INTO t (id, plain) VALUES (101, 'p'); UPDATE t SET plain = 'q' WHERE id = 1",
    ),
    (
        "ALTER TABLE t ADD COLUMN filled int NOT NULL DEFAULT 7",
        "INSERT INTO t (id) VALUES (102); UPDATE t SET filled = 8 WHERE id = 2",
    ),
    (
        "ALTER TABLE t ADD COLUMN said text DEFAULT 'it''s \\ so'",
        "INSERT INTO t (id, said) VALUES (103, NULL)",
    ),
    (
        "ALTER TABLE t DROP COLUMN note",
        "INSERT INTO t (id, plain) VALUES (104, 'p')",
    ),
    (
        "ALTER TABLE t RENAME COLUMN plain TO \"Plain\"",
        "UPDATE t SET \"Plain\" = 'renamed' WHERE id = 3",
    ),
    // A name that was another column's.
    (
        "ALTER TABLE t ADD COLUMN note int",
        "UPDATE t SET note = 5 WHERE id = 4",
    ),
    (
        "ALTER TABLE t ALTER COLUMN n TYPE bigint",
        "INSERT INTO t (id, n) VALUES (105, 9223372036854775807)",
    ),
    (
        "ALTER TABLE t ALTER COLUMN few TYPE numeric(12,4)",
        "INSERT INTO t (id, few) VALUES (106, 12345678.1234)",
    ),
    (
        "ALTER TABLE t ALTER COLUMN n DROP NOT NULL",
        "INSERT INTO t (id, n) VALUES (107, NULL)",
    ),
    // Other values in rows that do not change.
    (
        "ALTER TABLE t ALTER COLUMN note TYPE text USING 'was ' || note",
        "INSERT INTO t (id, note) VALUES (108, 'text')",
    ),
    (
        "ALTER TABLE t ADD COLUMN late timestamptz DEFAULT now()",
        "INSERT INTO t (id) VALUES (109)",
    ),
    // Columns that change their names with one another.
    (
        "ALTER TABLE t RENAME COLUMN a TO c; ALTER TABLE t RENAME COLUMN b TO a; ALTER TABLE t RENAME COLUMN c TO b",
        "INSERT INTO t (id, a, b) VALUES (110, 'a', 'b')",
    ),
];

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, few numeric(10,2), note text, a text, b text);
    INSERT INTO t SELECT i, i, i / 3.0, 'note ' || i, 'a' || i, 'b' || i FROM generate_series(1, 30) i";

pub async fn columns_follow_the_leader<S: Store>() {
    let mut world = World::<S>::begin(TABLE).await;
    for (shape, write) in STEPS {
        world.transaction(shape).await;
        world.sql(write).await;
        world.comes_to(&["t"]).await;
    }
    // The old rows and all shapes at once, and from a copy that is older than they are.
    world
        .sql("CREATE TABLE u (LIKE t INCLUDING ALL); INSERT INTO u SELECT * FROM t")
        .await;
    world.pipeline.do_it(&["reload"]);
    world.comes_to(&["t", "u"]).await;
    world.stop();
    for n in 0..4 {
        world
            .sql(&format!(
                "ALTER TABLE u ADD COLUMN x{n} int DEFAULT {n}; INSERT INTO u (id, x{n}) VALUES ({n} + 500, 70);
                 UPDATE u SET n = n + 1 WHERE id < 10"
            ))
            .await;
    }
    world.sql("ALTER TABLE u DROP COLUMN x1; ALTER TABLE u RENAME COLUMN x2 TO x1; UPDATE u SET x1 = 71 WHERE id = 1").await;
    world.run();
    world.comes_to(&["t", "u"]).await;
    world.pipeline.do_it(&["rebuild", super::world::SINK]);
    world.follows(&["t", "u"]).await;
    world.stop();
}

pub async fn rows_that_the_leader_rewrites_unseen_are_copied_anew<S: Store>() {
    let mut world = World::<S>::new(TABLE).await;
    world.configure_source("event_trigger = true\n");
    world.run();
    world.caught_up().await;
    // No shape shows any of them.
    for (n, ddl) in (0..).zip([
        "ALTER TABLE t ALTER COLUMN a TYPE text USING upper(a)",
        "ALTER TABLE t ALTER COLUMN n TYPE bigint USING n + 7",
        "ALTER TABLE t ALTER COLUMN a TYPE text USING a || '!'",
        "ALTER TABLE t ADD COLUMN r float8 DEFAULT random(); ALTER TABLE t ALTER COLUMN r DROP DEFAULT",
    ]) {
        world.sql(ddl).await;
        if n == 1 {
            // What was said stands in the log when the table's next row comes, to whatever process.
            world.caught_up().await;
            world.restart();
        }
        world.sql("UPDATE t SET b = 'x' WHERE id = 5").await;
        world.comes_to(&["t"]).await;
    }
    world.stop();
}

pub async fn rows_rewritten_while_a_copy_is_loaded_are_copied_anew<S: Store>() {
    for (step, point) in ["BeforeEffect:1", "RowsLoaded:1"].into_iter().enumerate() {
        let mut world = World::<S>::new(TABLE).await;
        world.configure_source("event_trigger = true\n");
        world.pipeline.run_until(point).dies().await;
        let rewrites = [
            "ALTER TABLE t ALTER COLUMN a TYPE text USING upper(a)",
            "ALTER TABLE t ALTER COLUMN n TYPE text USING 'n' || n; ALTER TABLE t ADD COLUMN r float8 DEFAULT random()",
        ];
        world.sql(rewrites[step]).await;
        world.sql("UPDATE t SET b = 'x' WHERE id = 5").await;
        world.run();
        world.comes_to(&["t"]).await;
        world.stop();
    }
}

pub async fn tables_follow_the_leader<S: Store>() {
    let mut world =
        World::<S>::begin(&format!("{TABLE}; CREATE TABLE other (id int PRIMARY KEY)")).await;
    world
        .sql("CREATE TABLE added (id int PRIMARY KEY, v text); INSERT INTO added SELECT i, 'v' FROM generate_series(1, 50) i")
        .await;
    world.pipeline.do_it(&["reload"]);
    world.comes_to(&["t", "added"]).await;

    world
        .sql("ALTER TABLE t RENAME TO renamed; UPDATE renamed SET n = -1 WHERE id < 5")
        .await;
    world.pipeline.do_it(&["reload"]);
    world.comes_to(&["renamed"]).await;
    world.sql("INSERT INTO renamed (id) VALUES (200)").await;
    world.follows(&["renamed", "added"]).await;

    // Another table takes the name.
    world
        .sql("CREATE TABLE t (id text PRIMARY KEY, x int); INSERT INTO t VALUES ('new', 1)")
        .await;
    world.pipeline.do_it(&["reload"]);
    world.comes_to(&["t", "renamed"]).await;

    world.sql("CREATE SCHEMA moved; ALTER TABLE added SET SCHEMA moved; DELETE FROM moved.added WHERE id > 40").await;
    world.pipeline.do_it(&["reload"]);
    world.comes_to(&["moved/added", "t"]).await;

    world.sql("DROP TABLE other").await;
    world.pipeline.do_it(&["reload"]);
    world.has_no("other").await;
    world.sql("INSERT INTO renamed (id) VALUES (201)").await;
    world.follows(&["renamed", "moved/added", "t"]).await;
    world.stop();
}

pub async fn another_key_is_followed<S: Store>() {
    let mut world = World::<S>::begin(
        "CREATE TABLE keyed (id int PRIMARY KEY, tenant int NOT NULL, v text);
         INSERT INTO keyed SELECT i, i % 3, 'v' || i FROM generate_series(1, 20) i",
    )
    .await;
    for (key, write) in [
        (
            "tenant, id",
            "INSERT INTO keyed VALUES (1, 7, 'other'); DELETE FROM keyed WHERE id = 2;
             UPDATE keyed SET tenant = 8 WHERE id = 3",
        ),
        (
            "id",
            "INSERT INTO keyed VALUES (2, 7, 'again'); DELETE FROM keyed WHERE id = 5;
             UPDATE keyed SET tenant = 8 WHERE id = 4",
        ),
    ] {
        world
            .transaction(&format!(
                "DELETE FROM keyed WHERE id = 1 AND tenant = 7;
                 ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY ({key})"
            ))
            .await;
        world.sql(write).await;
        world.comes_to(&["keyed"]).await;
    }
    // As a backlog, read by a follower that begins.
    world.stop();
    world
        .sql("UPDATE keyed SET v = 'old key'; DELETE FROM keyed WHERE id = 6")
        .await;
    world
        .sql("ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY (tenant, id)")
        .await;
    world
        .sql("UPDATE keyed SET v = 'new key' WHERE id < 9; DELETE FROM keyed WHERE id = 7")
        .await;
    world.run();
    world.comes_to(&["keyed"]).await;
    world.stop();
}
