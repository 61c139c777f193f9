//! Values that a store cannot hold: told once and clearly, and held after what the message says.

use super::world::World;
use crate::store::Store;
use crate::support::http::part;

/// Another sink of the same store, which leaves the tables with such values out.
const OTHER: &str = "other";

pub async fn what_cannot_be_held_halts_with_a_remedy_that_helps<S: Store>() {
    let tables: Vec<String> = S::UNHELD
        .iter()
        .enumerate()
        .map(|(n, unheld)| {
            format!(
                "CREATE TABLE u{n} (id int PRIMARY KEY, v {}); INSERT INTO u{n} VALUES (1, NULL);",
                unheld.of
            )
        })
        .collect();
    let mut world = World::<S>::new(&format!(
        "{} CREATE TABLE fine (id int PRIMARY KEY, note text)",
        tables.concat()
    ))
    .await;
    let elsewhere = world.store.elsewhere("elsewhere").await;
    let other = format!("{elsewhere}[tables]\nexclude = [\"public.u*\"]\n");
    world
        .pipeline
        .write(&format!("connectors/{OTHER}.toml"), &other);
    world.run();
    world.caught_up().await;

    let mut columns = "[columns]\n".to_owned();
    for (n, unheld) in S::UNHELD.iter().enumerate() {
        let (table, name) = (format!("public.u{n}"), format!("u{n}"));
        world
            .sql(&format!(
                "INSERT INTO fine VALUES ({n}, 'beside'); INSERT INTO u{n} VALUES (2, ({})::{})",
                unheld.value, unheld.of
            ))
            .await;
        let error = world.halted().await;
        let (what, remedy) = (error["what"].as_str(), error["remedy"].as_str());
        let (what, remedy) = (what.unwrap_or_default(), remedy.unwrap_or_default());
        assert!(
            what.contains(&table) && what.contains("column v"),
            "{error}"
        );
        assert!(
            remedy.contains("[columns]") && remedy.contains(&format!("{table}.v")),
            "{error}"
        );
        // Whoever has no such table goes on.
        world.has_caught_up(OTHER).await;
        let sink = part(&world.pipeline, OTHER).await.expect("it runs");
        assert_eq!(sink["state"], "streaming", "{sink}");
        let said = world.walferry().output();
        assert!(
            !said.contains(unheld.secret),
            "{} is in the log: {said}",
            unheld.secret
        );
        assert_eq!(
            said.matches(what).count(),
            1,
            "{what}: told more than once: {said}"
        );

        columns += &format!("\"{table}.v\" = \"{}\"\n", unheld.instead);
        world.configure(&columns);
        world.stop_halted();
        world.run();
        world.caught_up().await;
        if let Err(difference) = world.same(&name, &["v"]).await {
            panic!("{difference}");
        }
        world
            .sql(&format!(
                "UPDATE {name} SET id = 3 WHERE id = 2; INSERT INTO {name} SELECT 2, v FROM {name} WHERE id = 3"
            ))
            .await;
        world.caught_up().await;
        if let Err(difference) = world.same(&name, &["v"]).await {
            panic!("{difference}");
        }
    }
    world.equal(&["fine"]).await;
    world.stop();
}
