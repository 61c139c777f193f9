//! 029 rows that the follower refuses, 035 conflicts with rows that somebody else wrote there.

use crate::scenario::Scenario;

const TABLES: &str = "CREATE TABLE t (a int PRIMARY KEY, b int UNIQUE, c int UNIQUE);";

async fn running() -> Scenario {
    let mut s = Scenario::new().await;
    s.both(TABLES).await;
    s.leader("INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)").await;
    s.start();
    s.equal(&["t"]).await;
    s
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_there_already_halts_and_after_its_removal_all_goes_on() {
    let mut s = running().await;
    s.follower("INSERT INTO t VALUES (3, 30, 30)").await;
    s.leader("INSERT INTO t VALUES (3, 98765, 43210)").await;
    s.leader("INSERT INTO t VALUES (4, 4, 4)").await;
    let halt = s
        .halts(&[
            "public.t",
            "the row (a) = (3)",
            "unique violation",
            "t_pkey",
            "the change at",
        ])
        .await;
    for value in ["98765", "43210"] {
        assert!(
            !halt.contains(value),
            "a value besides the key is in: {halt}"
        );
    }
    let boundary = "SELECT count(*) FROM t WHERE a > 3";
    assert_eq!(
        Scenario::ask(&s.to, boundary).await,
        "0",
        "nothing of it, nothing later"
    );
    s.stop_halted();
    // A restart alone repeats the same error: nothing was skipped.
    s.start();
    s.halts(&["public.t", "unique violation"]).await;
    s.stop_halted();
    s.follower("DELETE FROM t WHERE a = 3").await;
    s.start();
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_the_way_under_several_unique_keys_halt_with_a_constraint_for_insert_and_update() {
    let mut s = running().await;
    s.follower("INSERT INTO t VALUES (10, 11, 12)").await;
    s.leader("INSERT INTO t VALUES (20, 11, 12)").await;
    s.halts(&["public.t", "unique violation", "constraint"])
        .await;
    s.stop_halted();
    s.follower("DELETE FROM t WHERE a = 10").await;
    s.start();
    s.equal(&["t"]).await;
    s.follower("INSERT INTO t VALUES (30, 31, 32)").await;
    s.leader("UPDATE t SET b = 31 WHERE a = 1").await;
    s.halts(&["public.t", "unique violation", "t_b_key"]).await;
    s.stop_halted();
    s.follower("DELETE FROM t WHERE a = 30").await;
    s.start();
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_or_delete_of_a_row_that_is_missing_halts_and_is_not_skipped() {
    for change in [
        "UPDATE t SET c = 9 WHERE a = 2",
        "DELETE FROM t WHERE a = 2",
    ] {
        let mut s = running().await;
        s.follower("DELETE FROM t WHERE a = 2").await;
        s.leader(change).await;
        s.leader("INSERT INTO t VALUES (5, 5, 5)").await;
        s.halts(&["public.t", "diverged", "copy the follower anew"])
            .await;
        s.stop_halted();
        s.follower("INSERT INTO t VALUES (2, 2, 2)").await;
        s.start();
        s.equal(&["t"]).await;
        s.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_somebody_else_changed_is_set_to_the_leaders_values() {
    let s = running().await;
    s.follower("UPDATE t SET c = 99 WHERE a = 2").await;
    s.leader("UPDATE t SET b = 22 WHERE a = 2").await;
    s.equal(&["t"]).await;
    s.follower("UPDATE t SET b = 77 WHERE a = 2").await;
    s.leader("DELETE FROM t WHERE a = 2").await;
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_with_one_refused_row_leaves_nothing_until_it_can_be_applied_whole() {
    let mut s = Scenario::with("", "batch_max_bytes = \"64KiB\"").await;
    s.both("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
    s.follower("ALTER TABLE t ADD CONSTRAINT small CHECK (a < 5000)")
        .await;
    s.start();
    s.caught_up().await;
    s.leader("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i")
        .await;
    s.leader("INSERT INTO t VALUES (-1, 'later')").await;
    s.halts(&["public.t", "check violation", "small"]).await;
    assert_eq!(Scenario::ask(&s.to, "SELECT count(*) FROM t").await, "0");
    s.stop_halted();
    s.follower("ALTER TABLE t DROP CONSTRAINT small").await;
    s.start();
    s.equal(&["t"]).await;
    s.end().await;
}
