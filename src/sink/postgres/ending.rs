//! How a transaction fails: what is said once it is rolled back.

use std::sync::Arc;

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::apply::{Failed, Label, Target};
use super::failure::{plain_error, rows_error, summary};
use super::params::{Param, Refs};
use super::pipeline::{Cause, Failure};
use super::statements::Shape;
use super::tables::Table;
use crate::error::Error;
use crate::model::{RowRef, Rows};
use crate::sink::place::{Place, key_text, only_key};

/// A failure on its way out, with what it takes to explain it once the transaction is over.
pub(super) enum Ending {
    /// Known already.
    Error(Error),
    /// The guard found no row.
    Refused,
    /// Rows were missing; the first missing key may be asked for.
    Missing {
        /// What is said in any case.
        place: Place,
        /// What was done to how many of how many.
        what: String,
        /// The table and the keys that were to be found.
        keys: Option<(Arc<Table>, Rows, Vec<RowRef>)>,
    },
}

impl From<Error> for Ending {
    fn from(error: Error) -> Self {
        Ending::Error(error)
    }
}

impl Failed<'_> {
    /// Takes out of the failure what outlives the plan it borrows from.
    pub(super) fn ending(self, table: Option<Arc<Table>>) -> Ending {
        let Failure { label, cause } = self;
        match (label, &cause) {
            (Label::Guard, Cause::Affected(_none)) => Ending::Refused,
            (Label::Guard | Label::Begin, _) => {
                plain_error(&cause, "beginning a transaction").into()
            }
            (Label::Lock(table), _) => {
                plain_error(&cause, &format!("locking table {table}")).into()
            }
            (Label::Commit, _) => commit_error(&cause).into(),
            (Label::Rows(target), Cause::Affected(changed)) => missing(target, *changed, table),
            (Label::Rows(target), Cause::Database(_) | Cause::Silent(_)) => {
                let key = target.plan.and_then(only_key);
                rows_error(&target.place, key.as_deref(), &cause, target.doing).into()
            }
        }
    }
}

fn missing(target: Target<'_>, changed: u64, table: Option<Arc<Table>>) -> Ending {
    let what = format!("{}: only {changed} rows", target.doing);
    let Some((rows, refs)) = target.keys else {
        return Ending::Missing {
            place: target.place,
            what: format!("{}: the row is not there", target.doing),
            keys: None,
        };
    };
    let what = format!("{what} of {} were there", refs.len());
    if let Some(key) = target.plan.and_then(only_key) {
        return Ending::Missing {
            place: target.place,
            what: format!("{what}; not there: {key}"),
            keys: None,
        };
    }
    // If an earlier step of the transaction made rows, they are gone with it and the answer would lie.
    let keys = match table {
        Some(table) if target.first => Some((table, rows.clone(), refs.to_vec())),
        Some(_) | None => None,
    };
    Ending::Missing {
        place: target.place,
        what,
        keys,
    }
}

/// The outcome of a COMMIT without an answer is unknown: reading the checkpoint again tells it.
fn commit_error(cause: &Cause) -> Error {
    match cause {
        Cause::Database(error) => match error.as_db_error() {
            Some(server) if server.code().code().starts_with("23") => Error::halt(
                format!(
                    "committing: the follower refuses the transaction: {}",
                    summary(server)
                ),
                "remove the follower's deferred constraint, or repair what it refers to, and restart walferry",
            ),
            Some(_) => crate::postgres::classify(error, "committing"),
            None => Error::transient(
                "the connection to the follower was lost while committing; reading the checkpoint again",
            ),
        },
        Cause::Affected(_) => {
            Error::transient("the checkpoint has changed under this transaction; reading it again")
        }
        Cause::Silent(limit) => Error::transient(format!(
            "no answer to COMMIT from the follower for {} s; reading the checkpoint again",
            limit.as_secs()
        )),
    }
}

/// The key of the first row that should be there and is not; for an error's text, so without
/// errors of its own.
pub(super) async fn first_missing(
    client: &Client,
    (table, rows, refs): (Arc<Table>, Rows, Vec<RowRef>),
) -> Option<String> {
    let statement = table.prepare(client, Shape::FirstMissing).await.ok()?;
    let listed = Refs::Listed(&refs);
    let params = table.key().iter().map(|&column| Param::Column {
        rows: &rows,
        refs: listed.clone(),
        column,
    });
    let params: Vec<Param<'_>> = params.collect();
    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| p as _).collect();
    let row = client.query_opt(&statement, &params).await.ok()??;
    let ordinal: i64 = row.try_get(0).ok()?;
    let missing = *refs.get(usize::try_from(ordinal - 1).ok()?)?;
    Some(key_text(&table.schema, &rows, missing))
}
