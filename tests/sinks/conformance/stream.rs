//! What is printed, taken one line after the other, makes the leader's rows.

use super::changes::{Dice, RANDOM, ROWS, SCHEMA, STEPS, TABLES, random};
use super::types::{steps, zoo};
use super::world::{SINK, World};
use crate::store::Store;
use crate::support::until;

/// Tables without rows: what only shows changes has no copies.
async fn begin<S: Store>(tables: &str) -> World<S> {
    let mut world = World::<S>::new(tables).await;
    world.run();
    world.walferry().says("streaming").await;
    world
}

pub async fn lines_taken_one_after_the_other_make_the_leaders_rows<S: Store>() {
    let mut world = begin::<S>(&format!(
        "{SCHEMA} {}",
        RANDOM.rsplit_once("INSERT").expect("it has rows").0
    ))
    .await;
    world.sql(ROWS).await;
    for step in STEPS {
        world.transaction(step).await;
        world
            .sql("BEGIN; INSERT INTO items VALUES (77777, 0, 'rolled back'); ROLLBACK")
            .await;
    }
    until("items and pairs", || async {
        for table in TABLES {
            world.same(table, &[]).await?;
        }
        Ok(())
    })
    .await;
    let mut dice = Dice::new(4);
    for _ in 0..100 {
        world.sql(&random(&mut dice)).await;
    }
    for table in ["r", "q"] {
        until(table, || world.same(table, &[])).await;
    }
    assert!(
        !world.walferry().output().contains("rolled back"),
        "{SINK} shows what was rolled back"
    );
    world.stop();
}

pub async fn every_type_is_shown_exactly<S: Store>() {
    let (table, fill) = zoo::<S>();
    let mut world = begin::<S>(&table).await;
    world.sql(&fill).await;
    for step in steps() {
        world.sql(&step).await;
    }
    until("zoo", || world.same("zoo", &[])).await;
    world.stop();
}
