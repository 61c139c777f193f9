//! How the leader's types are held. Pure.
//!
//! | leader | follower |
//! |---|---|
//! | `boolean` | `TINYINT(1)`, 1 and 0 |
//! | `smallint`, `integer`, `bigint` | `SMALLINT`, `INT`, `BIGINT` |
//! | `real`, `double precision` | `FLOAT`, `DOUBLE`; NaN and the infinities are refused |
//! | `numeric(p,s)` up to 65 digits, 30 of them (MariaDB: 38) behind the point | `DECIMAL(p,s)`; NaN is refused |
//! | other `numeric` | text: the digits as they are |
//! | `varchar(n)` up to 255 | `VARCHAR(n)` |
//! | `char(n)` up to 255 | `VARCHAR(n)` with its blanks, as `CHAR` would lose them |
//! | `text`, other `varchar` and `char` | `LONGTEXT`; in a key `VARCHAR` as long as the index allows |
//! | `bytea` | `LONGBLOB`; in a key `VARBINARY` |
//! | `date` | `DATE` of the years 1000 to 9999 (MariaDB: 1 to 9999) |
//! | `timestamp`, `timestamptz` | `DATETIME(6)` of these years, the latter in UTC |
//! | `time` | `TIME(6)`, 24:00:00 included |
//! | `uuid` | `CHAR(36)`: it compares as Postgres prints it, on every server |
//! | enums | `VARCHAR(63)`: a label that is added needs no new table, and they sort by name |
//! | `json`, `jsonb` | `LONGTEXT` with the text as it is; MySQL's `JSON` would round numbers |
//! | arrays, ranges, multiranges | `LONGTEXT` with JSON, see [`json`](super::json) |
//! | domains | as their base type |
//! | all others (money, inet, interval, bit, xml, tsvector, composite, …) | text as Postgres prints it |
//!
//! Every text is utf8mb4 with a binary collation that pads nothing: texts are equal if their bytes are, so that no
//! two keys of the leader are one here. `[columns]` in the sink's file names another type for a column: `text`
//! takes every value, `decimal(p,s)` and `varchar(n)` those that fit.

use crate::model::{Column, TableSchema, UserType, array_delimiter};

/// Most bytes of an index in InnoDB's DYNAMIC row format.
pub(super) const INDEX_BYTES: u32 = 3072;
/// Bytes of a character of utf8mb4.
const CHARACTER_BYTES: u32 = 4;
/// Longest text in a row of its own; a longer one is LONGTEXT.
const VARCHAR_MAX: u32 = 255;
/// Bytes of a row that MySQL counts without LONGTEXT and LONGBLOB (65,535), less what its NULLs and lengths take.
const ROW_BYTES: u32 = 60_000;
/// Digits of a DECIMAL.
const DECIMAL_DIGITS: i32 = 65;

/// What texts of arrays and ranges look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `{a,b}` with this delimiter.
    Array(u8),
    /// `[a,b)`.
    Range,
    /// `{[a,b),[c,d)}`.
    Multirange,
}

/// What a value in an array or a range is in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// true or false.
    Bool,
    /// A number, unless it is NaN or infinite.
    Number,
    /// A string.
    Text,
}

/// How a column's values are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// 1 and 0.
    Bool,
    /// An integer of this many bytes.
    Integer(u8),
    /// 32 bits.
    Float,
    /// 64 bits.
    Double,
    /// Digits in all, and behind the point.
    Decimal(u8, u8),
    /// Text of at most so many characters.
    Varchar(u32),
    /// Text of exactly 36 characters.
    Uuid,
    /// Text of at most so many bytes.
    Text(u32),
    /// Bytes, at most so many.
    Varbinary(u32),
    /// Bytes of at most so many.
    Blob(u32),
    /// A day.
    Date,
    /// A day and time; digits of a second.
    DateTime(u8),
    /// A time of day; digits of a second.
    Time(u8),
    /// JSON made of an array or a range, of at most so many bytes.
    Json(Shape, Element, u32),
}

/// Bytes of a LONGTEXT or LONGBLOB.
pub(super) const LONG: u32 = u32::MAX;

/// What a server can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// MariaDB, not MySQL.
    pub mariadb: bool,
    /// Digits of a DECIMAL behind its point.
    pub decimal_scale: i32,
    /// First year of its days.
    pub first_year: u16,
    /// utf8mb4, binary, without padding.
    pub collation: &'static str,
}

impl Server {
    /// MariaDB from 10.6 on.
    pub(super) const MARIADB: Server = Server {
        mariadb: true,
        decimal_scale: 38,
        first_year: 1,
        collation: "utf8mb4_nopad_bin",
    };
    /// MySQL from 8.0.17 on.
    pub(super) const MYSQL: Server = Server {
        mariadb: false,
        decimal_scale: 30,
        first_year: 1000,
        collation: "utf8mb4_0900_bin",
    };
}

impl Held {
    /// The type as SQL.
    pub(super) fn sql(self, server: Server) -> String {
        let text = |of: String| format!("{of} CHARACTER SET utf8mb4 COLLATE {}", server.collation);
        match self {
            Held::Bool => "TINYINT(1)".to_owned(),
            Held::Integer(2) => "SMALLINT".to_owned(),
            Held::Integer(4) => "INT".to_owned(),
            Held::Integer(_) => "BIGINT".to_owned(),
            Held::Float => "FLOAT".to_owned(),
            Held::Double => "DOUBLE".to_owned(),
            Held::Decimal(precision, scale) => format!("DECIMAL({precision},{scale})"),
            Held::Varchar(chars) => text(format!("VARCHAR({chars})")),
            Held::Uuid => text("CHAR(36)".to_owned()),
            Held::Text(_) | Held::Json(..) => text("LONGTEXT".to_owned()),
            Held::Varbinary(bytes) => format!("VARBINARY({bytes})"),
            Held::Blob(_) => "LONGBLOB".to_owned(),
            Held::Date => "DATE".to_owned(),
            Held::DateTime(digits) => format!("DATETIME({digits})"),
            Held::Time(digits) => format!("TIME({digits})"),
        }
    }

    /// Bytes that an index has of it; none: an index cannot hold the whole of it.
    pub(super) fn index_bytes(self) -> Option<u32> {
        match self {
            Held::Bool => Some(1),
            Held::Integer(bytes) => Some(u32::from(bytes)),
            Held::Float => Some(4),
            Held::Double => Some(8),
            Held::Decimal(precision, _) => Some(u32::from(precision).div_ceil(9) * 4 + 8),
            Held::Varchar(chars) => Some(chars * CHARACTER_BYTES),
            Held::Uuid => Some(36 * CHARACTER_BYTES),
            Held::Varbinary(bytes) => Some(bytes),
            Held::Date => Some(3),
            Held::DateTime(_) => Some(8),
            Held::Time(_) => Some(6),
            Held::Text(_) | Held::Blob(_) | Held::Json(..) => None,
        }
    }

    fn row_bytes(self) -> u32 {
        // A long one has a pointer and its length in the row.
        self.index_bytes().map_or(12, |bytes| bytes + 2)
    }
}

/// A column that cannot be held as it is told to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Index of the column, if it is one.
    pub column: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub remedy: String,
}

/// How each column of a version is held in a table made by walferry. `told`: the type that `[columns]` names.
pub(super) fn held<'a>(
    schema: &TableSchema,
    server: Server,
    told: impl Fn(&Column) -> Option<&'a str>,
) -> Result<Vec<Held>, Wrong> {
    let mut all = Vec::with_capacity(schema.columns.len());
    for (n, column) in schema.columns.iter().enumerate() {
        let plain = of_type(&column.type_name, &schema.types, server);
        all.push(match told(column) {
            None => plain,
            Some(told) => by_name(told, server).ok_or_else(|| Wrong {
                column: Some(n),
                what: format!(
                    "[columns] names the type {told:?}, which is none that walferry knows"
                ),
                remedy: "write text, varchar(n) or decimal(p,s)".to_owned(),
            })?,
        });
    }
    let mut keys: Vec<usize> = schema.key.clone();
    keys.extend(
        schema
            .primary_key
            .iter()
            .filter(|n| !schema.key.contains(n)),
    );
    let plain = all.clone();
    for key in [&schema.key, &schema.primary_key] {
        bound_key(key, &plain, &mut all)?;
    }
    let total: u32 = all.iter().map(|held| held.row_bytes()).sum();
    if total > ROW_BYTES {
        for (n, held) in all.iter_mut().enumerate() {
            if matches!(held, Held::Varchar(_)) && !keys.contains(&n) {
                *held = Held::Text(LONG);
            }
        }
    }
    Ok(all)
}

/// Gives the texts and bytes of a key the length that its index has room for.
fn bound_key(key: &[usize], plain: &[Held], all: &mut [Held]) -> Result<(), Wrong> {
    let is_bounded = |held: Held| match held {
        Held::Varchar(_) => false,
        _long => held.index_bytes().is_some(),
    };
    let fixed: u32 = key
        .iter()
        .filter(|n| is_bounded(plain[**n]))
        .filter_map(|n| plain[*n].index_bytes())
        .sum();
    let mut left = INDEX_BYTES.saturating_sub(fixed);
    // The short ones first: what they leave is for the others.
    let mut open: Vec<usize> = key
        .iter()
        .copied()
        .filter(|n| !is_bounded(plain[*n]))
        .collect();
    open.sort_by_key(|n| plain[*n].index_bytes().unwrap_or(u32::MAX));
    let mut count = u32::try_from(open.len()).unwrap_or(u32::MAX);
    for n in open {
        let share = left / count;
        count -= 1;
        let bytes = plain[n]
            .index_bytes()
            .map_or(share, |wanted| wanted.min(share));
        let chars = bytes / CHARACTER_BYTES;
        if chars == 0 {
            return Err(Wrong {
                column: Some(n),
                what: "its key is longer than an index of 3072 bytes has room for".to_owned(),
                remedy:
                    "exclude the table in the sink's file, or give the leader's table a shorter key"
                        .to_owned(),
            });
        }
        all[n] = match plain[n] {
            Held::Blob(_) => shorter(all[n], Held::Varbinary(bytes)),
            _text => shorter(all[n], Held::Varchar(chars)),
        };
        left -= match all[n] {
            Held::Varbinary(bytes) => bytes,
            _text => chars * CHARACTER_BYTES,
        };
    }
    Ok(())
}

/// A column may be in two keys.
fn shorter(one: Held, other: Held) -> Held {
    match (one.index_bytes(), other.index_bytes()) {
        (Some(a), Some(b)) if a < b => one,
        _not_both_bounded => other,
    }
}

/// The type that `[columns]` names.
fn by_name(told: &str, server: Server) -> Option<Held> {
    let told = told.trim().to_ascii_lowercase();
    if told == "text" {
        return Some(Held::Text(LONG));
    }
    let (name, arguments) = arguments(&told);
    match (name.as_str(), arguments.as_slice()) {
        ("varchar", &[chars]) => u32::try_from(chars)
            .ok()
            .filter(|chars| (1..=16_383).contains(chars))
            .map(Held::Varchar),
        ("decimal", &[precision, scale]) => decimal(precision, scale, server),
        ("decimal", &[precision]) => decimal(precision, 0, server),
        _unknown => None,
    }
}

/// `name(1,2)` as `name` and its numbers; what stands behind the brackets belongs to the name.
fn arguments(text: &str) -> (String, Vec<i32>) {
    let Some((head, rest)) = text.split_once('(') else {
        return (text.to_owned(), Vec::new());
    };
    let (inside, tail) = rest.split_once(')').unwrap_or((rest, ""));
    let numbers = inside.split(',').filter_map(|n| n.trim().parse().ok());
    (format!("{}{tail}", head.trim_end()), numbers.collect())
}

fn decimal(precision: i32, scale: i32, server: Server) -> Option<Held> {
    // numeric(2,-3) has five digits before the point, numeric(2,5) five behind it.
    let (precision, scale) = match scale {
        ..0 => (precision - scale, 0),
        0.. => (precision.max(scale), scale),
    };
    let fits = (1..=DECIMAL_DIGITS).contains(&precision) && scale <= server.decimal_scale;
    let small = |n: i32| u8::try_from(n).ok();
    if !fits {
        return None;
    }
    Some(Held::Decimal(small(precision)?, small(scale)?))
}

/// How values of a leader's type are held where nothing else is said.
pub(super) fn of_type(type_name: &str, types: &[UserType], server: Server) -> Held {
    // A domain may be over another one.
    let mut name = type_name;
    for _depth in 0..types.len() + 1 {
        match UserType::named(name, types) {
            Some(UserType::Domain { base, .. }) => name = base,
            Some(UserType::Enum { .. }) => return Held::Varchar(63),
            Some(UserType::Range { subtype, .. }) => {
                return Held::Json(Shape::Range, element(subtype), LONG);
            }
            Some(UserType::Composite { .. } | UserType::Extension { .. }) => {
                return Held::Text(LONG);
            }
            None => break,
        }
    }
    if let Some(of) = name.strip_suffix("[]") {
        let delimiter = array_delimiter(of, types);
        return Held::Json(Shape::Array(delimiter), element(of), LONG);
    }
    built_in(name, server)
}

fn built_in(name: &str, server: Server) -> Held {
    let (plain, numbers) = arguments(name);
    let first = numbers.first().and_then(|n| u32::try_from(*n).ok());
    let short = |first: Option<u32>| match first {
        Some(chars @ 1..=VARCHAR_MAX) => Held::Varchar(chars),
        Some(_) | None => Held::Text(LONG),
    };
    let digits = |n: Option<u32>| n.and_then(|n| u8::try_from(n).ok()).map_or(6, |n| n.min(6));
    match plain.as_str() {
        "boolean" => Held::Bool,
        "smallint" => Held::Integer(2),
        "integer" => Held::Integer(4),
        "bigint" => Held::Integer(8),
        "real" => Held::Float,
        "double precision" => Held::Double,
        "numeric" => match numbers.as_slice() {
            &[precision, scale] => decimal(precision, scale, server).unwrap_or(Held::Text(LONG)),
            _without_limit => Held::Text(LONG),
        },
        "character varying" | "character" | "bit" | "bit varying" => short(first),
        "bytea" => Held::Blob(LONG),
        "date" => Held::Date,
        "timestamp without time zone" | "timestamp with time zone" => Held::DateTime(digits(first)),
        "time without time zone" => Held::Time(digits(first)),
        "uuid" => Held::Uuid,
        "name" => Held::Varchar(63),
        "\"char\"" => Held::Varchar(4),
        "inet" | "cidr" | "money" => Held::Varchar(64),
        "macaddr"
        | "macaddr8"
        | "pg_lsn"
        | "time with time zone"
        | "oid"
        | "xid"
        | "cid"
        | "tid"
        | "xid8" => Held::Varchar(32),
        "interval" => Held::Varchar(128),
        "int4range" | "int8range" | "numrange" => Held::Json(Shape::Range, Element::Number, LONG),
        "tsrange" | "tstzrange" | "daterange" => Held::Json(Shape::Range, Element::Text, LONG),
        "int4multirange" | "int8multirange" | "nummultirange" => {
            Held::Json(Shape::Multirange, Element::Number, LONG)
        }
        "tsmultirange" | "tstzmultirange" | "datemultirange" => {
            Held::Json(Shape::Multirange, Element::Text, LONG)
        }
        _as_text => Held::Text(LONG),
    }
}

fn element(of: &str) -> Element {
    match arguments(of).0.as_str() {
        "boolean" => Element::Bool,
        "smallint" | "integer" | "bigint" | "real" | "double precision" | "numeric" => {
            Element::Number
        }
        _as_text => Element::Text,
    }
}

#[cfg(test)]
#[path = "types_tests.rs"]
mod tests;
