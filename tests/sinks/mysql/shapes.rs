//! Tables: how they are made, what of the follower's own is taken and what is refused, and what becomes of them
//! when the leader alters its own.

use std::sync::Arc;

use walferry::config::SchemaChanges;
use walferry::error::Class;
use walferry::model::{Fill, TableName, TableSchema};
use walferry::sink::{Sink, Work};

use super::harness::{A, Follower, N, Plan, V, VERSIONS, assert_halt, column, schema};

fn people() -> TableSchema {
    schema(
        "people",
        &[("id", "bigint"), ("name", "text"), ("age", "integer")],
        &[0],
    )
}

async fn columns(f: &mut Follower, table: &str) -> Vec<String> {
    f.rows(&format!(
        "SELECT COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE FROM information_schema.COLUMNS \
         WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '{table}' ORDER BY ORDINAL_POSITION"
    ))
    .await
}

#[tokio::test]
async fn names_are_taken_as_they_are() {
    for version in VERSIONS {
        let mut f = Follower::with(version, "shapes_names", |settings| {
            settings
                .databases
                .insert("audit \"x\"".to_owned(), "shapes.names`2".to_owned());
        })
        .await;
        f.sql("DROP DATABASE IF EXISTS `shapes.names``2`").await;
        let names = [
            "it's",
            "a\"b",
            "a`b``",
            "a.b",
            "select",
            "Ünïcode ☃",
            "@x;--",
            "a\\b",
            "tab\tinside",
            "%s",
        ];
        for (n, name) in names.iter().enumerate() {
            let other = names[(n + 1) % names.len()];
            let mut t = schema(name, &[(name, "text"), (other, "text")], &[0]);
            if n % 2 == 1 {
                t.table.schema = "audit \"x\"".to_owned();
            }
            let t = Arc::new(t);
            f.prepare(&t).await;
            f.load(&t, &[&[V(name), V(other)], &[V("1"), N], &[V("2"), N]])
                .await
                .unwrap();
            let mut plan = Plan::new(&t)
                .update(&[V(name), V("x")])
                .shift(&[V("1"), A], &[V("2"), A])
                .shift(&[V("2"), A], &[V("1"), V("y")]);
            for key in 10..30 {
                plan = plan.insert(&[V(&key.to_string()), N]);
            }
            f.apply(vec![plan.done()]).await.unwrap();
            let plan = (10..30).fold(Plan::new(&t), |plan, key| {
                plan.update(&[V(&key.to_string()), V("z")])
            });
            f.apply(vec![plan.done()]).await.unwrap();
        }
        let there = "SELECT TABLE_SCHEMA, COUNT(*) FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA LIKE 'shapes_names%' AND TABLE_NAME NOT LIKE 'walferry%' GROUP BY 1 ORDER BY 1";
        assert_eq!(f.rows(there).await, ["shapes.names`2|5", "shapes_names|5"]);
    }
}

#[tokio::test]
async fn what_no_table_can_be_is_refused_with_the_remedy() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "shapes_refused").await;
        let id = ("id", "bigint");
        let many: Vec<(String, &str)> = (0..1018).map(|n| (format!("c{n}"), "integer")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, of)| (name.as_str(), *of)).collect();
        for (t, parts) in [
            (
                schema("emoji 🦀", &[id], &[0]),
                ["U+FFFF", "exclude the table"],
            ),
            (
                schema("t", &[id, ("🦀", "text")], &[0]),
                ["of a column", "U+FFFF"],
            ),
            (
                schema("blank ", &[id], &[0]),
                ["ends in a blank", "exclude"],
            ),
            (
                schema("t", &[("a", "text"), ("A", "text")], &[]),
                ["but for its case", "another name"],
            ),
            (schema("t", &[], &[]), ["no columns", "exclude"]),
            (schema("t", &many, &[0]), ["1018 columns", "1017"]),
            (
                schema("walferry_tables", &[id], &[0]),
                ["walferry's own", "[databases]"],
            ),
        ] {
            let error = f.sink.prepare_table(&t, None).await.unwrap_err();
            assert_halt(&error, &parts);
        }
        // InnoDB has no room for these in a row.
        let wide: Vec<(String, &str)> = (0..500).map(|n| (format!("c{n}"), "uuid")).collect();
        let wide: Vec<(&str, &str)> = wide.iter().map(|(name, of)| (name.as_str(), *of)).collect();
        let error = f
            .sink
            .prepare_table(&schema("wide", &wide, &[]), None)
            .await
            .unwrap_err();
        assert_halt(&error, &["public.wide", "creating", "1118", "exclude"]);
    }
}

#[tokio::test]
async fn a_table_of_the_followers_own_is_taken_if_it_fits() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "shapes_own").await;
        let t = Arc::new(schema(
            "t",
            &[("k", "text"), ("v", "character varying(10)")],
            &[0],
        ));
        let collation = "CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin";
        for (create, parts) in [
            (
                format!("k VARCHAR(100) {collation} PRIMARY KEY, v VARCHAR(10) {collation}"),
                [
                    "column k is of type varchar(100)",
                    "MODIFY COLUMN `k` VARCHAR(768)",
                ],
            ),
            (
                format!("k VARCHAR(768) {collation} PRIMARY KEY, v VARCHAR(9) {collation}"),
                ["column v is of type varchar(9)", "VARCHAR(10)"],
            ),
            (
                format!(
                    "k VARCHAR(768) CHARACTER SET utf8mb4 PRIMARY KEY, v VARCHAR(10) {collation}"
                ),
                [
                    "texts are equal that are not",
                    "COLLATE utf8mb4_nopad_bin NOT NULL",
                ],
            ),
            (
                format!(
                    "k VARCHAR(768) {collation} PRIMARY KEY, v VARCHAR(10) CHARACTER SET latin1"
                ),
                ["column v", "does not hold every text"],
            ),
            (
                format!("k VARCHAR(768) {collation}, v VARCHAR(10) {collation}, INDEX (k)"),
                ["no unique index on its key (k)", "ADD UNIQUE INDEX (`k`)"],
            ),
            (
                format!("k VARCHAR(768) {collation} PRIMARY KEY"),
                ["column v is missing", "ADD COLUMN `v` VARCHAR(10)"],
            ),
            (
                format!(
                    "k VARCHAR(768) {collation} PRIMARY KEY, v VARCHAR(10) {collation}, w INT NOT NULL"
                ),
                [
                    "column w exists only on the follower",
                    "MODIFY COLUMN `w` int(11) NULL",
                ],
            ),
        ] {
            f.sql(&format!("CREATE TABLE t ({create}) ENGINE=InnoDB"))
                .await;
            let error = f.sink.prepare_table(&t, None).await.unwrap_err();
            assert_halt(&error, &parts);
            f.sql("DROP TABLE t").await;
        }
        f.sql(&format!(
            "CREATE TABLE t (k VARCHAR(100) {collation} PRIMARY KEY, v VARCHAR(10)) ENGINE=MyISAM"
        ))
        .await;
        assert_halt(
            &f.sink.prepare_table(&t, None).await.unwrap_err(),
            &["MyISAM", "ENGINE = InnoDB"],
        );
        f.sql("DROP TABLE t").await;
        f.sql("CREATE VIEW t AS SELECT 1 AS k").await;
        assert_halt(
            &f.sink.prepare_table(&t, None).await.unwrap_err(),
            &["is no table"],
        );
        f.sql("DROP VIEW t").await;
        // Wider columns, others of its own, one that is computed, names in another case.
        f.sql(&format!(
            "CREATE TABLE t (n BIGINT AUTO_INCREMENT UNIQUE, K VARCHAR(768) {collation} PRIMARY KEY, \
             V LONGTEXT CHARACTER SET utf8mb4, own INT DEFAULT 7, big VARCHAR(20) AS (UPPER(V)) VIRTUAL) ENGINE=InnoDB"
        ))
        .await;
        f.prepare(&t).await;
        f.load(&t, &[&[V("a"), V("x")], &[V("b"), N]])
            .await
            .unwrap();
        f.apply(vec![Plan::new(&t).update(&[V("b"), V("y")]).done()])
            .await
            .unwrap();
        assert_eq!(
            f.rows("SELECT n, k, v, own, big FROM t ORDER BY k").await,
            ["1|a|x|7|X", "2|b|y|7|Y"]
        );
    }
}

#[tokio::test]
async fn columns_follow_the_leaders_with_their_rows() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "shapes_follow").await;
        let v1 = Arc::new(people());
        f.prepare(&v1).await;
        f.load(
            &v1,
            &[&[V("1"), V("ann"), V("30")], &[V("2"), V("bob"), V("40")]],
        )
        .await
        .unwrap();
        // name becomes label, age is dropped and becomes wider before, vip is added with a value for old rows.
        let mut v2 = people();
        v2.columns[1].name = "label".to_owned();
        v2.columns[2] = column(4, "vip", "boolean");
        v2.columns[2].fill = Some(Fill::Value("f".to_owned()));
        v2.columns[2].not_null = true;
        v2.columns.push(column(5, "note", "text"));
        v2.dropped = vec![3];
        let v2 = Arc::new(v2);
        // Rows of both versions in one batch: the older ones come first.
        f.sink.open().await.unwrap();
        f.prepare(&v1).await;
        f.prepare(&v2).await;
        let old = Plan::new(&v1)
            .insert(&[V("3"), V("cyd"), V("50")])
            .update(&[V("1"), A, V("31")])
            .done();
        let new = Plan::new(&v2)
            .update(&[V("3"), V("CYD"), V("t"), V("new")])
            .insert(&[V("4"), V("dan"), V("t"), N])
            .done();
        f.apply(vec![old, new]).await.unwrap();
        assert_eq!(
            columns(&mut f, "people").await,
            [
                "id|bigint(20)|NO",
                "label|longtext|YES",
                "vip|tinyint(1)|NO",
                "note|longtext|YES"
            ],
            "what was dropped is gone once the batch is committed"
        );
        let rows = f.rows("SELECT * FROM people ORDER BY id").await;
        assert_eq!(
            rows,
            [
                "1|ann|0|NULL",
                "2|bob|0|NULL",
                "3|CYD|1|new",
                "4|dan|1|NULL"
            ]
        );
        // All of it again, as after a kill before the commit: the older version's rows have their places.
        f.sink.open().await.unwrap();
        f.prepare(&v1).await;
        f.prepare(&v2).await;
        let old = Plan::new(&v1).insert(&[V("5"), V("eve"), V("60")]).done();
        f.apply(vec![old]).await.unwrap();
        assert_eq!(
            f.rows("SELECT * FROM people WHERE id = 5").await,
            ["5|eve|0|NULL"]
        );
        // Two names change places, and a type becomes wider.
        let mut v3 = TableSchema::clone(&v2);
        v3.columns[1].name = "note".to_owned();
        v3.columns[3].name = "label".to_owned();
        v3.columns[2] = column(6, "n", "integer");
        let v3 = Arc::new(v3);
        f.prepare(&v3).await;
        let mut v4 = TableSchema::clone(&v3);
        v4.columns[2] = column(6, "n", "bigint");
        v4.columns[1].not_null = false;
        let v4 = Arc::new(v4);
        f.prepare(&v4).await;
        let plan = Plan::new(&v4)
            .update(&[V("3"), A, V("9223372036854775807"), V("L")])
            .done();
        f.apply(vec![plan]).await.unwrap();
        let rows = f
            .rows("SELECT id, note, label, n FROM people WHERE id = 3")
            .await;
        assert_eq!(rows, ["3|CYD|L|9223372036854775807"]);
    }
}

#[tokio::test]
async fn rows_that_cannot_follow_need_a_copy_and_get_the_new_shape_with_it() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "shapes_copy").await;
        let v1 = Arc::new(people());
        f.prepare(&v1).await;
        f.load(&v1, &[&[V("1"), V("ann"), V("30")]]).await.unwrap();
        let mut v2 = people();
        v2.columns[2] = column(3, "age", "character varying(3)");
        let v2 = Arc::new(v2);
        f.prepare(&v2).await;
        let plan = Plan::new(&v2).insert(&[V("2"), N, V("old")]).done();
        let error = f.apply(vec![plan]).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{error}");
        let (table, why) = f.sink.needs_copy().expect("a table needs a copy");
        assert_eq!(table, TableName::new("public", "people"));
        assert!(why.contains("age is of type character varying(3)"), "{why}");
        assert_eq!(
            f.rows("SELECT * FROM people").await,
            ["1|ann|30"],
            "nothing was done"
        );
        // As the worker does then.
        f.sink.open().await.unwrap();
        f.prepare(&v2).await;
        f.load(&v2, &[&[V("1"), V("ann"), V("30+")]]).await.unwrap();
        assert_eq!(f.rows("SELECT * FROM people").await, ["1|ann|30+"]);
        assert_eq!(columns(&mut f, "people").await[2], "age|varchar(3)|YES");
        let plan = Plan::new(&v2).update(&[V("1"), A, V("40")]).done();
        f.apply(vec![plan]).await.unwrap();
        assert_eq!(f.rows("SELECT * FROM people").await, ["1|ann|40"]);
    }
}

#[tokio::test]
async fn a_table_that_the_leader_made_anew_takes_its_shape_with_the_copy() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "shapes_anew").await;
        let v1 = Arc::new(people());
        f.prepare(&v1).await;
        f.load(&v1, &[&[V("1"), V("ann"), V("30")]]).await.unwrap();
        let mut v2 = schema("people", &[("id", "uuid"), ("age", "text")], &[0]);
        v2.relation.0 = 78;
        let v2 = Arc::new(v2);
        f.prepare(&v2).await;
        let id = "5b0a9c8e-0000-4000-8000-00000000000a";
        f.load(&v2, &[&[V(id), V("old")]]).await.unwrap();
        assert_eq!(
            columns(&mut f, "people").await,
            ["id|char(36)|NO", "age|longtext|YES"]
        );
        f.apply(vec![Plan::new(&v2).update(&[V(id), V("x")]).done()])
            .await
            .unwrap();
        assert_eq!(f.rows("SELECT age FROM people").await, ["x"]);
    }
}

#[tokio::test]
async fn another_primary_key_is_followed() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "shapes_key").await;
        let v1 = Arc::new(people());
        f.prepare(&v1).await;
        f.load(
            &v1,
            &[&[V("1"), V("ann"), V("30")], &[V("2"), V("bob"), V("30")]],
        )
        .await
        .unwrap();
        let mut v2 = people();
        v2.columns[1].not_null = true;
        v2.columns[0].not_null = true;
        v2.key = vec![1];
        v2.primary_key = vec![1];
        let v2 = Arc::new(v2);
        f.prepare(&v2).await;
        f.apply(vec![Plan::new(&v2).update(&[V("5"), V("bob"), N]).done()])
            .await
            .unwrap();
        assert_eq!(
            f.rows("SELECT * FROM people ORDER BY name").await,
            ["1|ann|30", "5|bob|NULL"]
        );
        let keys = f.rows("SELECT COLUMN_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'people'").await;
        assert_eq!(keys, ["name"]);
    }
}

#[tokio::test]
async fn under_halt_the_operator_is_asked() {
    for version in VERSIONS {
        let mut f = Follower::with(version, "shapes_halt", |settings| {
            settings.schema_changes = SchemaChanges::Halt;
        })
        .await;
        let v1 = Arc::new(people());
        f.prepare(&v1).await;
        let mut v2 = people();
        v2.columns.push(column(4, "vip", "boolean"));
        let error = f.sink.prepare_table(&v2, None).await.unwrap_err();
        assert_halt(
            &error,
            &["column vip is missing", "ADD COLUMN `vip` TINYINT(1)"],
        );
        f.sql("ALTER TABLE people ADD COLUMN vip TINYINT(1)").await;
        let v2 = Arc::new(v2);
        f.prepare(&v2).await;
        f.apply(vec![Plan::new(&v2).insert(&[V("1"), N, N, V("t")]).done()])
            .await
            .unwrap();
        assert_eq!(f.rows("SELECT * FROM people").await, ["1|NULL|NULL|1"]);
        let f2 = Follower::with(version, "shapes_halt_2", |settings| {
            settings.create_tables = false
        });
        let error = f2.await.sink.prepare_table(&v1, None).await.unwrap_err();
        assert_halt(
            &error,
            &["does not exist", "CREATE TABLE", "create_tables = true"],
        );
    }
}

#[tokio::test]
async fn a_column_may_be_dropped_and_made_again() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "shapes_remade").await;
        let v1 = Arc::new(people());
        f.prepare(&v1).await;
        f.load(&v1, &[&[V("1"), V("ann"), V("30")]]).await.unwrap();
        let mut v2 = people();
        v2.columns.pop();
        v2.dropped = vec![3];
        let v2 = Arc::new(v2);
        f.prepare(&v2).await;
        // The column stays while older rows may come.
        assert_eq!(columns(&mut f, "people").await.len(), 3);
        f.sink.begin(f.at.as_ref()).await.unwrap();
        f.sink
            .apply(
                Work::Net(vec![Plan::new(&v2).insert(&[V("2"), N]).done()]),
                false,
            )
            .await
            .unwrap();
        f.commit().await.unwrap();
        assert_eq!(columns(&mut f, "people").await.len(), 2);
        let mut v3 = people();
        v3.columns[2] = column(4, "age", "text");
        v3.dropped = vec![3];
        let v3 = Arc::new(v3);
        f.prepare(&v3).await;
        f.apply(vec![Plan::new(&v3).insert(&[V("3"), N, V("x")]).done()])
            .await
            .unwrap();
        let rows = f.rows("SELECT id, age FROM people ORDER BY id").await;
        assert_eq!(rows, ["1|NULL", "2|NULL", "3|x"]);
    }
}
