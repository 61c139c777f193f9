//! The source worker: one epoch is one replication connection and one producer.

pub mod batches;
pub mod encode_tx;
pub mod feedback;
pub mod outbox;
pub mod tables;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::{KafkaSettings, SourceSettings};
use crate::error::Result;
use crate::status::{Shared, SourceView};

/// What a source worker works with.
#[derive(Clone)]
pub struct CaptureContext {
    /// Pipeline name.
    pub pipeline: String,
    /// Token of this process, in epoch entries.
    pub instance: String,
    /// The source's settings.
    pub source: SourceSettings,
    /// Kafka's settings.
    pub kafka: KafkaSettings,
    /// What it says of itself.
    pub status: Arc<Shared<SourceView>>,
    /// Asks it to finish what is in flight, confirm, and return.
    pub stop: CancellationToken,
}

/// Runs one epoch: take-over, streaming, copies; until asked to stop (`Ok`) or until anything of
/// the epoch is lost (`Err`, classified; the supervisor begins a new epoch or halts).
pub async fn run_epoch(context: &CaptureContext) -> Result<()> {
    let _ = context;
    todo!()
}
