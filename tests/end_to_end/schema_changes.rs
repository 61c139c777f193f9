//! The leader's tables are altered while they are written, and the follower's with them, at the same place in
//! the stream, without a halt.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::load::{load, more};
use crate::support::{DEADLINE, Pipeline, Postgres, Walferry, content, until, wait_caught_up};

const TABLE: &str = "CREATE TABLE t (id serial PRIMARY KEY, a text, n int NOT NULL DEFAULT 0);
    CREATE TABLE other (id serial PRIMARY KEY, n int);
    INSERT INTO t (a) SELECT 'old ' || i FROM generate_series(1, 200) i; INSERT INTO other (n) VALUES (0);";

/// Rows by column name, whatever the columns' order: a column that was away comes back behind the others.
async fn named_rows(client: &Client, table: &str) -> Vec<String> {
    let query = format!("SELECT to_jsonb(r)::text FROM {table} r ORDER BY id");
    let rows = client.query(&query, &[]).await;
    let rows = rows.unwrap_or_else(|error| panic!("{table}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// Names, types and whether they may be NULL.
async fn shape(client: &Client, table: &str) -> Vec<String> {
    let query = "SELECT attname || ' ' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
                 FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY 1";
    let rows = client.query(query, &[&table]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn assert_same(from: &Client, to: &Client, tables: &[&str]) {
    for table in tables {
        assert_eq!(shape(from, table).await, shape(to, table).await, "{table}");
        let (leader, follower) = (named_rows(from, table).await, named_rows(to, table).await);
        let differing = leader
            .iter()
            .zip(&follower)
            .find(|(one, other)| one != other);
        assert_eq!(differing, None, "{table}");
        assert_eq!(leader.len(), follower.len(), "{table}");
    }
}

async fn lsn(client: &Client) -> String {
    let row = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]);
    row.await.unwrap().get(0)
}

/// No such column, or a value of another type.
const OTHER_SHAPE: [&str; 3] = ["42703", "42804", "42883"];

fn never_halted(walferry: &Walferry) {
    let output = walferry.output();
    assert!(!output.contains("halted"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_alteration_under_load_is_followed_without_a_halt() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::with(
        &leader,
        &[&follower],
        "partitions = 3\nevent_trigger = true",
        "",
    );
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    follower
        .sql("ALTER TABLE t ADD COLUMN own text DEFAULT 'own'; CREATE INDEX own_index ON t (own)")
        .await;
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let statements = [
        "INSERT INTO t (a) VALUES ('new'); UPDATE t SET a = a || '.' WHERE id % 50 = 3; DELETE FROM t WHERE id = (SELECT min(id) FROM t)",
        "INSERT INTO t (b) VALUES ('new'); UPDATE t SET b = b || '.' WHERE id % 50 = 3",
    ];
    tokio::join!(
        load(&leader, &statements, &OTHER_SHAPE, &stop, &written),
        async {
            for ddl in [
            "ALTER TABLE t ADD COLUMN five int NOT NULL DEFAULT 5",
            "ALTER TABLE t ADD COLUMN at timestamptz DEFAULT now()",
            "ALTER TABLE t ADD COLUMN plain numeric(10,2)",
            "ALTER TABLE t RENAME COLUMN a TO b",
            "ALTER TABLE t ALTER COLUMN n TYPE bigint",
            "ALTER TABLE t ALTER COLUMN n DROP NOT NULL; UPDATE t SET n = NULL WHERE id % 10 = 1",
            "ALTER TABLE t DROP COLUMN plain",
            "BEGIN; ALTER TABLE t RENAME COLUMN five TO x; ALTER TABLE t RENAME COLUMN n TO five;
             ALTER TABLE t RENAME COLUMN x TO n; COMMIT",
            "ALTER TABLE t ADD COLUMN tags text[] DEFAULT '{a,\"b c\"}'",
            "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id, n)",
        ] {
            more(&written).await;
            from.batch_execute(ddl)
                .await
                .unwrap_or_else(|error| panic!("{ddl}: {error:?}"));
        }
            more(&written).await;
            stop.store(true, Ordering::Relaxed);
        }
    );
    wait_caught_up(&from, &to, "a").await;
    never_halted(&walferry);
    let own = "SELECT count(*) FROM pg_indexes WHERE indexname = 'own_index'";
    assert_eq!(to.query_one(own, &[]).await.unwrap().get::<_, i64>(0), 1);
    follower.sql("ALTER TABLE t DROP COLUMN own").await;
    assert_same(&from, &to, &["t", "other"]).await;
    let key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'p'";
    let key = to.query_one(key, &[]).await.unwrap();
    assert_eq!(key.get::<_, String>(0), "PRIMARY KEY (id, n)");
    assert!(
        !walferry.output().contains("copied anew"),
        "{}",
        walferry.output()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_alters_its_table_arrives_whole_and_is_seen_whole() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::with(&leader, &[&follower], "", "batch_max_bytes = \"64KiB\"");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let before = (shape(&to, "t").await, named_rows(&to, "t").await);
    from.batch_execute(
        "BEGIN;
         UPDATE other SET n = 1; UPDATE t SET a = 'first ' || id WHERE id < 100; DELETE FROM t WHERE id = 1;
         ALTER TABLE t RENAME COLUMN a TO b;
         INSERT INTO t (id, b) VALUES (1, 'again'), (1001, 'new'); UPDATE t SET id = 2000 WHERE id = 2;
         INSERT INTO t (id, b) SELECT i, repeat('x', 100) FROM generate_series(3001, 6000) i;
         ALTER TABLE t ADD COLUMN c int NOT NULL DEFAULT 5;
         UPDATE t SET c = 6, b = b || '!' WHERE id BETWEEN 50 AND 60; INSERT INTO t (b, c) VALUES ('x', 8);
         ALTER TABLE t DROP COLUMN n;
         UPDATE t SET c = c + 1 WHERE id % 7 = 0; UPDATE other SET n = 2;
         COMMIT",
    )
    .await
    .unwrap();
    let after = (shape(&from, "t").await, named_rows(&from, "t").await);
    until("the follower shows the transaction", || async {
        // One snapshot of rows and shape: what a reader gets.
        to.batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; LOCK TABLE t IN ACCESS SHARE MODE",
        )
        .await
        .unwrap();
        let seen = (shape(&to, "t").await, named_rows(&to, "t").await);
        to.batch_execute("COMMIT").await.unwrap();
        if seen == after {
            return Ok(());
        }
        assert_eq!(seen.0, before.0, "neither the one nor the other");
        assert_eq!(seen.1, before.1, "neither the one nor the other");
        Err("not yet".to_owned())
    })
    .await;
    wait_caught_up(&from, &to, "a").await;
    never_halted(&walferry);
    assert_same(&from, &to, &["t", "other"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_the_leader_rewrites_unseen_are_copied_anew() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    for (n, ddl) in (1..).zip([
        "ALTER TABLE t ALTER COLUMN n TYPE text USING 'n' || n",
        "ALTER TABLE t ADD COLUMN chance float8 DEFAULT random()",
        "ALTER TABLE t ALTER COLUMN n TYPE int USING id * 2",
    ]) {
        from.batch_execute(ddl).await.unwrap();
        from.batch_execute("UPDATE t SET a = 'x' WHERE id = 5; UPDATE other SET n = n + 1")
            .await
            .unwrap();
        until("the table is copied anew", || async {
            match walferry
                .output()
                .matches("the table is copied anew")
                .count()
                >= n
            {
                true => Ok(()),
                false => Err(ddl.to_owned()),
            }
        })
        .await;
        wait_caught_up(&from, &to, "a").await;
        assert_same(&from, &to, &["t", "other"]).await;
    }
    never_halted(&walferry);
}

/// Ten alterations of t, each with a change behind it.
const TEN: [(&str, &str); 10] = [
    (
        "ADD COLUMN c int DEFAULT 5",
        "INSERT INTO t (a) VALUES ('1')",
    ),
    (
        "RENAME COLUMN a TO b",
        "UPDATE t SET b = b || '2' WHERE id % 3 = 0",
    ),
    ("DROP COLUMN n", "DELETE FROM t WHERE id % 20 = 0"),
    (
        "ADD COLUMN n text",
        "UPDATE t SET n = 'n' || id WHERE id % 4 = 0",
    ),
    (
        "RENAME COLUMN c TO d",
        "INSERT INTO t (b, d) VALUES ('5', 55)",
    ),
    (
        "ALTER COLUMN d TYPE bigint",
        "UPDATE t SET d = 5000000000 WHERE id = 7",
    ),
    (
        "ADD COLUMN a varchar(9) NOT NULL DEFAULT 'é'",
        "UPDATE t SET a = 'ü' WHERE id % 5 = 0",
    ),
    ("DROP COLUMN d", "UPDATE t SET id = id + 1000 WHERE id < 10"),
    (
        "ALTER COLUMN a TYPE text",
        "UPDATE t SET a = repeat(a, 20) WHERE id % 9 = 0",
    ),
    (
        "RENAME COLUMN n TO d",
        "INSERT INTO t (a, b, d) VALUES ('10', '10', '10')",
    ),
];

/// What the leader was at a position: where, which shape, which rows.
type Past = Vec<(String, Vec<String>, Vec<String>)>;

/// Makes the ten alterations; `await_source`: each is read before the next one is made.
async fn alter_ten_times(from: &Client, await_source: bool) -> Past {
    let mut past = vec![];
    for (ddl, change) in TEN {
        from.batch_execute(&format!("ALTER TABLE t {ddl}"))
            .await
            .unwrap();
        from.batch_execute(change).await.unwrap();
        let at = lsn(from).await;
        past.push((
            at.clone(),
            shape(from, "t").await,
            named_rows(from, "t").await,
        ));
        content::mark(from).await;
        if await_source {
            until("the source has read it", || async {
                let query =
                    "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots";
                match from.query_one(query, &[&at]).await.unwrap().get(0) {
                    true => Ok(()),
                    false => Err(at.clone()),
                }
            })
            .await;
        }
    }
    past
}

/// Builds the follower to some of the positions and to the present; it has the leader's shape and rows each time.
async fn assert_past(pipeline: &Pipeline, (from, to): (&Client, &Client), past: &Past) {
    for at in [9, 2, 6, 0, 4] {
        let (lsn, shape_then, rows_then) = &past[at];
        let said = pipeline.do_it(&["rebuild", "a", "--to-lsn", lsn]);
        assert!(said.contains("stays there"), "{said}");
        assert_eq!(
            &shape(to, "t").await,
            shape_then,
            "after {} alterations",
            at + 1
        );
        assert_eq!(
            &named_rows(to, "t").await,
            rows_then,
            "after {} alterations",
            at + 1
        );
    }
    pipeline.do_it(&["sink", "resume", "a"]);
    wait_caught_up(from, to, "a").await;
    assert_same(from, to, &["t", "other"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_was_down_for_ten_alterations_follows_them_and_can_be_built_to_each() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(walferry.terminate(), 0);
    let source = pipeline.run_only(&["leader"]);
    let past = alter_ten_times(&from, true).await;
    drop(source);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_same(&from, &to, &["t", "other"]).await;
    assert_past(&pipeline, (&from, &to), &past).await;
    never_halted(&walferry);
    assert!(
        !walferry.output().contains("copied anew"),
        "{}",
        walferry.output()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_event_trigger_a_source_that_was_down_for_ten_alterations_tells_each_of_them() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::with(&leader, &[&follower], "event_trigger = true", "");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(walferry.terminate(), 0);
    let past = alter_ten_times(&from, false).await;
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_same(&from, &to, &["t", "other"]).await;
    assert_past(&pipeline, (&from, &to), &past).await;
    never_halted(&walferry);
    assert!(
        !walferry.output().contains("copied anew"),
        "{}",
        walferry.output()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_it_a_source_that_was_down_has_the_table_copied_anew() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(walferry.terminate(), 0);
    alter_ten_times(&from, false).await;
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_same(&from, &to, &["t", "other"]).await;
    never_halted(&walferry);
    assert!(walferry.output().contains("copied anew"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_event_trigger_tells_of_rewritten_rows_that_no_shape_shows() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::with(&leader, &[&follower], "event_trigger = true", "");
    let (from, to) = (leader.client().await, follower.client().await);
    let mut walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    for (n, ddl) in (1..).zip([
        "ALTER TABLE t ALTER COLUMN a TYPE text USING upper(a)",
        "ALTER TABLE t ALTER COLUMN n TYPE bigint USING n + 7",
        "ALTER TABLE t ADD COLUMN r float8 DEFAULT random(); ALTER TABLE t ALTER COLUMN r DROP DEFAULT",
    ]) {
        from.batch_execute(ddl).await.unwrap();
        if n == 2 {
            // What was said is in the log when the table's next row comes, to whatever process.
            wait_caught_up(&from, &to, "a").await;
            walferry.kill();
            walferry = pipeline.run();
        }
        from.batch_execute("UPDATE t SET a = 'x' WHERE id = 5; UPDATE other SET n = n + 1")
            .await
            .unwrap();
        until("the table is copied anew", || async {
            match walferry
                .output()
                .matches("the table is copied anew")
                .count()
            {
                0 => Err(ddl.to_owned()),
                _more => Ok(()),
            }
        })
        .await;
        wait_caught_up(&from, &to, "a").await;
        assert_same(&from, &to, &["t", "other"]).await;
        never_halted(&walferry);
        walferry.kill();
        walferry = pipeline.run();
    }
    // What rewrites all rows and changes none needs no copy.
    from.batch_execute(
        "ALTER TABLE t ALTER COLUMN id TYPE bigint; UPDATE t SET id = id + 3000000000 WHERE id = 6",
    )
    .await
    .unwrap();
    from.batch_execute("VACUUM FULL t").await.unwrap();
    from.batch_execute("UPDATE t SET a = 'y' WHERE id = 7")
        .await
        .unwrap();
    wait_caught_up(&from, &to, "a").await;
    assert_same(&from, &to, &["t", "other"]).await;
    assert!(
        !walferry.output().contains("copied anew"),
        "{}",
        walferry.output()
    );
}

/// Reads two tables in this order, again and again, each time in one transaction.
async fn read_in_order(follower: &Postgres, order: [&str; 2], stop: &AtomicBool) {
    let client = follower.client().await;
    let [one, other] = order;
    let read = format!(
        "BEGIN; SELECT count(*) FROM {one}; SELECT pg_sleep(0.05); SELECT count(*) FROM {other}; COMMIT"
    );
    while !stop.load(Ordering::Relaxed) {
        match client.batch_execute(&read).await {
            Ok(()) => {}
            // The server gives up one of those that wait for each other: it may be this one.
            Err(error) => {
                assert_eq!(error.code().map(|c| c.code()), Some("40P01"), "{error:?}");
                client.batch_execute("ROLLBACK").await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_two_tables_in_whatever_order_do_not_keep_both_from_being_altered_or_truncated()
{
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let write = "INSERT INTO t (a) VALUES ('new'); INSERT INTO other (n) VALUES (1);";
    let end = Instant::now() + DEADLINE;
    let orders = [["t", "other"], ["other", "t"]];
    for (n, order) in orders.into_iter().cycle().enumerate() {
        let stop = AtomicBool::new(false);
        let readers = async {
            let read = || read_in_order(&follower, order, &stop);
            tokio::join!(read(), read(), read(), read());
        };
        let changes = async {
            for both in [
                format!("ALTER TABLE t ADD added_{n} int; ALTER TABLE other ADD added_{n} int;"),
                "TRUNCATE t, other;".to_owned(),
            ] {
                from.batch_execute(&format!("{both} {write}"))
                    .await
                    .unwrap();
                wait_caught_up(&from, &to, "a").await;
            }
            stop.store(true, Ordering::Relaxed);
        };
        tokio::join!(readers, changes);
        assert_same(&from, &to, &["t", "other"]).await;
        // One of the two orders is another one than the sink's: sooner or later it meets a reader.
        let met = walferry
            .output()
            .contains("readers of the follower were in the way");
        if met && n > 0 {
            break;
        }
        assert!(Instant::now() < end, "no attempt met a reader");
    }
    never_halted(&walferry);
}

/// A commit is in the stream before other sessions see what it did; here it is long before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_commit_did_that_waits_for_a_standby_is_waited_for() {
    // Known to the server from its start: each of its processes takes a reload at another moment.
    let settings = [
        "synchronous_standby_names=nobody",
        "synchronous_commit=local",
    ];
    let leader = Postgres::start_with("leader", &settings);
    let follower = Postgres::start("follower");
    leader.sql(TABLE).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let writer = leader.client().await;
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let waits = "SET synchronous_commit = on";
    writer.batch_execute(waits).await.unwrap();
    let alter = "ALTER TABLE t DROP COLUMN n; INSERT INTO t (a) VALUES ('new')";
    let writing = tokio::spawn(async move { writer.batch_execute(alter).await });
    until("the source at a commit that nobody sees", || async {
        let waiting = "SELECT count(*) FILTER (WHERE wait_event = 'SyncRep'),
                              count(*) FILTER (WHERE query LIKE '%''transactionid'' AND granted%' AND pid <> pg_backend_pid())
                       FROM pg_stat_activity";
        let row = from.query_one(waiting, &[]).await.unwrap();
        let (commits, looks): (i64, i64) = (row.get(0), row.get(1));
        (commits == 1 && looks == 1).then_some(()).ok_or(format!("{commits}, {looks}"))
    })
    .await;
    let no_longer =
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    from.batch_execute(no_longer).await.unwrap();
    writing.await.unwrap().unwrap();
    wait_caught_up(&from, &to, "a").await;
    never_halted(&walferry);
    assert_same(&from, &to, &["t", "other"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compatible_changes_pass_and_a_rename_halts_with_its_remedy() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let compatible = "schema_changes = \"compatible\"";
    let pipeline = Pipeline::with(&leader, &[&follower], "", compatible);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    for ddl in [
        "ALTER TABLE t ADD COLUMN c int NOT NULL DEFAULT 5",
        "ALTER TABLE t ALTER COLUMN c TYPE bigint",
        "ALTER TABLE t DROP COLUMN n",
    ] {
        from.batch_execute(ddl).await.unwrap();
        from.batch_execute("INSERT INTO t (a) VALUES ('new')")
            .await
            .unwrap();
    }
    wait_caught_up(&from, &to, "a").await;
    never_halted(&walferry);
    let columns = [
        "a text",
        "c bigint NOT NULL",
        "id integer NOT NULL",
        "n integer",
    ];
    assert_eq!(
        shape(&to, "t").await,
        columns,
        "what the leader has dropped stays"
    );
    from.batch_execute("ALTER TABLE t RENAME COLUMN a TO b; INSERT INTO t (b) VALUES ('renamed')")
        .await
        .unwrap();
    let halt = walferry.says("halted").await;
    assert!(halt.contains("RENAME COLUMN"), "{halt}");
    assert_eq!(walferry.terminate(), 3);
    follower
        .sql("ALTER TABLE t RENAME COLUMN a TO b; ALTER TABLE t DROP COLUMN n")
        .await;
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_same(&from, &to, &["t", "other"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_column_that_a_view_of_the_followers_needs_stays() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    follower
        .sql("CREATE VIEW sums AS SELECT sum(n) FROM t")
        .await;
    from.batch_execute("ALTER TABLE t DROP COLUMN n; INSERT INTO t (a) VALUES ('new')")
        .await
        .unwrap();
    wait_caught_up(&from, &to, "a").await;
    never_halted(&walferry);
    assert!(
        walferry
            .output()
            .contains("something on the follower depends on")
    );
    let columns = ["a text", "id integer NOT NULL", "n integer"];
    assert_eq!(shape(&to, "t").await, columns);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_killed_again_and_again_while_tables_are_altered_ends_with_the_leaders_shape() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLE).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let mut walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let names = ["a", "b"].map(|a| {
        format!(
            "INSERT INTO t ({a}) VALUES ('new'); UPDATE t SET {a} = {a} || '.' WHERE id % 50 = 3"
        )
    });
    let statements = names.each_ref().map(String::as_str);
    let ((), walferry) = tokio::join!(
        load(&leader, &statements, &OTHER_SHAPE, &stop, &written),
        async {
            for round in 0..4 {
                for ddl in [
                    format!(
                        "ALTER TABLE t RENAME COLUMN a TO b; ALTER TABLE t ADD COLUMN c{round} int DEFAULT {round}"
                    ),
                    format!(
                        "ALTER TABLE t RENAME COLUMN b TO a; ALTER TABLE t DROP COLUMN c{round}"
                    ),
                ] {
                    from.batch_execute(&ddl).await.unwrap();
                    more(&written).await;
                    walferry.kill();
                    walferry = pipeline.run();
                    tokio::time::sleep(Duration::from_millis(100 * round)).await;
                }
            }
            stop.store(true, Ordering::Relaxed);
            walferry
        }
    );
    wait_caught_up(&from, &to, "a").await;
    never_halted(&walferry);
    assert_same(&from, &to, &["t", "other"]).await;
}
