//! Applying a table's plan, set-based: deletes, updates, then inserts, several statements a round trip.
//!
//! A swap of values under a secondary unique index may collide row by row although the whole does not.
//! Where that can happen the updates run under a savepoint; on a collision, and for every MOVE, rows
//! are replaced instead ([`Shape::Replace`]): all old rows go before the first new one comes.

use std::sync::Arc;

use tokio_postgres::Statement;

use super::copy::copy_rows;
use super::ordered;
use super::params::{Param, Refs};
use super::pipeline::{Cause, Failure, Pipeline};
use super::statements::Shape;
use super::tables::{Table, how_to_empty};
use crate::model::batch::Step;
use crate::model::{NetChange, RowRef, Rows, TableName, TablePlan, UpdateGroup};
use crate::sink::place::Place;

/// More inserts than this go by COPY, which costs a round trip more and less a row.
const INSERTS_BY_COPY: usize = 64;

/// Rows of one set-based UPDATE or DELETE; more are several statements.
const STATEMENT_ROWS: usize = 64 * 1024;

/// What a statement of a transaction is for.
#[derive(Clone, Debug)]
pub(super) enum Label<'a> {
    /// Opening the transaction.
    Begin,
    /// Locking a table before anything else.
    Lock(TableName),
    /// Comparing and bumping the checkpoint's version.
    Guard,
    /// Writing the checkpoint and COMMIT.
    Commit,
    /// Rows of a table.
    Rows(Target<'a>),
}

/// Rows that a statement is to change.
#[derive(Clone, Debug)]
pub(super) struct Target<'a> {
    /// Their table.
    pub table: &'a Table,
    /// Table and positions, for errors.
    pub place: Place,
    /// What is done: `deleting`, …
    pub doing: &'static str,
    /// Memory of the keys, and the rows that hold them, where rows are found by key.
    pub keys: Option<(&'a Rows, Refs<'a>)>,
    /// The plan, where it is one; its only row is named in errors.
    pub plan: Option<&'a TablePlan>,
    /// Nothing earlier in this transaction changed the table.
    pub first: bool,
}

/// The pipeline of one transaction.
pub(super) type Work<'a> = Pipeline<'a, Label<'a>>;
/// A failed statement of a transaction.
pub(super) type Failed<'a> = Failure<Label<'a>>;

/// One step's surroundings.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The follower's table.
    pub table: &'a Table,
    /// The plan the step is of.
    pub plan: &'a TablePlan,
    /// Nothing earlier in this transaction changed the table.
    pub first: bool,
}

impl<'a> Scope<'a> {
    /// The label of a statement; `keys` where rows are found by key.
    pub(super) fn label(&self, doing: &'static str, keys: Option<Refs<'a>>) -> Label<'a> {
        Label::Rows(Target {
            table: self.table,
            place: Place::of_plan(self.plan),
            doing,
            keys: keys.map(|refs| (&self.plan.rows, refs)),
            plan: Some(self.plan),
            first: self.first,
        })
    }

    fn column(&self, refs: &Refs<'a>, column: usize) -> Param<'a> {
        Param::Column {
            rows: &self.plan.rows,
            refs: refs.clone(),
            column,
        }
    }

    fn key_params(&self, refs: &Refs<'a>) -> Vec<Param<'a>> {
        let key = self.table.key().iter();
        key.map(|&column| self.column(refs, column)).collect()
    }
}

/// Sends all steps of a plan. What is not yet answered stays in the pipeline.
pub(super) async fn apply_plan<'a>(
    work: &mut Work<'a>,
    table: &'a Table,
    plan: &'a TablePlan,
    first: bool,
) -> Result<(), Failed<'a>> {
    for (n, step) in plan.steps.iter().enumerate() {
        let scope = Scope {
            table,
            plan,
            first: first && n == 0,
        };
        match step {
            Step::Truncate => truncate(work, scope).await?,
            Step::Net(net) => apply_net(work, scope, net).await?,
            Step::Ordered(changes) => ordered::apply_ordered(work, scope, changes).await?,
        }
    }
    Ok(())
}

/// What is done by a statement that waits for the table's readers.
pub(super) const TRUNCATING: &str = "truncating";

/// Empties the table.
pub(super) async fn truncate<'a>(work: &mut Work<'a>, scope: Scope<'a>) -> Result<(), Failed<'a>> {
    let table = scope.table;
    let emptying = how_to_empty(table.referenced, table.only, &table.quoted);
    work.wait_at_least(emptying.limit);
    work.command(scope.label(TRUNCATING, None), emptying.sql)
        .await
}

async fn apply_net<'a>(
    work: &mut Work<'a>,
    scope: Scope<'a>,
    net: &'a NetChange,
) -> Result<(), Failed<'a>> {
    for part in net.deletes.chunks(STATEMENT_ROWS) {
        let refs = Refs::Listed(part);
        let params = scope.key_params(&refs);
        let label = scope.label("deleting", Some(refs));
        execute(work, label, scope.table, Shape::Delete, params, part.len()).await?;
    }
    if !net.moves.is_empty() || needs_replacing(scope.table, net) {
        replace(work, scope, net).await?;
    } else if may_collide(scope.table, net) {
        update_or_replace(work, scope, net).await?;
    } else {
        update(work, scope, net).await?;
    }
    insert(work, scope, Refs::Listed(&net.inserts)).await
}

/// An identity column that is GENERATED ALWAYS takes a value on INSERT only.
fn needs_replacing(table: &Table, net: &NetChange) -> bool {
    let mut columns = net.updates.iter().flat_map(|group| &group.columns);
    columns.any(|&column| table.columns[column].identity_always)
}

/// Whether updates can meet one another under a secondary unique index. One row alone cannot:
/// deletes are done by then, and inserts come after.
fn may_collide(table: &Table, net: &NetChange) -> bool {
    let rows: usize = net.updates.iter().map(|group| group.rows.len()).sum();
    let mut columns = net.updates.iter().flat_map(|group| &group.columns);
    rows > 1 && columns.any(|&column| table.columns[column].contested)
}

async fn update<'a>(
    work: &mut Work<'a>,
    scope: Scope<'a>,
    net: &'a NetChange,
) -> Result<(), Failed<'a>> {
    for UpdateGroup { columns, rows } in &net.updates {
        let mut set = columns.clone();
        set.retain(|&column| scope.table.writes(column));
        if set.is_empty() {
            continue;
        }
        for part in rows.chunks(STATEMENT_ROWS) {
            let refs = Refs::Listed(part);
            let mut params = scope.key_params(&refs);
            params.extend(set.iter().map(|&column| scope.column(&refs, column)));
            let label = scope.label("updating", Some(refs));
            let shape = Shape::Update(set.clone());
            execute(work, label, scope.table, shape, params, part.len()).await?;
        }
    }
    Ok(())
}

async fn update_or_replace<'a>(
    work: &mut Work<'a>,
    scope: Scope<'a>,
    net: &'a NetChange,
) -> Result<(), Failed<'a>> {
    // Whatever fails from here on is under the savepoint.
    work.drain().await?;
    let label = || scope.label("setting a savepoint", None);
    work.command(label(), "SAVEPOINT walferry".to_owned())
        .await?;
    let mut updated = update(work, scope, net).await;
    if updated.is_ok() {
        updated = work.drain().await;
    }
    match updated {
        Ok(()) => work.command(label(), "RELEASE walferry".to_owned()).await,
        Err(failure) if failure.cause.is_conflict() => {
            work.discard().await;
            let back = "ROLLBACK TO walferry; RELEASE walferry";
            work.command(label(), back.to_owned()).await?;
            replace(work, scope, net).await
        }
        Err(failure) => Err(failure),
    }
}

/// Updates and moves as one statement that deletes all old rows and inserts all final images.
async fn replace<'a>(
    work: &mut Work<'a>,
    scope: Scope<'a>,
    net: &'a NetChange,
) -> Result<(), Failed<'a>> {
    let updated = || net.updates.iter().flat_map(|group| &group.rows).copied();
    let moved_from = net.moves.iter().map(|&(from, _to)| from);
    let moved_to = net.moves.iter().map(|&(_from, to)| to);
    let old: Arc<[RowRef]> = updated().chain(moved_from).collect();
    let last: Arc<[RowRef]> = updated().chain(moved_to).collect();
    let count = old.len();
    let (old, last) = (Refs::Gathered(old), Refs::Gathered(last));
    let mut params = scope.key_params(&old);
    let written = scope.table.written.iter();
    params.extend(written.map(|&column| scope.column(&last, column)));
    params.push(Param::AbsentMask {
        rows: &scope.plan.rows,
        refs: last,
    });
    let label = scope.label("replacing", Some(old));
    execute(work, label, scope.table, Shape::Replace, params, count).await
}

/// Inserts whole rows.
pub(super) async fn insert<'a>(
    work: &mut Work<'a>,
    scope: Scope<'a>,
    refs: Refs<'a>,
) -> Result<(), Failed<'a>> {
    let count = refs.len();
    if count == 0 {
        return Ok(());
    }
    let table = scope.table;
    let label = scope.label("inserting", None);
    if table.written.is_empty() {
        let params = vec![Param::Count(i64::try_from(count).unwrap_or(i64::MAX))];
        return execute(work, label, table, Shape::InsertDefaults, params, count).await;
    }
    if count > INSERTS_BY_COPY {
        return copy(
            work,
            label,
            table,
            &scope.plan.rows,
            refs.iter().copied(),
            count,
        )
        .await;
    }
    let written = table.written.iter();
    let params = written.map(|&column| scope.column(&refs, column)).collect();
    execute(work, label, table, Shape::Insert, params, count).await
}

/// Copies whole rows into the table.
pub(super) async fn copy<'a>(
    work: &mut Work<'a>,
    label: Label<'a>,
    table: &Table,
    rows: &Rows,
    refs: impl Iterator<Item = RowRef>,
    count: usize,
) -> Result<(), Failed<'a>> {
    let statement = statement(work, &label, table, Shape::Copy).await?;
    work.drain().await?;
    let client = Arc::clone(work.client());
    let taken = copy_rows(
        &client,
        &statement,
        &table.written,
        rows,
        refs,
        work.limit(),
    )
    .await;
    let cause = match taken {
        Ok(taken) if taken == count as u64 => return Ok(()),
        Ok(taken) => Cause::Affected(taken),
        Err(cause) => cause,
    };
    Err(Failure { label, cause })
}

/// Sends a statement that must change `count` rows.
pub(super) async fn execute<'a>(
    work: &mut Work<'a>,
    label: Label<'a>,
    table: &Table,
    shape: Shape,
    params: Vec<Param<'a>>,
    count: usize,
) -> Result<(), Failed<'a>> {
    let statement = statement(work, &label, table, shape).await?;
    work.execute(label, statement, params, Some(count as u64))
        .await
}

async fn statement<'a>(
    work: &mut Work<'a>,
    label: &Label<'a>,
    table: &Table,
    shape: Shape,
) -> Result<Statement, Failed<'a>> {
    if let Some(statement) = table.prepared(&shape) {
        return Ok(statement);
    }
    work.drain().await?;
    let client = Arc::clone(work.client());
    table
        .prepare(&client, shape)
        .await
        .map_err(|error| Failure {
            label: label.clone(),
            cause: Cause::Database(error),
        })
}
