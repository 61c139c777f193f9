//! Where the leader's schemas are in stores whose tables stand in databases, without schemas.
//!
//! The schema `public` is the database that the sink's url names, any other schema the database of its own
//! name, unless the settings map it to another one. Two schemas never share a database: two tables of one
//! name would be one table.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::model::TableName;

/// The rule for one sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Databases {
    own: String,
    mapped: BTreeMap<String, String>,
}

impl Databases {
    /// `own`: the database of the url; `mapped`: `[databases]` of the sink's settings.
    pub fn new(own: &str, mapped: &BTreeMap<String, String>) -> Self {
        Databases {
            own: own.to_owned(),
            mapped: mapped.clone(),
        }
    }

    /// The database of the url, where walferry's own tables are.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// The database of a schema.
    pub fn of_schema<'a>(&'a self, schema: &'a str) -> &'a str {
        match self.mapped.get(schema) {
            Some(mapped) => mapped,
            None if schema == "public" => &self.own,
            None => schema,
        }
    }

    /// Database and name of a table.
    ///
    /// # Errors
    /// Halt when `public` or a schema that the settings map has the same database, so that a table of each could be
    /// meant.
    pub fn of<'a>(&'a self, table: &'a TableName) -> Result<(&'a str, &'a str)> {
        let database = self.of_schema(&table.schema);
        let others = self.mapped.keys().map(String::as_str).chain(["public"]);
        let twin = others
            .filter(|schema| *schema != table.schema)
            .find(|schema| self.of_schema(schema) == database);
        match twin {
            None => Ok((database, &table.name)),
            Some(twin) => Err(Error::halt(
                format!(
                    "table {table}: the schemas {} and {twin} would share the database {database}",
                    table.schema
                ),
                format!(
                    "give one of them a database of its own under [databases] in the sink's settings, such as \
                     {} = \"{database}_{0}\"",
                    table.schema
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases(mapped: &[(&str, &str)]) -> Databases {
        let mapped = mapped.iter();
        let mapped = mapped.map(|(from, to)| ((*from).to_owned(), (*to).to_owned()));
        Databases::new("shop", &mapped.collect())
    }

    #[test]
    fn public_is_the_database_of_the_url() {
        let rule = databases(&[("billing", "shop_billing")]);
        for (schema, database) in [
            ("public", "shop"),
            ("billing", "shop_billing"),
            ("crm", "crm"),
        ] {
            let table = TableName::new(schema, "t");
            assert_eq!(rule.of(&table).expect(schema), (database, "t"));
        }
    }

    #[test]
    fn two_schemas_never_share_a_database() {
        for (mapped, schema) in [
            (vec![], "shop"),
            (vec![("a", "x"), ("b", "x")], "a"),
            (vec![("a", "shop")], "public"),
            (vec![("a", "b")], "b"),
        ] {
            let rule = databases(&mapped);
            let error = rule.of(&TableName::new(schema, "t")).expect_err(schema);
            assert!(error.what().contains("share"), "{error}");
        }
        let apart = databases(&[("a", "b"), ("b", "c")]);
        assert!(apart.of(&TableName::new("a", "t")).is_ok());
        let public = TableName::new("public", "t");
        assert!(
            databases(&[]).of(&public).is_ok(),
            "nobody has said that there is a schema shop"
        );
    }
}
