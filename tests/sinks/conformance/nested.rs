//! Arrays that would be one Nested of ClickHouse's.

use super::world::World;
use crate::store::Store;

pub async fn arrays_of_one_dotted_name_are_refused_with_a_remedy_that_helps<S: Store>() {
    let mut world = World::<S>::new(
        "CREATE TABLE t (id int PRIMARY KEY, \"n.a\" int[], \"n.b\" text[], \"n.c\" int, \"m.a\" int[]);
         INSERT INTO t VALUES (1, '{1,2}', '{one}', 3, '{}')",
    )
    .await;
    world.run();
    let error = world.halted().await;
    let what = error["what"].as_str().unwrap_or_default();
    let remedy = error["remedy"].as_str().unwrap_or_default();
    assert!(
        what.contains("public.t") && what.contains("n.a and n.b") && what.contains("Nested"),
        "{error}"
    );
    let column = "\"public.t.n.b\" = \"String\"";
    assert!(remedy.contains(&format!("[columns] {column}")), "{error}");

    world.configure(&format!("[columns]\n{column}\n"));
    world.stop_halted();
    world.run();
    world.caught_up().await;
    world.sql("INSERT INTO t VALUES (2, '{}', '{two,NULL}', NULL, NULL), (3, NULL, NULL, 0, '{7,8,9}')").await;
    world.caught_up().await;
    if let Err(difference) = world.same("t", &["n.b"]).await {
        panic!("{difference}");
    }
    world.stop();
}
