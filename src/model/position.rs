//! Where a record stands: its transaction's commit LSN and its ordinal in it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Lsn;

/// The total order of records: commit LSN (`Begin.final_lsn`), then ordinal in the transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// LSN of the transaction's commit record.
    pub commit: Lsn,
    /// Number of the record in its transaction, from 0, tombstones and parts included.
    pub ordinal: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.commit, self.ordinal)
    }
}

impl FromStr for Position {
    type Err = String;

    /// As it is printed: `16/B374D848:3`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "`{text}` is not a position: write the commit LSN, a colon and the number of the record, as in 16/B374D848:3"
            )
        };
        let (commit, ordinal) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Position {
            commit: commit.parse().map_err(|_not_an_lsn| wrong())?,
            ordinal: ordinal.parse().map_err(|_not_a_number| wrong())?,
        })
    }
}

/// Number of a source incarnation: the offset of its own epoch entry in the commit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a schema version: a hash of its content. Printed and serialised as 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaVersion(pub u64);

impl fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for SchemaVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SchemaVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16)
            .map(SchemaVersion)
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_printed() {
        let position = Position {
            commit: Lsn(0x16_B374_D848),
            ordinal: 3,
        };
        assert_eq!(position.to_string().parse(), Ok(position));
        for wrong in [
            "",
            "16/B374D848",
            "16/B374D848:",
            "16:3",
            "16/B374D848:-1",
            "16/B374D848:3 ",
        ] {
            let error = wrong.parse::<Position>().unwrap_err();
            assert!(error.contains("16/B374D848:3"), "{error}");
        }
    }
}
