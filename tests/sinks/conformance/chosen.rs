//! Types that somebody has chosen for columns.

use super::world::World;
use crate::store::Store;

const COLUMNS: &str = r#"
[columns]
"public.chosen.a" = "JSON"
"public.chosen.b" = "JSON"
"public.chosen.word" = "LowCardinality(String)"
"public.chosen.n" = "Decimal(20, 4)"
"public.chosen.whole" = "Int64"
"public.chosen.words" = "Array(LowCardinality(Nullable(String)))"
"#;

const TYPES: &str = "SELECT toInt64(countIf((name, type) IN (('a', 'JSON'), ('b', 'Nullable(JSON)'),
        ('word', 'LowCardinality(Nullable(String))'), ('n', 'Nullable(Decimal(20, 4))'), ('whole', 'Nullable(Int64)'),
        ('words', 'Array(LowCardinality(Nullable(String)))'))))
    FROM system.columns WHERE database = 'follower' AND table = 'chosen'";

const FOUND: &str = "SELECT toInt64(count()), toInt64(countIf(a.id::Int64 = id)), toInt64(sum(length(a.text::String))),
        toInt64(countIf(b IS NULL)), toInt64(sum(b.deep.n::Nullable(Int64))), toInt64(countIf(word = 'w1')),
        toInt64(countIf(word IS NULL)), toInt64(sum(n) * 10000), toInt64(sum(whole)), toInt64(countIf(words = ['a', NULL]))
    FROM follower.chosen FINAL";

const WANTED: &str = "SELECT ARRAY[count(*), count(*) FILTER (WHERE (a->>'id')::int = id), sum(length(a->>'text')),
        count(*) FILTER (WHERE b IS NULL), sum((b->'deep'->>'n')::int), count(*) FILTER (WHERE word = 'w1'),
        count(*) FILTER (WHERE word IS NULL), (sum(n) * 10000)::bigint, sum(whole),
        count(*) FILTER (WHERE words = '{a,NULL}')]::bigint[]
    FROM chosen";

/// The large text is not in the stream when another column of its row changes.
const STEPS: &[&str] = &[
    "UPDATE chosen SET whole = whole + 1 WHERE id % 2 = 0",
    "UPDATE chosen SET b = NULL, word = NULL, n = -0.5 WHERE id % 5 = 0; DELETE FROM chosen WHERE id % 7 = 0",
    "UPDATE chosen SET id = -id, a = jsonb_set(a, '{id}', to_jsonb(-id)) WHERE id % 11 = 0",
    "INSERT INTO chosen VALUES (0, '{\"id\": 0}', '{\"deep\": {\"n\": 7}}', '', 0, 0, '{}')",
];

pub async fn types_that_somebody_chose_hold_their_values<S: Store>() {
    let mut world = World::<S>::with(
        "CREATE TABLE chosen (id int PRIMARY KEY, a jsonb NOT NULL, b jsonb, word text, n numeric, whole smallint, words text[]);
         ALTER TABLE chosen ALTER COLUMN a SET STORAGE EXTERNAL;
         INSERT INTO chosen SELECT i, jsonb_build_object('id', i, 'text', repeat('t', i * 20)),
             CASE WHEN i % 3 > 0 THEN jsonb_build_object('deep', jsonb_build_object('n', i)) END,
             'w' || i % 4, i / 4.0, i, CASE WHEN i % 2 = 0 THEN '{a,NULL}'::text[] END
         FROM generate_series(1, 300) i",
        COLUMNS,
    )
    .await;
    world.run();
    world.caught_up().await;
    assert_eq!(world.store.numbers(TYPES).await, Ok(vec![6]));
    for step in [""].iter().chain(STEPS) {
        world.transaction(step).await;
        world.caught_up().await;
        let wanted = world.from.query_one(WANTED, &[]).await;
        let wanted: Vec<i64> = wanted.expect("a row").get(0);
        assert_eq!(world.store.numbers(FOUND).await, Ok(wanted), "{step}");
    }
    world.stop();
}

/// Type of the column, and how many of its rows have each label.
const FELT: &str = "SELECT toInt64(any(toTypeName(mood)) = 'LowCardinality(Nullable(String))'),
        toInt64(countIf(mood = 'Sad')), toInt64(countIf(mood = 'sad'))
    FROM follower.felt FINAL";

pub async fn a_column_that_is_no_longer_chosen_comes_to_what_the_mapping_says<S: Store>() {
    let mut world = World::<S>::with(
        "CREATE TYPE \"Odd mood\" AS ENUM ('Sad', 'sad');
         CREATE TABLE felt (id int PRIMARY KEY, mood \"Odd mood\");
         INSERT INTO felt VALUES (1, 'Sad'), (2, 'sad'), (3, 'sad'), (4, NULL)",
        "\n[columns]\n\"public.felt.mood\" = \"String\"\n",
    )
    .await;
    world.run();
    world.caught_up().await;
    assert_eq!(world.store.numbers(FELT).await, Ok(vec![0, 1, 2]));
    world.stop();
    world.configure("");
    world.run();
    world
        .sql("INSERT INTO felt VALUES (5, 'Sad'); UPDATE felt SET mood = 'Sad' WHERE id = 4")
        .await;
    world.caught_up().await;
    assert_eq!(world.store.numbers(FELT).await, Ok(vec![1, 3, 2]));
    assert!(!world.walferry().output().contains("copied anew"));
    world.stop();
}
