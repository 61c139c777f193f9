//! Reading on a follower what was just written on the leader: over HTTP, by SQL, and in the example
//! application of docs/read-after-write.md.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::http::{self, get};
use crate::support::walferry::free_port;
use crate::support::{Pipeline, Postgres, until, wait_caught_up};

/// Where the leader is after a write.
async fn position(leader: &Client) -> String {
    let row = leader
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .await
        .unwrap();
    row.get(0)
}

async fn count(client: &Client) -> i64 {
    let row = client.query_one("SELECT count(*) FROM notes", &[]).await;
    row.unwrap().get(0)
}

/// Keeps a follower from taking changes, while readers see what it has.
async fn hold_up(client: &Client) {
    let sql = "BEGIN; LOCK TABLE notes IN SHARE MODE";
    client.batch_execute(sql).await.unwrap();
}

async fn json(pipeline: &Pipeline, path: &str) -> (u16, Value) {
    let (status, body) = get(pipeline, path).await.unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_waits_until_the_follower_shows_what_was_written() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE notes (id serial PRIMARY KEY, text text)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let here = "SELECT lsn IS NOT NULL AND NOT copying AND timeline = 1 FROM walferry.position";
    let known: bool = to.query_one(here, &[]).await.unwrap().get(0);
    assert!(known);

    // Whatever way is asked, what it says is there is there.
    for written in 1..=20 {
        from.batch_execute("INSERT INTO notes (text) VALUES ('n')")
            .await
            .unwrap();
        let lsn = position(&from).await;
        if written % 2 == 0 {
            let wait = format!("/v1/sinks/a/wait?lsn={lsn}&timeout_ms=60000&timeline=1");
            let (status, body) = json(&pipeline, &wait).await;
            assert_eq!(status, 200, "{body}");
        } else {
            let wait = format!("SELECT walferry.wait_for('{lsn}', '1 min', timeline => 1)");
            assert!(to.query_one(&wait, &[]).await.unwrap().get::<_, bool>(0));
        }
        assert_eq!(count(&to).await, written);
    }

    let holder = follower.client().await;
    hold_up(&holder).await;
    from.batch_execute("INSERT INTO notes (text) VALUES ('late')")
        .await
        .unwrap();
    let lsn = position(&from).await;
    let wait = format!("SELECT walferry.wait_for('{lsn}', '100 ms')");
    assert!(!to.query_one(&wait, &[]).await.unwrap().get::<_, bool>(0));
    let wait = format!("/v1/sinks/a/wait?lsn={lsn}&timeout_ms=100");
    let (status, body) = json(&pipeline, &wait).await;
    assert_eq!(status, 504, "{body}");
    assert!(
        body["error"].as_str().unwrap().contains(&lsn),
        "what is missing is named: {body}"
    );
    // One that waits longer gets it as soon as it is there.
    let waiting = format!("SELECT walferry.wait_for('{lsn}', '5 min')");
    let other = follower.client().await;
    let waiting = tokio::spawn(async move { other.query_one(&waiting, &[]).await });
    let began = Instant::now();
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert!(waiting.await.unwrap().unwrap().get::<_, bool>(0));
    assert!(began.elapsed().as_secs() < 120, "{:?}", began.elapsed());
    assert_eq!(count(&to).await, 21);

    // What cannot be waited for is said.
    for (question, code) in [
        (
            "SELECT walferry.wait_for('0/1', timeline => 9)",
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        ),
        (
            "SELECT walferry.wait_for(NULL)",
            SqlState::NULL_VALUE_NOT_ALLOWED,
        ),
        (
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT walferry.wait_for('0/1')",
            SqlState::INVALID_TRANSACTION_STATE,
        ),
    ] {
        let error = to.batch_execute(question).await.unwrap_err();
        assert_eq!(error.code(), Some(&code), "{question}: {error:?}");
        to.batch_execute("ROLLBACK").await.unwrap();
    }
    let (status, body) = json(&pipeline, "/v1/sinks/a/wait?lsn=0/1&timeline=9").await;
    assert_eq!(status, 409, "{body}");
    let (status, body) = json(&pipeline, "/v1/sinks/a/position").await;
    assert_eq!((status, body["timeline"].as_i64()), (200, Some(1)));
    assert_eq!(body["state"], "streaming");

    // A reader without rights gets them as the page says.
    to.batch_execute("CREATE ROLE app LOGIN").await.unwrap();
    let app = follower.client_as("app").await;
    let wait = format!("SELECT walferry.wait_for('{lsn}')");
    assert!(app.query_one(&wait, &[]).await.is_err());
    to.batch_execute(
        "GRANT USAGE ON SCHEMA walferry TO app; GRANT SELECT ON walferry.position TO app",
    )
    .await
    .unwrap();
    assert!(app.query_one(&wait, &[]).await.unwrap().get::<_, bool>(0));
    assert_eq!(walferry.terminate(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_copied_shows_nothing_yet() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql(
            "CREATE TABLE notes (id serial PRIMARY KEY, text text);
              CREATE TABLE excluded (id int PRIMARY KEY);
              INSERT INTO notes (text) VALUES ('before')",
        )
        .await;
    // The copy cannot be loaded while somebody holds the table.
    follower
        .sql("CREATE TABLE notes (id serial PRIMARY KEY, text text)")
        .await;
    let holder = follower.client().await;
    hold_up(&holder).await;
    let sink = "tables.exclude = [\"*.excluded\"]";
    let pipeline = Pipeline::with(&leader, &[&follower], "", sink);
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    let lsn = position(&from).await;
    until("the sink copies", || async {
        let (_, body) = get(&pipeline, "/v1/sinks/a/position").await?;
        let copies = body.contains("\"state\":\"copying\"");
        copies.then_some(()).ok_or(body)
    })
    .await;
    let (status, body) = json(
        &pipeline,
        &format!("/v1/sinks/a/wait?lsn={lsn}&timeout_ms=50"),
    )
    .await;
    assert_eq!((status, &body["lsn"]), (504, &Value::Null), "{body}");
    let early = format!("SELECT walferry.wait_for('{lsn}', '50 ms')");
    assert!(!to.query_one(&early, &[]).await.unwrap().get::<_, bool>(0));
    holder.batch_execute("ROLLBACK").await.unwrap();
    let wait = format!("SELECT walferry.wait_for('{lsn}', '5 min')");
    assert!(to.query_one(&wait, &[]).await.unwrap().get::<_, bool>(0));
    assert_eq!(count(&to).await, 1);
    assert_eq!(walferry.terminate(), 0);
}

/// The example application, with Python's packages that `./dev test` has fetched.
struct App {
    child: Child,
    port: u16,
}

impl App {
    fn start(leader: &Postgres, follower: &Postgres) -> Self {
        let packages = std::env::var_os("WALFERRY_PYTHONPATH")
            .map(PathBuf::from)
            .expect("WALFERRY_PYTHONPATH is not set: run the tests by `./dev test`, which fetches what it names");
        let port = free_port();
        let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/read_after_write");
        let log = std::fs::File::create(crate::support::directory("app").join("log")).unwrap();
        let child = Command::new("python3")
            .args([
                "-B",
                "-m",
                "flask",
                "--app",
                "app",
                "run",
                "--port",
                &port.to_string(),
            ])
            .current_dir(app)
            .env("PYTHONPATH", packages)
            .env("LEADER_URL", leader.url("postgres"))
            .env("FOLLOWER_URL", follower.url("postgres"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("python3 can be started");
        App { child, port }
    }

    /// Head and body of an answer.
    async fn ask(
        &self,
        method: &str,
        cookie: &str,
        body: &str,
    ) -> Result<(String, String), String> {
        let request = format!(
            "{method} /notes HTTP/1.0\r\nHost: localhost\r\nCookie: {cookie}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        http::ask(self.port, &request).await
    }

    /// Writes a note; the cookie.
    async fn write(&self, text: &str) -> String {
        let (head, _) = self.ask("POST", "", text).await.unwrap();
        assert!(head.contains(" 201 "), "{head}");
        let cookie = head
            .lines()
            .find_map(|line| line.strip_prefix("Set-Cookie: "));
        let cookie = cookie.and_then(|cookie| cookie.split(';').next());
        cookie.expect("a cookie").to_owned()
    }

    /// Where it read from, and what.
    async fn read(&self, cookie: &str) -> Result<(String, Vec<String>), String> {
        let (_, body) = self.ask("GET", cookie, "").await?;
        let body: Value = serde_json::from_str(&body).map_err(|_| body)?;
        let notes = body["notes"].as_array().unwrap().iter();
        let notes = notes.map(|note| note.as_str().unwrap().to_owned());
        Ok((
            body["read_from"].as_str().unwrap().to_owned(),
            notes.collect(),
        ))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_application_always_shows_what_its_user_wrote() {
    let (leader, mut follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader
        .sql("CREATE TABLE notes (id serial PRIMARY KEY, text text)")
        .await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (from, to) = (leader.client().await, follower.client().await);
    let _walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let app = App::start(&leader, &follower);
    until("the application answers", || async {
        app.read("").await.map(|_| ())
    })
    .await;

    let mut written = Vec::new();
    let mut cookie = String::new();
    for number in 0..10 {
        written.push(format!("note {number}"));
        cookie = app.write(&written[number]).await;
        let (_, notes) = app.read(&cookie).await.unwrap();
        assert_eq!(
            notes, written,
            "the user sees what was written, wherever it was read"
        );
    }
    until("a follower that has everything is read", || async {
        let (from, notes) = app.read(&cookie).await?;
        assert_eq!(notes, written);
        (from == "follower").then_some(()).ok_or(from)
    })
    .await;

    let holder = follower.client().await;
    hold_up(&holder).await;
    written.push("late".to_owned());
    cookie = app.write("late").await;
    let (read_from, notes) = app.read(&cookie).await.unwrap();
    assert_eq!((read_from.as_str(), &notes), ("leader", &written));
    // Whoever wrote nothing reads the follower, as it is.
    let (read_from, notes) = app.read("").await.unwrap();
    assert_eq!((read_from.as_str(), notes.len()), ("follower", 10));
    for wrong in ["seen=hm", "seen=9:0/1", "seen=1:zz"] {
        let (read_from, notes) = app.read(wrong).await.unwrap();
        assert_eq!(
            (read_from.as_str(), &notes),
            ("leader", &written),
            "{wrong}"
        );
    }
    holder.batch_execute("ROLLBACK").await.unwrap();
    follower.stop();
    let (read_from, notes) = app.read(&cookie).await.unwrap();
    assert_eq!((read_from.as_str(), &notes), ("leader", &written));
}
