use super::*;
use crate::model::{ColumnKind, Oid, ReplicaIdentity, TableName};

fn schema(type_name: &str, not_null: bool, types: Vec<UserType>) -> TableSchema {
    TableSchema {
        table: TableName::new("public", "t"),
        relation: Oid(1),
        columns: vec![Column {
            name: "c".to_owned(),
            type_oid: Oid(0),
            type_modifier: -1,
            type_name: type_name.to_owned(),
            kind: ColumnKind::Text,
            not_null,
            number: Some(1),
            fill: None,
        }],
        key: vec![],
        primary_key: vec![],
        identity: ReplicaIdentity::Default,
        partitions: 1,
        types,
        dropped: Vec::new(),
        rewritten: None,
        unpublished: Vec::new(),
        exact: false,
    }
}

fn of(type_name: &str, types: Vec<UserType>) -> String {
    let schema = schema(type_name, true, types);
    mapped(&schema, &schema.columns[0]).to_string()
}

#[test]
fn every_row_of_the_mapping() {
    for (postgres, clickhouse) in [
        ("boolean", "Bool"),
        ("smallint", "Int16"),
        ("integer", "Int32"),
        ("bigint", "Int64"),
        ("oid", "UInt32"),
        ("real", "Float32"),
        ("double precision", "Float64"),
        ("numeric(10,2)", "Decimal(10, 2)"),
        ("numeric(76,76)", "Decimal(76, 76)"),
        ("numeric(5,0)", "Decimal(5, 0)"),
        ("numeric", "String"),
        ("numeric(77,0)", "String"),
        ("numeric(3,-2)", "String"),
        ("numeric(2,4)", "String"),
        ("date", "Date32"),
        ("timestamp without time zone", "DateTime64(6, 'UTC')"),
        ("timestamp(3) with time zone", "DateTime64(6, 'UTC')"),
        ("time without time zone", "String"),
        ("interval", "String"),
        ("uuid", "UUID"),
        ("bytea", "String"),
        ("text", "String"),
        ("character varying(20)", "String"),
        ("character(3)", "String"),
        ("jsonb", "String"),
        ("inet", "String"),
        ("int4range", "String"),
        ("integer[]", "Array(Nullable(Int32))"),
        ("numeric(10,2)[]", "Array(Nullable(Decimal(10, 2)))"),
        (
            "timestamp with time zone[]",
            "Array(Nullable(DateTime64(6, 'UTC')))",
        ),
        ("box[]", "String"),
        ("public.geometry(Point,4326)[]", "String"),
        ("\"shop\".\"unknown\"", "String"),
    ] {
        assert_eq!(of(postgres, vec![]), clickhouse, "{postgres}");
    }
}

#[test]
fn enums_and_domains_are_what_they_are_made_of() {
    let mood = || UserType::Enum {
        name: TableName::new("shop", "mood"),
        labels: vec!["sad".to_owned()],
    };
    let money = || UserType::Domain {
        name: TableName::new("shop", "money"),
        base: "numeric(12,2)".to_owned(),
        not_null: false,
        checks: vec![],
    };
    let place = || UserType::Domain {
        name: TableName::new("shop", "place"),
        base: "box".to_owned(),
        not_null: false,
        checks: vec![],
    };
    let odd = || UserType::Enum {
        name: TableName::new("shop", "Odd Name"),
        labels: vec![],
    };
    let over = || UserType::Domain {
        name: TableName::new("Shop", "over"),
        base: "shop.\"Odd Name\"".to_owned(),
        not_null: false,
        checks: vec![],
    };
    let types = || vec![mood(), money(), place(), odd(), over()];
    for (postgres, clickhouse) in [
        ("\"shop\".\"mood\"", "LowCardinality(String)"),
        ("shop.mood", "LowCardinality(String)"),
        ("\"shop\".\"money\"", "Decimal(12, 2)"),
        (
            "\"shop\".\"mood\"[]",
            "Array(LowCardinality(Nullable(String)))",
        ),
        ("shop.place[]", "String"),
        ("shop.\"Odd Name\"", "LowCardinality(String)"),
        ("\"Shop\".over", "LowCardinality(String)"),
        ("\"Shop\".over[]", "Array(LowCardinality(Nullable(String)))"),
    ] {
        assert_eq!(of(postgres, types()), clickhouse, "{postgres}");
    }
}

#[test]
fn what_may_be_null_on_the_leader_may_be_null_here_but_for_arrays_and_the_key() {
    for (postgres, clickhouse) in [
        ("integer", "Nullable(Int32)"),
        ("text[]", "Array(Nullable(String))"),
    ] {
        let mut schema = schema(postgres, false, vec![]);
        assert_eq!(mapped(&schema, &schema.columns[0]).to_string(), clickhouse);
        schema.key = vec![0];
        assert!(!mapped(&schema, &schema.columns[0]).nullable);
    }
    let mood = UserType::Enum {
        name: TableName::new("public", "mood"),
        labels: vec![],
    };
    let schema = schema("public.mood", false, vec![mood]);
    let text = mapped(&schema, &schema.columns[0]).to_string();
    assert_eq!(text, "LowCardinality(Nullable(String))");
}

#[test]
fn the_settings_choose_what_can_hold_every_value() {
    let choose = |postgres: &str, written: &str| {
        let schema = schema(postgres, true, vec![]);
        chosen(&schema, &schema.columns[0], written).map(|of| of.to_string())
    };
    for (postgres, written, clickhouse) in [
        ("numeric", "Decimal(38,4)", "Decimal(38, 4)"),
        ("date", "String", "String"),
        ("jsonb", "JSON", "JSON"),
        ("text", "LowCardinality(String)", "LowCardinality(String)"),
        ("integer", "Int64", "Int64"),
        (
            "integer[]",
            "Array(Array(Nullable(Int32)))",
            "Array(Array(Nullable(Int32)))",
        ),
        ("integer[]", "String", "String"),
    ] {
        let found = choose(postgres, written);
        assert_eq!(found.as_deref(), Ok(clickhouse), "{postgres} as {written}");
    }
    for (postgres, written, part) in [
        ("text", "JSON", "cannot hold"),
        ("bigint", "Int32", "cannot hold"),
        ("integer", "Array(Int32)", "cannot hold"),
        ("numeric", "Decimal(77, 1)", "none of the types"),
        ("text", "FixedString(3)", "none of the types"),
        ("text", "Nullable(", "none of the types"),
    ] {
        let why = choose(postgres, written).expect_err(written);
        assert!(why.contains(part), "{postgres} as {written}: {why}");
    }
}

#[test]
fn a_type_is_read_as_it_is_printed() {
    for text in [
        "Bool",
        "Decimal(10, 2)",
        "DateTime64(6, 'UTC')",
        "LowCardinality(String)",
        "Array(Nullable(Int32))",
        "Array(Array(Nullable(String)))",
        "Array(LowCardinality(Nullable(String)))",
    ] {
        let kind = parse(text).expect(text);
        assert_eq!(kind.to_string(), text);
    }
}
