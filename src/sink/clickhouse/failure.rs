//! What ClickHouse says went wrong, classified once.
//!
//! The server's messages can quote values of the data that it was sent. Those of statements without data, which
//! walferry makes itself, are told; of an INSERT only code and name are.

use crate::error::{Error, Result};

/// What a statement failed with.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server was asked and answered this.
    Refused {
        /// Code of the exception (`ErrorCodes.cpp`); 0 when there is none.
        code: u32,
        /// Name of the exception, such as `MEMORY_LIMIT_EXCEEDED`.
        name: String,
        /// What it says.
        message: String,
    },
    /// It could not be asked, or has not answered.
    Unasked(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Unasked(error)
    }
}

/// Reads an answer that is no success: `Code: 60. DB::Exception: Table … does not exist. (UNKNOWN_TABLE) (version …)`.
pub(super) fn refused(status: u16, code: Option<u32>, body: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(&body[..body.len().min(4096)]);
    let text = text.trim();
    let of_text = text
        .strip_prefix("Code: ")
        .and_then(|rest| rest.split_once('.'))
        .and_then(|(code, _)| code.parse().ok());
    let message = text
        .split_once("DB::Exception: ")
        .map_or(text, |(_, rest)| rest);
    let message = message
        .rsplit_once(" (version")
        .map_or(message, |(before, _)| before);
    let is_name = |text: &&str| {
        let mut bytes = text.bytes();
        !text.is_empty() && bytes.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    let named = message
        .rsplit_once('(')
        .and_then(|(before, rest)| Some((before, rest.strip_suffix(')')?)))
        .filter(|(_, name)| is_name(name));
    let (message, name) = match named {
        Some((before, name)) => (before.trim_end(), name.to_owned()),
        None => (message, format!("HTTP status {status}")),
    };
    Failure::Refused {
        code: code.or(of_text).unwrap_or(0),
        name,
        message: message.trim_end_matches(['.', ' ']).to_owned(),
    }
}

impl Failure {
    /// The error of a statement without data.
    pub(super) fn doing(self, doing: impl std::fmt::Display) -> Error {
        match self {
            Failure::Unasked(error) => error.at(doing),
            Failure::Refused {
                code,
                name,
                message,
            } => classified(code, format!("{doing}: ClickHouse says {message} ({name})")),
        }
    }

    /// The error of a statement with rows in it, or whose answer may quote some.
    pub(super) fn with_rows(self, doing: impl std::fmt::Display) -> Error {
        match self {
            Failure::Unasked(error) => error.at(doing),
            Failure::Refused { code, name, .. } => classified(
                code,
                format!("{doing}: ClickHouse answers with exception {code} ({name})"),
            ),
        }
    }
}

/// Codes of `src/Common/ErrorCodes.cpp`.
fn classified(code: u32, what: String) -> Error {
    match code {
        // UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, AUTHENTICATION_FAILED
        192..=194 | 516 => Error::halt(what, "check user and password in the sink's url"),
        // ACCESS_DENIED, DATABASE_ACCESS_DENIED, READONLY
        497 | 291 | 164 => Error::halt(
            what,
            "give the user of the sink's url the rights to SELECT, INSERT, ALTER, CREATE, TRUNCATE and DROP in \
             the databases of this sink (docs/sinks.md names them)",
        ),
        // UNKNOWN_DATABASE
        81 => Error::halt(
            what,
            "create the database, or let walferry do it with create_tables = true",
        ),
        // UNKNOWN_TABLE, NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_IDENTIFIER, THERE_IS_NO_COLUMN
        60 | 16 | 47 | 8 => Error::halt(
            what,
            "somebody has altered the follower: put it back, or have the table copied anew with walferry resync",
        ),
        // DUPLICATE_COLUMN
        15 => Error::halt(
            what,
            "the follower's table has a column of its own that has the name of a new one of the leader's: rename or \
             drop it",
        ),
        // VIOLATED_CONSTRAINT
        469 => Error::halt(
            what,
            "the follower's table has a constraint of its own that a row of the leader's does not meet: drop the \
             constraint there",
        ),
        // TIMEOUT_EXCEEDED
        159 => Error::transient(what).taking_too_long().advising(
            "raise statement_timeout in the sink's settings, should it be exceeded again and again",
        ),
        // TOO_MANY_PARTS (of too many partitions, which has that code too: `write::OF_ANY_PARTITIONS`)
        252 => Error::transient(what).advising(
            "raise batch_max_age in the sink's settings: fewer, larger inserts leave merges time",
        ),
        // NOT_ENOUGH_SPACE, CANNOT_WRITE_TO_FILE_DESCRIPTOR
        243 | 75 => Error::transient(what).advising("free space on the follower's disk"),
        // MEMORY_LIMIT_EXCEEDED
        241 => Error::transient(what).advising(
            "lower batch_max_bytes in the sink's settings, or give ClickHouse more memory",
        ),
        // What is wrong with the statement or its data stays wrong: NUMBER_OF_COLUMNS_DOESNT_MATCH, CANNOT_PARSE_*,
        // CANNOT_READ_ALL_DATA, BAD_ARGUMENTS, ILLEGAL_TYPE_OF_ARGUMENT, UNKNOWN_TYPE, TYPE_MISMATCH, SYNTAX_ERROR,
        // INCORRECT_DATA, UNKNOWN_SETTING, DECIMAL_OVERFLOW, NOT_IMPLEMENTED, UNSUPPORTED_METHOD, …
        20 | 26 | 27 | 33 | 36 | 38 | 41 | 43 | 44 | 48 | 50 | 53 | 62 | 70 | 72 | 80 | 115
        | 117 | 344 | 407 | 524 => Error::halt(
            what,
            "see that the follower is a ClickHouse that docs/sinks.md names, and report this as a defect if it is",
        ),
        _other => Error::transient(what),
    }
}

/// The result of a statement without data, as the module's callers want it.
pub(super) trait Doing<T> {
    /// Says what was being done.
    fn doing(self, doing: impl std::fmt::Display) -> Result<T>;
}

impl<T> Doing<T> for Result<T, Failure> {
    fn doing(self, doing: impl std::fmt::Display) -> Result<T> {
        self.map_err(|failure| failure.doing(doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    const BODY: &[u8] = b"Code: 241. DB::Exception: Memory limit exceeded: would use 1 GiB. \
        (MEMORY_LIMIT_EXCEEDED) (version 26.9.2.1)\n";

    #[test]
    fn an_exception_has_code_name_and_message() {
        let Failure::Refused {
            code,
            name,
            message,
        } = refused(500, None, BODY)
        else {
            panic!("it was refused")
        };
        assert_eq!((code, name.as_str()), (241, "MEMORY_LIMIT_EXCEEDED"));
        assert_eq!(message, "Memory limit exceeded: would use 1 GiB");
        let Failure::Refused {
            code,
            name,
            message,
        } = refused(502, None, b"<html>bad gateway")
        else {
            panic!("it was refused")
        };
        assert_eq!((code, name.as_str()), (0, "HTTP status 502"));
        assert_eq!(message, "<html>bad gateway");
    }

    #[test]
    fn an_exception_is_classified_and_one_about_rows_quotes_none() {
        let body = b"Code: 27. DB::Exception: Cannot parse input: expected ( before: secret. (CANNOT_PARSE_INPUT)";
        let error = refused(400, Some(27), body).with_rows("inserting into table public.a");
        assert_eq!(error.class(), Class::Halt);
        let text = error.to_string();
        assert!(
            text.contains("CANNOT_PARSE_INPUT") && !text.contains("secret"),
            "{text}"
        );
        let error = refused(500, None, BODY).doing("merging");
        assert_eq!(error.class(), Class::Transient);
        assert!(
            error
                .remedy()
                .is_some_and(|remedy| remedy.contains("batch_max_bytes"))
        );
        assert_eq!(
            refused(500, Some(210), b"").doing("x").class(),
            Class::Transient
        );
        assert_eq!(refused(403, Some(516), b"").doing("x").class(), Class::Halt);
    }
}
