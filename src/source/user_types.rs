//! Types that the leader's users made, in the order in which a follower needs them.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::{Client, Row};

use crate::error::Result;
use crate::model::{Oid, TableName, UserType};
use crate::postgres::classify;

/// OIDs below this one are built in (`FirstNormalObjectId` in Postgres's `access/transam.h`).
const FIRST_USER_OID: u32 = 16384;

/// User-made types by OID, with what each needs first.
#[derive(Clone, Debug, Default)]
pub struct UserTypes {
    types: HashMap<u32, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    /// None for arrays, multiranges and base types: nothing to create for them alone.
    made: Option<UserType>,
    needs: Vec<u32>,
}

impl UserTypes {
    /// The types that columns of these types need, those needed first first, each once.
    pub fn needed(&self, columns: impl IntoIterator<Item = Oid>) -> Vec<UserType> {
        let mut out = Vec::new();
        let mut seen = BTreeSet::new();
        for column in columns {
            self.visit(column.0, &mut seen, &mut out);
        }
        out
    }

    /// Depth first; Postgres forbids cycles among types except through table row types, which
    /// `seen` ends.
    fn visit(&self, oid: u32, seen: &mut BTreeSet<u32>, out: &mut Vec<UserType>) {
        if !seen.insert(oid) {
            return;
        }
        let Some(known) = self.types.get(&oid) else {
            return;
        };
        for &need in &known.needs {
            self.visit(need, seen, out);
        }
        if let Some(made) = &known.made
            && !out.contains(made)
        {
            out.push(made.clone());
        }
    }
}

/// Reads the user-made types among `wanted` and all that they are made of.
pub async fn load(client: &Client, wanted: &[Oid]) -> Result<UserTypes> {
    let mut found = UserTypes::default();
    let mut open: BTreeSet<u32> = wanted.iter().map(|oid| oid.0).collect();
    open.retain(|&oid| oid >= FIRST_USER_OID);
    while !open.is_empty() {
        let batch: Vec<u32> = open.iter().copied().collect();
        let rows = client
            .query(TYPES_QUERY, &[&batch])
            .await
            .map_err(|error| classify(&error, "reading types"))?;
        open.clear();
        for row in &rows {
            let known = read(row);
            open.extend(known.needs.iter().copied());
            found.types.insert(row.get(0), known);
        }
        open.retain(|oid| *oid >= FIRST_USER_OID && !found.types.contains_key(oid));
    }
    Ok(found)
}

const TYPES_QUERY: &str = "
SELECT t.oid, n.nspname, t.typname, t.typtype::text, e.extname,
       t.typelem, t.typbasetype, pg_catalog.format_type(t.typbasetype, t.typtypmod), t.typnotnull,
       ARRAY(SELECT enumlabel::text FROM pg_catalog.pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder),
       ARRAY(SELECT pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k
             WHERE k.contypid = t.oid AND k.contype = 'c' ORDER BY k.conname),
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       ARRAY(SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       r.rngsubtype, pg_catalog.format_type(r.rngsubtype, NULL), m.rngtypid
FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
LEFT JOIN pg_catalog.pg_range m ON m.rngmultitypid = t.oid
WHERE t.oid = ANY($1)";

fn read(row: &Row) -> Known {
    let name = TableName::new(row.get::<_, String>(1), row.get::<_, String>(2));
    if let Some(extension) = row.get::<_, Option<String>>(4) {
        return Known {
            made: Some(UserType::Extension { name: extension }),
            needs: Vec::new(),
        };
    }
    let kind: String = row.get(3);
    let some = |oid: Option<u32>| {
        oid.filter(|&oid| oid != 0)
            .into_iter()
            .collect::<Vec<u32>>()
    };
    match kind.as_str() {
        "e" => Known {
            made: Some(UserType::Enum {
                name,
                labels: row.get(9),
            }),
            needs: Vec::new(),
        },
        "d" => Known {
            made: Some(UserType::Domain {
                name,
                base: row.get(7),
                not_null: row.get(8),
                checks: row.get(10),
            }),
            needs: some(Some(row.get(6))),
        },
        "c" => {
            let names: Vec<String> = row.get(11);
            let types: Vec<String> = row.get(12);
            Known {
                made: Some(UserType::Composite {
                    name,
                    attributes: names.into_iter().zip(types).collect(),
                }),
                needs: row.get(13),
            }
        }
        "r" => Known {
            made: Some(UserType::Range {
                name,
                subtype: row.get::<_, Option<String>>(15).unwrap_or_default(),
            }),
            needs: some(row.get(14)),
        },
        "m" => Known {
            made: None,
            needs: some(row.get(16)),
        },
        // Base types: arrays need their element; others only exist through an extension or C code.
        _base_or_pseudo => Known {
            made: None,
            needs: some(Some(row.get(5))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_first_comes_first_and_once() {
        let named = |name: &str| UserType::Enum {
            name: TableName::new("public", name),
            labels: Vec::new(),
        };
        let known = |name: Option<&str>, needs: &[u32]| Known {
            made: name.map(named),
            needs: needs.to_vec(),
        };
        let types = UserTypes {
            types: HashMap::from([
                (20000, known(Some("outer"), &[20001, 23, 20002])),
                (20001, known(None, &[20002])),
                (20002, known(Some("inner"), &[])),
            ]),
        };
        assert_eq!(
            types.needed([Oid(20000), Oid(20002), Oid(23)]),
            vec![named("inner"), named("outer")]
        );
    }
}
