//! With a collector set, a batch is one trace: in the header of its entry, at the source, at the sink.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::support::{Pipeline, Postgres, kafka, until, wait_caught_up};

type Spans = Arc<Mutex<Vec<Span>>>;

/// A collector on a port of its own, and what it got.
async fn collector() -> (u16, Spans) {
    let spans = Spans::default();
    let take = async |State(spans): State<Spans>, body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = request
            .resource_spans
            .into_iter()
            .flat_map(|of| of.scope_spans);
        spans.lock().unwrap().extend(scopes.flat_map(|of| of.spans));
    };
    let router = Router::new().route("/v1/traces", post(take));
    let router = router.with_state(spans.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (port, spans)
}

/// The `traceparent` headers of a pipeline's commit log, as it is now.
fn parents(pipeline: &str) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka())
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let topic = format!("{pipeline}.commits");
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&topic, 0, Offset::Beginning)
        .unwrap();
    consumer.assign(&from).unwrap();
    let timeout = Duration::from_secs(30);
    let (_, high) = consumer.fetch_watermarks(&topic, 0, timeout).unwrap();
    let mut found = Vec::new();
    loop {
        let record = consumer.poll(timeout).expect("a record").unwrap();
        let headers = record.headers().into_iter().flat_map(Headers::iter);
        let parent = headers.filter(|header| header.key == "traceparent");
        found.extend(
            parent.filter_map(|header| Some(String::from_utf8(header.value?.to_vec()).unwrap())),
        );
        if record.offset() + 1 >= high {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_traced_from_the_leaders_commit_to_the_follower() {
    let (leader, follower) = (Postgres::start("leader"), Postgres::start("follower"));
    leader.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    let pipeline = Pipeline::new(&leader, &[&follower]);
    let (port, spans) = collector().await;
    let settings = std::fs::read_to_string(pipeline.dir.join("config/walferry.toml")).unwrap();
    pipeline.write(
        "config/walferry.toml",
        &format!("{settings}[otlp]\nendpoint = \"http://127.0.0.1:{port}\"\n"),
    );
    let (from, to) = (leader.client().await, follower.client().await);
    let walferry = pipeline.run();
    wait_caught_up(&from, &to, "a").await;
    let joined = until("spans of source and sink", || async {
        from.batch_execute("INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t")
            .await
            .unwrap();
        let spans = spans.lock().unwrap();
        let mut sources = spans.iter().filter(|span| span.name == "publish");
        let joined = sources.find(|source| {
            let mut sinks = spans.iter().filter(|span| span.name == "apply");
            sinks.any(|sink| {
                (&sink.trace_id, &sink.parent_span_id) == (&source.trace_id, &source.span_id)
                    && sink.start_time_unix_nano == source.start_time_unix_nano
            })
        });
        joined.cloned().ok_or(format!("{spans:?}"))
    })
    .await;
    assert_eq!(walferry.terminate(), 0);
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let header = format!("00-{}-{}-01", hex(&joined.trace_id), hex(&joined.span_id));
    let parents = parents(&pipeline.name);
    assert!(parents.contains(&header), "{header}: {parents:?}");
}
