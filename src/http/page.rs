//! The status page: its files, and the events that it lives on.

use std::convert::Infallible;

use axum::extract::State as Asked;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt, stream};
use tokio::time::{MissedTickBehavior, interval};

use super::Context;
use super::history::LOOK_EVERY;

/// Nothing from elsewhere, no frame around it, no script in the text of the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // It changes with the program that serves it.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}

pub(super) async fn page() -> impl IntoResponse {
    file("text/html; charset=utf-8", include_str!("page/page.html"))
}

pub(super) async fn style() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("page/page.css"))
}

pub(super) async fn script() -> impl IntoResponse {
    file(
        "text/javascript; charset=utf-8",
        include_str!("page/page.js"),
    )
}

/// What to do at each alert: the page that alerts and dashboards point to, as this version has it.
pub(super) async fn runbook() -> impl IntoResponse {
    file(
        "text/plain; charset=utf-8",
        include_str!("../../docs/operations.md"),
    )
}

pub(super) async fn icon() -> impl IntoResponse {
    file("image/svg+xml", include_str!("page/icon.svg"))
}

/// `/v1/events`: what `/v1/status` says, as an event `status` each second, until the server stops.
pub(super) async fn events(
    Asked(context): Asked<Context>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let stop = context.stop.clone().cancelled_owned();
    let reports = stream::unfold((every, context), async |(mut every, context)| {
        every.tick().await;
        // A view always has a form in JSON; if not, the page says that nothing comes.
        let event = Event::default().event("status").json_data(context.report());
        Some((Ok(event.unwrap_or_default()), (every, context)))
    });
    Sse::new(reports.take_until(stop)).keep_alive(KeepAlive::default())
}
