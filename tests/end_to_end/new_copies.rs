//! New copies while streaming goes on: `walferry copy`.

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::Client;

use crate::copies::{TABLES, copies_of, leader_with_rows, write_until};
use crate::support::http::part;
use crate::support::{Pipeline, Postgres, Walferry, assert_equal, until, wait_caught_up};

/// A `walferry copy` that runs beside the test, with what it prints in a file.
pub struct Asking {
    child: Child,
    said: std::path::PathBuf,
}

impl Asking {
    fn begin(pipeline: &Pipeline, tables: &[&str]) -> Self {
        Self::begin_with(pipeline, tables, &[])
    }

    /// The same with more arguments.
    pub fn begin_with(pipeline: &Pipeline, tables: &[&str], more: &[&str]) -> Self {
        let said = pipeline
            .dir
            .join(format!("copy-{}.out", crate::support::unique()));
        let file = std::fs::File::create(&said).unwrap();
        let mut command = pipeline.command(&["copy"]);
        command.args(more);
        if !tables.is_empty() {
            command.arg("--tables").args(tables);
        }
        let child = command
            .stderr(file.try_clone().unwrap())
            .stdout(Stdio::from(file))
            .spawn()
            .unwrap();
        Asking { child, said }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap()
    }

    pub async fn says(&self, part: &str) {
        until(&format!("walferry copy says {part}"), || async {
            let said = self.said();
            said.contains(part).then_some(()).ok_or(said)
        })
        .await;
    }

    /// Its exit code, once it has ended, and what it has said.
    pub async fn ended(mut self) -> (Option<i32>, String) {
        let (child, said) = (&mut self.child, &self.said);
        let status = until("walferry copy ends", || {
            let status = child.try_wait().unwrap();
            async move { status.ok_or_else(|| std::fs::read_to_string(said).unwrap()) }
        })
        .await;
        (status.code(), self.said())
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub fn add_sink(pipeline: &Pipeline, name: &str, follower: &Postgres) {
    let url = follower.url("postgres");
    pipeline.write(
        &format!("connectors/{name}.toml"),
        &format!("kind = \"postgres\"\nurl = \"{url}\"\n"),
    );
}

/// Adds sink b to a pipeline that does not run, and has it follow until it holds the leader's rows. The id of the
/// copy that it has loaded.
pub async fn add_follower(
    pipeline: &Pipeline,
    leader: &Client,
    follower: &Postgres,
) -> Option<i64> {
    add_sink(pipeline, "b", follower);
    let walferry = pipeline.run();
    let to = follower.client().await;
    wait_caught_up(leader, &to, "b").await;
    assert_equal(leader, &to, TABLES).await;
    assert_equal(leader, &to, &["empty_one"]).await;
    let loaded = newest_copy(&walferry.output(), "loading a copy");
    assert_eq!(walferry.terminate(), 0);
    loaded
}

/// The id of the newest copy that the log of a process names, in lines with `part`.
pub fn newest_copy(output: &str, part: &str) -> Option<i64> {
    let lines = output.lines().filter(|line| line.contains(part));
    let ids = lines.filter_map(|line| {
        let (_, rest) = line.split_once("copy=")?;
        rest.split(' ').next()?.parse().ok()
    });
    ids.max()
}

/// The id of a complete copy that is newer than `than`; who asked for it may hear of it before the log tells.
pub async fn newer_copy(walferry: &Walferry, than: Option<i64>) -> i64 {
    until("a newer copy", async || {
        let output = walferry.output();
        let newest = newest_copy(&output, "tables copied");
        newest.filter(|_| newest > than).ok_or(output)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_copy_is_made_while_writes_go_on_and_later_followers_load_it() {
    let leader = leader_with_rows().await;
    let (first, second) = (Postgres::start("first"), Postgres::start("second"));
    let pipeline = Pipeline::new(&leader, &[&first]);
    let (from, to) = (leader.client().await, first.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let loads = |output: &str| output.matches("loading a copy").count();
    let loaded = loads(&walferry.output());
    let first_copy = newer_copy(&walferry, None).await;

    let stop = AtomicBool::new(false);
    let (written, (code, said)) = tokio::join!(write_until(&leader, &stop), async {
        let ended = Asking::begin(&pipeline, &[]).ended().await;
        stop.store(true, Ordering::Relaxed);
        ended
    });
    assert_eq!(code, Some(0), "{said}");
    assert!(written > 0);
    for table in ["public.items", "public.events", "public.empty_one"] {
        assert!(
            said.contains(&format!("{table}: copied as it was at")),
            "{said}"
        );
    }
    let new_copy = newer_copy(&walferry, Some(first_copy)).await;
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    assert_eq!(
        loads(&walferry.output()),
        loaded,
        "its tables stay in effect"
    );
    assert_eq!(walferry.terminate(), 0);

    leader
        .sql("UPDATE items SET n = n + 1 WHERE id < 500")
        .await;
    let loaded = add_follower(&pipeline, &from, &second).await;
    assert_eq!(loaded, Some(new_copy), "the newest is loaded");
    assert_eq!(copies_of(&pipeline, TABLES).await, [2, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_for_a_source_and_is_fulfilled_once_whatever_becomes_of_its_command() {
    let (leader, follower) = (leader_with_rows().await, Postgres::start("follower"));
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(walferry.terminate(), 0);

    let (code, said) = Asking::begin(&pipeline, &["nobody"]).ended().await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("public.items"), "{said}");

    // One is killed, one is told to stop waiting, two wait.
    let killed = Asking::begin(&pipeline, &["items"]);
    killed.says("no source writes to the commit log").await;
    killed.kill();
    let interrupted = Asking::begin(&pipeline, &["items"]);
    interrupted.says("no source writes").await;
    crate::support::process::signal(&interrupted.child.id().to_string(), "INT");
    let (code, said) = interrupted.ended().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("only the waiting was stopped"), "{said}");
    let asking = [&["items"][..], &["public.items", "events"]]
        .map(|tables| Asking::begin(&pipeline, tables));
    for asking in &asking {
        asking.says("asked for").await;
    }
    let walferry = pipeline.run();
    for asking in asking {
        let (code, said) = asking.ended().await;
        assert_eq!(code, Some(0), "{said}");
    }
    // One copy behind all requests was enough, and the next start makes none.
    assert_eq!(copies_of(&pipeline, TABLES).await, [2, 2]);
    walferry.says("done with").await;
    assert_eq!(walferry.terminate(), 0);
    let walferry = pipeline.run();
    let (code, said) = Asking::begin(&pipeline, &["events"]).ended().await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(copies_of(&pipeline, TABLES).await, [2, 3]);
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;

    // A request is no sink.
    let forget = pipeline
        .command(&["sink", "forget", "nobody"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&forget.stderr).into_owned();
    assert!(said.contains("name one of: a\n"), "{said}");
    assert_eq!(walferry.terminate(), 0);
}

/// A copy of the rows takes seconds with it.
const SLOW: &str = "copy.max_bytes_per_second = \"1MB\"\ncopy.group_max_bytes = \"64KiB\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_runs_already_fulfils_no_request_and_a_killed_source_forgets_none() {
    let (leader, follower) = (leader_with_rows().await, Postgres::start("follower"));
    let pipeline = Pipeline::with(&leader, &[&follower], SLOW, "");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    // The small tables come first, then the large one.
    until("the large table's first copy runs", || async {
        let output = walferry.output();
        let begun = output.matches("copying tables").count();
        let ended = output.matches("tables copied").count();
        (begun == 2 && ended == 1).then_some(()).ok_or(output)
    })
    .await;
    let asking = Asking::begin(&pipeline, &["items"]);
    asking.says("has begun").await;
    assert_eq!(copies_of(&pipeline, &["items"]).await, [1], "the first one");
    walferry.kill();
    let walferry = pipeline.run();
    let (code, said) = asking.ended().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("has begun anew"), "{said}");
    assert_eq!(copies_of(&pipeline, &["items", "events"]).await, [2, 1]);
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    assert_eq!(walferry.terminate(), 0);
}

/// Slow enough that it is paused before it is through, on whatever machine.
const VERY_SLOW: &str = "copy.max_bytes_per_second = \"200KiB\"\ncopy.group_max_bytes = \"64KiB\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_copies_stop_where_they_are_and_stay_so_over_a_restart_of_the_source() {
    let (leader, follower) = (leader_with_rows().await, Postgres::start("follower"));
    let pipeline = Pipeline::with(&leader, &[&follower], VERY_SLOW, "");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    let rows = async || {
        let source = part(&pipeline, "leader").await?;
        let copies = source["copies"].as_array().cloned().unwrap_or_default();
        let items = copies.iter().find(|copy| copy["table"] == "public.items");
        let rows = items.and_then(|copy| copy["rows"].as_u64()).unwrap_or(0);
        Ok::<_, String>((rows, source["copies_paused"] == true))
    };
    until("the large table is being copied", || async {
        let (rows, _) = rows().await?;
        (rows > 0).then_some(()).ok_or("no row yet".to_owned())
    })
    .await;
    let said = pipeline.do_it(&["copy", "--pause"]);
    assert!(said.contains("holds back VACUUM"), "{said}");
    walferry.says("copies are paused").await;
    assert!(rows().await.unwrap().1);
    walferry.kill();

    let walferry = pipeline.run();
    walferry.says("copies are paused").await;
    let said = pipeline.do_it(&["status"]);
    assert!(said.contains("walferry copy --resume"), "{said}");
    // The stream goes on, and by then a copy would have begun.
    leader.sql("INSERT INTO events (item) VALUES (1)").await;
    until("the source publishes", || async {
        let source = part(&pipeline, "leader").await?;
        let changes = source["changes"].as_u64();
        (changes > Some(0)).then_some(()).ok_or(source.to_string())
    })
    .await;
    assert!(!walferry.output().contains("copying tables"));
    assert_eq!(copies_of(&pipeline, &["items"]).await, [0]);

    pipeline.do_it(&["copy", "--resume"]);
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    assert!(!rows().await.unwrap().1);
    assert_eq!(copies_of(&pipeline, &["items"]).await, [1]);
    assert_eq!(walferry.terminate(), 0);
}

/// When a line with `part` was first written, seconds of the day by the log.
fn seconds(output: &str, part: &str) -> f64 {
    let line = output.lines().find(|line| line.contains(part)).unwrap();
    let (_, time) = line.split_once('T').unwrap();
    let time = time.split_once('Z').unwrap().0;
    time.split(':')
        .fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_made_by_the_clock_and_a_restart_does_not_make_them_anew() {
    let (leader, follower) = (leader_with_rows().await, Postgres::start("follower"));
    let often = "copy.every = \"1s\"\ncopy.max_bytes_per_second = \"1MB\"";
    let pipeline = Pipeline::with(&leader, &[&follower], often, "");
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    until("copies are made again and again", || async {
        if !walferry.output().contains("tables copied") {
            return Err("none yet".to_owned());
        }
        let copies = copies_of(&pipeline, TABLES).await;
        let enough = copies.iter().all(|copies| *copies >= 3);
        enough.then_some(()).ok_or_else(|| format!("{copies:?}"))
    })
    .await;
    wait_caught_up(&from, &to, "a").await;
    assert_equal(&from, &to, TABLES).await;
    // 20,000 rows of more than 100 bytes each, and the clock of the log may pass midnight.
    let output = walferry.output();
    let took = seconds(&output, "tables copied") - seconds(&output, "copying tables");
    assert!(took.rem_euclid(86_400.0) > 1.5, "{took} s");
    assert_eq!(walferry.terminate(), 0);

    let seldom = format!(
        "kind = \"postgres-source\"\nurl = \"{}\"\ncopy.every = \"1h\"\n",
        leader.url("postgres")
    );
    pipeline.write("connectors/leader.toml", &seldom);
    let main = std::fs::read_to_string(pipeline.dir.join("config/walferry.toml")).unwrap();
    pipeline.write(
        "config/walferry.toml",
        &main.replace("[kafka]", "[kafka]\nretention = \"2h\""),
    );
    let before = copies_of(&pipeline, TABLES).await;
    let walferry = pipeline.run();
    // What is due is copied before or with what is asked for.
    let (code, said) = Asking::begin(&pipeline, &["items"]).ended().await;
    assert_eq!(code, Some(0), "{said}");
    let after = copies_of(&pipeline, TABLES).await;
    assert_eq!(after, [before[0] + 1, before[1]]);
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_copies_are_made_or_nothing_ever_ran_the_command_says_so() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    let pipeline = Pipeline::with(&leader, &[&follower], "copy.enabled = false", "");
    let (code, said) = Asking::begin(&pipeline, &[]).ended().await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("copy.enabled = false"), "{said}");
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (code, said) = Asking::begin(&pipeline, &[]).ended().await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("walferry run"), "{said}");
}
