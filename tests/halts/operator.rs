//! What an operator sees of a halt, and does about it.

use crate::support::{Pipeline, Postgres, Walferry, assert_equal, http, until, wait_caught_up};

/// The remedy that [`Operator::begin_new_pipeline`] follows, word for word.
pub const NEW_PIPELINE: &str = "begin a new pipeline, which copies every table: stop walferry, delete this \
     pipeline's rows from walferry.checkpoint on every follower, drop its slot on the leader if it is \
     still there, write another name as `pipeline` into walferry.toml, and start walferry";

/// The remedy that [`Operator::copy_anew`] follows, word for word.
pub const COPY_ANEW: &str = "copy the follower anew: walferry rebuild, with the name of this sink";

/// Tables of the leader.
const TABLES: &[&str] = &["t", "notes"];

/// A leader, its followers `a`, `b`, …, their pipeline, and walferry while it runs.
pub struct Operator {
    pub leader: Postgres,
    pub followers: Vec<Postgres>,
    pub pipeline: Pipeline,
    walferry: Option<Walferry>,
}

/// A halt as `/v1/status` tells it.
pub struct Halt {
    pub what: String,
    pub remedy: String,
}

impl Halt {
    /// Panics unless the halt names all of this.
    pub fn names(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.what.contains(part), "{part} is not in: {}", self.what);
        }
        self
    }

    /// Panics unless the remedy is this; one for a single change also tells how to go on without it
    /// (tested in `end_to_end::skips`).
    pub fn advises(&self, remedy: &str) {
        let (repair, _or_skip) = self
            .remedy
            .split_once("; or, to go on without this change: walferry sink skip ")
            .unwrap_or((&self.remedy, ""));
        assert_eq!(repair, remedy, "{}", self.what);
    }
}

impl Operator {
    /// Starts servers and walferry, and waits until all followers have the leader's rows.
    pub async fn begin(followers: usize) -> Self {
        let leader = Postgres::start("leader");
        leader
            .sql(
                "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL);
                 CREATE TABLE notes (id serial PRIMARY KEY, body text);
                 INSERT INTO t SELECT i, i FROM generate_series(1, 50) i;
                 INSERT INTO notes (body) VALUES ('the first');",
            )
            .await;
        let followers: Vec<Postgres> = (0..followers)
            .map(|_| Postgres::start("follower"))
            .collect();
        let those: Vec<&Postgres> = followers.iter().collect();
        // One partition a topic: what a test does to a topic it does to all of it.
        let pipeline = Pipeline::with(&leader, &those, "partitions = 1", "");
        let mut operator = Operator {
            leader,
            followers,
            pipeline,
            walferry: None,
        };
        // How long a client hopes for a topic that is gone: half a minute if not set.
        operator.edit(
            "config/walferry.toml",
            "[http]",
            "[kafka.properties]\n\"topic.metadata.propagation.max.ms\" = \"2000\"\n[http]",
        );
        operator.run();
        operator.is_well().await;
        operator
    }

    /// Starts walferry.
    pub fn run(&mut self) {
        self.walferry = Some(self.pipeline.run());
    }

    /// Starts some parts only.
    pub fn run_only(&mut self, parts: &[&str]) {
        self.walferry = Some(self.pipeline.run_only(parts));
    }

    /// Stops walferry; its exit code says whether a part had halted.
    pub fn stop(&mut self, exit_code: i32) {
        let walferry = self.walferry.take().expect("walferry runs");
        assert_eq!(walferry.terminate(), exit_code);
    }

    /// Changes rows on the leader.
    pub async fn write(&self) {
        self.leader
            .sql(
                "UPDATE t SET v = v + 1; DELETE FROM t WHERE id = (SELECT max(id) FROM t);
                 INSERT INTO notes (body) SELECT 'more' FROM generate_series(1, 20);",
            )
            .await;
    }

    /// Waits until sink number `n` has what the leader has now.
    pub async fn has_caught_up(&self, n: usize) {
        let (leader, follower) = (self.leader.client().await, self.followers[n].client().await);
        wait_caught_up(&leader, &follower, SINKS[n]).await;
        assert_equal(&leader, &follower, TABLES).await;
    }

    /// Changes rows, and waits until every follower has them and the process is ready.
    pub async fn is_well(&self) {
        self.write().await;
        for n in 0..self.followers.len() {
            self.has_caught_up(n).await;
        }
        until("the process is ready", || async {
            match http::get(&self.pipeline, "/readyz").await? {
                (200, _) => Ok(()),
                (code, body) => Err(format!("{code}: {body}")),
            }
        })
        .await;
    }

    /// Waits until a part does its normal work.
    pub async fn streams(&self, part: &str) {
        until(&format!("{part} streams"), || async {
            let found = http::part(&self.pipeline, part).await?;
            let streams = found["state"] == "streaming";
            streams.then_some(()).ok_or_else(|| found.to_string())
        })
        .await;
    }

    /// Waits until a part has halted; `/v1/status`, `/readyz`, the metrics and the log agree on it.
    pub async fn halted(&self, part: &str) -> Halt {
        let error = until(&format!("{part} halts"), || async {
            let found = http::part(&self.pipeline, part).await?;
            let halted = found["state"] == "halted";
            halted
                .then(|| found["last_error"].clone())
                .ok_or_else(|| found.to_string())
        })
        .await;
        let text = |field: &str| error[field].as_str().expect("a halt has it").to_owned();
        let (what, remedy) = (text("what"), text("remedy"));

        let (code, reasons) = http::get(&self.pipeline, "/readyz").await.unwrap();
        assert_eq!(code, 503, "{reasons}");
        let reason = format!("{part} is halted: {what}; what to do: {remedy}");
        assert!(reasons.contains(&reason), "{reasons}");
        let metrics = http::scrape(&self.pipeline).await.unwrap();
        let labels = [format!("part=\"{part}\""), "class=\"halt\"".to_owned()];
        let counted = metrics.lines().any(|line| {
            line.starts_with("walferry_errors_total{")
                && labels.iter().all(|label| line.contains(label))
                && line.ends_with("} 1")
        });
        assert!(counted, "the halt is not counted once:\n{metrics}");
        let output = self.walferry.as_ref().expect("walferry runs").output();
        let log = output.replace("\\\"", "\"");
        let said = log
            .lines()
            .any(|line| line.contains("halted") && line.contains(&what) && line.contains(&remedy));
        assert!(said, "the log does not say: {what}; {remedy}\n{log}");
        Halt { what, remedy }
    }

    /// Follows [`NEW_PIPELINE`].
    pub async fn begin_new_pipeline(&mut self) {
        self.stop(3);
        let old = self.pipeline.name.clone();
        for follower in &self.followers {
            let delete = format!("DELETE FROM walferry.checkpoint WHERE pipeline = '{old}'");
            follower.sql(&delete).await;
        }
        self.leader
            .sql(&format!(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{}'",
                self.slot()
            ))
            .await;
        self.rename();
        self.run();
    }

    /// Writes another name as `pipeline` into walferry.toml; returns the old one.
    pub fn rename(&mut self) -> String {
        let new = format!("{}n", self.pipeline.name);
        let old = std::mem::replace(&mut self.pipeline.name, new.clone());
        let [old_line, new_line] = [&old, &new].map(|name| format!("pipeline = \"{name}\""));
        self.edit("config/walferry.toml", &old_line, &new_line);
        old
    }

    /// Follows [`COPY_ANEW`] for sink number `n`.
    pub fn copy_anew(&mut self, n: usize) {
        self.pipeline.do_it(&["rebuild", SINKS[n], "--detach"]);
    }

    /// Replaces text in a file of the settings.
    pub fn edit(&self, file: &str, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.pipeline.dir.join(file)).unwrap();
        assert!(text.contains(old), "{old} is not in {file}: {text}");
        self.pipeline.write(file, &text.replace(old, new));
    }

    /// The pipeline's slot.
    pub fn slot(&self) -> String {
        format!("walferry_{}", self.pipeline.name)
    }

    /// A topic of the pipeline.
    pub fn topic(&self, rest: &str) -> String {
        format!("{}.{rest}", self.pipeline.name)
    }
}

/// Names of the sinks.
const SINKS: &[&str] = &["a", "b"];
