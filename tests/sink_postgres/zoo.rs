//! All built-in types by text, edge values included, by each way into a table.

use std::sync::Arc;

use walferry::model::{TableName, TableSchema, UserType};
use walferry::sink::Sink;

use crate::harness::{A, N, Pair, Plan, V, Value, dump, read_schema};

/// A type and values of it, as SQL literals.
const ZOO: &[(&str, &[&str])] = &[
    ("bool", &["t", "f"]),
    ("int2", &["-32768", "32767", "0"]),
    ("int4", &["-2147483648", "2147483647"]),
    ("int8", &["-9223372036854775808", "9223372036854775807"]),
    ("oid", &["0", "4294967295"]),
    (
        "float4",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "-0",
            "1e-45",
            "3.4028235e38",
            "0.1",
        ],
    ),
    (
        "float8",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "-0",
            "5e-324",
            "1.7976931348623157e308",
            "0.1",
        ],
    ),
    (
        "numeric",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "0.000",
            "1e100",
            "-1e-100",
            "12345678901234567890.123456789",
        ],
    ),
    ("numeric(10,2)", &["NaN", "-99999999.99", "0.10"]),
    ("numeric(5,-2)", &["1234500", "-100"]),
    (
        "money",
        &["-92233720368547758.08", "92233720368547758.07", "0"],
    ),
    (
        "text",
        &[
            "",
            " ",
            "\\",
            "\\N",
            "\\.",
            "a\tb\nc\rd",
            "{\"x\"}",
            "NULL",
            "ünïcödé 😀",
            "'\"$$",
            "\u{1}\u{7f}",
        ],
    ),
    ("varchar(10)", &["", "abc  ", "😀😀😀😀😀😀😀😀😀😀"]),
    ("char(5)", &["", "abc", "  x", "😀"]),
    ("bpchar", &["abc  ", ""]),
    ("name", &["", "a name", "ünï"]),
    ("\"char\"", &["a", "", "\\", "\\001", "\\377"]),
    ("bytea", &["\\x", "\\x00ff5c27", "\\x0a0d09"]),
    ("bit(3)", &["101", "000"]),
    ("bit", &["1"]),
    ("varbit", &["", "1", "0101010101010101"]),
    ("varbit(4)", &["0110"]),
    (
        "date",
        &[
            "infinity",
            "-infinity",
            "0001-01-01",
            "4713-01-01 BC",
            "5874897-12-31",
            "2000-02-29",
        ],
    ),
    ("time", &["00:00:00", "24:00:00", "23:59:59.999999"]),
    ("time(3)", &["12:34:56.789"]),
    (
        "timetz",
        &[
            "00:00:00+15:59",
            "24:00:00-15:59",
            "12:00:00.000001+05:30:15",
        ],
    ),
    (
        "timestamp",
        &[
            "infinity",
            "-infinity",
            "4713-01-01 00:00:00 BC",
            "294276-12-31 23:59:59.999999",
            "2024-06-30 23:59:59",
        ],
    ),
    ("timestamp(0)", &["2024-06-30 23:59:59"]),
    (
        "timestamptz",
        &[
            "infinity",
            "-infinity",
            "4713-01-01 00:00:00+00 BC",
            "294276-12-31 23:59:59.999999+00",
            "1883-11-18 12:00:00-05",
        ],
    ),
    ("timestamptz(3)", &["2024-06-30 23:59:59.123+02"]),
    (
        "interval",
        &[
            "0",
            "1 year 2 mons -3 days +04:05:06.789",
            "-178000000 years",
            "-1 mons +1 day -00:00:00.000001",
        ],
    ),
    ("interval(0)", &["1 day 02:03:04"]),
    ("interval day to minute", &["3 days 04:05"]),
    (
        "uuid",
        &[
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ],
    ),
    (
        "json",
        &[
            "null",
            "{\"a\" : 1.0,  \"a\":2}",
            "[]",
            "\"\\u00e9\"",
            "12345678901234567890.1234567890",
        ],
    ),
    (
        "jsonb",
        &[
            "null",
            "{\"a\": 1.00, \"b\": [null, true]}",
            "12345678901234567890.1234567890",
        ],
    ),
    ("jsonpath", &["$.\"a\"[*]?(@ > 1)"]),
    (
        "xml",
        &["<a b=\"1\">x &amp; y</a>", "text <b/> content", ""],
    ),
    ("inet", &["10.0.0.1", "10.0.0.1/8", "::1", "fe80::1/64"]),
    ("cidr", &["10.0.0.0/8", "10.1.2.3/32", "2001:db8::/32"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("point", &["(1,2)", "(NaN,Infinity)", "(-0,0.1)"]),
    ("line", &["{1,-1,0.5}"]),
    ("lseg", &["[(0,0),(1,1)]"]),
    ("box", &["(2,2),(1,1)"]),
    ("path", &["((0,0),(1,1))", "[(0,0),(1,1)]"]),
    ("polygon", &["((0,0),(1,1),(2,0))"]),
    ("circle", &["<(1,2),3>"]),
    ("tsvector", &["'a':1A 'b c':2,3B 'it''s'", ""]),
    ("tsquery", &["'a' & !'b' <-> 'c':*A", ""]),
    ("pg_lsn", &["0/0", "FFFFFFFF/FFFFFFFF"]),
    ("xid", &["0", "4294967295"]),
    ("xid8", &["18446744073709551615"]),
    ("cid", &["7"]),
    ("tid", &["(4294967295,65535)"]),
    ("pg_snapshot", &["10:20:10,14,15"]),
    ("regclass", &["pg_class", "0"]),
    ("regtype", &["integer", "timestamp with time zone"]),
    ("int4range", &["empty", "[1,10)", "(,)", "[5,)"]),
    ("numrange", &["[1.10,2.2]", "(,NaN)"]),
    ("tsrange", &["[\"2020-01-01 00:00:00\",infinity)"]),
    (
        "tstzrange",
        &["(\"2020-01-01 00:00:00+00\",\"2020-01-02 00:00:00+00\"]"],
    ),
    ("daterange", &["[2020-01-01,infinity]"]),
    ("int8multirange", &["{}", "{[1,3),[5,7)}"]),
    (
        "int4[]",
        &["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[-1:1]={1,2,3}"],
    ),
    (
        "text[]",
        &[
            "{\"a,b\",\"c\\\"d\",\"e\\\\f\",NULL,\"NULL\",\"\",\" x \"}",
            "{{a},{b}}",
        ],
    ),
    ("bytea[]", &["{\"\\\\x00ff\",NULL}"]),
    ("numeric(6,3)[]", &["{1.500,NaN}"]),
    ("char(3)[]", &["{\"a  \",\"b  \"}"]),
    ("varchar(2)[]", &["{ab,NULL}"]),
    ("jsonb[]", &["{\"{\\\"a\\\": 1}\",\"null\"}"]),
    ("timestamptz[]", &["{\"2020-01-01 00:00:00+00\",infinity}"]),
    ("point[]", &["{\"(1,2)\",\"(3,4)\"}"]),
    ("box[]", &["{(2,2),(1,1);(4,4),(3,3)}"]),
    ("\"char\"[]", &["{a,\"\"}"]),
    ("name[]", &["{a,\"b c\"}"]),
    ("xml[]", &["{<a/>}"]),
    ("money[]", &["{$1.00,-$2.50}"]),
    ("mood", &["sad", "so 'so'", "ok,\"x\""]),
    ("mood[]", &["{sad,NULL,\"so 'so'\"}"]),
    ("posint", &["1", "2147483647"]),
    ("posint[]", &["{1,2}"]),
    ("code", &["abc"]),
    ("pair", &["(1,\"a,\"\"b\\\\\")", "(,)", "(7,\"\")"]),
    ("pair[]", &["{\"(1,x)\",NULL}"]),
    ("textrange", &["[a,z)", "empty"]),
    (
        "hstore",
        &["\"a\"=>\"1\", \"b\"=>NULL, \"c d\"=>\"x\\\"y\"", ""],
    ),
    ("citext", &["MiXed", ""]),
    ("ltree", &["a.b_c.D"]),
];

fn types() -> Vec<UserType> {
    let name = |name: &str| TableName::new("public", name);
    let extension = |name: &str| UserType::Extension {
        name: name.to_owned(),
    };
    vec![
        extension("hstore"),
        extension("citext"),
        extension("ltree"),
        UserType::Enum {
            name: name("mood"),
            labels: vec!["sad".into(), "so 'so'".into(), "ok,\"x\"".into()],
        },
        UserType::Domain {
            name: name("posint"),
            base: "integer".into(),
            not_null: false,
            checks: vec!["CHECK ((VALUE > 0))".into()],
        },
        UserType::Domain {
            name: name("code"),
            base: "character varying(3)".into(),
            not_null: false,
            checks: vec![],
        },
        UserType::Composite {
            name: name("pair"),
            attributes: vec![
                ("n".into(), "integer".into()),
                ("odd \"t\"".into(), "text".into()),
            ],
        },
        UserType::Range {
            name: name("textrange"),
            subtype: "text".into(),
        },
    ]
}

async fn zoo(pair: &mut Pair) -> Arc<TableSchema> {
    let leader = &pair.leader;
    leader
        .batch_execute(
            "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree; \
             CREATE TYPE mood AS ENUM ('sad', 'so ''so''', 'ok,\"x\"'); \
             CREATE DOMAIN posint AS int CHECK (VALUE > 0); CREATE DOMAIN code AS varchar(3); \
             CREATE TYPE pair AS (n int, \"odd \"\"t\"\"\" text); \
             CREATE TYPE textrange AS RANGE (SUBTYPE = text)",
        )
        .await
        .unwrap();
    let columns: Vec<String> = ZOO
        .iter()
        .enumerate()
        .map(|(n, (kind, _))| format!("c{n} {kind}"))
        .collect();
    leader
        .batch_execute(&format!(
            "CREATE TABLE zoo (id int PRIMARY KEY, {})",
            columns.join(", ")
        ))
        .await
        .unwrap();
    let most = ZOO.iter().map(|(_, values)| values.len()).max().unwrap();
    for row in 0..=most {
        let mut cells = vec![row.to_string()];
        for (kind, values) in ZOO {
            cells.push(match values.get(row) {
                // As the type's input function takes it, without a cast in between.
                Some(value) => format!(
                    "E'{}'::{kind}",
                    value.replace('\\', "\\\\").replace('\'', "''")
                ),
                None => "NULL".to_owned(),
            });
        }
        leader
            .batch_execute(&format!("INSERT INTO zoo VALUES ({})", cells.join(", ")))
            .await
            .unwrap_or_else(|error| panic!("row {row}: {error:?}"));
    }
    let schema = Arc::new(read_schema(leader, "public", "zoo", types()).await);
    pair.sink.prepare_table(&schema, None).await.unwrap();
    schema
}

fn values(row: &[Option<String>]) -> Vec<Value<'_>> {
    row.iter()
        .map(|cell| cell.as_deref().map_or(N, V))
        .collect()
}

#[tokio::test]
async fn every_type_arrives_exactly_by_copy_insert_update_and_replace() {
    let mut pair = Pair::new("zoo").await;
    let schema = zoo(&mut pair).await;
    pair.load(&schema).await;
    pair.assert_equal(&schema).await;
    let rows = dump(&pair.leader, &schema).await;

    // INSERT from arrays.
    let mut plan = Plan::new(&schema).truncate();
    for row in &rows {
        plan = plan.insert(&values(row));
    }
    pair.apply(vec![plan.done()]).await.unwrap();
    pair.assert_equal(&schema).await;

    // UPDATE of all columns: first to NULL, then back.
    let mut plan = Plan::new(&schema);
    for row in &rows {
        let mut cells = vec![N; row.len()];
        cells[0] = values(row)[0];
        plan = plan.update(&cells);
    }
    pair.apply(vec![plan.done()]).await.unwrap();
    let mut plan = Plan::new(&schema);
    for row in &rows {
        plan = plan.update(&values(row));
    }
    pair.apply(vec![plan.done()]).await.unwrap();
    pair.assert_equal(&schema).await;

    // Replacing: away with nothing known of the values, and back with all known.
    let (mut away, mut back) = (Plan::new(&schema), Plan::new(&schema));
    let names: Vec<String> = (0..rows.len()).map(|n| (1_000 + n).to_string()).collect();
    for (row, name) in rows.iter().zip(&names) {
        let mut old = vec![A; row.len()];
        old[0] = values(row)[0];
        let mut new = vec![A; row.len()];
        new[0] = V(name);
        away = away.shift(&old, &new);
        back = back.shift(&new, &values(row));
    }
    pair.apply(vec![away.done()]).await.unwrap();
    pair.apply(vec![back.done()]).await.unwrap();
    pair.assert_equal(&schema).await;
}

#[tokio::test]
async fn every_type_is_found_again_by_its_text_in_a_table_without_a_key() {
    let mut pair = Pair::new("zookeyless").await;
    let schema = zoo(&mut pair).await;
    let mut keyless = TableSchema::clone(&schema);
    keyless.key.clear();
    keyless.primary_key.clear();
    pair.follower
        .batch_execute("ALTER TABLE zoo DROP CONSTRAINT zoo_pkey")
        .await
        .unwrap();
    let keyless = Arc::new(keyless);
    pair.sink.prepare_table(&keyless, None).await.unwrap();
    pair.load(&keyless).await;
    let rows = dump(&pair.leader, &schema).await;
    let mut plan = Plan::new(&keyless);
    for row in &rows {
        plan = plan.delete_next(&values(row));
    }
    pair.apply(vec![plan.done()]).await.unwrap();
    assert_eq!(dump(&pair.follower, &schema).await.len(), 0);
}

#[tokio::test]
async fn keys_of_every_sortable_type_find_their_rows() {
    let mut pair = Pair::new("zookeys").await;
    let schema = zoo(&mut pair).await;
    let mut tried = 0;
    for (n, (kind, _)) in ZOO.iter().enumerate() {
        let made = pair
            .leader
            .batch_execute(&format!(
                "CREATE TABLE k{n} (k {kind} PRIMARY KEY, a text); \
                 INSERT INTO k{n} SELECT DISTINCT c{n}, 'x' FROM zoo WHERE c{n} IS NOT NULL"
            ))
            .await;
        if made.is_err() {
            continue; // a type without a btree order
        }
        tried += 1;
        let keyed = Arc::new(read_schema(&pair.leader, "public", &format!("k{n}"), vec![]).await);
        pair.sink.prepare_table(&keyed, None).await.unwrap();
        pair.load(&keyed).await;
        let rows = dump(&pair.leader, &keyed).await;
        let mut update = Plan::new(&keyed);
        let mut delete = Plan::new(&keyed);
        for row in &rows {
            let key = values(row)[0];
            update = update.update(&[key, V("y")]);
            delete = delete.delete(&[key, A]);
        }
        pair.apply(vec![update.done()])
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        pair.apply(vec![delete.done()])
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(dump(&pair.follower, &keyed).await.len(), 0, "{kind}");
    }
    assert!(tried > 50, "{tried} types were tried");
    drop(schema);
}
