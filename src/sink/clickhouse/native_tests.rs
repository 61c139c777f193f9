use proptest::prelude::*;

use super::super::types::parse;
use super::*;

fn of(kind: &str, nullable: bool) -> Type {
    Type {
        kind: parse(kind).expect("a type"),
        nullable,
    }
}

/// The bytes of a column with these values.
fn bytes(of: &Type, texts: &[Option<&str>]) -> Vec<u8> {
    let mut column = Column::default();
    for text in texts {
        let text = text.map(str::as_bytes);
        column.text(of, text).expect("a value that is held");
    }
    let mut out = Vec::new();
    column.take(&mut out);
    out
}

#[test]
fn nulls_stand_before_values_and_ends_before_elements() {
    assert_eq!(
        bytes(&of("Int16", false), &[Some("1"), Some("-1")]),
        [1, 0, 0xff, 0xff]
    );
    assert_eq!(
        bytes(&of("Int16", true), &[Some("1"), None, Some("2")]),
        [0, 1, 0, 1, 0, 0, 0, 2, 0]
    );
    assert_eq!(
        bytes(&of("String", true), &[Some("ab"), None]),
        [0, 1, 2, b'a', b'b', 0]
    );
    let ends =
        |ends: &[u64]| -> Vec<u8> { ends.iter().flat_map(|end| end.to_le_bytes()).collect() };
    assert_eq!(
        bytes(
            &of("Array(Nullable(Int16))", false),
            &[Some("{7,NULL}"), Some("{}"), None, Some("{9}")]
        ),
        [ends(&[2, 2, 2, 3]), vec![0, 1, 0, 7, 0, 0, 0, 9, 0]].concat()
    );
    assert_eq!(
        bytes(
            &of("Array(Array(Nullable(Int16)))", false),
            &[Some("{{1,2},{3,4}}"), Some("{{5}}")]
        ),
        [
            ends(&[2, 3]),
            ends(&[2, 4, 5]),
            vec![0; 5],
            vec![1, 0, 2, 0, 3, 0, 4, 0, 5, 0]
        ]
        .concat()
    );
}

#[test]
fn what_says_nothing_is_null_or_zero_or_empty() {
    for (kind, nullable, expected) in [
        ("Int32", true, vec![1, 0, 0, 0, 0]),
        ("Int32", false, vec![0; 4]),
        ("JSON", false, vec![2, b'{', b'}']),
        ("Array(Nullable(Int32))", false, vec![0; 8]),
    ] {
        let mut column = Column::default();
        column.nothing(&of(kind, nullable));
        let mut out = Vec::new();
        column.take(&mut out);
        assert_eq!(out, expected, "{kind}");
    }
    let mut column = Column::default();
    let null = column.text(&of("Int32", false), None);
    assert!(null.is_err());
}

#[test]
fn a_column_that_was_taken_begins_anew() {
    let of = of("Array(Nullable(String))", false);
    let mut column = Column::default();
    let mut taken = Vec::new();
    for _ in 0..2 {
        column.text(&of, Some(b"{a,NULL}")).expect("an array");
        let mut out = Vec::new();
        assert_eq!(column.size_bytes(), 8 + 2 + 3);
        column.take(&mut out);
        assert_eq!(column.size_bytes(), 0);
        taken.push(out);
    }
    assert_eq!(taken[0], taken[1]);
}

#[test]
fn a_block_names_columns_with_types_that_are_made_of_their_values() {
    let mut out = Vec::new();
    begin(2, 300, &mut out);
    assert_eq!(out, [2, 0xac, 2]);
    for (of, sent) in [
        ("LowCardinality(String)", "String"),
        ("LowCardinality(Nullable(String))", "Nullable(String)"),
        (
            "Array(LowCardinality(Nullable(String)))",
            "Array(Nullable(String))",
        ),
        ("Nullable(JSON)", "Nullable(String)"),
        ("DateTime64(6, 'UTC')", "DateTime64(6, 'UTC')"),
    ] {
        let head = head("c", of);
        assert_eq!(head[..2], [1, b'c']);
        assert_eq!(head[3..], *sent.as_bytes(), "{of}");
    }
}

proptest! {
    #[test]
    fn values_from_texts_and_from_row_binary_are_the_same(
        numbers in prop::collection::vec(prop::option::of(any::<i16>()), 0..20),
    ) {
        let element = |number: &Option<i16>| number.map_or("NULL".to_owned(), |n| n.to_string());
        let array = format!("{{{}}}", numbers.iter().map(element).collect::<Vec<_>>().join(","));
        let texts = numbers.iter().map(|number| number.map(|n| n.to_string()));
        let of_array = of("Array(Nullable(Int16))", false);
        let values = texts.map(|text| (of("Int16", true), text)).chain([(of_array, Some(array))]);
        for (of, text) in values {
            let text = text.as_deref();
            let mut value = Vec::new();
            row_binary::value(&of, text.map(str::as_bytes), &mut value).expect("it is held");
            let mut column = Column::default();
            column.value(&of, &value);
            let mut out = Vec::new();
            column.take(&mut out);
            prop_assert_eq!(out, bytes(&of, &[text]));
        }
    }
}
