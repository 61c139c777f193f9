//! A change that a follower cannot take is named exactly, and passed over on purpose only.

use tokio_postgres::Client;

use crate::support::http::{get, metric, part};
use crate::support::{Pipeline, Postgres, assert_equal, content, until, wait_caught_up};

/// The newest error of a halted sink, with its remedy.
struct Halt {
    what: String,
    remedy: String,
}

impl Halt {
    /// The arguments of a command in the remedy, `TEXT` replaced.
    fn command(&self, begins: &str, reason: &str) -> Vec<String> {
        let at = self.remedy.find(begins);
        let rest = &self.remedy[at.unwrap_or_else(|| panic!("{begins} in: {}", self.remedy))..];
        let words = rest.split(", then").next().unwrap().split(' ').skip(1);
        words
            .map(|word| if word == "TEXT" { reason } else { word }.to_owned())
            .collect()
    }

    fn position(&self) -> String {
        self.command("walferry sink skip", "")[4].clone()
    }
}

/// Waits until sink `name` has halted with an error that holds `needle`.
async fn halted(pipeline: &Pipeline, name: &str, needle: &str) -> Halt {
    until("the sink halts", || async {
        let sink = part(pipeline, name).await?;
        let error = &sink["last_error"];
        let what = error["what"].as_str().unwrap_or_default().to_owned();
        if sink["state"] != "halted" || !what.contains(needle) {
            return Err(sink.to_string());
        }
        let remedy = error["remedy"].as_str().ok_or("no remedy")?.to_owned();
        Ok(Halt { what, remedy })
    })
    .await
}

/// What the follower tells of changes it lacks: position, table, reason.
async fn skips(follower: &Client) -> Vec<String> {
    let query = "SELECT commit_lsn || ':' || ordinal || ' ' || coalesce(table_schema || '.' || table_name, '-') \
        || ' ' || reason FROM walferry.skips ORDER BY ordered_at";
    let rows = follower.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_row_is_named_exactly_and_passed_over_by_order_only() {
    let leader = Postgres::start("leader");
    let (a, b) = (Postgres::start("a"), Postgres::start("b"));
    leader
        .sql("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int)")
        .await;
    let pipeline = Pipeline::with(&leader, &[&a, &b], "partitions = 3", "");
    let (from, to_a, to_b) = (leader.client().await, a.client().await, b.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to_a, "a").await;
    wait_caught_up(&from, &to_b, "b").await;
    b.sql("ALTER TABLE t ADD CONSTRAINT small CHECK (v < 1000)")
        .await;
    let (_, body) = get(&pipeline, "/v1/status").await.unwrap();
    assert!(body.contains("\"skipped\":0"), "{body}");

    // In the middle of a transaction of many changes of two tables, between others.
    from.batch_execute(
        "BEGIN; INSERT INTO t SELECT n, n % 10 FROM generate_series(1, 700) n;
         INSERT INTO u SELECT n, n FROM generate_series(1, 300) n;
         UPDATE t SET v = 5000 WHERE id = 345; INSERT INTO t VALUES (1000, 1); COMMIT",
    )
    .await
    .unwrap();
    from.batch_execute("INSERT INTO u VALUES (-1, 1)")
        .await
        .unwrap();
    let first = halted(&pipeline, "b", "small").await;
    assert!(
        first.what.contains("public.t, the change at "),
        "{}",
        first.what
    );
    // The others are not concerned, and nothing of the transaction is there.
    wait_caught_up(&from, &to_a, "a").await;
    assert_equal(&from, &to_a, &["t", "u"]).await;
    assert!(content::rows(&to_b, "t").await.is_empty());
    assert_eq!(
        metric(&pipeline, "walferry_sink_skipped_total", Some("b")).await,
        Some(0.0)
    );

    // What is no order is refused and changes nothing.
    let position = first.position();
    for (arguments, code, part) in [
        (
            vec!["nobody", "--position", &position, "--reason", "r"],
            2,
            "name one of: a, b",
        ),
        (
            vec!["b", "--position", "16/0", "--reason", "r"],
            2,
            "16/B374D848:3",
        ),
        (
            vec!["b", "--position", "0/1:0", "--reason", "r"],
            2,
            "beyond 0/1:0",
        ),
        (
            vec!["b", "--position", &position, "--reason", " "],
            2,
            "--reason is empty",
        ),
        (vec!["b", "--position", &position], 2, "--reason"),
    ] {
        let (got, said) = pipeline.say(&[&["sink", "skip"], arguments.as_slice()].concat());
        assert!(
            got == code && said.contains(part),
            "{arguments:?}: {got} {said}"
        );
    }
    let (code, said) = pipeline.say(&["sink", "resume", "a"]);
    assert!(
        code == 2 && said.contains("a has not halted: it is streaming"),
        "{code} {said}"
    );
    assert!(skips(&to_b).await.is_empty());

    // Resumed without an order it halts at the same change, and one that was withdrawn is none.
    let skip = first.command("walferry sink skip", "too large for b");
    pipeline.do_it(&skip);
    let withdraw = ["sink", "skip", "b", "--position", &position, "--withdraw"];
    assert!(
        pipeline
            .do_it(&withdraw)
            .contains("will be applied after all")
    );
    pipeline.do_it(&["sink", "resume", "b"]);
    let again = halted(&pipeline, "b", "small").await;
    assert_eq!(again.position(), position);

    // As the remedy says.
    pipeline.do_it(&skip);
    pipeline.do_it(&again.command("walferry sink resume", ""));
    wait_caught_up(&from, &to_b, "b").await;
    assert_equal(&from, &to_b, &["u"]).await;
    let lacking = "SELECT count(*) FROM t WHERE id = 345 AND v = 5";
    let kept: i64 = to_b.query_one(lacking, &[]).await.unwrap().get(0);
    assert_eq!(kept, 1, "the row as it was before the change");
    assert_eq!(content::rows(&to_b, "t").await.len(), 701);
    assert_eq!(
        skips(&to_b).await,
        [format!("{position} public.t too large for b")]
    );
    assert_eq!(
        metric(&pipeline, "walferry_sink_skipped_total", Some("b")).await,
        Some(1.0)
    );
    assert!(
        pipeline
            .say(&["status"])
            .1
            .contains("b: its follower lacks what was passed over")
    );
    let (code, said) = pipeline.say(&skip);
    assert!(
        code == 2 && said.contains("which is beyond"),
        "{code} {said}"
    );

    // A change that brings the row back to what the follower takes is no concern; the count outlives
    // the process.
    from.batch_execute("UPDATE t SET v = 6 WHERE id = 345")
        .await
        .unwrap();
    wait_caught_up(&from, &to_b, "b").await;
    assert_equal(&from, &to_b, &["t", "u"]).await;
    assert_eq!(walferry.terminate(), 0);
    let _walferry = pipeline.run();
    until("b says what it lacks", || async {
        match metric(&pipeline, "walferry_sink_skipped_total", Some("b")).await {
            Some(1.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_change_can_be_passed_over_and_a_killed_sink_forgets_nothing() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE t (id int PRIMARY KEY, v int);
              CREATE TABLE bare (v int); ALTER TABLE bare REPLICA IDENTITY FULL;
              INSERT INTO t SELECT n, 0 FROM generate_series(1, 9) n; INSERT INTO bare VALUES (1), (2)")
        .await;
    let pipeline = Pipeline::with(&leader, &[&follower], "partitions = 2", "");
    let (from, to) = (leader.client().await, follower.client().await);
    let mut walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    for (poison, change, antidote) in [
        (
            "ALTER TABLE t ADD CHECK (id <> 77)",
            "INSERT INTO t VALUES (77, 1)",
            "DELETE FROM t WHERE id = 77",
        ),
        (
            "DELETE FROM t WHERE id = 1",
            "UPDATE t SET v = 1 WHERE id = 1",
            "INSERT INTO t VALUES (1, 1)",
        ),
        (
            "DELETE FROM t WHERE id = 2",
            "DELETE FROM t WHERE id = 2",
            "",
        ),
        (
            "DELETE FROM t WHERE id = 3",
            "UPDATE t SET id = 33 WHERE id = 3",
            "INSERT INTO t VALUES (33, 0)",
        ),
        (
            "DELETE FROM bare WHERE v = 1",
            "DELETE FROM bare WHERE v = 1",
            "",
        ),
        (
            "INSERT INTO t VALUES (88, 8)",
            "INSERT INTO t VALUES (88, 9)",
            "UPDATE t SET v = 9 WHERE id = 88",
        ),
    ] {
        to.batch_execute(poison).await.unwrap();
        from.batch_execute(&format!(
            "BEGIN; INSERT INTO bare VALUES (10); {change}; UPDATE t SET v = v + 1 WHERE id = 9; COMMIT"
        ))
        .await
        .unwrap();
        let halt = halted(&pipeline, "a", "the change at").await;
        pipeline.do_it(&halt.command("walferry sink skip", change));
        // Killed instead of resumed: the order is in the follower.
        walferry.kill();
        walferry = pipeline.run();
        wait_caught_up(&from, &to, "a").await;
        // What was skipped is the only difference, and by now it is mended by hand.
        if change.starts_with("INSERT INTO t VALUES (77") {
            from.batch_execute(antidote).await.unwrap();
            let gone = halted(&pipeline, "a", "77").await;
            pipeline.do_it(&gone.command("walferry sink skip", "its insert was skipped"));
            pipeline.do_it(&["sink", "resume", "a"]);
            wait_caught_up(&from, &to, "a").await;
        } else {
            to.batch_execute(antidote).await.unwrap();
        }
        assert_equal(&from, &to, &["t", "bare"]).await;
    }
    assert_eq!(skips(&to).await.len(), 7);
}
