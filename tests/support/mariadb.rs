//! One MariaDB of a test's own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::kafka::named;

/// The version when the run names none.
const NEWEST: &str = "11.4";

/// A running server; stopped when dropped.
pub struct MariaDb {
    dir: PathBuf,
    port: u16,
    authority: Option<PathBuf>,
}

impl MariaDb {
    /// Starts a server of the version that the run asks for (`WALFERRY_TEST_MARIADB`).
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// The same with settings (`name=value`).
    pub fn start_with(name: &str, settings: &[&str]) -> Self {
        let version = std::env::var("WALFERRY_TEST_MARIADB");
        let version = version.as_deref().unwrap_or(NEWEST);
        let settings: Vec<&str> = settings.iter().flat_map(|s| ["--set", s]).collect();
        Self::start_version(name, version, &settings)
    }

    /// Starts a server that speaks TLS, with a certificate of an authority of its own.
    pub fn start_secured(name: &str) -> Self {
        let version = std::env::var("WALFERRY_TEST_MARIADB");
        Self::start_version(name, version.as_deref().unwrap_or(NEWEST), &["--tls"])
    }

    /// Starts a server of a version (`10.11` or `11.4`) with options of `./dev server mariadb start`.
    pub fn start_version(name: &str, version: &str, options: &[&str]) -> Self {
        let mut server = MariaDb {
            dir: super::directory(name).join("mariadb"),
            port: 0,
            authority: None,
        };
        server.run("start", &[&["--version", version], options].concat());
        server
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        super::process::started_in(&self.dir)
    }

    /// Kills the server and starts it again.
    pub fn crash_and_restart(&mut self) {
        self.run("restart", &["--mode", "immediate"]);
    }

    /// Stops the server.
    pub fn stop(&mut self) {
        self.run("stop", &["--mode", "fast"]);
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.run("stop", &["--mode", "immediate"]);
    }

    /// Starts it again on its old data and port.
    pub fn start_again(&mut self) {
        self.run("start", &[]);
    }

    fn run(&mut self, action: &str, more: &[&str]) {
        let said = super::dev_server("mariadb", action, &self.dir, more);
        if action != "stop" {
            self.port = named(&said, "port=").parse().unwrap();
        }
        if said.contains("ca=") {
            self.authority = Some(named(&said, "ca=").into());
        }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// URL of a database on it, for a user with all rights.
    pub fn url(&self, database: &str) -> String {
        format!("mysql://walferry:secret@127.0.0.1:{}/{database}", self.port)
    }

    /// File with the authority that signed its certificate, of a server that is secured.
    pub fn authority(&self) -> &Path {
        self.authority
            .as_deref()
            .expect("it was started with --tls")
    }

    /// Runs statements by MariaDB's own client; panics when one fails.
    pub fn sql(&self, statements: &str) {
        self.query(statements);
    }

    /// The rows of a query as tab-separated lines, NULL as `NULL`; panics when it fails.
    pub fn query(&self, query: &str) -> String {
        self.try_query(query)
            .unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// The same, or the line that the client tells an error by (`ERROR 1146 (42S02) at line 1: …`).
    pub fn try_query(&self, query: &str) -> Result<String, String> {
        let mut client = Command::new(super::dev())
            .args(["server", "mariadb", "client"])
            .arg(&self.dir)
            .args(["--batch", "--skip-column-names"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the dev script can be run");
        let mut input = client.stdin.take().expect("it is piped");
        // A client that has ended already tells why.
        let _ = input.write_all(query.as_bytes());
        drop(input);
        let output = client.wait_with_output().expect("the client ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            // The statement stands around it.
            let told = text(&output.stderr);
            let error = told.lines().find(|line| line.starts_with("ERROR "));
            Err(error.unwrap_or(&told).to_owned())
        }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let stop = Command::new(super::dev())
            .args(["server", "mariadb", "stop"])
            .arg(&self.dir)
            .args(["--mode", "immediate"])
            .output();
        // The run stops what is left at its end.
        drop(stop);
        super::forget_data(&self.dir.join("data"));
    }
}
