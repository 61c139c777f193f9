use super::*;
use crate::model::{ColumnKind, Lsn, Oid, ReplicaIdentity, TableName};

const INT4: (u32, &str) = (23, "integer");
const INT8: (u32, &str) = (20, "bigint");
const TEXT: (u32, &str) = (25, "text");

fn column(name: &str, number: i16, of: (u32, &str)) -> Column {
    Column {
        name: name.to_owned(),
        type_oid: Oid(of.0),
        type_modifier: -1,
        type_name: of.1.to_owned(),
        kind: ColumnKind::of(Oid(of.0)),
        not_null: false,
        number: Some(number),
        fill: None,
    }
}

fn schema(columns: Vec<Column>, dropped: &[i16]) -> TableSchema {
    TableSchema {
        table: TableName::new("public", "t"),
        relation: Oid(1),
        columns,
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

/// A follower made for the version: the same columns, numbered 11, 12, …, and one of its own.
struct Follower {
    before: LeaderShape,
    homes: BTreeMap<i16, i16>,
    held: Vec<Held>,
}

fn follower(of: &TableSchema) -> Follower {
    let mut held = Vec::new();
    let mut homes = BTreeMap::new();
    for (n, column) in (11..).zip(&of.columns) {
        homes.insert(column.number.unwrap(), n);
        held.push(Held {
            number: n,
            name: column.name.clone(),
            of: type_of(column),
            same_type: false,
            not_null: column.not_null,
            fills_itself: false,
        });
    }
    held.push(Held {
        number: 30,
        name: "own".to_owned(),
        of: TypeOf {
            oid: Oid(25),
            modifier: -1,
        },
        same_type: false,
        not_null: false,
        fills_itself: false,
    });
    Follower {
        before: LeaderShape::of(of).unwrap(),
        homes,
        held,
    }
}

fn told(from: &TableSchema, to: &TableSchema, empty: bool, may: SchemaChanges) -> Vec<String> {
    let Follower {
        before,
        homes,
        mut held,
    } = follower(from);
    for held in &mut held {
        held.same_type = to
            .columns
            .iter()
            .any(|c| type_of(c) == held.of && c.name == held.name);
    }
    let change = Change {
        schema: to,
        before: &before,
        homes: &homes,
        held: &held,
        empty,
        may,
    };
    match alterations(change) {
        Ok(all) => all.iter().map(Alteration::to_string).collect(),
        Err(NeedsCopy(why)) => vec![format!("copy: {why}")],
    }
}

fn follows(from: &TableSchema, to: &TableSchema) -> Vec<String> {
    told(from, to, false, SchemaChanges::Follow)
}

fn first() -> TableSchema {
    schema(
        vec![
            column("id", 1, INT4),
            column("a", 2, TEXT),
            column("n", 3, INT4),
        ],
        &[],
    )
}

#[test]
fn a_rename_is_told_from_a_column_dropped_and_another_added() {
    let renamed = schema(
        vec![
            column("id", 1, INT4),
            column("b", 2, TEXT),
            column("n", 3, INT4),
        ],
        &[],
    );
    assert_eq!(follows(&first(), &renamed), ["RENAME COLUMN a TO b"]);
    let other = schema(
        vec![
            column("id", 1, INT4),
            column("n", 3, INT4),
            column("b", 4, TEXT),
        ],
        &[2],
    );
    assert_eq!(
        follows(&first(), &other),
        ["DROP COLUMN a", "ADD COLUMN b text"]
    );
    // Not in the version, but not known to be dropped either: a publication may leave it out.
    let fewer = schema(vec![column("id", 1, INT4), column("n", 3, INT4)], &[]);
    assert_eq!(follows(&first(), &fewer), [""; 0]);
}

#[test]
fn names_that_change_places_go_by_a_third_one() {
    let swapped = schema(
        vec![
            column("id", 1, INT4),
            column("n", 2, TEXT),
            column("a", 3, INT4),
        ],
        &[],
    );
    let expected = [
        "RENAME COLUMN a TO walferry_12",
        "RENAME COLUMN n TO walferry_13",
        "RENAME COLUMN walferry_12 TO n",
        "RENAME COLUMN walferry_13 TO a",
    ];
    assert_eq!(follows(&first(), &swapped)[..4], expected);
}

#[test]
fn what_the_stream_does_not_show_needs_a_copy() {
    let mut text = first();
    text.columns[2] = column("n", 3, TEXT);
    let copy = follows(&first(), &text);
    assert!(
        copy[0].starts_with("copy: column n is of type text"),
        "{copy:?}"
    );
    let mut volatile = first();
    volatile.columns.push(column("c", 4, INT4));
    volatile.columns[3].fill = Some(Fill::Unknown);
    assert!(follows(&first(), &volatile)[0].starts_with("copy: column c was added"));
    let mut remade = schema(
        vec![
            column("id", 1, INT4),
            column("n", 3, INT4),
            column("a", 4, TEXT),
        ],
        &[2],
    );
    assert!(follows(&first(), &remade)[0].starts_with("copy: column a was dropped"));
    remade.exact = true;
    assert_eq!(
        follows(&first(), &remade),
        ["DROP COLUMN a", "ADD COLUMN a text"]
    );
    let mut rewritten = first();
    rewritten.rewritten = Some(Lsn(7));
    assert!(follows(&first(), &rewritten)[0].starts_with("copy: "));
    // Without rows there is nothing to be wrong about.
    let of_empty = |to| told(&first(), to, true, SchemaChanges::Follow);
    assert_eq!(of_empty(&text), ["ALTER COLUMN n TYPE text"]);
    assert_eq!(of_empty(&volatile), ["ADD COLUMN c integer"]);
    assert_eq!(of_empty(&rewritten), [""; 0]);
}

#[test]
fn a_column_that_becomes_wider_or_may_be_null_is_altered_in_place() {
    let mut strict = first();
    strict.columns[1].not_null = true;
    let mut wider = first();
    wider.columns[2] = column("n", 3, INT8);
    for may in [SchemaChanges::Follow, SchemaChanges::Compatible] {
        let all = told(&strict, &wider, false, may);
        assert_eq!(
            all,
            ["ALTER COLUMN a DROP NOT NULL", "ALTER COLUMN n TYPE bigint"]
        );
    }
}

#[test]
fn compatible_changes_are_those_that_readers_need_not_know_of() {
    let compatible = |to| told(&first(), to, false, SchemaChanges::Compatible);
    let mut other = schema(
        vec![
            column("id", 1, INT4),
            column("b", 2, TEXT),
            column("c", 4, TEXT),
        ],
        &[3],
    );
    other.columns[2].fill = Some(Fill::Value("x".to_owned()));
    assert_eq!(
        compatible(&other),
        ["ADD COLUMN c text"],
        "neither renamed nor dropped"
    );
}

#[test]
fn an_empty_follower_goes_back_to_the_shape_of_an_older_copy() {
    let newer = schema(
        vec![
            column("id", 1, INT4),
            column("b", 2, TEXT),
            column("c", 4, TEXT),
        ],
        &[3],
    );
    let back = told(&newer, &first(), true, SchemaChanges::Follow);
    assert_eq!(
        back,
        [
            "DROP COLUMN c",
            "RENAME COLUMN b TO a",
            "ADD COLUMN n integer"
        ]
    );
}

#[test]
fn a_column_that_a_column_list_leaves_out_now_stays_on_an_empty_follower() {
    let mut without = first();
    without.columns.pop();
    without.unpublished = vec![3];
    let back = told(&first(), &without, true, SchemaChanges::Follow);
    assert_eq!(back, [""; 0]);
}

#[test]
fn a_column_that_the_follower_has_already_gets_what_older_rows_have() {
    let mut added = first();
    added.columns.push(column("own", 4, TEXT));
    assert_eq!(follows(&first(), &added), ["values of older rows in own"]);
}

#[test]
fn another_primary_key_is_made() {
    let mut keyed = first();
    keyed.primary_key = vec![2];
    assert_eq!(follows(&first(), &keyed), ["PRIMARY KEY (n)"]);
    keyed.primary_key = vec![];
    assert_eq!(follows(&first(), &keyed), ["no PRIMARY KEY"]);
}

#[test]
fn without_numbers_nothing_is_guessed() {
    let mut unknown = first();
    unknown.columns[1].number = None;
    assert!(follows(&first(), &unknown)[0].starts_with("copy: the source learned"));
}

#[test]
fn statements_quote_what_they_name() {
    let added = Alteration::Add {
        name: "a \"b\"".to_owned(),
        of: "text".to_owned(),
        fill: Some("it's".to_owned()),
        not_null: true,
    };
    assert_eq!(
        added.sql("\"public\".\"t\""),
        [
            "ALTER TABLE \"public\".\"t\" ADD COLUMN \"a \"\"b\"\"\" text DEFAULT 'it''s'::text NOT NULL",
            "ALTER TABLE \"public\".\"t\" ALTER COLUMN \"a \"\"b\"\"\" DROP DEFAULT",
        ]
    );
}
