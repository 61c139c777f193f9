//! One sink: where it is, waiting for it, letting it go on.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State as Asked};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::Context;
use crate::model::Lsn;
use crate::status::{SinkHandle, SinkView, State};

/// The wait of a request that does not say how long.
const WAIT_DEFAULT: Duration = Duration::from_secs(1);
/// The longest wait of one request.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// `/v1/sinks/NAME/position`: what a reader of the follower sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The pipeline.
    pub pipeline: String,
    /// The sink.
    pub sink: String,
    /// What it does.
    pub state: State,
    /// The follower shows all that the leader committed up to here; none while that is not known, and
    /// while it is copied.
    pub lsn: Option<Lsn>,
    /// The leader's timeline that the LSN is of.
    pub timeline: Option<u32>,
    /// The leader's system identifier.
    pub system_id: Option<String>,
    /// The leader's clock at the last transaction that it shows, microseconds since 2000-01-01 UTC.
    pub commit_time_us: Option<i64>,
    /// Why the answer is not the one that was waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is waited for.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    lsn: Option<String>,
    timeline: Option<String>,
    timeout_ms: Option<String>,
}

/// The same, understood.
#[derive(Debug, PartialEq)]
struct Wait {
    lsn: Lsn,
    timeline: Option<u32>,
    longest: Duration,
}

impl Wanted {
    fn understood(&self) -> Result<Wait, String> {
        let lsn = self.lsn.as_deref().ok_or(
            "lsn is missing: write lsn=16/B374D848, what pg_current_wal_insert_lsn() said on the leader",
        )?;
        let lsn = lsn.parse().map_err(|_| {
            format!("lsn={lsn} is no LSN: write it as Postgres does, such as 16/B374D848")
        })?;
        let timeline = self.timeline.as_deref().map(|text| {
            text.parse()
                .map_err(|_| format!("timeline={text} is no timeline: write its number"))
        });
        let longest = match self.timeout_ms.as_deref() {
            None => WAIT_DEFAULT,
            Some(text) => {
                let ms = text.parse().ok().map(Duration::from_millis);
                ms.filter(|wait| *wait <= WAIT_MAX).ok_or_else(|| {
                    format!(
                        "timeout_ms={text} is no time to wait: write 0 to {}",
                        WAIT_MAX.as_millis()
                    )
                })?
            }
        };
        let timeline = timeline.transpose()?;
        Ok(Wait {
            lsn,
            timeline,
            longest,
        })
    }
}

/// Whether to go on waiting.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Look {
    Shows,
    OtherTimeline,
    WillNot,
    NotYet,
}

fn look(view: &SinkView, wait: &Wait) -> Look {
    // Of another timeline the same number is another place.
    let other = wait
        .timeline
        .zip(view.timeline)
        .is_some_and(|(wanted, is)| wanted != is);
    let shows = shown(view).is_some_and(|lsn| lsn >= wait.lsn);
    match view.state {
        _ if other => Look::OtherTimeline,
        State::Fenced | State::Stopped => Look::WillNot,
        // What it shows it shows, halted or not.
        _ if shows => Look::Shows,
        State::Halted | State::Paused => Look::WillNot,
        State::Starting | State::Waiting | State::Copying | State::Streaming | State::Retrying => {
            Look::NotYet
        }
    }
}

/// The boundary that the follower shows.
fn shown(view: &SinkView) -> Option<Lsn> {
    view.applied.filter(|_| !view.copying)
}

fn position(
    context: &Context,
    sink: &SinkHandle,
    view: &SinkView,
    error: Option<String>,
) -> Position {
    Position {
        pipeline: context.served.status.pipeline.clone(),
        sink: sink.name.clone(),
        state: view.state,
        lsn: shown(view),
        timeline: view.timeline,
        system_id: view.system_id.clone(),
        commit_time_us: view.commit_time_us,
        error,
    }
}

/// The sink of that name, or what to answer.
fn find(context: &Context, name: &str) -> Result<SinkHandle, (StatusCode, String)> {
    let parts = context.served.status.parts();
    parts.sink(name).cloned().ok_or_else(|| {
        let names: Vec<&str> = parts.sinks.iter().map(|sink| sink.name.as_str()).collect();
        let known = if names.is_empty() {
            "no sink".to_owned()
        } else {
            names.join(", ")
        };
        let unknown = format!("{name} is no sink of this process; it runs: {known}\n");
        (StatusCode::NOT_FOUND, unknown)
    })
}

/// Where it is: 200; 404 when it does not run here.
pub(super) async fn where_it_is(
    Asked(context): Asked<Context>,
    Path(name): Path<String>,
) -> Response {
    match find(&context, &name) {
        Ok(sink) => Json(position(&context, &sink, &sink.view.get(), None)).into_response(),
        Err(unknown) => unknown.into_response(),
    }
}

/// Waits until the follower shows an LSN: 200; 400 when it is not understood, 404 when the sink does not run
/// here, 409 for another timeline, 503 when it has halted or does not run any more, 504 when time is up.
pub(super) async fn wait(
    Asked(context): Asked<Context>,
    Path(name): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let sink = match find(&context, &name) {
        Ok(sink) => sink,
        Err(unknown) => return unknown.into_response(),
    };
    let wait = match wanted.understood() {
        Ok(wait) => wait,
        Err(what) => return (StatusCode::BAD_REQUEST, what + "\n").into_response(),
    };
    let answered = timeout(wait.longest, until_known(&sink, &wait)).await;
    let view = sink.view.get();
    let (code, error) = match answered.unwrap_or_else(|_| look(&view, &wait)) {
        Look::Shows => (StatusCode::OK, None),
        Look::OtherTimeline => {
            let is = view
                .timeline
                .map_or_else(String::new, |is| format!(" {is}"));
            let error =
                format!("the follower is on the leader's timeline{is}, not on the one asked for");
            (StatusCode::CONFLICT, Some(error))
        }
        Look::WillNot => {
            let is = format!("the sink is {}", view.state.name());
            let error = view.last_error.as_ref();
            let error = error.map_or(is.clone(), |error| format!("{is}: {}", error.what));
            (StatusCode::SERVICE_UNAVAILABLE, Some(error))
        }
        Look::NotYet => {
            let error = format!("the follower does not show {} yet", wait.lsn);
            (StatusCode::GATEWAY_TIMEOUT, Some(error))
        }
    };
    (code, Json(position(&context, &sink, &view, error))).into_response()
}

async fn until_known(sink: &SinkHandle, wait: &Wait) -> Look {
    loop {
        let changed = sink.view.changed();
        let found = sink.view.look(|view| look(view, wait));
        if found != Look::NotYet {
            return found;
        }
        changed.await;
    }
}

/// Lets a halted sink go on: 202; 404 when it does not run here, 409 when it has not halted.
pub(super) async fn resume(
    Asked(context): Asked<Context>,
    Path(name): Path<String>,
) -> (StatusCode, String) {
    let sink = match find(&context, &name) {
        Ok(sink) => sink,
        Err(unknown) => return unknown,
    };
    match sink.resume() {
        Ok(()) => (StatusCode::ACCEPTED, format!("{name} goes on\n")),
        Err(state) => (
            StatusCode::CONFLICT,
            format!("{name} has not halted: it is {}\n", state.name()),
        ),
    }
}
