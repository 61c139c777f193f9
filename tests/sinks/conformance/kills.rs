//! walferry or the store's server are killed: nothing is lost, doubled or torn.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use super::changes::{Dice, RANDOM, random};
use super::world::{SINK, World};
use crate::store::Store;
use crate::support::DEADLINE;
use crate::support::http::comes_into;

/// SIGABRT: how a process ends that kills itself.
const ABORTED: i32 = 6;

const TABLES: &[&str] = &["r", "q", "accounts", "ledger"];

fn schema() -> String {
    format!(
        "{RANDOM}; CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL DEFAULT 1000);
         CREATE TABLE ledger (id bigserial PRIMARY KEY, source int, target int);
         INSERT INTO accounts SELECT generate_series(1, 20)"
    )
}

/// The load: random changes, a transfer, and now and then more than a batch.
async fn write<S: Store>(world: &World<S>, dice: &mut Dice, n: u64) {
    let (a, b) = (dice.below(20) + 1, dice.below(20) + 1);
    world
        .transaction(&format!(
            "UPDATE accounts SET balance = balance - 3 WHERE id = {a}; UPDATE accounts SET balance = balance + 3 WHERE id = {b};
             INSERT INTO ledger (source, target) VALUES ({a}, {b})"
        ))
        .await;
    world.sql(&random(dice)).await;
    if n % 10 == 5 && n < 150 {
        world
            .transaction(
                "INSERT INTO ledger (source, target) SELECT 0, i FROM generate_series(1, 1500) i;
                 UPDATE r SET n = n + 1; UPDATE accounts SET balance = balance WHERE id < 5;
                 INSERT INTO ledger (source, target) SELECT 0, i FROM generate_series(1, 200) i",
            )
            .await;
    }
}

/// Many batches, and chunks of one transaction.
const SMALL: &str = "batch_max_bytes = \"64KiB\"\n";

pub async fn a_process_killed_at_any_step_leaves_equal_tables<S: Store>() {
    let mut world = World::<S>::with(&schema(), SMALL).await;
    let mut dice = Dice::new(1);
    for (point, times) in S::POINTS {
        let case = format!("{point:?}:{times}");
        let mut dying = world.pipeline.run_until(&case);
        let end = Instant::now() + DEADLINE;
        let mut n = 0;
        let status = loop {
            if let Some(status) = dying.ended() {
                break status;
            }
            assert!(
                Instant::now() < end,
                "{case} is never passed: {}",
                dying.output()
            );
            write(&world, &mut dice, n).await;
            n += 1;
            if n > 150 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert_eq!(
            status.signal(),
            Some(ABORTED),
            "{case}: {status}: {}",
            dying.output()
        );
        // In every other case what comes next is another kill.
        if times % 2 == 0 {
            world.run();
            world.caught_up().await;
            for table in TABLES {
                if let Err(difference) = world.same(table, &[]).await {
                    panic!("after {case}: {difference}");
                }
            }
            world.stop();
        }
    }
    world.run();
    world.follows(TABLES).await;
    // Of a copy, with rows there.
    world.pipeline.do_it(&["resync", SINK, "ledger"]);
    world.follows(TABLES).await;
    world.stop();
}

/// Sessions of one process, one after the other, each with the same few steps.
pub async fn a_server_that_is_away_now_and_then_leaves_equal_tables<S: Store>() {
    let mut world = World::<S>::begin("CREATE TABLE steps (id bigserial PRIMARY KEY, n int)").await;
    let step = |n| format!("INSERT INTO steps (n) VALUES ({n})");
    for n in 0..3 {
        for _ in 0..8 {
            world.sql(&step(n)).await;
            world.caught_up().await;
        }
        world.store.stop();
        world.sql(&step(n)).await;
        comes_into(&world.pipeline, SINK, "retrying").await;
        world.store.start_again();
        world.caught_up().await;
        world.equal(&["steps"]).await;
    }
    world.stop();
}

pub async fn a_server_killed_under_load_leaves_equal_tables<S: Store>() {
    let mut world = World::<S>::with(&schema(), SMALL).await;
    world.run();
    world.caught_up().await;
    let mut dice = Dice::new(2);
    for kill in 0..3 {
        for n in 0..40 {
            write(&world, &mut dice, n).await;
        }
        world.store.crash_and_restart();
        if kill == 1 {
            // Both at once.
            world.walferry.take().expect("walferry runs").kill();
            world.run();
        }
    }
    world.follows(TABLES).await;
    world.stop();
}
