//! A sink's checkpoint as every store keeps it: whose it is, its state as JSON, and what it means that it is another
//! one than was expected.

use crate::error::{COPY_ANEW, Error, Result};
use crate::model::{Checkpoint, Selection};

/// Whose checkpoint it is.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Pipeline name.
    pub pipeline: String,
    /// Sink name.
    pub sink: String,
    /// Token of this worker; empty for who only looks or gives orders.
    pub instance: String,
    /// Tables that it takes.
    pub selection: Selection,
}

impl Identity {
    /// A worker that takes all tables.
    pub(super) fn worker(pipeline: &str, sink: &str, instance: &str) -> Self {
        Identity {
            pipeline: pipeline.to_owned(),
            sink: sink.to_owned(),
            instance: instance.to_owned(),
            selection: Selection::new(&["*.*".to_owned()], &[]),
        }
    }

    /// Somebody who only looks or gives orders.
    pub(super) fn onlooker(pipeline: &str, sink: &str) -> Self {
        Identity::worker(pipeline, sink, "")
    }

    /// The same for a sink that takes only these tables.
    pub(super) fn taking(self, selection: Selection) -> Self {
        Identity { selection, ..self }
    }

    /// Why a step of this worker's did not find its checkpoint in `table`, which has this owner now; none: it is gone.
    pub(super) fn refused(&self, table: &str, owner: Option<&str>) -> Error {
        match owner {
            None => Error::transient(format!(
                "the checkpoint is gone from {table}; reading it again"
            )),
            Some("") => Error::transient(format!("an order was written into {table}; reading it")),
            Some(owner) if owner != self.instance => Error::fenced(format!(
                "another worker ({owner}) has taken over sink {} of pipeline {}",
                self.sink, self.pipeline
            )),
            Some(_mine) => Error::transient(
                "the checkpoint was changed, by an order or by an own commit of unknown outcome; reading it again",
            ),
        }
    }

    /// That the follower has no checkpoint of it.
    pub(super) fn unknown(&self) -> Error {
        Error::halt(
            format!(
                "the follower knows no sink {} of pipeline {}",
                self.sink, self.pipeline
            ),
            "run the sink first; or correct its url, if that is another database",
        )
    }
}

/// The state of a checkpoint as it is stored.
///
/// # Errors
/// Halt, as a defect.
pub(super) fn written(checkpoint: &Checkpoint) -> Result<String> {
    serde_json::to_string(checkpoint).map_err(|error| {
        Error::halt(
            "the checkpoint cannot be written as JSON",
            "report this as a defect",
        )
        .caused_by(error)
    })
}

/// A checkpoint from its version and state as they stand in `table`.
///
/// # Errors
/// Halt when it cannot be read.
pub(super) fn read(table: &str, version: i64, state: Option<&str>) -> Result<Checkpoint> {
    let state = state.ok_or_else(|| unreadable(table, "has no state"))?;
    let checkpoint: Checkpoint = serde_json::from_str(state).map_err(|error| {
        let what = "was written in another form (by another version of walferry?)";
        unreadable(table, what).caused_by(error)
    })?;
    match checkpoint.version == version {
        true => Ok(checkpoint),
        false => Err(unreadable(
            table,
            "contradicts itself: its version is not that of its state",
        )),
    }
}

/// That the checkpoint in `table` cannot be read.
pub(super) fn unreadable(table: &str, what: &str) -> Error {
    Error::halt(format!("the checkpoint in {table} {what}"), COPY_ANEW)
}
