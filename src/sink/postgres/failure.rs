//! Errors of a follower, with the place they happened and the remedy. Never a row value: messages of
//! data errors carry values, so only their SQLSTATE, constraint and column are told.

use tokio_postgres::error::SqlState;

use super::pipeline::Cause;
use crate::error::Error;
use crate::sink::place::{Place, diverged};

/// Remedy where even the smallest step takes too long.
const TOO_LONG: &str = "if it goes on: find out why the follower is slow at it (a lock that is waited for, no index \
     for the rows that are looked for), or raise statement_timeout of this sink";

/// What a SQLSTATE means for rows that a leader had accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The follower refuses the row for good: data exception, integrity constraint, program limit.
    Row,
    /// The follower's table, column, type or right is not (or no longer) what is needed.
    Shape,
}

fn refusal(code: &SqlState) -> Option<Refusal> {
    match code.code().get(..2) {
        Some("22" | "23" | "44" | "54") => Some(Refusal::Row),
        Some("42" | "0A" | "3F" | "2F") => Some(Refusal::Shape),
        Some(_retried) => None,
        None => None,
    }
}

/// The error for a failed statement on rows of `place`.
pub(super) fn rows_error(place: &Place, key: Option<&str>, cause: &Cause, doing: &str) -> Error {
    let error = match cause {
        Cause::Database(error) => error,
        Cause::Affected(rows) => {
            return diverged(
                place,
                &format!("{doing} changed {rows} rows too few or too many"),
            );
        }
        Cause::Silent(limit) => return silent(*limit, doing).at(place),
    };
    let Some(server) = error.as_db_error() else {
        return crate::postgres::classify(error, doing).at(place);
    };
    let row = key.map(|key| format!("the row {key}"));
    match refusal(server.code()) {
        Some(Refusal::Row) if *server.code() == SqlState::UNIQUE_VIOLATION => Error::halt(
            format!(
                "{place}: {doing}: the follower has a row that {} collides with: {}",
                row.as_deref().unwrap_or("the leader's row"),
                summary(server)
            ),
            "delete the row that is in the way on the follower, or drop the follower's unique index if \
             the leader has none like it, and restart walferry",
        ),
        Some(Refusal::Row) => Error::halt(
            format!(
                "{place}: {doing}: the follower refuses {}: {}",
                row.as_deref().unwrap_or("a row"),
                summary(server)
            ),
            "make the follower's table accept the leader's rows (drop or widen its own constraint, column \
             or type that is in the way), and restart walferry",
        ),
        Some(Refusal::Shape) => Error::halt(
            format!(
                "{place}: {doing}: the follower's table or rights have changed: {}",
                summary(server)
            ),
            "give the follower's table the leader's shape and its role the rights again, and restart walferry",
        ),
        // Its statement_timeout; somebody else's pg_cancel_backend() cannot be told from it, and does no harm.
        None if *server.code() == SqlState::QUERY_CANCELED => {
            crate::postgres::classify(error, doing)
                .at(place)
                .taking_too_long()
                .advising(TOO_LONG)
        }
        None => crate::postgres::classify(error, doing).at(place),
    }
}

/// The error for something asked of the server that touches no rows.
pub(super) fn plain_error(cause: &Cause, doing: &str) -> Error {
    match cause {
        Cause::Database(error) => crate::postgres::classify(error, doing),
        Cause::Affected(rows) => Error::transient(format!(
            "{doing}: {rows} rows changed, which was not expected"
        )),
        Cause::Silent(limit) => silent(*limit, doing),
    }
}

fn silent(limit: std::time::Duration, doing: &str) -> Error {
    Error::transient(format!(
        "{doing}: no answer from the follower for {} s",
        limit.as_secs()
    ))
}

/// SQLSTATE with its names, and constraint and column if the server told them. No message, no detail.
pub(super) fn summary(server: &tokio_postgres::error::DbError) -> String {
    let mut text = format!("SQLSTATE {}", server.code().code());
    let named = [
        ("constraint", server.constraint()),
        ("column", server.column()),
        ("type", server.datatype()),
    ];
    for (what, name) in named {
        if let Some(name) = name {
            text.push_str(&format!(", {what} {name}"));
        }
    }
    match (server.code(), server.column()) {
        (code, _) if *code == SqlState::UNIQUE_VIOLATION => text.push_str(" (unique violation)"),
        (code, _) if *code == SqlState::NOT_NULL_VIOLATION => {
            text.push_str(" (not-null violation)")
        }
        (code, _) if *code == SqlState::CHECK_VIOLATION => text.push_str(" (check violation)"),
        // COPY says `COPY t, line 1, column c: "value"`; only what stands before the value is told.
        (_, None) => {
            if let Some(column) = server.where_().and_then(copy_column) {
                text.push_str(&format!(", column {column}"));
            }
        }
        (_, Some(_)) => {}
    }
    text
}

fn copy_column(context: &str) -> Option<&str> {
    let (_, rest) = context.split_once(", column ")?;
    rest.split(':').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_will_never_pass_by_itself_is_a_refusal() {
        for (code, expected) in [
            (SqlState::UNIQUE_VIOLATION, Some(Refusal::Row)),
            (SqlState::INVALID_TEXT_REPRESENTATION, Some(Refusal::Row)),
            (SqlState::PROGRAM_LIMIT_EXCEEDED, Some(Refusal::Row)),
            (SqlState::UNDEFINED_TABLE, Some(Refusal::Shape)),
            (SqlState::INSUFFICIENT_PRIVILEGE, Some(Refusal::Shape)),
            (SqlState::QUERY_CANCELED, None),
            (SqlState::DISK_FULL, None),
            (SqlState::T_R_DEADLOCK_DETECTED, None),
            (SqlState::LOCK_NOT_AVAILABLE, None),
            (SqlState::ADMIN_SHUTDOWN, None),
        ] {
            assert_eq!(refusal(&code), expected, "{}", code.code());
        }
    }

    #[test]
    fn the_column_of_a_copy_is_told_without_the_value() {
        let context = "COPY t, line 3, column amount: \"secret, column x: y\"";
        assert_eq!(copy_column(context), Some("amount"));
        assert_eq!(copy_column("COPY t, line 3: \"secret\""), None);
    }
}
