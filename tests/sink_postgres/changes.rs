//! Loads and net changes.

use walferry::sink::{Sink, Work};

use crate::harness::{A, N, Pair, Plan, V, dump, halted};

#[tokio::test]
async fn a_copy_is_loaded_and_then_changed() {
    let mut pair = Pair::new("net").await;
    let t = "CREATE TABLE t (id int PRIMARY KEY, a text, b numeric(10,2)); \
             INSERT INTO t SELECT n, 'row ' || n, n / 3.0 FROM generate_series(1, 500) n; \
             INSERT INTO t VALUES (1000, E'tab\\t newline\\n back\\\\slash \\\\N', NULL)";
    let schema = pair.table(t, "t").await;
    pair.load(&schema).await;
    pair.assert_equal(&schema).await;

    pair.leader
        .batch_execute(
            "DELETE FROM t WHERE id IN (1, 2); UPDATE t SET a = 'x' WHERE id = 3; \
             UPDATE t SET b = NULL WHERE id IN (4, 5); INSERT INTO t VALUES (2000, NULL, 1.5)",
        )
        .await
        .unwrap();
    let plan = Plan::new(&schema)
        .delete(&[V("1"), A, A])
        .delete(&[V("2"), A, A])
        .update(&[V("3"), V("x"), A])
        .update(&[V("4"), A, N])
        .update(&[V("5"), A, N])
        .insert(&[V("2000"), N, V("1.50")]);
    pair.apply(vec![plan.done()]).await.unwrap();
    pair.assert_equal(&schema).await;

    pair.leader
        .batch_execute("INSERT INTO t SELECT n, 'many', n FROM generate_series(5000, 5999) n")
        .await
        .unwrap();
    let mut plan = Plan::new(&schema);
    for n in 5000..6000 {
        plan = plan.insert(&[V(&n.to_string()), V("many"), V(&format!("{n}.00"))]);
    }
    pair.apply(vec![plan.done()]).await.unwrap();
    pair.assert_equal(&schema).await;
}

#[tokio::test]
async fn key_changes_in_chains_and_cycles_keep_absent_values_and_the_followers_own_columns() {
    let mut pair = Pair::new("moves").await;
    let t = "CREATE TABLE t (id int PRIMARY KEY, a text, big text); \
             INSERT INTO t SELECT n, 'a' || n, 'big' || n FROM generate_series(1, 9) n";
    let schema = pair.table(t, "t").await;
    pair.load(&schema).await;
    pair.follower
        .batch_execute("ALTER TABLE t ADD COLUMN own text; UPDATE t SET own = 'own' || id")
        .await
        .unwrap();
    // A new session sees the new column.
    pair.at = pair.sink.open().await.unwrap();
    pair.sink.prepare_table(&schema, None).await.unwrap();
    // A cycle 1 -> 2 -> 3 -> 1, a chain 4 -> 5 -> 6 -> 7 (7 deleted), an update beside.
    let plan = Plan::new(&schema)
        .delete(&[V("7"), A, A])
        .shift(&[V("1"), A, A], &[V("2"), V("new"), A])
        .shift(&[V("2"), A, A], &[V("3"), A, A])
        .shift(&[V("3"), A, A], &[V("1"), N, V("x")])
        .shift(&[V("4"), A, A], &[V("5"), A, A])
        .shift(&[V("5"), A, A], &[V("6"), A, A])
        .shift(&[V("6"), A, A], &[V("7"), A, A])
        .update(&[V("9"), V("nine"), A])
        .insert(&[V("4"), V("fresh"), N]);
    pair.apply(vec![plan.done()]).await.unwrap();
    let rows = pair
        .follower
        .query_one(
            "SELECT string_agg(concat_ws(',', id, coalesce(a, '-'), coalesce(big, '-'), own), ' ' ORDER BY id) FROM t",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        rows.get::<_, &str>(0),
        "1,-,x,own3 2,new,big1,own1 3,a2,big2,own2 4,fresh,- 5,a4,big4,own4 \
         6,a5,big5,own5 7,a6,big6,own6 8,a8,big8,own8 9,nine,big9,own9"
    );
}

#[tokio::test]
async fn values_of_a_secondary_unique_key_can_be_swapped() {
    let mut pair = Pair::new("swap").await;
    let t = "CREATE TABLE t (id int PRIMARY KEY, code text, big text); \
             INSERT INTO t SELECT n, 'c' || n, 'big' FROM generate_series(1, 4) n";
    let schema = pair.table(t, "t").await;
    pair.load(&schema).await;
    pair.follower
        .batch_execute("CREATE UNIQUE INDEX t_code ON t (code)")
        .await
        .unwrap();
    pair.at = pair.sink.open().await.unwrap();
    pair.sink.prepare_table(&schema, None).await.unwrap();
    pair.leader
        .batch_execute(
            "DELETE FROM t WHERE id = 3; UPDATE t SET code = 'tmp' WHERE id = 1; UPDATE t SET code = 'c1' WHERE id = 2; \
             UPDATE t SET code = 'c2' WHERE id = 1; UPDATE t SET code = 'c3' WHERE id = 4; INSERT INTO t VALUES (5, 'c4', 'x')",
        )
        .await
        .unwrap();
    let plan = Plan::new(&schema)
        .delete(&[V("3"), A, A])
        .update(&[V("1"), V("c2"), A])
        .update(&[V("2"), V("c1"), A])
        .update(&[V("4"), V("c3"), V("big")])
        .insert(&[V("5"), V("c4"), V("x")]);
    pair.apply(vec![plan.done()]).await.unwrap();
    pair.assert_equal(&schema).await;

    // What collides with a row that stays is refused for good, by name and without the value.
    let plan = Plan::new(&schema)
        .update(&[V("1"), V("c4"), A])
        .update(&[V("2"), V("secret"), A]);
    let error = halted(pair.apply(vec![plan.done()]).await);
    let text = error.to_string();
    assert!(
        text.contains("t_code") && text.contains("public.t"),
        "{text}"
    );
    assert!(!text.contains("c4") && !text.contains("secret"), "{text}");
    pair.assert_equal(&schema).await;

    // The sink goes on afterwards.
    let plan = Plan::new(&schema).update(&[V("1"), V("c99"), A]);
    pair.apply(vec![plan.done()]).await.unwrap();
}

#[tokio::test]
async fn a_truncate_stands_between_changes_even_where_foreign_keys_point_at_the_table() {
    let mut pair = Pair::new("trunc").await;
    let t = "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'x'), (2, 'y')";
    let schema = pair.table(t, "t").await;
    pair.load(&schema).await;
    for referenced in [false, true] {
        if referenced {
            pair.follower
                .batch_execute("CREATE TABLE child (t int REFERENCES t)")
                .await
                .unwrap();
            pair.at = pair.sink.open().await.unwrap();
            pair.sink.prepare_table(&schema, None).await.unwrap();
        }
        let plan = Plan::new(&schema)
            .update(&[V("1"), V("z")])
            .truncate()
            .insert(&[V("1"), V("a")])
            .insert(&[V("2"), N]);
        pair.apply(vec![plan.done()]).await.unwrap();
        let expected = vec![
            vec![Some("1".to_owned()), Some("a".to_owned())],
            vec![Some("2".to_owned()), None],
        ];
        assert_eq!(dump(&pair.follower, &schema).await, expected);
    }
    pair.load(&schema).await; // `empty` too
    pair.assert_equal(&schema).await;
}

#[tokio::test]
async fn chunks_of_one_batch_are_one_transaction() {
    let mut pair = Pair::new("chunks").await;
    let schema = pair.table("CREATE TABLE t (id int PRIMARY KEY)", "t").await;
    pair.sink.begin(pair.at.as_ref()).await.unwrap();
    for n in 0..3 {
        let plan = Plan::new(&schema).insert(&[V(&n.to_string())]);
        pair.sink
            .apply(Work::Net(vec![plan.done()]), n < 2)
            .await
            .unwrap();
        assert_eq!(dump(&pair.follower, &schema).await.len(), 0);
    }
    pair.commit().await.unwrap();
    assert_eq!(dump(&pair.follower, &schema).await.len(), 3);

    pair.sink.begin(pair.at.as_ref()).await.unwrap();
    let plan = Plan::new(&schema).delete(&[V("1")]);
    pair.sink
        .apply(Work::Net(vec![plan.done()]), true)
        .await
        .unwrap();
    pair.sink.rollback().await.unwrap();
    assert_eq!(dump(&pair.follower, &schema).await.len(), 3);
}

#[tokio::test]
async fn a_row_that_should_be_there_and_is_not_halts_with_its_key() {
    let mut pair = Pair::new("diverged").await;
    let t = "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT n, 'x' FROM generate_series(1, 10) n";
    let schema = pair.table(t, "t").await;
    pair.load(&schema).await;
    pair.follower
        .batch_execute("DELETE FROM t WHERE id = 5")
        .await
        .unwrap();
    let plans = [
        Plan::new(&schema).delete(&[V("4"), A]).delete(&[V("5"), A]),
        Plan::new(&schema)
            .update(&[V("4"), V("private")])
            .update(&[V("5"), V("private")]),
        Plan::new(&schema)
            .shift(&[V("4"), A], &[V("40"), A])
            .shift(&[V("5"), A], &[V("50"), A]),
    ];
    for plan in plans {
        let text = halted(pair.apply(vec![plan.done()]).await).to_string();
        for part in [
            "public.t",
            "diverged",
            "(id) = (5)",
            "0/ABCDEF:7",
            "0/ABCDEF:9",
            "copy the follower anew",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("private"), "{text}");
        assert_eq!(dump(&pair.follower, &schema).await.len(), 9, "rolled back");
    }
    // A row that is there already.
    let plan = Plan::new(&schema).insert(&[V("4"), V("private")]);
    let text = halted(pair.apply(vec![plan.done()]).await).to_string();
    assert!(
        text.contains("t_pkey") && !text.contains("private"),
        "{text}"
    );
}

#[tokio::test]
async fn a_row_that_the_follower_refuses_halts_without_its_values() {
    let mut pair = Pair::new("poison").await;
    let schema = pair
        .table("CREATE TABLE t (id int PRIMARY KEY, a text, n int)", "t")
        .await;
    pair.follower
        .batch_execute("ALTER TABLE t ADD CONSTRAINT small CHECK (n < 10), ALTER a SET NOT NULL")
        .await
        .unwrap();
    for (cells, named) in [
        ([V("1"), V("hidden"), V("11")], "small"),
        ([V("1"), N, V("1")], "column a"),
        ([V("1"), V("hidden"), V("hidden")], "22P02"),
    ] {
        for copies in [1, 100] {
            let mut plan = Plan::new(&schema);
            for n in 1..copies {
                plan = plan.insert(&[V(&(n + 10).to_string()), V("good"), V("1")]);
            }
            let plan = plan.insert(&cells);
            let error = halted(pair.apply(vec![plan.done()]).await);
            let text = error.to_string();
            assert!(
                text.contains(named) && text.contains("0/ABCDEF:7"),
                "{text}"
            );
            assert!(!text.contains("hidden") && !text.contains("11,"), "{text}");
        }
    }
    assert_eq!(dump(&pair.follower, &schema).await.len(), 0);
}

#[tokio::test]
async fn rows_that_walferry_has_not_put_there_are_not_destroyed() {
    let mut pair = Pair::new("foreign").await;
    let schema = pair.table("CREATE TABLE t (id int PRIMARY KEY)", "t").await;
    pair.follower
        .batch_execute("INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    pair.sink.begin(None).await.unwrap();
    let text = halted(pair.sink.empty(&schema.table).await).to_string();
    assert!(text.contains("TRUNCATE \"public\".\"t\""), "{text}");
    pair.follower.batch_execute("TRUNCATE t").await.unwrap();
    pair.load(&schema).await;
    pair.follower
        .batch_execute("INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    pair.load(&schema).await; // known by now
    pair.assert_equal(&schema).await;
}
