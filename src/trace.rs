//! Traces for OpenTelemetry, where the settings name a collector: one span a batch at the source, from the
//! leader's commit until Kafka holds it, and one a batch at each sink, from the leader's commit until the
//! follower shows it. Times are the leader's clock.
//!
//! A batch is known by its last commit, from which the ids of its trace and of the source's span are made. So
//! the source can write them into the entry's `traceparent` header (<https://www.w3.org/TR/trace-context/>)
//! before the span has an end, and sinks in other processes need not be told.

mod export;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    Span, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
    TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider};
use sha2::{Digest, Sha256};

use crate::config::OtlpSettings;
use crate::error::{Error, Result};
use crate::model::Lsn;
use crate::model::clock::POSTGRES_EPOCH_US;

/// Longest wait for the collector to take what is left at the end.
const END_MAX: Duration = Duration::from_secs(3);

/// Where spans go; nowhere if no collector is set.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Tracing>>);

#[derive(Debug)]
struct Tracing {
    pipeline: String,
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// What a span tells of its batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Name of the source or the sink.
    pub part: &'a str,
    /// Commit LSN of its last transaction.
    pub commit: Lsn,
    /// The leader's clock at that commit, microseconds since 2000-01-01 UTC.
    pub commit_us: i64,
    /// The leader's clock when it was durable in Kafka, or visible on the follower.
    pub done_us: i64,
    /// Changes in it.
    pub changes: u64,
}

/// The ids of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ids {
    trace: TraceId,
    source_span: SpanId,
}

thread_local! {
    /// The ids that the next span begun on this thread gets.
    static NEXT: Cell<Option<Ids>> = const { Cell::new(None) };
}

/// Gives a span the ids of its batch.
#[derive(Debug)]
struct OfBatch(RandomIdGenerator);

impl IdGenerator for OfBatch {
    fn new_trace_id(&self) -> TraceId {
        NEXT.get()
            .map_or_else(|| self.0.new_trace_id(), |ids| ids.trace)
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.get()
            .map_or_else(|| self.0.new_span_id(), |ids| ids.source_span)
    }
}

impl Traces {
    /// Begins to send spans to the collector of the settings, if they name one.
    ///
    /// # Errors
    /// Halt when the library does not take the endpoint.
    pub fn start(settings: Option<&OtlpSettings>, pipeline: &str) -> Result<Self> {
        let Some(settings) = settings else {
            return Ok(Traces(None));
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(export::Client::new(settings.address.clone()))
            .with_endpoint(format!("http://{}{}", settings.address, settings.path))
            .build()
            .map_err(|error| {
                Error::halt(
                    "otlp.endpoint cannot be used",
                    "write http://host:port of an OpenTelemetry collector",
                )
                .caused_by(error)
            })?;
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", "walferry"),
            KeyValue::new("service.namespace", pipeline.to_owned()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ]);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_id_generator(OfBatch(RandomIdGenerator::default()))
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("walferry");
        Ok(Traces(Some(Arc::new(Tracing {
            pipeline: pipeline.to_owned(),
            provider,
            tracer,
        }))))
    }

    /// The value of the `traceparent` header of the entry whose batch ends with this commit.
    pub fn traceparent(&self, commit: Lsn) -> Option<String> {
        let tracing = self.0.as_ref()?;
        let ids = ids(&tracing.pipeline, commit);
        Some(format!("00-{}-{}-01", ids.trace, ids.source_span))
    }

    /// A batch is durable in Kafka.
    pub fn published(&self, batch: Batch<'_>) {
        let Some(tracing) = &self.0 else { return };
        NEXT.set(Some(ids(&tracing.pipeline, batch.commit)));
        let part = KeyValue::new("walferry.source", batch.part.to_owned());
        tracing.span(
            &Context::new(),
            ("publish", SpanKind::Producer),
            part,
            batch,
        );
        NEXT.set(None);
    }

    /// A follower shows a batch.
    pub fn applied(&self, batch: Batch<'_>) {
        let Some(tracing) = &self.0 else { return };
        let ids = ids(&tracing.pipeline, batch.commit);
        let source = SpanContext::new(
            ids.trace,
            ids.source_span,
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        );
        let parent = Context::new().with_remote_span_context(source);
        let part = KeyValue::new("walferry.sink", batch.part.to_owned());
        tracing.span(&parent, ("apply", SpanKind::Consumer), part, batch);
    }

    /// Sends what is left, for a moment.
    pub async fn end(self) {
        let Some(tracing) = self.0 else { return };
        let provider = tracing.provider.clone();
        // It waits in the thread that calls it.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(END_MAX));
        if let Ok(Err(error)) = ended.await {
            tracing::debug!(%error, "spans are left that the collector did not take");
        }
    }
}

impl Tracing {
    fn span(
        &self,
        parent: &Context,
        (name, kind): (&'static str, SpanKind),
        part: KeyValue,
        batch: Batch<'_>,
    ) {
        let changes = i64::try_from(batch.changes).unwrap_or(i64::MAX);
        let attributes = [
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("walferry.pipeline", self.pipeline.clone()),
            part,
            KeyValue::new("walferry.commit_lsn", batch.commit.to_string()),
            KeyValue::new("walferry.changes", changes),
        ];
        // The leader's clock may have been set back in between.
        let done_us = batch.done_us.max(batch.commit_us);
        let mut span = self
            .tracer
            .span_builder(name)
            .with_kind(kind)
            .with_start_time(at(batch.commit_us))
            .with_attributes(attributes)
            .start_with_context(&self.tracer, parent);
        span.end_with_timestamp(at(done_us));
    }
}

fn at(us: i64) -> SystemTime {
    let unix = us.saturating_add(POSTGRES_EPOCH_US).max(0).unsigned_abs();
    UNIX_EPOCH + Duration::from_micros(unix)
}

fn ids(pipeline: &str, commit: Lsn) -> Ids {
    let hash = Sha256::digest(format!("walferry {pipeline} {commit}"));
    let part = |from: usize| -> [u8; 8] { std::array::from_fn(|at| hash[from + at]) };
    let trace =
        u128::from(u64::from_be_bytes(part(0))) << 64 | u128::from(u64::from_be_bytes(part(8)));
    Ids {
        trace: TraceId::from(trace),
        source_span: SpanId::from(u64::from_be_bytes(part(16))),
    }
}

#[cfg(test)]
#[path = "trace/tests.rs"]
mod tests;
