//! 010 TRUNCATE.

use crate::scenario::Scenario;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncates_of_one_of_many_and_with_cascade_arrive() {
    let mut s = Scenario::new().await;
    s.leader(
        "CREATE TABLE one (a int PRIMARY KEY); CREATE TABLE parent (a int PRIMARY KEY);
         CREATE TABLE child (a int PRIMARY KEY, p int REFERENCES parent); CREATE TABLE nokey (a int);
         ALTER TABLE nokey REPLICA IDENTITY FULL;
         INSERT INTO one VALUES (1); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1); INSERT INTO nokey VALUES (1), (1)",
    )
    .await;
    let tables = ["one", "parent", "child", "nokey"];
    s.start();
    s.equal(&tables).await;
    for step in [
        "TRUNCATE one",
        "INSERT INTO one VALUES (1), (2), (3); TRUNCATE parent CASCADE",
        "INSERT INTO parent VALUES (2); INSERT INTO child VALUES (2, 2); DELETE FROM one WHERE a = 2; TRUNCATE nokey, one",
        "INSERT INTO nokey VALUES (7), (7), (8); INSERT INTO one VALUES (9)",
        "BEGIN; SAVEPOINT s; TRUNCATE parent, child; ROLLBACK TO s; INSERT INTO one VALUES (10); COMMIT",
        "BEGIN; TRUNCATE one; INSERT INTO one VALUES (11); TRUNCATE one; INSERT INTO one VALUES (12); COMMIT",
    ] {
        s.leader(step).await;
        s.equal(&tables).await;
    }
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_reaches_no_table_of_the_followers_own_and_no_sequence() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a serial PRIMARY KEY, b int); INSERT INTO t (b) VALUES (1), (2)")
        .await;
    s.follower(
        "CREATE TABLE t (a serial PRIMARY KEY, b int); CREATE TABLE own (a int PRIMARY KEY, t int REFERENCES t);
         SELECT setval('t_a_seq', 100)",
    )
    .await;
    s.start();
    s.equal(&["t"]).await;
    s.follower("INSERT INTO own VALUES (1, 1)").await;
    s.leader("TRUNCATE t RESTART IDENTITY CASCADE; INSERT INTO t (b) VALUES (3)")
        .await;
    s.equal(&["t"]).await;
    s.follower_has("own", &["(1,1)"]).await;
    let next = Scenario::ask(&s.to, "SELECT nextval('t_a_seq')").await;
    assert_eq!(next, "101", "the follower's sequence is its own");
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_by_the_follower_alone_is_a_divergence_that_is_said() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY, b int); INSERT INTO t VALUES (1, 1)")
        .await;
    s.start();
    s.equal(&["t"]).await;
    s.follower("TRUNCATE t").await;
    s.leader("UPDATE t SET b = 2").await;
    s.halts(&["public.t", "diverged"]).await;
    s.end_halted().await;
}
