//! A table that somebody made on the follower.

use super::world::{SINK, World};
use crate::store::Store;

pub async fn columns_that_somebody_made_follow_the_leader<S: Store>() {
    let mut world = World::<S>::new(
        "CREATE TABLE made (id int PRIMARY KEY, was text NOT NULL, gone int, said text);
         INSERT INTO made SELECT i, 'was ' || i, i, 'said ' || i FROM generate_series(1, 20) i",
    )
    .await;
    let place = world.store.place("public", "made");
    world
        .store
        .sql(&format!(
            "CREATE TABLE {place} (id Int32, was LowCardinality(String), gone Nullable(Int64),
                said Nullable(String) COMMENT 'what they said', own String DEFAULT 'ours', _version UInt128, _deleted UInt8)
             ENGINE = ReplacingMergeTree(_version, _deleted) ORDER BY id"
        ))
        .await;
    world.run();
    world.follows(&["made"]).await;
    for (ddl, write) in [
        (
            "ALTER TABLE made RENAME COLUMN was TO now",
            "UPDATE made SET now = 'now' WHERE id = 3",
        ),
        (
            "ALTER TABLE made DROP COLUMN gone",
            "INSERT INTO made (id, now, said) VALUES (21, 'new', NULL)",
        ),
        (
            "ALTER TABLE made ADD COLUMN more int DEFAULT 5",
            "UPDATE made SET more = 6 WHERE id = 4",
        ),
    ] {
        world.sql(ddl).await;
        world.sql(write).await;
        world.comes_to(&["made"]).await;
    }
    // What is theirs is there as it was, and no copy was needed for it.
    assert!(!world.walferry().output().contains("copied anew"));
    let theirs = format!(
        "SELECT toInt64(count()), toInt64(countIf(own = 'ours')), toInt64(any(toTypeName(now)) = 'LowCardinality(String)')
         FROM {place} FINAL"
    );
    assert_eq!(world.store.numbers(&theirs).await, Ok(vec![21, 21, 1]));
    let columns =
        "SELECT toInt64(countIf(name = 'gone')), toInt64(countIf(comment = 'what they said'))
         FROM system.columns WHERE database = 'follower' AND table = 'made'";
    assert_eq!(world.store.numbers(columns).await, Ok(vec![0, 1]));
    world.stop();
}

pub async fn rows_that_a_constraint_of_the_followers_refuses_halt_with_a_remedy_that_helps<
    S: Store,
>() {
    let mut world = World::<S>::begin("CREATE TABLE held (id int PRIMARY KEY, n int)").await;
    let place = world.store.place("public", "held");
    let alter = async |world: &World<S>, how: &str| {
        let statement = format!("ALTER TABLE {place} {how}");
        world.store.sql(&statement).await;
    };
    alter(&world, "ADD CONSTRAINT few CHECK n < 1471104711").await;
    world
        .sql("INSERT INTO held VALUES (1, 1), (2, 1471104711), (3, 3)")
        .await;
    let error = world.halted().await;
    let (what, remedy) = (error["what"].as_str(), error["remedy"].as_str());
    assert!(
        what.is_some_and(|what| what.contains("table public.held")),
        "{error}"
    );
    assert!(
        remedy.is_some_and(|remedy| remedy.contains("drop the constraint")),
        "{error}"
    );
    assert!(!world.walferry().output().contains("1471104711"));
    alter(&world, "DROP CONSTRAINT few").await;
    world.stop_halted();
    world.run();
    world.follows(&["held"]).await;
    world.stop();
}

pub async fn a_follower_whose_checkpoint_somebody_removed_begins_anew<S: Store>() {
    let mut world = World::<S>::begin(
        "CREATE TABLE forms (id int PRIMARY KEY, form json NOT NULL);
         INSERT INTO forms VALUES (1, '{\"b\":1,  \"a\":2}'), (2, '[1,2]')",
    )
    .await;
    for _ in 0..5 {
        world.restart();
        world.caught_up().await;
    }
    world.pipeline.do_it(&["resync", SINK, "forms"]);
    world.comes_to(&["forms"]).await;
    world.stop();
    let statement =
        "ALTER TABLE follower.walferry_checkpoint DELETE WHERE 1 SETTINGS mutations_sync = 2";
    world.store.sql(statement).await;
    // Both are the same type there, with their texts in other forms.
    world
        .sql("ALTER TABLE forms ALTER COLUMN form TYPE jsonb")
        .await;
    world.sql("INSERT INTO forms VALUES (4, '[4]')").await;
    world.run();
    world.comes_to(&["forms"]).await;
    world.restart();
    world
        .sql("ALTER TABLE forms ALTER COLUMN form TYPE json USING '[1,  2,  3]'")
        .await;
    world.sql("INSERT INTO forms VALUES (3, '[]')").await;
    world.comes_to(&["forms"]).await;
    world.stop();
}

pub async fn a_table_with_another_sorting_key_is_not_taken<S: Store>() {
    let mut world =
        World::<S>::new("CREATE TABLE sorted (id int PRIMARY KEY, n int NOT NULL)").await;
    let place = world.store.place("public", "sorted");
    let make = format!(
        "CREATE TABLE {place} (id Int32, n Int32, _version UInt128, _deleted UInt8)
         ENGINE = ReplacingMergeTree(_version, _deleted) ORDER BY (n, id)"
    );
    world.store.sql(&make).await;
    world.run();
    let error = world.halted().await;
    let what = error["what"].as_str().unwrap_or_default();
    assert!(
        what.contains("sorting key is (id, n)") && what.contains("key is (id)"),
        "{error}"
    );
    world.store.sql(&format!("DROP TABLE {place}")).await;
    world.stop_halted();
    world.run();
    world.follows(&["sorted"]).await;
    world.stop();
}
