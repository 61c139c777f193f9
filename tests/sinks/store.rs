//! What the cases of conformance ask of a store.
//!
//! Rows are compared as text on which both sides agree: the leader computes it by one SQL expression a column
//! ([`Store::on_leader`]), the store by its own ([`Store::rows`]).

use tokio_postgres::Client;

use walferry::killpoint::Point;

/// Between the values of a row.
pub const SEPARATOR: char = '\u{1f}';
/// Instead of a value that is NULL.
pub const NULL: &str = "∅";

/// A column's type on the leader; of a domain its base type.
#[derive(Clone, Debug)]
pub struct Type {
    /// As `format_type` prints it.
    pub name: String,
    /// Of an array: the type of its elements.
    pub element: Option<Box<Type>>,
}

/// A column of a table to be compared.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub of: Type,
    /// The sink is set to hold it as text.
    pub as_text: bool,
}

/// A table to be compared, as it is on the leader.
#[derive(Clone, Debug)]
pub struct Table {
    pub schema: String,
    pub name: String,
    pub columns: Vec<Column>,
    /// Names of the key's columns.
    pub key: Vec<String>,
}

/// A value that a store cannot hold.
pub struct Unheld {
    /// The leader's type.
    pub of: &'static str,
    /// An SQL literal.
    pub value: &'static str,
    /// A part of the value as it would stand in a log, which it must not; nothing that a clock, a port or a
    /// position could show as well.
    pub secret: &'static str,
    /// The type that the sink's settings give the column, so that it can be held.
    pub instead: &'static str,
}

/// A follower store with servers of a test's own.
pub trait Store: Sized + Send + Sync {
    /// Values of the type zoo that it refuses, each with a clear error.
    const UNHELD: &'static [Unheld];
    /// Places at which a process is killed that its sink passes, with the number of the pass.
    const POINTS: &'static [(Point, u32)];
    /// The name in CAST of an integer of 64 bits.
    const INTEGER: &'static str;

    /// A server with an empty database.
    async fn start() -> Self;

    /// Whether tables and columns may have this name.
    fn takes_name(_name: &str) -> bool {
        true
    }

    /// The lines of a connector's file that name the kind and the server.
    fn connector(&self) -> String;

    /// The same for another database of the server, which is made.
    async fn elsewhere(&self, database: &str) -> String;

    /// Kills the server and starts it again.
    fn crash_and_restart(&mut self);

    /// Stops the server in order.
    fn stop(&mut self);

    /// Starts it again on its old data and port.
    fn start_again(&mut self);

    /// Runs a statement as somebody else than walferry.
    async fn sql(&self, statement: &str);

    /// A query's only row, all of integers.
    async fn numbers(&self, query: &str) -> Result<Vec<i64>, String>;

    /// A table of the leader's as the store's SQL names it.
    fn place(&self, schema: &str, table: &str) -> String;

    /// Statements that make a table of somebody else's with a row, which the leader's `strange (id int PRIMARY KEY,
    /// note text)` would fit.
    fn strangers(&self) -> Vec<String>;

    /// The expression of the leader's for a value on whose text the store agrees; NULL is NULL.
    fn on_leader(of: &Type, value: &str) -> String;

    /// Every row of a table as such texts with [`SEPARATOR`] between them, in any order. `shown`: what walferry
    /// has printed.
    async fn rows(&self, table: &Table, shown: &str) -> Result<Vec<String>, String>;
}

/// The text that the type's output function prints, as the stream carries it.
pub fn printed(value: &str) -> String {
    format!("CASE WHEN num_nulls({value}) = 0 THEN concat({value}) END")
}

/// A table of the leader's.
pub async fn table(leader: &Client, name: &str, as_text: &[&str]) -> Table {
    let (schema, name) = name.split_once('/').unwrap_or(("public", name));
    let query = "WITH RECURSIVE base AS (
            SELECT a.attnum, a.attname::text AS name, t.oid, t.typtype, t.typbasetype, t.typelem, t.typcategory,
                   format_type(t.oid, a.atttypmod) AS printed, t.typtypmod
            FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = (quote_ident($1) || '.' || quote_ident($2))::regclass AND a.attnum > 0 AND NOT a.attisdropped
          UNION ALL
            SELECT b.attnum, b.name, t.oid, t.typtype, t.typbasetype, t.typelem, t.typcategory,
                   format_type(t.oid, b.typtypmod), t.typtypmod
            FROM base b JOIN pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd')
        SELECT b.name, b.printed, b.typcategory = 'A' AND b.printed LIKE '%[]',
               coalesce(b.attnum = ANY (i.indkey::int2[]), false)
        FROM base b LEFT JOIN pg_index i ON i.indisprimary
             AND i.indrelid = (quote_ident($1) || '.' || quote_ident($2))::regclass
        WHERE b.typtype <> 'd' ORDER BY b.attnum";
    let rows = leader.query(query, &[&schema, &name]).await;
    let rows = rows.unwrap_or_else(|error| panic!("{schema}.{name}: {error:?}"));
    let columns = rows.iter().map(|row| {
        let (column, printed): (String, String) = (row.get(0), row.get(1));
        let is_array: bool = row.get(2);
        let element = printed.strip_suffix("[]").filter(|_| is_array);
        let element = element.map(|element| {
            Box::new(Type {
                name: element.to_owned(),
                element: None,
            })
        });
        Column {
            as_text: as_text.contains(&column.as_str()),
            name: column,
            of: Type {
                name: printed,
                element,
            },
        }
    });
    let key = rows.iter().filter(|row| row.get(3)).map(|row| row.get(0));
    Table {
        schema: schema.to_owned(),
        name: name.to_owned(),
        columns: columns.collect(),
        key: key.collect(),
    }
}

/// The leader's rows of a table as the store is to show them, sorted.
pub async fn leaders_rows<S: Store>(leader: &Client, table: &Table) -> Vec<String> {
    let values = table.columns.iter().map(|column| {
        let value = format!("\"{}\"", column.name.replace('"', "\"\""));
        let text = match column.as_text {
            true => printed(&value),
            false => S::on_leader(&column.of, &value),
        };
        format!("coalesce({text}, '{NULL}')")
    });
    let query = format!(
        "SELECT array_to_string(ARRAY[{}]::text[], E'\\x1f') FROM \"{}\".\"{}\"",
        values.collect::<Vec<_>>().join(", "),
        table.schema.replace('"', "\"\""),
        table.name.replace('"', "\"\"")
    );
    let rows = leader.query(&query, &[]).await;
    let rows = rows.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    rows.sort();
    rows
}
