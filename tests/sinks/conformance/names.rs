//! Tables and columns of any name, and of many columns.

use super::world::World;
use crate::store::Store;

/// Names as they are on the leader; the longest has all the 63 bytes that Postgres allows.
const SCHEMAS: &[&str] = &["public", "Sch.ema \"ü\"", "lower"];
const NAMES: &[&str] = &[
    "a",
    "Upper Case",
    "dot.ted",
    "quo\"ted'`s\\",
    "😀😁😂😃😄😅😆😇😈😉😊😋😌😍😎abc",
    "select",
    "$1; --",
];

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub async fn any_name_is_held<S: Store>() {
    let names: Vec<&str> = NAMES
        .iter()
        .copied()
        .filter(|name| S::takes_name(name))
        .collect();
    let columns = names
        .iter()
        .filter(|name| **name != "a")
        .map(|name| format!("{} text", quoted(name)));
    let columns: Vec<String> = columns.collect();
    let mut tables = Vec::new();
    let mut made = String::new();
    for schema in SCHEMAS {
        made += &format!("CREATE SCHEMA IF NOT EXISTS {};", quoted(schema));
        for name in &names {
            tables.push(format!("{schema}/{name}"));
            made += &format!(
                "CREATE TABLE {0}.{1} (a int, \"n.a\" int[], \"m.b\" int[], {2}, PRIMARY KEY (a, {3}));
                 INSERT INTO {0}.{1} VALUES (1, '{{1,2}}', '{{3}}', {4})",
                quoted(schema),
                quoted(name),
                columns.join(", "),
                quoted(names[2]),
                names[1..].iter().map(|_| "'copied'").collect::<Vec<_>>().join(", "),
            );
            made += ";";
        }
    }
    let mut world = World::<S>::begin(&made).await;
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    world.equal(&tables).await;
    for schema in SCHEMAS {
        for name in &names {
            let table = format!("{}.{}", quoted(schema), quoted(name));
            let changed = quoted(names[4]);
            world
                .transaction(&format!(
                    "INSERT INTO {table} SELECT a + 1, \"m.b\", \"n.a\", {0} FROM {table};
                     UPDATE {table} SET {changed} = 'changed', \"n.a\" = '{{}}' WHERE a = 2; UPDATE {table} SET a = 3 WHERE a = 1",
                    names[1..].iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
                ))
                .await;
        }
    }
    world.follows(&tables).await;
    world.stop();
}

pub async fn three_hundred_columns_are_held<S: Store>() {
    let columns: Vec<String> = (0..300)
        .map(|n| format!("column_{n} {}", ["int", "text", "boolean"][n % 3]))
        .collect();
    let values: Vec<String> = (0..300)
        .map(|n| {
            [
                format!("i + {n}"),
                format!("'v' || i + {n}"),
                "i % 2 = 0".to_owned(),
            ][n % 3]
                .clone()
        })
        .collect();
    let fill = format!(
        "INSERT INTO wide SELECT i, {} FROM generate_series",
        values.join(", ")
    );
    let mut world = World::<S>::begin(&format!(
        "CREATE TABLE wide (id int PRIMARY KEY, {}); {fill}(1, 20) i",
        columns.join(", ")
    ))
    .await;
    world
        .transaction(&format!(
            "{fill}(21, 40) i; UPDATE wide SET column_1 = NULL, column_299 = true WHERE id % 2 = 0; DELETE FROM wide WHERE id = 7;
             UPDATE wide SET id = 107 WHERE id = 8"
        ))
        .await;
    world.follows(&["wide"]).await;
    world.stop();
}
