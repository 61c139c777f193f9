//! One Postgres server of a test's own.

use std::path::PathBuf;
use std::process::Command;

use tokio_postgres::{Client, NoTls};

/// A running server; stopped when dropped.
pub struct Postgres {
    pub dir: PathBuf,
    pub port: u16,
    settings: Vec<String>,
}

impl Postgres {
    /// Starts a server of the major that the run asks for.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// The same with settings.
    pub fn start_with(name: &str, settings: &[&str]) -> Self {
        let dir = super::directory(name).join("pg");
        let mut server = Postgres {
            dir,
            port: 0,
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
        };
        server.run("start", &[]);
        server
    }

    /// Kills the server without a checkpoint and without asking, and starts it again.
    pub fn crash_and_restart(&mut self) {
        self.run("restart", &["--mode", "immediate"]);
    }

    /// Stops the server.
    pub fn stop(&mut self) {
        self.run("stop", &["--mode", "fast"]);
    }

    /// Starts it again on its old data.
    pub fn start_again(&mut self) {
        self.run("start", &[]);
    }

    fn run(&mut self, action: &str, more: &[&str]) {
        let mut command = Command::new(super::dev());
        command
            .args(["server", "postgres", action])
            .arg(&self.dir)
            .args(more);
        if action != "stop" {
            if let (Ok(major), "start") = (std::env::var("WALFERRY_TEST_PG"), action) {
                command.args(["--major", &major]);
            }
            for setting in &self.settings {
                command.args(["--set", setting]);
            }
        }
        let output = command.output().expect("the dev script can be run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        if let Some(port) = said
            .split_whitespace()
            .find_map(|w| w.strip_prefix("port="))
        {
            self.port = port.parse().unwrap();
        }
    }

    /// URL of a database on it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A client on database `postgres`.
    pub async fn client(&self) -> Client {
        self.client_on("postgres").await
    }

    /// A client of another role than the superuser.
    pub async fn client_as(&self, role: &str) -> Client {
        let url = format!("postgres://{role}@127.0.0.1:{}/postgres", self.port);
        self.connect(&url).await
    }

    /// A client on a database.
    pub async fn client_on(&self, database: &str) -> Client {
        self.connect(&self.url(database)).await
    }

    async fn connect(&self, url: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(url, NoTls)
            .await
            .unwrap_or_else(|error| panic!("connecting to {}: {error:?}", self.dir.display()));
        tokio::spawn(connection);
        client
    }

    /// Runs statements on a connection of their own.
    pub async fn sql(&self, statements: &str) {
        self.client()
            .await
            .batch_execute(statements)
            .await
            .unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// The server's major version.
    pub async fn major(&self) -> i32 {
        let row = self
            .client()
            .await
            .query_one(
                "SELECT current_setting('server_version_num')::int / 10000",
                &[],
            )
            .await;
        row.unwrap().get(0)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = Command::new(super::dev())
            .args(["server", "postgres", "stop"])
            .arg(&self.dir)
            .args(["--mode", "immediate"])
            .output();
        super::forget_data(&self.dir.join("data"));
    }
}
