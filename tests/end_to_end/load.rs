//! Writes without a pause, while tables become others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::{Postgres, until};

/// Runs the one of these statements that fits, and counts; `passing`: SQLSTATEs of one that does not fit now.
pub async fn load(
    leader: &Postgres,
    statements: &[impl AsRef<str>],
    passing: &[&str],
    stop: &AtomicBool,
    written: &AtomicU64,
) {
    let client = leader.client().await;
    let mut with = 0;
    while !stop.load(Ordering::Relaxed) {
        let done = client.batch_execute(statements[with].as_ref()).await;
        match done {
            Ok(()) => _ = written.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                let code = error.code().expect("the server answers").code().to_owned();
                assert!(passing.contains(&code.as_str()), "{error:?}");
                with = (with + 1) % statements.len();
            }
        }
    }
}

/// Waits for some more writes, so that each shape has rows of its own.
pub async fn more(written: &AtomicU64) {
    let before = written.load(Ordering::Relaxed);
    until("more is written", || async {
        match written.load(Ordering::Relaxed) > before + 10 {
            true => Ok(()),
            false => Err(before.to_string()),
        }
    })
    .await;
}
