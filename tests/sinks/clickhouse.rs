//! ClickHouse as a store of the suite.

use walferry::killpoint::Point;

use crate::store::{NULL, Store, Table, Type, Unheld, printed};
use crate::support;

/// A server with a database `follower`.
pub struct ClickHouse(pub support::ClickHouse);

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// `numeric(p,s)` that is a Decimal.
fn is_decimal(name: &str) -> bool {
    let arguments = name
        .strip_prefix("numeric(")
        .and_then(|rest| rest.strip_suffix(')'));
    let parts = arguments.and_then(|arguments| arguments.split_once(','));
    let numbers = parts.and_then(|(p, s)| Some((p.parse::<i32>().ok()?, s.parse::<i32>().ok()?)));
    numbers.is_some_and(|(p, s)| p <= 76 && (0..=p).contains(&s))
}

/// What kind of timestamp a type is: the precision stands in its name's middle.
fn is_timestamp(name: &str, zone: &str) -> bool {
    name.starts_with("timestamp") && name.ends_with(zone)
}

/// The elements of what is an Array: of boxes, which are not delimited by commas, it is the leader's text.
fn element(of: &Type) -> Option<&Type> {
    of.element.as_deref().filter(|_| of.name != "box[]")
}

/// The text of a value that is not NULL.
fn shown(of: &Type, value: &str) -> String {
    if let Some(element) = element(of) {
        let inner = shown(element, "assumeNotNull(x)");
        return format!(
            "concat(toString(length({value})), ':', \
             arrayStringConcat(arrayMap(x -> if(isNull(x), 'NULL', {inner}), {value}), '|'))"
        );
    }
    match of.name.as_str() {
        "real" => format!("lower(leftPad(hex(reinterpretAsUInt32({value})), 8, '0'))"),
        "double precision" => format!("lower(leftPad(hex(reinterpretAsUInt64({value})), 16, '0'))"),
        "bytea" => format!("lower(hex({value}))"),
        _text => format!("toString({value})"),
    }
}

impl ClickHouse {
    /// Rows of a query whose only column is a text.
    async fn texts(&self, text: &str, rest: &str) -> Result<Vec<String>, String> {
        let query = format!("SELECT hex({text}) {rest} FORMAT TSV");
        let answer = self.0.ask(&[], query.as_bytes()).await;
        if answer.status != 200 {
            return Err(answer.text);
        }
        let rows = answer.text.lines().map(|line| {
            let byte =
                |n: usize| u8::from_str_radix(&line[n..n + 2], 16).expect("ClickHouse writes hex");
            let bytes = (0..line.len()).step_by(2).map(byte);
            String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
        });
        Ok(rows.collect())
    }
}

impl Store for ClickHouse {
    const UNHELD: &'static [Unheld] = &[
        Unheld {
            of: "timestamptz",
            value: "'infinity'",
            secret: "infinity",
            instead: "String",
        },
        Unheld {
            of: "date",
            value: "'1234-05-06'",
            secret: "1234-05-06",
            instead: "String",
        },
        Unheld {
            of: "numeric(10,2)",
            value: "'NaN'",
            secret: "NaN,",
            instead: "String",
        },
        Unheld {
            of: "int[]",
            value: "'{{1471104711,4712},{4713,4714}}'",
            secret: "1471104711",
            instead: "String",
        },
    ];
    const POINTS: &'static [(Point, u32)] = &[
        (Point::RowsLoaded, 1),
        (Point::BeforeEffect, 1),
        (Point::InEffect, 1),
        (Point::BeforeBegin, 2),
        (Point::ChunkApplied, 2),
        (Point::RowsInserted, 1),
        (Point::RowsInserted, 5),
        (Point::BeforeCommit, 3),
        (Point::AfterCommit, 3),
        (Point::BeforeProgress, 2),
    ];
    const INTEGER: &'static str = "Int64";

    async fn start() -> Self {
        let server = support::ClickHouse::start("follower");
        for statement in [
            "DROP DATABASE IF EXISTS follower SYNC",
            "CREATE DATABASE follower",
        ] {
            server.sql(statement).await;
        }
        ClickHouse(server)
    }

    fn connector(&self) -> String {
        let url = self.0.url("follower");
        format!("kind = \"clickhouse\"\nurl = \"{url}\"\nbatch_max_age = \"50ms\"\n")
    }

    async fn elsewhere(&self, database: &str) -> String {
        self.0.sql(&format!("CREATE DATABASE {database}")).await;
        let url = self.0.url(database);
        format!("kind = \"clickhouse\"\nurl = \"{url}\"\nbatch_max_age = \"50ms\"\n")
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
        self.0.sql(statement).await;
    }

    async fn numbers(&self, query: &str) -> Result<Vec<i64>, String> {
        let settings = [("final", "1"), ("database", "follower")];
        let answer = self.0.ask(&settings, query.as_bytes()).await;
        if answer.status != 200 {
            return Err(answer.text);
        }
        let numbers = answer.text.trim_end().split('\t').map(|number| {
            let number = number.parse();
            number.map_err(|error| format!("{error}: {}", answer.text))
        });
        numbers.collect()
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
            "CREATE TABLE follower.strange (id Int32, note Nullable(String), _version UInt128, _deleted UInt8) \
             ENGINE = ReplacingMergeTree(_version, _deleted) ORDER BY id"
                .to_owned(),
            "INSERT INTO follower.strange VALUES (1, 'theirs', 1, 0)".to_owned(),
        ]
    }

    fn on_leader(of: &Type, value: &str) -> String {
        if let Some(element) = element(of) {
            let inner = Self::on_leader(element, &format!("({value})[i]"));
            // NULL instead of an array is the empty one.
            return format!(
                "coalesce(cardinality({value}), 0) || ':' || array_to_string(ARRAY(SELECT coalesce({inner}, 'NULL')
                   FROM generate_subscripts({value}, 1) AS _(i) ORDER BY i), '|')"
            );
        }
        match of.name.as_str() {
            "boolean" => format!("({value})::text"),
            "real" => format!("encode(float4send({value}), 'hex')"),
            "double precision" => format!("encode(float8send({value}), 'hex')"),
            "bytea" => format!("encode({value}, 'hex')"),
            name if is_decimal(name) => format!("trim_scale({value})::text"),
            name if is_timestamp(name, "without time zone") => {
                format!("to_char({value}, 'YYYY-MM-DD HH24:MI:SS.US')")
            }
            name if is_timestamp(name, "with time zone") => {
                format!("to_char({value} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')")
            }
            _text => printed(value),
        }
    }

    async fn rows(&self, table: &Table, _shown: &str) -> Result<Vec<String>, String> {
        let values = table.columns.iter().map(|column| {
            let name = quoted(&column.name);
            match (element(&column.of), column.as_text) {
                (_, true) => format!("ifNull(toString({name}), '{NULL}')"),
                (Some(_), false) => shown(&column.of, &name),
                (None, false) => {
                    let text = shown(&column.of, &format!("assumeNotNull({name})"));
                    format!("if(isNull({name}), '{NULL}', {text})")
                }
            }
        });
        let values = values.collect::<Vec<_>>().join(", ");
        let place = self.place(&table.schema, &table.name);
        let text = format!("arrayStringConcat([{values}], '\\x1f')");
        self.texts(&text, &format!("FROM {place} FINAL")).await
    }
}
