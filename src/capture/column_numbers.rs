//! Which of the leader's columns the columns of a Relation message are. The message has no column numbers
//! (`attnum`), and the catalog is as it is now, perhaps ahead of the message. Pure.
//!
//! Numbers grow with each column that is added, are never given twice, and a message has its columns in their
//! order. So a column that has its name before or now has that one's number, and others have those that are
//! left between their neighbours, if there is but one way.

use std::collections::BTreeSet;

use crate::model::TableSchema;

/// The numbers of columns with these names, in a message that came behind the version `before`; `now`: the
/// catalog's. None: cannot be told.
pub fn numbers(
    names: &[&str],
    before: &TableSchema,
    now: Option<&TableSchema>,
) -> Vec<Option<i16>> {
    let of = |schema: &TableSchema, name: &str| {
        let mut columns = schema.columns.iter();
        columns.find(|column| column.name == name)?.number
    };
    let of_now = |name: &&str| of(now?, name);
    let names = || names.iter();
    let before_first = names().map(|name| of(before, name).or_else(|| of_now(name)));
    let now_first = names().map(|name| of_now(name).or_else(|| of(before, name)));
    let in_order =
        |found: &Vec<Option<i16>>| found.iter().flatten().is_sorted_by(|one, next| one < next);
    let (one, other) = (before_first.collect::<Vec<_>>(), now_first.collect());
    let Some(mut found) = [one, other].into_iter().find(in_order) else {
        return vec![None; names().len()];
    };
    let mut free = all(before);
    free.extend(now.into_iter().flat_map(all));
    let mut at = 0;
    while at < found.len() {
        if found[at].is_some() {
            at += 1;
            continue;
        }
        let run = found[at..].iter().take_while(|n| n.is_none()).count();
        let low = at.checked_sub(1).and_then(|left| found[left]).unwrap_or(0);
        let high = found.get(at + run).copied().flatten().unwrap_or(i16::MAX);
        let between: Vec<i16> = free.range(low + 1..high).copied().collect();
        if between.len() == run {
            let places = found[at..at + run].iter_mut();
            places
                .zip(between)
                .for_each(|(place, number)| *place = Some(number));
        }
        at += run;
    }
    found
}

/// Numbers that columns of the table have had; not those of generated ones, which are not streamed.
fn all(schema: &TableSchema) -> BTreeSet<i16> {
    let live = schema.columns.iter().filter_map(|column| column.number);
    live.chain(schema.dropped.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, ColumnKind, Oid, ReplicaIdentity, TableName};

    fn schema(columns: &[(&str, i16)], dropped: &[i16]) -> TableSchema {
        let column = |(name, number): &(&str, i16)| Column {
            name: (*name).to_owned(),
            type_oid: Oid(23),
            type_modifier: -1,
            type_name: "integer".to_owned(),
            kind: ColumnKind::of(Oid(23)),
            not_null: false,
            number: Some(*number),
            fill: None,
        };
        TableSchema {
            table: TableName::new("public", "t"),
            relation: Oid(1),
            columns: columns.iter().map(column).collect(),
            key: vec![0],
            primary_key: vec![0],
            identity: ReplicaIdentity::Default,
            partitions: 1,
            types: vec![],
            dropped: dropped.to_vec(),
            rewritten: None,
            unpublished: Vec::new(),
            exact: false,
        }
    }

    #[test]
    fn names_from_before_and_now_tell_and_so_does_the_place_between_neighbours() {
        let before = schema(&[("id", 1), ("a", 2), ("n", 3)], &[]);
        // a was renamed to b, then to c, before the message with b is read.
        let now = schema(&[("id", 1), ("c", 2), ("n", 3)], &[]);
        assert_eq!(
            numbers(&["id", "b", "n"], &before, Some(&now)),
            [Some(1), Some(2), Some(3)]
        );
        // The last column, renamed twice: there is no other number it could have.
        let now = schema(&[("id", 1), ("a", 2), ("o", 3)], &[]);
        assert_eq!(numbers(&["id", "a", "m"], &before, Some(&now))[2], Some(3));
        // Added and dropped again before the message is read.
        let now = schema(&[("id", 1), ("a", 2), ("n", 3)], &[4]);
        assert_eq!(
            numbers(&["id", "a", "n", "x"], &before, Some(&now))[3],
            Some(4)
        );
        // One was added and another dropped meanwhile: n renamed, or dropped and x added.
        let now = schema(&[("id", 1), ("a", 2)], &[3, 4]);
        assert_eq!(numbers(&["id", "a", "x"], &before, Some(&now))[2], None);
    }

    #[test]
    fn names_that_have_changed_places_are_told_where_one_side_has_them_in_order() {
        let before = schema(&[("a", 1), ("b", 2)], &[]);
        let swapped = schema(&[("b", 1), ("a", 2), ("c", 3)], &[]);
        let told = numbers(&["b", "a"], &before, Some(&swapped));
        assert_eq!(told, [Some(1), Some(2)], "the catalog has them so");
        assert_eq!(numbers(&["b", "a"], &before, Some(&before)), [None, None]);
    }
}
