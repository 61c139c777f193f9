//! Keys: of every type, nearly equal ones, and those that change.

use std::sync::Arc;

use walferry::sink::Sink;

use super::harness::{A, Follower, N, Plan, V, VERSIONS, Value, assert_halt, schema};

#[tokio::test]
async fn keys_that_differ_in_blanks_case_or_accents_are_two() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_keys").await;
        let t = Arc::new(schema("t", &[("k", "text"), ("v", "text")], &[0]));
        f.prepare(&t).await;
        // NFC and NFD of ä; ß and ss; a soft hyphen.
        let keys = [
            "a", "a ", "A", "ä", "a\u{308}", "ß", "ss", "", " ", "a\u{ad}", "𝄞", "𝄟", "ı", "i",
            "a\t",
        ];
        let rows: Vec<[Value<'_>; 2]> = keys.iter().map(|key| [V(key), V(key)]).collect();
        let rows: Vec<&[Value<'_>]> = rows.iter().map(|row| &row[..]).collect();
        f.load(&t, &rows).await.unwrap();
        let plan = keys
            .iter()
            .fold(Plan::new(&t), |plan, key| plan.update(&[V(key), V("x")]));
        f.apply(vec![plan.done()]).await.unwrap();
        for (n, key) in keys.iter().enumerate() {
            let plan = Plan::new(&t).delete(&[V(key), A]);
            f.apply(vec![plan.done()]).await.unwrap();
            let left = (keys.len() - n - 1).to_string();
            assert_eq!(f.rows("SELECT COUNT(*) FROM t").await, [left], "{key:?}");
        }
        let long = "x".repeat(768);
        f.apply(vec![Plan::new(&t).insert(&[V(&long), N]).done()])
            .await
            .unwrap();
        let longer = format!("{long} ");
        let plan = Plan::new(&t).insert(&[V(&longer), N]);
        let error = f.apply(vec![plan.done()]).await.unwrap_err();
        assert_halt(
            &error,
            &["column k", "longer than the follower's column", "[columns]"],
        );
    }
}

#[tokio::test]
async fn keys_of_every_type_find_their_rows() {
    let keys: [(&str, [&str; 3]); 14] = [
        ("boolean", ["t", "f", ""]),
        ("smallint", ["-32768", "0", "7"]),
        ("bigint", ["9223372036854775807", "-1", "7"]),
        ("real", ["0.1", "3.4028235e+38", "1e-45"]),
        (
            "double precision",
            ["0.1", "1.7976931348623157e+308", "5e-324"],
        ),
        (
            "numeric(65,30)",
            [
                "0.000000000000000000000000000001",
                "12345678901234567890123456789012345",
                "-1.5",
            ],
        ),
        (
            "numeric",
            [
                "1.10",
                "1.1",
                "123456789012345678901234567890123456789012345678901234567890123456789.1",
            ],
        ),
        ("bytea", ["\\x", "\\x00", "\\x0000"]),
        ("date", ["1000-01-01", "2024-02-29", "9999-12-31"]),
        (
            "timestamp without time zone",
            [
                "1000-01-01 00:00:00.000001",
                "2024-02-29 12:00:00",
                "9999-12-31 23:59:59.999999",
            ],
        ),
        (
            "timestamp with time zone",
            [
                "2024-02-29 12:00:00+00",
                "2024-02-29 12:00:00.1+00",
                "2024-02-29 12:00:00.01+00",
            ],
        ),
        (
            "time without time zone",
            ["24:00:00", "00:00:00", "12:30:00.000001"],
        ),
        (
            "uuid",
            [
                "00000000-0000-0000-0000-000000000000",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
                "5b0a9c8e-0000-4000-8000-000000000001",
            ],
        ),
        ("character(3)", ["a  ", "   ", "abc"]),
    ];
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_key_types").await;
        for (n, (type_name, values)) in keys.iter().enumerate() {
            let values = &values[..if *type_name == "boolean" { 2 } else { 3 }];
            let name = format!("t{n}");
            // As the only key column, and with another one: one by one, and by a join.
            let columns = [("k", *type_name), ("n", "integer"), ("v", "integer")];
            let t = Arc::new(schema(&name, &columns, &[0, 1]));
            f.prepare(&t).await;
            let numbers: Vec<String> = (0..10).map(|n| n.to_string()).collect();
            let all: Vec<[Value<'_>; 3]> = values
                .iter()
                .flat_map(|value| numbers.iter().map(|n| [V(value), V(n), V("0")]))
                .collect();
            let rows: Vec<&[Value<'_>]> = all.iter().map(|row| &row[..]).collect();
            f.load(&t, &rows).await.unwrap();
            let updates = |plan: Plan| {
                all.iter()
                    .fold(plan, |plan, row| plan.update(&[row[0], row[1], V("1")]))
            };
            f.apply(vec![updates(Plan::new(&t)).done()]).await.unwrap();
            let few = values.iter().fold(Plan::new(&t), |plan, value| {
                plan.update(&[V(value), V("3"), V("2")])
                    .delete(&[V(value), V("4"), A])
            });
            f.apply(vec![few.done()]).await.unwrap();
            let sums = f
                .rows(&format!("SELECT COUNT(*), SUM(v) FROM {name}"))
                .await;
            let count = values.len();
            assert_eq!(
                sums,
                [format!("{}|{}", 9 * count, 10 * count)],
                "{type_name}"
            );
            let rest = all.iter().filter(|row| !matches!(row[1], V("4")));
            let plan = rest.fold(Plan::new(&t), |plan, row| plan.delete(&[row[0], row[1], A]));
            f.apply(vec![plan.done()]).await.unwrap();
            assert_eq!(
                f.rows(&format!("SELECT 1 FROM {name}")).await,
                [""; 0],
                "{type_name}"
            );
        }
    }
}

#[tokio::test]
async fn keys_move_in_chains_and_cycles() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "changes_moves").await;
        let t = Arc::new(schema(
            "t",
            &[("id", "bigint"), ("u", "integer"), ("note", "text")],
            &[0],
        ));
        f.prepare(&t).await;
        f.sql("ALTER TABLE t ADD COLUMN own VARCHAR(20) DEFAULT 'mine'")
            .await;
        f.sink.forget_tables(&[t.table.clone()].into());
        f.prepare(&t).await;
        let rows: Vec<String> = (1..=6).map(|n| n.to_string()).collect();
        let rows: Vec<[Value<'_>; 3]> = rows.iter().map(|n| [V(n), V(n), V(n)]).collect();
        let rows: Vec<&[Value<'_>]> = rows.iter().map(|row| &row[..]).collect();
        f.load(&t, &rows).await.unwrap();
        f.sql("UPDATE t SET own = CONCAT('own ', id)").await;
        // A chain to a new key, a cycle of two, an update, and a delete in front of a move.
        let plan = Plan::new(&t)
            .delete(&[V("6"), A, A])
            .shift(&[V("1"), A, A], &[V("2"), A, V("was 1")])
            .shift(&[V("2"), A, A], &[V("7"), V("70"), A])
            .shift(&[V("3"), A, A], &[V("4"), A, A])
            .shift(&[V("4"), A, A], &[V("3"), A, A])
            .update(&[V("5"), A, N])
            .insert(&[V("1"), N, V("new")]);
        f.apply(vec![plan.done()]).await.unwrap();
        assert_eq!(
            f.rows("SELECT * FROM t ORDER BY id").await,
            [
                "1|NULL|new|mine",
                "2|1|was 1|own 1",
                "3|4|4|own 4",
                "4|3|3|own 3",
                "5|5|NULL|own 5",
                "7|70|2|own 2",
            ]
        );
        let plain = Plan::new(&t)
            .shift(&[V("1"), A, A], &[V("11"), A, A])
            .shift(&[V("2"), A, A], &[V("12"), A, N]);
        f.apply(vec![plain.done()]).await.unwrap();
        let rows = f
            .rows("SELECT id, note, own FROM t WHERE id > 10 ORDER BY id")
            .await;
        assert_eq!(rows, ["11|new|mine", "12|NULL|own 1"]);
    }
}
