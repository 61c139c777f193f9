//! The leader's tables are altered while they are written, and the follower's operator repeats it: every
//! version in its order, halts exactly before what the follower's table cannot take, and after the remedy on without loss.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::content::published;
use crate::support::{Pipeline, Postgres, Walferry, assert_equal, wait_caught_up};

/// Nothing is altered on the follower but by its operator.
const HALT: &str = "schema_changes = \"halt\"";

const TABLE: &str = "CREATE TABLE t (id serial PRIMARY KEY, a text, n int NOT NULL DEFAULT 0);
    CREATE TABLE other (id serial PRIMARY KEY, n int);
    INSERT INTO t (a) SELECT 'old ' || i FROM generate_series(1, 200) i; INSERT INTO other (n) VALUES (0);";

/// Writes t and another table without a pause, whatever t's text column is called by now.
async fn load(leader: &Postgres, names: &[&str], stop: &AtomicBool) -> u64 {
    let client = leader.client().await;
    let (mut name, mut transactions) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let a = names[name % names.len()];
        let sql = format!(
            "INSERT INTO t ({a}) VALUES ('new {transactions}');
             UPDATE t SET {a} = {a} || '.', n = n + 1 WHERE id % 50 = {transactions} % 50;
             DELETE FROM t WHERE id = {transactions} * 3; UPDATE other SET n = n + 1;"
        );
        match client.batch_execute(&sql).await {
            Ok(()) => transactions += 1,
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => name += 1,
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }
    transactions
}

/// The remedy of the halt that walferry's output tells, once it is there.
async fn remedy(walferry: &Walferry) -> String {
    let halt = walferry.says("halted").await;
    halt.split_once("remedy=")
        .expect("a halt has a remedy")
        .1
        .trim_matches('"')
        .replace("\\\"", "\"")
}

/// The statement in a remedy that begins with `ALTER TABLE` and holds `what`.
fn statement<'a>(remedy: &'a str, what: &str) -> &'a str {
    let mut statements = remedy.match_indices("ALTER TABLE").map(|(at, _)| {
        let rest = &remedy[at..];
        rest.split([';', ',']).next().unwrap_or(rest)
    });
    let found = statements.find(|sql| sql.contains(what));
    found.unwrap_or_else(|| panic!("no statement with {what} in: {remedy}"))
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_before_a_new_version_is_applied_before_the_halt() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::with(&leader, &[&follower], "", HALT);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    // Held up, the sink collects most of it in one batch.
    let locker = follower.client().await;
    let lock = "BEGIN; LOCK TABLE t, other IN ACCESS EXCLUSIVE MODE";
    locker.batch_execute(lock).await.unwrap();
    for n in 0..40 {
        let sql = format!("INSERT INTO t (a) VALUES ('{n}'); UPDATE other SET n = {n}");
        from.batch_execute(&sql).await.unwrap();
        if n % 10 == 9 {
            published(&from).await;
        }
    }
    let before = number(&from, "SELECT count(*) FROM t").await;
    from.batch_execute("ALTER TABLE t RENAME COLUMN a TO b; INSERT INTO t (b) VALUES ('renamed');")
        .await
        .unwrap();
    from.batch_execute("UPDATE other SET n = 1000")
        .await
        .unwrap();
    published(&from).await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    let remedy = remedy(&walferry).await;
    assert_eq!(number(&to, "SELECT count(*) FROM t").await, before);
    assert_eq!(number(&to, "SELECT n::int8 FROM other").await, 39);
    let halt = walferry.says("halted").await;
    let lsn: String = from
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .await
        .unwrap()
        .get(0);
    let high = lsn.split('/').next().unwrap().to_owned();
    for part in [
        "public.t",
        "column b",
        "missing",
        &format!("change at {high}/"),
    ] {
        assert!(halt.contains(part), "{part} in {halt}");
    }
    assert_eq!(walferry.terminate(), 3);
    follower.sql(statement(&remedy, "RENAME COLUMN")).await;
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["t", "other"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_renamed_under_load_goes_on_after_the_remedy() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::with(&leader, &[&follower], "partitions = 3", HALT);
    let (from, to) = (leader.client().await, follower.client().await);
    let mut walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let stop = AtomicBool::new(false);
    let names = ["a", "b", "c", "d", "e"];
    let (transactions, _walferry) = tokio::join!(load(&leader, &names, &stop), async {
        for (old, new) in names.iter().zip(&names[1..]) {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let rename = format!("ALTER TABLE t RENAME COLUMN {old} TO {new}");
            from.batch_execute(&rename).await.unwrap();
            let remedy = remedy(&walferry).await;
            assert_eq!(walferry.terminate(), 3);
            follower.sql(statement(&remedy, "RENAME COLUMN")).await;
            walferry = pipeline.run();
        }
        stop.store(true, Ordering::Relaxed);
        walferry
    });
    assert!(transactions > 50, "{transactions}");
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["t", "other"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_altered_ahead_takes_the_changes_from_before() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    leader.sql("ALTER TABLE t ADD COLUMN gone text").await;
    let pipeline = Pipeline::with(&leader, &[&follower], "", HALT);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let stop = AtomicBool::new(false);
    let (_, ()) = tokio::join!(load(&leader, &["a"], &stop), async {
        for ddl in [
            "ALTER TABLE t RENAME COLUMN a TO b; ALTER TABLE t ADD COLUMN a text DEFAULT 'new a';
             ALTER TABLE t ALTER COLUMN n TYPE bigint",
            "ALTER TABLE t DROP COLUMN gone",
        ] {
            // The sink stands before changes of the old shape when its tables get the new one.
            let locker = follower.client().await;
            let lock = "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE";
            locker.batch_execute(lock).await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            from.batch_execute(ddl).await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            locker.batch_execute(ddl).await.unwrap();
            locker.batch_execute("COMMIT").await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.store(true, Ordering::Relaxed);
    });
    wait_caught_up(&from, &to, "a").await;
    assert!(
        !walferry.output().contains("halted"),
        "the follower could take everything"
    );
    assert_equal(&from, &to, &["t", "other"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_added_widened_and_dropped_under_load_go_on_after_the_remedy() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::with(&leader, &[&follower], "", HALT);
    let (from, to) = (leader.client().await, follower.client().await);
    let mut walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let stop = AtomicBool::new(false);
    let (transactions, walferry) = tokio::join!(load(&leader, &["a"], &stop), async {
        let ddl = "ALTER TABLE t ADD COLUMN extra int NOT NULL DEFAULT 7";
        from.batch_execute(ddl).await.unwrap();
        let added = remedy(&walferry).await;
        assert!(statement(&added, "ADD COLUMN").contains("\"extra\" integer"));
        assert!(added.contains("DEFAULT"), "{added}");
        assert_eq!(walferry.terminate(), 3);
        follower.sql(ddl).await;
        walferry = pipeline.run();
        wait_caught_up(&from, &to, "a").await;

        from.batch_execute("ALTER TABLE t ALTER COLUMN n TYPE bigint")
            .await
            .unwrap();
        let widened = remedy(&walferry).await;
        assert_eq!(walferry.terminate(), 3);
        follower.sql(statement(&widened, "TYPE bigint")).await;
        walferry = pipeline.run();
        wait_caught_up(&from, &to, "a").await;

        // NOT NULL with a default: the follower may keep it for as long as it wants.
        from.batch_execute("ALTER TABLE t DROP COLUMN extra")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        wait_caught_up(&from, &to, "a").await;
        follower.sql("ALTER TABLE t DROP COLUMN extra").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop.store(true, Ordering::Relaxed);
        walferry
    });
    assert!(transactions > 50, "{transactions}");
    wait_caught_up(&from, &to, "a").await;
    assert!(!walferry.output().contains("halted"));
    assert_equal(&from, &to, &["t", "other"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_alters_its_table_arrives_whole_after_the_remedies() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::with(&leader, &[&follower], "", HALT);
    let (from, to) = (leader.client().await, follower.client().await);
    let mut walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    from.batch_execute("INSERT INTO t (id, a) VALUES (1000, 'before')")
        .await
        .unwrap();
    published(&from).await;
    from.batch_execute(
        "BEGIN;
         UPDATE other SET n = 1; UPDATE t SET a = 'first ' || id WHERE id < 100; DELETE FROM t WHERE id = 1;
         ALTER TABLE t RENAME COLUMN a TO b;
         INSERT INTO t (id, b) VALUES (1, 'again'), (1001, 'new'); UPDATE t SET id = 2000 WHERE id = 2;
         ALTER TABLE t ADD COLUMN c int NOT NULL DEFAULT 5;
         UPDATE t SET c = 6, b = b || '!' WHERE id BETWEEN 50 AND 60; INSERT INTO t (b, c) VALUES ('x', 8);
         ALTER TABLE t DROP COLUMN n;
         UPDATE t SET c = c + 1 WHERE id % 7 = 0; UPDATE other SET n = 2;
         COMMIT",
    )
    .await
    .unwrap();
    for (kind, full) in [
        ("RENAME COLUMN", None),
        (
            "ADD COLUMN",
            Some("ALTER TABLE t ADD COLUMN c int NOT NULL DEFAULT 5"),
        ),
        ("DROP NOT NULL", None),
    ] {
        let remedy = remedy(&walferry).await;
        assert_eq!(walferry.terminate(), 3);
        assert_eq!(
            number(&to, "SELECT n::int8 FROM other").await,
            0,
            "nothing of the transaction"
        );
        assert_eq!(
            number(&to, "SELECT count(*) FROM t WHERE id = 1000").await,
            1,
            "everything before it"
        );
        let wanted = statement(&remedy, kind);
        follower.sql(full.unwrap_or(wanted)).await;
        walferry = pipeline.run();
    }
    wait_caught_up(&from, &to, "a").await;
    assert!(!walferry.output().contains("halted"));
    // n stays: it is the operator's to drop.
    follower.sql("ALTER TABLE t DROP COLUMN n").await;
    assert_equal(&from, &to, &["t", "other"]).await;
}
