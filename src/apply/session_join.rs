//! The applier's side of joins: does what [`next_join_step`] decides, and applies what the loader
//! brings, between the main reader's batches.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::join::{JoinStep, given_up, next_join_step, taken_effect, with_join};
use super::join_load::{Loaded, Loader, LoaderParts};
use super::pull::Cut;
use super::session::Session;
use super::start;
use crate::error::{Error, Result};
use crate::log::commit_log::CopyEnd;
use crate::log::records::RecordReader;
use crate::model::{Join, TableName, TableSchema};
use crate::status::{CopyProgress, LastError};

/// How long a table may be without any copy before the status says why nothing happens.
const EXPLAIN_AFTER: Duration = Duration::from_secs(30);

type Step = (Box<Loader>, Result<Loaded, Cut>);

/// The loader of the join under way.
#[derive(Default)]
pub(super) struct JoinWork {
    state: LoaderState,
    stop: CancellationToken,
    asking_since: Option<Instant>,
    explained: bool,
}

#[derive(Default)]
enum LoaderState {
    #[default]
    None,
    Idle(Box<Loader>),
    Running(JoinHandle<Step>),
}

impl JoinWork {
    /// What the running step gives; waits for ever when none is running. Cancel-safe.
    pub(super) async fn loaded(&mut self) -> Result<Step> {
        match &mut self.state {
            LoaderState::None | LoaderState::Idle(_) => std::future::pending().await,
            LoaderState::Running(step) => {
                let step = step.await;
                self.state = LoaderState::None;
                step.map_err(|error| Error::transient("loading a copy").caused_by(error))
            }
        }
    }

    /// Gives up the loader with what it read ahead.
    pub(super) fn stop(&mut self) {
        self.stop.cancel();
        self.stop = CancellationToken::new();
        if let LoaderState::Idle(loader) = std::mem::take(&mut self.state) {
            // Closing a consumer blocks.
            tokio::task::spawn_blocking(move || drop(loader));
        }
    }

    fn start(&mut self, mut loader: Box<Loader>, end: Option<CopyEnd>, limit: i64) {
        self.state = LoaderState::Running(tokio::task::spawn_blocking(move || {
            let loaded = loader.step(end.as_ref(), limit);
            (loader, loaded)
        }));
    }
}

impl Session<'_> {
    /// Takes the steps of joins that can be taken now.
    pub(super) async fn advance_join(&mut self) -> Result<()> {
        loop {
            let step = next_join_step(&self.checkpoint, &self.ledger, &self.terms);
            if step != JoinStep::Ask {
                self.join.asking_since = None;
                self.join.explained = false;
            }
            match step {
                JoinStep::Nothing => return Ok(()),
                JoinStep::Ask => {
                    self.explain_asking();
                    return Ok(());
                }
                JoinStep::Begin(join) => self.begin_join(join).await?,
                JoinStep::Load => return self.load_on(),
                JoinStep::AwaitMain if self.has_pending() => self.commit_pending().await?,
                JoinStep::AwaitMain => return Ok(()),
                JoinStep::TakeEffect => self.take_effect().await?,
                JoinStep::GiveUp(tables) => {
                    self.give_up(&tables, "it is void, or the table left the captured set").await?;
                }
            }
        }
    }

    async fn begin_join(&mut self, join: Join) -> Result<()> {
        tracing::info!(
            sink = %self.context.sink.name,
            copy = join.copy,
            tables = join.tables.len(),
            "loading a copy"
        );
        self.join.stop();
        self.begin().await?;
        for table in &join.tables {
            self.sink.empty(table).await?;
        }
        let next = with_join(&self.checkpoint, join);
        self.commit(next).await
    }

    fn load_on(&mut self) -> Result<()> {
        match std::mem::take(&mut self.join.state) {
            LoaderState::Running(step) => self.join.state = LoaderState::Running(step),
            LoaderState::Idle(loader) => self.start_step(loader),
            LoaderState::None => {
                let join = self.checkpoint.joins.first().expect("a join is to be loaded");
                let loader = Loader::new(LoaderParts {
                    join: join.clone(),
                    records: RecordReader::open(&self.context.kafka, self.context.sink.fetch_max_bytes)?,
                    decoders: start::decoders(&self.schemas),
                    terms: self.terms.clone(),
                    wants: self.sink.wants(),
                    batch_max_bytes: self.context.sink.batch_max_bytes,
                    kafka: self.context.kafka.clone(),
                    stop: self.join.stop.clone(),
                });
                self.start_step(Box::new(loader));
            }
        }
        Ok(())
    }

    fn start_step(&mut self, loader: Box<Loader>) {
        let copy = self.checkpoint.joins.first().and_then(|join| self.ledger.get(join.copy));
        let end = copy.and_then(|copy| copy.end.clone());
        self.join.start(loader, end, self.checkpoint.log.next_offset);
    }

    /// Applies what the loader brought; the loader goes on meanwhile.
    pub(super) async fn take_loaded(&mut self, step: (Box<Loader>, Result<Loaded, Cut>)) -> Result<()> {
        let (loader, loaded) = step;
        let Some(loaded) = self.usable(loaded).await? else {
            return Ok(());
        };
        self.prepare(&schemas_of(&loaded)).await?;
        let has_rows = !loaded.rows.is_empty() || loaded.planned.is_some();
        if !has_rows && self.checkpoint.joins.first() == Some(&loaded.join) {
            self.join.state = LoaderState::Idle(loader);
            return Ok(());
        }
        let mut carry = Carry { loader: Some(loader), loaded };
        self.begin().await?;
        loop {
            let Carry { loader, loaded } = carry;
            let more = loaded.more;
            if has_rows || more {
                // Read ahead while this part is applied.
                if let Some(loader) = loader {
                    self.start_step(loader);
                }
            } else if let Some(loader) = loader {
                self.join.state = LoaderState::Idle(loader);
            }
            for rows in &loaded.rows {
                self.sink.load(rows).await?;
            }
            let rows: usize = loaded.rows.iter().map(|table| table.changes.len()).sum();
            let mut changes = u64::try_from(rows).expect("a count of things in memory");
            let mut written = changes;
            if let Some(planned) = loaded.planned {
                changes += planned.changes;
                written += planned.rows_written;
                self.sink.apply(planned.work, more).await?;
            } else if !more && !has_rows {
                // Nothing but a new place.
            }
            self.context.status.update(|view| {
                view.changes += changes;
                view.rows_written += written;
            });
            if !more {
                let next = with_join(&self.checkpoint, loaded.join);
                return self.commit(next).await;
            }
            let (loader, loaded) = self.join.loaded().await?;
            let loaded = match loaded {
                Ok(loaded) => loaded,
                Err(cut) => {
                    self.sink.rollback().await?;
                    return self.usable(Err(cut)).await.map(|_none| ());
                }
            };
            let schemas = schemas_of(&loaded);
            if !self.is_prepared(&schemas) {
                // Tables are prepared outside of a transaction: give this one up and read it again.
                self.sink.rollback().await?;
                self.join.stop();
                return self.prepare(&schemas).await;
            }
            carry = Carry { loader: Some(loader), loaded };
        }
    }
}
