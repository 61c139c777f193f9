//! The commands around `run`, as a user sees them.

use crate::support::{Pipeline, Postgres, until, wait_caught_up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_is_wrong_and_passes_when_nothing_is() {
    let (leader, follower) = (
        Postgres::start_with("leader", &["wal_level=replica"]),
        Postgres::start("follower"),
    );
    leader
        .sql("CREATE TABLE good (id int PRIMARY KEY); CREATE TABLE bad (v int)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let output = pipeline.command(&["check"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    for needle in ["wal_level", "public.bad"] {
        assert!(text.contains(needle), "{needle} is not in:\n{text}");
    }

    let leader = Postgres::start("leader");
    leader.sql("CREATE TABLE good (id int PRIMARY KEY)").await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let output = pipeline.command(&["check"]).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_tail_show_what_happens() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    from.batch_execute("INSERT INTO t VALUES (1, 'one'); UPDATE t SET v = 'two'; INSERT INTO u VALUES (7); DELETE FROM t").await.unwrap();
    wait_caught_up(&from, &to, "a").await;

    let output = pipeline.command(&["status"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    for needle in ["leader", "a", "streaming"] {
        assert!(text.contains(needle), "{needle} is not in:\n{text}");
    }
    let output = pipeline.command(&["status", "--json"]).output().unwrap();
    let status: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("status --json prints JSON");
    assert_eq!(status["pipeline"], pipeline.name.as_str());

    let file = pipeline.dir.join("tail.out");
    let mut tail = pipeline
        .command(&["tail", "public.t", "--json", "--from", "earliest"])
        .stdout(std::fs::File::create(&file).unwrap())
        .spawn()
        .unwrap();
    let lines = until("tail prints the three changes of t", || async {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect();
        if lines.len() >= 3 {
            Ok(lines)
        } else {
            Err(text)
        }
    })
    .await;
    tail.kill().unwrap();
    tail.wait().unwrap();
    let ops: Vec<&str> = lines.iter().map(|l| l["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["c", "u", "d"]);
    assert!(lines.iter().all(|l| l["table"] == "public.t"), "{lines:?}");

    // As `| head`: the reader goes, and tail with it, without an error.
    let mut tail = pipeline
        .command(&["tail", "--from", "earliest"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(tail.stdout.take());
    let ended = until("tail ends when nobody reads it", || {
        let status = tail.try_wait().unwrap();
        async move { status.ok_or_else(|| "it is still there".to_owned()) }
    });
    assert!(ended.await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stdout_sink_prints_every_change_beside_a_follower() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    pipeline.write(
        "connectors/out.toml",
        "kind = \"stdout\"\nfrom = \"earliest\"\n",
    );
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    from.batch_execute("INSERT INTO t VALUES (1, 'one'), (2, NULL); UPDATE t SET v = 'two' WHERE id = 2; DELETE FROM t WHERE id = 1")
        .await
        .unwrap();
    let changes = until("the four changes are printed", || async {
        let text = walferry.output();
        let lines = text.lines().filter(|line| line.starts_with('{'));
        let changes: Vec<serde_json::Value> = lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        if changes.len() >= 4 {
            Ok(changes)
        } else {
            Err(text)
        }
    })
    .await;
    let seen: Vec<(&str, &str)> = changes
        .iter()
        .map(|c| (c["op"].as_str().unwrap(), c["table"].as_str().unwrap()))
        .collect();
    let of = |op| (op, "public.t");
    assert_eq!(seen, [of("c"), of("c"), of("u"), of("d")]);
    assert_eq!(walferry.terminate(), 0);
}
