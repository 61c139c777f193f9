//! What a running walferry says over HTTP.

use serde_json::Value;

use super::Pipeline;

/// The value of a metric, if it is there. With `sink`: the one with that label.
pub async fn metric(pipeline: &Pipeline, name: &str, sink: Option<&str>) -> Option<f64> {
    let text = scrape(pipeline).await.ok()?;
    let label = sink.map(|sink| format!("sink=\"{sink}\""));
    series(&text, name, label.as_deref().as_slice())
}

/// The value of the series in a scrape that has all these labels, if it is there.
pub fn series(scraped: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let line = scraped.lines().find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// What `/metrics` says.
pub async fn scrape(pipeline: &Pipeline) -> Result<String, String> {
    get(pipeline, "/metrics").await.map(|(_, body)| body)
}

/// What `/v1/status` says of a part.
pub async fn part(pipeline: &Pipeline, name: &str) -> Result<Value, String> {
    let (_, body) = get(pipeline, "/v1/status").await?;
    let status: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
    let sinks = status["sinks"].as_array().into_iter().flatten();
    let mut parts = sinks.chain([&status["source"]]);
    let found = parts.find(|part| part["name"] == name).cloned();
    found.ok_or(body)
}

/// Waits until a part is in a state; what `/v1/status` says of it then.
pub async fn comes_into(pipeline: &Pipeline, name: &str, state: &str) -> Value {
    super::until(&format!("{name} is {state}"), || async {
        let part = part(pipeline, name).await?;
        match part["state"] == state {
            true => Ok(part),
            false => Err(part.to_string()),
        }
    })
    .await
}

/// A plain HTTP GET: status and body.
pub async fn get(pipeline: &Pipeline, path: &str) -> Result<(u16, String), String> {
    get_from(pipeline.http_port, path).await
}

/// The same from any port of this machine.
pub async fn get_from(port: u16, path: &str) -> Result<(u16, String), String> {
    exchange(
        port,
        &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"),
    )
    .await
}

/// A POST of JSON to any port of this machine: status and body.
pub async fn post(port: u16, path: &str, body: &Value) -> Result<(u16, String), String> {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    exchange(port, &(head + &body)).await
}

async fn exchange(port: u16, request: &str) -> Result<(u16, String), String> {
    let (head, body) = ask(port, request).await?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or("no status")?;
    Ok((status, body))
}

/// Head and body of what a request brings; of HTTP 1.0, so that the body is what comes behind the head.
pub async fn ask(port: u16, request: &str) -> Result<(String, String), String> {
    ask_at(&format!("127.0.0.1:{port}"), request.as_bytes()).await
}

/// The same at any address, and with a body of any bytes.
pub async fn ask_at(address: &str, request: &[u8]) -> Result<(String, String), String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    stream.write_all(request).await.map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no header")?;
    Ok((head.to_owned(), body.to_owned()))
}
