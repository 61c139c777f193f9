//! Lag where the clock of walferry's host is wrong.

use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use super::witness::{Reading, Witness};
use super::{leader, pause, write_row};
use crate::support::{Pipeline, Postgres, directory, wait_caught_up};

/// By how much the clock is wrong: less than the hour from which on Kafka refuses records of the future.
const SKEWS_S: [i64; 2] = [2400, -2400];

/// The library that makes a process's clock wrong, compiled by the linker that Rust needs anyway.
fn skewed_clock() -> PathBuf {
    let library = directory("skewed-clock").join("skewed_clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/skewed_clock.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(compiler)
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .args([source, "-ldl"])
        .output()
        .expect("a C compiler can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    library
}

/// How far the process's clock is ahead of ours, from a time that it has just noted.
fn ahead_s(reading: &Reading) -> Option<f64> {
    let noted = reading.series("walferry_sink_progress_timestamp_seconds", &[])?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    Some(noted - now.as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_clock_of_the_sinks_host_does_not_change_lag() {
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let elsewhere = pipeline.twin();
    let (from, to) = (leader.client().await, follower.client().await);
    let source = pipeline.run_only(&["leader"]);
    let library = skewed_clock();
    for skew_s in SKEWS_S {
        let environment = [
            ("LD_PRELOAD", library.display().to_string()),
            ("WALFERRY_TEST_CLOCK_SKEW_S", skew_s.to_string()),
        ];
        let sink = elsewhere.run_with(&["a"], &environment);
        wait_caught_up(&from, &to, "a").await;
        let mut witness = Witness::new(&elsewhere, "a", &leader, &follower).of_a_wrong_clock();
        let idle = witness
            .until("an idle leader is a lag of zero", |now| now.is_zero())
            .await;
        let ahead_s = ahead_s(&idle).expect("it has noted when the boundary moved");
        assert!(
            (ahead_s - skew_s as f64).abs() < 600.0,
            "the clock is {ahead_s} s ahead"
        );

        let locker = pause(&follower).await;
        write_row(&from).await;
        witness
            .rises("lag of a paused follower", 3.0, |now| {
                now.seconds.filter(|seconds| *seconds > 0.0)
            })
            .await;
        witness
            .rises("staleness of a paused follower", 1.0, |now| now.staleness)
            .await;
        locker.batch_execute("ROLLBACK").await.unwrap();
        wait_caught_up(&from, &to, "a").await;
        witness
            .until("the follower has drained", |now| now.is_zero())
            .await;
        assert_eq!(sink.terminate(), 0);
    }
    assert_eq!(source.terminate(), 0);
}
