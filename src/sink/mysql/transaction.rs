//! A follower transaction, from its guard to COMMIT.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::MySqlSink;
use super::apply::{apply_step, insert};
use super::checkpoint;
use super::failure::{commit_error, plain_error, rows_error};
use super::session::CHUNK_SECONDS;
use super::skips;
use super::statements::{Failed, Label, Scope, Work};
use super::tables::Table;
use super::wire::{Cause, Expected, Failure, Script};
use crate::error::{Class, Error, Result};
use crate::killpoint::{self, Point};
use crate::model::{Checkpoint, Op, RowRef, Skipped, TableChanges, TablePlan, TableSchema};
use crate::sink::place::Place;

/// Longest wait for a ROLLBACK: it takes as long as what it takes back.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(60);

/// What there is of a transaction.
pub(super) enum Transaction {
    /// None.
    None,
    /// `begin` was called; nothing is sent yet.
    Wanted(Option<Box<Checkpoint>>),
    /// It has been begun.
    Open {
        /// Version of the checkpoint's row within the transaction.
        version: i64,
        /// The first checkpoint of all: a refused guard is another worker's doing.
        very_first: bool,
        /// It goes on over several chunks, and time-outs are lifted.
        chunked: bool,
    },
}

/// How a transaction fails.
pub(super) enum Ending {
    /// Known already.
    Error(Error),
    /// The guard found no row.
    Refused,
}

impl From<Error> for Ending {
    fn from(error: Error) -> Self {
        Ending::Error(error)
    }
}

impl From<Failed> for Ending {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Error(error) => error.into(),
            Failed::Statement(failure) => failure.into(),
        }
    }
}

impl From<Failure<Label>> for Ending {
    fn from(Failure { label, cause }: Failure<Label>) -> Self {
        match (label, &cause) {
            (Label::Guard, Cause::Affected(_none)) => Ending::Refused,
            // The very first checkpoint is there.
            (Label::Guard, cause) if cause.is_conflict() => Ending::Refused,
            (Label::Guard | Label::Begin, _) => {
                plain_error(&cause, "beginning a transaction").into()
            }
            (Label::Commit, _) => commit_error(&cause).into(),
            (Label::Rows(target), _) => {
                rows_error(&target.place, target.key.as_deref(), &cause, target.doing).into()
            }
        }
    }
}

impl MySqlSink {
    /// Longest wait for an answer.
    fn limit(&mut self, more: bool) -> Result<Duration> {
        let chunked = match self.transaction {
            Transaction::Open { chunked, .. } => chunked,
            Transaction::Wanted(_) | Transaction::None => false,
        };
        let limit = self.session()?.limit;
        Ok(match chunked || more {
            true => limit.max(Duration::from_secs(CHUNK_SECONDS)),
            false => limit,
        })
    }

    /// Writes what opens the transaction, if it is not open; what a session's statements go into.
    async fn start(&mut self, more: bool) -> Result<Work<'_>, Ending> {
        let limit = self.limit(more)?;
        let me = Arc::clone(&self.me);
        let before = std::mem::replace(&mut self.transaction, Transaction::None);
        let (opening, lift) = match before {
            Transaction::None => panic!("a transaction is begun before it is used"),
            Transaction::Open {
                version,
                very_first,
                chunked,
            } => {
                self.transaction = Transaction::Open {
                    version,
                    very_first,
                    chunked: chunked || more,
                };
                (None, more && !chunked)
            }
            Transaction::Wanted(from) => {
                self.transaction = Transaction::Open {
                    version: from.as_ref().map_or(0, |from| from.version + 1),
                    very_first: from.is_none(),
                    chunked: more,
                };
                (Some(me.guard(from.as_deref())), more)
            }
        };
        let session = self.session()?;
        let lifted = session.lifted().filter(|_| lift);
        session.wire.limit = limit;
        let mut work = Script::new(&mut session.wire);
        if let Some(lifted) = lifted {
            work.push(Label::Begin, &lifted, Expected::Any).await?;
        }
        if let Some(guard) = opening {
            work.push(Label::Begin, "START TRANSACTION", Expected::Any)
                .await?;
            work.push(Label::Guard, &guard, Expected::Rows(1)).await?;
        }
        Ok(work)
    }

    /// Opens the transaction, if it is not open, and waits until its guard holds.
    pub(super) async fn start_now(&mut self) -> Result<(), Ending> {
        let mut work = self.start(false).await?;
        work.send().await?;
        Ok(())
    }

    /// The table of a schema; where it needs a copy that is kept to be asked for.
    fn shaped(&mut self, schema: &Arc<TableSchema>) -> Result<Arc<Table>> {
        let table = self.session()?.table(schema)?;
        table.map_err(|why| {
            let what = format!("table {} needs a copy: {why}", schema.table);
            self.needs_copy = Some((schema.table.clone(), why));
            Error::transient(what)
        })
    }

    /// Applies the plans of one chunk.
    pub(super) async fn apply_plans(
        &mut self,
        plans: &[TablePlan],
        more: bool,
    ) -> Result<(), Ending> {
        let mut tables = Vec::with_capacity(plans.len());
        for plan in plans {
            tables.push(self.shaped(&plan.schema)?);
            self.touched.insert(plan.schema.version());
        }
        let mut work = self.start(more).await?;
        for (plan, table) in plans.iter().zip(&tables) {
            let place = Place::of_plan(plan);
            let scope = Scope {
                table,
                rows: &plan.rows,
                plan: Some(plan),
                place: &place,
            };
            for step in &plan.steps {
                apply_step(&mut work, scope, step).await?;
            }
        }
        work.send().await?;
        Ok(())
    }

    /// Inserts the rows of a copy; `first`: none of them came before.
    pub(super) async fn load_rows(
        &mut self,
        rows: &TableChanges,
        first: bool,
    ) -> Result<(), Ending> {
        let table = self.shaped(&rows.schema)?;
        if first {
            self.start_now().await?;
            self.forget_later_notes(&rows.schema).await?;
        }
        let mut work = self.start(false).await?;
        if let (Some(first), Some(last)) = (rows.changes.first(), rows.changes.last()) {
            let place = Place::of_records(&rows.schema.table, first.position, last.position);
            let scope = Scope {
                table: &table,
                rows: &rows.rows,
                plan: None,
                place: &place,
            };
            let refs = rows.changes.iter().map(|change| {
                assert_eq!(change.op, Op::Read, "rows of a copy are reads");
                change
                    .after
                    .unwrap_or_else(|| panic!("a row of a copy has its cells: {}", change.position))
            });
            let refs: Vec<RowRef> = refs.collect();
            insert(&mut work, scope, &refs).await?;
        }
        work.send().await?;
        Ok(())
    }

    /// Notes changes as passed over.
    pub(super) async fn note_skipped(&mut self, skipped: &[Skipped]) -> Result<(), Ending> {
        self.start_now().await?;
        let me = Arc::clone(&self.me);
        let wire = &mut self.session()?.wire;
        for one in skipped {
            if !skips::note(wire, &me, one).await? {
                return Err(Error::transient(format!(
                    "the order to pass over the change at {} was withdrawn; reading orders again",
                    one.position
                ))
                .into());
            }
        }
        Ok(())
    }

    /// Writes the checkpoint and commits. Without rows one statement does it all.
    pub(super) async fn write_and_commit(&mut self, to: &Checkpoint) -> Result<(), Ending> {
        let me = Arc::clone(&self.me);
        if let Transaction::Wanted(Some(from)) = &self.transaction {
            assert_version(to, from.version + 1);
            let sql = me.write_alone((from.version, &from.applied.to_string()), to)?;
            self.transaction = Transaction::None;
            let session = self.session()?;
            session.wire.limit = session.limit;
            let mut work = Script::new(&mut session.wire);
            // Committed by itself.
            work.push(Label::Guard, &sql, Expected::Rows(1)).await?;
            work.send().await?;
        } else {
            self.commit_open(to).await?;
        }
        self.transaction = Transaction::None;
        self.after_commit().await;
        if self.moving {
            self.finish_moves().await?;
        }
        Ok(())
    }

    async fn commit_open(&mut self, to: &Checkpoint) -> Result<(), Ending> {
        let me = Arc::clone(&self.me);
        if matches!(self.transaction, Transaction::Wanted(_)) {
            self.start_now().await?;
        }
        let Transaction::Open {
            version,
            very_first,
            chunked,
        } = self.transaction
        else {
            panic!("a started transaction is open")
        };
        if !very_first {
            assert_version(to, version);
        }
        let write = me.write(version, to)?;
        let mut work = self.start(false).await?;
        // The guard holds the row's lock, so this write cannot miss it; COMMIT need not wait for it.
        work.push(Label::Commit, &write, Expected::Rows(1)).await?;
        work.push(Label::Commit, "COMMIT", Expected::Any).await?;
        {
            // Polled once it is written, and not answered.
            let mut sent = std::pin::pin!(work.send());
            let first = futures_util::poll!(sent.as_mut());
            killpoint::pass(Point::CommitSent);
            match first {
                Poll::Ready(done) => done,
                Poll::Pending => sent.await,
            }?;
        }
        if chunked {
            self.lower().await;
        }
        Ok(())
    }

    /// Sets the time-outs of a session back that a transaction in chunks has lifted.
    async fn lower(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        session.wire.limit = session.limit;
        if let Some(lowered) = session.lowered()
            && session.wire.command(&lowered).await.is_err()
        {
            // A new session has them anew.
            self.session = None;
        }
    }

    /// Passes a success on; after a failure ends the transaction and finds out what to say.
    pub(super) async fn settle(&mut self, done: Result<(), Ending>) -> Result<()> {
        let Err(ending) = done else {
            return Ok(());
        };
        let very_first = matches!(
            self.transaction,
            Transaction::Open {
                very_first: true,
                ..
            }
        );
        self.end_transaction().await;
        Err(match (ending, &mut self.session) {
            (Ending::Error(error), _) => error,
            (Ending::Refused, _) if very_first => {
                Error::transient("another worker has written the first checkpoint; reading it")
            }
            (Ending::Refused, Some(session)) => {
                let error = checkpoint::why_refused(&mut session.wire, &self.me).await;
                self.has_orders = error.class() == Class::Transient;
                error
            }
            (Ending::Refused, None) => {
                Error::transient("the checkpoint has changed; reading it again")
            }
        })
    }

    /// Rolls back what is open. A session that does not even do that is given up, which ends the transaction as
    /// well.
    pub(super) async fn end_transaction(&mut self) {
        let before = std::mem::replace(&mut self.transaction, Transaction::None);
        self.touched.clear();
        self.moving = false;
        let Some(session) = &mut self.session else {
            return;
        };
        if let Transaction::Open { chunked, .. } = before {
            session.wire.limit = session.limit;
            let rolled_back = session
                .wire
                .command_within("ROLLBACK", ROLLBACK_LIMIT)
                .await;
            let old_rows = "DROP TEMPORARY TABLE IF EXISTS walferry_old_rows";
            if rolled_back.is_err() || session.wire.command(old_rows).await.is_err() {
                self.session = None;
            } else if chunked {
                self.lower().await;
            }
        }
        if self
            .session
            .as_ref()
            .is_some_and(|session| session.wire.is_closed())
        {
            self.session = None;
        }
    }
}

fn assert_version(to: &Checkpoint, expected: i64) {
    assert_eq!(
        to.version, expected,
        "a checkpoint's version grows by one a transaction"
    );
}
