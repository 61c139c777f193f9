//! What the follower's own catalog says of a table.

use super::failure::plain_error;
use super::types::{Held, LONG, Server};
use super::wire::{Texts, Wire, literal, quoted};
use crate::error::Result;

/// A column of the follower's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Live {
    /// Its name.
    pub name: String,
    /// `DATA_TYPE`: `varchar`.
    pub kind: String,
    /// `COLUMN_TYPE`: `varchar(20)`.
    pub type_text: String,
    /// `CHARACTER_MAXIMUM_LENGTH`.
    pub chars: Option<u64>,
    /// Digits in all and behind the point of a number.
    pub digits: (Option<u8>, Option<u8>),
    /// Digits of a second.
    pub seconds: Option<u8>,
    /// Its collation, if it has one.
    pub collation: Option<String>,
    /// It may be NULL.
    pub nullable: bool,
    /// It has a default, or counts by itself.
    pub fills_itself: bool,
    /// It is computed.
    pub generated: bool,
    /// Its comment.
    pub comment: String,
}

/// An index of the follower's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    /// Its name.
    pub name: String,
    /// No two rows are equal in it.
    pub unique: bool,
    /// Its columns in order; none for an expression.
    pub columns: Vec<Option<String>>,
    /// It has whole columns, not their beginnings.
    pub whole: bool,
}

/// The follower's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// `BASE TABLE`, or what else has the name.
    pub kind: String,
    /// `InnoDB`, or another one.
    pub engine: String,
    /// About how many rows it has.
    pub rows: u64,
    /// Columns in order.
    pub columns: Vec<Live>,
    /// Indexes.
    pub indexes: Vec<Index>,
}

impl Found {
    /// The column of this name. Servers do not tell names of columns apart by case.
    pub(super) fn column(&self, name: &str) -> Option<&Live> {
        let name = name.to_lowercase();
        self.columns
            .iter()
            .find(|live| live.name.to_lowercase() == name)
    }
}

/// Reads a table; none if there is none of this name.
pub(super) async fn read(wire: &mut Wire, database: &str, table: &str) -> Result<Option<Found>> {
    let failed = |cause| plain_error(&cause, "reading the follower's catalog");
    let is_it = |name: &str| {
        format!(
            "{name}.TABLE_SCHEMA = {} AND {name}.TABLE_NAME = {}",
            literal(database),
            literal(table)
        )
    };
    let tables = format!(
        "SELECT TABLE_TYPE, ENGINE, TABLE_ROWS, TABLE_NAME FROM information_schema.TABLES t WHERE {}",
        is_it("t")
    );
    let rows = wire.rows(&tables).await.map_err(failed)?;
    let mut rows = rows.into_iter();
    let Some(row) = rows.find(|row| row[3].as_deref() == Some(table)) else {
        return Ok(None);
    };
    let columns = format!(
        "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_MAXIMUM_LENGTH, NUMERIC_PRECISION, NUMERIC_SCALE, \
         DATETIME_PRECISION, COLLATION_NAME, IS_NULLABLE, COLUMN_DEFAULT IS NOT NULL, EXTRA, COLUMN_COMMENT \
         FROM information_schema.COLUMNS c WHERE {} ORDER BY ORDINAL_POSITION",
        is_it("c")
    );
    let indexes = format!(
        "SELECT INDEX_NAME, NON_UNIQUE, COLUMN_NAME, SUB_PART IS NULL FROM information_schema.STATISTICS s \
         WHERE {} ORDER BY INDEX_NAME, SEQ_IN_INDEX",
        is_it("s")
    );
    let columns = wire.rows(&columns).await.map_err(failed)?;
    let indexes = wire.rows(&indexes).await.map_err(failed)?;
    Ok(Some(Found {
        kind: text(&row, 0),
        engine: text(&row, 1),
        rows: number(&row, 2).unwrap_or(0),
        columns: columns.iter().map(live).collect(),
        indexes: gathered(&indexes),
    }))
}

fn text(row: &Texts, at: usize) -> String {
    row.get(at).cloned().flatten().unwrap_or_default()
}

fn number<N: std::str::FromStr>(row: &Texts, at: usize) -> Option<N> {
    row.get(at)?.as_deref()?.parse().ok()
}

fn live(row: &Texts) -> Live {
    let extra = text(row, 10).to_ascii_uppercase();
    Live {
        name: text(row, 0),
        kind: text(row, 1).to_ascii_lowercase(),
        type_text: text(row, 2),
        chars: number(row, 3),
        digits: (number(row, 4), number(row, 5)),
        seconds: number(row, 6),
        collation: row[7].clone(),
        nullable: text(row, 8) == "YES",
        fills_itself: text(row, 9) == "1" || extra.contains("AUTO_INCREMENT"),
        // MySQL says DEFAULT_GENERATED of a default that is an expression.
        generated: extra.contains("STORED GENERATED") || extra.contains("VIRTUAL GENERATED"),
        comment: text(row, 11),
    }
}

fn gathered(rows: &[Texts]) -> Vec<Index> {
    let mut all: Vec<Index> = Vec::new();
    for row in rows {
        let name = text(row, 0);
        if all.last().is_none_or(|index| index.name != name) {
            all.push(Index {
                name,
                unique: text(row, 1) == "0",
                columns: Vec::new(),
                whole: true,
            });
        }
        if let Some(index) = all.last_mut() {
            index.columns.push(row[2].clone());
            index.whole &= text(row, 3) == "1";
        }
    }
    all
}

impl Live {
    /// How its values are held, if it takes every value of a column that is to be held as `wanted`; else what is
    /// wrong. `compared`: rows are found by it.
    pub(super) fn takes(
        &self,
        wanted: Held,
        compared: bool,
        server: Server,
    ) -> Result<Held, String> {
        let other = || Err(format!("is of type {}", self.type_text));
        let unsigned = self.type_text.contains("unsigned");
        let (precision, scale) = (self.digits.0.unwrap_or(0), self.digits.1.unwrap_or(0));
        let chars = self
            .chars
            .and_then(|chars| u32::try_from(chars).ok())
            .unwrap_or(LONG);
        let seconds = self.seconds.unwrap_or(0);
        let held = match (wanted, self.kind.as_str()) {
            (Held::Bool, "tinyint" | "smallint" | "mediumint" | "int" | "bigint") => Held::Bool,
            (Held::Integer(bytes), kind) if !unsigned && integer_bytes(kind) >= Some(bytes) => {
                wanted
            }
            (Held::Integer(bytes), "decimal") if precision - scale >= integer_digits(bytes) => {
                Held::Decimal(precision, scale)
            }
            (Held::Float, "float") | (Held::Double, "double") => wanted,
            (Held::Float, "double") => Held::Double,
            (Held::Decimal(p, s), "decimal") if precision - scale >= p - s && scale >= s => {
                Held::Decimal(precision, scale)
            }
            (Held::Varchar(wanted), "varchar") if chars >= wanted => Held::Varchar(chars),
            (Held::Varchar(_), "longtext") if !compared => Held::Text(LONG),
            (Held::Uuid, "char" | "varchar") if chars >= 36 => wanted,
            (Held::Text(_) | Held::Json(..), "longtext") => wanted,
            (Held::Varbinary(wanted), "varbinary") if chars >= wanted => Held::Varbinary(chars),
            (Held::Varbinary(_), "longblob") if !compared => Held::Blob(LONG),
            (Held::Blob(_), "longblob") | (Held::Date, "date") => wanted,
            (Held::DateTime(digits), "datetime") if seconds >= digits => Held::DateTime(seconds),
            (Held::Time(digits), "time") if seconds >= digits => Held::Time(seconds),
            _other => return other(),
        };
        match &self.collation {
            Some(collation) if !collation.starts_with("utf8mb4") => Err(format!(
                "is of collation {collation}, which does not hold every text"
            )),
            Some(collation) if compared && collation != server.collation => Err(format!(
                "is of collation {collation}, in which texts are equal that are not on the leader"
            )),
            Some(_) | None => Ok(held),
        }
    }

    /// How values of a column without a bound are held here, as far as they are short enough.
    pub(super) fn bounded(&self, wanted: Held) -> Option<Held> {
        let max = u32::try_from(self.chars?).ok()?;
        match (wanted, self.kind.as_str()) {
            (Held::Text(_) | Held::Varchar(_), "varchar") => Some(Held::Varchar(max)),
            (Held::Blob(_) | Held::Varbinary(_), "varbinary") => Some(Held::Varbinary(max)),
            _other => None,
        }
    }

    /// Its definition as SQL, without name and NULL.
    pub(super) fn definition(&self) -> String {
        let collation = self.collation.as_ref();
        let collation = collation.map_or_else(String::new, |collation| {
            let charset = collation.split('_').next().unwrap_or(collation);
            format!(" CHARACTER SET {charset} COLLATE {collation}")
        });
        format!("{}{collation}", self.type_text)
    }

    /// Its name in backquotes.
    pub(super) fn quoted(&self) -> String {
        quoted(&self.name)
    }
}

fn integer_bytes(kind: &str) -> Option<u8> {
    match kind {
        "smallint" => Some(2),
        "mediumint" => Some(3),
        "int" => Some(4),
        "bigint" => Some(8),
        _other => None,
    }
}

fn integer_digits(bytes: u8) -> u8 {
    match bytes {
        2 => 5,
        4 => 10,
        _eight => 19,
    }
}
