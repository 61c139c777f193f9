//! The way to the collector: plain HTTP, one request at a time, on the thread that the library sends from.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};

/// Longest wait for a connection, and for each piece of an answer.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Answers longer than this are cut off: what is in them is not looked at.
const ANSWER_MAX: u64 = 64 << 10;

/// Sends to one collector.
#[derive(Debug)]
pub(super) struct Client {
    address: String,
    /// Whether it was said that the collector does not take spans.
    said: AtomicBool,
}

impl Client {
    /// `address`: host and port.
    pub(super) fn new(address: String) -> Self {
        let said = AtomicBool::new(false);
        Client { address, said }
    }

    fn send(&self, request: &Request<Bytes>) -> io::Result<Response<Bytes>> {
        let mut tried = Err(io::Error::other("the name has no address"));
        for address in self.address.to_socket_addrs()? {
            tried = TcpStream::connect_timeout(&address, WAIT_MAX);
            if tried.is_ok() {
                break;
            }
        }
        let mut stream = tried?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        stream.set_write_timeout(Some(WAIT_MAX))?;
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            request.method(),
            request.uri().path(),
            self.address,
            request.body().len()
        );
        for (name, value) in request.headers() {
            head.push_str(&format!(
                "{name}: {}\r\n",
                value.to_str().unwrap_or_default()
            ));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(request.body())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
        let status = answer.split(|byte| *byte == b' ').nth(1);
        let status = status.and_then(|status| str::from_utf8(status).ok()?.parse().ok());
        let status: u16 = status.ok_or_else(|| io::Error::other("the answer is not HTTP"))?;
        // What a collector answers in the body (a partial success) changes nothing here.
        Response::builder()
            .status(status)
            .body(Bytes::new())
            .map_err(io::Error::other)
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.send(&request);
        let failed = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answered {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        match failed {
            Some(error) if !self.said.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    collector = self.address,
                    error,
                    "the OpenTelemetry collector does not take spans; they are dropped until it does"
                );
            }
            None if self.said.swap(false, Ordering::Relaxed) => {
                tracing::info!(
                    collector = self.address,
                    "the OpenTelemetry collector takes spans again"
                );
            }
            Some(_) | None => {}
        }
        Ok(sent?)
    }
}
