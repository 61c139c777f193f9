//! Readers of a follower whose store has transactions.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use super::changes::Dice;
use super::world::World;
use crate::store::Store;
use crate::support::DEADLINE;

const ACCOUNTS: u64 = 50;

/// What the reader is to see at least.
const STATES: u32 = 30;

/// A transaction that leaves the accounts' sum as the ledger says; some are larger than a batch.
async fn transfer<S: Store>(world: &World<S>, dice: &mut Dice, n: u64) {
    let (a, b) = (dice.below(ACCOUNTS) + 1, dice.below(ACCOUNTS) + 1);
    let more = match n % 50 {
        7 => "; INSERT INTO ledger (amount) SELECT i % 3 - 1 FROM generate_series(1, 3000) i",
        _others => "",
    };
    world
        .transaction(&format!(
            "UPDATE accounts SET balance = balance - 3 WHERE id = {a}; INSERT INTO ledger (amount) VALUES ({n}){more};
             UPDATE accounts SET balance = balance + 3 + {n} WHERE id = {b}"
        ))
        .await;
}

pub async fn a_reader_never_sees_half_a_transaction<S: Store>() {
    let mut world = World::<S>::with(
        &format!(
            "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
             CREATE TABLE ledger (id bigserial PRIMARY KEY, amount bigint NOT NULL);
             INSERT INTO accounts SELECT i, 1000 FROM generate_series(1, {ACCOUNTS}) i"
        ),
        "batch_max_bytes = \"64KiB\"\n",
    )
    .await;
    world.run();
    world.caught_up().await;
    let (accounts, ledger) = (
        world.store.place("public", "accounts"),
        world.store.place("public", "ledger"),
    );
    let query = format!(
        "SELECT CAST((SELECT coalesce(sum(balance), 0) FROM {accounts}) AS {0}),
                CAST((SELECT coalesce(sum(amount), 0) FROM {ledger}) AS {0}), (SELECT count(*) FROM {ledger})",
        S::INTEGER
    );
    let (stop, changed) = (AtomicBool::new(false), AtomicU32::new(0));
    let total = i64::try_from(ACCOUNTS * 1000).expect("a small number");
    let read = async {
        let mut shown = 0;
        while !stop.load(Ordering::Relaxed) {
            let numbers = world.store.numbers(&query).await;
            let numbers = numbers.expect("the follower is read");
            assert_eq!(
                numbers[0],
                total + numbers[1],
                "half a transaction is shown: {numbers:?}"
            );
            assert!(
                numbers[2] >= shown,
                "a step back from {shown} to {numbers:?}"
            );
            changed.fetch_add(u32::from(numbers[2] > shown), Ordering::Relaxed);
            shown = numbers[2];
        }
    };
    let load = async {
        let mut dice = Dice::new(3);
        let end = Instant::now() + DEADLINE;
        let mut n: u64 = 0;
        // Until the reader has met enough of what is written.
        while n < 200 || changed.load(Ordering::Relaxed) < STATES {
            assert!(
                Instant::now() < end,
                "the reader saw {changed:?} states only"
            );
            transfer(&world, &mut dice, n).await;
            n += 1;
        }
        world.caught_up().await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(read, load);
    world.equal(&["accounts", "ledger"]).await;
    world.stop();
}
