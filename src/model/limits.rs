//! What a publication leaves of a table.

use serde::{Deserialize, Serialize};

use super::Oid;

/// What a publication that walferry does not manage leaves of a table; by default all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// OID of the table's membership (`pg_publication_rel`). Postgres makes a membership anew when
    /// its row filter or column list changes, so that a change which was taken back shows too.
    /// None: the table is in the publication with its schema, or with all tables.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub membership: Option<Oid>,
    /// The row filter as `pg_get_expr` prints it; none: all rows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub row_filter: Option<String>,
    /// Names in the column list, in the table's order; none: all columns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub columns: Option<Vec<String>>,
}

impl Limits {
    /// Whether rows from under `before` are right under these limits. A membership that is not known
    /// on one side says nothing: entries of earlier versions name none, and a table may move between
    /// a membership of its own and its schema's.
    pub fn keep_rows_of(&self, before: &Limits) -> bool {
        let membership = self.membership.zip(before.membership);
        self.row_filter == before.row_filter
            && self.columns == before.columns
            && membership.is_none_or(|(now, then)| now == then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(membership: Option<u32>, filter: Option<&str>, columns: Option<&[&str]>) -> Limits {
        Limits {
            membership: membership.map(Oid),
            row_filter: filter.map(str::to_owned),
            columns: columns.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        }
    }

    #[test]
    fn another_filter_column_list_or_membership_makes_other_rows() {
        let before = limits(Some(7), Some("(id > 1)"), Some(&["id", "v"]));
        assert!(before.keep_rows_of(&before));
        for other in [
            limits(Some(7), Some("(id > 2)"), Some(&["id", "v"])),
            limits(Some(7), None, Some(&["id", "v"])),
            limits(Some(7), Some("(id > 1)"), Some(&["id"])),
            limits(Some(7), Some("(id > 1)"), None),
            limits(Some(8), Some("(id > 1)"), Some(&["id", "v"])),
        ] {
            assert!(!other.keep_rows_of(&before), "{other:?}");
            assert!(!before.keep_rows_of(&other), "{other:?}");
        }
        let unknown = limits(None, Some("(id > 1)"), Some(&["id", "v"]));
        assert!(unknown.keep_rows_of(&before) && before.keep_rows_of(&unknown));
    }
}
