use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// As Kafka sees it: names that differ only in `.` and `_` collide (`Topic.unifyCollisionChars`).
fn unified(name: &str) -> String {
    name.replace('.', "_")
}

fn names(table: &TableName) -> [String; 2] {
    let topics = Topics::new("p_1");
    [topics.table(table), topics.copy(table)]
}

#[test]
fn plain_names_stay_as_they_are() {
    let topics = Topics::new("shop");
    assert_eq!(
        topics.table(&TableName::new("public", "order_items")),
        "shop.public.order_items"
    );
    assert_eq!(
        topics.copy(&TableName::new("public", "T1")),
        "shop.copy.public.T1"
    );
    assert_eq!(
        topics.table(&TableName::new("my_app", "a b-c.d")),
        "shop.my--app.a-20b-2dc-2ed"
    );
    assert_eq!(topics.table(&TableName::new("copy", "t")), "shop.-63opy.t");
    assert_eq!(
        [topics.commits(), topics.schemas(), topics.progress()],
        ["shop.commits", "shop.schemas", "shop.progress"]
    );
}

#[test]
fn the_longest_names_fit_and_differ() {
    let long = |last: &str| TableName::new("😀".repeat(15), format!("{}{last}", "é".repeat(31)));
    let topics = Topics::new("p".repeat(40));
    let (one, other) = (topics.copy(&long("a")), topics.copy(&long("b")));
    assert!(one.len() <= 249, "{} bytes", one.len());
    assert_ne!(one, other);
    let plain = TableName::new("s".repeat(63), "_".repeat(63));
    assert!(topics.copy(&plain).ends_with(&"_".repeat(63)), "not cut");
}

#[test]
fn names_that_look_alike_do_not_collide() {
    let pieces = [
        "a", "b", "a_b", "a.b", "a-b", "a--b", "_", ".", "-", "--", "-5f", "5f", "copy", "Copy",
        "copy_a", "copy.a", "a_", "_a", "commits", "A", "\u{e9}", "-63opy",
    ];
    let mut seen = BTreeMap::new();
    let topics = Topics::new("p_1");
    for single in [topics.commits(), topics.schemas(), topics.progress()] {
        seen.insert(unified(&single), None);
    }
    for schema in pieces {
        for name in pieces {
            let table = TableName::new(schema, name);
            for name in names(&table) {
                let before = seen.insert(unified(&name), Some(table.clone()));
                assert_eq!(before, None, "{name} is also the topic of {table}");
            }
        }
    }
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a_.z2-]{1,4}",
        "(copy|Copy|COPY)[_.-]?[a]{0,1}",
        "[éa😀_-]{1,15}",
        "[ -~]{1,63}",
        "[\u{1}-\u{10FFFF}]{1,15}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn different_tables_have_different_topics_that_kafka_takes(
        one in (any_name(), any_name()),
        other in (any_name(), any_name()),
    ) {
        let one = TableName::new(one.0, one.1);
        let other = TableName::new(other.0, other.1);
        for name in names(&one) {
            prop_assert!(name.len() <= 249);
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{}", name);
            for second in names(&other) {
                prop_assert!(one == other || unified(&name) != unified(&second), "{}", name);
            }
        }
    }
}
