//! Which tables need a copy: those without one, those of which sinks or `walferry copy` want a new one,
//! those whose newest is as old as `copy.every` says.
//! What is wished for stands in `P.progress`; what fulfils it is decided by `copy_choice` and
//! `log::copy_request`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::capture::CaptureContext;
use crate::capture::copy_choice::{BACK_OFF_MIN, ReadFrom, needed, once, outdated};
use crate::error::Result;
use crate::log::copies::CopyLedger;
use crate::log::copy_request::Standing;
use crate::log::producer::EpochProducer;
use crate::log::progress::{self, Pauses, ProgressReader};
use crate::log::topics::Topics;
use crate::model::TableName;

/// Wishes as they come.
pub struct Wishes {
    context: CaptureContext,
    topics: Topics,
    producer: Arc<EpochProducer>,
    progress: ProgressReader,
    /// Requests that were removed; the reader may not have seen that yet.
    removed: BTreeSet<String>,
}

/// What is wished for now.
#[derive(Debug, Default)]
pub struct Wished {
    /// Tables that need a copy, by where it is to be read; each once.
    pub tables: BTreeMap<ReadFrom, Vec<TableName>>,
    /// When to look again although nothing has changed.
    pub look_at: Option<Instant>,
}

impl Wishes {
    /// Reads what sinks and commands have said so far.
    ///
    /// # Errors
    /// As [`ProgressReader::open`].
    pub async fn open(
        context: &CaptureContext,
        topics: &Topics,
        producer: &Arc<EpochProducer>,
    ) -> Result<Self> {
        Ok(Wishes {
            context: context.clone(),
            topics: topics.clone(),
            producer: producer.clone(),
            progress: ProgressReader::open(&context.kafka, &topics.progress()).await?,
            removed: BTreeSet::new(),
        })
    }

    /// Captured tables that need a copy. `made` are this epoch's copies by table.
    pub async fn now(
        &mut self,
        captured: &[TableName],
        ledger: &mut CopyLedger,
        made: &BTreeMap<TableName, i64>,
    ) -> Wished {
        let sinks = self.progress.newest();
        let mut requests = self.progress.requests();
        self.removed.retain(|key| requests.contains_key(key));
        requests.retain(|key, _| !self.removed.contains(key));
        let mut log_end = None;
        if !requests.is_empty() || sinks.values().any(|sink| !sink.wants.is_empty()) {
            log_end = self.forget_trimmed(ledger).await;
        }
        let mut tables: BTreeSet<TableName> =
            needed(captured, ledger, &sinks, made).into_iter().collect();
        let mut look_at = self.outdated(captured, ledger, &mut tables);
        let mut of_followers: BTreeMap<String, BTreeSet<TableName>> = BTreeMap::new();
        for (key, request) in requests {
            let Some(log_end) = log_end else {
                look_at = Some(Instant::now() + BACK_OFF_MIN);
                continue;
            };
            match request.standing(captured, ledger, log_end) {
                Standing::Open(open) => match request.from {
                    None => tables.extend(open),
                    Some(sink) => of_followers.entry(sink).or_default().extend(open),
                },
                Standing::Fulfilled => self.remove(key).await,
                Standing::OfAnotherLog => {
                    tracing::warn!(
                        request = key,
                        "a request for copies was made for another log and is left aside"
                    );
                    self.remove(key).await;
                }
            }
        }
        Wished {
            tables: once(tables, of_followers),
            look_at,
        }
    }

    /// Whether copies are paused.
    pub fn pauses(&self) -> Pauses {
        self.progress.pauses()
    }

    /// Waits for another wish. Cancel-safe.
    pub async fn changed(&mut self) {
        self.progress.changed().await;
    }

    /// Adds tables whose newest copy is too old; when the next one will be, if there is to be one.
    fn outdated(
        &self,
        captured: &[TableName],
        ledger: &CopyLedger,
        tables: &mut BTreeSet<TableName>,
    ) -> Option<Instant> {
        let every = self.context.source.copy_every?;
        let now = Instant::now();
        let Some(sample) = *self.context.samples.borrow() else {
            // The leader's clock is not known while it does not answer.
            return Some(now + BACK_OFF_MIN);
        };
        let since_us = i64::try_from(sample.at.elapsed().as_micros()).unwrap_or(i64::MAX);
        let now_us = sample.clock_us.saturating_add(since_us);
        let found = outdated(captured, ledger, every, now_us);
        tables.extend(found.tables);
        found.next.map(|next| now + next)
    }

    /// A sink that asks for a copy does not see those that were trimmed from the log, by this source
    /// or another one, and a request is not fulfilled by them. Where the log ends now; none when that
    /// is not known, and then it is asked again.
    async fn forget_trimmed(&self, ledger: &mut CopyLedger) -> Option<i64> {
        let commits = self.producer.log_slot(&self.topics.commits());
        match self.producer.watermarks(commits).await {
            Ok((low, high)) => {
                ledger.cut(low);
                Some(high)
            }
            Err(error) => {
                tracing::debug!(%error, "where the commit log begins is not known");
                None
            }
        }
    }

    /// Removes a request that is done with. One that stays is removed by the next epoch.
    async fn remove(&mut self, key: String) {
        match progress::forget(&self.context.kafka, &self.topics.progress(), &key).await {
            Ok(()) => tracing::debug!(request = key, "a request for copies is done with"),
            Err(error) => {
                tracing::warn!(request = key, %error, "a fulfilled request for copies could not be removed");
            }
        }
        self.removed.insert(key);
    }
}
