//! What the leader has on a table beside its key, as a copy offers it to followers: indexes and
//! constraints by their definition, so that a follower can have them without asking the leader.

use serde::{Deserialize, Serialize};

use super::TableName;
use super::relation::quote_identifier;

/// What kind of thing is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OfferKind {
    /// An index.
    Index,
    /// A unique index that belongs to no constraint.
    UniqueIndex,
    /// A UNIQUE constraint.
    Unique,
    /// A CHECK constraint.
    Check,
    /// An EXCLUDE constraint.
    Exclude,
}

impl OfferKind {
    /// Whether it keeps two rows from having the same values.
    pub fn is_unique(self) -> bool {
        match self {
            OfferKind::UniqueIndex | OfferKind::Unique => true,
            OfferKind::Index | OfferKind::Check | OfferKind::Exclude => false,
        }
    }
}

/// An index or constraint of the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: OfferKind,
    /// Of an index the statement that makes it (`pg_get_indexdef`), of a constraint what stands behind its
    /// name (`pg_get_constraintdef`); names in it are qualified.
    pub definition: String,
}

impl Offer {
    /// The statement that makes it on the table of this name.
    pub fn statement(&self, table: &TableName) -> String {
        match self.kind {
            OfferKind::Index | OfferKind::UniqueIndex => self.definition.clone(),
            OfferKind::Unique | OfferKind::Check | OfferKind::Exclude => format!(
                "ALTER TABLE {} ADD CONSTRAINT {} {}",
                table.quoted(),
                quote_identifier(&self.name),
                self.definition
            ),
        }
    }
}

/// All of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableOffers {
    /// The table.
    #[serde(flatten)]
    pub table: TableName,
    /// What it has, in the order in which it is to be made.
    pub offers: Vec<Offer>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constraint_is_added_and_an_index_made_as_it_is_defined() {
        let table = TableName::new("s", "T");
        let offer = |kind, definition: &str| Offer {
            name: "a\"b".to_owned(),
            kind,
            definition: definition.to_owned(),
        };
        let check = offer(OfferKind::Check, "CHECK ((n > 0))");
        assert_eq!(
            check.statement(&table),
            "ALTER TABLE \"s\".\"T\" ADD CONSTRAINT \"a\"\"b\" CHECK ((n > 0))"
        );
        let index = offer(
            OfferKind::Index,
            "CREATE INDEX x ON s.\"T\" USING btree (n)",
        );
        assert_eq!(index.statement(&table), index.definition);
    }
}
