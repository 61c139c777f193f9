use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::config::{Secret, ServerSettings, ServerUrl, TlsMode, VerifySettings};
use crate::error::Class;
use crate::model::{ColumnKind, Oid, ReplicaIdentity, TableName};

fn settings(schema_changes: SchemaChanges) -> ClickHouseSinkSettings {
    ClickHouseSinkSettings {
        server: ServerSettings {
            url: ServerUrl {
                written: Secret::new(""),
                host: "h".to_owned(),
                port: 1,
                user: None,
                password: None,
                database: "d".to_owned(),
            },
            tls: TlsMode::Disable.into(),
            connect_timeout: Duration::from_secs(1),
        },
        statement_timeout: Duration::from_secs(1),
        mode: ClickHouseMode::Current,
        create_tables: true,
        schema_changes,
        databases: BTreeMap::new(),
        columns: BTreeMap::new(),
        layout: BTreeMap::new(),
        verify: VerifySettings::default(),
    }
}

fn schema(columns: &[(&str, &str, i16)]) -> TableSchema {
    let column = |&(name, type_name, number): &(&str, &str, i16)| Column {
        name: name.to_owned(),
        type_oid: Oid(0),
        type_modifier: -1,
        type_name: type_name.to_owned(),
        kind: ColumnKind::Text,
        not_null: false,
        number: Some(number),
        fill: None,
    };
    TableSchema {
        table: TableName::new("public", "t"),
        relation: Oid(7),
        columns: columns.iter().map(column).collect(),
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

fn found(name: &str, type_name: &str, comment: &str) -> Found {
    Found {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        comment: comment.to_owned(),
        default_kind: String::new(),
        is_sorted_by: name == "id",
    }
}

fn there() -> Vec<Found> {
    vec![
        found("id", "Int32", "walferry 7.1"),
        found("n", "Nullable(Int32)", "walferry 7.2"),
        found("mine", "String", ""),
        found("_version", "UInt128", ""),
    ]
}

#[test]
fn a_table_in_shape_is_left_alone_with_what_somebody_added() {
    let schema = schema(&[("id", "integer", 1), ("n", "integer", 2)]);
    for may in [
        SchemaChanges::Follow,
        SchemaChanges::Compatible,
        SchemaChanges::Halt,
    ] {
        let plan = plan(&settings(may), &schema, &there()).expect("it fits");
        assert_eq!(plan, Plan::Alter(vec![]));
    }
}

#[test]
fn what_the_leader_altered_is_altered() {
    let mut new = schema(&[
        ("id", "integer", 1),
        ("count", "bigint", 2),
        ("x", "text", 4),
    ]);
    new.dropped = vec![3];
    let mut there = there();
    there.push(found("gone", "String", "walferry 7.3"));
    let wide = Type {
        kind: Kind::Int64,
        nullable: true,
    };
    let steps = vec![
        Alteration::Drop("gone".to_owned()),
        Alteration::Rename("n".to_owned(), "count".to_owned()),
        Alteration::Modify("count".to_owned(), wide),
        Alteration::Add("x".to_owned()),
    ];
    let followed = plan(&settings(SchemaChanges::Follow), &new, &there).expect("it follows");
    assert_eq!(followed, Plan::Alter(steps));
    let error = plan(&settings(SchemaChanges::Compatible), &new, &there).expect_err("a rename");
    assert!(error.what().contains("n is count"), "{error}");
    assert_eq!(error.class(), Class::Halt);
    new.columns[1].name = "n".to_owned();
    let compatible = plan(&settings(SchemaChanges::Compatible), &new, &there).expect("compatible");
    let Plan::Alter(steps) = compatible else {
        panic!("{compatible:?}")
    };
    assert!(
        !steps.iter().any(|step| matches!(step, Alteration::Drop(_))),
        "{steps:?}"
    );
    let error = plan(&settings(SchemaChanges::Halt), &new, &there).expect_err("a wider type");
    assert!(error.what().contains("Int64"), "{error}");
}

#[test]
fn columns_that_somebody_made_are_noted_and_found_again_with_the_types_of_his_choice() {
    let made = vec![
        found("id", "Int32", ""),
        found("n", "String", ""),
        found("said", "Nullable(String)", "what they said"),
        found("mine", "String", ""),
    ];
    let columns = [("id", "integer", 1), ("n", "text", 2), ("said", "text", 3)];
    let mut leaders = schema(&columns);
    leaders.columns[1].not_null = true;
    let note = |name: &str, number: i16| {
        let noted = format!("walferry 7.{number}, made by hand");
        Alteration::Note(name.to_owned(), noted)
    };
    for may in [SchemaChanges::Follow, SchemaChanges::Compatible] {
        let plan = plan(&settings(may), &leaders, &made).expect("it fits");
        // A comment of theirs stays.
        assert_eq!(plan, Plan::Alter(vec![note("id", 1), note("n", 2)]));
    }
    let halting = plan(&settings(SchemaChanges::Halt), &leaders, &made).expect("it fits");
    assert_eq!(halting, Plan::Alter(vec![]));
    let follow = settings(SchemaChanges::Follow);
    let statement = statement(&follow, &leaders, ("t", &note("n", 2))).expect("a statement");
    let comment = "walferry 7.2, made by hand";
    let expected = format!("ALTER TABLE t COMMENT COLUMN `n` '{comment}'");
    assert_eq!(statement, Some(expected));

    // A type that the mapping would not choose stays, under whatever name.
    let noted = vec![
        found("id", "Int32", "walferry 7.1, made by hand"),
        found("n", "LowCardinality(String)", comment),
    ];
    let mut renamed = schema(&[("id", "integer", 1), ("m", "text", 2)]);
    renamed.columns[1].not_null = true;
    let followed = plan(&follow, &renamed, &noted);
    let step = Alteration::Rename("n".to_owned(), "m".to_owned());
    assert_eq!(followed.expect("it follows"), Plan::Alter(vec![step]));
}

#[test]
fn columns_that_change_their_names_with_one_another_go_by_way_of_free_names() {
    let new = schema(&[
        ("id", "integer", 1),
        ("b", "text", 2),
        ("a", "text", 3),
        ("d", "text", 4),
    ]);
    let text = "Nullable(String)";
    let mut there = vec![
        found("id", "Int32", "walferry 7.1"),
        found("a", text, "walferry 7.2"),
        found("b", text, "walferry 7.3"),
        found("c", text, "walferry 7.4"),
    ];
    let rename = |from: &str, to: &str| Alteration::Rename(from.to_owned(), to.to_owned());
    let (first, second) = ("_walferry_renamed_0", "_walferry_renamed_1");
    let steps = vec![
        rename("a", first),
        rename("b", second),
        rename("c", "d"),
        rename(first, "b"),
        rename(second, "a"),
    ];
    let follow = settings(SchemaChanges::Follow);
    let planned = plan(&follow, &new, &there).expect("it follows");
    assert_eq!(planned, Plan::Alter(steps));
    // It was ended behind the first step.
    there[1].name = first.to_owned();
    let rest = vec![
        rename(first, second),
        rename("b", "a"),
        rename("c", "d"),
        rename(second, "b"),
    ];
    let planned = plan(&follow, &new, &there).expect("it goes on");
    assert_eq!(planned, Plan::Alter(rest));
}

#[test]
fn a_key_or_a_type_that_cannot_be_altered_makes_the_table_anew() {
    let renamed = schema(&[("key", "integer", 1), ("n", "integer", 2)]);
    let other = schema(&[("id", "integer", 1), ("n", "text", 2)]);
    let wider_key = schema(&[("id", "bigint", 1), ("n", "integer", 2)]);
    for schema in [renamed, other, wider_key] {
        let plan = plan(&settings(SchemaChanges::Follow), &schema, &there()).expect("a plan");
        assert!(matches!(plan, Plan::Anew(_)), "{plan:?}");
    }
}

#[test]
fn a_version_without_the_numbers_of_its_columns_makes_a_table_anew_that_has_them() {
    let mut schema = schema(&[
        ("id", "integer", 1),
        ("n", "integer", 2),
        ("x", "integer", 3),
    ]);
    schema.columns[2].number = None;
    let follow = settings(SchemaChanges::Follow);
    let planned = plan(&follow, &schema, &there()).expect("a plan");
    assert!(matches!(planned, Plan::Anew(_)), "{planned:?}");
    // Made anew it has no numbers either, and fits.
    let bare = |(name, of)| found(name, of, "");
    let made = [
        ("id", "Int32"),
        ("n", "Nullable(Int32)"),
        ("x", "Nullable(Int32)"),
    ]
    .map(bare);
    let planned = plan(&follow, &schema, &made).expect("a plan");
    assert_eq!(planned, Plan::Alter(vec![]));
}

#[test]
fn a_table_made_by_hand_keeps_types_that_hold_every_value() {
    let schema = schema(&[("id", "integer", 1), ("n", "numeric", 2)]);
    let there = [
        found("id", "Int64", ""),
        found("n", "Nullable(Decimal(38, 4))", ""),
    ];
    let mut settings = settings(SchemaChanges::Halt);
    assert_eq!(
        plan(&settings, &schema, &there).expect("it fits"),
        Plan::Alter(vec![])
    );
    settings
        .columns
        .insert("public.t.n".to_owned(), "Decimal(76, 10)".to_owned());
    let error = plan(&settings, &schema, &there).expect_err("another type is asked for");
    assert!(error.what().contains("Decimal(76, 10)"), "{error}");
}

#[test]
fn a_column_that_took_the_name_of_another_is_not_taken_for_it() {
    // n was dropped and made anew.
    let mut new = schema(&[("id", "integer", 1), ("n", "integer", 3)]);
    new.dropped = vec![2];
    let steps = plan(&settings(SchemaChanges::Follow), &new, &there()).expect("a plan");
    let drop = Alteration::Drop("n".to_owned());
    let add = Alteration::Add("n".to_owned());
    assert_eq!(
        steps,
        Plan::Alter(vec![drop, add]),
        "first the old one goes"
    );
}

#[test]
fn what_older_rows_have_in_a_column_is_its_default() {
    let mut schema = schema(&[("id", "integer", 1), ("n", "integer", 2)]);
    let of = Type {
        kind: Kind::Int32,
        nullable: true,
    };
    let declared = |schema: &TableSchema| {
        declared(schema, &schema.columns[1], &of).expect("the column can hold it")
    };
    let plain = "`n` Nullable(Int32) COMMENT 'walferry 7.2'";
    assert_eq!(declared(&schema).as_deref(), Some(plain));
    schema.columns[1].fill = Some(Fill::Value("5".to_owned()));
    let filled = "`n` Nullable(Int32) DEFAULT 5 COMMENT 'walferry 7.2'";
    assert_eq!(declared(&schema).as_deref(), Some(filled));
    schema.columns[1].fill = Some(Fill::Unknown);
    assert_eq!(declared(&schema), None);
    let of = Type {
        kind: Kind::Date32,
        nullable: true,
    };
    schema.columns[1].fill = Some(Fill::Value("9999-12-31".to_owned()));
    let error = super::declared(&schema, &schema.columns[1], &of).expect_err("no such date there");
    assert!(error.to_string().contains("column n"), "{error}");
}

#[test]
fn a_column_made_again_is_not_taken_for_the_dropped_one_that_stays() {
    let mut new = schema(&[("id", "integer", 1), ("n", "integer", 3)]);
    new.dropped = vec![2];
    let error =
        plan(&settings(SchemaChanges::Compatible), &new, &there()).expect_err("its name is taken");
    assert!(error.what().contains("column n is missing"), "{error}");
}

#[test]
fn a_column_that_may_be_null_in_an_older_version_may_be_null() {
    let (older, mut newest) = (
        schema(&[("id", "integer", 1), ("was", "integer", 2)]),
        schema(&[("id", "integer", 1), ("n", "integer", 2)]),
    );
    newest.columns[1].not_null = true;
    assert!(!also_holding(&newest, &older).columns[1].not_null);
    assert!(also_holding(&newest, &newest).columns[1].not_null);
}

#[test]
fn columns_without_numbers_are_doubtful_in_a_table_whose_columns_have_them() {
    let numbered = schema(&[("id", "integer", 1), ("x", "integer", 3)]);
    let mut without = numbered.clone();
    without.columns[1].number = None;
    assert!(is_doubtful(&without, &numbered));
    assert!(!is_doubtful(&numbered, &numbered));
    for column in &mut without.columns {
        column.number = None;
    }
    assert!(!is_doubtful(&without, &without), "nothing has numbers");
}

#[test]
fn a_column_of_another_table_that_had_the_name_is_noted_anew() {
    let leaders = schema(&[("id", "integer", 1), ("n", "text", 2)]);
    let former = vec![
        found("id", "Int32", "walferry 6.1"),
        found("n", "Nullable(String)", "walferry 6.2, made by hand"),
    ];
    assert_eq!(made_by_hand(&leaders, &former), Some("n"));
    let steps = vec![
        Alteration::Note("id".to_owned(), "walferry 7.1".to_owned()),
        Alteration::Note("n".to_owned(), "walferry 7.2, made by hand".to_owned()),
    ];
    let follow = settings(SchemaChanges::Follow);
    let statements = steps.iter().map(|step| {
        let statement = statement(&follow, &leaders, ("t", step)).expect("no setting is wrong");
        statement.expect("nothing is unknown")
    });
    let statements: Vec<String> = statements.collect();
    assert_eq!(
        statements,
        [
            "ALTER TABLE t COMMENT COLUMN `id` 'walferry 7.1'",
            "ALTER TABLE t COMMENT COLUMN `n` 'walferry 7.2, made by hand'",
        ]
    );
    let planned = plan(&follow, &leaders, &former);
    assert_eq!(planned.expect("it follows"), Plan::Alter(steps));
    assert_eq!(made_by_hand(&leaders, &former[..1]), None);
}
