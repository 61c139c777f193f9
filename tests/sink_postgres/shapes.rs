//! Making and checking the follower's tables.

use std::sync::Arc;

use walferry::model::{TableName, TableSchema, UserType};
use walferry::sink::Sink;
use walferry::sink::postgres::PostgresSink;

use crate::harness::{A, N, Pair, Plan, V, Value, dump, halted, read_schema, sink_settings};

#[tokio::test]
async fn a_table_that_cannot_take_the_rows_is_refused_with_the_statement_that_helps() {
    let mut pair = Pair::new("unfit").await;
    pair.leader
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, a numeric(10,2), b text)")
        .await
        .unwrap();
    let schema = pair.schema("t").await;
    let cases = [
        (
            "CREATE TABLE t (id int PRIMARY KEY, a numeric(10,2))",
            "column b is missing",
            "ADD COLUMN \"b\" text",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, a numeric(10,3), b text)",
            "a is of type numeric(10,3) on the follower and numeric(10,2) on the leader",
            "ALTER COLUMN \"a\" TYPE numeric(10,2)",
        ),
        (
            "CREATE TABLE t (id int, a numeric(10,2), b text); CREATE INDEX ON t (id); CREATE UNIQUE INDEX ON t (id) WHERE id > 5",
            "no unique index on its key (id)",
            "CREATE UNIQUE INDEX ON \"public\".\"t\" (\"id\")",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, a numeric(10,2), b text, extra int NOT NULL)",
            "extra exists only on the follower",
            "ALTER COLUMN \"extra\" DROP NOT NULL",
        ),
        ("CREATE VIEW t AS SELECT 1 AS id", "is no table", "ordinary"),
    ];
    for (made, what, remedy) in cases {
        pair.follower.batch_execute(made).await.unwrap();
        let error = halted(pair.sink.prepare_table(&schema, None).await);
        assert!(error.what().contains(what), "{error}");
        assert!(error.remedy().unwrap().contains(remedy), "{error}");
        let kind = if made.contains("VIEW") {
            "VIEW"
        } else {
            "TABLE"
        };
        pair.follower
            .batch_execute(&format!("DROP {kind} t"))
            .await
            .unwrap();
    }
    // The rights to make it are the operator's to give.
    let mut settings = sink_settings("postgres", &pair.name);
    settings.create_tables = false;
    let mut careful = PostgresSink::new("shop", "copy", "me", settings);
    careful.open().await.unwrap();
    let error = halted(careful.prepare_table(&schema, None).await);
    assert!(
        error
            .remedy()
            .unwrap()
            .contains("CREATE TABLE \"public\".\"t\""),
        "{error}"
    );
    pair.sink.prepare_table(&schema, None).await.unwrap();
    careful.prepare_table(&schema, None).await.unwrap();
}

#[tokio::test]
async fn columns_that_the_follower_fills_itself_are_left_alone() {
    let mut pair = Pair::new("filled").await;
    let made = "CREATE TABLE t (id int PRIMARY KEY, a int, double int)";
    pair.leader.batch_execute(made).await.unwrap();
    pair.follower
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, a int GENERATED ALWAYS AS IDENTITY, \
             double int GENERATED ALWAYS AS (a * 2) STORED, own text DEFAULT 'mine' NOT NULL)",
        )
        .await
        .unwrap();
    let schema = pair.schema("t").await;
    pair.sink.prepare_table(&schema, None).await.unwrap();
    let plan = Plan::new(&schema)
        .insert(&[V("1"), V("5"), V("10")])
        .insert(&[V("2"), V("6"), V("12")]);
    pair.apply(vec![plan.done()]).await.unwrap();
    let plan = Plan::new(&schema)
        .update(&[V("1"), V("7"), V("14")])
        .shift(&[V("2"), A, A], &[V("3"), A, A]);
    pair.apply(vec![plan.done()]).await.unwrap();
    let plan = Plan::new(&schema).update(&[V("1"), V("8"), V("16")]);
    pair.apply(vec![plan.done()]).await.unwrap();
    let row = pair
        .follower
        .query_one(
            "SELECT string_agg(concat_ws(',', id, a, double, own), ' ' ORDER BY id) FROM t",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "1,8,16,mine 3,6,12,mine");
}

#[tokio::test]
async fn any_name_and_any_number_of_columns_will_do() {
    let mut pair = Pair::new("odd").await;
    let emoji = "😀".repeat(15);
    for (number, name) in ["Ups \"x\".y", emoji.as_str(), "select", "a'b\\c $1"]
        .into_iter()
        .enumerate()
    {
        let quoted = name.replace('"', "\"\"");
        pair.leader
            .batch_execute(&format!(
                "CREATE SCHEMA \"s{number} {quoted}\"; \
                 CREATE TABLE \"s{number} {quoted}\".\"{quoted}\" (\"{quoted}\" int PRIMARY KEY, \"own {number}\" text); \
                 INSERT INTO \"s{number} {quoted}\".\"{quoted}\" VALUES (1, 'x'), (2, NULL)"
            ))
            .await
            .unwrap();
        let cut: String = format!("s{number} {name}");
        // Postgres cuts identifiers at 63 bytes, between characters.
        let end = (0..=63.min(cut.len()))
            .rev()
            .find(|&at| cut.is_char_boundary(at))
            .unwrap();
        let cut = &cut[..end];
        let schema = Arc::new(read_schema(&pair.leader, cut, name, vec![]).await);
        pair.sink.prepare_table(&schema, None).await.unwrap();
        pair.load(&schema).await;
        let plan = Plan::new(&schema).delete(&[V("2"), A]).insert(&[V("2"), N]);
        pair.apply(vec![plan.done()]).await.unwrap();
        let plan = Plan::new(&schema)
            .shift(&[V("1"), A], &[V("3"), A])
            .update(&[V("2"), V("y")]);
        pair.apply(vec![plan.done()]).await.unwrap();
        let plan = Plan::new(&schema)
            .shift(&[V("3"), A], &[V("1"), A])
            .update(&[V("2"), N]);
        pair.apply(vec![plan.done()]).await.unwrap();
        pair.assert_equal(&schema).await;
    }
}

#[tokio::test]
async fn a_table_may_have_1600_columns_or_none() {
    let mut pair = Pair::new("wide").await;
    let columns: Vec<String> = (1..1600).map(|n| format!("c{n} int2")).collect();
    let wide = format!(
        "CREATE TABLE wide (id int PRIMARY KEY, {}); INSERT INTO wide (id, c1599) VALUES (1, 7), (2, 8)",
        columns.join(", ")
    );
    let schema = pair.table(&wide, "wide").await;
    pair.load(&schema).await;
    let rows = dump(&pair.leader, &schema).await;
    let mut cells: Vec<Value<'_>> = rows[0].iter().map(|c| c.as_deref().map_or(N, V)).collect();
    let plan = Plan::new(&schema).update(&cells).delete(&{
        let mut key = vec![A; 1600];
        key[0] = V("2");
        key
    });
    pair.apply(vec![plan.done()]).await.unwrap();
    let mut old = vec![A; 1600];
    old[0] = V("1");
    cells[0] = V("2");
    cells[1599] = V("8");
    let plan = Plan::new(&schema).shift(&old, &cells);
    pair.apply(vec![plan.done()]).await.unwrap();
    cells[0] = V("1");
    cells[1599] = V("7");
    let plan = Plan::new(&schema).insert(&cells);
    pair.apply(vec![plan.done()]).await.unwrap();
    pair.assert_equal(&schema).await;

    let none = "CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES";
    let schema = pair.table(none, "nothing").await;
    pair.sink.begin(pair.at.as_ref()).await.unwrap();
    pair.sink.empty(&schema.table).await.unwrap();
    pair.commit().await.unwrap();
    let plan = Plan::new(&schema)
        .insert_next(&[])
        .insert_next(&[])
        .insert_next(&[])
        .delete_next(&[]);
    pair.apply(vec![plan.done()]).await.unwrap();
    let count = pair
        .follower
        .query_one("SELECT count(*) FROM nothing", &[])
        .await
        .unwrap();
    assert_eq!(count.get::<_, i64>(0), 2);
}

#[tokio::test]
async fn a_new_enum_label_of_the_leader_is_added_in_its_place() {
    let mut pair = Pair::new("labels").await;
    let t = "CREATE TYPE mood AS ENUM ('b', 'd'); CREATE TABLE t (id int PRIMARY KEY, m mood)";
    pair.leader.batch_execute(t).await.unwrap();
    let with = |labels: &[&str]| {
        vec![UserType::Enum {
            name: TableName::new("public", "mood"),
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
        }]
    };
    for labels in [&["b", "d"][..], &["a", "b", "c", "d", "e"][..]] {
        let schema: TableSchema = read_schema(&pair.leader, "public", "t", with(labels)).await;
        pair.sink.prepare_table(&schema, None).await.unwrap();
        let row = pair
            .follower
            .query_one(
                "SELECT array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = 'mood'::regtype",
                &[],
            )
            .await
            .unwrap();
        assert_eq!(row.get::<_, Vec<String>>(0), labels);
    }
}

#[tokio::test]
async fn a_partitioned_table_of_the_follower_is_written_through_its_root() {
    let mut pair = Pair::new("parts").await;
    let t = "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT n, 'x' FROM generate_series(1, 300) n";
    pair.leader.batch_execute(t).await.unwrap();
    pair.follower
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY RANGE (id); \
             CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100); CREATE TABLE t2 PARTITION OF t DEFAULT",
        )
        .await
        .unwrap();
    let schema = pair.schema("t").await;
    pair.sink.prepare_table(&schema, None).await.unwrap();
    pair.load(&schema).await;
    pair.leader
        .batch_execute("UPDATE t SET id = 1000 WHERE id = 5; UPDATE t SET a = 'y' WHERE id IN (6, 200); DELETE FROM t WHERE id IN (7, 201)")
        .await
        .unwrap();
    let plan = Plan::new(&schema)
        .delete(&[V("7"), A])
        .delete(&[V("201"), A])
        .update(&[V("6"), V("y")])
        .update(&[V("200"), V("y")])
        .shift(&[V("5"), A], &[V("1000"), A]);
    pair.apply(vec![plan.done()]).await.unwrap();
    pair.assert_equal(&schema).await;
}

#[tokio::test]
async fn a_column_that_is_wider_on_the_follower_takes_old_and_new_records() {
    let mut pair = Pair::new("wider").await;
    let t = "CREATE TABLE t (id int PRIMARY KEY, a numeric(6,2), b varchar(3)); \
             CREATE TABLE k (a int, b numeric(6,2)); ALTER TABLE k REPLICA IDENTITY FULL";
    let old = pair.table(t, "t").await;
    let old_keyless = pair.schema("k").await;
    pair.sink.prepare_table(&old_keyless, None).await.unwrap();
    let plan = Plan::new(&old)
        .insert(&[V("1"), V("1.50"), V("x")])
        .insert(&[V("2"), V("2.50"), V("y")]);
    let keyless = Plan::new(&old_keyless).insert_next(&[V("1"), V("1.50")]);
    pair.apply(vec![plan.done(), keyless.done()]).await.unwrap();

    let alter = "ALTER TABLE t ALTER id TYPE bigint, ALTER a TYPE numeric(8,3), ALTER b TYPE text; \
                 ALTER TABLE k ALTER a TYPE bigint, ALTER b TYPE numeric";
    pair.leader.batch_execute(alter).await.unwrap();
    let (new, new_keyless) = (pair.schema("t").await, pair.schema("k").await);
    let error = halted(pair.sink.prepare_table(&new, None).await);
    assert!(error.remedy().unwrap().contains("TYPE bigint"), "{error}");
    pair.follower.batch_execute(alter).await.unwrap();

    // As after the restart: all versions of a batch are prepared before its first row.
    pair.at = pair.sink.open().await.unwrap();
    for schema in [&old, &new, &old_keyless, &new_keyless] {
        pair.sink.prepare_table(schema, None).await.unwrap();
    }
    let before = Plan::new(&old)
        .update(&[V("1"), V("7.25"), A])
        .insert(&[V("3"), N, V("abc")])
        .delete(&[V("2"), A, A]);
    let after = Plan::new(&new)
        .update(&[V("3"), V("99999.125"), V("longer than three")])
        .insert(&[V("5000000000"), V("0.001"), N]);
    let keyless_before = Plan::new(&old_keyless)
        .update_next(&[V("1"), V("1.50")], &[V("2"), V("1.50")])
        .insert_next(&[V("8"), V("8.00")]);
    let keyless_after = Plan::new(&new_keyless).delete_next(&[V("2"), V("1.50")]);
    let plans = vec![
        before.done(),
        after.done(),
        keyless_before.done(),
        keyless_after.done(),
    ];
    pair.apply(plans).await.unwrap();
    pair.leader
        .batch_execute(
            "INSERT INTO t VALUES (1, 7.25, 'x'), (3, 99999.125, 'longer than three'), \
             (5000000000, 0.001, NULL); INSERT INTO k VALUES (8, 8.00)",
        )
        .await
        .unwrap();
    pair.assert_equal(&new).await;
    pair.assert_equal(&new_keyless).await;
}

#[tokio::test]
async fn a_table_that_foreign_keys_point_at_is_emptied_without_a_time_out() {
    let mut pair = Pair::new("referenced").await;
    let t = "CREATE TABLE t (id int PRIMARY KEY)";
    pair.follower
        .batch_execute(&format!(
            "{t}; INSERT INTO t SELECT generate_series(1, 300000); \
             CREATE TABLE other (id int REFERENCES t)"
        ))
        .await
        .unwrap();
    let mut settings = sink_settings("postgres", &pair.name);
    settings.statement_timeout = std::time::Duration::from_millis(50);
    pair.sink = PostgresSink::new("shop", "copy", "me", settings);
    pair.sink.open().await.unwrap();
    let schema = pair.table(t, "t").await;
    let plan = Plan::new(&schema).truncate();
    pair.apply(vec![plan.done()]).await.unwrap();
    assert!(dump(&pair.follower, &schema).await.is_empty());
}

#[tokio::test]
async fn columns_renamed_and_dropped_on_the_follower_take_records_of_both_shapes() {
    let mut pair = Pair::new("renamed").await;
    let t = "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, b int, c text); \
             CREATE TABLE k (a text, b int); ALTER TABLE k REPLICA IDENTITY FULL";
    let old = pair.table(t, "t").await;
    let old_keyless = pair.schema("k").await;
    pair.sink.prepare_table(&old_keyless, None).await.unwrap();
    let plan = Plan::new(&old)
        .insert(&[V("1"), V("x"), V("10"), V("c1")])
        .insert(&[V("2"), V("y"), V("20"), V("c2")])
        .insert(&[V("3"), V("z"), V("30"), V("c3")]);
    let keyless = Plan::new(&old_keyless).insert_next(&[V("k"), V("1")]);
    pair.apply(vec![plan.done(), keyless.done()]).await.unwrap();

    let alter = "ALTER TABLE t RENAME id TO number; ALTER TABLE t RENAME a TO id; \
                 ALTER TABLE t ADD a text DEFAULT 'new'; ALTER TABLE t DROP b; \
                 ALTER TABLE k RENAME a TO b2; ALTER TABLE k DROP b";
    pair.leader.batch_execute(alter).await.unwrap();
    let (new, new_keyless) = (pair.schema("t").await, pair.schema("k").await);
    let error = halted(pair.sink.prepare_table(&new, None).await);
    assert!(error.what().contains("column number is missing"), "{error}");
    assert!(
        error.remedy().unwrap().contains("the leader's own DDL"),
        "{error}"
    );
    pair.follower.batch_execute(alter).await.unwrap();

    // As after the restart.
    pair.at = pair.sink.open().await.unwrap();
    for (schema, newest) in [
        (&old, Some(&*new)),
        (&new, None),
        (&old_keyless, Some(&*new_keyless)),
        (&new_keyless, None),
    ] {
        pair.sink.prepare_table(schema, newest).await.unwrap();
    }
    let before = Plan::new(&old)
        .update(&[V("1"), V("y"), V("11"), A])
        .update(&[V("2"), V("x"), A, V("c2!")])
        .shift(&[V("3"), A, A, A], &[V("4"), V("w"), V("40"), A])
        .insert(&[V("5"), V("v"), V("50"), N]);
    let after = Plan::new(&new)
        .update(&[V("5"), V("v2"), V("c5"), V("a5")])
        .delete(&[V("2"), A, A, A]);
    let keyless_before = Plan::new(&old_keyless)
        .update_next(&[V("k"), V("1")], &[V("l"), V("2")])
        .insert_next(&[V("m"), V("3")]);
    let keyless_after = Plan::new(&new_keyless).delete_next(&[V("m")]);
    let plans = [before, after, keyless_before, keyless_after];
    pair.apply(plans.into_iter().map(Plan::done).collect())
        .await
        .unwrap();
    pair.leader
        .batch_execute(
            "INSERT INTO t (number, id, c, a) VALUES (1, 'y', 'c1', 'new'), (4, 'w', 'c3', 'new'), \
             (5, 'v2', 'c5', 'a5'); INSERT INTO k VALUES ('l')",
        )
        .await
        .unwrap();
    pair.assert_equal(&new).await;
    pair.assert_equal(&new_keyless).await;
}
