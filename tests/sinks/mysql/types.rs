//! Every row of the mapping of types, with its edges, and what is refused.

use std::sync::Arc;

use walferry::model::{TableName, UserType};

use super::harness::{Follower, N, Plan, V, VERSIONS, Value, assert_halt, schema};

/// A row of the mapping.
type Row = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

/// Type, the follower's type, and values as Postgres prints them with what the follower shows of them (`=`: the
/// same text).
const HELD: &[Row] = &[
    ("boolean", "tinyint(1)", &[("t", "1"), ("f", "0")]),
    (
        "smallint",
        "smallint(6)",
        &[("-32768", "="), ("32767", "=")],
    ),
    ("integer", "int(11)", &[("-2147483648", "="), ("0", "=")]),
    (
        "bigint",
        "bigint(20)",
        &[("-9223372036854775808", "="), ("9223372036854775807", "=")],
    ),
    (
        "double precision",
        "double",
        &[
            ("0.1", "="),
            ("1.7976931348623157e+308", "1.7976931348623157e308"),
            ("5e-324", "="),
            ("-1.5", "="),
            ("123456789.123456789", "123456789.12345679"),
        ],
    ),
    (
        "numeric(10,2)",
        "decimal(10,2)",
        &[("-12345678.90", "="), ("0.00", "=")],
    ),
    (
        "numeric(65,30)",
        "decimal(65,30)",
        &[(
            "12345678901234567890123456789012345.123456789012345678901234567891",
            "=",
        )],
    ),
    ("numeric(3,-2)", "decimal(5,0)", &[("12300", "=")]),
    (
        "numeric",
        "longtext",
        &[
            ("1.500", "="),
            ("NaN", "="),
            ("-Infinity", "="),
            ("1234567890123456789012345678901234567890.1", "="),
        ],
    ),
    (
        "text",
        "longtext",
        &[
            ("", "="),
            ("it's \\n \"x\" %_ ;--", "="),
            ("tab\tline\nü𝄞 ", "="),
            ("\u{1}\u{7f}", "="),
        ],
    ),
    (
        "character varying(5)",
        "varchar(5)",
        &[("abcde", "="), ("ab   ", "="), ("𝄞𝄞𝄞𝄞𝄞", "=")],
    ),
    ("character varying(300)", "longtext", &[("abc", "=")]),
    (
        "character(4)",
        "varchar(4)",
        &[("ab  ", "="), ("    ", "=")],
    ),
    ("\"char\"", "varchar(4)", &[("a", "="), ("\\200", "=")]),
    ("name", "varchar(63)", &[("pg_class", "=")]),
    (
        "date",
        "date",
        &[
            ("1000-01-01", "="),
            ("2024-02-29", "="),
            ("9999-12-31", "="),
        ],
    ),
    (
        "timestamp without time zone",
        "datetime(6)",
        &[
            ("2024-02-29 23:59:59.999999", "="),
            ("1000-01-01 00:00:00", "1000-01-01 00:00:00.000000"),
        ],
    ),
    (
        "timestamp(3) with time zone",
        "datetime(3)",
        &[("2024-02-29 23:59:59.999+00", "2024-02-29 23:59:59.999")],
    ),
    (
        "timestamp with time zone",
        "datetime(6)",
        &[(
            "9999-12-31 23:59:59.999999+00",
            "9999-12-31 23:59:59.999999",
        )],
    ),
    (
        "time without time zone",
        "time(6)",
        &[("24:00:00", "24:00:00.000000"), ("00:00:00.000001", "=")],
    ),
    (
        "time with time zone",
        "varchar(32)",
        &[("12:00:00+02", "=")],
    ),
    (
        "interval",
        "varchar(128)",
        &[("1 year 2 mons -3 days +04:05:06.7", "=")],
    ),
    (
        "uuid",
        "char(36)",
        &[("5b0a9c8e-0000-4000-8000-00000000000a", "=")],
    ),
    (
        "json",
        "longtext",
        &[("{\"b\":1,  \"a\":12345678901234567890.12345, \"a\":2}", "=")],
    ),
    ("jsonb", "longtext", &[("{\"a\": 1e400}", "=")]),
    (
        "money",
        "varchar(64)",
        &[("-$92,233,720,368,547,758.08", "=")],
    ),
    (
        "inet",
        "varchar(64)",
        &[("192.168.0.1/24", "="), ("::1", "=")],
    ),
    ("cidr", "varchar(64)", &[("10.0.0.0/8", "=")]),
    ("macaddr", "varchar(32)", &[("08:00:2b:01:02:03", "=")]),
    ("bit(3)", "varchar(3)", &[("101", "=")]),
    ("bit varying", "longtext", &[("1010", "=")]),
    ("xml", "longtext", &[("<a>b</a>", "=")]),
    ("tsvector", "longtext", &[("'a':1 'b':2", "=")]),
    ("point", "longtext", &[("(1,2)", "=")]),
    ("pg_lsn", "varchar(32)", &[("16/B374D848", "=")]),
    ("oid", "varchar(32)", &[("4294967295", "=")]),
    (
        "integer[]",
        "longtext",
        &[
            ("{}", "[]"),
            ("{1,NULL,3}", "[1, null, 3]"),
            ("{{1,2},{3,4}}", "[[1, 2], [3, 4]]"),
        ],
    ),
    (
        "text[]",
        "longtext",
        &[(
            "{a,\"it's\",NULL,\"NULL\"}",
            "[\"a\", \"it's\", null, \"NULL\"]",
        )],
    ),
    ("boolean[]", "longtext", &[("{t,f}", "[true, false]")]),
    (
        "numeric[]",
        "longtext",
        &[("{1.50,NaN}", "[1.50, \"NaN\"]")],
    ),
    (
        "int4range",
        "longtext",
        &[
            (
                "[1,10)",
                "{\"lower\": 1, \"upper\": 10, \"bounds\": \"[)\"}",
            ),
            ("empty", "{\"empty\": true}"),
        ],
    ),
    (
        "tsrange",
        "longtext",
        &[(
            "[\"2024-01-01 00:00:00\",)",
            "{\"lower\": \"2024-01-01 00:00:00\", \"upper\": null, \"bounds\": \"[)\"}",
        )],
    ),
    (
        "nummultirange",
        "longtext",
        &[(
            "{[1.5,2]}",
            "[{\"lower\": 1.5, \"upper\": 2, \"bounds\": \"[]\"}]",
        )],
    ),
    ("shop.mood", "varchar(63)", &[("sad", "="), ("Sad", "=")]),
    ("shop.price", "decimal(12,3)", &[("1.500", "=")]),
    ("shop.pair", "longtext", &[("(1,\"a b\")", "=")]),
    (
        "shop.span",
        "longtext",
        &[(
            "[1.5,2.5)",
            "{\"lower\": 1.5, \"upper\": 2.5, \"bounds\": \"[)\"}",
        )],
    ),
];

fn user_types() -> Vec<UserType> {
    vec![
        UserType::Enum {
            name: TableName::new("shop", "mood"),
            labels: vec!["sad".to_owned(), "Sad".to_owned()],
        },
        UserType::Domain {
            name: TableName::new("shop", "price"),
            base: "numeric(12,3)".to_owned(),
            not_null: false,
            checks: vec![],
        },
        UserType::Composite {
            name: TableName::new("shop", "pair"),
            attributes: vec![("a".to_owned(), "integer".to_owned())],
        },
        UserType::Range {
            name: TableName::new("shop", "span"),
            subtype: "double precision".to_owned(),
        },
    ]
}

#[tokio::test]
async fn every_type_is_held_as_the_mapping_says() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "types_held").await;
        for (n, (type_name, follower, values)) in HELD.iter().enumerate() {
            let table = format!("t{n}");
            let mut schema = schema(&table, &[("id", "integer"), ("v", type_name)], &[0]);
            schema.types = user_types();
            let schema = Arc::new(schema);
            f.prepare(&schema).await;
            let of = f
                .rows(&format!(
                    "SELECT COLUMN_TYPE, IS_NULLABLE, COALESCE(COLLATION_NAME, 'utf8mb4_nopad_bin') \
                     FROM information_schema.COLUMNS \
                     WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '{table}' AND COLUMN_NAME = 'v'"
                ))
                .await;
            assert_eq!(
                of,
                [format!("{follower}|YES|utf8mb4_nopad_bin")],
                "{type_name}"
            );
            let ids: Vec<String> = (0..20).map(|n| n.to_string()).collect();
            // By INSERT, then by UPDATE of many and of few rows.
            let all: Vec<[Value<'_>; 2]> = values
                .iter()
                .zip(&ids)
                .map(|((v, _), id)| [V(id), V(v)])
                .collect();
            let mut rows: Vec<&[Value<'_>]> = all.iter().map(|row| &row[..]).collect();
            let none = ids[all.len()..]
                .iter()
                .map(|id| [V(id), N])
                .collect::<Vec<_>>();
            rows.extend(none.iter().map(|row| &row[..]));
            f.load(&schema, &rows).await.unwrap();
            let shown: Vec<String> = values
                .iter()
                .map(|(v, shown)| {
                    if *shown == "=" {
                        (*v).to_owned()
                    } else {
                        (*shown).to_owned()
                    }
                })
                .collect();
            let select = format!("SELECT v FROM {table} WHERE v IS NOT NULL ORDER BY id");
            assert_eq!(f.rows(&select).await, shown, "{type_name}");
            let cleared = ids
                .iter()
                .fold(Plan::new(&schema), |p, id| p.update(&[V(id), N]));
            f.apply(vec![cleared.done()]).await.unwrap();
            assert_eq!(f.rows(&select).await, [""; 0], "{type_name}");
            let again = rows
                .iter()
                .fold(Plan::new(&schema), |plan, row| plan.update(row));
            f.apply(vec![again.done()]).await.unwrap();
            assert_eq!(f.rows(&select).await, shown, "{type_name}");
            // By LOAD DATA.
            let ids: Vec<String> = (0..300).map(|n| n.to_string()).collect();
            let many: Vec<[Value<'_>; 2]> = ids
                .iter()
                .enumerate()
                .map(|(n, id)| [V(id), values.get(n % 7).map_or(N, |(v, _)| V(v))])
                .collect();
            let many: Vec<&[Value<'_>]> = many.iter().map(|row| &row[..]).collect();
            f.load(&schema, &many).await.unwrap();
            let select =
                format!("SELECT v FROM {table} WHERE v IS NOT NULL AND id >= 294 ORDER BY id");
            let count = values.len().min(6);
            assert_eq!(f.rows(&select).await, shown[..count], "{type_name}");
            f.load(&schema, &rows).await.unwrap();
            let select = format!("SELECT v FROM {table} WHERE v IS NOT NULL ORDER BY id");
            let one = Plan::new(&schema).update(&all[0]).done();
            f.apply(vec![one]).await.unwrap();
            assert_eq!(f.rows(&select).await, shown, "{type_name}");
        }
    }
}

#[tokio::test]
async fn floats_and_bytes_are_held_exactly() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "types_exact").await;
        let columns = [("id", "integer"), ("f", "real"), ("b", "bytea")];
        let t = Arc::new(schema("t", &columns, &[0]));
        f.prepare(&t).await;
        let all: String = (0..=255).map(|byte| format!("{byte:02x}")).collect();
        let all = format!("\\x{all}");
        f.load(
            &t,
            &[
                &[V("1"), V("0.1"), V(&all)],
                &[V("2"), V("3.4028235e+38"), V("\\x")],
                &[V("3"), V("1e-45"), N],
            ],
        )
        .await
        .unwrap();
        assert_eq!(
            f.rows("SELECT id, CAST(f AS DOUBLE), LOWER(HEX(b)) FROM t ORDER BY id")
                .await,
            [
                format!("1|0.10000000149011612|{}", &all[2..]),
                "2|3.4028234663852886e38|".to_owned(),
                "3|1.401298464324817e-45|NULL".to_owned(),
            ]
        );
    }
}

#[tokio::test]
async fn what_a_type_cannot_hold_halts_with_the_remedy() {
    let refused = [
        ("real", "NaN", "NaN or infinite"),
        ("double precision", "Infinity", "NaN or infinite"),
        ("numeric(10,2)", "NaN", "NaN or infinite"),
        ("date", "infinity", "NaN or infinite"),
        ("date", "0044-03-15 BC", "a year"),
        ("date", "10000-01-01", "a year"),
        ("timestamp with time zone", "-infinity", "NaN or infinite"),
        (
            "timestamp with time zone",
            "12345-01-01 00:00:00+00",
            "a year",
        ),
        ("integer[]", "[0:1]={1,2}", "first index"),
    ];
    for version in VERSIONS {
        let mut f = Follower::with(version, "types_refused", |settings| {
            for n in 0..refused.len() {
                let column = format!("public.text{n}.v");
                settings.columns.insert(column, "text".to_owned());
            }
        })
        .await;
        for (n, (type_name, value, what)) in refused.iter().enumerate() {
            let columns = [("id", "integer"), ("v", *type_name)];
            let t = Arc::new(schema(&format!("t{n}"), &columns, &[0]));
            f.prepare(&t).await;
            let plan = Plan::new(&t).insert(&[V("1"), V(value)]);
            let error = f.apply(vec![plan.done()]).await.unwrap_err();
            assert_halt(
                &error,
                &[
                    "column v",
                    "(id) = (1)",
                    "AB",
                    what,
                    "\"text\" under [columns]",
                    &format!("public.t{n}"),
                ],
            );
            // The remedy is one.
            let t = Arc::new(schema(&format!("text{n}"), &columns, &[0]));
            f.prepare(&t).await;
            f.apply(vec![Plan::new(&t).insert(&[V("1"), V(value)]).done()])
                .await
                .unwrap();
            assert_eq!(f.rows(&format!("SELECT v FROM text{n}")).await, [*value]);
        }
    }
}

#[tokio::test]
async fn a_type_of_the_settings_is_taken_and_a_strange_one_refused() {
    for version in VERSIONS {
        let mut f = Follower::with(version, "types_told", |settings| {
            for (column, told) in [
                ("public.t.n", "decimal(20,4)"),
                ("public.t.v", "varchar(10)"),
                ("public.w.v", "blob"),
            ] {
                settings.columns.insert(column.to_owned(), told.to_owned());
            }
        })
        .await;
        let columns = [("id", "integer"), ("n", "numeric"), ("v", "text")];
        let t = Arc::new(schema("t", &columns, &[0]));
        f.prepare(&t).await;
        let plan = Plan::new(&t).insert(&[V("1"), V("12.5"), V("short     ")]);
        f.apply(vec![plan.done()]).await.unwrap();
        assert_eq!(f.rows("SELECT n, v FROM t").await, ["12.5000|short     "]);
        for (n, v, what) in [
            ("1.23456", "x", "more digits"),
            ("12345678901234567", "x", "more digits"),
            ("1", "short      ", "longer"),
        ] {
            let plan = Plan::new(&t).insert(&[V("2"), V(n), V(v)]);
            assert_halt(&f.apply(vec![plan.done()]).await.unwrap_err(), &[what]);
        }
        let w = Arc::new(schema("w", &columns, &[0]));
        use walferry::sink::Sink;
        let error = f.sink.prepare_table(&w, None).await.unwrap_err();
        assert_halt(&error, &["public.w, column v", "\"blob\"", "decimal(p,s)"]);
    }
}
