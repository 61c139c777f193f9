//! Tables without a key: each delete and update is on exactly one of several equal rows.

use std::sync::Arc;

use walferry::model::TableSchema;
use walferry::sink::Sink;

use crate::harness::{N, Pair, Plan, V, dump, halted};

#[tokio::test]
async fn exactly_one_of_several_equal_rows_is_deleted_or_updated() {
    let mut pair = Pair::new("keyless").await;
    let t = "CREATE TABLE t (n int, a text); \
             INSERT INTO t VALUES (1, 'x'), (1, 'x'), (1, 'x'), (NULL, NULL), (NULL, NULL), (2, NULL)";
    let schema = pair.table(t, "t").await;
    pair.load(&schema).await;
    let plan = Plan::new(&schema)
        .delete_next(&[V("1"), V("x")])
        .update_next(&[N, N], &[N, V("y")])
        .insert_next(&[V("7"), V("z")])
        .insert_next(&[V("7"), V("z")])
        .delete_next(&[V("7"), V("z")])
        .update_next(&[V("1"), V("x")], &[V("1"), V("w")]);
    pair.apply(vec![plan.done()]).await.unwrap();
    let text = |n: Option<&str>, a: Option<&str>| vec![n.map(str::to_owned), a.map(str::to_owned)];
    let mut expected = vec![
        text(Some("1"), Some("x")),
        text(Some("1"), Some("w")),
        text(None, Some("y")),
        text(None, None),
        text(Some("2"), None),
        text(Some("7"), Some("z")),
    ];
    expected.sort();
    assert_eq!(dump(&pair.follower, &schema).await, expected);

    let plan = Plan::new(&schema).delete_next(&[V("1"), V("hidden")]);
    let text = halted(pair.apply(vec![plan.done()]).await).to_string();
    assert!(
        text.contains("diverged") && !text.contains("hidden"),
        "{text}"
    );
}

/// Deletes each row of the leader's table on the follower by its text; others must stay.
async fn delete_one_by_one(pair: &mut Pair, schema: &Arc<TableSchema>) {
    let rows = dump(&pair.leader, schema).await;
    for (n, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.iter().map(|c| c.as_deref().map_or(N, V)).collect();
        let plan = Plan::new(schema).delete_next(&cells);
        pair.apply(vec![plan.done()]).await.unwrap();
        assert_eq!(dump(&pair.follower, schema).await, rows[n + 1..]);
    }
}

#[tokio::test]
async fn values_that_are_equal_but_print_differently_are_told_apart() {
    let mut pair = Pair::new("exact").await;
    let t = r#"CREATE TABLE t (k int, f float8, num numeric, j json, jb jsonb, x xml, p point, c char(5),
                 b bool, i inet, ch "char", bits varbit, iv interval, tz timetz, arr float4[], s text);
        INSERT INTO t VALUES (1, 0, 1.0, '{"a":1}', '{"a":1}', '<a/>', '(1,2)', 'ab', true, '10.0.0.1', 'a', '1', '1 day', '10:00+00', '{0,NULL}', 'a');
        INSERT INTO t SELECT k, '-0', num, j, jb, x, p, c, b, i, ch, bits, iv, tz, arr, s FROM t WHERE f = 0 LIMIT 1;
        INSERT INTO t SELECT k, 0, 1.00, j, jb, x, p, c, b, i, ch, bits, iv, tz, arr, s FROM t LIMIT 1;
        INSERT INTO t SELECT k, 0, 1, '{"a": 1}', jb, x, p, c, b, i, ch, bits, iv, tz, arr, s FROM t LIMIT 1;
        INSERT INTO t SELECT k, 0, 1, j, '{"a":1.0}', x, p, c, b, i, ch, bits, iv, tz, arr, s FROM t LIMIT 1;
        INSERT INTO t SELECT k, 0, 1, j, jb, '<a></a>', p, c, b, i, ch, bits, iv, tz, arr, s FROM t LIMIT 1;
        INSERT INTO t SELECT k, 'NaN', 'NaN', j, jb, x, '(1.0000000001,2)', c, false, '10.0.0.1/24', NULL, '01', iv, tz, arr, s FROM t LIMIT 1;
        INSERT INTO t SELECT k, 0, 1, j, jb, x, p, '  ab', b, i, ch, bits, '24:00:00', tz, arr, s FROM t LIMIT 1;
        INSERT INTO t SELECT k, 0, 1, j, jb, x, p, c, b, i, ch, bits, iv, '11:00+01', '{-0,NULL}', s FROM t LIMIT 1;
        INSERT INTO t SELECT k, 0, 1, j, jb, x, p, c, b, i, ch, bits, iv, tz, '[0:1]={0,NULL}', 'A' FROM t LIMIT 1;
        INSERT INTO t (k) VALUES (NULL)"#;
    let schema = pair.table(t, "t").await;
    pair.load(&schema).await;
    delete_one_by_one(&mut pair, &schema).await;
}

#[tokio::test]
async fn an_index_of_the_follower_and_partitions_change_nothing() {
    let mut pair = Pair::new("keylessparts").await;
    pair.leader
        .batch_execute(
            "CREATE TABLE t (n int, a text); \
             INSERT INTO t SELECT n % 4, 'x' FROM generate_series(1, 8) n; INSERT INTO t VALUES (3, NULL)",
        )
        .await
        .unwrap();
    pair.follower
        .batch_execute(
            "CREATE TABLE t (n int, a text) PARTITION BY LIST (n); \
             CREATE TABLE t1 PARTITION OF t FOR VALUES IN (0, 1); CREATE TABLE t2 PARTITION OF t DEFAULT; \
             CREATE INDEX ON t (n)",
        )
        .await
        .unwrap();
    let schema = pair.schema("t").await;
    pair.sink.prepare_table(&schema, None).await.unwrap();
    pair.load(&schema).await;
    let plan = Plan::new(&schema).update_next(&[V("0"), V("x")], &[V("2"), V("moved")]);
    pair.apply(vec![plan.done()]).await.unwrap();
    let plan = Plan::new(&schema).update_next(&[V("2"), V("moved")], &[V("0"), V("x")]);
    pair.apply(vec![plan.done()]).await.unwrap();
    pair.assert_equal(&schema).await;
    delete_one_by_one(&mut pair, &schema).await;
}
