//! A follower built in a database beside the one in use, which it replaces: readers see whole transactions and no
//! step back all the while.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::{Client, NoTls};
use walferry::model::Lsn;

use crate::support::http::part;
use crate::support::{Pipeline, Postgres, assert_equal, until, wait_caught_up};

const TABLES: &[&str] = &["accounts", "ledger"];
/// Accounts, of 1,000 each: what transfers do not change is their sum.
const ACCOUNTS: i64 = 100;

async fn leader() -> Postgres {
    let leader = Postgres::start("leader");
    leader
        .sql(&format!(
            "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL, note text NOT NULL);
             CREATE TABLE ledger (id bigserial PRIMARY KEY, source int NOT NULL, target int NOT NULL);
             INSERT INTO accounts SELECT i, 1000, repeat('x', 100) FROM generate_series(1, {ACCOUNTS}) i;
             INSERT INTO ledger (source, target) SELECT 0, i FROM generate_series(1, 2000) i"
        ))
        .await;
    leader
}

/// A pipeline whose follower is database `shop`, with all that was there.
async fn pipeline(leader: &Postgres, follower: &Postgres) -> (Pipeline, crate::support::Walferry) {
    follower.sql("CREATE DATABASE shop").await;
    let pipeline = Pipeline::between(&leader.url("postgres"), &[follower.url("shop")], "", "");
    let walferry = pipeline.run();
    let (from, to) = (leader.client().await, follower.client_on("shop").await);
    wait_caught_up(&from, &to, "a").await;
    (pipeline, walferry)
}

/// A load that the machine keeps up with while several of these tests run: as fast as can be, they take so much of two
/// cores that Kafka is fenced for minutes.
fn pace() -> tokio::time::Interval {
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    pace
}

/// Transfers between accounts until it is told to stop.
async fn write(leader: &Postgres, stop: &AtomicBool) {
    let client = leader.client().await;
    let mut pace = pace();
    for number in 0.. {
        pace.tick().await;
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (source, target) = (number % ACCOUNTS + 1, (number * 7 + 3) % ACCOUNTS + 1);
        client
            .batch_execute(&format!(
                "BEGIN; UPDATE accounts SET balance = balance - 3 WHERE id = {source};
                 UPDATE accounts SET balance = balance + 3 WHERE id = {target};
                 INSERT INTO ledger (source, target) VALUES ({source}, {target}); COMMIT"
            ))
            .await
            .unwrap();
    }
}

const LOOK: &str = "SELECT (SELECT sum(balance)::bigint FROM accounts), (SELECT lsn::text FROM walferry.position), \
    (SELECT oid FROM pg_database WHERE datname = current_database()), current_setting('work_mem')";

/// Looks at the follower as one of its readers, who connects anew when he must; how many looks each database has
/// had, in their order.
async fn read(follower: &Postgres, stop: &AtomicBool) -> Vec<(u32, u32)> {
    let url = format!("postgres://reader@127.0.0.1:{}/shop", follower.port);
    let (mut looks, mut shown) = (Vec::<(u32, u32)>::new(), Lsn::ZERO);
    let mut pace = pace();
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        // While names change a new session is refused, or waits.
        let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else {
            continue;
        };
        tokio::spawn(connection);
        while let Ok(row) = client.query_one(LOOK, &[]).await {
            let (sum, lsn): (i64, Option<String>) = (row.get(0), row.get(1));
            assert_eq!(sum, ACCOUNTS * 1000, "a torn transaction");
            let lsn: Lsn = lsn.expect("all tables are in effect").parse().unwrap();
            assert!(
                lsn >= shown,
                "the follower stepped back from {shown} to {lsn}"
            );
            shown = lsn;
            assert_eq!(row.get::<_, &str>(3), "7MB");
            match looks.last_mut() {
                Some((oid, looks)) if *oid == row.get::<_, u32>(2) => *looks += 1,
                _another => looks.push((row.get(2), 1)),
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
            pace.tick().await;
        }
    }
    looks
}

/// Names of databases that begin with `shop`.
async fn databases(follower: &Postgres) -> Vec<String> {
    let query = "SELECT datname::text FROM pg_database WHERE datname LIKE 'shop%' ORDER BY 1";
    let rows = follower.client().await.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn one(client: &Client, query: &str) -> String {
    let row = client.query_one(query, &[]).await;
    row.unwrap_or_else(|error| panic!("{query}: {error:?}"))
        .get(0)
}

/// Runs a command beside whatever else goes on; its exit code, `None` when it died, and all it said.
async fn run(
    pipeline: &Pipeline,
    arguments: &[&str],
    die_at: Option<&str>,
) -> (Option<i32>, String) {
    let mut command = pipeline.command(arguments);
    if let Some(point) = die_at {
        command.env("WALFERRY_DIE_AT", point);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_built_beside_takes_the_place_of_the_one_in_use_under_its_readers() {
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    let (pipeline, walferry) = pipeline(&leader, &follower).await;
    let old = follower.client_on("shop").await;
    old.batch_execute(
        "CREATE ROLE reader LOGIN; CREATE ROLE auditor; CREATE ROLE keeper;
         GRANT SELECT ON accounts TO reader; GRANT SELECT (id), UPDATE (target) ON ledger TO auditor;
         GRANT USAGE ON SCHEMA walferry TO reader; GRANT SELECT ON walferry.position TO reader;
         REVOKE CONNECT ON DATABASE shop FROM PUBLIC; GRANT CONNECT ON DATABASE shop TO reader;
         REVOKE EXECUTE ON FUNCTION walferry.wait_for FROM PUBLIC;
         ALTER TABLE ledger OWNER TO keeper;
         ALTER DATABASE shop SET work_mem = '7MB';
         ALTER ROLE auditor IN DATABASE shop SET search_path = shop, \"$user\";
         COMMENT ON DATABASE shop IS 'our shop';
         CREATE INDEX own ON accounts (balance); COMMENT ON INDEX own IS 'reports';
         UPDATE ledger SET target = -1 WHERE source = 0 AND id % 3 = 0",
    )
    .await
    .unwrap();
    drop(old);
    let stop = AtomicBool::new(false);
    let building = async {
        let done = run(&pipeline, &["rebuild", "a", "--beside", "shop_new"], None).await;
        let from = leader.client().await;
        wait_caught_up(&from, &follower.client_on("shop").await, "a").await;
        stop.store(true, Ordering::Relaxed);
        done
    };
    let (looks, (), (code, said)) =
        tokio::join!(read(&follower, &stop), write(&leader, &stop), building);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("is kept as shop_before_"), "{said}");
    assert!(
        looks.len() == 2 && looks[0].1 > 5 && looks[1].1 > 0,
        "{looks:?}"
    );

    let names = databases(&follower).await;
    assert!(names.len() == 2 && names[0] == "shop", "{names:?}");
    let (from, to) = (leader.client().await, follower.client_on("shop").await);
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    let before = follower.client_on(&names[1]).await;
    let broken = "SELECT count(*)::text FROM ledger WHERE target = -1";
    assert_eq!(
        (one(&before, broken).await, one(&to, broken).await),
        ("666".to_owned(), "0".to_owned())
    );
    for query in [
        "SELECT relacl::text FROM pg_class WHERE oid = 'accounts'::regclass",
        "SELECT string_agg(attname || attacl::text, ' ' ORDER BY attnum) FROM pg_attribute \
         WHERE attrelid = 'ledger'::regclass",
        "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'ledger'::regclass",
        "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'walferry'",
        "SELECT relacl::text FROM pg_class WHERE oid = 'walferry.position'::regclass",
        "SELECT proacl::text FROM pg_proc WHERE oid = 'walferry.wait_for'::regproc",
        "SELECT datacl::text FROM pg_database WHERE datname = current_database()",
        "SELECT string_agg(setrole::regrole || setconfig::text, ' ' ORDER BY setrole) FROM pg_db_role_setting s \
         JOIN pg_database d ON d.oid = setdatabase WHERE datname = current_database()",
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()",
        "SELECT pg_get_indexdef(oid) || obj_description(oid, 'pg_class') FROM pg_class WHERE relname = 'own'",
    ] {
        assert_eq!(one(&to, query).await, one(&before, query).await, "{query}");
    }
    let said = pipeline.do_it(&["verify", "a"]);
    assert!(said.contains("EQUAL: a holds"), "{said}");
    // The builder's name holds nothing any more, and nobody had to do anything about the sink.
    let (code, said) = pipeline.say(&["sink", "forget", "a@shop_new"]);
    assert!(code == 2 && said.contains("name one of: a"), "{said}");
    assert!(
        !walferry.output().contains("halted"),
        "{}",
        walferry.output()
    );
    assert_eq!(part(&pipeline, "a").await.unwrap()["state"], "streaming");
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_beside_that_is_killed_at_any_step_goes_on_from_there() {
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    let (pipeline, walferry) = pipeline(&leader, &follower).await;
    follower
        .sql("CREATE ROLE reader LOGIN SUPERUSER; ALTER DATABASE shop SET work_mem = '7MB'")
        .await;
    let rebuild = ["rebuild", "a", "--beside", "shop_new"];
    let stop = AtomicBool::new(false);
    let killing = async {
        for point in [
            "BesideMade",
            "RowsLoaded",
            "BeforeEffect",
            "InEffect",
            "BesideLevel",
            "BesideRenaming",
            "BesideRenamed",
        ] {
            let (code, said) = run(&pipeline, &rebuild, Some(point)).await;
            assert_eq!(code, None, "{point}: {said}");
            let names = databases(&follower).await;
            match point {
                "BesideRenamed" => assert!(
                    names[0] == "shop" && names[1].contains("_before_"),
                    "{names:?}"
                ),
                _before => {
                    assert_eq!(names, ["shop", "shop_new"], "{point}");
                }
            }
        }
        let (code, said) = run(&pipeline, &rebuild, None).await;
        assert!(
            code == Some(0) && said.contains("has taken its place"),
            "{said}"
        );
        stop.store(true, Ordering::Relaxed);
    };
    let (looks, (), ()) = tokio::join!(read(&follower, &stop), write(&leader, &stop), killing);
    assert_eq!(looks.len(), 2, "{looks:?}");
    assert_eq!(databases(&follower).await.len(), 2);
    let (code, said) = pipeline.say(&["sink", "forget", "a@shop_new"]);
    assert!(code == 2 && said.contains("name one of: a"), "{said}");
    let (from, to) = (leader.client().await, follower.client_on("shop").await);
    let mark = "SELECT coalesce(shobj_description(oid, 'pg_database'), 'none') FROM pg_database \
        WHERE datname = 'shop'";
    assert_eq!(one(&to, mark).await, "none");
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    assert!(
        !walferry.output().contains("halted"),
        "{}",
        walferry.output()
    );
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_beside_that_is_stopped_says_how_it_goes_on_and_does() {
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    let (pipeline, walferry) = pipeline(&leader, &follower).await;
    let rebuild = ["rebuild", "a", "--beside", "shop_new"];
    // The command cannot hold the follower in use while somebody else does.
    let holder = follower.client_on("shop").await;
    holder
        .batch_execute("BEGIN; SELECT FROM walferry.checkpoint FOR UPDATE")
        .await
        .unwrap();
    let child = pipeline
        .command(&rebuild)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the new follower has all tables", || async {
        let url = follower.url("shop_new");
        let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else {
            return Err("it cannot be connected to".to_owned());
        };
        tokio::spawn(connection);
        let query = "SELECT count(*) FROM walferry.checkpoint WHERE NOT copying";
        match client.query_one(query, &[]).await {
            Ok(row) if row.get::<_, i64>(0) == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    crate::support::process::signal(&child.id().to_string(), "TERM");
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = output.await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("run the same command again"), "{said}");
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(databases(&follower).await, ["shop", "shop_new"]);
    let said = pipeline.do_it(&rebuild);
    assert!(said.contains("is built on"), "{said}");
    let (from, to) = (leader.client().await, follower.client_on("shop").await);
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_new_database_would_lack_is_named_and_lost_only_when_it_may_be() {
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    let (pipeline, walferry) = pipeline(&leader, &follower).await;
    let old = follower.client_on("shop").await;
    old.batch_execute(
        "CREATE VIEW rich AS SELECT id FROM accounts WHERE balance > 1000;
         CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY); CREATE TYPE mood AS ENUM ('good', 'bad');
         CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2';
         ALTER TABLE accounts ADD COLUMN mine int, ADD CONSTRAINT small CHECK (balance < 1000000);
         CREATE UNIQUE INDEX pair ON ledger (source, id);
         ALTER TABLE ledger ENABLE ROW LEVEL SECURITY; CREATE POLICY all_of ON ledger USING (true)",
    )
    .await
    .unwrap();
    let rebuild = ["rebuild", "a", "--beside", "shop_new"];
    let (code, said) = pipeline.say(&rebuild);
    assert_eq!(code, 2, "{said}");
    for part in [
        "view public.rich",
        "table public.notes",
        "sequence public.notes_id_seq",
        "type public.mood",
        "function public.twice(integer)",
        "column mine of table public.accounts",
        "constraint small",
        "index public.pair",
        "policy all_of",
        "row security of table public.ledger",
        "--leave-behind",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("more:"), "{said}");
    assert_eq!(databases(&follower).await, ["shop"]);
    let (code, said) = pipeline.say(&[&rebuild[..], &["--leave-behind"]].concat());
    assert!(code == 0 && said.contains("view public.rich"), "{said}");
    let (from, to) = (leader.client().await, follower.client_on("shop").await);
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    let view = "SELECT coalesce(to_regclass('rich')::text, 'none')";
    let names = databases(&follower).await;
    let before = follower.client_on(&names[1]).await;
    assert_eq!(
        (one(&to, view).await, one(&before, view).await),
        ("none".to_owned(), "rich".to_owned())
    );
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_renamed_is_refused_before_anything_is_made() {
    let (leader, follower) = (leader().await, Postgres::start("follower"));
    let (pipeline, walferry) = pipeline(&leader, &follower).await;
    follower.sql("CREATE DATABASE shop_full").await;
    let full = follower.client_on("shop_full").await;
    full.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    let made = databases(&follower).await;
    let refused = |arguments: &[&str], part: &str| {
        let (code, said) = pipeline.say(&[&["rebuild", "a"], arguments].concat());
        assert!(code == 2 && said.contains(part), "{part}: {code} {said}");
    };
    refused(&["--beside", "shop"], "the database in use");
    refused(&["--beside", "postgres"], "of this name");
    refused(
        &["--beside", "shop_full"],
        "not empty: it has table public.t",
    );
    refused(
        &["--beside", "shop_new", "--tables", "ledger"],
        "with all of them",
    );
    refused(
        &["--beside", "shop_new", "--to-lsn", "0/1"],
        "shows as much",
    );
    refused(
        &["--beside", "shop_new", "--detach"],
        "by the command itself",
    );
    refused(&["--leave-behind"], "with --beside only");
    let shop = follower.client_on("shop").await;
    shop.batch_execute(
        "INSERT INTO walferry.checkpoint (pipeline, sink, owner, version) VALUES ('other', 'b', '', 0)",
    )
    .await
    .unwrap();
    refused(&["--beside", "shop_new"], "sink b of pipeline other");
    shop.batch_execute("DELETE FROM walferry.checkpoint WHERE pipeline = 'other'")
        .await
        .unwrap();

    // A role gets one right after the other.
    follower.sql("CREATE DATABASE bare").await;
    follower.sql("CREATE ROLE feeder LOGIN").await;
    let url = format!("postgres://feeder@127.0.0.1:{}/bare", follower.port);
    pipeline.write(
        "connectors/a.toml",
        &format!("kind = \"postgres\"\nurl = \"{url}\"\n"),
    );
    for (part, next) in [
        ("may not create and rename", "ALTER ROLE feeder CREATEDB"),
        (
            "does not own database bare",
            "ALTER DATABASE bare OWNER TO feeder",
        ),
        (
            "may not end the sessions",
            "GRANT pg_signal_backend TO feeder",
        ),
        ("no checkpoint in database bare", ""),
    ] {
        refused(&["--beside", "shop_new"], part);
        follower.sql(next).await;
    }
    pipeline.write(
        "connectors/a.toml",
        &format!(
            "kind = \"postgres\"\nurl = \"{}\"\ncreate_tables = false\n",
            follower.url("shop")
        ),
    );
    refused(&["--beside", "shop_new"], "create_tables = false");
    assert_eq!(databases(&follower).await, made);
    assert_eq!(walferry.terminate(), 0);
}
