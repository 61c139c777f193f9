use proptest::prelude::*;

use super::*;
use crate::model::{Column, ColumnKind, ReplicaIdentity, TableName};

fn schema(names: &[&str]) -> TableSchema {
    let column = |name: &&str| Column {
        name: (*name).to_owned(),
        type_oid: Oid(23),
        type_modifier: -1,
        type_name: "integer".to_owned(),
        kind: ColumnKind::of(Oid(23)),
        not_null: false,
        number: None,
        fill: None,
    };
    TableSchema {
        table: TableName::new("public", "t"),
        relation: Oid(1),
        columns: names.iter().map(column).collect(),
        key: vec![0],
        primary_key: vec![0],
        identity: ReplicaIdentity::Default,
        partitions: 1,
        types: vec![],
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    }
}

fn live(columns: &[(i16, &str)]) -> Vec<Live> {
    let one = |(number, name): &(i16, &str)| Live {
        number: *number,
        name: (*name).to_owned(),
    };
    columns.iter().map(one).collect()
}

fn noted(versions: &[&[(&str, i16)]], own: Option<usize>) -> Noted {
    let one = |numbers: &&[(&str, i16)]| {
        let numbers = numbers.iter();
        numbers.map(|(name, n)| ((*name).to_owned(), *n)).collect()
    };
    Noted {
        versions: versions.iter().map(one).collect(),
        leader: vec![None; versions.len()],
        own,
    }
}

/// The follower's number of each column of the version, or what is the matter.
fn found(
    names: &[&str],
    newest: Option<&[&str]>,
    noted: &Noted,
    follower: &[(i16, &str)],
) -> Vec<Result<i16, &'static str>> {
    let (schema, newest) = (schema(names), newest.map(schema_of));
    let live = live(follower);
    let wanted = Wanted {
        schema: &schema,
        newest: newest.as_ref(),
        noted,
        live: &live,
    };
    let home = |home: &Home<'_>| match home {
        Home::In(live) => Ok(live.number),
        Home::Dropped(_) => Err("dropped"),
        Home::Missing => Err("missing"),
        Home::Twice(_) => Err("twice"),
        Home::Remade => Err("remade"),
        Home::Old(_) => Err("old"),
    };
    homes(wanted).iter().map(home).collect()
}

fn schema_of(names: &[&str]) -> TableSchema {
    schema(names)
}

const V0: &[(&str, i16)] = &[("id", 1), ("a", 2)];

#[test]
fn a_version_without_notes_goes_by_name() {
    let follower = &[(1, "id"), (4, "a"), (5, "own")];
    let noted = Noted::default();
    assert_eq!(found(&["id", "a"], None, &noted, follower), [Ok(1), Ok(4)]);
    let renamed = found(&["id", "b"], None, &noted, follower);
    assert_eq!(renamed, [Ok(1), Err("missing")]);
}

#[test]
fn a_renamed_column_is_found_by_versions_from_before_and_after() {
    let follower = &[(1, "id"), (2, "b")];
    let own = noted(&[V0], Some(0));
    for newest in [None, Some(&["id", "b"][..])] {
        assert_eq!(found(&["id", "a"], newest, &own, follower), [Ok(1), Ok(2)]);
    }
    let new = noted(&[V0], None);
    assert_eq!(found(&["id", "b"], None, &new, follower), [Ok(1), Ok(2)]);
    // Before the remedy.
    let before = found(&["id", "b"], None, &new, &[(1, "id"), (2, "a")]);
    assert_eq!(before, [Ok(1), Err("missing")]);
}

#[test]
fn a_name_given_to_another_column_means_what_it_meant_in_each_version() {
    // RENAME a TO b, ADD a, at once, in one transaction with changes before and after.
    let follower = &[(1, "id"), (2, "b"), (3, "a")];
    let (old, new) = (&["id", "a"][..], &["id", "b", "a"][..]);
    let before = noted(&[V0], Some(0));
    assert_eq!(found(old, Some(new), &before, follower), [Ok(1), Ok(2)]);
    let after = noted(&[V0], None);
    assert_eq!(found(new, None, &after, follower), [Ok(1), Ok(2), Ok(3)]);
    // The new shape is not in the log yet: it may be the one or the other.
    assert_eq!(found(old, None, &before, follower)[1], Err("twice"));
}

#[test]
fn a_dropped_column_is_passed_over_once_the_leader_is_known_to_have_dropped_it() {
    let follower = &[(1, "id")];
    let own = noted(&[V0], Some(0));
    let of = |newest| found(&["id", "a"], newest, &own, follower)[1];
    assert_eq!(of(None), Err("missing"), "the leader has it still");
    assert_eq!(of(Some(&["id"])), Err("dropped"));
    assert_eq!(
        of(Some(&["id", "b"])),
        Err("missing"),
        "b may be a, renamed"
    );
    let with_b = &[(1, "id"), (3, "b")];
    let found_with_b = found(&["id", "a"], Some(&["id", "b"]), &own, with_b);
    assert_eq!(found_with_b[1], Err("dropped"), "b is another column here");
    // A later version that has passed says so as well, whatever came after it.
    let later = noted(&[V0, &[("id", 1)]], Some(0));
    let newest = Some(&["id", "a"][..]);
    for follower in [&[(1, "id")][..], &[(1, "id"), (3, "a")]] {
        let found = found(&["id", "a"], newest, &later, follower);
        assert_eq!(found[1], Err("dropped"));
    }
    // A key is never passed over.
    let key = found(&["id", "a"], Some(&["a"]), &own, &[(2, "a")]);
    assert_eq!(key, [Err("missing"), Ok(2)]);
}

#[test]
fn a_column_dropped_and_made_anew_is_not_taken_for_the_first() {
    // On the follower only.
    let own = noted(&[V0], Some(0));
    let follower = &[(1, "id"), (3, "a")];
    assert_eq!(found(&["id", "a"], None, &own, follower)[1], Ok(3));
    let newest = Some(&["id", "a", "c"][..]);
    assert_eq!(
        found(&["id", "a"], newest, &own, follower)[1],
        Err("remade")
    );
    // On the leader, while the follower kept the first.
    let again = noted(&[V0, &[("id", 1)]], None);
    let kept = found(
        &["id", "c", "a"],
        None,
        &again,
        &[(1, "id"), (2, "a"), (3, "c")],
    );
    assert_eq!(kept, [Ok(1), Ok(3), Err("old")]);
}

/// One table on both sides: columns as (identity, name), the identity being the follower's number.
type Columns = Vec<(i16, String)>;

#[derive(Clone, Copy, Debug)]
enum Ddl {
    Rename(usize, usize),
    Add(usize),
    Drop(usize),
}

fn ddl() -> impl Strategy<Value = Ddl> {
    prop_oneof![
        (0usize..8, 0usize..5).prop_map(|(column, name)| Ddl::Rename(column, name)),
        (0usize..5).prop_map(Ddl::Add),
        (0usize..8).prop_map(Ddl::Drop),
    ]
}

/// The tables after each statement; those that change nothing are left out. `reuse`: names come again.
fn states(statements: &[Ddl], reuse: bool) -> Vec<Columns> {
    let mut next = 3;
    let mut states = vec![vec![(1, "id".to_owned()), (2, "n0".to_owned())]];
    for (step, statement) in statements.iter().enumerate() {
        let mut columns = states.last().unwrap().clone();
        let name_of = |name: usize| match reuse {
            true => format!("n{name}"),
            false => format!("s{step}"),
        };
        let is_free = |name: &String, columns: &Columns| columns.iter().all(|(_, n)| n != name);
        let others = columns.len() - 1;
        match *statement {
            Ddl::Rename(column, name) if others > 0 && is_free(&name_of(name), &columns) => {
                columns[1 + column % others].1 = name_of(name);
            }
            Ddl::Add(name) if is_free(&name_of(name), &columns) => {
                columns.push((next, name_of(name)));
                next += 1;
            }
            Ddl::Drop(column) if others > 0 => {
                columns.remove(1 + column % others);
            }
            Ddl::Rename(..) | Ddl::Add(_) | Ddl::Drop(_) => continue,
        }
        states.push(columns);
    }
    states
}

fn names(columns: &Columns) -> Vec<&str> {
    columns.iter().map(|(_, name)| name.as_str()).collect()
}

/// What is found of version `at` when the follower stands at `follower`; never a wrong column.
fn check(
    states: &[Columns],
    notes: &[Numbers],
    at: usize,
    follower: usize,
) -> Vec<Result<i16, &'static str>> {
    let own = (at < notes.len()).then_some(at);
    let noted = Noted {
        versions: notes.to_vec(),
        leader: Vec::new(),
        own,
    };
    let newest = states.last().unwrap();
    let newest = (names(newest) != names(&states[at])).then(|| names(newest));
    let live: Vec<(i16, &str)> = states[follower]
        .iter()
        .map(|(number, name)| (*number, name.as_str()))
        .collect();
    let found = found(&names(&states[at]), newest.as_deref(), &noted, &live);
    for ((identity, name), found) in states[at].iter().zip(&found) {
        match found {
            Ok(number) => assert_eq!(
                number, identity,
                "{name} of {at}, follower at {follower}: {states:?}"
            ),
            Err("dropped") => assert!(
                states[at..]
                    .iter()
                    .any(|later| later.iter().all(|(n, _)| n != identity)),
                "{name} of {at}: {states:?}"
            ),
            Err(_halt) => {}
        }
    }
    found
}

/// What the sink notes of a version that can be applied: identities, also of columns dropped already.
fn numbers_of(columns: &Columns, found: &[Result<i16, &'static str>]) -> Option<Numbers> {
    let goes_on = found.iter().all(|f| f.is_ok() || *f == Err("dropped"));
    let numbers = columns.iter().map(|(number, name)| (name.clone(), *number));
    goes_on.then(|| numbers.collect())
}

/// Whether two states of the table look the same without being so: the stream cannot tell them apart.
fn look_alike(states: &[Columns]) -> bool {
    let same = |a: &Columns, b: &Columns| names(a) == names(b);
    (0..states.len()).any(|a| states[..a].iter().any(|b| same(&states[a], b)))
}

proptest! {
    #[test]
    fn ddl_repeated_when_a_halt_asks_for_it_never_meets_a_wrong_column(
        statements in prop::collection::vec(ddl(), 1..12)
    ) {
        let states = states(&statements, true);
        prop_assume!(!look_alike(&states));
        let mut notes = Vec::new();
        for at in 0..states.len() {
            if at > 0 {
                // The table before the remedy: a halt, or nothing to be done.
                check(&states, &notes, at, at - 1);
            }
            let found = check(&states, &notes, at, at);
            prop_assert!(found.iter().all(Result::is_ok), "{found:?} {at} {states:?}");
            notes.extend(numbers_of(&states[at], &found));
            // One entry may hold all the versions so far.
            for earlier in 0..at {
                let found = check(&states, &notes, earlier, at);
                let goes_on = |f: &Result<i16, &str>| f.is_ok() || *f == Err("dropped");
                prop_assert!(found.iter().all(goes_on), "{found:?} {earlier} at {at} {states:?}");
            }
        }
    }

    #[test]
    fn a_follower_altered_ahead_never_meets_a_wrong_column_while_names_are_new(
        statements in prop::collection::vec(ddl(), 1..12),
        ahead in prop::collection::vec(0usize..12, 12),
    ) {
        let states = states(&statements, false);
        let mut notes = Vec::new();
        let mut follower = 0;
        for at in 0..states.len() {
            follower = (at + ahead[at % ahead.len()]).min(states.len() - 1).max(follower);
            let found = check(&states, &notes, at, follower);
            // A halt: the operator goes no further ahead, and the log no further on.
            let Some(numbers) = numbers_of(&states[at], &found) else { break };
            notes.push(numbers);
            for earlier in 0..=at {
                let found = check(&states, &notes, earlier, follower);
                prop_assert!(numbers_of(&states[earlier], &found).is_some(), "{found:?} {earlier} {states:?}");
            }
        }
    }
}
