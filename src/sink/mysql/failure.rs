//! Errors of a follower, with the place they happened and the remedy. Never a row value: messages of data errors
//! carry values, so only their number, index and column are told.

use mysql_async::{DriverError, IoError, ServerError};

use super::encode::Unfit;
use super::wire::Cause;
use crate::error::{COPY_ANEW, Error};
use crate::model::TableName;
use crate::sink::place::{Place, diverged};

/// Remedy where even the smallest step takes too long.
const TOO_LONG: &str = "if it goes on: find out why the follower is slow at it (a lock that is waited for, no index \
     for the rows that are looked for), or raise statement_timeout of this sink";

const RIGHTS: &str = "give the url's user the rights that walferry check names";

/// What a server's error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It passes by itself.
    Passes,
    /// It passes by itself, or somebody helps.
    Helped(&'static str),
    /// The statement took too long.
    TooLong,
    /// The row is refused for good.
    Row,
    /// The table, column or right is not (or no longer) what is needed.
    Shape,
    /// A person must act, as said.
    Halts(&'static str),
}

/// By number (`mysqld_error.h`, `errmsg-utf8.txt`), else by SQLSTATE.
fn meaning(error: &ServerError) -> Meaning {
    match error.code {
        1044 | 1142 | 1143 | 1227 | 1370 => Meaning::Halts(RIGHTS),
        1045 | 1698 | 1251 | 1524 => Meaning::Halts("correct user and password in the sink's url"),
        1130 => Meaning::Halts("let the url's user in from this host"),
        1049 => Meaning::Halts("create the database, or correct the sink's url"),
        1153 => Meaning::Halts(
            "raise max_allowed_packet on the follower above twice the size of the leader's largest row, and \
             restart walferry",
        ),
        1205 => Meaning::Helped(
            "if it goes on: find out who locks rows of the follower's tables for so long",
        ),
        1290 | 1792 | 1836 | 3161 => Meaning::Helped(
            "if the follower is to take writes again: SET GLOBAL read_only = 0, or name its primary in the url",
        ),
        1021 | 1030 | 1041 | 1114 | 1206 | 3675 => {
            Meaning::Helped("give the follower room on its disk and in its memory")
        }
        1969 | 3024 => Meaning::TooLong,
        1048 | 1062 | 1118 | 1216 | 1217 | 1264 | 1265 | 1292 | 1364 | 1366 | 1367 | 1406
        | 1411 | 1451 | 1452 | 1586 | 1644 | 1690 | 3819 | 4025 => Meaning::Row,
        1054 | 1136 | 1146 | 1176 | 1267 | 1305 => Meaning::Shape,
        _other => match error.state.get(..2) {
            Some("22" | "23" | "45") => Meaning::Row,
            Some("42") => Meaning::Shape,
            Some("28") => Meaning::Halts("correct user and password in the sink's url"),
            Some(_retried) => Meaning::Passes,
            None => Meaning::Passes,
        },
    }
}

/// The error for a failed statement on rows of `place`; `key` says which row, where it is one.
pub(super) fn rows_error(place: &Place, key: Option<&str>, cause: &Cause, doing: &str) -> Error {
    let row = key.map_or_else(|| "a row".to_owned(), |key| format!("the row {key}"));
    match cause {
        Cause::Affected(rows) => {
            let named = key.map_or_else(String::new, |key| format!("; not there: {key}"));
            diverged(place, &format!("{doing}: it has {rows} of the rows{named}"))
        }
        Cause::TooLarge(bytes) => Error::halt(
            format!(
                "{place}: {doing}: {row} needs a packet of {bytes} bytes, more than the follower's max_allowed_packet"
            ),
            "raise max_allowed_packet on the follower (at most 1 GiB), and restart walferry; or exclude the table \
             in the sink's file",
        ),
        Cause::Warned => Error::halt(
            format!("{place}: {doing}: the follower would change a value of {row} to hold it"),
            "give the follower's column the type that walferry creates for it, and restart walferry",
        ),
        Cause::Server(error) if matches!(error.code, 1062 | 1586) => Error::halt(
            format!(
                "{place}: {doing}: the follower has a row that {} collides with: {}",
                key.map_or("the leader's row", |_named| row.as_str()),
                summary(error)
            ),
            "delete the row that is in the way on the follower, or drop the follower's unique index if \
             the leader has none like it, and restart walferry",
        ),
        Cause::Server(error) => match meaning(error) {
            Meaning::Row => Error::halt(
                format!(
                    "{place}: {doing}: the follower refuses {row}: {}",
                    summary(error)
                ),
                "make the follower's table accept the leader's rows (drop or widen its own constraint, trigger, \
                 column or type that is in the way), and restart walferry",
            ),
            Meaning::Shape => Error::halt(
                format!(
                    "{place}: {doing}: the follower's table has changed: {}",
                    summary(error)
                ),
                "give the follower's table the shape again that walferry found, and restart walferry",
            ),
            Meaning::Passes | Meaning::Helped(_) | Meaning::TooLong | Meaning::Halts(_) => {
                plain_error(cause, doing).at(place)
            }
        },
        Cause::Client(_) | Cause::Silent(_) => plain_error(cause, doing).at(place),
    }
}

/// The error for something asked of the server that touches no rows of the leader's.
pub(super) fn plain_error(cause: &Cause, doing: &str) -> Error {
    match cause {
        Cause::Server(error) => {
            let what = format!("{doing}: {}", summary(error));
            match meaning(error) {
                Meaning::Passes => Error::transient(what),
                Meaning::Helped(remedy) => Error::transient(what).advising(remedy),
                Meaning::TooLong => Error::transient(what).taking_too_long().advising(TOO_LONG),
                Meaning::Halts(remedy) => Error::halt(what, remedy),
                Meaning::Row | Meaning::Shape => Error::halt(
                    what,
                    "undo what was changed on the follower beside walferry, and restart walferry",
                ),
            }
        }
        Cause::Client(error) => client_error(error, doing),
        Cause::Affected(rows) => Error::transient(format!(
            "{doing}: {rows} rows changed, which was not expected"
        )),
        Cause::Warned => Error::transient(format!("{doing}: the follower has warned")),
        Cause::Silent(limit) => Error::transient(format!(
            "{doing}: no answer from the follower for {} s",
            limit.as_secs()
        )),
        Cause::TooLarge(bytes) => Error::halt(
            format!("{doing}: {bytes} bytes are more than the follower's max_allowed_packet"),
            "raise max_allowed_packet on the follower, and restart walferry",
        ),
    }
}

/// What the client says: of the connection, never of values.
fn client_error(error: &mysql_async::Error, doing: &str) -> Error {
    match error {
        mysql_async::Error::Io(IoError::Tls(tls)) => Error::halt(
            format!("{doing}: TLS: {tls}"),
            "check the files that [tls] of the sink's file names: PEM, readable, key not encrypted",
        ),
        mysql_async::Error::Io(IoError::Io(io)) => io_error(io, doing),
        mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer) => Error::halt(
            format!("{doing}: the server has no TLS"),
            "switch TLS on there, or set mode = \"disable\" in [tls] of the sink's file",
        ),
        mysql_async::Error::Driver(DriverError::UnknownAuthPlugin { name }) => Error::halt(
            format!(
                "{doing}: the server asks for the authentication {name}, which walferry does not speak"
            ),
            "give the url's user caching_sha2_password or mysql_native_password",
        ),
        mysql_async::Error::Driver(DriverError::ConnectionClosed) => {
            Error::transient(format!("{doing}: the connection to the follower is closed"))
        }
        mysql_async::Error::Driver(_)
        | mysql_async::Error::Server(_)
        | mysql_async::Error::Other(_)
        | mysql_async::Error::Url(_) => {
            Error::transient(format!("{doing}: the connection to the follower broke off"))
        }
    }
}

/// A certificate that does not verify needs a person, a broken connection does not.
pub(super) fn io_error(error: &std::io::Error, doing: &str) -> Error {
    let inner = error.get_ref();
    let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_)) => Error::halt(
            format!("{doing}: {error}"),
            "check root_cert in [tls] of the sink's file, the certificate's names and dates, and that the host in the \
             url is one of its names; or choose a weaker mode",
        ),
        Some(rustls::Error::AlertReceived(_)) => Error::halt(
            format!("{doing}: the server refused the TLS handshake: {error}"),
            "check cert and key in [tls] of the sink's file, and the server's log",
        ),
        Some(_) | None => Error::transient(format!("{doing}: connection to the follower: {error}")),
    }
}

/// The outcome of a COMMIT without an answer is unknown: reading the checkpoint again tells it.
pub(super) fn commit_error(cause: &Cause) -> Error {
    match cause {
        Cause::Server(_) | Cause::Warned | Cause::TooLarge(_) => plain_error(cause, "committing"),
        Cause::Affected(_) => {
            Error::transient("the checkpoint has changed under this transaction; reading it again")
        }
        Cause::Client(_) => Error::transient(
            "the connection to the follower was lost while committing; reading the checkpoint again",
        ),
        Cause::Silent(limit) => Error::transient(format!(
            "no answer to COMMIT from the follower for {} s; reading the checkpoint again",
            limit.as_secs()
        )),
    }
}

/// A value that its column cannot hold; `key`: the row, where it is known.
pub(super) fn unfit_error(
    place: &Place,
    (table, column): (&TableName, &str),
    unfit: Unfit,
    key: Option<&str>,
) -> Error {
    let row = key.map_or_else(String::new, |key| format!(" of the row {key}"));
    Error::halt(
        format!(
            "{place}: the value in column {column}{row} {}",
            unfit.what()
        ),
        format!(
            "hold the column as Postgres' own text: write \"{table}.{column}\" = \"text\" under [columns] in the \
             sink's file, and restart walferry, which copies the table anew; or exclude the table there"
        ),
    )
}

/// A table of walferry's that was written by somebody else.
pub(super) fn unreadable(table: &str) -> Error {
    Error::halt(
        format!("{table} on the follower holds what walferry has not written"),
        format!("restore the table as walferry wrote it, or {COPY_ANEW}"),
    )
}

/// Number and SQLSTATE with index or column, where the message ends with their names. The message itself has values
/// in it.
pub(super) fn summary(error: &ServerError) -> String {
    let mut text = format!("error {} (SQLSTATE {})", error.code, error.state);
    let message = error.message.as_str();
    match error.code {
        1062 | 1586 => {
            text.push_str(", duplicate in a unique index");
            push_named(&mut text, ", index ", message, " for key '");
        }
        1048 | 1364 | 1406 | 1264 | 1265 | 1366 | 1292 => {
            let behind = match error.code {
                1048 => "Column '",
                1364 => "Field '",
                _of_column => " for column '",
            };
            push_named(&mut text, ", column ", message, behind);
            // Incorrect …: 'value' for column `d`.`t`.`c` at row 1
            push_named(&mut text, ", column ", message, " for column `");
        }
        // CONSTRAINT `c` failed for …; Check constraint 'c' is violated.
        4025 => push_named(&mut text, ", constraint ", message, "CONSTRAINT `"),
        3819 => push_named(&mut text, ", constraint ", message, "constraint '"),
        1045 | 1044 | 1049 | 1142 | 1146 | 1054 | 1130 | 1205 | 1290 | 1698 => {
            text.push_str(": ");
            text.push_str(message);
        }
        _values_may_be_in_it => {}
    }
    text
}

/// Appends the name that stands behind `behind` in the message.
fn push_named(text: &mut String, what: &str, message: &str, behind: &str) {
    let Some((_, name)) = message.rsplit_once(behind) else {
        return;
    };
    let end = name.find(['\'', ' ', '\n']).unwrap_or(name.len());
    let name = name[..end].trim_end_matches('`');
    if !name.is_empty() {
        text.push_str(what);
        text.push_str(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn error(code: u16, state: &str, message: &str) -> ServerError {
        ServerError {
            code,
            message: message.to_owned(),
            state: state.to_owned(),
        }
    }

    #[test]
    fn names_are_told_and_values_are_not() {
        for (error, told) in [
            (
                error(1062, "23000", "Duplicate entry 'secret' for key 'PRIMARY'"),
                "index PRIMARY",
            ),
            (
                error(1406, "22001", "Data too long for column 'note' at row 1"),
                "column note",
            ),
            (
                error(
                    1366,
                    "22007",
                    "Incorrect string value: 'secret' for column `d`.`t`.`note` at row 3",
                ),
                "column d`.`t`.`note",
            ),
            (
                error(1048, "23000", "Column 'note' cannot be null"),
                "column note",
            ),
        ] {
            let text = summary(&error);
            assert!(text.contains(told), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn only_what_will_never_pass_by_itself_halts() {
        let place = Place::of_table(&TableName::new("public", "t"));
        for (code, state, class) in [
            (1062, "23000", Class::Halt),
            (1366, "22007", Class::Halt),
            (1146, "42S02", Class::Halt),
            (1142, "42000", Class::Halt),
            (1213, "40001", Class::Transient),
            (1205, "HY000", Class::Transient),
            (1290, "HY000", Class::Transient),
            (1053, "08S01", Class::Transient),
            (1114, "HY000", Class::Transient),
            (1969, "70100", Class::Transient),
        ] {
            let cause = Cause::Server(error(code, state, "secret"));
            let error = rows_error(&place, None, &cause, "inserting");
            assert_eq!(error.class(), class, "{error}");
            assert_eq!(
                error.class() == Class::Halt || code == 1969,
                error.may_go_in_parts()
            );
        }
    }
}
