//! The applier's side of a boundary at which the follower is held for a moment (`walferry verify`).
//!
//! Whoever holds it lets it go by going away, so it stands no longer than somebody is there who wants it to.

use std::time::Duration;

use tokio::time::Instant;

use super::orders;
use super::session::Session;
use crate::error::Result;

/// How often it is looked whether a follower that stands is still held.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Session<'_> {
    /// When to look whether the follower is still held; none: it does not stand for that.
    pub(super) fn look_at_hold_due(&self) -> Option<Instant> {
        let stands = self.main_stays && self.checkpoint.hold.is_some();
        stands.then_some(self.looked_at + LOOK_EVERY)
    }

    /// Goes on from the boundary when nobody holds the follower there any more.
    pub(super) async fn look_at_hold(&mut self) -> Result<()> {
        self.looked_at = Instant::now();
        if self.sink.is_held(&self.checkpoint).await? {
            return Ok(());
        }
        self.begin().await?;
        self.commit(orders::let_go(&self.checkpoint)).await?;
        self.committed_at = Instant::now();
        self.restart_reader().await
    }
}
