//! HTTP requests with small answers: toxiproxy's API and walferry's status.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Sends a request to a port of this machine; returns the answer's body.
///
/// # Errors
/// When nobody answers in time, or with another status than 2xx.
pub async fn request(
    port: u16,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<String> {
    tokio::time::timeout(ANSWER_MAX, exchange(port, method, path, body))
        .await
        .with_context(|| format!("{method} {path} on port {port}: no answer"))?
}

async fn exchange(
    port: u16,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("not HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !status.starts_with('2') {
        bail!("{method} {path} on port {port}: {status} {body}");
    }
    Ok(body.to_owned())
}

/// `walferry`'s `/v1/status`.
pub async fn status(port: u16) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(
        &request(port, "GET", "/v1/status", None).await?,
    )?)
}
