//! A reader of the follower sees whole leader transactions at every look, and never a step back.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{self, Pipeline, Postgres, assert_equal, wait_caught_up};

/// pgbench's TPC-B-like transaction moves the same amount in accounts, tellers, branches and history.
const SUMS: &str = "SELECT (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts),
                           (SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers),
                           (SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches),
                           (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
                           (SELECT count(*) FROM pgbench_history),
                           (SELECT applied::text FROM walferry.checkpoint)";

fn pgbench(server: &Postgres, arguments: &[&str]) -> Command {
    let mut command = Command::new(support::dev());
    command
        .args([
            "pgbench",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-p",
            &server.port.to_string(),
        ])
        .args(arguments);
    command
        .arg("postgres")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Looks at the follower until told to stop; counts the looks that saw something new.
pub async fn watch(follower: &Postgres, stop: &AtomicBool) -> u32 {
    let client = follower.client().await;
    let (mut seen, mut rows, mut applied) = (0, -1, walferry::model::Lsn::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let row = client.query_one(SUMS, &[]).await.unwrap();
        let sums: Vec<i64> = (0..4).map(|i| row.get(i)).collect();
        assert!(
            sums.iter().all(|sum| *sum == sums[0]),
            "a torn transaction on the follower: {sums:?}"
        );
        let (count, boundary): (i64, String) = (row.get(4), row.get(5));
        let boundary = boundary.parse().unwrap();
        assert!(
            boundary >= applied,
            "the follower stepped back from {applied} to {boundary}"
        );
        assert!(count >= rows, "history shrank from {rows} to {count}");
        seen += u32::from(count > rows);
        (rows, applied) = (count, boundary);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbench_with_foreign_keys_is_never_seen_torn() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    assert!(
        pgbench(&leader, &["-i", "-s", "1", "--foreign-keys", "-q"])
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    leader
        .sql("ALTER TABLE pgbench_history REPLICA IDENTITY FULL")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let walferry = pipeline.run();
    let (from, to) = (leader.client().await, follower.client().await);
    wait_caught_up(&from, &to, "a").await;
    let stop = AtomicBool::new(false);
    let (seen, ()) = tokio::join!(watch(&follower, &stop), async {
        let mut load = tokio::process::Command::from({
            let mut command = pgbench(&leader, &["-c", "4", "-t", "1000", "-n"]);
            command.stderr(Stdio::null());
            command
        })
        .spawn()
        .unwrap();
        assert!(load.wait().await.unwrap().success());
        wait_caught_up(&from, &to, "a").await;
        stop.store(true, Ordering::Relaxed);
    });
    assert!(
        seen > 5,
        "the reader saw only {seen} states of the follower"
    );
    let tables = [
        "pgbench_accounts",
        "pgbench_tellers",
        "pgbench_branches",
        "pgbench_history",
    ];
    assert_equal(&from, &to, &tables).await;
    assert_eq!(walferry.terminate(), 0);
}
