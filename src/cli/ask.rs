//! Asking a running walferry over HTTP: where it listens, what it says, what it is told to do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Failure;
use crate::config::Secret;
use crate::error::{Error, Result};
use crate::http::StatusReport;
use crate::reload::Reloaded;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The same of a reload, which waits until connectors have stopped.
const RELOAD_MAX: Duration = Duration::from_secs(60);
/// Answers larger than this are not walferry's.
const ANSWER_MAX_BYTES: u64 = 16 << 20;

/// `host:port` of an `http://` URL.
///
/// # Errors
/// Halt for anything else.
pub(super) fn address_of(url: &str) -> Result<String> {
    let wrong = || {
        Error::halt(
            format!("--url {url}: not an address of walferry's"),
            "write http://host:port, such as http://127.0.0.1:8642",
        )
    };
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
    if host.is_empty() || port.parse::<u16>().is_err() || rest.contains("://") {
        return Err(wrong());
    }
    Ok(authority.to_owned())
}

/// Where to ask a walferry on this machine that listens on `listen`.
pub(super) fn local(mut listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    listen
}

/// The body of `GET /v1/status`.
pub(super) async fn fetch(address: &str) -> Result<String> {
    match ask(address, "GET /v1/status", None, ANSWER_MAX).await? {
        (200, body) => Ok(body),
        (_other, _body) => Err(not_walferry(address)),
    }
}

/// What a running walferry says of itself.
///
/// # Errors
/// Transient when nobody answers, or something else does.
pub(super) async fn report(address: &str) -> Result<StatusReport> {
    parse(address, &fetch(address).await?)
}

/// Lets a halted sink of a running walferry go on; what it answers.
pub(super) async fn resume(
    address: &str,
    sink: &str,
    token: Option<&Secret>,
) -> Result<(), Failure> {
    let asked = format!("POST /v1/sinks/{sink}/resume");
    let answer = ask(address, &asked, token, ANSWER_MAX).await;
    let (code, body) = answer.map_err(Failure::RunTime)?;
    let body = body.trim_end();
    match code {
        202 => {
            println!("{body}; walferry status tells how it gets on");
            Ok(())
        }
        404 | 409 if !body.is_empty() => Err(Failure::Usage(Error::halt(
            body,
            "name a sink that walferry status shows as halted; --url asks another process",
        ))),
        401 => Err(no_token(address)),
        _ => Err(Failure::RunTime(not_walferry(address))),
    }
}

/// Lets a running walferry read its settings again; prints what it has changed.
pub(super) async fn reload(address: &str, token: Option<&Secret>) -> Result<(), Failure> {
    let answer = ask(address, "POST /v1/reload", token, RELOAD_MAX).await;
    let (code, body) = answer.map_err(Failure::RunTime)?;
    match code {
        200 => {
            let reloaded: Reloaded = serde_json::from_str(&body)
                .map_err(|error| Failure::RunTime(not_walferry(address).caused_by(error)))?;
            print!("{}", changed(&reloaded));
            Ok(())
        }
        400 => {
            let (what, remedy) = body
                .trim_end()
                .split_once("\nremedy: ")
                .unwrap_or((body.trim_end(), "correct the settings and reload again"));
            Err(Failure::Usage(Error::halt(what, remedy)))
        }
        401 => Err(no_token(address)),
        _ => Err(Failure::RunTime(not_walferry(address))),
    }
}

fn changed(reloaded: &Reloaded) -> String {
    let lines = [
        ("started", &reloaded.added),
        ("stopped", &reloaded.removed),
        ("restarted", &reloaded.restarted),
        ("unchanged", &reloaded.unchanged),
    ];
    let named = lines.iter().filter(|(_, names)| !names.is_empty());
    let lines = named.map(|(what, names)| format!("{what}: {}\n", names.join(", ")));
    lines.collect()
}

fn no_token(address: &str) -> Failure {
    Failure::Usage(Error::halt(
        format!("walferry on {address} does not take the token, or wants one"),
        "run this where walferry.toml has its http.token, or set WALFERRY_HTTP_TOKEN",
    ))
}

/// Status code and body of an answer, by HTTP/1.0 so that it comes in one piece.
async fn ask(
    address: &str,
    method_and_path: &str,
    token: Option<&Secret>,
    longest: Duration,
) -> Result<(u16, String)> {
    let bearer = token.map(|token| format!("Authorization: Bearer {}\r\n", token.reveal()));
    let bearer = bearer.unwrap_or_default();
    let request = format!("{method_and_path} HTTP/1.0\r\nHost: {address}\r\n{bearer}\r\n");
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream
            .take(ANSWER_MAX_BYTES)
            .read_to_end(&mut answer)
            .await?;
        Ok::<_, std::io::Error>(answer)
    };
    let unreachable = || {
        Error::transient(format!(
            "no walferry answers on {address}; is `walferry run` running, and is that its http.listen?"
        ))
    };
    let answer = tokio::time::timeout(longest, asked)
        .await
        .map_err(|_| unreachable())?
        .map_err(|error| unreachable().caused_by(error))?;
    let answer = String::from_utf8_lossy(&answer);
    let parts = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let code = head.split(' ').nth(1)?.parse().ok()?;
        Some((code, body.to_owned()))
    });
    parts.ok_or_else(|| not_walferry(address))
}

/// The status that a body holds.
pub(super) fn parse(address: &str, body: &str) -> Result<StatusReport> {
    serde_json::from_str(body).map_err(|error| not_walferry(address).caused_by(error))
}

fn not_walferry(address: &str) -> Error {
    Error::transient(format!(
        "what listens on {address} does not answer as this version of walferry does"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_changed_is_a_line_a_kind() {
        let reloaded = Reloaded {
            added: vec!["b".to_owned(), "c".to_owned()],
            unchanged: vec!["leader".to_owned()],
            ..Reloaded::default()
        };
        assert_eq!(changed(&reloaded), "started: b, c\nunchanged: leader\n");
    }

    #[test]
    fn addresses_are_http_only() {
        assert_eq!(address_of("http://h:1/").unwrap(), "h:1");
        assert_eq!(address_of("h:1").unwrap(), "h:1");
        assert_eq!(address_of("http://[::1]:80").unwrap(), "[::1]:80");
        for wrong in ["https://h:1", "http://h", "h", ":1", ""] {
            assert!(address_of(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            local("0.0.0.0:7".parse().unwrap()).to_string(),
            "127.0.0.1:7"
        );
    }
}
