//! Which ClickHouse type a leader's column has.
//!
//! | Postgres | ClickHouse |
//! |---|---|
//! | `boolean` | `Bool` |
//! | `smallint`, `integer`, `bigint`, `oid` | `Int16`, `Int32`, `Int64`, `UInt32` |
//! | `real`, `double precision` | `Float32`, `Float64` (NaN and infinities are held) |
//! | `numeric(p,s)`, 1 <= p <= 76, 0 <= s <= p | `Decimal(p, s)` |
//! | other `numeric` | `String` |
//! | `date` | `Date32` (1900-01-01 to 2299-12-31) |
//! | `timestamp`, `timestamptz` | `DateTime64(6, 'UTC')` (the same years) |
//! | `uuid` | `UUID` |
//! | `bytea` | `String` with the bytes themselves |
//! | an enum | `LowCardinality(String)` |
//! | an array of these | `Array(Nullable(…))`; NULL instead of an array is the empty one |
//! | a domain | as its base type |
//! | everything else | `String` with the text that Postgres prints |
//!
//! Columns that may be NULL on the leader are `Nullable(…)`, arrays excepted, which ClickHouse does not let be.
//! What a type cannot hold halts the sink; the settings can give a column another type (`[columns]`).

use std::fmt;

use crate::model::{Column, TableSchema, UserType, array_delimiter};

/// Most digits of a Decimal.
const DECIMAL_MAX: u32 = 76;

/// A type, without `Nullable`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `Bool`.
    Bool,
    /// `Int16`.
    Int16,
    /// `Int32`.
    Int32,
    /// `Int64`.
    Int64,
    /// `UInt32`.
    UInt32,
    /// `Float32`.
    Float32,
    /// `Float64`.
    Float64,
    /// `Decimal(precision, scale)`.
    Decimal(u32, u32),
    /// `Date32`.
    Date32,
    /// `DateTime64(6, 'UTC')`.
    DateTime64,
    /// `UUID`.
    Uuid,
    /// `String` with the text that Postgres prints.
    Text,
    /// `String` with the bytes of a `bytea`.
    Bytes,
    /// `LowCardinality(String)`.
    Word,
    /// `JSON`.
    Json,
    /// `Array(Nullable(element))`, or an array of arrays.
    Array(Box<Kind>),
}

/// A column's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Type {
    /// What it holds.
    pub kind: Kind,
    /// Whether it holds NULL too.
    pub nullable: bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Bool => f.write_str("Bool"),
            Kind::Int16 => f.write_str("Int16"),
            Kind::Int32 => f.write_str("Int32"),
            Kind::Int64 => f.write_str("Int64"),
            Kind::UInt32 => f.write_str("UInt32"),
            Kind::Float32 => f.write_str("Float32"),
            Kind::Float64 => f.write_str("Float64"),
            Kind::Decimal(precision, scale) => write!(f, "Decimal({precision}, {scale})"),
            Kind::Date32 => f.write_str("Date32"),
            Kind::DateTime64 => f.write_str("DateTime64(6, 'UTC')"),
            Kind::Uuid => f.write_str("UUID"),
            Kind::Text | Kind::Bytes => f.write_str("String"),
            Kind::Word => f.write_str("LowCardinality(String)"),
            Kind::Json => f.write_str("JSON"),
            Kind::Array(element) => match **element {
                Kind::Array(_) => write!(f, "Array({element})"),
                Kind::Word => f.write_str("Array(LowCardinality(Nullable(String)))"),
                _ => write!(f, "Array(Nullable({element}))"),
            },
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.kind, self.nullable) {
            (Kind::Word, true) => f.write_str("LowCardinality(Nullable(String))"),
            (kind, true) => write!(f, "Nullable({kind})"),
            (kind, false) => kind.fmt(f),
        }
    }
}

impl Kind {
    /// The type of an array's elements of this kind.
    pub(super) fn of_element(&self) -> Type {
        Type {
            kind: self.clone(),
            nullable: self.may_be_null(),
        }
    }

    /// Whether a column of it can be `Nullable`.
    pub(super) fn may_be_null(&self) -> bool {
        !matches!(self, Kind::Array(_))
    }
}

/// The type of a column by the mapping. Columns of the key are never NULL.
pub(super) fn mapped(schema: &TableSchema, column: &Column) -> Type {
    let kind = kind_of(&column.type_name, &schema.types);
    nullable(schema, column, kind)
}

/// The type that the settings give a column; why not, if they cannot.
pub(super) fn chosen(schema: &TableSchema, column: &Column, written: &str) -> Result<Type, String> {
    let mapped = kind_of(&column.type_name, &schema.types);
    let kind = parse(written)
        .ok_or_else(|| format!("`{written}` is none of the types that walferry can write"))?;
    // A text can be held by what its own type is read into, and anything as the text that it is.
    let kind = match (kind, &mapped) {
        (Kind::Text, Kind::Bytes) => Kind::Bytes,
        (kind, _) => kind,
    };
    let fits = match &kind {
        Kind::Text | Kind::Word => !matches!(mapped, Kind::Bytes),
        Kind::Bytes => matches!(mapped, Kind::Bytes),
        Kind::Json => matches!(column.type_name.as_str(), "json" | "jsonb"),
        Kind::Decimal(..) => {
            column.type_name.starts_with("numeric")
                || matches!(mapped, Kind::Int16 | Kind::Int32 | Kind::Int64)
        }
        Kind::Int64 => matches!(
            mapped,
            Kind::Int16 | Kind::Int32 | Kind::UInt32 | Kind::Int64
        ),
        Kind::Int32 => matches!(mapped, Kind::Int16 | Kind::Int32),
        Kind::Float64 => matches!(mapped, Kind::Float32 | Kind::Float64),
        Kind::Array(_) => column.type_name.ends_with("[]"),
        Kind::Bool
        | Kind::Int16
        | Kind::UInt32
        | Kind::Float32
        | Kind::Date32
        | Kind::DateTime64
        | Kind::Uuid => kind == mapped,
    };
    if fits {
        Ok(nullable(schema, column, kind))
    } else {
        Err(format!(
            "{} cannot hold every value of {}",
            kind, column.type_name
        ))
    }
}

fn nullable(schema: &TableSchema, column: &Column, kind: Kind) -> Type {
    let index = schema.columns.iter().position(|c| c.name == column.name);
    let in_key = index.is_some_and(|index| schema.key.contains(&index));
    Type {
        nullable: !column.not_null && !in_key && kind.may_be_null(),
        kind,
    }
}

/// By the name that `format_type` prints.
fn kind_of(name: &str, types: &[UserType]) -> Kind {
    if let Some(element) = name.strip_suffix("[]") {
        return match array_delimiter(element, types) {
            b',' => Kind::Array(Box::new(kind_of(element, types))),
            _another => Kind::Text,
        };
    }
    let (base, arguments) = split_arguments(name);
    match base.as_str() {
        "boolean" => Kind::Bool,
        "smallint" => Kind::Int16,
        "integer" => Kind::Int32,
        "bigint" => Kind::Int64,
        "oid" => Kind::UInt32,
        "real" => Kind::Float32,
        "double precision" => Kind::Float64,
        "numeric" => decimal(arguments).unwrap_or(Kind::Text),
        "date" => Kind::Date32,
        "timestamp without time zone" | "timestamp with time zone" => Kind::DateTime64,
        "uuid" => Kind::Uuid,
        "bytea" => Kind::Bytes,
        _other => user_kind(name, types),
    }
}

fn user_kind(name: &str, types: &[UserType]) -> Kind {
    match UserType::named(name, types) {
        Some(UserType::Enum { .. }) => Kind::Word,
        Some(UserType::Domain { base, .. }) => kind_of(base, types),
        Some(UserType::Composite { .. } | UserType::Extension { .. } | UserType::Range { .. })
        | None => Kind::Text,
    }
}

/// `numeric(10,2)` as `numeric` and `10,2`; `timestamp(3) with time zone` as `timestamp with time zone` and `3`.
fn split_arguments(name: &str) -> (String, Option<&str>) {
    let parts = name
        .split_once('(')
        .and_then(|(before, rest)| Some((before, rest.split_once(')')?)));
    match parts {
        Some((before, (arguments, behind))) => (format!("{before}{behind}"), Some(arguments)),
        None => (name.to_owned(), None),
    }
}

fn decimal(arguments: Option<&str>) -> Option<Kind> {
    let arguments = arguments?;
    let (precision, scale) = arguments.split_once(',').unwrap_or((arguments, "0"));
    let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    let fits = (1..=DECIMAL_MAX).contains(&precision) && scale <= precision;
    fits.then_some(Kind::Decimal(precision, scale))
}

/// A type as the settings, or a server, write it; `None` for one that walferry does not write.
pub(super) fn parse(text: &str) -> Option<Kind> {
    let text = text.trim();
    let inner = |of: &str| {
        let rest = text.strip_prefix(of)?.trim_start().strip_prefix('(')?;
        rest.strip_suffix(')').map(str::trim)
    };
    Some(match text {
        "Bool" => Kind::Bool,
        "Int16" => Kind::Int16,
        "Int32" => Kind::Int32,
        "Int64" => Kind::Int64,
        "UInt32" => Kind::UInt32,
        "Float32" => Kind::Float32,
        "Float64" => Kind::Float64,
        "Date32" => Kind::Date32,
        "UUID" => Kind::Uuid,
        "String" => Kind::Text,
        "JSON" => Kind::Json,
        _ if text.starts_with("DateTime64") => {
            let arguments: String = inner("DateTime64")?.split_whitespace().collect();
            (arguments == "6,'UTC'").then_some(Kind::DateTime64)?
        }
        _ if text.starts_with("Decimal") => decimal(inner("Decimal"))?,
        _ if text.starts_with("LowCardinality") => match inner("LowCardinality")? {
            "String" | "Nullable(String)" => Kind::Word,
            _other => return None,
        },
        _ if text.starts_with("Array") => Kind::Array(Box::new(parse(inner("Array")?)?)),
        _ if text.starts_with("Nullable") => match parse(inner("Nullable")?)? {
            Kind::Array(_) => return None,
            kind => kind,
        },
        _other => return None,
    })
}

#[cfg(test)]
#[path = "types_tests.rs"]
mod tests;
