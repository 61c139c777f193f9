//! One ClickHouse of a test's own, or the one that `WALFERRY_TEST_CLICKHOUSE`
//! (`http://user:password@host:port`) names for all tests.

use std::path::PathBuf;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::http;
use super::kafka::named;

/// A running server; stopped when dropped.
pub struct ClickHouse {
    /// Its data and log; none of a server that was there before.
    dir: Option<PathBuf>,
    address: String,
    user: Option<(String, String)>,
    /// Address of its port for HTTPS, and the file with the authority of its certificate.
    secure: Option<(String, PathBuf)>,
}

/// What the server says to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The error's number (`X-ClickHouse-Exception-Code`).
    pub code: Option<u32>,
    /// Rows as tab-separated text, or the error's text.
    pub text: String,
}

impl ClickHouse {
    /// Starts a server whose only user is `default` without a password.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, None, &[])
    }

    /// Starts a server that lets only this user in.
    pub fn start_with_user(name: &str, user: &str, password: &str) -> Self {
        Self::start_with(name, Some((user, password)), &[])
    }

    /// Starts a server that speaks HTTPS too, with a certificate of an authority of its own.
    pub fn start_secured(name: &str, user: &str, password: &str) -> Self {
        Self::start_with(name, Some((user, password)), &["--tls"])
    }

    /// Starts a server with options of `./dev server clickhouse start`.
    pub fn start_with(name: &str, user: Option<(&str, &str)>, options: &[&str]) -> Self {
        if let Ok(url) = std::env::var("WALFERRY_TEST_CLICKHOUSE") {
            return Self::named_by(&url);
        }
        let user = user.map(|(name, password)| (name.to_owned(), password.to_owned()));
        let login = user
            .as_ref()
            .map(|(name, password)| format!("{name}:{password}"));
        let mut server = ClickHouse {
            dir: Some(super::directory(name).join("clickhouse")),
            address: String::new(),
            user,
            secure: None,
        };
        let login = login.iter().flat_map(|login| ["--user", login]);
        let options: Vec<&str> = login.chain(options.iter().copied()).collect();
        server.run("start", &options);
        server
    }

    fn named_by(url: &str) -> Self {
        let rest = url.strip_prefix("http://").map(|r| r.trim_end_matches('/'));
        let rest = rest.expect("WALFERRY_TEST_CLICKHOUSE is http://[user:password@]host:port");
        let (user, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(login.split_once(':').unwrap_or((login, ""))), address),
            None => (None, rest),
        };
        ClickHouse {
            dir: None,
            address: address.to_owned(),
            user: user.map(|(name, password)| (name.to_owned(), password.to_owned())),
            secure: None,
        }
    }

    /// Whether the server is the test's own, so that it may be stopped, and others cannot log in.
    pub fn is_own(&self) -> bool {
        self.dir.is_some()
    }

    /// The server's process, if it is the test's own.
    pub fn pid(&self) -> Option<u32> {
        self.dir.as_deref().map(super::process::started_in)
    }

    /// Kills the server and starts it again.
    pub fn crash_and_restart(&mut self) {
        self.run("restart", &["--mode", "immediate"]);
    }

    /// Stops the server; requests in hand are ended first.
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
        let dir = self.dir.as_ref();
        let dir = dir.expect("only a server of the test's own is started and stopped");
        let said = super::dev_server("clickhouse", action, dir, more);
        if action != "stop" {
            self.address = format!("127.0.0.1:{}", named(&said, "port="));
        }
        if said.contains("secure=") {
            self.secure = Some((named(&said, "secure="), named(&said, "ca=").into()));
        }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// URL of a database on it.
    pub fn url(&self, database: &str) -> String {
        format!("http://{}{}/{database}", self.login(), self.address)
    }

    /// URL of a database by HTTPS, of a server that is secured.
    pub fn secure_url(&self, database: &str) -> String {
        let (address, _) = self.secure.as_ref().expect("it was started with --tls");
        format!("https://{}{address}/{database}", self.login())
    }

    /// File with the authority that signed its certificate.
    pub fn authority(&self) -> &std::path::Path {
        &self.secure.as_ref().expect("it was started with --tls").1
    }

    fn login(&self) -> String {
        let user = self.user.as_ref();
        user.map_or(String::new(), |(name, password)| {
            format!("{name}:{password}@")
        })
    }

    /// Runs a statement; panics when it fails.
    pub async fn sql(&self, statement: &str) {
        self.query(statement).await;
    }

    /// The rows of a query as tab-separated lines; panics when it fails.
    pub async fn query(&self, query: &str) -> String {
        let answer = self.ask(&[], query.as_bytes()).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        answer.text
    }

    /// Adds rows in a format: the statement ends with `FORMAT …`. Panics when it fails.
    pub async fn insert(&self, statement: &str, data: &[u8]) {
        let answer = self.ask(&[("query", statement)], data).await;
        assert_eq!(answer.status, 200, "{statement}: {}", answer.text);
    }

    /// Begins an INSERT with the first of its data, and does not end it.
    pub async fn begin_insert(&self, statement: &str, data: &[u8]) -> TcpStream {
        let (user, password) = self.who();
        let request = format!(
            "POST /?query={} HTTP/1.1\r\nHost: {}\r\nX-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\n\
             Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            encoded(statement),
            self.address,
            data.len()
        );
        let connected = TcpStream::connect(&self.address).await;
        let mut connection = connected.expect("the server takes connections");
        for part in [request.as_bytes(), data, b"\r\n"] {
            let written = connection.write_all(part).await;
            written.expect("the server reads on");
        }
        connection
    }

    fn who(&self) -> (&str, &str) {
        let user = self.user.as_ref();
        user.map_or(("default", ""), |(user, password)| (user, password))
    }

    /// A POST with parameters in the URL, whatever its answer.
    pub async fn ask(&self, parameters: &[(&str, &str)], body: &[u8]) -> Answer {
        let (user, password) = self.who();
        self.ask_as(user, password, parameters, body).await
    }

    /// The same as another user.
    pub async fn ask_as(
        &self,
        user: &str,
        password: &str,
        parameters: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let parameters: Vec<String> = parameters
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        let mut request = format!(
            "POST /?{} HTTP/1.0\r\nHost: {}\r\nX-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\n\
             Content-Length: {}\r\n\r\n",
            parameters.join("&"),
            self.address,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let (head, text) = http::ask_at(&self.address, &request)
            .await
            .unwrap_or_else(|error| panic!("ClickHouse on {}: {error}", self.address));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let code = head
            .lines()
            .find_map(|line| line.strip_prefix("X-ClickHouse-Exception-Code: "));
        Answer {
            status: status.unwrap_or_else(|| panic!("no status: {head}")),
            code: code.and_then(|code| code.parse().ok()),
            text,
        }
    }
}

/// A value as it stands in a URL.
fn encoded(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() {
            text.push(byte.into());
        } else {
            text += &format!("%{byte:02X}");
        }
    }
    text
}

impl Drop for ClickHouse {
    fn drop(&mut self) {
        let Some(dir) = &self.dir else { return };
        let stop = std::process::Command::new(super::dev())
            .args(["server", "clickhouse", "stop"])
            .arg(dir)
            .args(["--mode", "immediate"])
            .output();
        // The run stops what is left at its end.
        drop(stop);
        super::forget_data(&dir.join("data"));
    }
}
