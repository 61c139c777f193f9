//! ClickHouse's second mode: every change is a row.

use super::world::World;
use crate::store::Store;

const HISTORY: &str = "mode = \"history\"\n";

pub async fn every_change_is_a_row<S: Store>() {
    let mut world = World::<S>::with(
        "CREATE TABLE h (id int PRIMARY KEY, n int, body text);
         ALTER TABLE h ALTER COLUMN body SET STORAGE EXTERNAL;
         INSERT INTO h VALUES (1, 0, repeat('b', 9000)), (2, 0, NULL)",
        HISTORY,
    )
    .await;
    world.run();
    world.caught_up().await;
    let before: i64 = now(&world).await;
    world.transaction("INSERT INTO h VALUES (3, 1, 'x'); UPDATE h SET n = 2 WHERE id = 3; UPDATE h SET n = 3 WHERE id = 3").await;
    world.sql("UPDATE h SET n = 4 WHERE id = 1").await;
    world.sql("UPDATE h SET id = 4 WHERE id = 2").await;
    world.sql("DELETE FROM h WHERE id = 3").await;
    world.sql("TRUNCATE h").await;
    world.sql("INSERT INTO h VALUES (1, 9, 'again')").await;
    world.caught_up().await;
    let after: i64 = now(&world).await;
    let place = world.store.place("public", "h");
    // Each as a number: what happened, key, n, whether body is told, whether the time lies between.
    let changes = [
        ("r", 1, 0, false),
        ("r", 2, 0, false),
        ("c", 3, 1, false),
        ("u", 3, 2, false),
        ("u", 3, 3, false),
        ("u", 1, 4, true),
        ("d", 2, -1, true),
        ("c", 4, 0, false),
        ("d", 3, -1, true),
        ("t", 0, -1, false),
        ("c", 1, 9, false),
    ];
    for (n, (op, id, value, absent)) in changes.into_iter().enumerate() {
        let query = format!(
            "SELECT _op = '{op}', toInt64(id), toInt64(ifNull(n, -1)), has(_absent, 'body'),
                    ifNull(toUnixTimestamp64Milli(_commit_time) BETWEEN {before} AND {after}, 2)
             FROM (SELECT * FROM {place} ORDER BY _version LIMIT 1 OFFSET {n})"
        );
        let row = world.store.numbers(&query).await;
        let timed = if op == "r" { 2 } else { 1 };
        assert_eq!(
            row,
            Ok(vec![1, id, value, i64::from(absent), timed]),
            "change {n}, {op}"
        );
    }
    let count = format!("SELECT count() FROM {place}");
    assert_eq!(world.store.numbers(&count).await, Ok(vec![11]));
    // The same changes again are the same rows.
    world.stop();
    let dying = world.pipeline.run_until("BeforeCommit:1");
    world
        .sql("INSERT INTO h VALUES (5, 1, 'once'), (6, 1, 'once')")
        .await;
    dying.dies().await;
    world.run();
    world.caught_up().await;
    assert_eq!(world.store.numbers(&count).await, Ok(vec![13]));
    // Every row of the leader is among them with its values.
    let newest = format!(
        "SELECT count() FROM {place} WHERE id IN (1, 5, 6) AND _op = 'c' AND body IN ('again', 'once')"
    );
    assert_eq!(world.store.numbers(&newest).await, Ok(vec![3]));
    world.stop();
}

/// The leader's clock in milliseconds.
async fn now<S>(world: &World<S>) -> i64 {
    let query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    world.from.query_one(query, &[]).await.unwrap().get(0)
}

pub async fn a_table_without_a_key_is_kept_here_and_refused_there<S: Store>() {
    let mut world = World::<S>::new("CREATE TABLE k (a int, b text); ALTER TABLE k REPLICA IDENTITY FULL; INSERT INTO k VALUES (1, 'one')").await;
    world.run();
    let error = world.halted().await;
    let (what, remedy) = (
        error["what"].as_str().unwrap_or_default(),
        error["remedy"].as_str().unwrap_or_default(),
    );
    assert!(
        what.contains("public.k") && what.contains("no key"),
        "{error}"
    );
    assert!(
        remedy.contains("mode = \"history\"") && remedy.contains("exclude"),
        "{error}"
    );
    world.stop_halted();

    let other = world.store.elsewhere("kept").await;
    world
        .pipeline
        .write("connectors/s.toml", &format!("{other}{HISTORY}"));
    world.run();
    world.caught_up().await;
    world
        .sql("INSERT INTO k VALUES (1, 'one'); UPDATE k SET b = 'two'")
        .await;
    world.sql("DELETE FROM k").await;
    world.caught_up().await;
    let ops = "SELECT toInt64(countIf(_op = 'r')), toInt64(countIf(_op = 'c')), toInt64(countIf(_op = 'u')), toInt64(countIf(_op = 'd'))
               FROM kept.k";
    assert_eq!(world.store.numbers(ops).await, Ok(vec![1, 1, 2, 2]));
    world.stop();
}
