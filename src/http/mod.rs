//! `/metrics`, `/healthz`, `/readyz`, `/v1/status` and `/v1/sinks/NAME/resume`. Answers from what this
//! process knows; asks neither Kafka nor any database, so it answers when they do not.

use std::net::SocketAddr;

use axum::extract::{Path, State as Asked};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::lag::{HostClock, Lag, SharedTracker};
use crate::metrics;
use crate::status::{LastError, ProcessStatus, SinkView, SourceView, State};

/// What the server tells of.
#[derive(Clone)]
pub struct Served {
    /// Views of all parts.
    pub status: ProcessStatus,
    /// Samples of the leader.
    pub lag: SharedTracker,
    /// The clock that the tracker is fed with.
    pub clock: HostClock,
}

/// A server that is listening.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    /// Where; the port is the real one when the settings said 0.
    pub address: SocketAddr,
}

/// `/v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// walferry's version.
    pub version: String,
    /// The pipeline.
    pub pipeline: String,
    /// The source, if it runs in this process.
    pub source: Option<SourceReport>,
    /// Sinks of this process, by name.
    pub sinks: Vec<SinkReport>,
    /// Why the process is not ready; empty when it is.
    pub not_ready: Vec<String>,
}

/// The source in `/v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Its view.
    #[serde(flatten)]
    pub view: SourceView,
}

/// A sink in `/v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SinkReport {
    /// Its name.
    pub name: String,
    /// Its view.
    #[serde(flatten)]
    pub view: SinkView,
    /// How far behind it is.
    pub lag: Lag,
}

/// Takes the address and serves on a task of its own until `stop`.
///
/// # Errors
/// Transient when the address cannot be taken.
pub async fn serve(
    address: SocketAddr,
    served: Served,
    stop: CancellationToken,
) -> Result<Listening> {
    let taken = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    let (listener, address) = taken.await.map_err(|error| {
        Error::transient(format!(
            "cannot listen on {address} for metrics and status; stop what uses that address, or set http.listen in walferry.toml to another"
        ))
        .caused_by(error)
    })?;
    let router = router(served);
    tokio::spawn(async move {
        let shutdown = async move { stop.cancelled().await };
        let server = axum::serve(listener, router).with_graceful_shutdown(shutdown);
        if let Err(error) = server.await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    Ok(Listening { address })
}

fn router(served: Served) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/v1/status", get(status))
        .route("/v1/sinks/{name}/resume", post(resume))
        .with_state(served)
}

async fn metrics_page(Asked(served): Asked<Served>) -> impl IntoResponse {
    let text = metrics::render(&served.status, &served.lag, &served.clock);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text)
}

async fn readyz(Asked(served): Asked<Served>) -> (StatusCode, String) {
    let reasons = served.report().not_ready;
    if reasons.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }
}

async fn status(Asked(served): Asked<Served>) -> Json<StatusReport> {
    Json(served.report())
}

/// Lets a halted sink go on: 202; 404 when it does not run here, 409 when it has not halted.
async fn resume(Asked(served): Asked<Served>, Path(name): Path<String>) -> (StatusCode, String) {
    let sinks = &served.status.sinks;
    let Some(sink) = sinks.iter().find(|sink| sink.name == name) else {
        let names: Vec<&str> = sinks.iter().map(|sink| sink.name.as_str()).collect();
        let known = format!(
            "{name} is no sink of this process; it runs: {}\n",
            names.join(", ")
        );
        return (StatusCode::NOT_FOUND, known);
    };
    match sink.resume() {
        Ok(()) => (StatusCode::ACCEPTED, format!("{name} goes on\n")),
        Err(state) => (
            StatusCode::CONFLICT,
            format!("{name} has not halted: it is {}\n", state.name()),
        ),
    }
}

impl Served {
    /// Everything now.
    pub fn report(&self) -> StatusReport {
        let source = self
            .status
            .source
            .as_ref()
            .map(|(name, view)| SourceReport {
                name: name.clone(),
                view: view.get(),
            });
        let sinks: Vec<SinkReport> = self
            .status
            .sinks
            .iter()
            .map(|sink| {
                let view = sink.view.get();
                SinkReport {
                    name: sink.name.clone(),
                    lag: self.lag.lock().sink_lag(&view, self.clock.now_us()),
                    view,
                }
            })
            .collect();
        let source_part = source
            .iter()
            .map(|s| (s.name.as_str(), s.view.state, &s.view.last_error));
        let sink_parts = sinks
            .iter()
            .map(|s| (s.name.as_str(), s.view.state, &s.view.last_error));
        let not_ready = not_ready(source_part.chain(sink_parts));
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: self.status.pipeline.clone(),
            not_ready,
            source,
            sinks,
        }
    }
}

/// Parts that are not in their normal work, with what they do instead; where an error keeps them from it
/// also what it is and what to do.
fn not_ready<'a>(
    parts: impl Iterator<Item = (&'a str, State, &'a Option<LastError>)>,
) -> Vec<String> {
    parts
        .filter(|(_, state, _)| *state != State::Streaming)
        .map(|(name, state, error)| {
            let named = format!("{name} is {}", state.name());
            match (state, error) {
                (State::Halted | State::Retrying, Some(error)) => match &error.remedy {
                    Some(remedy) => format!("{named}: {}; what to do: {remedy}", error.what),
                    None => format!("{named}: {}", error.what),
                },
                _other => named,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::SinkHandle;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: SocketAddr, path: &str) -> String {
        ask(address, "GET", path).await
    }

    async fn ask(address: SocketAddr, method: &str, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn served() -> Served {
        let sink = SinkHandle {
            name: "dw".to_owned(),
            view: Arc::default(),
            resume: Arc::default(),
        };
        Served {
            status: ProcessStatus {
                pipeline: "shop".to_owned(),
                source: Some(("leader".to_owned(), Arc::default())),
                sinks: vec![sink],
                event_loop: Arc::default(),
            },
            lag: SharedTracker::default(),
            clock: HostClock::start(),
        }
    }

    /// A server on a free port, until the token is cancelled.
    async fn serving() -> (Served, SocketAddr, CancellationToken) {
        let (served, stop) = (served(), CancellationToken::new());
        let any = "127.0.0.1:0".parse().unwrap();
        let listening = serve(any, served.clone(), stop.clone()).await;
        (served, listening.unwrap().address, stop)
    }

    #[tokio::test]
    async fn every_page_answers_and_readiness_follows_the_states() {
        let (served, address, stop) = serving().await;
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let not_ready = get(address, "/readyz").await;
        assert!(not_ready.starts_with("HTTP/1.1 503"), "{not_ready}");
        assert!(
            not_ready.contains("leader is starting\ndw is starting"),
            "{not_ready}"
        );
        served.status.sinks[0]
            .view
            .update(|v| v.state = State::Streaming);
        let (_, source) = served.status.source.as_ref().unwrap();
        source.update(|v| v.state = State::Streaming);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(
            get(address, "/metrics")
                .await
                .contains("walferry_build_info{")
        );
        let answer = get(address, "/v1/status").await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let report: StatusReport = serde_json::from_str(body).unwrap();
        assert_eq!(report.sinks[0].view.state, State::Streaming);
        assert_eq!(report.sinks[0].lag.bytes, None);
        stop.cancel();
    }

    #[tokio::test]
    async fn only_a_halted_sink_of_this_process_is_resumed() {
        let (served, address, stop) = serving().await;
        let post = async |path| ask(address, "POST", path).await;
        assert!(
            get(address, "/v1/sinks/dw/resume")
                .await
                .starts_with("HTTP/1.1 405")
        );
        let unknown = post("/v1/sinks/nobody/resume").await;
        assert!(
            unknown.starts_with("HTTP/1.1 404") && unknown.contains("it runs: dw"),
            "{unknown}"
        );
        let starting = post("/v1/sinks/dw/resume").await;
        assert!(
            starting.starts_with("HTTP/1.1 409") && starting.contains("starting"),
            "{starting}"
        );
        let view = &served.status.sinks[0].view;
        view.update(|v| v.state = State::Halted);
        assert!(
            post("/v1/sinks/dw/resume")
                .await
                .starts_with("HTTP/1.1 202")
        );
        assert_eq!(view.get().state, State::Starting);
        stop.cancel();
    }

    #[tokio::test]
    async fn an_address_in_use_is_said_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = serve(address, served(), CancellationToken::new())
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&address.to_string()) && text.contains("http.listen"),
            "{text}"
        );
    }
}
