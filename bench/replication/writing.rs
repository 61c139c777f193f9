//! How fast a store's sink writes by itself: this process hands it the same rows in batches, as a copy, without Kafka and
//! with nothing else on the machine.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use futures_util::TryStreamExt;
use tokio_postgres::Client;
use walferry::config::SinkSettings;
use walferry::log::schemas::SchemaStore;
use walferry::log::topics::Topics;
use walferry::model::{Op, Rows, TableChanges, TableName, TableSchema};

use crate::support::plans::{N, V, add, change, checkpoint};
use crate::support::{Pipeline, kafka_settings};

/// The pipeline's sink of this name.
pub fn settings(pipeline: &Pipeline, name: &str) -> anyhow::Result<SinkSettings> {
    let at = |part: &str| pipeline.dir.join(part);
    let settings = walferry::config::load(&at("config"), &at("connectors"))?;
    let mut sinks = settings.sinks.into_iter();
    let found = sinks.find(|sink| sink.name == name);
    found.with_context(|| format!("no sink {name}"))
}

/// Seconds in which a sink that has nothing yet writes all rows of the leader's `bulk` and commits.
pub async fn seconds(
    pipeline: &Pipeline,
    settings: &SinkSettings,
    leader: &Client,
) -> anyhow::Result<f64> {
    let table = TableName::new("public", "bulk");
    let topic = Topics::new(&pipeline.name).schemas();
    let schemas = tokio::task::spawn_blocking(move || SchemaStore::open(&kafka_settings(), &topic));
    let schemas = schemas.await??;
    let schema = schemas.newest(&table, None).context("a schema of bulk")?;
    let batches = batches(leader, schema, settings.batch_max_bytes).await?;

    let mut sink = walferry::sink::create(&pipeline.name, settings, "bench");
    sink.open().await?;
    sink.prepare_table(schema, None).await?;
    let (mut at, mut before) = (None, 0);
    let begin = Instant::now();
    for batch in &batches {
        sink.begin(at.as_ref()).await?;
        if at.is_none() {
            sink.empty(&table).await?;
        }
        sink.load(batch, before).await?;
        before += batch.changes.len() as u64;
        let to = checkpoint(at.map_or(1, |at| at.version + 1));
        sink.commit(&to).await?;
        at = Some(to);
    }
    Ok(begin.elapsed().as_secs_f64())
}

async fn batches(
    leader: &Client,
    schema: &Arc<TableSchema>,
    max_bytes: usize,
) -> anyhow::Result<Vec<TableChanges>> {
    let columns = schema.columns.iter();
    let columns: Vec<String> = columns.map(|c| format!("\"{}\"::text", c.name)).collect();
    let query = format!("SELECT {} FROM bulk ORDER BY id", columns.join(", "));
    let none: [&str; 0] = [];
    let found = leader.query_raw(&query, none).await?;
    let mut found = std::pin::pin!(found);
    let new = || TableChanges {
        schema: Arc::clone(schema),
        rows: Rows::new(schema.columns.len()),
        changes: Vec::new(),
        times_ms: Vec::new(),
    };
    let (mut batches, mut batch) = (Vec::new(), new());
    while let Some(told) = found.try_next().await? {
        let cells = (0..told.len()).map(|n| told.get::<_, Option<&str>>(n).map_or(N, V));
        let row = add(&mut batch.rows, &cells.collect::<Vec<_>>());
        batch.changes.push(change(Op::Read, None, Some(row)));
        if batch.rows.size_bytes() + size_of_val(&*batch.changes) >= max_bytes {
            batches.push(std::mem::replace(&mut batch, new()));
        }
    }
    batches.push(batch);
    Ok(batches)
}
