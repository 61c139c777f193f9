//! Settings are read again while walferry runs: what they do not touch goes on undisturbed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::{get, part, post, scrape};
use crate::support::{Pipeline, Postgres, Walferry, assert_equal, until, wait_caught_up};

/// A new table is found by itself when it was seen at two looks, a minute each.
const FOUND_BY_ITSELF: Duration = Duration::from_secs(120);

async fn leader_with_rows() -> Postgres {
    let leader = Postgres::start("leader");
    leader
        .sql(
            "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL);
             INSERT INTO items SELECT i, 0 FROM generate_series(1, 1000) i",
        )
        .await;
    leader
}

fn sink_file(follower: &Postgres) -> String {
    format!(
        "kind = \"postgres\"\nurl = \"{}\"\n",
        follower.url("postgres")
    )
}

/// How often the sink's session has begun.
fn sessions(walferry: &Walferry, sink: &str) -> usize {
    let output = walferry.output();
    let begun = |line: &&str| {
        line.contains("sink goes on from its checkpoint") && line.contains(&format!("sink={sink} "))
    };
    output.lines().filter(begun).count()
}

async fn owner(follower: &Postgres) -> String {
    let client = follower.client().await;
    let query = "SELECT owner FROM walferry.checkpoint";
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Asks over HTTP.
async fn reload(pipeline: &Pipeline) -> (u16, String) {
    let answer = post(pipeline.http_port, "/v1/reload", &json!({})).await;
    answer.expect("walferry answers")
}

async fn names_of_sinks(pipeline: &Pipeline) -> Vec<String> {
    let (_, body) = get(pipeline, "/v1/status").await.unwrap();
    let status: Value = serde_json::from_str(&body).unwrap();
    let sinks = status["sinks"].as_array().unwrap().iter();
    sinks
        .map(|sink| sink["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_is_added_and_removed_while_the_others_go_on_and_wrong_settings_change_nothing() {
    let leader = leader_with_rows().await;
    let (first, second) = (Postgres::start("first"), Postgres::start("second"));
    let pipeline = Pipeline::new(&leader, &[&first]);
    let from = leader.client().await;
    let (to_first, to_second) = (first.client().await, second.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to_first, "a").await;
    let (before, owned_by) = (sessions(&walferry, "a"), owner(&first).await);
    assert!(before > 0, "{}", walferry.output());

    pipeline.write("connectors/b.toml", &sink_file(&second));
    walferry.signal("HUP");
    wait_caught_up(&from, &to_second, "b").await;
    assert_equal(&from, &to_second, &["items"]).await;
    until("lag of the new sink is known", || async {
        let sink = part(&pipeline, "b").await?;
        match sink["lag"]["bytes"].as_u64() {
            Some(_) => Ok(()),
            None => Err(sink.to_string()),
        }
    })
    .await;
    assert!(scrape(&pipeline).await.unwrap().contains("sink=\"b\""));
    let of_b = sessions(&walferry, "b");

    // A file that is wrong: everything goes on as it was.
    pipeline.write("connectors/c.toml", "kind = \"postgres\"\nurl = 7\n");
    pipeline.write(
        "connectors/b.toml",
        &format!("{}statement_timeout = \"1min\"\n", sink_file(&second)),
    );
    let (code, said) = reload(&pipeline).await;
    assert_eq!(code, 400, "{said}");
    assert!(said.contains("c.toml"), "{said}");
    walferry.says("settings not reloaded").await;
    assert_eq!(names_of_sinks(&pipeline).await, ["a", "b"]);
    assert_eq!(sessions(&walferry, "b"), of_b);
    std::fs::remove_file(pipeline.dir.join("connectors/c.toml")).unwrap();

    // What belongs to the process needs a restart.
    let main = std::fs::read_to_string(pipeline.dir.join("config/walferry.toml")).unwrap();
    pipeline.write(
        "config/walferry.toml",
        &main.replace("[kafka]", "[kafka]\nretention = \"1d\""),
    );
    let output = pipeline.command(&["reload"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("another kafka") && said.contains("restart"),
        "{said}"
    );
    pipeline.write("config/walferry.toml", &main);

    // Other settings of one sink restart that one; one that is gone is stopped.
    let output = pipeline.command(&["reload"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "restarted: b\nunchanged: a, leader\n");
    leader.sql("UPDATE items SET n = n + 1").await;
    wait_caught_up(&from, &to_second, "b").await;
    assert_eq!(sessions(&walferry, "b"), of_b + 1);
    std::fs::remove_file(pipeline.dir.join("connectors/b.toml")).unwrap();
    let (code, said) = reload(&pipeline).await;
    assert_eq!(code, 200, "{said}");
    let changed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(changed["removed"], json!(["b"]));
    assert_eq!(names_of_sinks(&pipeline).await, ["a"]);
    assert!(!scrape(&pipeline).await.unwrap().contains("sink=\"b\""));

    leader.sql("UPDATE items SET n = n + 1").await;
    wait_caught_up(&from, &to_first, "a").await;
    assert_equal(&from, &to_first, &["items"]).await;
    let (now, owned_now) = (sessions(&walferry, "a"), owner(&first).await);
    assert_eq!((now, owned_now), (before, owned_by), "undisturbed");
    let behind: i64 = to_second
        .query_one("SELECT sum(n) FROM items", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(behind, 1000, "nobody feeds it any more");
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_during_a_copy_waits_for_it_before_a_table_joins() {
    let (leader, follower) = (leader_with_rows().await, Postgres::start("follower"));
    leader
        .sql("INSERT INTO items SELECT i, 0 FROM generate_series(1001, 300000) i")
        .await;
    let slow = "copy.max_bytes_per_second = \"1MB\"";
    let pipeline = Pipeline::with(&leader, &[&follower], slow, "");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    walferry.says("copying tables").await;
    leader
        .sql("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1), (2)")
        .await;
    walferry.signal("HUP");
    walferry.says("joining: public.late").await;
    let output = walferry.output();
    let at = |part: &str| {
        output
            .find(part)
            .unwrap_or_else(|| panic!("{part}: {output}"))
    };
    assert!(
        at("settings reloaded") < at("tables copied"),
        "during the copy"
    );
    assert!(
        at("tables copied") < at("joining: public.late"),
        "not voided"
    );
    until("the new table is copied", || async {
        let rows = to.query_one("SELECT count(*) FROM late", &[]).await;
        match rows.map(|row| row.get::<_, i64>(0)) {
            Ok(2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["items", "late"]).await;
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_join_are_found_at_once_and_other_settings_of_the_source_disturb_no_sink() {
    let (leader, follower) = (leader_with_rows().await, Postgres::start("follower"));
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let begun = Instant::now();
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let before = sessions(&walferry, "a");
    leader
        .sql("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1), (2)")
        .await;
    let output = pipeline.command(&["reload"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "unchanged: a, leader\n");
    walferry.says("joining: public.late").await;
    assert!(begun.elapsed() < FOUND_BY_ITSELF);
    until("the new table is copied", || async {
        let rows = to.query_one("SELECT count(*) FROM late", &[]).await;
        match rows.map(|row| row.get::<_, i64>(0)) {
            Ok(2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    let file = format!(
        "kind = \"postgres-source\"\nurl = \"{}\"\ntables.exclude = [\"public.late\"]\n",
        leader.url("postgres")
    );
    pipeline.write("connectors/leader.toml", &file);
    let (code, said) = reload(&pipeline).await;
    assert_eq!(code, 200, "{said}");
    let changed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(changed["restarted"], json!(["leader"]));
    leader
        .sql("INSERT INTO late VALUES (3); UPDATE items SET n = 7")
        .await;
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, &["items"]).await;
    let late = crate::support::content::rows(&to, "late").await;
    assert_eq!(late, ["(1)", "(2)"], "not captured any more");
    assert_eq!(sessions(&walferry, "a"), before);
    assert_eq!(walferry.terminate(), 0);
}
