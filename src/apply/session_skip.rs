//! The applier's side of changes that somebody has ordered to be passed over.

use super::session::Session;
use crate::error::{Class, Error, Result};
use crate::model::{Checkpoint, Skipped};

impl Session<'_> {
    /// Adds to the remedy of a change that cannot be applied how to go on without it.
    pub(super) fn or_skip(&self, error: Error) -> Error {
        let (Class::Halt, Some((_attempt, Some(position)))) = (error.class(), self.attempt) else {
            return error;
        };
        if !self.sink.passes_over() {
            return error;
        }
        let sink = &self.context.sink.name;
        let repair = error.remedy().unwrap_or("repair the follower");
        let remedy = format!(
            "{repair}; or, to go on without this change: walferry sink skip {sink} --position {position} --reason TEXT, then walferry sink resume {sink}"
        );
        error.advising(remedy)
    }

    /// Commits with what was passed over by order in the transaction.
    pub(super) async fn commit_skipping(
        &mut self,
        next: Checkpoint,
        skipped: &[Skipped],
    ) -> Result<()> {
        if !skipped.is_empty() {
            self.sink.skipped(skipped).await?;
        }
        self.commit(next).await?;
        for Skipped { position, table } in skipped {
            tracing::warn!(
                sink = %self.context.sink.name,
                %position,
                %table,
                "a change was passed over, as ordered; the follower lacks it"
            );
            self.skips.remove(position);
            self.context.status.update(|view| view.skipped += 1);
        }
        Ok(())
    }
}
