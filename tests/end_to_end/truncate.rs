//! TRUNCATE of one and of many tables, in the middle of transactions.

use crate::support::{Pipeline, Postgres, assert_equal, wait_caught_up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncates_stand_in_order_with_the_rows_around_them() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE parent (id serial PRIMARY KEY, v text);
             CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
             CREATE TABLE other (id int PRIMARY KEY);
             INSERT INTO parent (v) SELECT 'p' || i FROM generate_series(1, 50) i;
             INSERT INTO child SELECT i, i FROM generate_series(1, 50) i;
             INSERT INTO other SELECT generate_series(1, 50);",
        )
        .await;
    // The follower has the foreign key too: a plain TRUNCATE of the parent would be refused there.
    follower
        .sql(
            "CREATE TABLE parent (id int PRIMARY KEY, v text);
             CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
             CREATE TABLE keeper (parent int REFERENCES parent);",
        )
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    let steps = [
        "TRUNCATE other",
        "INSERT INTO other VALUES (1); TRUNCATE other; INSERT INTO other VALUES (2)",
        "INSERT INTO parent VALUES (1, 'for the child') ON CONFLICT DO NOTHING; INSERT INTO child VALUES (999, 1); TRUNCATE parent RESTART IDENTITY CASCADE; INSERT INTO parent (v) VALUES ('new')",
        "INSERT INTO child VALUES (1, 1); UPDATE parent SET v = 'newer'",
        "TRUNCATE parent, child, other",
    ];
    for step in steps {
        wait_caught_up(&from, &to, "a").await;
        from.batch_execute(&format!("BEGIN; {step}; COMMIT"))
            .await
            .unwrap();
        wait_caught_up(&from, &to, "a").await;
        assert_equal(&from, &to, &["parent", "child", "other"]).await;
    }
    assert_eq!(walferry.terminate(), 0);
    for step in steps {
        from.batch_execute(&format!("BEGIN; {step}; COMMIT"))
            .await
            .unwrap();
    }
    from.batch_execute("INSERT INTO other VALUES (5)")
        .await
        .unwrap();
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["parent", "child", "other"]).await;
}
