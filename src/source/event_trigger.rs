//! The event triggers by which the leader says in its stream what ALTER TABLE has done to a table, and what its
//! messages say. Without them the catalog is asked, which may be ahead of the stream and does not tell whether
//! rows were rewritten.

use serde::Deserialize;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::{Error, Result};
use crate::model::{Fill, Oid};
use crate::postgres::classify;

/// What makes functions and triggers, for a superuser; again, it makes them anew.
pub const SQL: &str = include_str!("event_trigger.sql");

/// Prefixes of the messages.
const ALTERED: &[u8] = b"walferry altered";
const REWRITTEN: &[u8] = b"walferry rewritten";

/// What the leader says of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Its columns are these from here on.
    Altered(Described),
    /// Its rows were rewritten in a way that the stream does not show.
    Rewritten(Oid),
}

impl Told {
    /// The table.
    pub fn relation(&self) -> Oid {
        match self {
            Told::Altered(described) => described.relation,
            Told::Rewritten(relation) => *relation,
        }
    }
}

/// The columns of a table behind an ALTER TABLE.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Described {
    /// The table; of a partition nothing is said, but of its root.
    pub relation: Oid,
    /// Its columns.
    pub columns: Vec<DescribedColumn>,
    /// `attnum`s of dropped columns.
    pub dropped: Vec<i16>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Raw")]
pub struct DescribedColumn {
    /// `attnum`.
    pub number: i16,
    /// Its name.
    pub name: String,
    /// `atttypid`.
    pub type_oid: Oid,
    /// `atttypmod`.
    pub type_modifier: i32,
    /// NOT NULL.
    pub not_null: bool,
    /// Whether it is generated, so not in the stream.
    pub generated: bool,
    /// What older rows have in it.
    pub fill: Option<Fill>,
}

#[derive(Deserialize)]
struct Raw {
    number: i16,
    name: String,
    type_oid: Oid,
    type_modifier: i32,
    not_null: bool,
    generated: bool,
    has_default: bool,
    value: Option<String>,
}

impl From<Raw> for DescribedColumn {
    fn from(raw: Raw) -> Self {
        let unknown = raw.has_default.then_some(Fill::Unknown);
        DescribedColumn {
            number: raw.number,
            name: raw.name,
            type_oid: raw.type_oid,
            type_modifier: raw.type_modifier,
            not_null: raw.not_null,
            generated: raw.generated,
            fill: raw.value.map(Fill::Value).or(unknown),
        }
    }
}

#[derive(Deserialize)]
struct RewrittenMessage {
    relation: Oid,
}

/// What a logical message says; none for others than the triggers'. Anybody can write one, so what is not
/// understood is no error: it is said, and the catalog is asked as without triggers.
pub fn parse(prefix: &[u8], content: &[u8]) -> Option<Told> {
    let parsed = match prefix {
        ALTERED => serde_json::from_slice(content).map(Told::Altered),
        REWRITTEN => serde_json::from_slice::<RewrittenMessage>(content)
            .map(|message| Told::Rewritten(message.relation)),
        _other => return None,
    };
    parsed
        .inspect_err(|error| tracing::warn!(%error, "a message with the prefix of walferry's event triggers is not understood"))
        .ok()
}

/// Makes the triggers if they are not there.
///
/// # Errors
/// Halt when they are not and the role may not make them.
pub async fn settle(client: &Client) -> Result<()> {
    let there = client
        .query_one(
            "SELECT count(*) FROM pg_catalog.pg_event_trigger
             WHERE evtname IN ('walferry_altered', 'walferry_rewritten') AND evtenabled = 'A'",
            &[],
        )
        .await
        .map_err(|error| classify(&error, "looking for event triggers"))?;
    if there.get::<_, i64>(0) == 2 {
        return Ok(());
    }
    client.batch_execute(SQL).await.map_err(|error| {
        if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            Error::halt(
                "event_trigger = true, and the leader has no such triggers and does not let the source's role make them",
                "make them as a superuser: walferry event-trigger | psql …; or set event_trigger = false",
            )
        } else {
            classify(&error, "making event triggers")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_others_and_broken_ones_say_nothing() {
        assert_eq!(parse(b"other", b"{}"), None);
        assert_eq!(parse(ALTERED, b"{}"), None);
        let rewritten = parse(REWRITTEN, b"{\"relation\":7}");
        assert_eq!(rewritten, Some(Told::Rewritten(Oid(7))));
    }
}
