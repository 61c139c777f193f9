//! Workers that take over from one another, commits of unknown outcome, orders, and servers that die.

use std::sync::Arc;

use walferry::error::Class;
use walferry::model::{Selection, Skipped, TableName};
use walferry::sink::mysql::{MySqlCheckpoint, MySqlSink, order};
use walferry::sink::{Sink, SkipOrder, StoredCheckpoint, Work};

use super::harness::{
    A, Follower, N, Plan, V, VERSIONS, assert_halt, checkpoint, connect, position, schema, settings,
};
use crate::support::MariaDb;

fn table() -> Arc<walferry::model::TableSchema> {
    Arc::new(schema("t", &[("id", "bigint"), ("v", "text")], &[0]))
}

#[tokio::test]
async fn a_worker_that_was_replaced_changes_nothing_any_more() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "fencing_second").await;
        let t = table();
        f.prepare(&t).await;
        f.load(&t, &[&[V("1"), N]]).await.unwrap();
        let mut second = f.another("second");
        assert_eq!(second.open().await.unwrap(), f.at);
        let plan = Plan::new(&t).delete(&[V("1"), A]);
        let error = f.apply(vec![plan.done()]).await.unwrap_err();
        assert_eq!(error.class(), Class::Fenced, "{error}");
        assert!(error.what().contains("second"), "{error}");
        f.sink.begin(f.at.as_ref()).await.unwrap();
        assert_eq!(f.commit().await.unwrap_err().class(), Class::Fenced);
        f.sink.begin(f.at.as_ref()).await.unwrap();
        let error = f.sink.empty(&t.table).await.unwrap_err();
        assert_eq!(error.class(), Class::Fenced, "{error}");
        assert_eq!(f.rows("SELECT id FROM t").await, ["1"]);
        // The second one goes on.
        second.prepare_table(&t, None).await.unwrap();
        second.begin(f.at.as_ref()).await.unwrap();
        second.commit(&checkpoint(2)).await.unwrap();
        assert_eq!(
            f.rows("SELECT version, owner FROM walferry_checkpoint")
                .await,
            ["2|second"]
        );
    }
}

#[tokio::test]
async fn the_very_first_checkpoint_needs_no_rows() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "fencing_first").await;
        f.sink.begin(None).await.unwrap();
        f.commit().await.unwrap();
        assert_eq!(f.sink.open().await.unwrap(), f.at);
        f.sink.begin(f.at.as_ref()).await.unwrap();
        f.commit().await.unwrap();
        assert_eq!(f.sink.open().await.unwrap(), f.at);
    }
}

#[tokio::test]
async fn a_table_with_many_rows_is_emptied_for_good_unless_another_worker_owns_it() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "fencing_many").await;
        let t = table();
        f.prepare(&t).await;
        f.load(&t, &[&[V("1"), N]]).await.unwrap();
        f.sql("INSERT INTO t (id) SELECT seq + 1 FROM seq_1_to_200000")
            .await;
        f.sql("ANALYZE TABLE t").await;
        let mut second = f.another("second");
        assert_eq!(second.open().await.unwrap(), f.at);
        f.sink.begin(f.at.as_ref()).await.unwrap();
        let error = f.sink.empty(&t.table).await.unwrap_err();
        assert_eq!(error.class(), Class::Fenced, "{error}");
        assert_eq!(f.rows("SELECT COUNT(*) FROM t").await, ["200001"]);
        assert_eq!(f.sink.open().await.unwrap(), f.at);
        f.prepare(&t).await;
        f.load(&t, &[&[V("5"), N]]).await.unwrap();
        assert_eq!(f.rows("SELECT id FROM t").await, ["5"]);
    }
}

#[tokio::test]
async fn an_own_commit_of_unknown_outcome_is_found_out() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "fencing_unknown").await;
        let t = table();
        f.prepare(&t).await;
        f.load(&t, &[&[V("1"), N]]).await.unwrap();
        // It was committed, and the worker does not know.
        let before = f.at.clone();
        f.apply(vec![Plan::new(&t).insert(&[V("2"), N]).done()])
            .await
            .unwrap();
        f.sink.begin(before.as_ref()).await.unwrap();
        let plan = Plan::new(&t).insert(&[V("2"), N]).done();
        let error = f
            .sink
            .apply(Work::Net(vec![plan]), false)
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{error}");
        assert!(f.sink.again_at_once().is_some());
        assert_eq!(f.sink.open().await.unwrap(), f.at);
        // The very first checkpoint of two workers.
        f.sink.begin(None).await.unwrap();
        let error = f.sink.commit(&checkpoint(1)).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{error}");
        assert_eq!(f.rows("SELECT id FROM t ORDER BY id").await, ["1", "2"]);
    }
}

#[tokio::test]
async fn a_session_that_the_server_ends_leaves_nothing_of_its_transaction() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "fencing_killed").await;
        let t = table();
        f.prepare(&t).await;
        f.load(&t, &[&[V("1"), N]]).await.unwrap();
        f.sink.begin(f.at.as_ref()).await.unwrap();
        let plan = Plan::new(&t).insert(&[V("2"), N]).done();
        f.sink.apply(Work::Net(vec![plan]), true).await.unwrap();
        let ids = f
            .rows("SELECT ID FROM information_schema.PROCESSLIST WHERE DB = 'fencing_killed' AND ID <> CONNECTION_ID()")
            .await;
        for id in ids {
            f.sql(&format!("KILL {id}")).await;
        }
        let next = f.next();
        let error = f.sink.commit(&next).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{error}");
        assert_eq!(f.sink.open().await.unwrap(), f.at);
        assert_eq!(f.rows("SELECT id FROM t").await, ["1"]);
        f.prepare(&t).await;
        f.apply(vec![Plan::new(&t).insert(&[V("2"), N]).done()])
            .await
            .unwrap();
        assert_eq!(f.rows("SELECT id FROM t ORDER BY id").await, ["1", "2"]);
    }
}

#[tokio::test]
async fn a_server_killed_in_a_transaction_shows_the_boundary_before() {
    for version in VERSIONS {
        let name = format!("sink-mysql-kill-{version}");
        let mut server = MariaDb::start_version(&name, version, &[]);
        server.sql("CREATE DATABASE shop");
        let mut sink = MySqlSink::new("shop", "copy", "me", settings(server.port(), "shop"));
        let t = table();
        sink.open().await.unwrap();
        sink.prepare_table(&t, None).await.unwrap();
        sink.begin(None).await.unwrap();
        let plan = Plan::new(&t).insert(&[V("1"), N]).done();
        sink.apply(Work::Net(vec![plan]), false).await.unwrap();
        sink.commit(&checkpoint(1)).await.unwrap();
        sink.begin(Some(&checkpoint(1))).await.unwrap();
        let plan = Plan::new(&t).truncate().insert(&[V("2"), N]).done();
        sink.apply(Work::Net(vec![plan]), true).await.unwrap();
        server.crash_and_restart();
        let error = sink.commit(&checkpoint(2)).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{error}");
        assert_eq!(sink.open().await.unwrap(), Some(checkpoint(1)));
        assert_eq!(server.query("SELECT id FROM shop.t"), "1\n");
    }
}

#[tokio::test]
async fn rows_that_walferry_has_not_put_there_are_not_removed() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "fencing_rows").await;
        let t = table();
        f.prepare(&t).await;
        f.sql("INSERT INTO t VALUES (1, 'mine')").await;
        let error = f.load(&t, &[]).await.unwrap_err();
        assert_halt(
            &error,
            &[
                "holds rows that walferry has not put there",
                "TRUNCATE TABLE `fencing_rows`.`t`",
            ],
        );
        f.sql("TRUNCATE TABLE t").await;
        f.load(&t, &[&[V("1"), N]]).await.unwrap();
        f.load(&t, &[&[V("2"), N]]).await.unwrap();
        let mut other = MySqlSink::new("shop", "other", "me", f.settings.clone());
        other.open().await.unwrap();
        other.begin(None).await.unwrap();
        let error = other.empty(&t.table).await.unwrap_err();
        assert_halt(&error, &["holds rows of sink copy of pipeline shop"]);
        f.sql("DELETE FROM walferry_checkpoint").await;
        other.begin(None).await.unwrap();
        other.empty(&t.table).await.unwrap();
        other.commit(&checkpoint(1)).await.unwrap();
        let rows = f.rows("SELECT sink, table_name FROM walferry_tables").await;
        assert_eq!(rows, ["other|t"]);
    }
}

#[tokio::test]
async fn a_checkpoint_is_looked_at_and_revised_from_outside() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "fencing_orders").await;
        let all = Selection::new(&["*.*".to_owned()], &[]);
        let open = MySqlCheckpoint::open("shop", "copy", &f.settings, all.clone());
        let mut stored = open.await.unwrap();
        assert_eq!(stored.look().await.unwrap(), None);
        f.apply(vec![]).await.unwrap();
        assert_eq!(stored.look().await.unwrap(), f.at);
        let revised = stored
            .revise(Box::new(|now| {
                let mut next = now.cloned().expect("it has run");
                next.version += 1;
                next.target = Some(next.applied);
                Ok(next)
            }))
            .await
            .unwrap();
        assert_eq!(revised.version, 2);
        let error = f.apply(vec![]).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{error}");
        assert_eq!(f.sink.open().await.unwrap(), Some(revised));
        f.sql("UPDATE walferry_checkpoint SET state = 'nothing'")
            .await;
        assert_halt(
            &f.sink.open().await.unwrap_err(),
            &["another form", "rebuild"],
        );
        let made = stored
            .replace(Box::new(|version| checkpoint(version.unwrap() + 1)))
            .await
            .unwrap();
        assert_eq!(f.sink.open().await.unwrap(), Some(made));
        // Of a sink that has not run yet.
        let open = MySqlCheckpoint::open("shop", "new", &f.settings, all);
        let mut fresh = open.await.unwrap();
        let made = fresh.replace(Box::new(|version| checkpoint(version.map_or(1, |_| 9))));
        assert_eq!(made.await.unwrap().version, 1);
    }
}

#[tokio::test]
async fn changes_are_passed_over_as_ordered() {
    for version in VERSIONS {
        let mut f = Follower::new(version, "fencing_skips").await;
        let skip = SkipOrder::Skip {
            reason: "it's broken".to_owned(),
        };
        let at = position(4);
        let mut late = at;
        late.commit.0 += 0x1000_0000;
        let error = order("shop", "copy", &f.settings, late, &skip)
            .await
            .unwrap_err();
        assert_halt(&error, &["no checkpoint"]);
        f.apply(vec![]).await.unwrap();
        let error = order("shop", "copy", &f.settings, at, &skip)
            .await
            .unwrap_err();
        assert_halt(&error, &["beyond"]);
        let said = order("shop", "copy", &f.settings, late, &skip)
            .await
            .unwrap();
        assert!(said.contains("will be passed over"), "{said}");
        assert!(f.sink.skips().await.unwrap().ordered.contains(&late));
        let skipped = [Skipped {
            position: late,
            table: TableName::new("public", "t"),
        }];
        f.sink.begin(f.at.as_ref()).await.unwrap();
        f.sink.skipped(&skipped).await.unwrap();
        f.commit().await.unwrap();
        let orders = f.sink.skips().await.unwrap();
        assert_eq!((orders.ordered.len(), orders.done), (0, 1));
        let said = order("shop", "copy", &f.settings, late, &SkipOrder::Withdraw)
            .await
            .unwrap();
        assert!(said.contains("was not ordered"), "{said}");
        late.ordinal += 1;
        let skipped = [Skipped {
            position: late,
            table: TableName::new("public", "t"),
        }];
        f.sink.begin(f.at.as_ref()).await.unwrap();
        assert_eq!(
            f.sink.skipped(&skipped).await.unwrap_err().class(),
            Class::Transient
        );
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_waited_for_and_what_is_wrong_halts() {
    for version in VERSIONS {
        let f = Follower::new(version, "fencing_open").await;
        let with = |change: &dyn Fn(&mut walferry::config::MySqlSinkSettings)| {
            let mut settings = f.settings.clone();
            change(&mut settings);
            MySqlSink::new("shop", "copy", "me", settings)
        };
        let error = with(&|s| s.server.url.port = 1).open().await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{error}");
        let wrong = |s: &mut walferry::config::MySqlSinkSettings| {
            s.server.url.password = Some(walferry::config::Secret::new("hush"));
        };
        let error = with(&wrong).open().await.unwrap_err();
        assert_halt(&error, &["1045", "password in the sink's url"]);
        assert!(!error.to_string().contains("hush"), "{error}");
        let nowhere = |s: &mut walferry::config::MySqlSinkSettings| {
            s.server.url.database = "no where".to_owned();
            s.create_tables = false;
        };
        let error = with(&nowhere).open().await.unwrap_err();
        assert_halt(&error, &["1049", "create the database"]);
        let tls = |s: &mut walferry::config::MySqlSinkSettings| {
            s.server.tls.mode = walferry::config::TlsMode::Prefer;
        };
        with(&tls).open().await.unwrap();
        let mut conn = connect(f.settings.server.url.port, None).await;
        use mysql_async::prelude::Queryable;
        conn.query_drop("CREATE USER IF NOT EXISTS reader@'%' IDENTIFIED BY 'r'")
            .await
            .unwrap();
        conn.query_drop("GRANT SELECT ON fencing_open.* TO reader@'%'")
            .await
            .unwrap();
        conn.query_drop("DROP TABLE walferry_checkpoint")
            .await
            .unwrap_err();
        conn.query_drop("DROP TABLE fencing_open.walferry_checkpoint")
            .await
            .unwrap();
        let reader = |s: &mut walferry::config::MySqlSinkSettings| {
            s.server.url.user = Some("reader".to_owned());
            s.server.url.password = Some(walferry::config::Secret::new("r"));
        };
        let error = with(&reader).open().await.unwrap_err();
        assert_halt(&error, &["1142", "walferry check"]);
    }
}

#[tokio::test]
async fn tls_is_as_strict_as_its_mode() {
    use walferry::config::TlsMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
    let server = MariaDb::start_version(
        "sink-mysql-tls",
        "11.4",
        &["--tls", "--set", "bind_address=0.0.0.0"],
    );
    server.sql("CREATE DATABASE shop; CREATE USER safe@'%' IDENTIFIED BY 's' REQUIRE SSL; GRANT ALL ON *.* TO safe@'%'");
    let strange = std::path::Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/support/strange-ca.pem"
    ));
    let own = server.authority().to_owned();
    for (mode, root, name, opens) in [
        (Disable, None, "127.0.0.1", false),
        (Prefer, None, "127.0.0.1", true),
        (Require, None, "127.0.0.1", true),
        (Require, Some(own.as_path()), "127.0.0.1", true),
        (Require, Some(strange), "127.0.0.1", false),
        (VerifyCa, Some(own.as_path()), "127.0.0.1", true),
        (VerifyCa, Some(strange), "127.0.0.1", false),
        (VerifyCa, Some(own.as_path()), "127.0.0.2", true),
        (VerifyFull, Some(own.as_path()), "127.0.0.1", true),
        (VerifyFull, Some(own.as_path()), "127.0.0.2", false),
        (VerifyFull, Some(strange), "127.0.0.1", false),
        (VerifyFull, None, "127.0.0.1", false),
    ] {
        let mut settings = settings(server.port(), "shop");
        settings.server.url.user = Some("safe".to_owned());
        settings.server.url.password = Some(walferry::config::Secret::new("s"));
        settings.server.url.host = name.to_owned();
        settings.server.tls.mode = mode;
        settings.server.tls.root_cert = root.map(std::path::Path::to_owned);
        let opened = MySqlSink::new("shop", "copy", "me", settings).open().await;
        let said = format!("{mode:?} {root:?} {name}: {opened:?}");
        assert_eq!(opened.is_ok(), opens, "{said}");
        if let Err(error) = opened {
            assert_eq!(error.class(), Class::Halt, "{said}");
        }
    }
}
