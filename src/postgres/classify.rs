//! What an error of a Postgres server means for walferry: retry, or halt with a remedy. One policy by
//! SQLSTATE for ordinary and replication connections, leader and followers.
//!
//! The text of an error never holds row values: DETAIL, CONTEXT and query texts are never shown, and
//! the primary message only for SQLSTATEs whose messages name objects, not values.

use std::fmt;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use tokio_postgres::error::DbError;

use super::sqlstate::condition_name;
use super::tls;
use crate::error::{Error, NEW_PIPELINE, Result};
use crate::model::Lsn;

/// The parts of a server's error that may be shown or decided on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// SQLSTATE, five characters.
    pub code: String,
    /// Primary message, in the server's language. May hold row values: see [`ServerError::describe`].
    message: String,
    schema: Option<String>,
    table: Option<String>,
    column: Option<String>,
    data_type: Option<String>,
    constraint: Option<String>,
    /// Where in the WAL a change was being decoded.
    decoding: Option<Lsn>,
    /// There is more to it, which is not shown.
    has_detail: bool,
}

/// Transactions waited for each other, and the server has given this one up: the cause of such an error.
#[derive(Debug)]
pub struct Deadlock;

impl Deadlock {
    /// Whether it is an error's cause.
    pub fn is_behind(error: &Error) -> bool {
        std::error::Error::source(error).is_some_and(|cause| cause.is::<Deadlock>())
    }
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadlock detected")
    }
}

impl std::error::Error for Deadlock {}

/// Remedy where a database is not there. Only to the name itself the server adds nothing: where it found
/// the name, but another database or none behind it once it had the lock (`InitPostgres`), it does, and
/// then the next attempt may find the one that has the name now.
const DATABASE_REMEDY: &str = "create the database, or correct its name in the settings";

/// What a server says when the text of a value does not fit into its largest allocation, 1 GiB. Postgres
/// does not translate it (`elog`), and gives it SQLSTATE XX000.
const TOO_LARGE: &str = "invalid memory alloc request size";

impl From<&DbError> for ServerError {
    fn from(error: &DbError) -> Self {
        ServerError {
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            schema: error.schema().map(str::to_owned),
            table: error.table().map(str::to_owned),
            column: error.column().map(str::to_owned),
            data_type: error.datatype().map(str::to_owned),
            constraint: error.constraint().map(str::to_owned),
            decoding: None,
            has_detail: error.detail().is_some(),
        }
    }
}

impl ServerError {
    /// Reads the fields of an ErrorResponse or NoticeResponse.
    ///
    /// # Errors
    /// Transient when they are malformed.
    pub fn read(mut fields: ErrorFields<'_>) -> Result<Self> {
        let mut error = ServerError::default();
        while let Some(field) = fields.next().map_err(|cause| {
            Error::transient("the server sent a malformed error").caused_by(cause)
        })? {
            let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => error.code = text(),
                b'M' => error.message = text(),
                b's' => error.schema = Some(text()),
                b't' => error.table = Some(text()),
                b'c' => error.column = Some(text()),
                b'd' => error.data_type = Some(text()),
                b'n' => error.constraint = Some(text()),
                b'W' => error.decoding = decoding_lsn(&text()),
                b'D' => error.has_detail = true,
                // Severity, hint, position, source place: not shown. The protocol asks clients
                // to ignore fields they do not know.
                _other => {}
            }
        }
        Ok(error)
    }

    /// The primary message, where it cannot hold row values.
    pub fn message(&self) -> Option<&str> {
        message_is_free_of_values(&self.code).then_some(&self.message)
    }

    /// The primary message whatever it is: only for errors raised before the session has touched rows
    /// (start-up).
    pub fn message_before_any_row(&self) -> &str {
        &self.message
    }

    /// What happened, free of row values: `permission denied for table t (SQLSTATE 42501)`.
    pub fn describe(&self) -> String {
        self.describe_as(self.message().unwrap_or_else(|| condition_name(&self.code)))
    }

    fn describe_as(&self, message: &str) -> String {
        let mut text = format!("{message} (SQLSTATE {}", self.code);
        let objects = [
            ("schema", &self.schema),
            ("table", &self.table),
            ("column", &self.column),
            ("type", &self.data_type),
            ("constraint", &self.constraint),
        ];
        for (kind, name) in objects {
            if let Some(name) = name {
                text.push_str(&format!(", {kind} {name}"));
            }
        }
        if let Some(lsn) = self.decoding {
            text.push_str(&format!(", while decoding the change at {lsn}"));
        }
        text.push(')');
        text
    }

    /// The error with its class.
    pub fn classified(&self, doing: &str) -> Error {
        self.classified_as(doing, self.describe())
    }

    /// As [`ServerError::classified`], for an error of the start-up.
    pub fn classified_at_start_up(&self, doing: &str) -> Error {
        self.classified_as(doing, self.describe_as(self.message_before_any_row()))
    }

    fn classified_as(&self, doing: &str, description: String) -> Error {
        let what = format!("{doing}: {description}");
        if self.code == "XX000" && self.message.starts_with(TOO_LARGE) {
            return Error::halt(
                format!(
                    "{what}: a row holds more than Postgres can send as text (1 GiB a value; a bytea takes two characters a byte)"
                ),
                format!(
                    "make the value smaller on the leader, or exclude its table; if it is in the WAL already, then {NEW_PIPELINE}"
                ),
            );
        }
        if self.code == "3D000" && self.has_detail {
            return Error::transient(format!(
                "{what}: it was renamed, dropped or damaged while the session waited for it"
            ))
            .advising(DATABASE_REMEDY);
        }
        match verdict(&self.code) {
            Verdict::Transient if self.code == "40P01" => {
                Error::transient(what).caused_by(Deadlock)
            }
            Verdict::Transient => Error::transient(what),
            Verdict::Halt(remedy) => Error::halt(what, remedy),
        }
    }
}

/// The LSN in pgoutput's CONTEXT, `slot "s", output plugin "pgoutput", in the change callback,
/// associated LSN 0/299B4BE8`, whatever its language. No other CONTEXT ends with one.
fn decoding_lsn(context: &str) -> Option<Lsn> {
    let last = context.lines().next()?.rsplit(' ').next()?;
    last.parse().ok()
}

/// Classifies a server's or connection's error by its SQLSTATE. The text never holds row values:
/// only the server's primary message for classes known to be free of them, else the SQLSTATE's name,
/// with schema, table, column and constraint fields.
pub fn classify(error: &tokio_postgres::Error, doing: &str) -> Error {
    if let Some(db) = error.as_db_error() {
        return ServerError::from(db).classified(doing);
    }
    let source = std::error::Error::source(error);
    let kind = error.to_string();
    // tokio-postgres does not show an error's kind except in these texts (tested below).
    match kind.as_str() {
        "error performing TLS handshake" => {
            match source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
                Some(io) => tls::handshake_failed(io).at(doing),
                None => Error::halt(
                    format!("{doing}: the server does not offer TLS"),
                    "set ssl = on at the server, or sslmode=disable or prefer in the settings",
                ),
            }
        }
        "authentication error" => Error::halt(
            with_source(doing, "authentication failed", source),
            "check user and password in the connector's settings",
        ),
        "invalid configuration" | "invalid connection string" => Error::halt(
            with_source(doing, &kind, source),
            "correct the connection string in the connector's settings",
        ),
        "error communicating with the server"
        | "connection closed"
        | "error connecting to server"
        | "timeout waiting for server"
        | "unexpected message from server"
        | "error parsing response from server" => {
            Error::transient(with_source(doing, &kind, source))
        }
        // Parameters and rows that do not have the types a query was written for. The causes are
        // left out: a conversion may name the value.
        _misfit => Error::halt(
            format!("{doing}: {kind}"),
            "report this as a bug of walferry, with the server's version",
        ),
    }
}

fn with_source(
    doing: &str,
    kind: &str,
    source: Option<&(dyn std::error::Error + 'static)>,
) -> String {
    match source {
        Some(source) => format!("{doing}: {kind}: {source}"),
        None => format!("{doing}: {kind}"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Transient,
    Halt(&'static str),
}

/// The policy. Codes of their own come first, then classes (the first two characters). What no
/// Postgres release documents halts: repeating something unknown for ever hides it.
fn verdict(code: &str) -> Verdict {
    use Verdict::{Halt, Transient};
    match code {
        "08P01" => {
            return Halt(
                "connect to Postgres itself, not through a pooler; else report this as a bug",
            );
        }
        // A follower that is read-only for a while (failover, disk watchdog) comes back.
        "25006" | "25P02" | "25P03" | "25P04" => return Transient,
        "28P01" => return Halt("correct user and password in the connector's settings"),
        "28000" => {
            return Halt(
                "check the user's name and rights (LOGIN, REPLICATION) and pg_hba.conf for this host, \
                 database, user and encryption",
            );
        }
        "42501" => {
            return Halt(
                "grant the role what it lacks (a source needs REPLICATION and SELECT, a follower \
                 the right to set session_replication_role); `walferry check` lists it",
            );
        }
        "55006" | "55P03" => return Transient,
        "57P04" => return Halt("create the database again, or name another one in the settings"),
        "58P01" => {
            return Halt(
                "a file that the server needs is gone (WAL, extension or tablespace): see the server's log",
            );
        }
        "58P03" => return Halt("see the server's log: a file name is too long"),
        "F0001" => return Transient,
        "XX001" | "XX002" => {
            return Halt("the server reports damaged data: see its log, restore or REINDEX");
        }
        _by_class => {}
    }
    match code.get(..2).unwrap_or_default() {
        "08" | "26" | "40" | "53" | "57" | "58" | "72" | "XX" => Transient,
        "00" | "01" | "02" | "03" | "0B" | "0F" | "0L" | "0P" | "0Z" | "20" | "21" | "24"
        | "25" | "2D" | "34" | "3B" => {
            Halt("report this as a bug of walferry, with the server's log")
        }
        "0A" => Halt("use a server version and table features that walferry supports"),
        "22" => Halt(
            "make the follower's column types and encoding take what the leader's values are; the \
             server's log has the value",
        ),
        "23" | "44" => Halt(
            "make the follower's constraints accept the leader's rows, or remove the row in the way; \
             the server's log has the row",
        ),
        "28" => Halt("check the role's rights at the server"),
        "3D" => Halt(DATABASE_REMEDY),
        "3F" => Halt("create the schema, or correct its name in the settings"),
        "42" => Halt("make the server's objects and the role's rights as `walferry check` asks"),
        "54" => {
            Halt("make the table smaller in what the message names, or the server's limit larger")
        }
        "55" => Halt("bring the server or the object into the state that the message asks for"),
        "09" | "27" | "2B" | "2F" | "38" | "39" | "P0" => {
            Halt("correct or disable the server's trigger or function that raised it; see its log")
        }
        "F0" => Halt("correct the server's configuration file"),
        "HV" => Halt("correct the foreign table's server, or leave the table out"),
        _unknown => Halt("see the server's log; this is no error of Postgres's own"),
    }
}

/// Whether primary messages of this SQLSTATE name only objects and numbers. Everything that user code
/// can raise with a text of its own, or that quotes input, is not free of values.
fn message_is_free_of_values(code: &str) -> bool {
    if code == "42601" {
        return false; // "syntax error at or near …" quotes the statement
    }
    matches!(
        code.get(..2).unwrap_or_default(),
        "08" | "0A"
            | "28"
            | "2B"
            | "3D"
            | "40"
            | "42"
            | "53"
            | "54"
            | "55"
            | "57"
            | "58"
            | "72"
            | "F0"
            | "XX"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn server_error(code: &str) -> ServerError {
        ServerError {
            code: code.to_owned(),
            message: "a message with secret".to_owned(),
            ..ServerError::default()
        }
    }

    #[test]
    fn what_may_pass_is_transient_and_the_rest_halts() {
        let transient = [
            "08000", "08003", "08006", "08001", "08004", "25006", "25P03", "25P04", "26000",
            "40000", "40001", "40P01", "53000", "53100", "53200", "53300", "53400", "55006",
            "55P03", "57000", "57014", "57P01", "57P02", "57P03", "57P05", "58000", "58030",
            "72000", "XX000",
        ];
        let halt = [
            "00000", "0A000", "08P01", "22001", "22003", "22021", "22P02", "22P05", "23502",
            "23503", "23505", "23514", "23P01", "25001", "28000", "28P01", "2BP01", "3D000",
            "3F000", "42501", "42601", "42703", "42704", "42710", "42883", "42P01", "44000",
            "54000", "54023", "55000", "55P02", "55P04", "57P04", "58P01", "F0000", "HV000",
            "P0001", "XX001", "XX002", "ZZ000", "", "é0000",
        ];
        for code in transient {
            let error = server_error(code).classified("testing");
            assert_eq!(error.class(), Class::Transient, "{code}");
        }
        for code in halt {
            let error = server_error(code).classified("testing");
            assert_eq!(error.class(), Class::Halt, "{code}");
            assert!(error.remedy().is_some_and(|r| !r.is_empty()), "{code}");
        }
    }

    #[test]
    fn a_database_that_was_renamed_under_a_session_that_waited_for_it_is_tried_again() {
        let mut error = server_error("3D000");
        assert_eq!(
            error.classified_at_start_up("connecting").class(),
            Class::Halt
        );
        error.has_detail = true;
        let error = error.classified_at_start_up("connecting");
        assert_eq!(error.class(), Class::Transient, "{error}");
        assert_eq!(error.remedy(), Some(DATABASE_REMEDY));
    }

    #[test]
    fn a_value_that_postgres_cannot_send_halts_and_says_where_it_is() {
        let mut error = server_error("XX000");
        error.message = "invalid memory alloc request size 1258291203".to_owned();
        error.decoding = decoding_lsn(
            "slot \"s\", output plugin \"pgoutput\", in the change callback, associated LSN 0/299B4BE8",
        );
        let error = error.classified("stream");
        assert_eq!(error.class(), Class::Halt);
        assert!(error.what().contains("at 0/299B4BE8"), "{error}");
        assert_eq!(decoding_lsn("COPY t, line 3"), None);
        assert_eq!(decoding_lsn("a secret 1/2 of it"), None);
    }

    #[test]
    fn messages_that_may_hold_values_are_replaced_by_the_condition() {
        for code in [
            "22P02", "22003", "23505", "P0001", "42601", "44000", "ZZ000",
        ] {
            let text = server_error(code).classified("testing").to_string();
            assert!(!text.contains("secret"), "{text}");
            assert!(text.contains(code), "{text}");
        }
        let mut error = server_error("23505");
        error.table = Some("t".to_owned());
        error.constraint = Some("t_pkey".to_owned());
        assert_eq!(
            error.describe(),
            "unique_violation (SQLSTATE 23505, table t, constraint t_pkey)"
        );
        assert_eq!(
            server_error("53300").describe(),
            "a message with secret (SQLSTATE 53300)"
        );
    }

    #[tokio::test]
    async fn errors_without_a_sqlstate_are_told_apart() {
        let refused = "host=127.0.0.1 port=1 user=u connect_timeout=5";
        let error = tokio_postgres::connect(refused, tokio_postgres::NoTls)
            .await
            .err()
            .unwrap();
        let error = classify(&error, "connecting");
        assert_eq!(error.class(), Class::Transient, "{error}");

        let unknown = "host=127.0.0.1 nonsense=1";
        let error = tokio_postgres::connect(unknown, tokio_postgres::NoTls)
            .await
            .err()
            .unwrap();
        let error = classify(&error, "connecting");
        assert_eq!(error.class(), Class::Halt, "{error}");
        assert!(error.what().contains("nonsense"), "{error}");
    }
}
