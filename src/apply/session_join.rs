//! The applier's side of joins: does what [`next_join_step`] decides, and applies what the loader
//! brings, between the main reader's batches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::join::{
    Emptied, JoinStep, given_up, next_join_step, rows_loaded, taken_effect, to_empty, with_join,
};
use super::join_load::{CommitsReader, Loaded, Loader, LoaderParts};
use super::partitions::Cut;
use super::planned::NeededSchema;
use super::rebuilding;
use super::session::Session;
use super::start;
use super::unfinished;
use crate::error::{Error, Result};
use crate::killpoint::{self, Point};
use crate::log::commit_log::CopyEnd;
use crate::log::records::RecordReader;
use crate::model::{Join, Oid, TableName, TableSchema};
use crate::status::{CopyProgress, LastError, RebuildProgress, RowCounts};

/// How long a table may be without any copy before the status says why nothing happens.
const EXPLAIN_AFTER: Duration = Duration::from_secs(30);

/// A loader with what its last step gave.
pub(super) type LoaderStep = (OwnedLoader, Result<Loaded, Cut>);

/// A loader. Closing its consumers blocks, so it is closed where that may be, wherever it is dropped.
pub(super) struct OwnedLoader(Option<Box<Loader<RecordReader, CommitsReader>>>);

impl OwnedLoader {
    fn step(&mut self, end: Option<&CopyEnd>, limit: i64) -> Result<Loaded, Cut> {
        self.0.as_mut().expect("there until drop").step(end, limit)
    }
}

impl Drop for OwnedLoader {
    fn drop(&mut self) {
        let loader = self.0.take();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(loader));
        }
    }
}

/// The loader of the join under way.
#[derive(Default)]
pub(super) struct JoinWork {
    state: LoaderState,
    stop: CancellationToken,
    asking_since: Option<Instant>,
    explained: bool,
    /// Copies that have come into effect in this session.
    copied: BTreeMap<TableName, CopyProgress>,
    /// Whether they are shown, and nothing is lacking.
    copied_shown: bool,
}

#[derive(Default)]
enum LoaderState {
    #[default]
    None,
    Idle(OwnedLoader),
    Running(JoinHandle<LoaderStep>),
}

impl JoinWork {
    /// What the running step gives; waits for ever when none is running. Cancel-safe.
    pub(super) async fn loaded(&mut self) -> Result<LoaderStep> {
        match &mut self.state {
            LoaderState::None | LoaderState::Idle(_) => std::future::pending().await,
            LoaderState::Running(step) => {
                let step = step.await;
                self.state = LoaderState::None;
                step.map_err(|error| unfinished("loading a copy", error))
            }
        }
    }

    /// Gives up the loader with what it read ahead.
    pub(super) fn stop(&mut self) {
        self.stop.cancel();
        self.stop = CancellationToken::new();
        self.state = LoaderState::None;
    }

    /// Whether the status says why no copy comes.
    pub(super) fn has_explained(&self) -> bool {
        self.explained
    }

    fn start(&mut self, mut loader: OwnedLoader, end: Option<CopyEnd>, limit: i64) {
        self.state = LoaderState::Running(tokio::task::spawn_blocking(move || {
            let loaded = loader.step(end.as_ref(), limit);
            (loader, loaded)
        }));
    }
}

impl Drop for JoinWork {
    fn drop(&mut self) {
        // The step under way is of no more use.
        self.stop.cancel();
    }
}

impl Session<'_> {
    /// Takes the steps of joins that can be taken now.
    pub(super) async fn advance_join(&mut self) -> Result<()> {
        loop {
            let step = next_join_step(&self.checkpoint, self.copies_known(), &self.terms);
            if step != JoinStep::Ask {
                self.join.asking_since = None;
                if std::mem::take(&mut self.join.explained) {
                    self.context.status.update(|view| view.last_error = None);
                }
            }
            match step {
                JoinStep::Nothing => return Ok(()),
                JoinStep::Ask => {
                    self.no_copy_for_target()?;
                    self.explain_asking();
                    return Ok(());
                }
                JoinStep::Begin(_) if !self.knows_newest() => return Ok(()),
                JoinStep::Begin(join) => self.begin_join(join).await?,
                // Until then the tables are the builder's.
                JoinStep::Load if self.indexes.is_running() => return Ok(()),
                JoinStep::Load => return self.load_on(),
                JoinStep::AwaitMain if self.has_pending() => self.commit_pending().await?,
                JoinStep::AwaitMain => return Ok(()),
                JoinStep::TakeEffect if !self.has_indexes().await? => return Ok(()),
                JoinStep::TakeEffect => self.take_effect().await?,
                JoinStep::GiveUp(tables) => {
                    self.give_up(&tables, "it is void, or the table left the captured set")
                        .await?;
                }
            }
        }
    }

    /// Whether the log is read so far that its newest copies are known. A follower that shows nothing yet
    /// waits for that: an older copy would only mean more changes to apply.
    fn knows_newest(&self) -> bool {
        let place = &self.checkpoint.log;
        !self.checkpoint.in_effect.is_empty()
            || self.main_stays
            || place.next_offset >= self.log_end
    }

    /// A follower that is to stop in the past waits for no copy: none that comes is from before.
    fn no_copy_for_target(&self) -> Result<()> {
        let (Some(target), true) = (self.checkpoint.target, self.main_stays) else {
            return Ok(());
        };
        let tables = self.checkpoint.lacking(&self.terms.selection);
        let names: Vec<String> = tables.iter().map(TableName::to_string).collect();
        Err(Error::halt(
            format!(
                "the follower is to show the leader at {target}, and no usable copy from before is left \
                 in Kafka of {}",
                names.join(", ")
            ),
            format!(
                "choose a later position: walferry history tells how far back one can go; or let the \
                 follower go on to the present: walferry sink resume {}",
                self.context.sink.name
            ),
        ))
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
        let next = with_join(&self.checkpoint, join);
        self.commit(next).await
    }

    fn load_on(&mut self) -> Result<()> {
        match std::mem::take(&mut self.join.state) {
            LoaderState::Running(step) => self.join.state = LoaderState::Running(step),
            LoaderState::Idle(loader) => self.start_step(loader),
            LoaderState::None => {
                let join = self
                    .checkpoint
                    .joins
                    .first()
                    .expect("a join is to be loaded");
                let loader = Loader::new(LoaderParts {
                    join: join.clone(),
                    records: RecordReader::open(
                        &self.context.kafka,
                        self.context.sink.fetch_max_bytes,
                    )?,
                    entries: CommitsReader::new(
                        Handle::current(),
                        self.context.kafka.clone(),
                        self.terms.topics.commits(),
                    ),
                    decoders: start::decoders(&self.schemas),
                    terms: self.terms.clone(),
                    wants: self.sink.wants(),
                    batch_max_bytes: self.context.sink.batch_max_bytes,
                    skips: self.skips.clone(),
                    stop: self.join.stop.clone(),
                });
                self.start_step(OwnedLoader(Some(Box::new(loader))));
            }
        }
        Ok(())
    }

    fn start_step(&mut self, loader: OwnedLoader) {
        let copy = self
            .checkpoint
            .joins
            .first()
            .and_then(|join| self.copies_known().get(join.copy));
        let end = copy.and_then(|copy| copy.end.clone());
        self.join
            .start(loader, end, self.checkpoint.log.next_offset);
    }

    /// Applies what the loader brought; the loader goes on meanwhile.
    pub(super) async fn take_loaded(&mut self, (loader, loaded): LoaderStep) -> Result<()> {
        let Some(mut loaded) = self.usable(loaded).await? else {
            return Ok(());
        };
        let has_rows = loaded.more || !loaded.rows.is_empty() || loaded.planned.is_some();
        if !has_rows && self.checkpoint.joins.first() == Some(&loaded.join) {
            self.join.state = LoaderState::Idle(loader);
            return Ok(());
        }
        let emptied = self.tables_to_empty(&loaded).await?;
        self.prepare(&schemas_of(&loaded)).await?;
        if has_rows {
            self.start_step(loader);
        } else {
            self.join.state = LoaderState::Idle(loader);
        }
        let in_chunks = loaded.more;
        let mut skipped = Vec::new();
        self.begin().await?;
        for table in &emptied {
            self.sink.empty(table).await?;
            self.prepare_indexes(table).await?;
        }
        while loaded.more {
            skipped.append(&mut loaded.skipped);
            self.apply_loaded(&mut loaded, true).await?;
            let next = tokio::select! {
                biased;
                () = self.context.stop.cancelled() => None,
                step = self.join.loaded() => Some(step?),
            };
            // Bounded stop: the loader begins anew at what is durable.
            let Some((loader, next)) = next else {
                self.join.stop();
                return self.sink.rollback().await;
            };
            let next = match next {
                Ok(next) => next,
                Err(cut) => {
                    self.sink.rollback().await?;
                    self.join.stop();
                    self.usable(Err(cut)).await?;
                    return Ok(());
                }
            };
            let schemas = schemas_of(&next);
            if !self.is_prepared(&schemas) {
                // Tables are prepared outside of a transaction: give this one up and read it again.
                self.sink.rollback().await?;
                self.join.stop();
                return self.prepare(&schemas).await;
            }
            self.start_step(loader);
            loaded = next;
        }
        skipped.append(&mut loaded.skipped);
        self.apply_loaded(&mut loaded, in_chunks).await?;
        killpoint::pass(Point::RowsLoaded);
        self.commit_skipping(with_join(&self.checkpoint, loaded.join), &skipped)
            .await
    }

    async fn apply_loaded(&mut self, loaded: &mut Loaded, in_chunks: bool) -> Result<()> {
        let mut written = RowCounts::default();
        let mut here: BTreeMap<&TableName, u64> = BTreeMap::new();
        for rows in &loaded.rows {
            let table = &rows.schema.table;
            let durable = self.checkpoint.joins.first();
            let durable = durable.map_or(0, |join| rows_loaded(&self.terms, join, table));
            let here = here.entry(table).or_default();
            self.sink.load(rows, durable + *here).await?;
            let count = u64::try_from(rows.changes.len()).expect("a count of things in memory");
            *here += count;
            written.inserted += count;
        }
        let mut changes = written.total();
        match loaded.planned.take() {
            Some(planned) => {
                changes += planned.changes;
                written += planned.rows;
                self.sink.apply(planned.work, loaded.more).await?;
            }
            None if in_chunks => self.sink.apply(self.no_work(), loaded.more).await?,
            None => {}
        }
        self.context.status.update(|view| {
            view.changes += changes;
            view.rows += written;
            view.coalesced += changes.saturating_sub(written.total());
        });
        Ok(())
    }

    /// What was loaded; none when the loader was asked to stop, or when the copy cannot be used.
    async fn usable(&mut self, loaded: Result<Loaded, Cut>) -> Result<Option<Loaded>> {
        match loaded {
            Ok(loaded) => Ok(Some(loaded)),
            Err(Cut::Stopped) => Ok(None),
            Err(Cut::Lost { table, what }) => {
                self.give_up(&BTreeSet::from([table]), &what).await?;
                Ok(None)
            }
            Err(Cut::Failed(error)) => Err(error),
        }
    }

    async fn give_up(&mut self, tables: &BTreeSet<TableName>, why: &str) -> Result<()> {
        tracing::warn!(
            sink = %self.context.sink.name,
            copy = self.checkpoint.joins.first().map(|join| join.copy),
            tables = ?tables.iter().map(TableName::to_string).collect::<Vec<_>>(),
            why,
            "giving up a copy; another one is chosen"
        );
        self.join.stop();
        self.indexes.stop();
        self.begin().await?;
        let next = given_up(&self.checkpoint, tables, &self.terms);
        self.commit(next).await
    }

    async fn take_effect(&mut self) -> Result<()> {
        let join = self.checkpoint.joins.first().expect("a join takes effect");
        let tables: Vec<TableName> = join.tables.iter().cloned().collect();
        self.join.stop();
        for table in &tables {
            let copy = self.copy_progress(table);
            self.join.copied.insert(table.clone(), copy);
        }
        self.join.copied_shown = false;
        killpoint::pass(Point::BeforeEffect);
        self.begin().await?;
        self.commit(taken_effect(&self.checkpoint)).await?;
        killpoint::pass(Point::InEffect);
        tracing::info!(
            sink = %self.context.sink.name,
            tables = ?tables.iter().map(TableName::to_string).collect::<Vec<_>>(),
            applied = %self.checkpoint.applied,
            "tables are in effect"
        );
        self.restart_reader().await
    }

    /// Tables to empty in the transaction that loads this part; one that does not exist yet is made before.
    async fn tables_to_empty(&mut self, loaded: &Loaded) -> Result<BTreeSet<TableName>> {
        let Some(durable) = self.checkpoint.joins.first() else {
            return Ok(BTreeSet::new());
        };
        let with_rows = loaded.rows.iter().map(|rows| &rows.schema.table);
        let Emptied {
            first_rows: mut tables,
            without_rows,
        } = to_empty(durable, &loaded.join, with_rows, &self.terms);
        tables.extend(self.prepare_without_rows(without_rows).await?);
        Ok(tables)
    }

    /// Tables whose copy has no rows have not met a schema version yet; the follower has them too.
    /// Gives those that are there now.
    async fn prepare_without_rows(
        &mut self,
        tables: BTreeSet<TableName>,
    ) -> Result<BTreeSet<TableName>> {
        if tables.is_empty() {
            return Ok(tables);
        }
        let captured = self.ledger.captured();
        let relations: Vec<(TableName, Option<Oid>)> = tables
            .into_iter()
            .map(|table| {
                let relation = captured.get(&table).map(|now| now.relation);
                (table, relation)
            })
            .collect();
        let schemas = self.schemas.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut schemas = schemas.lock().unwrap_or_else(PoisonError::into_inner);
            schemas.read_on()?;
            let newest = relations
                .iter()
                .filter_map(|(table, relation)| schemas.newest(table, *relation).cloned());
            Ok::<Vec<Arc<TableSchema>>, Error>(newest.collect())
        });
        let chosen = read
            .await
            .map_err(|error| unfinished("reading the schema versions", error))??;
        let needed = |schema: &Arc<TableSchema>| NeededSchema {
            schema: schema.clone(),
            first: None,
        };
        let needed: Vec<NeededSchema> = chosen.iter().map(needed).collect();
        self.prepare(&needed).await?;
        Ok(chosen.iter().map(|schema| schema.table.clone()).collect())
    }

    /// Copies to be shown: of tables that are lacking, and behind them those that are in effect by now. None
    /// if that is what is shown already, as after most transactions.
    pub(super) fn copies(&mut self, lacking: &BTreeSet<TableName>) -> Option<Vec<CopyProgress>> {
        if lacking.is_empty() && self.join.copied_shown {
            return None;
        }
        self.join.copied_shown = lacking.is_empty();
        let copied = self.join.copied.iter();
        let copied = copied.filter(|(table, _)| !lacking.contains(table));
        let progress = lacking.iter().map(|table| self.copy_progress(table));
        Some(
            progress
                .chain(copied.map(|(_, copy)| copy.clone()))
                .collect(),
        )
    }

    /// How far the tables are that are not in effect, with those that have come into effect before them.
    pub(super) fn rebuild_progress(
        &self,
        lacking: &BTreeSet<TableName>,
    ) -> Option<RebuildProgress> {
        if lacking.is_empty() {
            return None;
        }
        let mut tables = lacking.clone();
        tables.extend(self.join.copied.keys().cloned());
        Some(rebuilding::progress(
            &tables,
            &self.checkpoint,
            (self.copies_known(), self.ledger.changes()),
            &self.terms,
        ))
    }

    /// Progress of a table that is not in effect.
    fn copy_progress(&self, table: &TableName) -> CopyProgress {
        let join = self
            .checkpoint
            .joins
            .iter()
            .find(|join| join.tables.contains(table));
        let copy = join.and_then(|join| self.copies_known().get(join.copy));
        CopyProgress {
            table: table.to_string(),
            rows: join.map_or(0, |join| rows_loaded(&self.terms, join, table)),
            rows_estimate: copy.and_then(|copy| copy.rows(&self.terms.topics.copy(table))),
            done: join.is_some_and(|join| join.complete),
        }
    }

    /// Says in the status why a table stays out of effect: a source with `copy = false` makes no
    /// copies, and one that is not running neither.
    fn explain_asking(&mut self) {
        let since = *self.join.asking_since.get_or_insert_with(Instant::now);
        if self.join.explained || since.elapsed() < EXPLAIN_AFTER {
            return;
        }
        self.join.explained = true;
        let waiting = Error::transient(
            "waiting for a copy of tables that are not in effect: the source is not running, or its settings say `copy = false`",
        );
        tracing::warn!(sink = %self.context.sink.name, error = %waiting, "no copy to load");
        self.context
            .status
            .update(|view| view.last_error = Some(LastError::now(&waiting)));
    }
}

fn schemas_of(loaded: &Loaded) -> Vec<NeededSchema> {
    let rows = loaded.rows.iter().map(NeededSchema::of);
    let planned = loaded
        .planned
        .iter()
        .flat_map(|planned| planned.schemas.iter().cloned());
    rows.chain(planned).collect()
}
