//! Net changes and changes in order.

use std::sync::Arc;

use walferry::error::Class;
use walferry::sink::{Sink, Work};

use super::harness::{A, Follower, N, Plan, V, VERSIONS, Value, assert_halt, schema};

fn text_table() -> Arc<walferry::model::TableSchema> {
    Arc::new(schema(
        "t",
        &[("id", "bigint"), ("u", "integer"), ("note", "text")],
        &[0],
    ))
}

#[tokio::test]
async fn rows_of_a_batch_and_its_checkpoint_come_together() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_batch").await;
        let t = text_table();
        f.prepare(&t).await;
        f.load(&t, &[&[V("1"), V("1"), V("it's \\ 'a'")], &[V("2"), N, N]])
            .await
            .unwrap();
        let plan = Plan::new(&t)
            .delete(&[V("1"), A, A])
            .update(&[V("2"), V("5"), A])
            .insert(&[V("3"), N, V("ü𝄞 ")]);
        f.apply(vec![plan.done()]).await.unwrap();
        let rows = f
            .rows("SELECT id, u, note, LENGTH(note) FROM t ORDER BY id")
            .await;
        assert_eq!(rows, ["2|5|NULL|NULL", "3|NULL|ü𝄞 |7"]);
        let rows = f
            .rows("SELECT version, applied, log_offset, commit_time, copying, owner FROM walferry_checkpoint")
            .await;
        assert_eq!(rows, ["2|0/1000002|2|2025-05-08 06:13:20.000002|1|me"]);
        let at = f.at.clone();
        assert_eq!(f.sink.open().await.unwrap(), at, "what was written is read");
    }
}

#[tokio::test]
async fn many_rows_are_changed_as_few_are() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_many").await;
        let t = text_table();
        f.prepare(&t).await;
        let texts: Vec<(String, String)> = (0..40_000)
            .map(|n| (n.to_string(), format!("note '{n}' {}", "x".repeat(60))))
            .collect();
        let rows: Vec<[Value<'_>; 3]> = texts
            .iter()
            .map(|(id, note)| [V(id), V(id), V(note)])
            .collect();
        let rows: Vec<&[Value<'_>]> = rows.iter().map(|row| &row[..]).collect();
        f.load(&t, &rows).await.unwrap();
        let mut plan = Plan::new(&t);
        for (n, (id, _)) in texts.iter().enumerate() {
            plan = match n % 4 {
                0 => plan.delete(&[V(id), A, A]),
                1 => plan.update(&[V(id), N, V("changed")]),
                2 => plan.update(&[V(id), A, V(id)]),
                _ => plan,
            };
        }
        f.apply(vec![plan.done()]).await.unwrap();
        let rows = f
            .rows(
                "SELECT COUNT(*), SUM(u IS NULL), SUM(note = 'changed'), SUM(note = id AND u = id), \
                 SUM(note LIKE 'note ''%') FROM t",
            )
            .await;
        assert_eq!(rows, ["30000|10000|10000|10000|10000"]);
    }
}

#[tokio::test]
async fn a_row_that_is_missing_is_a_divergence_and_nothing_is_left_of_the_batch() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_missing").await;
        let t = text_table();
        f.prepare(&t).await;
        f.load(&t, &[&[V("1"), V("1"), N], &[V("2"), V("2"), N]])
            .await
            .unwrap();
        let ids: Vec<String> = (1..20).map(|n| n.to_string()).collect();
        let many = |update: bool| {
            ids.iter().fold(Plan::new(&t), |plan, id| match update {
                true => plan.update(&[V(id), A, V("x")]),
                false => plan.delete(&[V(id), A, A]),
            })
        };
        for plan in [
            Plan::new(&t).update(&[V("3"), A, V("x")]),
            Plan::new(&t).delete(&[V("3"), A, A]),
            Plan::new(&t).shift(&[V("3"), A, A], &[V("4"), A, A]),
            many(true),
            many(false),
        ] {
            let error = f.apply(vec![plan.done()]).await.unwrap_err();
            assert_halt(&error, &["diverged", "public.t"]);
        }
        // An update that changes nothing finds its row.
        let same = Plan::new(&t).update(&[V("1"), V("1"), A]);
        f.apply(vec![same.done()]).await.unwrap();
        let twice = Plan::new(&t)
            .insert(&[V("9"), N, N])
            .insert(&[V("1"), N, N]);
        let error = f.apply(vec![twice.done()]).await.unwrap_err();
        assert_halt(&error, &["collides", "PRIMARY"]);
        assert_eq!(f.rows("SELECT id FROM t ORDER BY id").await, ["1", "2"]);
    }
}

#[tokio::test]
async fn values_change_places_under_a_unique_index() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_swap").await;
        let t = text_table();
        f.prepare(&t).await;
        f.sql(
            "ALTER TABLE t ADD UNIQUE INDEX (u), ADD COLUMN own VARCHAR(20) DEFAULT 'mine', \
               ADD COLUMN twice BIGINT AS (u * 2) STORED",
        )
        .await;
        f.sink.forget_tables(&[t.table.clone()].into());
        f.prepare(&t).await;
        f.load(
            &t,
            &[
                &[V("1"), V("10"), V("a")],
                &[V("2"), V("20"), V("b")],
                &[V("3"), V("30"), V("c")],
            ],
        )
        .await
        .unwrap();
        f.sql("UPDATE t SET own = CONCAT('own ', id)").await;
        let plan = Plan::new(&t)
            .update(&[V("1"), V("20"), A])
            .update(&[V("2"), V("10"), V("B")])
            .insert(&[V("4"), V("40"), N]);
        f.apply(vec![plan.done()]).await.unwrap();
        let expected = [
            "1|20|a|own 1|40",
            "2|10|B|own 2|20",
            "3|30|c|own 3|60",
            "4|40|NULL|mine|80",
        ];
        assert_eq!(f.rows("SELECT * FROM t ORDER BY id").await, expected);
        // Another row of the follower is in the way for good.
        let plan = Plan::new(&t)
            .update(&[V("1"), V("30"), A])
            .update(&[V("2"), V("11"), A]);
        let error = f.apply(vec![plan.done()]).await.unwrap_err();
        assert_halt(&error, &["collides", "index u"]);
        assert_eq!(f.rows("SELECT * FROM t ORDER BY id").await, expected);
    }
}

#[tokio::test]
async fn a_truncate_in_the_middle_of_a_batch_is_taken_back_with_it() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_truncate").await;
        let t = text_table();
        f.prepare(&t).await;
        f.load(&t, &[&[V("1"), N, N]]).await.unwrap();
        let plan = || Plan::new(&t).truncate().insert(&[V("2"), N, N]).done();
        f.sink.begin(f.at.as_ref()).await.unwrap();
        f.sink.apply(Work::Net(vec![plan()]), false).await.unwrap();
        f.sink.rollback().await.unwrap();
        assert_eq!(f.rows("SELECT id FROM t").await, ["1"]);
        f.apply(vec![plan()]).await.unwrap();
        assert_eq!(f.rows("SELECT id FROM t").await, ["2"]);
    }
}

#[tokio::test]
async fn a_transaction_in_chunks_is_one() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_chunks").await;
        let t = text_table();
        f.prepare(&t).await;
        f.sink.begin(None).await.unwrap();
        for (id, more) in [("1", true), ("2", true), ("3", false)] {
            let plan = Plan::new(&t).insert(&[V(id), N, N]).done();
            f.sink.apply(Work::Net(vec![plan]), more).await.unwrap();
            assert_eq!(
                f.rows("SELECT id FROM t").await,
                [""; 0],
                "nobody sees a part"
            );
        }
        f.commit().await.unwrap();
        assert_eq!(
            f.rows("SELECT id FROM t ORDER BY id").await,
            ["1", "2", "3"]
        );
        // The next transaction has its time-outs again, and one without rows is one statement.
        f.apply(vec![]).await.unwrap();
        f.sink.begin(f.at.as_ref()).await.unwrap();
        f.commit().await.unwrap();
        assert_eq!(
            f.rows("SELECT version FROM walferry_checkpoint").await,
            ["3"]
        );
    }
}

#[tokio::test]
async fn equal_rows_without_a_key_are_changed_one_by_one() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_keyless").await;
        let columns = [
            ("a", "integer"),
            ("f", "real"),
            ("d", "double precision"),
            ("n", "numeric(10,2)"),
            ("t", "text"),
            ("j", "integer[]"),
            ("b", "bytea"),
            ("at", "timestamp with time zone"),
        ];
        let t = Arc::new(schema("t", &columns, &[]));
        f.prepare(&t).await;
        let row = [
            V("1"),
            V("0.1"),
            V("0.1"),
            V("1.50"),
            V("a "),
            V("{1,NULL}"),
            V("\\x00"),
            V("2024-01-01 00:00:00.5+00"),
        ];
        let mut other = row;
        other[4] = V("a");
        let nulls = [N; 8];
        f.load(&t, &[&row, &row, &row, &nulls, &nulls, &other])
            .await
            .unwrap();
        let mut new = row;
        new[0] = V("2");
        let plan = Plan::new(&t)
            .delete_next(&row)
            .update_next(&row, &new)
            .delete_next(&nulls)
            .delete_next(&other)
            .insert_next(&other)
            .insert_next(&other);
        f.apply(vec![plan.done()]).await.unwrap();
        let rows = f
            .rows("SELECT a, f, d, n, t, j, HEX(b), at FROM t ORDER BY a, t")
            .await;
        let text = |a: &str, t: &str| {
            format!("{a}|0.1|0.1|1.50|{t}|[1, null]|00|2024-01-01 00:00:00.500000")
        };
        let nulls_left = "NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL".to_owned();
        let expected = [
            nulls_left,
            text("1", "a"),
            text("1", "a"),
            text("1", "a "),
            text("2", "a "),
        ];
        assert_eq!(rows, expected);
        let gone = Plan::new(&t).delete_next(&nulls).delete_next(&nulls);
        let error = f.apply(vec![gone.done()]).await.unwrap_err();
        assert_halt(&error, &["diverged"]);
    }
}

#[tokio::test]
async fn a_value_as_large_as_a_packet_is_told_and_smaller_ones_go() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_large").await;
        let t = Arc::new(schema(
            "t",
            &[("id", "bigint"), ("b", "bytea"), ("c", "text")],
            &[0],
        ));
        f.prepare(&t).await;
        // max_allowed_packet is 16 MiB; a byte of bytea takes two.
        let bytes = format!("\\x{}", "ab".repeat(7 * 1024 * 1024));
        let text = "it's".repeat(3 * 1024 * 1024);
        let small = "y".repeat(900_000);
        let plan = Plan::new(&t)
            .insert(&[V("1"), V(&bytes), N])
            .insert(&[V("2"), N, V(&small)])
            .insert(&[V("3"), N, V(&text)])
            .insert(&[V("4"), N, V(&small)]);
        f.apply(vec![plan.done()]).await.unwrap();
        let rows = f
            .rows("SELECT id, LENGTH(b), LENGTH(c) FROM t ORDER BY id")
            .await;
        assert_eq!(
            rows,
            [
                "1|7340032|NULL",
                "2|NULL|900000",
                "3|NULL|12582912",
                "4|NULL|900000"
            ]
        );
        let larger = "x".repeat(17 * 1024 * 1024);
        let plan = Plan::new(&t).update(&[V("1"), A, V(&larger)]);
        let error = f.apply(vec![plan.done()]).await.unwrap_err();
        assert_halt(&error, &["max_allowed_packet", "(id) = (1)", "public.t"]);
        assert_eq!(f.sink.open().await.unwrap(), f.at);
    }
}

#[tokio::test]
async fn a_follower_whose_trigger_or_constraint_refuses_a_row_says_so() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_refused").await;
        let t = text_table();
        f.prepare(&t).await;
        f.sql("ALTER TABLE t ADD CONSTRAINT small CHECK (u < 100)")
            .await;
        let plan = Plan::new(&t).insert(&[V("1"), V("100"), N]);
        let error = f.apply(vec![plan.done()]).await.unwrap_err();
        assert_halt(&error, &["refuses the row (id) = (1)", "small"]);
        assert_eq!(error.class(), Class::Halt);
    }
}

#[tokio::test]
async fn many_rows_that_do_not_all_come_are_told_as_few_are() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_many_wrong").await;
        let t = text_table();
        f.prepare(&t).await;
        let mut ids: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        ids.push("500".to_owned());
        let rows: Vec<[Value<'_>; 3]> = ids.iter().map(|id| [V(id), N, N]).collect();
        let rows: Vec<&[Value<'_>]> = rows.iter().map(|row| &row[..]).collect();
        let error = f.load(&t, &rows).await.unwrap_err();
        assert_halt(&error, &["collides", "PRIMARY"]);
        f.sql("ALTER TABLE t ADD COLUMN short VARCHAR(3) AS (note) STORED")
            .await;
        let plan = ids[..1000]
            .iter()
            .fold(Plan::new(&t), |p, id| p.insert(&[V(id), N, V("longer")]));
        let error = f.apply(vec![plan.done()]).await.unwrap_err();
        assert_halt(&error, &["refuses", "column short"]);
        assert_eq!(f.rows("SELECT COUNT(*) FROM t").await, ["0"]);
        f.load(&t, &rows[..1000]).await.unwrap();
        assert_eq!(f.rows("SELECT COUNT(*) FROM t").await, ["1000"]);
    }
}
