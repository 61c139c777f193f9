//! Tables of every shape: names, widths, partitions, generated columns, columns left out.

use crate::support::{Pipeline, Postgres, assert_equal, wait_caught_up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_names_wide_tables_and_partitions_arrive() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    let emoji = "🦭".repeat(15);
    let columns: Vec<String> = (2..=1600).map(|n| format!("c{n} int")).collect();
    leader
        .sql(&format!(
            "CREATE SCHEMA \"Odd \"\"schema\"\".x\";
             CREATE TABLE \"Odd \"\"schema\"\".x\".\"UPPER.case, 'quoted'\" (\"Key \"\"k\"\"\" int PRIMARY KEY, \"select\" text, \"{emoji}\" text);
             CREATE TABLE \"{emoji}\" (id int PRIMARY KEY, v text);
             CREATE SCHEMA copy; CREATE TABLE copy.commits (id int PRIMARY KEY);
             CREATE TABLE \"a.b\" (id int PRIMARY KEY); CREATE SCHEMA a; CREATE TABLE a.b (id int PRIMARY KEY);
             CREATE TABLE wide (c1 int PRIMARY KEY, {});
             CREATE TABLE no_columns ();
             ALTER TABLE no_columns REPLICA IDENTITY FULL;
             CREATE TABLE dropped (id int PRIMARY KEY, gone int, v text); ALTER TABLE dropped DROP COLUMN gone;
             CREATE TABLE generated (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, i int GENERATED ALWAYS AS IDENTITY);
             CREATE TABLE parted (id int, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('eu');
             CREATE TABLE parted_us PARTITION OF parted FOR VALUES IN ('us') PARTITION BY RANGE (id);
             CREATE TABLE parted_us_1 PARTITION OF parted_us FOR VALUES FROM (0) TO (1000);
             CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
             CREATE TABLE ancestor (id int PRIMARY KEY); CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (ancestor);
             INSERT INTO parted VALUES (1, 'eu', 1), (2, 'us', 2);
             INSERT INTO wide (c1, c2, c1600) VALUES (1, 2, 1600);
             INSERT INTO generated (id, a) VALUES (1, 10);
             INSERT INTO heir VALUES (1);",
            columns.join(", ")
        ))
        .await;
    // The follower computes this column itself.
    follower
        .sql("CREATE TABLE generated (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, i int GENERATED ALWAYS AS IDENTITY)")
        .await;
    let pipeline = Pipeline::with(&leader, &[&follower], "partitions = 3", "");
    let (from, to) = (leader.client().await, follower.client().await);
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    leader
        .sql(&format!(
            "INSERT INTO \"Odd \"\"schema\"\".x\".\"UPPER.case, 'quoted'\" VALUES (1, 's', 'e'), (2, NULL, NULL);
             UPDATE \"Odd \"\"schema\"\".x\".\"UPPER.case, 'quoted'\" SET \"select\" = 'x';
             INSERT INTO \"{emoji}\" VALUES (1, 'v'); INSERT INTO copy.commits VALUES (1);
             INSERT INTO \"a.b\" VALUES (1); INSERT INTO a.b VALUES (2);
             UPDATE wide SET c800 = 800; INSERT INTO wide (c1) SELECT generate_series(2, 20);
             INSERT INTO no_columns DEFAULT VALUES; INSERT INTO no_columns DEFAULT VALUES;
             DELETE FROM no_columns WHERE ctid = '(0,1)';
             INSERT INTO dropped VALUES (1, 'v');
             INSERT INTO generated (id, a) VALUES (2, 20); UPDATE generated SET a = a + 1;
             INSERT INTO parted SELECT i, CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, i FROM generate_series(10, 60) i;
             UPDATE parted SET region = 'us' WHERE id = 1; UPDATE parted SET v = v + 1; DELETE FROM parted WHERE id = 20;
             UPDATE parted SET id = id + 100 WHERE id < 30;
             UPDATE heir SET id = 2; INSERT INTO ancestor VALUES (5);"
        ))
        .await;
    wait_caught_up(&from, &to, "a").await;
    let emoji_table = format!("\"{emoji}\"");
    assert_equal(
        &from,
        &to,
        &[
            "\"Odd \"\"schema\"\".x\".\"UPPER.case, 'quoted'\"",
            &emoji_table,
            "copy.commits",
            "\"a.b\"",
            "a.b",
            "wide",
            "no_columns",
            "dropped",
            "generated",
            "parted",
            "heir",
            "ONLY ancestor",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn include_and_exclude_choose_the_tables() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE order_log (id int PRIMARY KEY);
             CREATE TABLE customers (id int PRIMARY KEY); CREATE TABLE secrets (id int PRIMARY KEY);
             INSERT INTO orders VALUES (1); INSERT INTO order_log VALUES (1); INSERT INTO customers VALUES (1); INSERT INTO secrets VALUES (1);",
        )
        .await;
    let pipeline = Pipeline::with(
        &leader,
        &[&follower],
        "[tables]\ninclude = [\"public.order*\", \"public.cust?mers\"]\nexclude = [\"*.order_log\"]",
        "",
    );
    let (from, to) = (leader.client().await, follower.client().await);
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["orders", "customers"]).await;
    for absent in ["order_log", "secrets"] {
        let there: Option<String> = to
            .query_one("SELECT to_regclass($1)::text", &[&absent])
            .await
            .unwrap()
            .get(0);
        assert_eq!(there, None, "{absent}");
    }
    let published: Vec<String> = from
        .query(
            "SELECT tablename::text FROM pg_publication_tables ORDER BY 1",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(published, ["customers", "orders"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_added_on_the_leader_is_said_and_after_the_remedy_goes_on() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE grows (id int PRIMARY KEY, v text); INSERT INTO grows VALUES (1, 'a')")
        .await;
    let pipeline = Pipeline::with(&leader, &[&follower], "", "schema_changes = \"halt\"");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    leader
        .sql("ALTER TABLE grows ADD COLUMN extra int; INSERT INTO grows VALUES (2, 'b', 3)")
        .await;
    crate::support::until("the sink halts and names table and column", || async {
        let output = walferry.output();
        if output.contains("public.grows") && output.contains("extra") {
            Ok(())
        } else {
            Err(output)
        }
    })
    .await;
    assert_eq!(
        walferry.terminate(),
        3,
        "a halted part is said in the exit code"
    );
    follower.sql("ALTER TABLE grows ADD COLUMN extra int").await;
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["grows"]).await;
}
