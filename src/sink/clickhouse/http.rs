//! One connection to ClickHouse's HTTP interface, kept open from request to request.
//!
//! Requests go one after the other. The connection has TCP_NODELAY: without it a small insert waits for the
//! acknowledgement of the request's head, some 40 ms. An answer whose status is not 200 is an error of the
//! server with a code; the server holds answers back until a statement has ended (`wait_end_of_query`), so
//! that no error comes in the middle of one.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Either, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use super::failure::{Failure, refused};
use super::hearing::Hearing;
use super::streamed::Streamed;
use crate::config::ServerSettings;
use crate::error::{Error, Result};
use crate::postgres::tls::{encryption, handshake_failed};
use crate::postgres::{
    Encryption, TCP_KEEPALIVE_IDLE, TCP_KEEPALIVE_INTERVAL, TCP_KEEPALIVE_RETRIES, TCP_USER_TIMEOUT,
};

/// Settings of every statement.
const SETTINGS: &[(&str, &str)] = &[
    ("wait_end_of_query", "1"),
    // What is acknowledged is written.
    ("async_insert", "0"),
    // ALTER and DELETE have happened when they return.
    ("mutations_sync", "2"),
    ("alter_sync", "2"),
    // JSON columns are read and sent as their text.
    ("input_format_binary_read_json_as_string", "1"),
    ("output_format_binary_write_json_as_string", "1"),
    // Names of keys in IN lists.
    ("max_query_size", "67108864"),
    ("max_ast_elements", "10000000"),
    ("max_expanded_ast_elements", "10000000"),
];

/// Lifts the server's guard against removing large tables.
const ANY_SIZE: &[(&str, &str)] = &[
    ("max_table_size_to_drop", "0"),
    ("max_partition_size_to_drop", "0"),
];

/// How much longer than the server's own limit an answer is awaited.
const ANSWER_GRACE: Duration = Duration::from_secs(30);

/// A statement.
pub(super) struct Query<'a> {
    /// Its text; of an INSERT without its data.
    pub sql: &'a str,
    /// The data of an INSERT.
    pub data: Option<Data>,
    /// Settings beside [`SETTINGS`].
    pub settings: &'a [(&'a str, &'a str)],
    /// With none of those: any server knows it.
    pub is_plain: bool,
}

impl<'a> Query<'a> {
    /// A statement without data.
    pub(super) fn new(sql: &'a str) -> Self {
        Query {
            sql,
            data: None,
            settings: &[],
            is_plain: false,
        }
    }

    /// A statement for a server that may be too old to know the settings.
    pub(super) fn plain(sql: &'a str) -> Self {
        Query {
            is_plain: true,
            ..Query::new(sql)
        }
    }
}

/// What is sent with a request: all at once, or while it is written.
pub(super) type Data = Either<Full<Bytes>, Streamed>;

/// Sent at once.
pub(super) fn whole(data: Vec<u8>) -> Data {
    Either::Left(Full::new(data.into()))
}

/// A connection.
pub(super) struct Http {
    settings: ServerSettings,
    /// Longest time of a statement.
    limit: Duration,
    sender: Mutex<Option<SendRequest<Data>>>,
}

impl Http {
    /// Nothing is connected yet.
    pub(super) fn new(settings: ServerSettings, limit: Duration) -> Self {
        Http {
            settings,
            limit,
            sender: Mutex::new(None),
        }
    }

    /// Runs a statement that answers nothing, or nothing of interest.
    ///
    /// # Errors
    /// As [`Http::ask`].
    pub(super) async fn run(&self, sql: &str) -> Result<(), Failure> {
        self.ask(Query::new(sql)).await.map(drop)
    }

    /// Runs a statement that empties or drops a table, whatever its size.
    ///
    /// # Errors
    /// As [`Http::ask`].
    pub(super) async fn remove(&self, sql: &str) -> Result<(), Failure> {
        let query = Query {
            settings: ANY_SIZE,
            ..Query::new(sql)
        };
        self.ask(query).await.map(drop)
    }

    /// Whether a query, of one number, answers anything but zero.
    ///
    /// # Errors
    /// As [`Http::ask`].
    pub(super) async fn is_any(&self, sql: &str) -> Result<bool, Failure> {
        let answer = self.ask(Query::new(sql)).await?;
        Ok(answer.trim_ascii() != b"0")
    }

    /// Runs a statement; what it answers.
    ///
    /// # Errors
    /// What the server says, or that it cannot be asked; the outcome of the statement is not known then.
    pub(super) async fn ask(&self, query: Query<'_>) -> Result<Bytes, Failure> {
        let mut sender = self.sender.lock().await;
        // It may have closed a connection that was quiet; nothing was asked of this one yet.
        let usable = match sender.take() {
            Some(mut kept) => kept.ready().await.ok().map(|()| kept),
            None => None,
        };
        let mut connection = match usable {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let request = self.request(query)?;
        let answered = tokio::time::timeout(self.limit + ANSWER_GRACE, async {
            let answer = connection.send_request(request).await?;
            let (head, body) = answer.into_parts();
            Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
        });
        let (head, body) = match answered.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                return Err(Error::transient("the connection to ClickHouse was lost")
                    .caused_by(error)
                    .into());
            }
            Err(_elapsed) => {
                let seconds = (self.limit + ANSWER_GRACE).as_secs();
                return Err(Error::transient(format!("no answer within {seconds} s"))
                    .taking_too_long()
                    .into());
            }
        };
        *sender = Some(connection);
        match head.status {
            StatusCode::OK => Ok(body),
            status => {
                let code = head.headers.get("X-ClickHouse-Exception-Code");
                let code = code.and_then(|code| code.to_str().ok()?.parse().ok());
                Err(refused(status.as_u16(), code, &body))
            }
        }
    }

    fn request(&self, query: Query<'_>) -> Result<Request<Data>> {
        let url = &self.settings.url;
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut path = format!("/?max_execution_time={}", self.limit.as_secs());
        let mut add = |name: &str, value: &str| {
            path.push_str(&format!("&{name}={}", encode(value)));
        };
        let settings = if query.is_plain { &[] } else { SETTINGS };
        for (name, value) in settings.iter().chain(query.settings) {
            add(name, value);
        }
        let body = match query.data {
            Some(data) => {
                add("query", query.sql);
                data
            }
            None => whole(query.sql.as_bytes().to_vec()),
        };
        let mut request = Request::post(path).header("Host", self.host());
        if let Some(user) = &url.user {
            request = request.header("X-ClickHouse-User", user);
        }
        if let Some(password) = &url.password {
            request = request.header("X-ClickHouse-Key", password.reveal());
        }
        request.body(body).map_err(|_not_a_header| {
            Error::halt(
                "user or password has a character that an HTTP header cannot carry",
                "give the user of the sink's url a name and a password of visible ASCII characters",
            )
        })
    }

    fn host(&self) -> String {
        let url = &self.settings.url;
        match url.host.contains(':') {
            true => format!("[{}]:{}", url.host, url.port),
            false => format!("{}:{}", url.host, url.port),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Data>> {
        let limit = self.settings.connect_timeout;
        let connected = tokio::time::timeout(limit, self.open()).await;
        connected.map_err(|_elapsed| {
            let seconds = limit.as_secs_f64();
            Error::transient(format!(
                "connecting to {}: no answer within {seconds} s",
                self.host()
            ))
        })?
    }

    async fn open(&self) -> Result<SendRequest<Data>> {
        let url = &self.settings.url;
        let unreachable = |error: std::io::Error| {
            Error::transient(format!("connecting to {}", self.host())).caused_by(error)
        };
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await;
        let stream = stream.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let socket = socket2::SockRef::from(&stream);
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(TCP_KEEPALIVE_IDLE)
            .with_interval(TCP_KEEPALIVE_INTERVAL)
            .with_retries(TCP_KEEPALIVE_RETRIES);
        socket.set_tcp_keepalive(&keepalive).map_err(unreachable)?;
        let timeout = socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        timeout.map_err(unreachable)?;
        let stream = Hearing::new(stream);
        match encryption(&self.settings.tls)? {
            Encryption::Never => shake_hands(stream).await,
            Encryption::IfOffered(tls) | Encryption::Always(tls) => {
                let name = ServerName::try_from(url.host.clone()).map_err(|_not_a_name| {
                    Error::halt(
                        "the url's host is no name that a certificate could have",
                        "write the host's name or address in the sink's url",
                    )
                })?;
                let connector = TlsConnector::from(Arc::clone(&tls));
                let stream = connector.connect(name, stream).await;
                shake_hands(stream.map_err(|error| handshake_failed(&error))?).await
            }
        }
    }
}

async fn shake_hands<S>(stream: S) -> Result<SendRequest<Data>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let made = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(|error| {
        Error::transient("beginning to speak HTTP with ClickHouse").caused_by(error)
    })?;
    // Ends with the sender; its errors reach whoever waits for an answer.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to ClickHouse ended");
        }
    });
    Ok(sender)
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
