//! The sink worker: reads valid entries and their records, plans, applies, checkpoints.

pub mod plan;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::{KafkaSettings, SinkSettings};
use crate::error::Result;
use crate::status::{Shared, SinkView};

/// What a sink worker works with.
#[derive(Clone)]
pub struct SinkContext {
    /// Pipeline name.
    pub pipeline: String,
    /// Token of this worker, unique a process start.
    pub instance: String,
    /// The sink's settings.
    pub sink: SinkSettings,
    /// Kafka's settings.
    pub kafka: KafkaSettings,
    /// What it says of itself.
    pub status: Arc<Shared<SinkView>>,
    /// Asks it to finish the batch under way and return.
    pub stop: CancellationToken,
}

/// Runs one session: opens the store, reads its checkpoint, applies; until asked to stop (`Ok`) or
/// until an error (`Err`, classified; the supervisor runs it again with back-off or halts it).
pub async fn run_session(context: &SinkContext) -> Result<()> {
    let _ = context;
    todo!()
}
