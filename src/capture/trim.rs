//! Trimming the commit log: once an epoch, when it has begun. What may go is decided by `log::trim`.

use std::time::Duration;

use crate::capture::CaptureContext;
use crate::error::Result;
use crate::log::progress::ProgressReader;
use crate::log::topics::{TopicAdmin, Topics};
use crate::log::trim::TrimPoints;

/// What is needed to trim the log.
pub struct Trimmer {
    /// The worker's context.
    pub context: CaptureContext,
    /// Names of topics.
    pub topics: Topics,
    /// Where the log may be cut, as read at the take-over.
    pub points: TrimPoints,
    /// How long the tables' topics keep records; none: for ever, and so does the log.
    pub retention: Option<Duration>,
}

impl Trimmer {
    /// Trims what may be trimmed. That it could not be done is said, and the next epoch tries again.
    pub async fn run(self) {
        let Some(retention) = self.retention else {
            return;
        };
        if let Err(error) = self.trim(retention).await {
            tracing::warn!(%error, "the commit log could not be trimmed; the next epoch tries again");
        }
    }

    async fn trim(&self, retention: Duration) -> Result<()> {
        let (kafka, commits) = (&self.context.kafka, self.topics.commits());
        let progress = ProgressReader::open(kafka, &self.topics.progress()).await?;
        let to = self.points.trim_to(retention, &progress.newest());
        if let Some((sink, at)) = to.held_by {
            tracing::warn!(
                sink,
                at,
                "the commit log is kept for a sink that has been away for longer than the topics keep changes; \
                 if it is gone for good: walferry sink forget"
            );
        }
        if let Some(offset) = to.offset {
            let low = TopicAdmin::open(kafka)?.trim(&commits, 0, offset).await?;
            self.context.kept_log.cut(offset);
            tracing::info!(topic = commits, low, "commit log trimmed");
        }
        Ok(())
    }
}
