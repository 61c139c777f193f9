//! Every part is stopped and killed at random moments under load; at the end everything is equal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::{Pipeline, Postgres, Walferry, assert_equal, until, wait_caught_up};

const TABLES: &[&str] = &["accounts", "ledger", "documents"];

async fn leader() -> Postgres {
    // fsync stays off: what dies here is the process, not the machine.
    let leader = Postgres::start("leader");
    leader
        .sql(
            "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
             CREATE TABLE ledger (id bigserial PRIMARY KEY, source int REFERENCES accounts, target int REFERENCES accounts, amount int);
             CREATE TABLE documents (id int PRIMARY KEY, title text UNIQUE, body text);
             INSERT INTO accounts SELECT i, 1000 FROM generate_series(1, 100) i;
             INSERT INTO documents SELECT i, 'title ' || i, repeat(md5(i::text), 300) FROM generate_series(1, 50) i;",
        )
        .await;
    leader
}

/// Transfers between accounts and other changes until told to stop; lives through the leader's restarts.
async fn load(leader: &Postgres, seed: u64, stop: &AtomicBool) {
    let mut random = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let Ok((client, connection)) =
            tokio_postgres::connect(&leader.url("postgres"), tokio_postgres::NoTls).await
        else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        tokio::spawn(connection);
        while !stop.load(Ordering::Relaxed) {
            let (a, b, amount) = (
                random.random_range(1..=100),
                random.random_range(1..=100),
                random.random_range(1..50),
            );
            let (d, n) = (
                random.random_range(1..=50),
                random.random_range(0..1_000_000),
            );
            let transaction = format!(
                "BEGIN; UPDATE accounts SET balance = balance - {amount} WHERE id = {a};
                 UPDATE accounts SET balance = balance + {amount} WHERE id = {b};
                 INSERT INTO ledger (source, target, amount) VALUES ({a}, {b}, {amount});
                 UPDATE documents SET title = 'title {d} {n}' WHERE id = {d};
                 SAVEPOINT s; DELETE FROM ledger; ROLLBACK TO s;
                 UPDATE documents SET id = id + 1000 WHERE id = {d}; UPDATE documents SET id = id - 1000 WHERE id = {d} + 1000; COMMIT"
            );
            if client.batch_execute(&transaction).await.is_err() {
                break;
            }
        }
    }
}

/// Constant-sum reader of the follower; lives through its restarts.
async fn watch(follower: &Postgres, stop: &AtomicBool) -> u32 {
    let mut looks = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok((client, connection)) =
            tokio_postgres::connect(&follower.url("postgres"), tokio_postgres::NoTls).await
        else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        tokio::spawn(connection);
        let query = "SELECT sum(balance)::bigint, count(*), (SELECT count(*) FROM documents WHERE id < 1000) FROM accounts";
        while let Ok(row) = client.query_one(query, &[]).await {
            let sum: Option<i64> = row.get(0);
            assert_eq!(
                (sum, row.get::<_, i64>(2)),
                (Some(100_000), 50),
                "the follower shows a torn transaction"
            );
            looks += 1;
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    looks
}

async fn pause(random: &mut SmallRng) {
    // How long the next fault waits is part of the seeded schedule; nothing is waited for here.
    tokio::time::sleep(Duration::from_millis(random.random_range(50..1200))).await;
}

async fn wait_streaming(follower: &Postgres) {
    until("the follower is past its first copy", || async {
        let row = follower
            .client()
            .await
            .query_opt(
                "SELECT jsonb_array_length(state -> 'in_effect') = 3 FROM walferry.checkpoint",
                &[],
            )
            .await
            .map_err(|e| format!("{e:?}"))?;
        match row {
            Some(row) if row.get::<_, Option<bool>>(0) == Some(true) => Ok(()),
            _ => Err("not yet".to_owned()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_die_at_random_moments_and_nothing_is_lost_doubled_or_torn() {
    let seed = std::env::var("WALFERRY_TEST_SEED").map_or(1, |s| s.parse().expect("a number"));
    println!("WALFERRY_TEST_SEED={seed}");
    let (mut leader, mut follower) = (leader().await, Postgres::start("follower"));
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let mut source = Some(pipeline.run_only(&["leader"]));
    let mut sink = Some(second_http(&pipeline).run_only(&["a"]));
    wait_streaming(&follower).await;

    let mut random = SmallRng::seed_from_u64(seed);
    let mut ports = (leader.port, follower.port);
    for round in 0..8 {
        let stop = AtomicBool::new(false);
        let fault = random.random_range(0..6);
        println!("round {round}: fault {fault}");
        let ((), looks, ()) = tokio::join!(
            load(&leader, seed + round, &stop),
            watch(&follower, &stop),
            async {
                pause(&mut random).await;
                match fault {
                    0 => replace(&mut source, Walferry::kill, || {
                        pipeline.run_only(&["leader"])
                    }),
                    1 => replace(&mut sink, Walferry::kill, || {
                        second_http(&pipeline).run_only(&["a"])
                    }),
                    2 => replace(&mut source, terminate, || pipeline.run_only(&["leader"])),
                    3 => replace(&mut sink, terminate, || {
                        second_http(&pipeline).run_only(&["a"])
                    }),
                    4 | 5 => {} // the servers, below: they are borrowed here
                    _ => unreachable!("random_range(0..6)"),
                }
                pause(&mut random).await;
                stop.store(true, Ordering::Relaxed);
            }
        );
        assert!(looks > 0, "the reader never looked");
        match fault {
            4 => leader.crash_and_restart(),
            5 => follower.crash_and_restart(),
            _ => {}
        }
        assert_eq!(
            ports,
            (leader.port, follower.port),
            "servers keep their ports over restarts"
        );
        ports = (leader.port, follower.port);
    }
    let (from, to) = (leader.client().await, follower.client().await);
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    source.into_iter().chain(sink).for_each(terminate);
}

fn terminate(walferry: Walferry) {
    assert_eq!(walferry.terminate(), 0);
}

/// Ends a part, then starts it anew.
fn replace(
    part: &mut Option<Walferry>,
    end: impl FnOnce(Walferry),
    start: impl FnOnce() -> Walferry,
) {
    end(part
        .take()
        .expect("a part is missing only inside this function"));
    *part = Some(start());
}

/// The same pipeline with an HTTP port of its own, as on a second machine.
fn second_http(pipeline: &Pipeline) -> Pipeline {
    let dir = crate::support::directory("second");
    for sub in ["config", "connectors"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
        for file in std::fs::read_dir(pipeline.dir.join(sub)).unwrap() {
            let path = file.unwrap().path();
            std::fs::copy(&path, dir.join(sub).join(path.file_name().unwrap())).unwrap();
        }
    }
    let second = Pipeline {
        name: pipeline.name.clone(),
        dir,
        http_port: 0,
    };
    let text = std::fs::read_to_string(second.dir.join("config/walferry.toml")).unwrap();
    second.write(
        "config/walferry.toml",
        &text.replace(&format!(":{}\"", pipeline.http_port), ":0\""),
    );
    second
}
