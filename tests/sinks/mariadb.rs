//! MariaDB as a store of the suite.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use walferry::killpoint::Point;

use crate::store::{NULL, Store, Table, Type, Unheld, printed};
use crate::support;

/// A server with a database `follower`.
pub struct MariaDb(pub support::MariaDb);

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Numbers in brackets behind a type's name.
fn arguments(name: &str) -> Vec<i32> {
    let inside = name
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'));
    let numbers = inside.into_iter().flat_map(|(inside, _)| inside.split(','));
    numbers.filter_map(|number| number.parse().ok()).collect()
}

/// `FF6`, or as many digits of a second as the type has, behind `HH24:MI:SS`.
fn clock(name: &str) -> String {
    match arguments(name).first() {
        None | Some(6) => "HH24:MI:SS.FF6".to_owned(),
        Some(0) => "HH24:MI:SS".to_owned(),
        Some(digits) => format!("HH24:MI:SS.FF{digits}"),
    }
}

/// The subtype of a range or multirange, if the type is one.
fn range(name: &str) -> Option<&'static str> {
    match name {
        "int4range" | "int8range" | "numrange" | "int8multirange" => Some("numeric"),
        "span" => Some("double precision"),
        "tstzrange" => Some("text"),
        _no_range => None,
    }
}

fn is_number(name: &str) -> bool {
    let plain = name.split('(').next().unwrap_or(name);
    [
        "smallint",
        "integer",
        "bigint",
        "real",
        "double precision",
        "numeric",
    ]
    .contains(&plain)
}

/// What a value that is not NULL is in JSON, as SQL on the leader.
fn json(name: &str, value: &str) -> String {
    let string = format!("to_json(concat({value}))::text");
    match name {
        "boolean" => format!("({value})::text"),
        number if is_number(number) => {
            format!("CASE WHEN ({value})::text ~ '[0-9]$' THEN ({value})::text ELSE {string} END")
        }
        _string => string,
    }
}

fn range_json(subtype: &str, value: &str) -> String {
    let bound = |which: &str| {
        let inner = json(subtype, &format!("{which}({value})"));
        format!("CASE WHEN {which}_inf({value}) THEN 'null' ELSE {inner} END")
    };
    format!(
        "CASE WHEN num_nulls({value}) = 1 THEN NULL WHEN isempty({value}) THEN '{{\"empty\": true}}' ELSE '{{\"lower\": ' || {} || ', \"upper\": ' || {} \
         || ', \"bounds\": \"' || CASE WHEN lower_inc({value}) THEN '[' ELSE '(' END \
         || CASE WHEN upper_inc({value}) THEN ']' ELSE ')' END || '\"}}' END",
        bound("lower"),
        bound("upper")
    )
}

/// An array as JSON, unless it is NULL. Its elements are named one by one: a set of rows would be one of their columns.
fn array_json(element: &str, value: &str) -> String {
    let one = format!("({value})[n]");
    let inner = json(element, &one);
    format!(
        "CASE WHEN num_nulls({value}) = 0 THEN '[' || array_to_string(ARRAY(SELECT CASE WHEN num_nulls({one}) = 1 \
         THEN 'null' ELSE {inner} END FROM generate_subscripts({value}, 1) AS _(n) ORDER BY n), ', ') || ']' END"
    )
}

/// A multirange as JSON, unless it is NULL.
fn multirange_json(subtype: &str, value: &str) -> String {
    let inner = range_json(subtype, "x");
    format!(
        "CASE WHEN num_nulls({value}) = 0 THEN '[' || array_to_string(ARRAY(SELECT {inner} FROM unnest({value}) \
         AS _(x) ORDER BY x), ', ') || ']' END"
    )
}

impl MariaDb {
    async fn connect(&self) -> Conn {
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.0.port())
            .user(Some("walferry"))
            .pass(Some("secret"))
            .prefer_socket(false)
            .db_name(Some("follower"));
        let mut conn = Conn::new(options).await.unwrap();
        let set = "SET NAMES utf8mb4, sql_mode = 'NO_BACKSLASH_ESCAPES', group_concat_max_len = 1000000000";
        conn.query_drop(set).await.unwrap();
        conn
    }
}

impl Store for MariaDb {
    const UNHELD: &'static [Unheld] = &[
        Unheld {
            of: "float4",
            value: "'NaN'",
            secret: "= NaN",
            instead: "text",
        },
        Unheld {
            of: "float4",
            value: "'Infinity'",
            secret: "Infinity",
            instead: "text",
        },
        Unheld {
            of: "float4",
            value: "'-Infinity'",
            secret: "Infinity",
            instead: "text",
        },
        Unheld {
            of: "float8",
            value: "'NaN'",
            secret: "= NaN",
            instead: "text",
        },
        Unheld {
            of: "float8",
            value: "'Infinity'",
            secret: "Infinity",
            instead: "text",
        },
        Unheld {
            of: "float8",
            value: "'-Infinity'",
            secret: "Infinity",
            instead: "text",
        },
        Unheld {
            of: "numeric(10,2)",
            value: "'NaN'",
            secret: "= NaN",
            instead: "text",
        },
        Unheld {
            of: "timestamptz",
            value: "'infinity'",
            secret: "infinity",
            instead: "text",
        },
        Unheld {
            of: "date",
            value: "'0044-03-15 BC'",
            secret: "0044-03-15",
            instead: "varchar(20)",
        },
        Unheld {
            of: "int[]",
            value: "'[0:1]={1471104711,4712}'",
            secret: "1471104711",
            instead: "text",
        },
    ];
    const POINTS: &'static [(Point, u32)] = &[
        (Point::RowsLoaded, 1),
        (Point::BeforeEffect, 1),
        (Point::InEffect, 1),
        (Point::BeforeBegin, 2),
        (Point::ChunkApplied, 2),
        (Point::BeforeCommit, 3),
        (Point::CommitSent, 4),
        (Point::AfterCommit, 3),
        (Point::BeforeProgress, 2),
    ];
    const INTEGER: &'static str = "SIGNED";

    async fn start() -> Self {
        let server = support::MariaDb::start("follower");
        server.sql("CREATE DATABASE follower");
        MariaDb(server)
    }

    fn takes_name(name: &str) -> bool {
        name.chars().all(|c| u32::from(c) <= 0xFFFF)
    }

    fn connector(&self) -> String {
        format!("kind = \"mysql\"\nurl = \"{}\"\n", self.0.url("follower"))
    }

    async fn elsewhere(&self, database: &str) -> String {
        self.0.sql(&format!("CREATE DATABASE {database}"));
        format!("kind = \"mysql\"\nurl = \"{}\"\n", self.0.url(database))
    }

    fn crash_and_restart(&mut self) {
        self.0.crash_and_restart();
    }

    fn stop(&mut self) {
        self.0.stop();
    }

    fn start_again(&mut self) {
        self.0.start_again();
    }

    async fn sql(&self, statement: &str) {
        let done = self.connect().await.query_drop(statement).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    async fn numbers(&self, query: &str) -> Result<Vec<i64>, String> {
        let row = self
            .connect()
            .await
            .query_first::<mysql_async::Row, _>(query)
            .await;
        let row = row.map_err(|error| error.to_string())?;
        let row = row.ok_or_else(|| "no row".to_owned())?;
        let number = |n: usize| {
            let number = row.get_opt::<i64, usize>(n).transpose();
            number
                .ok()
                .flatten()
                .ok_or_else(|| format!("column {n} of {query} is no number"))
        };
        (0..row.len()).map(number).collect()
    }

    fn place(&self, schema: &str, table: &str) -> String {
        let database = if schema == "public" {
            "follower"
        } else {
            schema
        };
        format!("{}.{}", quoted(database), quoted(table))
    }

    fn strangers(&self) -> Vec<String> {
        vec![
            "CREATE TABLE strange (id INT PRIMARY KEY, note LONGTEXT CHARACTER SET utf8mb4)"
                .to_owned(),
            "INSERT INTO strange VALUES (1, 'theirs')".to_owned(),
        ]
    }

    fn on_leader(of: &Type, value: &str) -> String {
        if let Some(element) = &of.element {
            return array_json(&element.name, value);
        }
        if let Some(subtype) = range(&of.name) {
            return match of.name.ends_with("multirange") {
                true => multirange_json(subtype, value),
                false => range_json(subtype, value),
            };
        }
        let name = of.name.as_str();
        match name.split('(').next().unwrap_or(name).trim_end() {
            "boolean" => format!("({value})::int::text"),
            // The sign of a zero is kept by some versions only.
            "real" | "double precision" => {
                format!(
                    "replace(CASE WHEN {value} = 0 THEN '0' ELSE ({value})::float8::text END, 'e+', 'e')"
                )
            }
            "bytea" => format!("encode({value}, 'hex')"),
            "time" | "time without time zone" if name.ends_with("without time zone") => {
                format!(
                    "to_char(({value})::interval, '{}')",
                    clock(name).replace("FF6", "US")
                )
            }
            "timestamp" | "timestamp without time zone" | "timestamp with time zone" => {
                format!("to_char({value}, 'YYYY-MM-DD {}')", clock(name))
            }
            _text => printed(value),
        }
    }

    async fn rows(&self, table: &Table, _shown: &str) -> Result<Vec<String>, String> {
        let values = table.columns.iter().map(|column| {
            let name = quoted(&column.name);
            let text = match (column.of.name.as_str(), column.as_text) {
                ("real" | "double precision", false) => {
                    format!("CASE WHEN {name} = 0 THEN '0' ELSE CONCAT(CAST({name} AS DOUBLE)) END")
                }
                ("bytea", false) => format!("LOWER(HEX({name}))"),
                (_, _) => name,
            };
            format!("COALESCE({text}, '{NULL}')")
        });
        let query = format!(
            "SELECT CONCAT_WS(CHAR(31 USING utf8mb4), {}) FROM {}",
            values.collect::<Vec<_>>().join(", "),
            self.place(&table.schema, &table.name)
        );
        let rows = self.connect().await.query::<Vec<u8>, _>(query).await;
        let rows = rows.map_err(|error| error.to_string())?;
        Ok(rows
            .iter()
            .map(|row| String::from_utf8_lossy(row).into_owned())
            .collect())
    }
}
