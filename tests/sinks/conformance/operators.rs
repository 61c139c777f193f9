//! What operators do: a second worker by mistake, a rebuild, a table copied anew, a follower with tables of others.

use super::changes::{ROWS, SCHEMA, STEPS, TABLES};
use super::world::{SINK, World};
use crate::store::Store;

pub async fn a_second_worker_is_fenced_and_the_tables_are_equal<S: Store>() {
    let mut world = World::<S>::begin(&format!("{SCHEMA} {ROWS}")).await;
    let rival = world.pipeline.twin().run_only(&[SINK]);
    for step in STEPS {
        world.transaction(step).await;
    }
    // One of them, whichever it is, gives up and says so.
    crate::support::until("one worker is fenced", || async {
        let said = [world.walferry().output(), rival.output()];
        match said.iter().any(|said| said.contains("another worker")) {
            true => Ok(()),
            false => Err(said.concat()),
        }
    })
    .await;
    world.walferry.take().expect("walferry runs").kill();
    drop(rival);
    world
        .sql("INSERT INTO items VALUES (5000, 1, 'behind')")
        .await;
    world.run();
    world.follows(TABLES).await;
    world.stop();
}

pub async fn a_follower_is_rebuilt_and_a_table_copied_anew<S: Store>() {
    let mut world = World::<S>::begin(&format!("{SCHEMA} {ROWS}")).await;
    for step in &STEPS[..9] {
        world.transaction(step).await;
    }
    world.follows(TABLES).await;
    let empty = |table: &str| format!("TRUNCATE TABLE {}", world.store.place("public", table));
    for (broken, command) in [
        (vec!["items"], vec!["resync", SINK, "items"]),
        (
            vec!["pairs"],
            vec!["resync", SINK, "public.pairs", "--fresh"],
        ),
        (vec!["pairs"], vec!["rebuild", SINK, "--tables", "pairs"]),
        (vec!["items", "pairs"], vec!["rebuild", SINK]),
    ] {
        for table in &broken {
            world.store.sql(&empty(table)).await;
            world.differs(table).await;
        }
        world.sql("UPDATE items SET n = n + 1 WHERE id = 50; INSERT INTO pairs SELECT 77, 'r' || count(*) FROM pairs").await;
        world.pipeline.do_it(&command);
        world.follows(TABLES).await;
    }
    for step in &STEPS[9..] {
        world.transaction(step).await;
    }
    world.follows(TABLES).await;
    world.stop();
}

pub async fn a_follower_rebuilt_to_before_a_rewrite_and_resumed_is_equal<S: Store>() {
    let mut world = World::<S>::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL, n int);
         INSERT INTO t SELECT i, 'a' || i, i FROM generate_series(1, 20) i",
    )
    .await;
    world.configure_source("event_trigger = true\n");
    world.run();
    world.caught_up().await;
    let before = crate::support::content::mark(&world.from).await;
    world
        .sql("ALTER TABLE t ALTER COLUMN a TYPE text USING upper(a)")
        .await;
    world.sql("UPDATE t SET n = n + 1 WHERE id = 5").await;
    world.comes_to(&["t"]).await;

    world
        .pipeline
        .do_it(&["rebuild", SINK, "--to-lsn", &before]);
    let count = |value: &str| {
        let place = world.store.place("public", "t");
        format!("SELECT count(*) FROM {place} WHERE a = '{value}'")
    };
    let (lower, upper) = (count("a5"), count("A5"));
    assert_eq!(world.store.numbers(&lower).await, Ok(vec![1]));
    assert_eq!(world.store.numbers(&upper).await, Ok(vec![0]));
    world.pipeline.do_it(&["sink", "resume", SINK]);
    world.comes_to(&["t"]).await;
    world.stop();
}

pub async fn rows_of_somebody_else_are_not_touched<S: Store>() {
    let mut world = World::<S>::new(
        "CREATE TABLE strange (id int PRIMARY KEY, note text); INSERT INTO strange VALUES (7, 'ours');
         CREATE TABLE fine (id int PRIMARY KEY); INSERT INTO fine VALUES (1)",
    )
    .await;
    for statement in world.store.strangers() {
        world.store.sql(&statement).await;
    }
    world.run();
    let error = world.halted().await;
    let what = error["what"].as_str().unwrap_or_default();
    assert!(
        what.contains("strange") && what.contains("rows that walferry"),
        "{error}"
    );
    assert!(error["remedy"].is_string(), "{error}");
    let count = format!(
        "SELECT count(*) FROM {} WHERE id = 1",
        world.store.place("public", "strange")
    );
    assert_eq!(world.store.numbers(&count).await, Ok(vec![1]));
    // Without that table it goes on.
    world.configure("[tables]\nexclude = [\"public.strange\"]\n");
    world.stop_halted();
    world.run();
    world.follows(&["fine"]).await;
    assert_eq!(world.store.numbers(&count).await, Ok(vec![1]));
    world.stop();
}

pub async fn a_name_that_is_free_again_may_be_somebody_elses<S: Store>() {
    for gone in ["DROP TABLE strange", "ALTER TABLE strange RENAME TO other"] {
        let table = "CREATE TABLE strange (id int PRIMARY KEY, note text); INSERT INTO strange VALUES (7, 'ours')";
        let mut world = World::<S>::begin(table).await;
        let place = world.store.place("public", "strange");
        let theirs = format!("SELECT count(*) FROM {place} WHERE id = 1");
        world.sql(gone).await;
        world.pipeline.do_it(&["reload"]);
        world.has_no("strange").await;
        world.caught_up().await;
        for statement in world.store.strangers() {
            world.store.sql(&statement).await;
        }
        world.sql(table).await;
        world.pipeline.do_it(&["reload"]);
        let error = world.halted().await;
        let what = error["what"].as_str().unwrap_or_default();
        assert!(
            what.contains("strange") && what.contains("rows that walferry"),
            "{gone}: {error}"
        );
        assert_eq!(world.store.numbers(&theirs).await, Ok(vec![1]), "{gone}");
        world.stop_halted();
    }
}
