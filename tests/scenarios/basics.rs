//! 001 changes of all kinds, 004 the first copy, 024 and 025 tables that come and go, 026 what is counted.

use crate::scenario::Scenario;
use crate::support::{assert_equal, until};

/// Tables of the first scenario; the follower's have other columns, orders and identities.
const TABLES: &[&str] = &["keyed", "included", "whole", "only_key", "moved"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inserts_updates_and_deletes_arrive_for_every_replica_identity() {
    let mut s = Scenario::new().await;
    s.leader(
        "CREATE TABLE keyed (a int PRIMARY KEY, b text);
         CREATE TABLE included (a int, b text, PRIMARY KEY (a) INCLUDE (b));
         CREATE TABLE whole (a int, b text); ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE only_key (a int PRIMARY KEY);
         CREATE TABLE moved (a int PRIMARY KEY, b text); CREATE UNIQUE INDEX moved_b ON moved (b);
         ALTER TABLE moved ALTER b SET NOT NULL, REPLICA IDENTITY USING INDEX moved_b;
         CREATE TABLE mixed (a int PRIMARY KEY, b text, c text);
         INSERT INTO keyed SELECT i, 'row ' || i FROM generate_series(1, 200) i;
         INSERT INTO whole SELECT i % 10, NULL FROM generate_series(1, 50) i;
         INSERT INTO mixed VALUES (1, 'one', 'i')",
    )
    .await;
    s.follower("CREATE TABLE mixed (c text, d text DEFAULT 'local', b text, a int PRIMARY KEY)")
        .await;
    s.start();
    s.equal(TABLES).await;
    let steps = [
        "INSERT INTO included SELECT i, 'x' || i FROM generate_series(1, 50) i; DELETE FROM included WHERE a > 20; UPDATE included SET b = b || '!', a = -a",
        "DELETE FROM keyed WHERE a > 20; UPDATE keyed SET a = -a; UPDATE keyed SET b = NULL WHERE a < -10",
        "UPDATE whole SET b = 'all' WHERE a = 3; DELETE FROM whole WHERE a = 4; INSERT INTO whole VALUES (NULL, NULL), (NULL, 'x')",
        "UPDATE whole SET a = a + 1, b = coalesce(b, '') || '+'; DELETE FROM whole WHERE a IS NULL",
        "INSERT INTO only_key SELECT generate_series(1, 100); UPDATE only_key SET a = a + 1000 WHERE a % 2 = 0; DELETE FROM only_key WHERE a < 10",
        "INSERT INTO moved VALUES (1, 'b1'), (2, 'b2'); UPDATE moved SET b = 'b3' WHERE a = 1; UPDATE moved SET a = 5 WHERE a = 2; DELETE FROM moved WHERE b = 'b3'",
        "INSERT INTO mixed VALUES (2, 'two', 'ii'); UPDATE mixed SET c = 'changed' WHERE a = 1",
    ];
    for step in steps {
        s.leader(step).await;
        s.equal(TABLES).await;
    }
    s.follower_has("mixed", &["(changed,local,one,1)", "(ii,local,two,2)"])
        .await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_only_gets_inserts_needs_full_identity_or_is_left_out() {
    let mut s = Scenario::with("[tables]\nexclude = [\"public.log_without_identity\"]", "").await;
    s.leader(
        "CREATE TABLE log (line text); ALTER TABLE log REPLICA IDENTITY FULL;
         CREATE TABLE log_without_identity (line text)",
    )
    .await;
    s.start();
    s.leader("INSERT INTO log VALUES ('one'), ('two'); INSERT INTO log_without_identity VALUES ('x'); UPDATE log_without_identity SET line = 'y'")
        .await;
    s.equal(&["log"]).await;
    assert_eq!(
        Scenario::ask(&s.to, "to_regclass('log_without_identity')").await,
        "NULL"
    );
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_leaves_out_kinds_of_changes_is_refused() {
    let source = "publication = \"inserts\"\nmanage_publication = false";
    let mut s = Scenario::with(source, "").await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY); CREATE PUBLICATION inserts FOR TABLE t WITH (publish = 'insert')")
        .await;
    s.start();
    s.halts(&["inserts", "does not publish all", "ALTER PUBLICATION"])
        .await;
    s.stop_halted();
    s.leader("ALTER PUBLICATION inserts SET (publish = 'insert, update, delete, truncate')")
        .await;
    s.start();
    s.leader("INSERT INTO t VALUES (1), (2)").await;
    s.leader("DELETE FROM t WHERE a = 1").await;
    s.equal(&["t"]).await;
    // The next insert brings what the publication is now; nothing is taken from it any more.
    s.leader("ALTER PUBLICATION inserts SET (publish = 'insert')")
        .await;
    s.leader("INSERT INTO t VALUES (3)").await;
    s.halts(&["inserts", "does not publish all"]).await;
    s.end_halted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_that_did_not_change_stay_as_they_are() {
    let mut s = Scenario::new().await;
    s.leader(
        "CREATE TABLE large (a int PRIMARY KEY, n int, b text, c text);
         CREATE TABLE large_full (a int, n int, b text); ALTER TABLE large_full REPLICA IDENTITY FULL;
         ALTER TABLE large ALTER b SET STORAGE EXTERNAL, ALTER c SET STORAGE EXTERNAL;
         ALTER TABLE large_full ALTER b SET STORAGE EXTERNAL;
         INSERT INTO large VALUES (1, 1, repeat('xyzzy', 100000), repeat('c', 9000));
         INSERT INTO large_full VALUES (1, 1, repeat('full', 50000))",
    )
    .await;
    s.start();
    s.caught_up().await;
    for step in [
        "UPDATE large SET n = 2; UPDATE large_full SET n = 2",
        "UPDATE large SET a = 2",
        "UPDATE large SET c = c || '!'; UPDATE large_full SET a = 7",
        "INSERT INTO large SELECT 3, n, b, c FROM large; DELETE FROM large WHERE a = 2; UPDATE large SET n = 9",
        "DELETE FROM large_full",
    ] {
        s.leader(step).await;
        s.equal(&["large", "large_full"]).await;
    }
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_the_way_of_a_first_copy_are_said_and_after_their_removal_it_goes_on() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 20)")
        .await;
    s.follower("CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (10)")
        .await;
    s.start();
    s.halts(&["public.t"]).await;
    s.leader("INSERT INTO t VALUES (21)").await;
    s.stop_halted();
    s.follower("TRUNCATE t").await;
    s.start();
    s.equal(&["t"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_made_anew_is_copied_anew() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1), (2); CREATE TABLE other (a int PRIMARY KEY)")
        .await;
    s.start();
    s.equal(&["t"]).await;
    s.stop();
    s.leader("INSERT INTO t VALUES (3); DROP TABLE t; CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (7)")
        .await;
    s.start();
    s.leader("INSERT INTO t VALUES (8)").await;
    s.equal(&["t", "other"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_taken_out_and_in_again_is_whole_and_the_others_miss_nothing() {
    let url = |s: &Scenario| s.servers.leader.url(&s.database);
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE other (a int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await;
    s.start();
    s.equal(&["t", "other"]).await;
    s.stop();
    let settings = format!("kind = \"postgres-source\"\nurl = \"{}\"\n", url(&s));
    let without = format!("{settings}[tables]\nexclude = [\"public.t\"]\n");
    s.pipeline.write("connectors/leader.toml", &without);
    s.start();
    s.leader("INSERT INTO t VALUES (2); INSERT INTO other VALUES (2)")
        .await;
    s.equal(&["other"]).await;
    s.stop();
    s.leader("DELETE FROM t WHERE a = 1").await;
    s.pipeline.write("connectors/leader.toml", &settings);
    s.start();
    s.leader("INSERT INTO t VALUES (3); INSERT INTO other VALUES (3)")
        .await;
    s.equal(&["t", "other"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_joins_although_a_transaction_with_rows_for_it_is_open() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE first (a int PRIMARY KEY)").await;
    s.start();
    s.caught_up().await;
    s.stop();
    s.leader("CREATE TABLE late (a int PRIMARY KEY); INSERT INTO late VALUES (1)")
        .await;
    let open = s.another().await;
    let begun = "BEGIN; INSERT INTO late VALUES (2); INSERT INTO first VALUES (2)";
    open.batch_execute(begun).await.unwrap();
    s.start();
    s.says("table joins the publication").await;
    // The copy waits for the open transaction; the tables in effect do not.
    s.leader("INSERT INTO first VALUES (3)").await;
    until("first goes on", || async {
        let rows = crate::support::content::rows(&s.to, "first").await;
        (rows == ["(3)"]).then_some(()).ok_or(format!("{rows:?}"))
    })
    .await;
    open.batch_execute("INSERT INTO late VALUES (4); COMMIT")
        .await
        .unwrap();
    s.leader("INSERT INTO late VALUES (5)").await;
    s.equal(&["first", "late"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_counted_and_shown_by_status() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY)").await;
    s.start();
    s.caught_up().await;
    s.follower("INSERT INTO t VALUES (1)").await;
    s.leader("INSERT INTO t VALUES (1)").await;
    s.halts(&["public.t"]).await;
    let address = format!("127.0.0.1:{}", s.pipeline.http_port);
    let metrics = get(&address, "/metrics").await;
    let counted = metrics.lines().any(|line| {
        line.starts_with("walferry_errors_total")
            && line.contains("\"halt\"")
            && line.ends_with(" 1")
    });
    assert!(counted, "{metrics}");
    let status = s
        .pipeline
        .command(&["status", "--json"])
        .output()
        .unwrap()
        .stdout;
    let status = String::from_utf8_lossy(&status).into_owned();
    for word in ["halted", "public.t", "remedy"] {
        assert!(status.contains(word), "{word}: {status}");
    }
    s.stop_halted();
    s.follower("DELETE FROM t").await;
    s.start();
    s.equal(&["t"]).await;
    assert_equal(&s.from, &s.to, &["t"]).await;
    s.end().await;
}

async fn get(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: walferry\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
