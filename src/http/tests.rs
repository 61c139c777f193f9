use super::*;
use crate::model::Lsn;
use crate::reload::{Reloaded, channel};
use crate::status::{Parts, SinkHandle, State};
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
    let parts = Parts {
        source: Some(("leader".to_owned(), Arc::default())),
        sinks: vec![SinkHandle::new("dw")],
    };
    Served {
        status: ProcessStatus::new("shop", parts),
        reload: channel().0,
        lag: SharedTracker::default(),
        clock: HostClock::start(),
    }
}

/// Any free port.
fn settings() -> HttpSettings {
    HttpSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        metrics_listen: None,
        token: None,
    }
}

/// A server on a free port, until the token is cancelled.
async fn serving() -> (Served, SocketAddr, CancellationToken) {
    let (served, stop) = (served(), CancellationToken::new());
    let listening = serve(&settings(), served.clone(), stop.clone()).await;
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
    let parts = served.status.parts();
    parts.sinks[0].view.update(|v| v.state = State::Streaming);
    let (_, source) = parts.source.as_ref().unwrap();
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
    let view = &served.status.parts().sinks[0].view;
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
    let taken = HttpSettings {
        listen: address,
        ..settings()
    };
    let error = serve(&taken, served(), CancellationToken::new())
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&address.to_string()) && text.contains("http.listen"),
        "{text}"
    );
}

fn body<T: serde::de::DeserializeOwned>(answer: &str) -> T {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn what_the_follower_shows_is_waited_for() {
    let (served, address, stop) = serving().await;
    let view = served.status.parts().sinks[0].view.clone();
    let wait = "/v1/sinks/dw/wait?timeout_ms=60000&lsn=0/C8";
    let waiting = tokio::spawn(async move { get(address, wait).await });
    view.update(|v| {
        (v.state, v.copying) = (State::Streaming, true);
        (v.applied, v.timeline) = (Some(Lsn(300)), Some(2));
    });
    let at_once = get(address, "/v1/sinks/dw/wait?lsn=0/C8&timeout_ms=0").await;
    assert!(at_once.starts_with("HTTP/1.1 504"), "{at_once}");
    assert_eq!(body::<Position>(&at_once).lsn, None, "it is copied");
    assert!(!waiting.is_finished());
    view.update(|v| v.copying = false);
    let shown = waiting.await.unwrap();
    assert!(shown.starts_with("HTTP/1.1 200"), "{shown}");
    let position: Position = body(&shown);
    assert_eq!((position.lsn, position.error), (Some(Lsn(300)), None));
    let asked: Position = body(&get(address, "/v1/sinks/dw/position").await);
    assert_eq!((asked.lsn, asked.timeline), (Some(Lsn(300)), Some(2)));
    stop.cancel();
}

#[tokio::test]
async fn a_wait_that_cannot_end_well_ends_at_once_and_says_why() {
    let (served, address, stop) = serving().await;
    let view = served.status.parts().sinks[0].view.clone();
    view.update(|v| {
        v.state = State::Streaming;
        (v.applied, v.timeline) = (Some(Lsn(300)), Some(2));
    });
    let wait = async |rest| get(address, &format!("/v1/sinks/{rest}")).await;
    for (asked, code) in [
        ("dw/wait?lsn=0/C8&timeline=2", "200"),
        ("dw/wait?lsn=0/C8&timeline=3&timeout_ms=60000", "409"),
        ("dw/wait?lsn=0/FFFF&timeout_ms=1", "504"),
        ("dw/wait?lsn=hm", "400"),
        ("dw/wait", "400"),
        ("dw/wait?lsn=0/1&timeout_ms=60001", "400"),
        ("dw/wait?lsn=0/1&timeline=x", "400"),
        ("nobody/wait?lsn=0/1", "404"),
        ("nobody/position", "404"),
    ] {
        let answer = wait(asked).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code}")),
            "{asked}: {answer}"
        );
    }
    view.update(|v| v.state = State::Halted);
    let halted = wait("dw/wait?lsn=0/FFFF&timeout_ms=60000").await;
    assert!(halted.starts_with("HTTP/1.1 503"), "{halted}");
    let shown = wait("dw/wait?lsn=0/C8").await;
    assert!(
        shown.starts_with("HTTP/1.1 200"),
        "it shows that all the same: {shown}"
    );
    view.update(|v| v.state = State::Fenced);
    let fenced = wait("dw/wait?lsn=0/C8").await;
    assert!(fenced.starts_with("HTTP/1.1 503"), "{fenced}");
    stop.cancel();
}

#[tokio::test]
async fn only_what_changes_something_needs_the_token_and_metrics_may_be_elsewhere() {
    let stop = CancellationToken::new();
    let guarded = HttpSettings {
        metrics_listen: Some("127.0.0.1:0".parse().unwrap()),
        token: Some(Secret::new("s3cret")),
        ..settings()
    };
    let served = served();
    let view = served.status.parts().sinks[0].view.clone();
    view.update(|v| v.state = State::Halted);
    let listening = serve(&guarded, served, stop.clone()).await.unwrap();
    let address = listening.address;
    for open in [
        "/",
        "/healthz",
        "/v1/status",
        "/v1/history",
        "/runbook",
        "/v1/sinks/dw/position",
    ] {
        let answer = get(address, open).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{open}: {answer}");
        assert!(!answer.contains("s3cret"), "{open}");
    }
    assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 404"));
    let metrics = get(listening.metrics, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(
        get(listening.metrics, "/v1/status")
            .await
            .starts_with("HTTP/1.1 404")
    );
    let refused = ask(address, "POST", "/v1/sinks/dw/resume").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert_eq!(view.get().state, State::Halted);
    let refused = ask(address, "POST", "/v1/reload").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let with_token = "/v1/sinks/dw/resume HTTP/1.1\r\nAuthorization: Bearer s3cret\r\nX:";
    let resumed = ask(address, "POST", with_token).await;
    assert!(resumed.starts_with("HTTP/1.1 202"), "{resumed}");
    stop.cancel();
}

#[tokio::test]
async fn a_reload_answers_with_what_changed_or_what_is_wrong() {
    let (handle, mut asked) = channel();
    let served = Served {
        reload: handle,
        ..served()
    };
    let stop = CancellationToken::new();
    let listening = serve(&settings(), served, stop.clone()).await.unwrap();
    let address = listening.address;
    let answering = async {
        let changed = Reloaded {
            added: vec!["dw".to_owned()],
            ..Reloaded::default()
        };
        for answer in [Ok(changed), Err(Error::halt("a.toml: wrong", "right it"))] {
            asked.recv().await.unwrap().answer(answer);
        }
        drop(asked);
    };
    let asking = async {
        assert!(get(address, "/v1/reload").await.starts_with("HTTP/1.1 405"));
        let done = ask(address, "POST", "/v1/reload").await;
        assert!(done.starts_with("HTTP/1.1 200"), "{done}");
        assert_eq!(body::<Reloaded>(&done).added, ["dw"]);
        let wrong = ask(address, "POST", "/v1/reload").await;
        assert!(wrong.starts_with("HTTP/1.1 400"), "{wrong}");
        assert!(
            wrong.ends_with("a.toml: wrong\nremedy: right it\n"),
            "{wrong}"
        );
        let ending = ask(address, "POST", "/v1/reload").await;
        assert!(ending.starts_with("HTTP/1.1 503"), "{ending}");
    };
    tokio::join!(answering, asking);
    stop.cancel();
}

#[tokio::test]
async fn events_tell_the_status_until_the_server_stops() {
    let (_served, address, stop) = serving().await;
    let events = tokio::spawn(async move { get(address, "/v1/events").await });
    // A first look by another request: the server answers while events flow.
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut heard = String::new();
    while heard.matches("event: status").count() < 2 {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "ended: {heard}");
        heard.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert!(heard.contains("text/event-stream"), "{heard}");
    assert!(heard.contains("\"headline\":"), "{heard}");
    stop.cancel();
    assert!(events.await.unwrap().contains("event: status"));
}
