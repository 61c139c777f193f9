//! How far the log in Kafka can bring a follower.

use std::collections::BTreeSet;

use crate::apply::follow::{Standing, Terms, is_beyond};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::log::commit_log::Entry;
use crate::log::copies::CopyLedger;
use crate::log::tail::{From, LogTail};
use crate::model::checkpoint::LogPlace;
use crate::model::{Checkpoint, Lsn, TableName};

/// The commit log as far as it has been read.
pub(super) struct Log {
    tail: LogTail,
    /// At its end.
    pub now: Standing,
    /// Where a follower stands that is to stop at the target.
    pub then: Standing,
    /// It goes no further.
    then_stays: bool,
    terms: Terms,
}

impl Log {
    /// Reads it to its end.
    ///
    /// # Errors
    /// Those of Kafka; halt when what it holds cannot be.
    pub async fn open(settings: &Settings, terms: &Terms, target: Option<Lsn>) -> Result<Self> {
        let tail = LogTail::open(&settings.kafka, &terms.topics.commits(), From::Low).await?;
        let beginning = Checkpoint::beginning(0, LogPlace::at_low_end(tail.low()));
        let targeted = Checkpoint {
            target,
            ..beginning.clone()
        };
        let mut log = Log {
            tail,
            now: Standing::at(&beginning, CopyLedger::new()),
            then: Standing::at(&targeted, CopyLedger::new()),
            then_stays: target.is_none(),
            terms: terms.clone(),
        };
        // Not all at once: it may be a log of months.
        while let Some((offset, entry)) = log.tail.next_there().await? {
            log.pass(offset, &entry)?;
        }
        Ok(log)
    }

    /// Takes the end as it is now for the target.
    pub fn stop_at_end(&mut self) -> Lsn {
        let end = self.now.place.to.unwrap_or(Lsn::ZERO);
        self.then = Standing {
            target: Some(end),
            ..self.now.clone()
        };
        self.then_stays = true;
        end
    }

    fn pass(&mut self, offset: i64, entry: &Entry) -> Result<()> {
        self.now.step(offset, entry, &self.terms)?;
        if !self.then_stays {
            self.then_stays = !self.then.step_to_target(offset, entry, &self.terms)?;
        }
        Ok(())
    }

    /// Reads what has come since.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub async fn read_on(&mut self) -> Result<()> {
        let (entries, _end) = self.tail.read_to_end().await?;
        for (offset, entry) in &entries {
            self.pass(*offset, entry)?;
        }
        Ok(())
    }

    /// Refuses a target that no follower can be brought to from here, which has these tables.
    ///
    /// # Errors
    /// Halt when it is beyond the log's end, or a table's copies are all from behind it.
    pub fn reaches_target(&self, has: &BTreeSet<TableName>) -> Result<()> {
        let Some(target) = self.then.target else {
            return Ok(());
        };
        let reached = self.now.place.to.unwrap_or(Lsn::ZERO);
        if target > reached {
            return Err(is_beyond(reached, target));
        }
        let mut missing = self.then.without_copy(&self.now.ledger, &self.terms);
        missing.retain(|table| !has.contains(table));
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = missing.iter().map(TableName::to_string).collect();
        Err(Error::halt(
            format!(
                "Kafka has no copy from before {target} of {}",
                names.join(", ")
            ),
            "name a later position: walferry history tells how far back one can go",
        ))
    }
}
