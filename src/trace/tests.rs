use super::*;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span as Sent;
use prost::Message;
use std::sync::Mutex;

type Received = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// A collector that keeps what it gets.
async fn collector() -> (Received, OtlpSettings) {
    let received = Received::default();
    let take = async |State(received): State<Received>, body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        received.lock().unwrap().push(request);
        StatusCode::OK
    };
    let router = Router::new().route("/v1/traces", post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = router.with_state(received.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let path = "/v1/traces".to_owned();
    (received, OtlpSettings { address, path })
}

fn batch(part: &str, done_us: i64) -> Batch<'_> {
    Batch {
        part,
        commit: Lsn(0x16_B374_D848),
        commit_us: 1_000_000,
        done_us,
        changes: 7,
    }
}

fn attribute(span: &Sent, key: &str) -> String {
    let found = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == key);
    format!("{:?}", found.and_then(|attribute| attribute.value.clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_one_trace_from_the_leaders_commit_to_the_follower() {
    let (received, settings) = collector().await;
    // Source and sink are processes of their own: they share nothing but the log.
    let source = Traces::start(Some(&settings), "shop").unwrap();
    let sink = Traces::start(Some(&settings), "shop").unwrap();
    let header = source.traceparent(Lsn(0x16_B374_D848)).unwrap();
    source.published(batch("leader", 1_004_000));
    sink.applied(batch("warehouse", 1_009_000));
    source.end().await;
    sink.end().await;
    let received = received.lock().unwrap();
    let resources = received.iter().flat_map(|request| &request.resource_spans);
    let scopes = resources.flat_map(|resource| &resource.scope_spans);
    let mut spans: Vec<&Sent> = scopes.flat_map(|scope| &scope.spans).collect();
    spans.sort_by_key(|span| span.end_time_unix_nano);
    let [publish, apply] = spans[..] else {
        panic!("{spans:?}")
    };
    assert_eq!(
        (publish.name.as_str(), apply.name.as_str()),
        ("publish", "apply")
    );
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    assert_eq!(
        header,
        format!("00-{}-{}-01", hex(&publish.trace_id), hex(&publish.span_id)),
        "what the entry's header says is the source's span"
    );
    assert_eq!(apply.trace_id, publish.trace_id);
    assert_eq!(apply.parent_span_id, publish.span_id);
    assert_ne!(apply.span_id, publish.span_id);
    assert!(publish.parent_span_id.is_empty());
    let took = |span: &Sent| (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000;
    assert_eq!((took(publish), took(apply)), (4_000, 9_000));
    let began = (POSTGRES_EPOCH_US + 1_000_000).unsigned_abs() * 1_000;
    assert_eq!(apply.start_time_unix_nano, began);
    assert!(attribute(apply, "walferry.sink").contains("warehouse"));
    assert!(attribute(publish, "walferry.source").contains("leader"));
    assert!(attribute(apply, "walferry.commit_lsn").contains("16/B374D848"));
    let service = format!("{:?}", received[0].resource_spans[0].resource);
    assert!(
        service.contains("walferry") && service.contains("shop"),
        "{service}"
    );
}

#[test]
fn batches_and_pipelines_have_ids_of_their_own() {
    let here = ids("shop", Lsn(8));
    assert_eq!(here, ids("shop", Lsn(8)));
    assert_ne!(here.trace, ids("shop", Lsn(16)).trace);
    assert_ne!(here.trace, ids("depot", Lsn(8)).trace);
    assert_eq!(Traces::default().traceparent(Lsn(8)), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_holds_nothing_up() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    drop(taken);
    let path = "/v1/traces".to_owned();
    let traces = Traces::start(Some(&OtlpSettings { address, path }), "shop").unwrap();
    for _ in 0..10_000 {
        traces.applied(batch("warehouse", 1_009_000));
    }
    tokio::time::timeout(Duration::from_secs(30), traces.end())
        .await
        .unwrap();
}
