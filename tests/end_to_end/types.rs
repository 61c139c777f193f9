//! Every type arrives exactly: the leader's text and the follower's are equal, edge values included.

use crate::support::{Pipeline, Postgres, assert_equal, content, wait_caught_up};

/// Column type and the literals to put into it.
const ZOO: &[(&str, &[&str])] = &[
    ("bool", &["'t'", "'f'", "NULL"]),
    ("int2", &["-32768", "32767", "0"]),
    ("int4", &["-2147483648", "2147483647"]),
    (
        "int8",
        &[
            "-9223372036854775808",
            "9223372036854775807",
            "9007199254740993",
        ],
    ),
    (
        "float4",
        &[
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'-0'",
            "1.17549435e-38",
            "3.4028235e38",
            "0.1",
        ],
    ),
    (
        "float8",
        &[
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'-0'",
            "5e-324",
            "1.7976931348623157e308",
            "0.1",
            "1e22",
        ],
    ),
    (
        "numeric",
        &[
            "'NaN'",
            "0.000000000000000000000000000001",
            "repeat('9', 1000)::numeric",
            "1.10",
            "-0.0",
        ],
    ),
    ("numeric(10,2)", &["12345678.90", "-0.01", "0.00"]),
    ("numeric(5,0)", &["99999"]),
    ("money", &["'-92233720368547758.08'", "'12.34'"]),
    (
        "text",
        &[
            "''",
            "'null'",
            "'\\N'",
            "E'a\\tb\\nc\\\\d\"e''f\\x01'",
            "'__debezium_unavailable_value'",
            "'ünïcödé 🦭'",
            "repeat('long ', 5000)",
        ],
    ),
    ("varchar(5)", &["'abc  '", "''"]),
    ("char(5)", &["'abc'", "'    x'", "''"]),
    ("\"char\"", &["'a'", "''"]),
    ("name", &["'some_name'"]),
    (
        "bytea",
        &[
            "'\\x'",
            "'\\x00ff0a5c27'",
            "decode(repeat('ab', 3000), 'hex')",
        ],
    ),
    ("bit(3)", &["B'101'"]),
    ("varbit", &["B''", "B'1011001'"]),
    (
        "date",
        &[
            "'infinity'",
            "'-infinity'",
            "'4713-01-01 BC'",
            "'5874897-12-31'",
            "'2000-02-29'",
        ],
    ),
    ("time", &["'00:00:00'", "'24:00:00'", "'12:34:56.789012'"]),
    ("timetz", &["'12:34:56.789012+15:59'", "'00:00:00-15:59'"]),
    (
        "timestamp",
        &[
            "'infinity'",
            "'-infinity'",
            "'4713-01-01 00:00:00 BC'",
            "'294276-12-31 23:59:59.999999'",
        ],
    ),
    (
        "timestamptz",
        &[
            "'infinity'",
            "'0044-03-15 12:00:00+00 BC'",
            "'2024-06-30 23:59:59.999999+14'",
        ],
    ),
    ("timestamp(3)", &["'2024-01-01 00:00:00.123'"]),
    (
        "interval",
        &[
            "'-178000000 years'",
            "'1 year 2 mons -3 days 04:05:06.789'",
            "'0'",
        ],
    ),
    ("interval day to second(2)", &["'3 days 04:05:06.78'"]),
    ("uuid", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    (
        "json",
        &[
            "'{\"b\" : 1,  \"a\": [1,2, 1e400]}'",
            "'null'",
            "'\"\\u00e9\"'",
        ],
    ),
    (
        "jsonb",
        &[
            "'{\"b\": 123456789012345678901234567890.00, \"a\": null}'",
            "'[]'",
        ],
    ),
    ("xml", &["'<a>1 &lt; 2</a>'"]),
    ("inet", &["'::1'", "'10.0.0.1/8'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("point", &["'(1.5,-0)'", "'(NaN,Infinity)'"]),
    ("line", &["'{1,2,3}'"]),
    ("lseg", &["'[(0,0),(1,1)]'"]),
    ("box", &["'(1,1),(0,0)'"]),
    ("path", &["'[(0,0),(1,1)]'", "'((0,0),(1,1))'"]),
    ("polygon", &["'((0,0),(1,1),(1,0))'"]),
    ("circle", &["'<(0,0),2>'"]),
    ("tsvector", &["'a:1A fat:2B,4C'"]),
    ("tsquery", &["'fat & (rat | cat) & !dog'"]),
    ("int4range", &["'[1,10)'", "'empty'", "'(,)'"]),
    ("numrange", &["'[1.10,2.20]'"]),
    ("tstzrange", &["'[\"2024-01-01 00:00:00+00\",infinity)'"]),
    ("int4multirange", &["'{[1,3),[7,9)}'", "'{}'"]),
    (
        "int4[]",
        &["'{1,NULL,3}'", "'{}'", "'[2:4]={1,2,3}'", "'{{1,2},{3,4}}'"],
    ),
    (
        "text[]",
        &["ARRAY['a,b', 'c\"d', NULL, 'null', '', '{}', E'\\\\']"],
    ),
    ("bool[]", &["'{t,f,NULL}'"]),
    ("numeric[]", &["'{NaN,1.10}'"]),
    ("bytea[]", &["ARRAY['\\x00ff'::bytea, NULL]"]),
    (
        "timestamptz[]",
        &["'{infinity,\"2024-01-01 00:00:00+00\"}'"],
    ),
    ("jsonb[]", &["ARRAY['{\"a\": \"x,y\"}'::jsonb]"]),
    ("pg_lsn", &["'16/B374D848'"]),
    ("oid", &["4294967295"]),
    ("xid8", &["'18446744073709551615'"]),
    ("mood", &["'sad'", "'very \"happy\"'"]),
    ("mood[]", &["'{sad,NULL}'"]),
    ("posint", &["1", "2147483647"]),
    ("shorttext", &["'ok'"]),
    (
        "pair",
        &["ROW(1, 'a,\"b\"')", "ROW(NULL, '')", "ROW(2, NULL)"],
    ),
    ("pair[]", &["ARRAY[ROW(1,'x')::pair, NULL]"]),
    ("floatrange", &["'[1.5,2.5)'"]),
    ("hstore", &["'a=>1, \"b c\"=>NULL, \"q\\\"\"=>\"\"'"]),
    ("citext", &["'MiXeD'"]),
    ("ltree", &["'Top.Science.Astronomy'"]),
];

const TYPES: &str = "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree;
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'very \"happy\"');
    CREATE DOMAIN posint AS int CHECK (VALUE > 0);
    CREATE DOMAIN shorttext AS varchar(5) NOT NULL DEFAULT '';
    CREATE TYPE pair AS (a int, b text);
    CREATE TYPE floatrange AS RANGE (subtype = float8);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_arrives_exactly_by_copy_by_stream_and_by_update() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    let (from, to) = (leader.client().await, follower.client().await);
    from.batch_execute(TYPES).await.unwrap();
    let mut tables = Vec::new();
    for (n, (type_name, values)) in ZOO.iter().enumerate() {
        let table = format!("zoo_{n}");
        from.batch_execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY, v {type_name}, again {type_name}, n int DEFAULT 0)"))
            .await
            .unwrap_or_else(|e| panic!("{type_name}: {e:?}"));
        for (i, value) in values.iter().enumerate() {
            insert(&from, &table, i, type_name, value).await;
        }
        tables.push(table);
    }
    let names: Vec<&str> = tables.iter().map(String::as_str).collect();
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    equal_types(&from, &to, &names).await;

    // The same values by the stream: few rows, many rows, and updates of other columns and of these.
    for (n, (type_name, values)) in ZOO.iter().enumerate() {
        for (i, value) in values.iter().enumerate() {
            insert(&from, &tables[n], 100 + i, type_name, value).await;
        }
    }
    wait_caught_up(&from, &to, "a").await;
    equal_types(&from, &to, &names).await;
    for table in &tables {
        from.batch_execute(&format!("UPDATE {table} SET n = n + 1"))
            .await
            .unwrap();
        from.batch_execute(&format!("UPDATE {table} SET again = v, v = CASE WHEN id % 2 = 0 THEN v ELSE again END WHERE id < 100")).await.unwrap();
        from.batch_execute(&format!("INSERT INTO {table} SELECT 1000 + g, v, again, n FROM {table}, generate_series(1, 200) g WHERE id = 0")).await.unwrap();
    }
    wait_caught_up(&from, &to, "a").await;
    equal_types(&from, &to, &names).await;
}

async fn insert(
    client: &tokio_postgres::Client,
    table: &str,
    id: usize,
    type_name: &str,
    value: &str,
) {
    let statement = format!(
        "INSERT INTO {table} VALUES ({id}, ({value})::{type_name}, ({value})::{type_name})"
    );
    client
        .batch_execute(&statement)
        .await
        .unwrap_or_else(|e| panic!("{statement}: {e:?}"));
}

async fn equal_types(from: &tokio_postgres::Client, to: &tokio_postgres::Client, tables: &[&str]) {
    assert_equal(from, to, tables).await;
    let types = "(SELECT attrelid::regclass::text || '.' || attname || ' ' || format_type(atttypid, atttypmod) AS column
                  FROM pg_attribute WHERE attnum > 0 AND attrelid::regclass::text LIKE 'zoo_%')";
    assert_eq!(
        content::rows(from, types).await,
        content::rows(to, types).await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_many_types_find_their_rows() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    let (from, to) = (leader.client().await, follower.client().await);
    from.batch_execute(TYPES).await.unwrap();
    let keys = [
        "int8",
        "numeric",
        "text",
        "char(5)",
        "bytea",
        "uuid",
        "timestamptz",
        "float8",
        "mood",
        "posint",
        "citext",
        "int4[]",
        "pair",
        "date",
    ];
    let mut tables = Vec::new();
    for (n, (type_name, values)) in ZOO
        .iter()
        .enumerate()
        .filter(|(_, (t, _))| keys.contains(t))
    {
        let table = format!("key_{n}");
        from.batch_execute(&format!(
            "CREATE TABLE {table} (k {type_name}, part int, v text, PRIMARY KEY (k, part))"
        ))
        .await
        .unwrap();
        for (part, value) in values.iter().enumerate().filter(|(_, v)| **v != "NULL") {
            from.batch_execute(&format!(
                "INSERT INTO {table} VALUES (({value})::{type_name}, {part}, 'a')"
            ))
            .await
            .unwrap();
        }
        tables.push(table);
    }
    let names: Vec<&str> = tables.iter().map(String::as_str).collect();
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    for table in &tables {
        from.batch_execute(&format!("UPDATE {table} SET v = 'b'; UPDATE {table} SET part = part + 10; DELETE FROM {table} WHERE part = 10")).await.unwrap();
    }
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &names).await;
}
