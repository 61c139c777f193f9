//! What a table looks like: its schema versions.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Lsn, SchemaVersion};

/// A Postgres object identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Oid(pub u32);

/// Schema and name of a table, unquoted, exactly as in `pg_class`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// Schema (namespace) name.
    pub schema: String,
    /// Relation name.
    pub name: String,
}

impl TableName {
    /// A table name from its two parts.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        TableName {
            schema: schema.into(),
            name: name.into(),
        }
    }

    /// The name as SQL: both parts always quoted.
    pub fn quoted(&self) -> String {
        format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.name)
        )
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// An identifier in double quotes, embedded quotes doubled: valid whatever it holds.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text literal in single quotes for servers with `standard_conforming_strings = on`.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// How a column's values travel in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnKind {
    /// `bool`: JSON true or false.
    Bool,
    /// `int2`, `int4`, `int8`: JSON number.
    Integer,
    /// `float4`, `float8`: JSON number, except NaN and infinities, which are strings.
    Float,
    /// Every other type: JSON string with the text that Postgres prints.
    Text,
}

impl ColumnKind {
    /// The kind of a type, by its OID in `pg_type` (fixed for built-in types).
    pub fn of(type_oid: Oid) -> Self {
        match type_oid.0 {
            16 => ColumnKind::Bool,
            20 | 21 | 23 => ColumnKind::Integer,
            700 | 701 => ColumnKind::Float,
            _other => ColumnKind::Text,
        }
    }
}

/// What an update or delete record of the leader carries of the old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// A chosen unique index.
    Index,
    /// The whole old row.
    Full,
    /// Nothing: updates and deletes fail on a publisher.
    Nothing,
}

/// One column of a schema version, in the order of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Unquoted name.
    pub name: String,
    /// Type OID on the leader.
    pub type_oid: Oid,
    /// `atttypmod`, -1 for none.
    pub type_modifier: i32,
    /// The type as SQL, schema-qualified where it is not built in: `numeric(10,2)`, `"shop"."mood"`.
    pub type_name: String,
    /// How values travel in JSON.
    pub kind: ColumnKind,
    /// The leader's NOT NULL.
    pub not_null: bool,
    /// `attnum` on the leader: a rename keeps it, and no later column of the table gets it. None where it
    /// is not known, and in versions of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i16>,
    /// What rows have in it that were there before it was added; none: NULL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<Fill>,
}

/// What rows have in a column that was added after them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fill {
    /// All the same (`attmissingval`): the text that Postgres prints.
    Value(String),
    /// The column has a default, and the catalog does not tell whether such rows have it: each may have got a
    /// value of its own, or the default came later.
    Unknown,
}

/// A type that the leader's users made and a follower needs before the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum UserType {
    /// An enum with its labels in order.
    Enum {
        /// Schema and name.
        name: TableName,
        /// Labels in sort order.
        labels: Vec<String>,
    },
    /// A domain over another type.
    Domain {
        /// Schema and name.
        name: TableName,
        /// The underlying type as SQL.
        base: String,
        /// NOT NULL on the domain itself.
        not_null: bool,
        /// Check constraints as `pg_get_constraintdef` prints them.
        checks: Vec<String>,
    },
    /// A composite type: (attribute, type as SQL).
    Composite {
        /// Schema and name.
        name: TableName,
        /// Attribute names and their types as SQL.
        attributes: Vec<(String, String)>,
    },
    /// A type that comes from an extension, which must be installed on the follower.
    Extension {
        /// Name of the extension.
        name: String,
    },
    /// A range type over a subtype.
    Range {
        /// Schema and name.
        name: TableName,
        /// The subtype as SQL.
        subtype: String,
    },
}

impl UserType {
    /// The one of this name, which `format_type` quotes only where it must.
    pub fn named<'a>(name: &str, types: &'a [UserType]) -> Option<&'a UserType> {
        types.iter().find(|one| match one {
            UserType::Enum { name: of, .. }
            | UserType::Domain { name: of, .. }
            | UserType::Composite { name: of, .. }
            | UserType::Range { name: of, .. } => {
                name == of.quoted() || unquoted(name) == of.to_string()
            }
            UserType::Extension { .. } => false,
        })
    }
}

fn unquoted(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut rest = name.chars().peekable();
    let mut inside = false;
    while let Some(next) = rest.next() {
        match next {
            '"' if inside && rest.peek() == Some(&'"') => {
                rest.next();
                plain.push('"');
            }
            '"' => inside = !inside,
            other => plain.push(other),
        }
    }
    plain
}

/// What Postgres prints between the elements of an array (`pg_type.typdelim`): a comma, but for boxes, for types of
/// PostGIS, and for domains over them. `element` is its type as SQL.
pub fn array_delimiter(element: &str, types: &[UserType]) -> u8 {
    let mut of = element;
    // A domain may be over another one.
    for _depth in 0..types.len() {
        let Some(UserType::Domain { base, .. }) = UserType::named(of, types) else {
            break;
        };
        of = base;
    }
    let plain = of.split_once('(').map_or(of, |(plain, _)| plain);
    let name = plain.rsplit_once('.').map_or(plain, |(_, name)| name);
    match name.trim_matches('"') {
        "box" => b';',
        "geometry" | "geography" => b':',
        _any_other => b',',
    }
}

/// One schema version of one table: all that is needed to read its records and to create it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// Schema and name.
    pub table: TableName,
    /// OID on the leader.
    pub relation: Oid,
    /// Columns in stream order (generated and dropped columns are not among them).
    pub columns: Vec<Column>,
    /// Indexes into `columns` of the record key; empty when the table has none.
    /// The replica identity index's columns under INDEX, else the primary key's.
    pub key: Vec<usize>,
    /// Indexes into `columns` of the primary key, empty when there is none.
    pub primary_key: Vec<usize>,
    /// What old rows carry.
    pub identity: ReplicaIdentity,
    /// Partitions of the table's topics.
    pub partitions: u32,
    /// User-made types among the columns' types, those needed first first.
    pub types: Vec<UserType>,
    /// `attnum`s of columns that the leader has dropped, as far as is known; some may be dropped only later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<i16>,
    /// `attnum`s of columns that the leader has and the publication's column list leaves out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unpublished: Vec<i16>,
    /// Where the leader last rewrote the table's rows in a way that the stream does not show, if it has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewritten: Option<Lsn>,
    /// The leader itself has said, in its stream, what the columns are from here on; else the catalog was asked,
    /// which may be ahead of the stream.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
}

impl TableSchema {
    /// The hash of the content that names this version in headers and in `P.schemas`.
    pub fn version(&self) -> SchemaVersion {
        // serde_json keeps struct field order, so equal content gives equal bytes.
        let content = serde_json::to_vec(self).expect("a schema of strings and numbers is JSON");
        let digest = Sha256::digest(&content);
        let head: [u8; 8] = digest[..8]
            .try_into()
            .expect("a SHA-256 digest has 32 bytes");
        SchemaVersion(u64::from_be_bytes(head))
    }

    /// The column with this number on the leader.
    pub fn numbered(&self, number: i16) -> Option<&Column> {
        let mut columns = self.columns.iter();
        columns.find(|column| column.number == Some(number))
    }

    /// Whether rows can be told apart by a key.
    pub fn has_key(&self) -> bool {
        !self.key.is_empty()
    }
}
