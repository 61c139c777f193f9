//! Several followers: one sick follower never slows the others.

use crate::support::content::published;
use crate::support::{Pipeline, Postgres, assert_equal, until, wait_caught_up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_follower_leaves_the_other_alone_and_catches_up() {
    let leader = Postgres::start("leader");
    let (a, mut b) = (Postgres::start("a"), Postgres::start("b"));
    leader
        .sql("CREATE TABLE t (id serial PRIMARY KEY, v int)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&a, &b]);
    let (from, to) = (leader.client().await, a.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    wait_caught_up(&from, &b.client().await, "b").await;
    b.stop();
    for _ in 0..20 {
        from.batch_execute("INSERT INTO t (v) SELECT generate_series(1, 100); UPDATE t SET v = v + 1 WHERE id % 10 = 0").await.unwrap();
    }
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["t"]).await;
    until("status says that b is retrying", || async {
        let text = walferry_status(&pipeline);
        if text.contains("retrying") {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    b.start_again();
    wait_caught_up(&from, &b.client().await, "b").await;
    assert_equal(&from, &b.client().await, &["t"]).await;
    assert_eq!(walferry.terminate(), 0);
}

fn walferry_status(pipeline: &Pipeline) -> String {
    let output = pipeline.command(&["status", "--json"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_follower_leaves_the_other_alone_and_is_whole_afterwards() {
    let leader = Postgres::start("leader");
    let (a, b) = (Postgres::start("a"), Postgres::start("b"));
    leader
        .sql("CREATE TABLE t (id serial PRIMARY KEY, v int)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&a, &b]);
    let (from, to_a, to_b) = (leader.client().await, a.client().await, b.client().await);
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to_a, "a").await;
    wait_caught_up(&from, &to_b, "b").await;
    let locker = b.client().await;
    locker
        .batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    for _ in 0..50 {
        from.batch_execute("INSERT INTO t (v) VALUES (1); UPDATE t SET v = v + 1")
            .await
            .unwrap();
    }
    wait_caught_up(&from, &to_a, "a").await;
    assert_equal(&from, &to_a, &["t"]).await;
    locker.batch_execute("COMMIT").await.unwrap();
    wait_caught_up(&from, &to_b, "b").await;
    assert_equal(&from, &to_b, &["t"]).await;
}

/// All at once these take three seconds there, and a statement may take one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_slow_follower_cannot_do_at_once_is_done_in_smaller_steps() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE t (id int PRIMARY KEY, v int);
             INSERT INTO t SELECT i, 0 FROM generate_series(1, 60) i",
        )
        .await;
    let pipeline = Pipeline::with(&leader, &[&follower], "", "statement_timeout = \"1s\"");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(walferry.terminate(), 0);
    to.batch_execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END';
         CREATE TRIGGER slow BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION slow();
         ALTER TABLE t ENABLE ALWAYS TRIGGER slow",
    )
    .await
    .unwrap();
    let one_by_one = "DO $$ BEGIN FOR i IN 1..60 LOOP UPDATE t SET v = v + 1 WHERE id = i; COMMIT; END LOOP; END $$";
    for changes in [one_by_one, "UPDATE t SET v = v + 1"] {
        let source = pipeline.run_only(&["leader"]);
        from.batch_execute(changes).await.unwrap();
        published(&from).await;
        assert_eq!(source.terminate(), 0);
        let walferry = pipeline.run();
        wait_caught_up(&from, &to, "a").await;
        assert_equal(&from, &to, &["t"]).await;
        let output = walferry.output();
        assert!(output.contains("statement timeout"), "{output}");
        assert_eq!(walferry.terminate(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diverged_follower_halts_alone_and_names_the_table() {
    let leader = Postgres::start("leader");
    let (a, b) = (Postgres::start("a"), Postgres::start("b"));
    leader
        .sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&a, &b]);
    let (from, to_a, to_b) = (leader.client().await, a.client().await, b.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to_a, "a").await;
    wait_caught_up(&from, &to_b, "b").await;
    b.sql("DELETE FROM t WHERE id = 2").await;
    from.batch_execute(
        "BEGIN; UPDATE t SET v = 10 WHERE id = 1; UPDATE t SET v = 20 WHERE id = 2; COMMIT",
    )
    .await
    .unwrap();
    wait_caught_up(&from, &to_a, "a").await;
    assert_equal(&from, &to_a, &["t"]).await;
    until("b halts", || async {
        let text = walferry_status(&pipeline);
        if text.contains("halted") && text.contains("public.t") {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    // Nothing of the transaction is there.
    assert_eq!(crate::support::content::rows(&to_b, "t").await, ["(1,1)"]);
    assert_eq!(
        walferry.terminate(),
        3,
        "a halted part is said in the exit code"
    );
    // The row is put back: it goes on.
    b.sql("INSERT INTO t VALUES (2, 2)").await;
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to_b, "b").await;
    assert_equal(&from, &to_b, &["t"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_of_one_sink_are_fenced_and_two_sources_take_turns() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE ledger (id serial PRIMARY KEY, v int)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let first = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let second = Pipeline {
        http_port: 0,
        name: pipeline.name.clone(),
        dir: pipeline.dir.clone(),
    };
    second.write(
        "config/walferry.toml",
        &std::fs::read_to_string(pipeline.dir.join("config/walferry.toml"))
            .unwrap()
            .replace(&pipeline.http_port.to_string(), "0"),
    );
    let rival = second.run();
    for _ in 0..50 {
        from.batch_execute("INSERT INTO ledger (v) SELECT generate_series(1, 20)")
            .await
            .unwrap();
    }
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["ledger"]).await;
    first.kill();
    from.batch_execute("INSERT INTO ledger (v) SELECT generate_series(1, 20)")
        .await
        .unwrap();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["ledger"]).await;
    assert_eq!(rival.terminate(), 0);
}
