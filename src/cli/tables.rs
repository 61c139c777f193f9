//! Tables as they are named on the command line.

use std::collections::BTreeSet;

use crate::config::values::is_table_pattern;
use crate::error::{Error, Result};
use crate::model::{Selection, TableName};

/// Captured tables that an error names.
const NAMED_MAX: usize = 20;

/// Table arguments as patterns; a bare name means that table in any schema.
pub(super) fn patterns(tables: &[String]) -> Result<Vec<String>> {
    if tables.is_empty() {
        return Ok(vec!["*.*".to_owned()]);
    }
    let pattern = |table: &String| {
        let pattern = if table.contains('.') {
            table.clone()
        } else {
            format!("*.{table}")
        };
        if is_table_pattern(&pattern) {
            Ok(pattern)
        } else {
            Err(Error::halt(
                format!("`{table}` is not a table"),
                "write schema.table or a bare table name, with * for any characters and ? for one",
            ))
        }
    };
    tables.iter().map(pattern).collect()
}

/// The captured tables that the patterns name; each must name one.
pub(super) fn chosen(captured: &[&TableName], given: &[String]) -> Result<Vec<TableName>> {
    let mut all = BTreeSet::new();
    for pattern in patterns(given)? {
        let selection = Selection::new(std::slice::from_ref(&pattern), &[]);
        let named = captured.iter().filter(|table| selection.takes(table));
        let named: Vec<TableName> = named.map(|table| (*table).clone()).collect();
        if named.is_empty() {
            return Err(Error::halt(
                format!("no captured table is named by {pattern}"),
                format!(
                    "name some of those that the source captures: {}",
                    listed(captured)
                ),
            ));
        }
        all.extend(named);
    }
    Ok(all.into_iter().collect())
}

fn listed(captured: &[&TableName]) -> String {
    let mut names: Vec<String> = captured
        .iter()
        .take(NAMED_MAX)
        .map(ToString::to_string)
        .collect();
    match captured.len().saturating_sub(NAMED_MAX) {
        _ if captured.is_empty() => "none yet, as no source of this pipeline has begun".to_owned(),
        0 => names.join(", "),
        more => {
            names.push(format!("and {more} more"));
            names.join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_means_any_schema() {
        let names = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        assert_eq!(patterns(&[]).unwrap(), ["*.*"]);
        let given = names(&["orders", "shop.*"]);
        assert_eq!(patterns(&given).unwrap(), ["*.orders", "shop.*"]);
        assert!(patterns(&names(&[""])).is_err());
    }

    #[test]
    fn each_pattern_names_captured_tables_and_an_error_says_which_there_are() {
        let tables = ["a", "b"].map(|name| TableName::new("public", name));
        let captured: Vec<&TableName> = tables.iter().collect();
        let chosen = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
            super::chosen(&captured, &given)
        };
        assert_eq!(chosen(&[]).unwrap(), tables);
        assert_eq!(chosen(&["a", "public.a"]).unwrap(), tables[..1]);
        let error = chosen(&["a", "c"]).unwrap_err();
        assert!(error.what().contains("*.c"), "{error}");
        assert!(error.remedy().unwrap().contains("public.a, public.b"));
        assert!(listed(&[]).contains("no source"));
        let many = vec![&tables[0]; NAMED_MAX + 3];
        assert!(listed(&many).ends_with("public.a, and 3 more"));
    }
}
