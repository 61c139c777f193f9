//! 002 types, 005 encodings, 012 collations, 014 types without a binary format.

use crate::scenario::{Scenario, skipped};
use crate::support::assert_equal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nested_types_and_domains_with_functions_in_their_checks_arrive() {
    let mut s = Scenario::new().await;
    s.both(
        "CREATE FUNCTION fits(v int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN v > 10; END';
         CREATE DOMAIN large AS int CHECK (fits(VALUE))",
    )
    .await;
    s.leader(
        "CREATE EXTENSION hstore;
         CREATE TYPE mood AS ENUM ('a', 'b', 'c');
         CREATE TYPE inner_pair AS (a int, b text, c mood);
         CREATE TYPE outer_pair AS (p inner_pair, many inner_pair[], r int4range);
         CREATE TABLE nested (id int PRIMARY KEY, o outer_pair, os outer_pair[], d large, ds large[], h hstore,
                              mr nummultirange, r tstzrange[]);
         CREATE TABLE nested_full (o outer_pair, d large); ALTER TABLE nested_full REPLICA IDENTITY FULL",
    )
    .await;
    let row = "ROW(ROW(1, 'x, \"y\"', 'b')::inner_pair, ARRAY[ROW(NULL, '', 'c')::inner_pair, NULL], '[1,5)')::outer_pair";
    let insert = |id: u32| {
        format!(
            "INSERT INTO nested VALUES ({id}, {row}, ARRAY[{row}, NULL], 12, '{{11,NULL}}', '\"k\"=>NULL, \"\"=>\"v\"',
               '{{[1.1,2),(3,]}}', ARRAY['[2014-08-04, infinity)'::tstzrange]);
             INSERT INTO nested_full VALUES ({row}, 20), (NULL, NULL)"
        )
    };
    s.leader(&insert(1)).await;
    s.start();
    s.equal(&["nested", "nested_full"]).await;
    s.leader(&insert(2)).await;
    s.leader("UPDATE nested SET o.p.a = 9, d = 99, os[2] = o; UPDATE nested_full SET o.r = 'empty' WHERE d = 20")
        .await;
    s.leader("DELETE FROM nested_full WHERE o IS NULL; DELETE FROM nested WHERE id = 1")
        .await;
    s.equal(&["nested", "nested_full"]).await;
    s.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_without_a_binary_format_and_wider_columns_arrive() {
    let mut s = Scenario::new().await;
    s.leader(
        "CREATE EXTENSION pageinspect SCHEMA public;
         CREATE TABLE formats (id int PRIMARY KEY, a aclitem, ts int[], n numeric, short int, words varchar(10))",
    )
    .await;
    s.follower(
        "CREATE TABLE formats (id bigint PRIMARY KEY, a aclitem, ts int[], n numeric, short bigint, words text)",
    )
    .await;
    s.leader("INSERT INTO formats VALUES (1, 'postgres=r/postgres', '{1,2}', 1e-20, 5, 'abc')")
        .await;
    s.start();
    s.leader("INSERT INTO formats SELECT 2, a, '{{1},{2}}', 'NaN', -1, 'def' FROM formats; UPDATE formats SET short = 7 WHERE id = 1")
        .await;
    s.equal(&["formats"]).await;
    s.end().await;
}

const LATIN: &str = "TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_in_another_encoding_than_utf8_is_refused_before_anything_is_made() {
    let mut s = Scenario::with_databases(LATIN, "", "").await;
    s.leader("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
    let check = s.pipeline.command(&["check"]).output().unwrap();
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(check.status.code(), Some(3), "{text}");
    assert!(text.matches("LATIN1").count() == 2, "{text}");
    s.start();
    s.halts(&["LATIN1", "UTF8"]).await;
    s.end_halted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_equal_under_the_followers_collation_only_find_their_rows() {
    let mut s = Scenario::new().await;
    let collation = "CREATE COLLATION nondeterministic (provider = icu, locale = 'und', deterministic = false);";
    if let Err(error) = s.from.batch_execute(collation).await {
        skipped(&format!("these servers have no ICU: {error}"));
        return;
    }
    s.follower(collation).await;
    let tables = "CREATE TABLE keyed (a text COLLATE nondeterministic PRIMARY KEY, b text);
                  CREATE TABLE whole (a text COLLATE nondeterministic, b text); ALTER TABLE whole REPLICA IDENTITY FULL;";
    s.both(tables).await;
    s.leader("INSERT INTO keyed VALUES (U&'\\00E4bc', 'foo'); INSERT INTO whole VALUES (U&'\\00E4bc', 'foo')")
        .await;
    s.start();
    s.equal(&["keyed", "whole"]).await;
    // The follower's row in another normal form: equal to its collation, other bytes.
    s.follower("UPDATE keyed SET a = U&'\\0061\\0308bc'").await;
    s.leader("UPDATE keyed SET b = 'bar'").await;
    s.caught_up().await;
    let b = Scenario::ask(&s.to, "SELECT b FROM keyed").await;
    assert_eq!(b, "bar");
    // A key that changes into one that its collation calls the same is a change all the same.
    s.leader("UPDATE keyed SET a = U&'\\0061\\0308bc'; UPDATE whole SET a = U&'\\0061\\0308bc'")
        .await;
    s.equal(&["keyed", "whole"]).await;
    s.leader("UPDATE whole SET b = 'bar'; DELETE FROM keyed")
        .await;
    s.equal(&["keyed", "whole"]).await;
    // Without a key rows are compared byte by byte: another form is another row.
    s.follower("UPDATE whole SET a = U&'\\00E4bc'").await;
    s.leader("UPDATE whole SET b = 'baz'").await;
    s.halts(&["public.whole", "diverged"]).await;
    s.end_halted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_another_collation_as_its_default_is_equal() {
    let mut s = Scenario::new().await;
    s.leader("CREATE TABLE t (a text COLLATE \"C\" PRIMARY KEY, b text)")
        .await;
    let posix = "CREATE TABLE t (a text COLLATE \"en-x-icu\" PRIMARY KEY, b text)";
    if let Err(error) = s.to.batch_execute(posix).await {
        skipped(&format!("these servers have no ICU: {error}"));
        return;
    }
    let letters = "INSERT INTO t SELECT c || n, n FROM unnest('{a,B,b,A,ä,Z,_}'::text[]) c, generate_series(1, 30) n";
    s.leader(letters).await;
    s.start();
    s.leader("UPDATE t SET b = '!' || b; UPDATE t SET a = 'moved ' || a WHERE b < '!2'; DELETE FROM t WHERE a LIKE 'B%'")
        .await;
    s.equal(&["t"]).await;
    assert_equal(&s.from, &s.to, &["t"]).await;
    s.end().await;
}
