use super::*;
use crate::model::{ColumnKind, Oid, ReplicaIdentity, TableName};

fn schema(columns: &[(&str, &str)], key: Vec<usize>) -> TableSchema {
    let column = |(name, type_name): &(&str, &str)| Column {
        name: (*name).to_owned(),
        type_oid: Oid(25),
        type_modifier: -1,
        type_name: (*type_name).to_owned(),
        kind: ColumnKind::Text,
        not_null: false,
        number: None,
        fill: None,
    };
    TableSchema {
        table: TableName::new("public", "t"),
        relation: Oid(1),
        columns: columns.iter().map(column).collect(),
        primary_key: key.clone(),
        key,
        identity: ReplicaIdentity::Default,
        partitions: 1,
        types: Vec::new(),
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    }
}

#[test]
fn every_built_in_type_has_its_own() {
    for (leader, follower) in [
        ("boolean", Held::Bool),
        ("smallint", Held::Integer(2)),
        ("bigint", Held::Integer(8)),
        ("real", Held::Float),
        ("numeric(10,2)", Held::Decimal(10, 2)),
        ("numeric(3,-2)", Held::Decimal(5, 0)),
        ("numeric(2,5)", Held::Decimal(5, 5)),
        ("numeric(66,2)", Held::Text(LONG)),
        ("numeric(40,31)", Held::Text(LONG)),
        ("numeric", Held::Text(LONG)),
        ("character varying(20)", Held::Varchar(20)),
        ("character varying(256)", Held::Text(LONG)),
        ("character varying", Held::Text(LONG)),
        ("character(3)", Held::Varchar(3)),
        ("bit(8)", Held::Varchar(8)),
        ("timestamp(3) with time zone", Held::DateTime(3)),
        ("timestamp without time zone", Held::DateTime(6)),
        ("time(0) without time zone", Held::Time(0)),
        ("time with time zone", Held::Varchar(32)),
        ("\"char\"", Held::Varchar(4)),
        (
            "integer[]",
            Held::Json(Shape::Array(b','), Element::Number, LONG),
        ),
        (
            "numeric(10,2)[]",
            Held::Json(Shape::Array(b','), Element::Number, LONG),
        ),
        ("box[]", Held::Json(Shape::Array(b';'), Element::Text, LONG)),
        (
            "geography[]",
            Held::Json(Shape::Array(b':'), Element::Text, LONG),
        ),
        ("int4range", Held::Json(Shape::Range, Element::Number, LONG)),
        (
            "tstzmultirange",
            Held::Json(Shape::Multirange, Element::Text, LONG),
        ),
        ("tsvector", Held::Text(LONG)),
    ] {
        assert_eq!(of_type(leader, &[], Server::MYSQL), follower, "{leader}");
    }
    assert_eq!(
        of_type("numeric(40,31)", &[], Server::MARIADB),
        Held::Decimal(40, 31)
    );
}

#[test]
fn domains_are_their_base_type_and_enums_texts() {
    let types = [
        UserType::Enum {
            name: TableName::new("shop", "mood"),
            labels: vec!["sad".to_owned()],
        },
        UserType::Domain {
            name: TableName::new("shop", "Odd Name"),
            base: "numeric(5,1)".to_owned(),
            not_null: false,
            checks: vec![],
        },
        UserType::Domain {
            name: TableName::new("shop", "outer"),
            base: "shop.\"Odd Name\"".to_owned(),
            not_null: false,
            checks: vec![],
        },
        UserType::Range {
            name: TableName::new("shop", "span"),
            subtype: "double precision".to_owned(),
        },
    ];
    for (leader, follower) in [
        ("shop.mood", Held::Varchar(63)),
        ("\"shop\".\"mood\"", Held::Varchar(63)),
        ("shop.\"Odd Name\"", Held::Decimal(5, 1)),
        ("shop.\"outer\"", Held::Decimal(5, 1)),
        ("shop.span", Held::Json(Shape::Range, Element::Number, LONG)),
        (
            "shop.mood[]",
            Held::Json(Shape::Array(b','), Element::Text, LONG),
        ),
    ] {
        assert_eq!(of_type(leader, &types, Server::MYSQL), follower, "{leader}");
    }
}

#[test]
fn keys_have_the_length_that_an_index_has_room_for() {
    let all = |columns: &[(&str, &str)], key: Vec<usize>| {
        held(&schema(columns, key), Server::MARIADB, |_| None)
    };
    let one = all(&[("k", "text"), ("v", "text")], vec![0]).expect("held");
    assert_eq!(one, [Held::Varchar(768), Held::Text(LONG)]);
    let two = all(
        &[("a", "text"), ("b", "bigint"), ("c", "bytea")],
        vec![0, 1, 2],
    )
    .expect("held");
    assert_eq!(
        two,
        [Held::Varchar(383), Held::Integer(8), Held::Varbinary(1532)]
    );
    let short = all(&[("a", "character varying(10)"), ("b", "text")], vec![1, 0]).expect("held");
    assert_eq!(short, [Held::Varchar(10), Held::Varchar(758)]);
    let many: Vec<(&str, &str)> = vec![("k", "character varying(200)"); 10];
    let bounded = all(&many, (0..10).collect()).expect("held");
    assert!(
        bounded
            .iter()
            .all(|held| matches!(held, Held::Varchar(76 | 77))),
        "{bounded:?}"
    );
}

#[test]
fn a_row_that_is_too_wide_has_long_texts() {
    let many: Vec<(&str, &str)> = vec![("k", "character varying(255)"); 100];
    let wide = held(&schema(&many, vec![0]), Server::MYSQL, |_| None).expect("held");
    assert_eq!(wide[0], Held::Varchar(255), "a key stays");
    assert!(
        wide[1..].iter().all(|held| *held == Held::Text(LONG)),
        "{wide:?}"
    );
}

#[test]
fn the_settings_may_name_another_type() {
    let columns = [("k", "bigint"), ("v", "numeric")];
    let told = |told: &'static str| {
        let of = move |column: &Column| (column.name == "v").then_some(told);
        held(&schema(&columns, vec![0]), Server::MYSQL, of)
    };
    assert_eq!(told("text").expect("held")[1], Held::Text(LONG));
    assert_eq!(
        told("DECIMAL(38, 10)").expect("held")[1],
        Held::Decimal(38, 10)
    );
    assert_eq!(told("varchar(100)").expect("held")[1], Held::Varchar(100));
    for wrong in ["blob", "decimal(70,2)", "varchar(0)"] {
        assert_eq!(told(wrong).expect_err(wrong).column, Some(1), "{wrong}");
    }
}
