//! How a first copy is shown: bars on a terminal, lines of the log elsewhere.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tokio_postgres::Client;

use crate::support::process::signal;
use crate::support::{Pipeline, Postgres, directory, until, wait_caught_up};

/// Two tables that are copied together; the second one cannot be loaded while its lock is held, so the
/// first one's copy is not complete.
async fn held_copy() -> (Postgres, Postgres, Pipeline, Client) {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY);
             INSERT INTO a SELECT i, repeat('x', 50) FROM generate_series(1, 3000) i;
             INSERT INTO b VALUES (1); ANALYZE",
        )
        .await;
    follower.sql("CREATE TABLE b (id int PRIMARY KEY)").await;
    let pipeline = Pipeline::with(&leader, &[&follower], "", "batch_max_bytes = \"64KiB\"");
    let locker = follower.client().await;
    locker
        .batch_execute("BEGIN; LOCK TABLE b IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    (leader, follower, pipeline, locker)
}

/// A command on a terminal of its own, 160 columns wide, by `script` of util-linux.
struct OnTerminal {
    script: Child,
    /// Where it notes the command's process id, and what the terminal shows.
    pid: PathBuf,
    shown: PathBuf,
}

impl OnTerminal {
    fn start(pipeline: &Pipeline, arguments: &[&str]) -> Self {
        let dir = directory("terminal");
        let (pid, shown) = (dir.join("pid"), dir.join("shown"));
        let walferry = pipeline.command(arguments);
        let words = std::iter::once(walferry.get_program()).chain(walferry.get_args());
        let words: Vec<String> = words
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let pid_file = pid.display();
        let line = format!(
            "stty cols 160; echo $$ > '{pid_file}'; exec {}",
            words.join(" ")
        );
        let script = Command::new("script")
            .args(["-q", "-e", "-c", &line, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .stdout(File::create(&shown).unwrap())
            .spawn()
            .expect("script of util-linux can be run");
        OnTerminal { script, pid, shown }
    }

    /// Everything written to the terminal so far.
    fn shown(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.shown).unwrap()).into_owned()
    }

    async fn shows(&self, part: &str) {
        until(&format!("the terminal shows {part}"), || async {
            let shown = self.shown();
            if shown.contains(part) {
                Ok(())
            } else {
                Err(shown)
            }
        })
        .await;
    }

    /// Ends the command; its exit code.
    fn end(&mut self) -> Option<i32> {
        signal(std::fs::read_to_string(&self.pid).unwrap().trim(), "TERM");
        self.script.wait().unwrap().code()
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // The end of its terminal ends the command.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// Lines as the terminal shows them, without colours: what was taken away again is left out.
fn lines(shown: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = shown;
    while let Some((before, code)) = rest.split_once('\x1b') {
        plain.push_str(before);
        let code = code.strip_prefix('[').unwrap_or(code);
        let end = code.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(0);
        rest = code.get(end + 1..).unwrap_or_default();
        // "Erase the line" begins it anew.
        if code.get(end..=end) == Some("K") {
            plain.push('\r');
        }
    }
    plain.push_str(rest);
    let last_part = |line: &str| {
        line.trim_end_matches('\r')
            .rsplit('\r')
            .next()
            .map(str::to_owned)
    };
    plain.split('\n').filter_map(last_part).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_a_bar_on_a_terminal_and_the_log_above_it_stays_whole() {
    let (leader, follower, pipeline, locker) = held_copy().await;
    let (from, to) = (leader.client().await, follower.client().await);
    let mut run = OnTerminal::start(&pipeline, &["run"]);
    run.shows("a: public.a [").await;
    run.shows("a: 1 more table to copy").await;
    let mut watch = OnTerminal::start(&pipeline, &["status", "--watch"]);
    watch.shows("a: public.a [").await;
    let _stopped = watch.end();

    locker.batch_execute("ROLLBACK").await.unwrap();
    wait_caught_up(&from, &to, "a").await;
    assert_eq!(run.end(), Some(0));
    let shown = lines(&run.shown());
    let log: Vec<&String> = shown
        .iter()
        .filter(|line| line.contains(" INFO "))
        .collect();
    assert!(log.len() > 5, "{shown:#?}");
    for line in log {
        assert!(
            line.starts_with("20"),
            "{line:?} does not begin with its time"
        );
        assert!(!line.contains('█'), "a bar is in {line:?}");
    }
    let said = run.shown();
    assert!(!said.contains("copy of a table begins"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_told_in_the_log_where_there_is_no_terminal() {
    let (leader, follower, pipeline, locker) = held_copy().await;
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    let ended = walferry
        .says("table copied part=\"leader\" table=\"public.a\"")
        .await;
    assert!(ended.contains("rows=3000 rows_estimate=3000"), "{ended}");
    walferry
        .says("copy of a table begins part=\"a\" table=\"public.a\"")
        .await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    wait_caught_up(&from, &to, "a").await;
    let ended = walferry
        .says("table copied part=\"a\" table=\"public.a\"")
        .await;
    assert!(ended.contains("rows=3000"), "{ended}");
    walferry
        .says("table copied part=\"a\" table=\"public.b\"")
        .await;
    assert!(!walferry.output().contains('█'));
    assert_eq!(walferry.terminate(), 0);
}
