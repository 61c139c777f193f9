//! `walferry history`: what it calls usable a new follower can be made of, and what has expired it says.

use serde_json::Value;
use walferry::log::held::{End, watermarks_of};
use walferry::log::topics::{TopicAdmin, Topics};
use walferry::model::Lsn;

use crate::support::{Pipeline, Postgres, assert_equal, kafka_settings, wait_caught_up};

const TABLES: &[&str] = &["kept", "spent"];

async fn asked(pipeline: &Pipeline, arguments: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["history"], arguments].concat();
    let mut command = tokio::process::Command::from(pipeline.command(&arguments));
    let output = command.output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (
        output.status.code(),
        text + &String::from_utf8(output.stderr).unwrap(),
    )
}

async fn report(pipeline: &Pipeline, exit: i32) -> Value {
    let (code, text) = asked(pipeline, &["--json"]).await;
    assert_eq!(code, Some(exit), "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Copies of a table.
fn copies<'a>(report: &'a Value, table: &str) -> &'a Vec<Value> {
    let mut tables = report["tables"].as_array().unwrap().iter();
    let of = tables.find(|of| of["table"] == format!("public.{table}"));
    of.expect("the table")["copies"].as_array().unwrap()
}

fn lsn(of: &Value) -> Lsn {
    of["lsn"].as_str().unwrap().parse().unwrap()
}

/// Removes all records of a topic.
async fn spend(topic: &str) {
    let (kafka, name) = (kafka_settings(), topic.split('.').next().unwrap());
    let highs = watermarks_of(&kafka, &Topics::new(name), End::High).await;
    let high = highs.unwrap()[topic][&0];
    let admin = TopicAdmin::open(&kafka).unwrap();
    assert_eq!(admin.trim(topic, 0, high).await.unwrap(), high);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_usable_is_told_from_what_has_expired() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE kept (id int PRIMARY KEY, v text); CREATE TABLE spent (id int PRIMARY KEY, v text);
             INSERT INTO kept SELECT i, 'old' FROM generate_series(1, 70) i;
             INSERT INTO spent SELECT i, 'old' FROM generate_series(1, 30) i;",
        )
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    for _ in 0..3 {
        from.batch_execute("BEGIN; UPDATE kept SET v = v || '+'; UPDATE spent SET v = v || '+' WHERE id < 5; COMMIT")
            .await
            .unwrap();
    }
    wait_caught_up(&from, &to, "a").await;

    let whole = report(&pipeline, 0).await;
    for (table, rows) in [("kept", 70), ("spent", 30)] {
        let [copy] = &copies(&whole, table)[..] else {
            panic!("{whole}")
        };
        assert_eq!(
            (&copy["rows"], &copy["newest_usable"]),
            (&rows.into(), &true.into())
        );
        assert!(copy["point"]["time"].is_string(), "{whole}");
    }
    assert!(lsn(&whole["earliest"]) < lsn(&whole["latest"]), "{whole}");
    assert_eq!(
        (&whole["transactions"], &whole["changes"]),
        (&3.into(), &222.into())
    );
    let (code, text) = asked(&pipeline, &["--tables", "spent"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("usable, the newest") && !text.contains("public.kept"),
        "{text}"
    );
    let (code, text) = asked(&pipeline, &["--tables", "nobody"]).await;
    assert_eq!(code, Some(2), "{text}");

    // Retention takes the changes behind the copy: it is no longer one.
    assert_eq!(walferry.terminate(), 0);
    spend(&format!("{}.public.spent", pipeline.name)).await;
    let less = report(&pipeline, 3).await;
    assert_eq!(
        (&less["earliest"], &copies(&less, "kept")[0]["usable"]),
        (&Value::Null, &true.into())
    );
    let gone = copies(&less, "spent")[0]["gone"].as_str().unwrap();
    assert!(gone.contains("public.spent 0"), "{less}");
    let (code, text) = asked(&pipeline, &[]).await;
    assert_eq!(code, Some(3), "{text}");
    for said in [
        "public.spent: no usable copy: to have the past",
        "NOT ALL can be rebuilt: 1 of 2",
    ] {
        assert!(text.contains(said), "{text}");
    }

    // A follower that is copied anew finds the same, and has another copy made.
    to.batch_execute("DELETE FROM walferry.checkpoint")
        .await
        .unwrap();
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    let again = report(&pipeline, 0).await;
    assert_eq!(
        (copies(&again, "kept").len(), copies(&again, "spent").len()),
        (1, 2),
        "{again}"
    );
    assert_eq!(copies(&again, "spent")[0]["usable"], false, "{again}");
    let earliest = lsn(&again["earliest"]);
    let point = lsn(&copies(&again, "spent")[1]["point"]);
    assert!(earliest >= point, "{again}");
    assert_eq!(walferry.terminate(), 0);

    spend(&format!("{}.copy.public.kept", pipeline.name)).await;
    let without_rows = report(&pipeline, 3).await;
    let gone = copies(&without_rows, "kept")[0]["gone"].as_str().unwrap();
    assert!(gone.contains("its rows"), "{without_rows}");
}
