//! What a batch does to the follower's tables.

use std::pin::pin;
use std::sync::Arc;

use http_body_util::Either;

use super::block::{Block, BlockRow, Given, copied, version};
use super::failure::{Doing, Failure};
use super::fill::{FIRST_ROWS, Filled, Lacking, fill, lacking, lacking_moved};
use super::http::{Http, Query};
use super::notes::Notes;
use super::projection::Projection;
use super::shape::VERSION;
use super::sql;
use super::streamed::{PIECE_BYTES, Writer, streamed};
use super::{ClickHouseSink, foreign_rows, lost, tables};
use crate::config::ClickHouseMode;
use crate::error::{Class, Error, Result};
use crate::killpoint::{self, Point};
use crate::model::batch::Step;
use crate::model::{
    NetChange, Op, Position, RowRef, TableChanges, TableName, TablePlan, TableSchema,
};

/// How often an insert is sent again over a new connection, with the same token.
const SENT_AGAIN_MAX: usize = 3;

/// Rows of an insert's first piece: from then on it is known how long rows are.
const FIRST_PIECE_ROWS: usize = 16;

/// An insert has each key once: the server need not look for rows that others of it replace.
const NOTHING_TO_REPLACE: (&str, &str) = ("optimize_on_insert", "0");

/// A copy has rows of all times, and so of many partitions.
const OF_ANY_PARTITIONS: (&str, &str) = ("max_partitions_per_insert_block", "0");

impl ClickHouseSink {
    /// How rows of a schema version are written. Sees, once a session and version, that they can be.
    ///
    /// # Errors
    /// Transient, and the table is one that needs a copy; halt as [`Projection::new`].
    pub(super) async fn projection(
        &mut self,
        schema: &Arc<TableSchema>,
    ) -> Result<Arc<Projection>> {
        let address = Arc::as_ptr(schema) as usize;
        let session = self.session()?;
        if let Some((_, known)) = session.projections.get(&address) {
            return Ok(Arc::clone(known));
        }
        if let Some((_, why)) = session.awaited.get(&schema.table) {
            let why = why.clone();
            return Err(self.ask_for_copy(&schema.table, why));
        }
        let table = session.tables.get(&schema.table);
        let table =
            table.unwrap_or_else(|| panic!("table {} is prepared before it is used", schema.table));
        let made = Arc::new(Projection::new(Arc::clone(table), schema)?);
        self.bring_on(schema).await?;
        let kept = (Arc::clone(schema), Arc::clone(&made));
        self.session()?.projections.insert(address, kept);
        Ok(made)
    }

    /// One insert of so many rows, which `row` tells by their number, unless there are none. They are encoded while
    /// they are sent. What is sent again has the same token, so that the server takes it once. No other insert ever has
    /// it, of whatever session, or the server would take other rows for those that it has, and drop them.
    async fn insert(
        &self,
        given: Given<'_>,
        rows: usize,
        row: impl Fn(usize) -> BlockRow,
    ) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        let http = &self.session.as_ref().ok_or_else(lost)?.http;
        let table = &given.projection.table.name;
        let token = format!("{:032x}", rand::random::<u128>());
        for again in 0.. {
            match self.send(http, given, (rows, &row), &token).await {
                Ok(()) => break,
                Err(Failure::Unasked(error))
                    if again < SENT_AGAIN_MAX && error.class() == Class::Transient =>
                {
                    tracing::debug!(%table, %error, "an insert is sent again");
                }
                // It is about a value, or the settings, and says so.
                Err(Failure::Unasked(error)) if error.class() == Class::Halt => return Err(error),
                Err(failure) => {
                    return Err(failure.with_rows(format!("inserting into table {table}")));
                }
            }
        }
        killpoint::pass(Point::RowsInserted);
        Ok(())
    }

    /// Sends an insert whose rows are encoded meanwhile.
    async fn send(
        &self,
        http: &Http,
        given: Given<'_>,
        rows: (usize, &impl Fn(usize) -> BlockRow),
        token: &str,
    ) -> Result<(), Failure> {
        let (writer, body) = streamed(&self.memory);
        let query = Query {
            data: Some(Either::Right(body)),
            settings: &[
                ("insert_deduplication_token", token),
                NOTHING_TO_REPLACE,
                OF_ANY_PARTITIONS,
            ],
            ..Query::new(&given.projection.table.insert)
        };
        let mut asked = pin!(http.ask(query));
        tokio::select! {
            biased;
            answered = &mut asked => {
                answered?;
                let early = "ClickHouse says that rows are inserted which it was not sent yet";
                return Err(Error::transient(early).into());
            }
            written = write_all(given, rows, writer) => written?,
        }
        asked.await.map(drop)
    }

    /// Applies the net change of one table.
    pub(super) async fn apply_plan(&mut self, plan: &TablePlan) -> Result<()> {
        let projection = self.projection(&plan.schema).await?;
        if !projection.is_sorted_by_key {
            let why = "its rows are sorted by another key than the leader had then";
            return Err(self.ask_for_copy(&plan.schema.table, why.to_owned()));
        }
        for step in &plan.steps {
            match step {
                Step::Truncate => self.truncate(&projection, plan.last).await?,
                Step::Ordered(_changes) => {
                    unreachable!(
                        "table {} has no key: it was not prepared",
                        plan.schema.table
                    )
                }
                Step::Net(net) => self.apply_net(&projection, plan, net).await?,
            }
        }
        Ok(())
    }

    /// Rows that lack values and have stayed under their key go by themselves, as many at a time as fit into memory with
    /// those: no other row of the plan has that key. All others are one insert.
    async fn apply_net(
        &mut self,
        projection: &Projection,
        plan: &TablePlan,
        net: &NetChange,
    ) -> Result<()> {
        let lacking = lacking(net, &plan.rows);
        let at = plan.last;
        let given = Given::new(projection, &plan.rows);
        let (mut left, mut count) = (lacking.as_slice(), FIRST_ROWS);
        while !left.is_empty() {
            let (some, rest) = left.split_at(count.min(left.len()));
            let filled = self.fill(projection, plan, (some, at)).await?;
            let rows = some.iter().map(|(_, row)| *row);
            let rows: Vec<RowRef> = rows.filter(|row| filled.has(*row)).collect();
            let given = Given {
                filled: Some(&filled),
                ..given
            };
            let row = |n: usize| BlockRow::there(rows[n], version(at), at);
            self.insert(given, rows.len(), row).await?;
            (left, count) = (rest, filled.next_rows());
        }
        let moved = lacking_moved(net, &plan.rows);
        let filled = match moved.is_empty() {
            true => None,
            false => Some(self.fill(projection, plan, (&moved, plan.first)).await?),
        };
        let given = Given {
            filled: filled.as_ref(),
            ..given
        };
        let rows = given.net(net, at)?;
        let row = |n: usize| BlockRow::net(rows[n], at);
        self.insert(given, rows.len(), row).await
    }

    async fn fill(
        &mut self,
        projection: &Projection,
        plan: &TablePlan,
        (lacking, before): (&[Lacking], Position),
    ) -> Result<Filled> {
        let session = self.session.as_ref().ok_or_else(lost)?;
        let (what, positions) = ((lacking, &plan.rows), (before, plan.last));
        let filled = fill(&session.http, projection, what, positions).await?;
        filled.map_err(|missing| self.lacks(&plan.schema.table, missing))
    }

    /// Rows whose unchanged values are not on the follower.
    fn lacks(&mut self, table: &TableName, missing: usize) -> Error {
        let why = format!(
            "{missing} rows were changed without all their columns, and the follower does not have the rest any more"
        );
        self.ask_for_copy(table, why)
    }

    /// Removes what is older than a truncate. Rows that a crashed attempt has written behind it stay.
    async fn truncate(&self, projection: &Projection, at: Position) -> Result<()> {
        let (table, version) = (&projection.table, version(at));
        let http = &self.session.as_ref().ok_or_else(lost)?.http;
        let doing = format!("truncating table {}", table.name);
        let ask = format!(
            "SELECT count() FROM (SELECT 1 FROM {} WHERE {VERSION} >= toUInt128('{version}') LIMIT 1)",
            table.quoted
        );
        let statement = match http.is_any(&ask).await.doing(&doing)? {
            false => format!("TRUNCATE TABLE {}", table.quoted),
            true => format!(
                "ALTER TABLE {} DELETE WHERE {VERSION} < toUInt128('{version}')",
                table.quoted
            ),
        };
        http.remove(&statement).await.doing(&doing)
    }

    /// Empties a table for a copy, if its rows are walferry's. What a table of changes has stays: a copy only says
    /// again how rows are.
    pub(super) async fn empty_table(&mut self, table: &TableName) -> Result<()> {
        let http = &self.session.as_ref().ok_or_else(lost)?.http;
        let store = self.store(http);
        let (database, name) = self.databases.of(table)?;
        let quoted = sql::table(database, name);
        if tables::columns(http, database, name).await?.is_empty() {
            return Err(Error::halt(
                format!("table {table} does not exist on the follower"),
                "restart walferry: it creates the table, or says what is missing",
            ));
        }
        if !store.has_filled(table).await? {
            if tables::has_rows(http, &quoted).await? {
                return Err(foreign_rows(table, &quoted));
            }
            store.note_filled(table).await?;
        }
        if self.settings.mode == ClickHouseMode::History {
            return Ok(());
        }
        let session = self.session.as_ref().ok_or_else(lost)?;
        match session.awaited.get(table) {
            Some((schema, why)) => {
                let preparing = self.preparing(&session.http);
                let ready = preparing.make_anew(schema, why).await?;
                self.session()?.keep(ready);
            }
            None => {
                let statement = format!("TRUNCATE TABLE {quoted}");
                let emptied = session.http.remove(&statement).await;
                emptied.doing(format!("emptying table {table}"))?;
                self.session()?.forget_projections(table);
            }
        }
        self.note(table, Notes::default()).await
    }

    /// Writes rows of a copy.
    pub(super) async fn load_rows(&mut self, rows: &TableChanges, before: u64) -> Result<()> {
        let projection = self.projection(&rows.schema).await?;
        let mode = self.settings.mode;
        let row = |n: usize| {
            let change = &rows.changes[n];
            assert_eq!(change.op, Op::Read, "rows of a copy are reads");
            let row = change.after;
            let row =
                row.unwrap_or_else(|| panic!("a row of a copy has its cells: {}", change.position));
            let version = copied(change.position.commit, before + n as u64);
            match mode {
                ClickHouseMode::Current => BlockRow::there(row, version, change.position),
                ClickHouseMode::History => BlockRow::change(change, version, None),
            }
        };
        self.insert(Given::new(&projection, &rows.rows), rows.changes.len(), row)
            .await
    }

    /// Writes changes as they were.
    pub(super) async fn keep_changes(&mut self, changes: &TableChanges) -> Result<()> {
        let projection = self.projection(&changes.schema).await?;
        let row = |n: usize| {
            let change = &changes.changes[n];
            let time_ms = changes.times_ms.get(n).copied().flatten();
            BlockRow::change(change, version(change.position), time_ms)
        };
        self.insert(
            Given::new(&projection, &changes.rows),
            changes.changes.len(),
            row,
        )
        .await
    }
}

/// Encodes rows, piece by piece.
async fn write_all(
    given: Given<'_>,
    (rows, row): (usize, &impl Fn(usize) -> BlockRow),
    to: Writer,
) -> Result<()> {
    let mut block = Block::new(given);
    let (mut piece, mut done, mut count) = (Vec::new(), 0, FIRST_PIECE_ROWS);
    while done < rows {
        let end = rows.min(done + count);
        piece.clear();
        piece.extend((done..end).map(row));
        block.write(&piece)?;
        (done, count) = (end, block.rows_in(PIECE_BYTES));
        if to.write(|out| block.take(out)).await.is_err() {
            // Why is what the request ends with.
            return Ok(());
        }
    }
    // As above.
    let _unsent = to.end().await;
    Ok(())
}
