//! The commit log is trimmed, and nobody misses anything.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::support::{DEADLINE, Pipeline, Postgres, assert_equal, kafka, until, wait_caught_up};

/// The oldest and the next offset of the pipeline's commit log.
fn watermarks(pipeline: &Pipeline) -> (i64, i64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka())
        .create()
        .unwrap();
    let commits = format!("{}.commits", pipeline.name);
    consumer.fetch_watermarks(&commits, 0, DEADLINE).unwrap()
}

async fn trimmed_beyond(pipeline: &Pipeline, offset: i64) -> i64 {
    until("the commit log is trimmed", || async {
        let (low, high) = watermarks(pipeline);
        if low > offset {
            Ok(low)
        } else {
            Err(format!("it lies in {low}..{high}"))
        }
    })
    .await
}

async fn write(leader: &Postgres, text: &str) {
    let insert = format!("INSERT INTO notes (body) SELECT '{text}' FROM generate_series(1, 100)");
    leader.sql(&insert).await;
}

/// Retention and epochs of seconds: what takes days in production.
#[tokio::test(flavor = "multi_thread")]
async fn the_commit_log_is_trimmed_below_every_sink_and_a_new_sink_gets_a_new_copy() {
    let leader = Postgres::start("leader");
    let (first, second) = (Postgres::start("first"), Postgres::start("second"));
    leader
        .sql("CREATE TABLE notes (id bigserial PRIMARY KEY, body text)")
        .await;
    write(&leader, "before the copy").await;
    let pipeline = Pipeline::with(&leader, &[&first], "epoch_max = \"1s\"", "");
    let main = std::fs::read_to_string(pipeline.dir.join("config/walferry.toml")).unwrap();
    let short = main.replace("[kafka]", "[kafka]\nretention = \"2s\"");
    pipeline.write("config/walferry.toml", &short);
    let (on_leader, on_first) = (leader.client().await, first.client().await);

    let running = pipeline.run();
    wait_caught_up(&on_leader, &on_first, "a").await;
    write(&leader, "streamed").await;
    let low = trimmed_beyond(&pipeline, 0).await;
    write(&leader, "streamed behind the first cut").await;
    wait_caught_up(&on_leader, &on_first, "a").await;
    assert_equal(&on_leader, &on_first, &["notes"]).await;

    // A killed process reads the trimmed log from its new beginning.
    running.kill();
    write(&leader, "while it was dead").await;
    let running = pipeline.run();
    wait_caught_up(&on_leader, &on_first, "a").await;
    assert_equal(&on_leader, &on_first, &["notes"]).await;
    let low = trimmed_beyond(&pipeline, low).await;

    // A follower that comes later finds no copy in the log, and asks for one.
    assert_eq!(running.terminate(), 0);
    pipeline.write(
        "connectors/b.toml",
        &format!(
            "kind = \"postgres\"\nurl = \"{}\"\n",
            second.url("postgres")
        ),
    );
    let running = pipeline.run();
    let on_second = second.client().await;
    wait_caught_up(&on_leader, &on_second, "b").await;
    assert_equal(&on_leader, &on_second, &["notes"]).await;
    assert_eq!(running.terminate(), 0);

    sinks_that_are_away_hold_the_log(&pipeline, &leader, &second, low).await;
}

/// A sink that does not run keeps its place, until it is forgotten.
async fn sinks_that_are_away_hold_the_log(
    pipeline: &Pipeline,
    leader: &Postgres,
    second: &Postgres,
    low: i64,
) {
    let (on_leader, on_second) = (leader.client().await, second.client().await);
    let running = pipeline.run_only(&["leader", "b"]);
    until("the log is held for the sink that is away", || async {
        let held = running
            .output()
            .contains("the commit log is kept for a sink");
        held.then_some(())
            .ok_or_else(|| format!("it lies in {:?}", watermarks(pipeline)))
    })
    .await;
    let held_at = watermarks(pipeline).0;
    assert!(held_at >= low, "{held_at} is before {low}");

    let refused = pipeline.command(&["sink", "forget", "a"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("a.toml"),
        "{refused:?}"
    );
    std::fs::remove_file(pipeline.dir.join("connectors/a.toml")).unwrap();
    let forgotten = pipeline.command(&["sink", "forget", "a"]).output().unwrap();
    assert!(forgotten.status.success(), "{forgotten:?}");
    let unknown = pipeline.command(&["sink", "forget", "a"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    trimmed_beyond(pipeline, held_at).await;
    wait_caught_up(&on_leader, &on_second, "b").await;
    assert_equal(&on_leader, &on_second, &["notes"]).await;
    assert_eq!(running.terminate(), 0);
}
