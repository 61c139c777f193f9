//! Who owns the tables that readers read, and who may do what with them: carried over as differences, so that it
//! may be repeated.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, Row};

use super::{get, run};
use crate::error::Result;
use crate::model::relation::quote_identifier;
use crate::postgres::classify;

/// Privileges, one a row, on the database, the followed tables, their columns and schemas, and walferry's own
/// schema with what readers call there. Where there are none the defaults count, as `acldefault` has them. An object
/// without any has a row without a grantee. What the owner may do is no privilege. Names are as SQL.
const PRIVILEGES: &str = "WITH tables AS (
    SELECT c.oid, c.relowner, c.relacl, n.oid AS space, n.nspname, c.relname
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'walferry' AND c.relkind IN ('r', 'v')
        OR c.relkind IN ('r', 'p') AND EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS w(s, t)
            WHERE w.s = n.nspname AND w.t = c.relname)
), objects(kind, name, part, owner, acl) AS (
    SELECT 'DATABASE', '', '', datdba, COALESCE(datacl, pg_catalog.acldefault('d', datdba))
    FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
    UNION ALL SELECT 'SCHEMA', pg_catalog.format('%I', nspname), '', nspowner,
        COALESCE(nspacl, pg_catalog.acldefault('n', nspowner))
    FROM pg_catalog.pg_namespace WHERE oid IN (SELECT space FROM tables)
    UNION ALL SELECT 'TABLE', pg_catalog.format('%I.%I', nspname, relname), '', relowner,
        COALESCE(relacl, pg_catalog.acldefault('r', relowner)) FROM tables
    UNION ALL SELECT 'TABLE', pg_catalog.format('%I.%I', nspname, relname), pg_catalog.format('%I', attname),
        relowner, attacl
    FROM tables JOIN pg_catalog.pg_attribute ON attrelid = tables.oid
    WHERE attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'FUNCTION', p.oid::pg_catalog.regprocedure::text, '', proowner,
        COALESCE(proacl, pg_catalog.acldefault('f', proowner))
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'walferry'
)
SELECT kind, name, part, pg_catalog.pg_get_userbyid(owner)::text, privilege_type, is_grantable,
    CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)) END
FROM objects LEFT JOIN LATERAL pg_catalog.aclexplode(acl) AS a ON grantee <> owner";

/// A table, a schema, a function, the database; names as SQL, of the database none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Object {
    kind: String,
    name: String,
    /// A column of it; else empty.
    part: String,
}

/// What somebody may do with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Privilege {
    of: Object,
    grantee: String,
    name: String,
    grantable: bool,
}

/// What there is in a database.
#[derive(Clone, Debug, Default)]
struct Rights {
    /// Objects and their owners.
    owners: BTreeMap<Object, String>,
    privileges: BTreeSet<Privilege>,
}

impl Rights {
    fn add(&mut self, row: &Row) -> Result<()> {
        let of = Object {
            kind: get(row, 0)?,
            name: get(row, 1)?,
            part: get(row, 2)?,
        };
        self.owners.insert(of.clone(), get(row, 3)?);
        if let Some(name) = get::<Option<String>>(row, 4)? {
            self.privileges.insert(Privilege {
                of,
                grantee: get(row, 6)?,
                name,
                grantable: get(row, 5)?,
            });
        }
        Ok(())
    }
}

/// What gives the objects of `new` the owners that they have in `old`; `database` is the new one's name.
fn owners(old: &Rights, new: &Rights) -> Vec<String> {
    let carried = new.owners.iter().filter(|(object, owner)| {
        let is_table = object.kind == "TABLE" && object.part.is_empty();
        let is_own = object.name == "walferry" || object.name.starts_with("walferry.");
        let other = old.owners.get(*object).is_some_and(|was| was != *owner);
        (is_table || object.kind == "SCHEMA") && !is_own && other
    });
    let alter = |(object, _): (&Object, &String)| {
        let Object { kind, name, .. } = object;
        format!(
            "ALTER {kind} {name} OWNER TO {}",
            quote_identifier(&old.owners[object])
        )
    };
    carried.map(alter).collect()
}

/// What makes the privileges on objects that both have the same.
fn privileges(old: &Rights, new: &Rights, database: &str) -> Vec<String> {
    let on = |privilege: &Privilege| {
        let Object { kind, name, part } = &privilege.of;
        let part = if part.is_empty() {
            String::new()
        } else {
            format!(" ({part})")
        };
        let name = if kind == "DATABASE" {
            quote_identifier(database)
        } else {
            name.clone()
        };
        format!("{}{part} ON {kind} {name}", privilege.name)
    };
    let in_both = |privilege: &&&Privilege| {
        old.owners.contains_key(&privilege.of) && new.owners.contains_key(&privilege.of)
    };
    let gone = new
        .privileges
        .difference(&old.privileges)
        .collect::<Vec<_>>();
    let come = old
        .privileges
        .difference(&new.privileges)
        .collect::<Vec<_>>();
    let revoke =
        |privilege: &&Privilege| format!("REVOKE {} FROM {}", on(privilege), privilege.grantee);
    let grant = |privilege: &&Privilege| {
        let option = if privilege.grantable {
            " WITH GRANT OPTION"
        } else {
            ""
        };
        format!("GRANT {} TO {}{option}", on(privilege), privilege.grantee)
    };
    let gone = gone.iter().filter(in_both).map(revoke);
    gone.chain(come.iter().filter(in_both).map(grant)).collect()
}

/// Carries owners and privileges from a session of one database to one of the other, which is named `database`.
///
/// # Errors
/// Halt when the role may not give them.
pub(super) async fn carry(
    old: &Client,
    (new, database): (&Client, &str),
    tables: (&[&str], &[&str]),
) -> Result<()> {
    const DOING: &str = "carrying owners and privileges over to the new database";
    let wanted = read(old, tables).await?;
    let owners = owners(&wanted, &read(new, tables).await?);
    if !owners.is_empty() {
        run(new, &owners.join("; "), DOING).await?;
    }
    let privileges = privileges(&wanted, &read(new, tables).await?, database);
    if privileges.is_empty() {
        return Ok(());
    }
    run(new, &privileges.join("; "), DOING).await
}

async fn read(client: &Client, (schemas, names): (&[&str], &[&str])) -> Result<Rights> {
    let rows = client.query(PRIVILEGES, &[&schemas, &names]).await;
    let rows = rows.map_err(|error| classify(&error, "reading the privileges of a database"))?;
    let mut rights = Rights::default();
    for row in &rows {
        rights.add(row)?;
    }
    Ok(rights)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, name: &str, part: &str) -> Object {
        Object {
            kind: kind.to_owned(),
            name: name.to_owned(),
            part: part.to_owned(),
        }
    }

    fn rights(privileges: &[(&Object, &str, &str, bool)], owners: &[(&Object, &str)]) -> Rights {
        Rights {
            owners: owners
                .iter()
                .map(|(of, owner)| ((*of).clone(), (*owner).to_owned()))
                .collect(),
            privileges: privileges
                .iter()
                .map(|(of, name, grantee, grantable)| Privilege {
                    of: (*of).clone(),
                    name: (*name).to_owned(),
                    grantee: (*grantee).to_owned(),
                    grantable: *grantable,
                })
                .collect(),
        }
    }

    #[test]
    fn privileges_become_the_same_on_what_both_have() {
        let (database, table) = (object("DATABASE", "", ""), object("TABLE", "s.t", ""));
        let (column, only_old) = (object("TABLE", "s.t", "c"), object("TABLE", "s.u", ""));
        let all = [(&database, "o"), (&table, "o"), (&column, "o")];
        let old = rights(
            &[
                (&database, "CONNECT", "r", false),
                (&table, "SELECT", "r", true),
                (&table, "SELECT", "q", false),
                (&column, "UPDATE", "PUBLIC", false),
                (&only_old, "SELECT", "r", false),
            ],
            &[&all[..], &[(&only_old, "o")]].concat(),
        );
        let new = rights(
            &[
                (&database, "CONNECT", "PUBLIC", false),
                (&table, "SELECT", "q", false),
            ],
            &all,
        );
        assert_eq!(
            privileges(&old, &new, "n"),
            [
                "REVOKE CONNECT ON DATABASE \"n\" FROM PUBLIC",
                "GRANT CONNECT ON DATABASE \"n\" TO r",
                "GRANT SELECT ON TABLE s.t TO r WITH GRANT OPTION",
                "GRANT UPDATE (c) ON TABLE s.t TO PUBLIC",
            ]
        );
        assert!(privileges(&old, &old, "n").is_empty());
    }

    #[test]
    fn tables_and_schemas_get_their_owners_and_walferrys_own_keep_theirs() {
        let (table, schema) = (object("TABLE", "s.t", ""), object("SCHEMA", "s", ""));
        let (column, own) = (
            object("TABLE", "s.t", "c"),
            object("TABLE", "walferry.tables", ""),
        );
        let with = |owner| {
            rights(
                &[],
                &[
                    (&table, owner),
                    (&schema, owner),
                    (&column, owner),
                    (&own, owner),
                ],
            )
        };
        assert_eq!(
            owners(&with("o"), &with("n")),
            [
                "ALTER SCHEMA s OWNER TO \"o\"",
                "ALTER TABLE s.t OWNER TO \"o\""
            ]
        );
        assert!(owners(&with("o"), &with("o")).is_empty());
    }
}
