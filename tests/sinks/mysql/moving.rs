//! Tables that the leader renames and drops, and what `walferry check` says of a follower.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use walferry::config::{SinkSettings, StoreSettings};
use walferry::model::{Moves, TableName};
use walferry::sink::{Sink, Verdict};

use super::harness::{Follower, Plan, V, VERSIONS, schema};

#[tokio::test]
async fn tables_are_renamed_and_dropped_as_the_leaders() {
    for version in VERSIONS {
        let mut f = Follower::with(version, "shapes_moves", |settings| {
            settings
                .databases
                .insert("archive".to_owned(), "shapes_moves_2".to_owned());
        })
        .await;
        f.sql("DROP DATABASE IF EXISTS shapes_moves_2").await;
        let table = |name: &str| Arc::new(schema(name, &[("id", "bigint"), ("v", "text")], &[0]));
        for name in ["a", "b", "c", "d", "e"] {
            let t = table(name);
            f.prepare(&t).await;
            f.load(&t, &[&[V("1"), V(name)]]).await.unwrap();
        }
        f.sql("CREATE TABLE taken (id INT)").await;
        let name = |name: &str| TableName::new("public", name);
        let far = TableName::new("archive", "c");
        // Two change places, one goes elsewhere, one takes the name of one that is dropped, one cannot.
        let moves = Moves {
            renamed: vec![
                (name("a"), name("b")),
                (name("b"), name("a")),
                (name("c"), far.clone()),
                (name("e"), name("taken")),
            ],
            dropped: vec![name("d"), name("unknown")],
        };
        f.sink.begin(f.at.as_ref()).await.unwrap();
        let moved = f.sink.move_tables(&moves).await.unwrap();
        assert_eq!(moved, [name("a"), name("b"), far.clone()].into());
        f.sink.rollback().await.unwrap();
        assert_eq!(
            f.rows("SELECT v FROM a").await,
            ["a"],
            "nothing is done before the commit"
        );
        f.sink.begin(f.at.as_ref()).await.unwrap();
        f.sink.move_tables(&moves).await.unwrap();
        f.commit().await.unwrap();
        let there = "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA LIKE 'shapes_moves%' AND TABLE_NAME NOT IN ('walferry_checkpoint', \
             'walferry_tables', 'walferry_columns', 'walferry_skips', 'walferry_moves') ORDER BY 1";
        let all = [
            "shapes_moves.a",
            "shapes_moves.b",
            "shapes_moves.e",
            "shapes_moves.taken",
            "shapes_moves_2.c",
        ];
        assert_eq!(f.rows(there).await, all);
        assert_eq!(
            f.rows("SELECT v FROM a UNION ALL SELECT v FROM b").await,
            ["b", "a"]
        );
        assert_eq!(f.rows("SELECT * FROM walferry_moves").await, [""; 0]);
        // What is noted is done by the next session, once.
        let swap = "INSERT INTO walferry_moves VALUES ('shop', 'copy', 0, 'public', 'a', 'public', 'b'), \
                    ('shop', 'copy', 1, 'public', 'b', 'public', 'a')";
        for _twice in 0..2 {
            f.sql(swap).await;
            f.sink.open().await.unwrap();
        }
        assert_eq!(
            f.rows("SELECT v FROM a UNION ALL SELECT v FROM b").await,
            ["b", "a"]
        );
        let token = Sha256::digest(b"shop\0copy");
        let token: String = token[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let marker = format!("CREATE TABLE walferry_moved_{token} (n INT)");
        f.sql(&marker).await;
        f.sql(swap).await;
        f.sink.open().await.unwrap();
        assert_eq!(
            f.rows("SELECT v FROM a UNION ALL SELECT v FROM b").await,
            ["b", "a"],
            "it was done"
        );
        assert_eq!(f.rows(there).await, all);
        // Left behind by a session that was cut off, it says nothing of the next moves.
        f.sql(&marker).await;
        f.sink.open().await.unwrap();
        f.sql(swap).await;
        f.sink.open().await.unwrap();
        assert_eq!(
            f.rows("SELECT v FROM a UNION ALL SELECT v FROM b").await,
            ["a", "b"]
        );
        f.sql("RENAME TABLE a TO aside, b TO a, aside TO b").await;
        // Rows go on under the new names.
        let mut t = schema("c", &[("id", "bigint"), ("v", "text")], &[0]);
        t.table = far;
        let t = Arc::new(t);
        f.prepare(&t).await;
        f.apply(vec![Plan::new(&t).update(&[V("1"), V("moved")]).done()])
            .await
            .unwrap();
        f.load(&t, &[]).await.unwrap();
        assert_eq!(f.rows("SELECT * FROM shapes_moves_2.c").await, [""; 0]);
    }
}

#[tokio::test]
async fn check_says_what_stands_in_the_way() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "shapes_check").await;
        let before = f.rows("SHOW TABLES").await;
        let settings = SinkSettings {
            name: "copy".to_owned(),
            store: StoreSettings::MySql(f.settings.clone()),
            include: vec!["*.*".to_owned()],
            exclude: vec!["public.left".to_owned()],
            batch_max_bytes: 1,
            fetch_max_bytes: 1,
            batch_max_age: std::time::Duration::ZERO,
        };
        f.sql("CREATE TABLE fits (id BIGINT PRIMARY KEY, seen INT)")
            .await;
        f.sql("CREATE TRIGGER acts BEFORE INSERT ON fits FOR EACH ROW SET NEW.seen = 1")
            .await;
        f.sql("CREATE TABLE wrong (id INT PRIMARY KEY)").await;
        let id = [("id", "bigint")];
        let tables = [
            schema("fits", &id, &[0]),
            schema("wrong", &id, &[0]),
            schema("missing", &[("k", "text")], &[0]),
            schema("left", &[], &[]),
            schema("emoji 🦀", &id, &[0]),
        ];
        let looked = walferry::sink::look(&settings, &tables)
            .await
            .expect("it is looked at");
        let all = format!("{looked:#?}");
        for part in [
            "\"connected\"",
            "-MariaDB",
            "those that are needed",
            "1 fit, 1 will be created",
            "triggers on the follower act",
            "k up to 768",
            "column id is of type int(11)",
            "U+FFFF",
        ] {
            assert!(all.contains(part), "{part} in {all}");
        }
        assert_eq!(
            f.rows("SHOW TABLES").await.len(),
            before.len() + 2,
            "nothing was made"
        );
        f.settings.server.url.port = 1;
        let away = SinkSettings {
            store: StoreSettings::MySql(f.settings.clone()),
            ..settings
        };
        let looked = walferry::sink::look(&away, &tables)
            .await
            .expect("it is looked at");
        let [("connection", Verdict::Failure(_, remedy))] = looked.as_slice() else {
            panic!("{looked:?}")
        };
        assert!(remedy.starts_with("start the server"), "{remedy}");
    }
}
