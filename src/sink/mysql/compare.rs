//! A MySQL follower compared with its leader, in a snapshot: what both print of each column.
//!
//! Floating-point numbers, and arrays and ranges, which are JSON here, have no form that both servers print alike: they
//! are left out, and the report says so.

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::failure::plain_error;
use super::inspect::Inspection;
use super::tables::Table;
use super::types::Held;
use super::wire::{Texts, Wire};
use super::{Identity, checkpoint};
use crate::config::MySqlSinkSettings;
use crate::error::{Error, Result};
use crate::model::relation::quote_identifier;
use crate::model::{Checkpoint, TableSchema};
use crate::sink::compared::{
    Compared, Contents, Forms, Printed, Sum, Sums, bytes_on_leader, moment_on_leader,
    text_on_leader,
};

/// A connection for a comparison.
pub(super) struct Comparing {
    inspection: Mutex<Inspection>,
    me: Identity,
}

impl Comparing {
    /// Connects.
    ///
    /// # Errors
    /// As [`Inspection::open`].
    pub(super) async fn open(
        pipeline: &str,
        sink: &str,
        settings: &MySqlSinkSettings,
    ) -> Result<Self> {
        Ok(Comparing {
            inspection: Mutex::new(Inspection::open(settings).await?),
            me: Identity::onlooker(pipeline, sink),
        })
    }

    async fn rows(&self, ask: &str) -> Result<Vec<Texts>> {
        let mut inspection = self.inspection.lock().await;
        let rows = inspection.wire()?.rows(ask).await;
        rows.map_err(|cause| plain_error(&cause, "reading rows to compare"))
    }
}

fn unreadable() -> Error {
    Error::transient("reading rows to compare: the server's answer cannot be read")
}

/// The follower's clock, microseconds since 1970.
pub(super) async fn clock_us(wire: &mut Wire) -> Result<i64> {
    let ask = "SELECT CAST(UNIX_TIMESTAMP(UTC_TIMESTAMP(6)) * 1000000 AS SIGNED)";
    let rows = wire.rows(ask).await;
    let rows = rows.map_err(|cause| plain_error(&cause, "asking for the time"))?;
    let text = rows.first().and_then(|row| row.first().cloned().flatten());
    text.and_then(|text| text.parse().ok())
        .ok_or_else(unreadable)
}

#[async_trait]
impl Compared for Comparing {
    async fn clock_us(&self) -> Result<i64> {
        let mut inspection = self.inspection.lock().await;
        clock_us(inspection.wire()?).await
    }

    async fn begin_snapshot(&mut self) -> Result<bool> {
        let wire = self.inspection.get_mut().wire()?;
        for statement in [
            "ROLLBACK",
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "START TRANSACTION WITH CONSISTENT SNAPSHOT",
        ] {
            let done = wire.command(statement).await;
            done.map_err(|cause| plain_error(&cause, "beginning a snapshot"))?;
        }
        Ok(true)
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        let mut inspection = self.inspection.lock().await;
        let found = checkpoint::read(inspection.wire()?, &self.me, "").await?;
        found.ok_or_else(|| self.me.unknown())
    }

    async fn forms(&self, schema: &TableSchema) -> Result<Result<Forms, String>> {
        let table = match self.inspection.lock().await.fitting(schema).await? {
            Ok(table) => table,
            Err(why) => return Ok(Err(why)),
        };
        Ok(forms(schema, &table))
    }

    async fn sums(&self, forms: &Forms, buckets: u64) -> Result<Sums> {
        let ask = format!(
            "SELECT {} AS b, COUNT(*), SUM({}) FROM {} GROUP BY b",
            bucket(forms, buckets),
            number(&content(&forms.follower)),
            forms.table
        );
        let rows = self.rows(&ask).await?;
        let sum = |row: Texts| {
            let [Some(bucket), Some(rows), Some(sum)] = <[_; 3]>::try_from(row).ok()? else {
                return None;
            };
            let (rows, hashes) = (rows.parse().ok()?, sum.parse().ok()?);
            Some((bucket.parse().ok()?, Sum { rows, hashes }))
        };
        rows.into_iter()
            .map(|row| sum(row).ok_or_else(unreadable))
            .collect()
    }

    async fn contents(&self, forms: &Forms, buckets: u64, of: &[i32]) -> Result<Contents> {
        let of: Vec<String> = of.iter().map(i32::to_string).collect();
        let ask = format!(
            "SELECT {}, MD5({}) FROM {} WHERE {} IN ({})",
            forms.key_on_follower().join(", "),
            content(&forms.follower),
            forms.table,
            bucket(forms, buckets),
            of.join(", ")
        );
        let rows = self.rows(&ask).await?;
        let row = |mut row: Texts| {
            let content = row.pop().flatten()?;
            let key = row
                .into_iter()
                .map(|part| part.unwrap_or_else(|| "null".to_owned()));
            Some((key.collect(), content))
        };
        rows.into_iter()
            .map(|texts| row(texts).ok_or_else(unreadable))
            .collect()
    }
}

/// One text of a row, in which no two rows are alike: each part with its length in bytes, or that it is NULL.
fn content(columns: &[String]) -> String {
    let part = |column: &String| format!("IFNULL(CONCAT(LENGTH({column}), ':', {column}), 'N')");
    match columns {
        [] => "''".to_owned(),
        some => format!(
            "CONCAT({})",
            some.iter().map(part).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// The first 64 bits of a text's MD5, signed.
fn number(text: &str) -> String {
    format!("CAST(CAST(CONV(LEFT(MD5({text}), 16), 16, 10) AS UNSIGNED) AS SIGNED)")
}

fn bucket(forms: &Forms, buckets: u64) -> String {
    let number = number(&content(&forms.key_on_follower()));
    format!("(({number} % {buckets}) + {buckets}) % {buckets}")
}

fn forms(schema: &TableSchema, table: &Table) -> Result<Forms, String> {
    if !schema.has_key() {
        return Err("it has no key, by which its rows could be compared".to_owned());
    }
    let mut columns = schema.columns.iter().zip(&table.columns);
    if let Some((lacking, _)) = columns.find(|(_, there)| there.quoted.is_empty()) {
        return Err(format!(
            "the follower's table has no column {}",
            lacking.name
        ));
    }
    Forms::new(table.quoted.clone(), schema, |n, column| {
        let there = &table.columns[n];
        printed(there.held, &quote_identifier(&column.name), &there.quoted)
    })
}

/// What leader and follower print of a column.
fn printed(held: Held, leader: &str, follower: &str) -> Printed {
    let plain = || format!("CAST({follower} AS CHAR)");
    Some(match held {
        Held::Bool => (format!("{leader}::int4::text"), plain()),
        Held::Integer(_) | Held::Date => (format!("{leader}::text"), plain()),
        Held::Decimal(precision, scale) => (
            format!("{leader}::numeric({precision},{scale})::text"),
            plain(),
        ),
        Held::Varchar(_) | Held::Uuid | Held::Text(_) => (
            text_on_leader(leader),
            format!("CONVERT({follower} USING utf8mb4)"),
        ),
        Held::Varbinary(_) | Held::Blob(_) => {
            (bytes_on_leader(leader), format!("LOWER(HEX({follower}))"))
        }
        Held::DateTime(_) => (
            moment_on_leader(leader),
            format!("DATE_FORMAT({follower}, '%Y-%m-%d %H:%i:%s.%f')"),
        ),
        Held::Time(_) => (
            format!("to_char({leader}::interval, 'HH24:MI:SS.US')"),
            format!("TIME_FORMAT({follower}, '%H:%i:%s.%f')"),
        ),
        Held::Float | Held::Double | Held::Json(..) => return None,
    })
}
