//! `/metrics`, `/healthz`, `/readyz`, the status page, and what it and scripts ask for under `/v1/`. Answers
//! from what this process knows; asks neither Kafka nor any database, so it answers when they do not.

mod guard;
mod history;
mod page;
mod report;
mod sinks;
mod verdict;

use std::net::SocketAddr;

use axum::extract::State as Asked;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{HttpSettings, Secret};
use crate::error::{Class, Error, Result};
use crate::lag::{HostClock, SharedTracker};
use crate::metrics;
use crate::reload::Handle;
use crate::status::ProcessStatus;

use history::{History, HistoryReport, LOOK_EVERY};

pub use report::{SinkReport, SourceReport, StatusReport};
pub use sinks::Position;
pub(crate) use verdict::print_span;
pub use verdict::{Fact, HEADROOM_BAD_SECONDS, LAG_BAD_SECONDS, LAG_WATCH_SECONDS, Level, Verdict};

/// What the server tells of.
#[derive(Clone)]
pub struct Served {
    /// Views of all parts.
    pub status: ProcessStatus,
    /// Samples of the leader.
    pub lag: SharedTracker,
    /// The clock that the tracker is fed with.
    pub clock: HostClock,
    /// Asks for the settings to be read again.
    pub reload: Handle,
}

/// A server that is listening.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    /// Where; the port is the real one when the settings said 0.
    pub address: SocketAddr,
    /// Where `/metrics` is.
    pub metrics: SocketAddr,
}

/// What requests are answered from.
#[derive(Clone)]
struct Context {
    served: Served,
    history: History,
    token: Option<Secret>,
    stop: CancellationToken,
}

impl Context {
    fn report(&self) -> StatusReport {
        self.served.report(&self.history)
    }
}

/// Takes the addresses and serves on tasks of its own until `stop`.
///
/// # Errors
/// Transient when an address cannot be taken.
pub async fn serve(
    settings: &HttpSettings,
    served: Served,
    stop: CancellationToken,
) -> Result<Listening> {
    let context = Context {
        served,
        history: History::default(),
        token: settings.token.clone(),
        stop,
    };
    let (listener, address) = listen(settings.listen, "http.listen").await?;
    let mut listening = Listening {
        address,
        metrics: address,
    };
    let mut router = pages(&context);
    match settings.metrics_listen {
        None => router = router.merge(measured()),
        Some(elsewhere) => {
            let (listener, address) = listen(elsewhere, "http.metrics_listen").await?;
            listening.metrics = address;
            answer(listener, measured(), &context);
        }
    }
    answer(listener, router, &context);
    tokio::spawn(note_history(context));
    Ok(listening)
}

async fn listen(address: SocketAddr, setting: &str) -> Result<(TcpListener, SocketAddr)> {
    let taken = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    taken.await.map_err(|error| {
        Error::transient(format!(
            "cannot listen on {address} for metrics and status; stop what uses that address, or set {setting} in walferry.toml to another"
        ))
        .caused_by(error)
    })
}

fn answer(listener: TcpListener, router: Router<Context>, context: &Context) {
    let router = router.with_state(context.clone());
    let stop = context.stop.clone();
    tokio::spawn(async move {
        let shutdown = stop.cancelled_owned();
        let server = axum::serve(listener, router).with_graceful_shutdown(shutdown);
        if let Err(error) = server.await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
}

/// What scrapers and probes ask for.
fn measured() -> Router<Context> {
    Router::new().route("/metrics", get(metrics_page))
}

fn pages(context: &Context) -> Router<Context> {
    let guarded = middleware::from_fn_with_state(context.clone(), guard::guard);
    let changes = Router::new()
        .route("/v1/sinks/{name}/resume", post(sinks::resume))
        .route("/v1/reload", post(reload))
        .route_layer(guarded);
    Router::new()
        .route("/", get(page::page))
        .route("/page/page.css", get(page::style))
        .route("/page/page.js", get(page::script))
        .route("/page/icon.svg", get(page::icon))
        .route("/runbook", get(page::runbook))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/v1/status", get(status))
        .route("/v1/events", get(page::events))
        .route("/v1/history", get(history))
        .route("/v1/sinks/{name}/position", get(sinks::where_it_is))
        .route("/v1/sinks/{name}/wait", get(sinks::wait))
        .merge(changes)
}

/// Notes each second how parts are, for what a look at one moment does not show.
async fn note_history(context: Context) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !context.stop.is_cancelled() {
        every.tick().await;
        let report = context.report();
        let source = report.source.iter();
        let source = source.map(|part| (part.name.as_str(), part.view.state));
        let sinks = report.sinks.iter();
        let parts = source.chain(sinks.map(|part| (part.name.as_str(), part.view.state)));
        let sinks = report
            .sinks
            .iter()
            .map(|part| (part.name.as_str(), part.lag));
        let now = report.now_unix_seconds as u64;
        context.history.note(parts, sinks, now);
    }
}

async fn metrics_page(Asked(context): Asked<Context>) -> impl IntoResponse {
    let served = &context.served;
    let text = metrics::render(&served.status, &served.lag, &served.clock);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text)
}

async fn readyz(Asked(context): Asked<Context>) -> (StatusCode, String) {
    let reasons = context.report().not_ready;
    if reasons.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }
}

async fn status(Asked(context): Asked<Context>) -> Json<StatusReport> {
    Json(context.report())
}

/// Reads the settings again: 200 with what has changed, 400 with what is wrong with them, 503 on the way out.
async fn reload(Asked(context): Asked<Context>) -> Response {
    match context.served.reload.reload().await {
        Ok(reloaded) => Json(reloaded).into_response(),
        Err(error) => {
            let code = match error.class() {
                Class::Halt => StatusCode::BAD_REQUEST,
                Class::Transient | Class::Fenced => StatusCode::SERVICE_UNAVAILABLE,
            };
            let remedy = error.remedy().map(|remedy| format!("remedy: {remedy}\n"));
            let text = format!("{}\n{}", error.what(), remedy.unwrap_or_default());
            (code, text).into_response()
        }
    }
}

async fn history(Asked(context): Asked<Context>) -> Json<HistoryReport> {
    Json(context.history.report())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
