//! A follower's checkpoint, looked at and changed from outside of the sink that owns it: how an operator's order
//! reaches a sink, wherever it runs.

use std::collections::BTreeSet;

use async_trait::async_trait;

use crate::error::Result;
use crate::model::{Checkpoint, TableName};

/// What is to become of a checkpoint; `None`: the sink has never run there. An error changes nothing.
pub type Revise<'a> = Box<dyn FnOnce(Option<&Checkpoint>) -> Result<Checkpoint> + Send + 'a>;

/// What takes a checkpoint's place, whatever it was; of that only the version is told.
pub type Make<'a> = Box<dyn FnOnce(Option<i64>) -> Checkpoint + Send + 'a>;

/// The checkpoint of one sink in its follower.
#[async_trait]
pub trait StoredCheckpoint: Send + Sync {
    /// What the follower says of itself now; none when the sink has never run there.
    ///
    /// # Errors
    /// Transient when it cannot be asked; halt when the checkpoint cannot be read.
    async fn look(&self) -> Result<Option<Checkpoint>>;

    /// How many indexes of these tables are still to be built.
    ///
    /// # Errors
    /// As [`StoredCheckpoint::look`].
    async fn indexes_left(&self, _tables: &BTreeSet<TableName>) -> Result<usize> {
        Ok(0)
    }

    /// Replaces the checkpoint by what `revise` makes of it, between two durable steps of the sink; waits
    /// for the one under way.
    ///
    /// # Errors
    /// Those of `revise`, which then has changed nothing; else as [`StoredCheckpoint::look`].
    async fn revise(&mut self, revise: Revise<'_>) -> Result<Checkpoint>;

    /// The same without looking at what it replaces, which may be unreadable: only at its version, if the
    /// sink has run there.
    ///
    /// # Errors
    /// As [`StoredCheckpoint::look`].
    async fn replace(&mut self, make: Make<'_>) -> Result<Checkpoint>;
}
