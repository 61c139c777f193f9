//! A zoo of types: each value by a copy, an insert, an update, a changed key, and beside a change.

use super::world::World;
use crate::store::Store;

/// Types of the leader's own that the zoo has.
const MADE: &str = "CREATE TYPE mood AS ENUM ('sad', 'so so', 'it''s \"ok\"');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN price AS numeric(12,3);
    CREATE TYPE \"Odd mood\" AS ENUM ('Sad', 'sad');
    CREATE DOMAIN \"Odd price\" AS price;
    CREATE TYPE pair AS (a int, b text);
    CREATE TYPE span AS RANGE (subtype = float8);";

/// Types with literals of their values.
const ZOO: &[(&str, &[&str])] = &[
    ("boolean", &["true", "false"]),
    ("int2", &["-32768", "32767", "0"]),
    ("int4", &["-2147483648", "2147483647", "0"]),
    (
        "int8",
        &[
            "-9223372036854775808",
            "9223372036854775807",
            "9007199254740993",
        ],
    ),
    ("oid", &["0", "4294967295"]),
    (
        "float4",
        &[
            "'-0'",
            "1e-45",
            "3.4028235e38",
            "0.1",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
        ],
    ),
    (
        "float8",
        &[
            "'-0'",
            "5e-324",
            "1.7976931348623157e308",
            "0.1",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "1e22",
        ],
    ),
    (
        "numeric",
        &[
            "0.000",
            "1e100",
            "-1e-100",
            "12345678901234567890.123456789",
            "repeat('9', 500)::numeric",
            "'NaN'",
        ],
    ),
    ("numeric(10,2)", &["-99999999.99", "0.10", "0", "'NaN'"]),
    (
        "numeric(38,10)",
        &["9999999999999999999999999999.9999999999", "-0.0000000001"],
    ),
    ("numeric(60,0)", &["repeat('9', 60)::numeric", "-1"]),
    (
        "numeric(76,38)",
        &[
            "repeat('9', 38)::numeric",
            "-0.00000000000000000000000000000000000001",
        ],
    ),
    ("numeric(100,50)", &["repeat('9', 50)::numeric"]),
    ("numeric(5,-2)", &["1234500", "-100"]),
    ("money", &["'-92233720368547758.08'", "'12.34'"]),
    (
        "text",
        &[
            "''",
            "' '",
            "'NULL'",
            r"'\N'",
            r"E'a\tb\nc\rd\\e\x01'",
            "'''\"$$`'",
            "'ünïcödé 😀𝄞'",
            "repeat('long ', 3000)",
        ],
    ),
    ("varchar(10)", &["''", "'abc  '", "repeat('😀', 10)"]),
    ("char(5)", &["''", "'abc'", "'  x'"]),
    ("name", &["'a name'"]),
    ("\"char\"", &["'a'", "''"]),
    (
        "bytea",
        &[
            r"'\x'",
            r"'\x00ff5c2700'",
            r"'\x0a0d091f'",
            "decode(repeat('ab', 3000), 'hex')",
        ],
    ),
    ("bit(3)", &["B'101'"]),
    ("varbit", &["B''", "B'1011001'"]),
    (
        "date",
        &[
            "'1900-01-01'",
            "'2299-12-31'",
            "'2000-02-29'",
            "'1969-12-31'",
        ],
    ),
    ("time", &["'00:00:00'", "'24:00:00'", "'23:59:59.999999'"]),
    ("timetz", &["'00:00:00+15:59'", "'12:00:00.000001-05:30'"]),
    (
        "timestamp",
        &[
            "'1900-01-01 00:00:00'",
            "'2299-12-31 23:59:59.999999'",
            "'1969-12-31 23:59:59.999999'",
            "'2024-06-30 12:34:56.7'",
        ],
    ),
    ("timestamp(3)", &["'2024-06-30 23:59:59.123'"]),
    (
        "timestamptz",
        &[
            "'1900-01-01 00:00:00+00'",
            "'2299-12-31 23:59:59.999999+00'",
            "'2024-02-29 01:02:03.000001+14'",
            "'1970-01-01 00:00:00+00'",
        ],
    ),
    ("timestamptz(0)", &["'2024-06-30 23:59:59+02'"]),
    (
        "interval",
        &[
            "'0'",
            "'1 year 2 mons -3 days +04:05:06.789'",
            "'-178000000 years'",
        ],
    ),
    (
        "uuid",
        &[
            "'00000000-0000-0000-0000-000000000000'",
            "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
        ],
    ),
    (
        "json",
        &[
            r#"'{"a" : 1.0,  "a":2, "b": 1e400}'"#,
            "'null'",
            r#"'"\u00e9"'"#,
        ],
    ),
    (
        "jsonb",
        &[
            r#"'{"b": 123456789012345678901234567890.00, "a": [null, true]}'"#,
            "'null'",
            "'[]'",
        ],
    ),
    ("xml", &["'<a b=\"1\">x &amp; y</a>'"]),
    ("inet", &["'::1'", "'10.0.0.1/8'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("point", &["'(1.5,-0)'", "'(NaN,Infinity)'"]),
    ("box", &["'(2,2),(1,1)'"]),
    ("path", &["'[(0,0),(1,1)]'"]),
    ("tsvector", &["'a:1A fat:2B,4C'"]),
    ("pg_lsn", &["'FFFFFFFF/FFFFFFFF'"]),
    ("int4range", &["'empty'", "'[1,10)'", "'(,)'"]),
    ("numrange", &["'[1.10,2.2]'"]),
    (
        "tstzrange",
        &["'[\"2020-01-01 00:00:00+00\",\"2020-01-02 00:00:00+00\")'"],
    ),
    ("int8multirange", &["'{}'", "'{[1,3),[5,7)}'"]),
    ("mood", &["'so so'", "'it''s \"ok\"'"]),
    ("positive", &["1", "2147483647"]),
    ("price", &["999999999.999", "0.100"]),
    ("\"Odd mood\"", &["'sad'", "'Sad'"]),
    ("\"Odd price\"", &["-0.100"]),
    (
        "pair",
        &["ROW(1, 'a,\"b\" (c)')", "ROW(NULL, NULL)", "ROW(NULL, '')"],
    ),
    ("span", &["'[0.1,1e300)'"]),
    ("int4[]", &["'{}'", "'{1,NULL,-2147483648}'"]),
    ("int8[]", &["'{9223372036854775807}'"]),
    ("boolean[]", &["'{t,f,NULL}'"]),
    ("float8[]", &["'{0.1,NaN,-Infinity,NULL}'"]),
    (
        "text[]",
        &[
            "'{}'",
            r#"'{"",NULL,"NULL","a,b","c\"d\\e","{f}",ü😀}'"#,
            "ARRAY[E'a\\nb']",
        ],
    ),
    ("bytea[]", &[r#"'{"\\x00ff",NULL,"\\x"}'"#]),
    ("numeric(10,2)[]", &["'{0.10,NULL,-99999999.99}'"]),
    ("numeric[]", &["'{1e100,0.10}'"]),
    ("uuid[]", &["'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}'"]),
    ("date[]", &["'{2000-02-29,NULL}'"]),
    (
        "timestamptz[]",
        &["'{\"2024-06-30 23:59:59.999999+00\",NULL}'"],
    ),
    (
        "jsonb[]",
        &[r#"ARRAY['{"a": "b,c"}', NULL, '1.00']::jsonb[]"#],
    ),
    ("mood[]", &["'{sad,NULL,\"so so\"}'"]),
    ("\"Odd mood\"[]", &["'{sad,NULL,Sad}'"]),
    ("pair[]", &["ARRAY[ROW(1, 'a,b'), NULL]::pair[]"]),
    ("box[]", &["'{(2,2),(1,1);(4,4),(3,3)}'"]),
];

/// The zoo's table without a row, and the statement that fills it: row `n` has the `n`th value of every type that
/// has one and that the store holds.
pub fn zoo<S: Store>() -> (String, String) {
    let columns = ZOO.iter().enumerate();
    let declared: Vec<String> = columns.map(|(n, (of, _))| format!("c{n} {of}")).collect();
    let held = |of: &str, value: &str| {
        !S::UNHELD
            .iter()
            .any(|unheld| unheld.of == of && unheld.value == value)
    };
    let values: Vec<Vec<&str>> = ZOO
        .iter()
        .map(|(of, values)| {
            values
                .iter()
                .copied()
                .filter(|value| held(of, value))
                .collect()
        })
        .collect();
    let longest = values.iter().map(Vec::len).max().unwrap_or(0);
    let rows = (0..longest).map(|row| {
        let cells = values
            .iter()
            .zip(ZOO)
            .map(|(values, (of, _))| match values.get(row) {
                Some(value) => format!("({value})::{of}"),
                None => "NULL".to_owned(),
            });
        format!("({row}, {})", cells.collect::<Vec<_>>().join(", "))
    });
    let table = format!(
        "{MADE} CREATE TABLE zoo (id int PRIMARY KEY, {})",
        declared.join(", ")
    );
    let names: Vec<String> = (0..ZOO.len()).map(|n| format!("c{n}")).collect();
    let fill = rows.map(|row| format!("INSERT INTO zoo (id, {}) VALUES {row}", names.join(", ")));
    (table, fill.collect::<Vec<_>>().join("; "))
}

/// What is done with the rows of [`zoo`].
pub fn steps() -> Vec<String> {
    let names = |of: &str| {
        (0..ZOO.len())
            .map(|n| format!("{of}c{n}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    vec![
        format!("INSERT INTO zoo SELECT id + 100, {} FROM zoo", names("")),
        "INSERT INTO zoo (id) SELECT id + 200 FROM zoo WHERE id < 100".to_owned(),
        format!(
            "UPDATE zoo z SET ({}) = (SELECT {} FROM zoo y WHERE y.id = z.id - 200) WHERE z.id BETWEEN 200 AND 299",
            names(""),
            names("y.")
        ),
        "UPDATE zoo SET id = id + 400 WHERE id BETWEEN 100 AND 199".to_owned(),
        "UPDATE zoo SET c2 = 7 WHERE id < 100".to_owned(),
    ]
}

/// One row's columns of both sides that are not the same, with their types.
async fn difference<S: Store>(world: &World<S>) -> Result<(), String> {
    let Err(all) = world.same("zoo", &[]).await else {
        return Ok(());
    };
    let table = crate::store::table(&world.from, "zoo", &[]).await;
    let leaders = crate::store::leaders_rows::<S>(&world.from, &table).await;
    let followers = world.rows(&table).await?;
    let cells = |row: &String| {
        row.split(crate::store::SEPARATOR)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut told = Vec::new();
    for leader in leaders.iter().map(cells) {
        let Some(follower) = followers.iter().map(cells).find(|row| row[0] == leader[0]) else {
            continue;
        };
        let pairs = leader.iter().zip(&follower).zip(&table.columns);
        told.extend(pairs.filter(|((l, f), _)| l != f).map(|((l, f), column)| {
            format!("row {} {}: {l:?} is {f:?}", leader[0], column.of.name)
        }));
    }
    if told.is_empty() {
        Err(all)
    } else {
        Err(told.join("\n"))
    }
}

pub async fn every_type_arrives_by_every_way<S: Store>() {
    let (table, fill) = zoo::<S>();
    let mut world = World::<S>::begin(&format!("{table}; {fill}")).await;
    if let Err(difference) = difference(&world).await {
        panic!("copied: {difference}");
    }
    for step in steps() {
        world.sql(&step).await;
        world.caught_up().await;
        if let Err(difference) = difference(&world).await {
            panic!("after {step}: {difference}");
        }
    }
    world.stop();
}
