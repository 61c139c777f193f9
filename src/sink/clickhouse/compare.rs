//! A ClickHouse follower compared with its leader: what both print of each column, and the sums over `FINAL`.
//!
//! There are no snapshots: the sink stands still while a table is read.

use async_trait::async_trait;
use serde::Deserialize;

use super::Identity;
use super::checkpoint::Store;
use super::failure::Doing;
use super::http::{Http, Query};
use super::shape::wanted;
use super::sql;
use super::tables::columns;
use super::types::Kind;
use crate::config::{ClickHouseMode, ClickHouseSinkSettings};
use crate::error::{Error, Result};
use crate::model::relation::quote_identifier;
use crate::model::{Checkpoint, Column, TableSchema};
use crate::sink::compared::{
    Compared, Contents, Forms, Printed, Sum, Sums, bytes_on_leader, moment_on_leader,
    text_on_leader,
};
use crate::sink::databases::Databases;

/// A connection for a comparison.
pub(super) struct Comparing {
    http: Http,
    settings: ClickHouseSinkSettings,
    databases: Databases,
    me: Identity,
}

impl Comparing {
    /// Nothing is connected yet.
    pub(super) fn new(pipeline: &str, sink: &str, settings: &ClickHouseSinkSettings) -> Self {
        Comparing {
            http: Http::new(settings.server.clone(), settings.statement_timeout),
            databases: Databases::new(&settings.server.url.database, &settings.databases),
            settings: settings.clone(),
            me: Identity::onlooker(pipeline, sink),
        }
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, ask: &str) -> Result<Vec<T>> {
        let answer = self.http.ask(Query::new(ask)).await;
        let doing = "reading rows to compare";
        let answer = answer.map_err(|failure| failure.with_rows(doing))?;
        let lines = answer
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let parsed = lines.map(|line| {
            serde_json::from_slice(line).map_err(|_holds_values| {
                Error::transient(format!("{doing}: ClickHouse's answer cannot be read"))
            })
        });
        parsed.collect()
    }
}

#[async_trait]
impl Compared for Comparing {
    async fn clock_us(&self) -> Result<i64> {
        clock_us(&self.http).await
    }

    async fn begin_snapshot(&mut self) -> Result<bool> {
        Ok(false)
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let store = Store {
            http: &self.http,
            database: self.databases.own(),
            me: &self.me,
        };
        let newest = store.newest().await?;
        newest.ok_or_else(|| self.me.unknown())?.checkpoint()
    }

    async fn forms(&self, schema: &TableSchema) -> Result<Result<Forms, String>> {
        if self.settings.mode == ClickHouseMode::History {
            return Ok(Err("it keeps every change, and is not compared".to_owned()));
        }
        let (database, name) = self.databases.of(&schema.table)?;
        let found = columns(&self.http, database, name).await?;
        if found.is_empty() {
            return Ok(Err("the follower has no table of this name".to_owned()));
        }
        let has = |column: &&Column| found.iter().any(|found| found.name == column.name);
        let lacking = schema.columns.iter().filter(|column| !has(column));
        let lacking: Vec<&str> = lacking.map(|column| column.name.as_str()).collect();
        if !lacking.is_empty() {
            let lacking = lacking.join(", ");
            return Ok(Err(format!("the follower's table has no column {lacking}")));
        }
        let kinds = schema.columns.iter().map(|column| {
            let wanted = wanted(&self.settings, schema, column)?;
            Ok(wanted.kind)
        });
        let kinds = kinds.collect::<Result<Vec<Kind>>>()?;
        let table = format!("{} FINAL", sql::table(database, name));
        Ok(Forms::new(table, schema, |n, column| {
            pair(column, &kinds[n])
        }))
    }

    async fn sums(&self, forms: &Forms, buckets: u64) -> Result<Sums> {
        #[derive(Deserialize)]
        struct Row(i32, String, String);
        let (bucket, content) = (bucket(forms, buckets), content(&forms.follower));
        let ask = format!(
            "SELECT {bucket} AS b, toString(count()), toString(sum(toInt128({}))) FROM {} GROUP BY b \
             FORMAT JSONCompactEachRow",
            number(&content),
            forms.table
        );
        let rows: Vec<Row> = self.ask(&ask).await?;
        let unreadable = || Error::transient("sums of rows: ClickHouse's answer cannot be read");
        let parsed = rows.into_iter().map(|Row(bucket, rows, sum)| {
            let rows = rows.parse().map_err(|_| unreadable())?;
            let hashes = sum.parse().map_err(|_| unreadable())?;
            Ok((bucket, Sum { rows, hashes }))
        });
        parsed.collect()
    }

    async fn contents(&self, forms: &Forms, buckets: u64, of: &[i32]) -> Result<Contents> {
        let of: Vec<String> = of.iter().map(i32::to_string).collect();
        let ask = format!(
            "SELECT [{}], lower(hex(MD5({}))) FROM {} WHERE {} IN ({}) FORMAT JSONCompactEachRow",
            forms.key_on_follower().join(", "),
            content(&forms.follower),
            forms.table,
            bucket(forms, buckets),
            of.join(", ")
        );
        let rows: Vec<(Vec<String>, String)> = self.ask(&ask).await?;
        Ok(rows.into_iter().collect())
    }
}

/// The server's clock, microseconds since 1970.
pub(super) async fn clock_us(http: &Http) -> Result<i64> {
    let ask = "SELECT toUnixTimestamp64Micro(now64(6))";
    let answer = http
        .ask(Query::new(ask))
        .await
        .doing("asking for the time")?;
    let text = String::from_utf8_lossy(&answer);
    text.trim().parse().map_err(|_not_a_number| {
        Error::transient("asking for the time: ClickHouse's answer cannot be read")
    })
}

/// One text of a row, in which no two rows are alike: each part with its length in bytes, or that it is NULL.
fn content(columns: &[String]) -> String {
    let part = |column: &String| {
        format!(
            "if(isNull({column}), 'N', concat(toString(length(assumeNotNull({column}))), ':', assumeNotNull({column})))"
        )
    };
    match columns {
        [] => "''".to_owned(),
        [one] => part(one),
        many => format!(
            "concat({})",
            many.iter().map(part).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// The first 64 bits of a text's MD5, signed.
fn number(text: &str) -> String {
    format!("reinterpretAsInt64(reverse(substring(MD5({text}), 1, 8)))")
}

fn bucket(forms: &Forms, buckets: u64) -> String {
    let number = number(&content(&forms.key_on_follower()));
    format!("toInt32((({number} % {buckets}) + {buckets}) % {buckets})")
}

/// What the leader and the follower print of a column; `None` where ClickHouse keeps another form.
fn pair(column: &Column, kind: &Kind) -> Printed {
    let (leader, follower) = (quote_identifier(&column.name), sql::name(&column.name));
    if let Kind::Array(element) = kind {
        let mut innermost = &**element;
        while let Kind::Array(inner) = innermost {
            innermost = inner;
        }
        let (of_leader, of_follower) = printed(innermost, ("e", "e"))?;
        let part = format!(
            "CASE WHEN e IS NULL THEN 'N' ELSE octet_length({of_leader}) || ':' || {of_leader} END"
        );
        return Some((
            format!(
                "coalesce((SELECT string_agg({part}, '' ORDER BY n) FROM unnest({leader}) WITH ORDINALITY AS u (e, n)), '')"
            ),
            format!(
                "arrayStringConcat(arrayMap(e -> if(isNull(e), 'N', concat(toString(length(assumeNotNull({of_follower}))), \
                 ':', assumeNotNull({of_follower}))), arrayFlatten({follower})))"
            ),
        ));
    }
    printed(kind, (&leader, &follower))
}

/// The forms of one value.
fn printed(kind: &Kind, (leader, follower): (&str, &str)) -> Printed {
    let text = || (format!("{leader}::text"), format!("toString({follower})"));
    Some(match kind {
        Kind::Bool => (
            format!("{leader}::int4::text"),
            format!("toString(toUInt8({follower}))"),
        ),
        Kind::Int16 | Kind::Int32 | Kind::Int64 | Kind::UInt32 | Kind::Date32 | Kind::Uuid => {
            text()
        }
        Kind::Text | Kind::Word => (text_on_leader(leader), format!("toString({follower})")),
        Kind::Float32 => (
            format!("encode(float4send({leader}), 'hex')"),
            format!("leftPad(lower(hex(reinterpretAsUInt32({follower}))), 8, '0')"),
        ),
        Kind::Float64 => (
            format!("encode(float8send({leader}), 'hex')"),
            format!("leftPad(lower(hex(reinterpretAsUInt64({follower}))), 16, '0')"),
        ),
        Kind::Decimal(precision, scale) => (
            format!("trim_scale({leader}::numeric({precision},{scale}))::text"),
            format!("toString({follower})"),
        ),
        Kind::DateTime64 => (moment_on_leader(leader), format!("toString({follower})")),
        Kind::Bytes => (bytes_on_leader(leader), format!("lower(hex({follower}))")),
        Kind::Json | Kind::Array(_) => return None,
    })
}
