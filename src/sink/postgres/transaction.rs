//! A follower transaction, from its guard to COMMIT.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::PostgresSink;
use super::apply::{self, Failed, Label, TRUNCATING, Target, Work};
use super::checkpoint::{self, Guard, Write};
use super::emptying::empty_if_ours;
use super::ending::{Ending, first_missing};
use super::failure::{plain_error, rows_error};
use super::following::{self, ALTERING_LIMIT};
use super::moving::{self, MOVING_LIMIT, Moving};
use super::params::Param;
use super::pipeline::{Pipeline, within};
use super::session::{CHUNK_ANSWER_LIMIT, LIFTED_STATEMENT_TIMEOUT, lifted_timeouts};
use super::skips;
use super::statements::Shape;
use super::tables::{self, Table};
use crate::config::SchemaChanges;
use crate::error::{Class, Error, Result};
use crate::killpoint::{self, Point};
use crate::model::{
    Checkpoint, Moves, Op, Skipped, TableChanges, TableName, TablePlan, TableSchema,
};
use crate::postgres::Deadlock;
use crate::sink::leader_shape::NeedsCopy;
use crate::sink::place::{Place, diverged};

/// Longest wait for the lock of a table: longer than `lock_timeout`, which ends it.
const LOCKING_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for a ROLLBACK.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(10);

/// What there is of a transaction.
pub(super) enum Transaction {
    /// None.
    None,
    /// `begin` was called; nothing is sent yet.
    Wanted {
        /// Its first statement.
        guard: Guard,
        /// The version that the stored checkpoint must have; none for the very first.
        version: Option<i64>,
    },
    /// BEGIN has been sent.
    Open {
        /// Version of the checkpoint's row within the transaction.
        version: i64,
        /// The first checkpoint of all: a refused guard is another worker's doing.
        very_first: bool,
        /// It goes on over several chunks, and time-outs are lifted.
        chunked: bool,
    },
}

impl Transaction {
    /// Whether the server may hold something of it.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Transaction::Open { .. })
    }
}

impl PostgresSink {
    /// Sends BEGIN and the guard, if they are not sent yet.
    async fn start<'a>(&mut self, work: &mut Work<'a>, more: bool) -> Result<(), Failed<'a>> {
        match std::mem::replace(&mut self.transaction, Transaction::None) {
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
                if chunked || !more {
                    return Ok(());
                }
                work.command(Label::Begin, lifted_timeouts()).await
            }
            Transaction::Wanted { guard, version } => {
                self.transaction = Transaction::Open {
                    version: version.map_or(0, |version| version + 1),
                    very_first: version.is_none(),
                    chunked: more,
                };
                let begin = if more {
                    format!("BEGIN; {}", lifted_timeouts())
                } else {
                    "BEGIN".to_owned()
                };
                work.command(Label::Begin, begin).await?;
                let (client, me) = (Arc::clone(work.client()), Arc::clone(&self.me));
                let answer = async move { guard.run(&client, &me).await };
                work.push(Label::Guard, Box::pin(answer), Some(1)).await?;
                self.lock_first(work).await
            }
        }
    }

    /// Locks tables whose readers were in the way at the last attempt.
    async fn lock_first<'a>(&mut self, work: &mut Work<'a>) -> Result<(), Failed<'a>> {
        for table in self.locks.first() {
            let quoted = table.quoted();
            let lock =
                format!("{LIFTED_STATEMENT_TIMEOUT}; LOCK TABLE {quoted} IN ACCESS EXCLUSIVE MODE");
            work.wait_at_least(LOCKING_LIMIT);
            work.command(Label::Lock(table), lock).await?;
            work.drain().await?;
        }
        Ok(())
    }

    /// Notes the table that a deadlock came of waiting for.
    fn note_deadlock(&mut self, failure: &Failed<'_>) {
        let table = match &failure.label {
            Label::Lock(table) => Some(table),
            Label::Rows(target) if target.doing == TRUNCATING => Some(&target.table.schema.table),
            Label::Rows(_) | Label::Begin | Label::Guard | Label::Commit => None,
        };
        if let Some(table) = table.filter(|_| failure.cause.is_deadlock()) {
            self.locks.lost(table);
        }
    }

    /// Longest wait for an answer.
    fn limit(&mut self, more: bool) -> Result<Duration> {
        let chunked = match self.transaction {
            Transaction::Open { chunked, .. } => chunked,
            Transaction::Wanted { .. } | Transaction::None => false,
        };
        let limit = self.session()?.limit;
        Ok(match chunked || more {
            true => limit.max(CHUNK_ANSWER_LIMIT),
            false => limit,
        })
    }

    fn work<'a>(&mut self, more: bool) -> Result<Work<'a>> {
        let limit = self.limit(more)?;
        let client = Arc::clone(&self.session()?.client);
        Ok(Pipeline::new(client, limit))
    }

    /// Applies the plans of one chunk.
    pub(super) async fn apply_plans(
        &mut self,
        plans: &[TablePlan],
        more: bool,
    ) -> Result<(), Ending> {
        let untouched = !self.transaction.is_open();
        let mut done = 0;
        while done < plans.len() {
            self.bring(&plans[done].schema).await?;
            let now = self.shaped(&plans[done..])?;
            self.apply_shaped((&plans[..done + now], done), untouched, more)
                .await?;
            done += now;
        }
        match plans {
            [] => self.apply_shaped((&[], 0), untouched, more).await,
            [..] => Ok(()),
        }
    }

    /// How many plans from the first on are of the shape that their table has now.
    fn shaped(&mut self, plans: &[TablePlan]) -> Result<usize> {
        let follows = self.follows();
        let session = self.session()?;
        let mut fit = plans.iter();
        Ok(fit
            .by_ref()
            .take_while(|plan| session.table_now(&plan.schema, follows).is_some())
            .count())
    }

    /// Applies the plans from `from` on, whose tables have their shape.
    async fn apply_shaped(
        &mut self,
        (plans, from): (&[TablePlan], usize),
        untouched: bool,
        more: bool,
    ) -> Result<(), Ending> {
        let follows = self.follows();
        let session = self.session()?;
        let tables: Vec<Arc<Table>> = plans[from..]
            .iter()
            .map(|plan| session.table(&plan.schema, follows))
            .collect::<Result<_>>()?;
        let mut work = self.work(more)?;
        let failed = match self.start(&mut work, more).await {
            Ok(()) => apply_all(&mut work, (plans, from), &tables, untouched)
                .await
                .err(),
            Err(failure) => Some(failure),
        };
        let Some(failure) = failed else {
            return Ok(());
        };
        self.note_deadlock(&failure);
        let table = match &failure.label {
            Label::Rows(target) => tables
                .iter()
                .find(|table| std::ptr::eq(Arc::as_ptr(table), target.table))
                .map(Arc::clone),
            Label::Begin | Label::Lock(_) | Label::Guard | Label::Commit => None,
        };
        Err(failure.ending(table))
    }

    /// Whether tables are altered as the leader's are.
    pub(super) fn follows(&self) -> bool {
        self.settings.schema_changes != SchemaChanges::Halt
    }

    /// Gives a table the shape of a version that is to come, in the transaction that has its first change.
    async fn bring(&mut self, schema: &Arc<TableSchema>) -> Result<(), Ending> {
        let follows = self.follows();
        if !follows || self.session()?.table_now(schema, follows).is_some() {
            return Ok(());
        }
        self.start_now().await?;
        let (version, may) = (schema.version(), self.settings.schema_changes);
        let me = Arc::clone(&self.me);
        let session = self.session()?;
        session.forget(&schema.table);
        let (client, server) = (Arc::clone(&session.client), session.server().to_owned());
        let newest = session.newest(version).cloned();
        let follower = tables::Follower {
            client: &client,
            me: &me,
            server: &server,
        };
        self.altered = true;
        let following = following::follow(follower, schema, may);
        let followed = tokio::time::timeout(ALTERING_LIMIT, following).await;
        let followed = followed.map_err(|_elapsed| {
            Error::transient(format!("altering table {} has not ended", schema.table))
        })?;
        if followed.as_ref().is_err_and(Deadlock::is_behind) {
            self.locks.lost(&schema.table);
        }
        match followed? {
            Ok(()) => {}
            Err(NeedsCopy(why)) => {
                self.needs_copy = Some((schema.table.clone(), why.clone()));
                let what = format!("table {} needs a copy: {why}", schema.table);
                return Err(Error::transient(what).into());
            }
        }
        let table = tables::read(follower, schema, newest.as_ref()).await?;
        self.session()?.keep(version, table);
        Ok(())
    }

    /// Renames and drops tables as the leader has; `moved`: the new names of those that have them now.
    pub(super) async fn make_moves(
        &mut self,
        moves: &Moves,
        moved: &mut BTreeSet<TableName>,
    ) -> Result<(), Ending> {
        self.start_now().await?;
        let me = Arc::clone(&self.me);
        let session = self.session()?;
        let client = Arc::clone(&session.client);
        for (old, new) in &moves.renamed {
            session.forget(old);
            session.forget(new);
        }
        self.altered = true;
        let mut moving = Moving {
            client: &client,
            me: &me,
            at: None,
        };
        let done = tokio::time::timeout(MOVING_LIMIT, moving.run(moves)).await;
        let done = done.unwrap_or_else(|_elapsed| Err(moving::not_ended()));
        if let (true, Some(table)) = (done.as_ref().is_err_and(Deadlock::is_behind), &moving.at) {
            self.locks.lost(table);
        }
        *moved = done?;
        Ok(())
    }

    /// Notes changes as passed over.
    pub(super) async fn note_skipped(&mut self, skipped: &[Skipped]) -> Result<(), Ending> {
        self.start_now().await?;
        let client = Arc::clone(&self.session()?.client);
        let limit = self.limit(false)?;
        for one in skipped {
            let noted = within(limit, skips::note(&client, &self.me, one)).await;
            match noted {
                Ok(true) => {}
                Ok(false) => {
                    return Err(Error::transient(format!(
                        "the order to pass over the change at {} was withdrawn; reading orders again",
                        one.position
                    ))
                    .into());
                }
                Err(cause) => {
                    return Err(plain_error(&cause, "noting a change as passed over").into());
                }
            }
        }
        Ok(())
    }

    /// Sends BEGIN and the guard, if they are not sent yet, and waits until they hold.
    async fn start_now(&mut self) -> Result<(), Ending> {
        let mut work = self.work(false)?;
        let started = match self.start(&mut work, false).await {
            Ok(()) => work.drain().await,
            Err(failure) => Err(failure),
        };
        started.map_err(|failure| {
            self.note_deadlock(&failure);
            failure.ending(None)
        })
    }

    /// Copies the rows of a copy into their table.
    pub(super) async fn load_rows(&mut self, rows: &TableChanges) -> Result<(), Ending> {
        self.bring(&rows.schema).await?;
        let follows = self.follows();
        let table = self.session()?.table(&rows.schema, follows)?;
        let mut work = self.work(false)?;
        let loaded = load_all(self, &mut work, &table, rows).await;
        loaded.map_err(|failure| {
            self.note_deadlock(&failure);
            failure.ending(None)
        })
    }

    /// Empties a table for a copy, if its rows are walferry's.
    pub(super) async fn empty_table(&mut self, table: &TableName) -> Result<(), Ending> {
        self.start_now().await?;
        let client = Arc::clone(&self.session()?.client);
        let Some(emptying) = tables::emptying(&client, table).await? else {
            return Err(Error::halt(
                format!("table {table} does not exist on the follower"),
                "restart walferry: it creates the table, or says what is missing",
            )
            .into());
        };
        let limit = self.limit(false)?.max(emptying.limit);
        let emptied = within(
            limit,
            empty_if_ours(&client, &self.me, table, &emptying.sql),
        )
        .await;
        match emptied {
            Ok(None) => Ok(()),
            Ok(Some(others)) => Err(others.refusal(table).into()),
            Err(cause) => {
                if cause.is_deadlock() {
                    self.locks.lost(table);
                }
                Err(rows_error(&Place::of_table(table), None, &cause, "emptying").into())
            }
        }
    }

    /// Writes the checkpoint and commits. Without rows one statement does it all.
    pub(super) async fn write_and_commit(&mut self, to: &Checkpoint) -> Result<(), Ending> {
        self.session()?.refuse_leader(to)?;
        let mut work = self.work(false)?;
        let sent = match self.transaction {
            Transaction::Wanted {
                version: Some(version),
                ..
            } => self.commit_alone(&mut work, version, to).await?,
            Transaction::Wanted { version: None, .. } | Transaction::Open { .. } => {
                self.commit_open(&mut work, to).await?
            }
            Transaction::None => panic!("a transaction is begun before it is committed"),
        };
        sent.map_err(|failure| failure.ending(None))?;
        self.transaction = Transaction::None;
        self.altered = false;
        self.locks.committed();
        Ok(())
    }

    async fn commit_alone<'a>(
        &mut self,
        work: &mut Work<'a>,
        version: i64,
        to: &Checkpoint,
    ) -> Result<Result<(), Failed<'a>>> {
        assert_version(to, version + 1);
        let me = Arc::clone(&self.me);
        let write = self.session()?.store.write(version, to, &me)?;
        self.transaction = Transaction::None;
        Ok(self.send_write(work, Label::Guard, write).await)
    }

    async fn commit_open<'a>(
        &mut self,
        work: &mut Work<'a>,
        to: &Checkpoint,
    ) -> Result<Result<(), Failed<'a>>> {
        let started = match self.start(work, false).await {
            Ok(()) => work.drain().await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = started {
            return Ok(Err(failure));
        }
        let Transaction::Open {
            version,
            very_first,
            ..
        } = self.transaction
        else {
            panic!("a started transaction is open")
        };
        if !very_first {
            assert_version(to, version);
        }
        let me = Arc::clone(&self.me);
        let write = self.session()?.store.write(version, to, &me)?;
        // The guard holds the row's lock, so this write cannot miss it; COMMIT need not wait for it.
        let mut sent = self.send_write(work, Label::Commit, write).await;
        if sent.is_ok() {
            sent = work.command(Label::Commit, "COMMIT".to_owned()).await;
            killpoint::pass(Point::CommitSent);
        }
        if sent.is_ok() {
            sent = work.drain().await;
        }
        Ok(sent)
    }

    async fn send_write<'a>(
        &self,
        work: &mut Work<'a>,
        label: Label<'a>,
        write: Write,
    ) -> Result<(), Failed<'a>> {
        let alone = matches!(label, Label::Guard);
        let (client, me) = (Arc::clone(work.client()), Arc::clone(&self.me));
        let answer = async move { write.run(&client, &me).await };
        work.push(label, Box::pin(answer), Some(1)).await?;
        if alone { work.drain().await } else { Ok(()) }
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
        let client = self.session.as_ref().map(|s| Arc::clone(&s.client));
        Err(match ending {
            Ending::Error(error) => error,
            Ending::Refused if very_first => {
                Error::transient("another worker has written the first checkpoint; reading it")
            }
            Ending::Refused => match client {
                Some(client) => {
                    let error = checkpoint::why_refused(&client, &self.me).await;
                    self.has_orders = error.class() == Class::Transient;
                    error
                }
                None => Error::transient("the checkpoint has changed; reading it again"),
            },
            Ending::Missing { place, what, keys } => {
                let key = match (client, keys) {
                    (Some(client), Some(keys)) => first_missing(&client, keys).await,
                    (Some(_) | None, _) => None,
                };
                let named = key.map_or_else(String::new, |key| format!("; not there: {key}"));
                diverged(&place, &format!("{what}{named}"))
            }
        })
    }

    /// Rolls back what is open. A session that does not even do that is given up, which ends the
    /// transaction as well.
    pub(super) async fn end_transaction(&mut self) {
        let open = self.transaction.is_open();
        self.transaction = Transaction::None;
        let altered = std::mem::take(&mut self.altered);
        let Some(session) = &mut self.session else {
            return;
        };
        if altered {
            session.forget_all();
        }
        let rolled_back = match open {
            true => within(ROLLBACK_LIMIT, session.client.batch_execute("ROLLBACK"))
                .await
                .is_ok(),
            false => true,
        };
        if !rolled_back || session.client.is_closed() {
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

async fn apply_all<'a>(
    work: &mut Work<'a>,
    (plans, from): (&'a [TablePlan], usize),
    tables: &'a [Arc<Table>],
    untouched: bool,
) -> Result<(), Failed<'a>> {
    for (n, (plan, table)) in plans[from..].iter().zip(tables).enumerate() {
        let earlier = &plans[..from + n];
        let first = untouched && earlier.iter().all(|e| e.schema.table != plan.schema.table);
        apply::apply_plan(work, table, plan, first).await?;
    }
    work.drain().await
}

async fn load_all<'a>(
    sink: &mut PostgresSink,
    work: &mut Work<'a>,
    table: &'a Table,
    rows: &'a TableChanges,
) -> Result<(), Failed<'a>> {
    sink.start(work, false).await?;
    let (Some(first), Some(last)) = (rows.changes.first(), rows.changes.last()) else {
        return work.drain().await;
    };
    let label = Label::Rows(Target {
        table,
        place: Place::of_records(&rows.schema.table, first.position, last.position),
        doing: "loading rows of a copy",
        keys: None,
        plan: None,
        first: false,
    });
    let count = rows.changes.len();
    if table.written.is_empty() {
        let params = vec![Param::Count(i64::try_from(count).unwrap_or(i64::MAX))];
        apply::execute(work, label, table, Shape::InsertDefaults, params, count).await?;
        return work.drain().await;
    }
    let refs = rows.changes.iter().map(|change| {
        assert_eq!(change.op, Op::Read, "rows of a copy are reads");
        change
            .after
            .unwrap_or_else(|| panic!("a row of a copy has its cells: {}", change.position))
    });
    apply::copy(work, label, table, &rows.rows, refs, count).await
}
