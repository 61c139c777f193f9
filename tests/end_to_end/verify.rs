//! `walferry verify`: equal is said under load, and each kind of difference is found.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::http::{comes_into, get, metric};
use crate::support::{Pipeline, Postgres, assert_equal, until, wait_caught_up};

const TABLES: &str = r#"
    CREATE TABLE big (id int PRIMARY KEY, v text, n numeric, at timestamptz DEFAULT now());
    CREATE TABLE "Odd ""name" ("a b" text, "Select" int, v text, PRIMARY KEY ("Select", "a b"));
    CREATE TABLE heap (a int, b text);
    ALTER TABLE heap REPLICA IDENTITY FULL;
    CREATE TABLE kinds (id int PRIMARY KEY, f float8, j jsonb, b bytea, a int[], i interval);
    CREATE TABLE parts (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
    CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
    INSERT INTO big (id, v, n) SELECT i, repeat('x', i % 50), i / 7.0 FROM generate_series(1, 20000) i;
    INSERT INTO "Odd ""name" SELECT 'k' || i, i % 10, NULLIF(i % 3, 0)::text FROM generate_series(1, 500) i;
    INSERT INTO heap SELECT i % 40, CASE WHEN i % 2 = 0 THEN '' END FROM generate_series(1, 300) i;
    INSERT INTO kinds VALUES (1, 'NaN', '{"a": 1.50}', '\x00ff', '[2:3]={1,NULL}', '1 mon -2 days'),
        (2, 1e-300, 'null', '', '{}', NULL);
    INSERT INTO parts SELECT i, '2026-01-01'::date + i FROM generate_series(1, 300) i;
    ANALYZE"#;

/// Writes until told to stop: hot rows, new rows, deletes. Some rows it leaves alone.
async fn load(client: Client, stop: Arc<AtomicBool>) -> u64 {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        client
            .batch_execute(&format!(
                "UPDATE big SET v = 'hot {round}' WHERE id BETWEEN 1 AND 20;
                 INSERT INTO big (id, v) VALUES (100000 + {round}, 'new');
                 DELETE FROM big WHERE id = 100000 + {round} - 5;
                 UPDATE \"Odd \"\"name\" SET v = '{round}' WHERE \"Select\" = 1 + {round} % 9;
                 UPDATE big SET n = n + 1 WHERE id = 1000 + {round} % 15000"
            ))
            .await
            .unwrap();
    }
    round
}

pub async fn verify(pipeline: &Pipeline, arguments: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["verify"], arguments].concat();
    let mut command = tokio::process::Command::from(pipeline.command(&arguments));
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().await.unwrap();
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code(), text)
}

/// The report of a table.
pub fn of<'a>(report: &'a Value, table: &str) -> &'a Value {
    let mut tables = report[0]["tables"].as_array().unwrap().iter();
    tables
        .find(|of| of["table"] == table)
        .unwrap_or_else(|| panic!("{table}: {report}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_is_said_under_load_and_every_difference_is_found() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLES).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(load(leader.client().await, stop.clone()));

    for _ in 0..3 {
        let (code, text) = verify(&pipeline, &["a"]).await;
        assert_eq!(code, Some(0), "{text}");
        assert!(
            text.contains("EQUAL: a holds what the leader holds"),
            "{text}"
        );
    }

    // Behind walferry's back, while the load goes on.
    to.batch_execute(
        r#"UPDATE big SET v = v || '!' WHERE id = 17000;
           DELETE FROM big WHERE id IN (18000, 18001);
           INSERT INTO big (id, v) VALUES (-5, 'nobody''s');
           UPDATE "Odd ""name" SET "a b" = 'moved' WHERE "a b" = 'k10';
           UPDATE kinds SET f = 1.5 WHERE id = 1;
           DELETE FROM heap WHERE ctid = (SELECT min(ctid) FROM heap WHERE a = 7);
           INSERT INTO heap VALUES (1000, 'x');
           DELETE FROM parts WHERE id = 200"#,
    )
    .await
    .unwrap();
    let (code, text) = verify(&pipeline, &["--json"]).await;
    assert_eq!(code, Some(3), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let keys = |table: &str, kind: &str| of(&report, table)[kind]["keys"].to_string();
    assert_eq!(keys("public.big", "different"), r#"[["17000"]]"#);
    assert_eq!(keys("public.big", "missing"), r#"[["18000"],["18001"]]"#);
    assert_eq!(keys("public.big", "extra"), r#"[["-5"]]"#);
    let odd = "public.Odd \"name";
    assert_eq!(keys(odd, "extra"), r#"[["moved","0"]]"#);
    assert_eq!(keys(odd, "missing"), r#"[["k10","0"]]"#);
    assert_eq!(keys("public.kinds", "different"), r#"[["1"]]"#);
    assert_eq!(keys("public.parts", "missing"), r#"[["200","2026-07-20"]]"#);
    let heap = of(&report, "public.heap");
    assert_eq!(
        (&heap["missing"]["count"], &heap["extra"]["count"]),
        (&1.into(), &1.into())
    );
    assert!(
        !text.contains("nobody's") && !text.contains("hot"),
        "keys only: {text}"
    );
    let (code, text) = verify(&pipeline, &["a", "--tables", "kinds"]).await;
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("public.kinds: not the same (1)") && !text.contains("public.big"),
        "{text}"
    );

    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 10, "there was load");
    assert_eq!(walferry.terminate(), 0);
}

/// Versions of the follower's rows in tables that nobody touches.
async fn versions(follower: &Client) -> String {
    let versions = "SELECT string_agg(xmin::text || ctid::text, ',' ORDER BY xmin::text, ctid)
        FROM (SELECT xmin, ctid FROM kinds UNION ALL SELECT xmin, ctid FROM heap) t";
    follower.query_one(versions, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_copies_what_differs_and_leaves_the_rest_alone() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLES).await;
    // With "follow" the table whose values are unknown would be copied anew without being asked.
    let pipeline = Pipeline::with(&leader, &[&follower], "", "schema_changes = \"halt\"");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    // Not in the log: no copy from before would bring it.
    from.batch_execute("ALTER TABLE parts ADD COLUMN made timestamptz DEFAULT clock_timestamp()")
        .await
        .unwrap();
    to.batch_execute("ALTER TABLE parts ADD COLUMN made timestamptz DEFAULT clock_timestamp()")
        .await
        .unwrap();
    from.batch_execute("INSERT INTO parts VALUES (1000, '2026-03-03')")
        .await
        .unwrap();
    wait_caught_up(&from, &to, "a").await;
    to.batch_execute(
        "UPDATE big SET v = v || '!' WHERE id = 17000; DELETE FROM big WHERE id = 18000;
         INSERT INTO big (id, v) VALUES (-5, 'nobody''s')",
    )
    .await
    .unwrap();
    let before = versions(&to).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(load(leader.client().await, stop.clone()));
    let (code, text) = verify(&pipeline, &["a", "--repair"]).await;
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 10, "there was load");
    assert_eq!(code, Some(0), "{text}");
    for said in [
        "public.big: not the same (17000)",
        "public.big: only the follower has (-5)",
        "2 tables are copied anew; the others go on",
        "EQUAL: a holds what the leader holds",
    ] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    assert_eq!(versions(&to).await, before, "other tables were rewritten");
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["big", "parts", "heap", "kinds"]).await;
    let (code, text) = verify(&pipeline, &["a", "--json"]).await;
    assert_eq!(code, Some(0), "{text}");

    // What cannot be compared is not repaired, and what was found first is in the report.
    to.batch_execute("ALTER TABLE kinds RENAME COLUMN f TO g; DELETE FROM heap WHERE a = 7")
        .await
        .unwrap();
    let mut command = pipeline.command(&["verify", "--repair", "--json"]);
    let output = command.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{report} {said}");
    assert!(
        said.contains("public.kinds is not repaired: it could not be compared"),
        "{said}"
    );
    assert_eq!(report[0]["before_repair"][0]["table"], "public.heap");
    assert_eq!(of(&report, "public.heap")["missing"]["count"], 0);
    assert_equal(&from, &to, &["heap"]).await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_to_stay_in_the_past_is_not_waited_for() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    from.batch_execute("INSERT INTO t VALUES (2)")
        .await
        .unwrap();
    wait_caught_up(&from, &to, "a").await;
    let shown = "SELECT applied::text FROM walferry.checkpoint";
    let lsn: String = to.query_one(shown, &[]).await.unwrap().get(0);
    let rebuilt = pipeline
        .command(&["rebuild", "a", "--to-lsn", &lsn])
        .output();
    let rebuilt = rebuilt.unwrap();
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    for arguments in [&["a"][..], &["a", "--repair"]] {
        let (code, text) = verify(&pipeline, arguments).await;
        assert_eq!(code, Some(2), "{text}");
        for said in [
            &format!("follower a was ordered to stop at {lsn}"),
            "walferry sink resume a",
        ] {
            assert!(text.contains(said), "{said}:\n{text}");
        }
    }
    let mut command = pipeline.command(&["sink", "resume", "a"]);
    assert!(command.output().unwrap().status.success());
    let (code, text) = verify(&pipeline, &["a"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_slowly_is_read_in_many_parts_and_all_of_it() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql(TABLES).await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let slowly = ["a", "--max-rows-per-second", "20000"];
    let (code, text) = verify(&pipeline, &slowly).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("20,000"), "{text}");
    // Rows move to blocks behind all others, on one side only.
    to.batch_execute(
        "UPDATE big SET v = v || '!' WHERE id % 5000 = 0; UPDATE parts SET day = day;
         DELETE FROM heap WHERE ctid = (SELECT max(ctid) FROM heap)",
    )
    .await
    .unwrap();
    let (code, text) = verify(&pipeline, &["a", "--max-rows-per-second", "50000"]).await;
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("public.big: not the same (10000) (15000) (20000) (5000)\n"),
        "{text}"
    );
    assert!(text.contains("2 of 5 tables"), "{text}");
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_compared_is_said() {
    let (leader, mut follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY); INSERT INTO t VALUES (1, 'x')")
        .await;
    let pipeline = Pipeline::with(&leader, &[&follower], "", "tables.exclude = [\"*.other\"]");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    comes_into(&pipeline, "a", "streaming").await;
    let (code, text) = verify(&pipeline, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        !text.contains("public.other"),
        "it is not this follower's: {text}"
    );

    let (code, text) = verify(&pipeline, &["nobody"]).await;
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("no sink nobody with a follower") && text.contains("name one of: a"),
        "{text}"
    );

    to.batch_execute("ALTER TABLE t RENAME COLUMN v TO w")
        .await
        .unwrap();
    let (code, text) = verify(&pipeline, &[]).await;
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("has no column v") && text.contains("not compared"),
        "{text}"
    );
    to.batch_execute("ALTER TABLE t RENAME COLUMN w TO v")
        .await
        .unwrap();

    // A follower that stands still is waited for, and then said.
    assert_eq!(walferry.terminate(), 0);
    from.batch_execute("INSERT INTO t VALUES (2, 'y')")
        .await
        .unwrap();
    let (code, text) = verify(&pipeline, &["--patience", "300ms"]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("did not come to") && text.contains("walferry status"),
        "{text}"
    );
    follower.stop();
    let (code, text) = verify(&pipeline, &[]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("follower a: connecting"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_is_compared_now_and_then_if_that_is_set() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i")
        .await;
    let pipeline = Pipeline::with(&leader, &[&follower], "", "verify_every = \"1s\"");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let differing = async |rows: f64| {
        until(&format!("{rows} rows are said to differ"), || async {
            let of = ["differing_rows", "not_compared_tables"];
            let of = of.map(|of| format!("walferry_sink_verified_{of}"));
            let found = (
                metric(&pipeline, &of[0], Some("a")).await,
                metric(&pipeline, &of[1], Some("a")).await,
            );
            // The first comparison may have come before the copy was in effect.
            let is_it = found == (Some(rows), Some(0.0));
            is_it.then_some(()).ok_or(format!("{found:?}"))
        })
        .await;
    };
    differing(0.0).await;
    let wrong = "UPDATE t SET v = 'y' WHERE id = 7; DELETE FROM t WHERE id = 8";
    to.batch_execute(wrong).await.unwrap();
    differing(2.0).await;
    let (_, status) = get(&pipeline, "/v1/status").await.unwrap();
    assert!(
        status.contains("differed from the leader in 2 rows"),
        "{status}"
    );
    let right = "UPDATE t SET v = 'x' WHERE id = 7; INSERT INTO t VALUES (8, 'x')";
    to.batch_execute(right).await.unwrap();
    differing(0.0).await;
    let log = std::fs::read_to_string(&walferry.log).unwrap();
    assert!(
        log.contains("the follower differs from the leader"),
        "{log}"
    );
    assert_eq!(walferry.terminate(), 0);
}
