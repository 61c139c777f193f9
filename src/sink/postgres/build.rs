//! Building noted indexes behind the rows of a copy, on a connection of its own: it may take hours, and
//! the tables in effect go on meanwhile.
//!
//! One transaction an index: it looks whether the sink is still this worker's, takes the note, makes the
//! index, removes the note, and looks again before COMMIT. The note's row lock keeps two workers from building
//! one index; one that a dead worker's server process still holds is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use super::Identity;
use super::indexes::Note;
use super::pipeline::{Cause, within};
use super::session::EMPTYING_LIMIT;
use crate::config::PostgresSettings;
use crate::error::{COPY_ANEW, Error, Result};
use crate::killpoint::{self, Point};
use crate::model::relation::{quote_identifier, quote_literal};
use crate::postgres::{self, ServerError, classify, connect};

/// How long a build lasts at most: as long as the emptying of a table may.
const BUILD_LIMIT: Duration = EMPTYING_LIMIT;
/// How often it is looked whether another session lets go of a note.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Memory for sorting is raised to 256 MiB where the server gives less; a client that is gone is noticed
/// where the server can (version 14, Linux), so that a killed worker's build does not go on for hours.
const SET_UP: &str = "SET search_path = '';
    SET session_replication_role = replica;
    SET synchronous_commit = on;
    SET standard_conforming_strings = on;
    SET statement_timeout = 0;
    SET idle_in_transaction_session_timeout = 60000;
    SET lock_timeout = 30000;
    SET default_transaction_isolation = 'read committed';
    SELECT pg_catalog.set_config('maintenance_work_mem', '256MB', false)
        WHERE pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem')) < 268435456;
    SELECT pg_catalog.set_config(name, '5s', false) FROM pg_catalog.pg_settings
        WHERE name = 'client_connection_check_interval' AND pg_catalog.version() LIKE '%linux%'";

const IS_OWNER: &str = "SELECT EXISTS (SELECT FROM walferry.checkpoint \
    WHERE pipeline = $1 AND sink = $2 AND owner = $3)";

const TAKE: &str = "SELECT FROM walferry.indexes \
    WHERE table_schema = $1 AND table_name = $2 AND name = $3 FOR UPDATE SKIP LOCKED";

const IS_NOTED: &str = "SELECT EXISTS (SELECT FROM walferry.indexes \
    WHERE table_schema = $1 AND table_name = $2 AND name = $3)";

const REMOVE: &str = "DELETE FROM walferry.indexes \
    WHERE table_schema = $1 AND table_name = $2 AND name = $3";

/// Whether the table is there, and whether its constraint or a relation of its schema has the name.
const PLACE: &str = "SELECT t.oid IS NOT NULL, \
        EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conrelid = t.oid AND c.conname = $3) \
        OR EXISTS (SELECT FROM pg_catalog.pg_class x JOIN pg_catalog.pg_namespace n ON n.oid = x.relnamespace \
            WHERE n.nspname = $1 AND x.relname = $3) \
    FROM (SELECT) AS one LEFT JOIN (pg_catalog.pg_class t JOIN pg_catalog.pg_namespace s \
        ON s.oid = t.relnamespace AND s.nspname = $1) ON t.relname = $2 AND t.relkind IN ('r', 'p')";

/// What is to be built, and for whom.
pub(super) struct Job {
    /// How the follower is reached.
    pub settings: PostgresSettings,
    /// Whose follower it is.
    pub me: Arc<Identity>,
    /// What is to be made, in this order.
    pub notes: Vec<Note>,
    /// How many of them are done.
    pub done: Arc<AtomicUsize>,
    /// Asks to stop.
    pub stop: CancellationToken,
}

/// What came of a note.
enum Made {
    /// It is there now.
    Built,
    /// Nothing was to be done: why.
    Skipped(&'static str),
    /// Somebody else has done it.
    Gone,
    /// Another session is at it.
    Busy,
}

/// What a failed statement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// It may pass by itself, or is about the connection.
    Usual,
    /// The index cannot be made, and is only an offer.
    GoWithout,
    /// The index cannot be made as things are.
    Halt,
    /// Rows that the leader's index does not allow.
    Diverged,
}

/// Makes all of it. Ends early, without error, when it is asked to stop.
///
/// # Errors
/// Fenced when another worker owns the sink. Halt when an index of the follower's own cannot be made
/// again, or when rows contradict a unique index of the leader. Transient else.
pub(super) async fn build(job: Job) -> Result<()> {
    let name = format!("walferry {} {} indexes", job.me.pipeline, job.me.sink);
    let client = connect(&job.settings, &name).await?;
    client
        .batch_execute(SET_UP)
        .await
        .map_err(|error| classify(&error, "setting up a session that builds indexes"))?;
    let cancel = client.cancel_token();
    tokio::select! {
        biased;
        () = job.stop.cancelled() => {
            postgres::cancel(&job.settings, cancel).await;
            Ok(())
        }
        built = build_all(&client, &job) => built,
    }
}

async fn build_all(client: &Client, job: &Job) -> Result<()> {
    for note in &job.notes {
        let (sink, table, index) = (&job.me.sink, &note.table, &note.name);
        let mut said = false;
        loop {
            let begun = Instant::now();
            match build_one(client, &job.me, note).await? {
                Made::Built => {
                    let seconds = begun.elapsed().as_secs_f64();
                    tracing::info!(%sink, %table, index, seconds, "built an index behind the rows");
                }
                Made::Skipped(why) => {
                    tracing::warn!(%sink, %table, index, why, "an index is not built");
                }
                Made::Gone => {}
                Made::Busy => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::info!(
                            %sink, %table, index,
                            "another session is building the index, perhaps of a worker that is gone; waiting for it"
                        );
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
            }
            break;
        }
        job.done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Makes one index and removes its note, or finds out why not.
async fn build_one(client: &Client, me: &Identity, note: &Note) -> Result<Made> {
    let failed = |error: tokio_postgres::Error| {
        classify(&error, "building an index").at(format_args!("table {}", note.table))
    };
    client.batch_execute("BEGIN").await.map_err(failed)?;
    check_owner(client, me).await?;
    let of = [&note.table.schema, &note.table.name, &note.name];
    let [schema, table, name] = of;
    let taken = client.query_opt(TAKE, &[schema, table, name]).await;
    if taken.map_err(failed)?.is_none() {
        client.batch_execute("ROLLBACK").await.map_err(failed)?;
        let noted = client.query_one(IS_NOTED, &[schema, table, name]).await;
        let noted: bool = noted.and_then(|row| row.try_get(0)).map_err(failed)?;
        return Ok(if noted { Made::Busy } else { Made::Gone });
    }
    let place = client
        .query_one(PLACE, &[schema, table, name])
        .await
        .map_err(failed)?;
    let is_there: bool = place.try_get(0).map_err(failed)?;
    let is_taken: bool = place.try_get(1).map_err(failed)?;
    let made = match (is_there, is_taken) {
        (false, _) => Made::Skipped("its table is gone"),
        (true, true) => Made::Skipped("something of this name is there by now"),
        (true, false) => {
            tracing::info!(
                sink = %me.sink,
                table = %note.table,
                index = note.name,
                "building an index behind the rows"
            );
            killpoint::pass(Point::BeforeIndex);
            match within(BUILD_LIMIT, run(client, note)).await {
                Ok(()) => Made::Built,
                Err(Cause::Database(error)) => {
                    return given_up(client, note, &error).await.map(|()| Made::Gone);
                }
                Err(Cause::Silent(_) | Cause::Affected(_)) => {
                    return Err(Error::transient(format!(
                        "table {}: building index {} was not done within {} h",
                        note.table,
                        note.name,
                        BUILD_LIMIT.as_secs() / 3600
                    )));
                }
            }
        }
    };
    client
        .execute(REMOVE, &[schema, table, name])
        .await
        .map_err(failed)?;
    check_owner(client, me).await?;
    killpoint::pass(Point::IndexBuilt);
    client.batch_execute("COMMIT").await.map_err(failed)?;
    Ok(made)
}

async fn check_owner(client: &Client, me: &Identity) -> Result<()> {
    let of: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&me.pipeline, &me.sink, &me.instance];
    let owner = client.query_one(IS_OWNER, &of).await;
    let is_owner = owner
        .and_then(|row| row.try_get(0))
        .map_err(|error| classify(&error, "looking at the checkpoint"))?;
    if is_owner {
        Ok(())
    } else {
        Err(Error::fenced(format!(
            "sink {} of pipeline {} is another worker's by now; its indexes are left to that one",
            me.sink, me.pipeline
        )))
    }
}

/// The statements of a note.
async fn run(client: &Client, note: &Note) -> Result<(), tokio_postgres::Error> {
    let mut sql = format!(
        "SELECT pg_catalog.set_config('default_tablespace', {}, true); {}",
        quote_literal(&note.tablespace),
        note.statement
    );
    if let Some(comment) = &note.comment {
        sql.push_str(&format!(
            "; COMMENT ON INDEX {}.{} IS {}",
            quote_identifier(&note.table.schema),
            quote_identifier(&note.name),
            quote_literal(comment)
        ));
    }
    let _answers: Vec<SimpleQueryMessage> = client.simple_query(&sql).await?;
    Ok(())
}

/// Does without what cannot be made and need not be; else says what to do.
async fn given_up(client: &Client, note: &Note, error: &tokio_postgres::Error) -> Result<()> {
    let place = format!(
        "table {}: building index {} behind the rows",
        note.table, note.name
    );
    let Some(server) = error.as_db_error() else {
        return Err(classify(error, &place));
    };
    let what = ServerError::from(server).describe();
    match failure(note.offered, server.code().code()) {
        Failure::Usual => Err(classify(error, &place)),
        Failure::Halt => Err(Error::halt(
            format!("{place}: {what}"),
            format!(
                "make it possible, or make the index by hand, or, to go on without it, {}; then restart \
                 walferry. It is made by: {}",
                forget(note),
                note.statement
            ),
        )),
        Failure::Diverged => Err(Error::halt(
            format!(
                "{place}: the follower has rows that the leader's {} does not allow: {what}",
                note.name
            ),
            format!(
                "{COPY_ANEW}; or, to go on without it, {}, and restart walferry",
                forget(note)
            ),
        )),
        Failure::GoWithout => {
            let failed = |error| classify(&error, "writing walferry.indexes");
            client.batch_execute("ROLLBACK").await.map_err(failed)?;
            client.batch_execute(&forget(note)).await.map_err(failed)?;
            tracing::warn!(
                table = %note.table,
                index = note.name,
                error = what,
                statement = note.statement,
                "the leader's index or constraint cannot be made on the follower, which goes on without it"
            );
            Ok(())
        }
    }
}

/// Removes a note, as SQL that can also be run by hand.
fn forget(note: &Note) -> String {
    format!(
        "DELETE FROM walferry.indexes WHERE table_schema = {} AND table_name = {} AND name = {}",
        quote_literal(&note.table.schema),
        quote_literal(&note.table.name),
        quote_literal(&note.name)
    )
}

/// Decides by SQLSTATE. A name that is taken this moment (42P07, 42710) is found there at the next try.
fn failure(offered: bool, code: &str) -> Failure {
    match code.get(..2) {
        Some("42") if code == "42P07" || code == "42710" => Failure::Usual,
        Some("23") if offered => Failure::Diverged,
        Some("0A" | "22" | "2F" | "38" | "39" | "3F" | "42" | "54" | "P0") if offered => {
            Failure::GoWithout
        }
        Some("0A" | "22" | "23" | "2F" | "38" | "39" | "3F" | "42" | "54" | "P0") => Failure::Halt,
        Some(_other_class) => Failure::Usual,
        None => Failure::Usual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_done_without_and_an_own_index_is_not() {
        for (code, own, offer) in [
            ("42883", Failure::Halt, Failure::GoWithout), // no such function
            ("42704", Failure::Halt, Failure::GoWithout), // no such operator class or collation
            ("42501", Failure::Halt, Failure::GoWithout), // no right
            ("0A000", Failure::Halt, Failure::GoWithout),
            ("54000", Failure::Halt, Failure::GoWithout), // an index row is too large
            ("23505", Failure::Halt, Failure::Diverged),
            ("23514", Failure::Halt, Failure::Diverged),
            ("23P01", Failure::Halt, Failure::Diverged),
            ("42P07", Failure::Usual, Failure::Usual),
            ("53100", Failure::Usual, Failure::Usual), // disk full
            ("55P03", Failure::Usual, Failure::Usual), // lock not available
            ("57P01", Failure::Usual, Failure::Usual),
        ] {
            assert_eq!(failure(false, code), own, "{code}");
            assert_eq!(failure(true, code), offer, "{code}");
        }
    }
}
