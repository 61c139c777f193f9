//! Which tables: `schema.table` patterns with `*` (any characters) and `?` (one character).

use std::collections::BTreeSet;

use super::TableName;

/// A choice of tables by patterns: one of `include` must match and none of `exclude`. Or of exactly some tables.
///
/// A pattern is split at its first dot; each half is matched against schema or table name alone, so
/// a dot in a name is matched by `?` or `*`. Matching is exact in case, as names are in `pg_class`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    only: Option<BTreeSet<TableName>>,
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    schema: Vec<char>,
    name: Vec<char>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        // The settings' parser has refused patterns without a dot; such a one matches any schema.
        let (schema, name) = text.split_once('.').unwrap_or(("*", text));
        Pattern {
            schema: schema.chars().collect(),
            name: name.chars().collect(),
        }
    }

    fn matches(&self, table: &TableName) -> bool {
        glob(&self.schema, &table.schema) && glob(&self.name, &table.name)
    }
}

impl Selection {
    /// From the settings' patterns.
    pub fn new(include: &[String], exclude: &[String]) -> Self {
        let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
        Selection {
            only: None,
            include: patterns(include),
            exclude: patterns(exclude),
        }
    }

    /// Exactly these, whatever characters their names have.
    pub fn of(tables: BTreeSet<TableName>) -> Self {
        Selection {
            only: Some(tables),
            include: Vec::new(),
            exclude: Vec::new(),
        }
    }

    /// Whether the table is chosen.
    pub fn takes(&self, table: &TableName) -> bool {
        if let Some(only) = &self.only {
            return only.contains(table);
        }
        self.include.iter().any(|pattern| pattern.matches(table))
            && !self.exclude.iter().any(|pattern| pattern.matches(table))
    }
}

/// Greedy matching with one point of return: linear but for the last `*`.
fn glob(pattern: &[char], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                back = Some((p, t));
                p += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == text[t] => {
                p += 1;
                t += 1;
            }
            Some(_) | None => match back {
                Some((star, taken)) => {
                    back = Some((star, taken + 1));
                    p = star + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&rest| rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(include: &[&str], exclude: &[&str], schema: &str, name: &str) -> bool {
        let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        Selection::new(&own(include), &own(exclude)).takes(&TableName::new(schema, name))
    }

    #[test]
    fn patterns_choose_tables() {
        for (include, exclude, schema, name, wanted) in [
            (&["*.*"][..], &[][..], "public", "a", true),
            (&["public.*"], &[], "public", "a.b", true),
            (&["public.*"], &[], "publicly", "a", false),
            (
                &["public.*"],
                &["public.audit_*"],
                "public",
                "audit_1",
                false,
            ),
            (&["public.*"], &["public.audit_*"], "public", "audit", true),
            (&["shop.order?"], &[], "shop", "orders", true),
            (&["shop.order?"], &[], "shop", "order", false),
            (&["shop.o*r*s"], &[], "shop", "orders", true),
            (&["shop.o*r*s"], &[], "shop", "orderx", false),
            (&["shop.Orders"], &[], "shop", "orders", false),
            (&["s?x.ä*"], &[], "s.x", "äöü", true),
            (&[], &[], "public", "a", false),
        ] {
            assert_eq!(
                takes(include, exclude, schema, name),
                wanted,
                "{include:?} {exclude:?} {schema} {name}"
            );
        }
    }
}
