//! Statements on the wire: several in one packet, answered one after the other, in one round trip.
//!
//! A server stops at the first statement of a packet that fails. Values are literals: with NO_BACKSLASH_ESCAPES
//! a quote is the only byte of a text that means anything, so that writing one is a copy.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, ServerError, Value};

/// Bytes of statements gathered before they are sent; a larger packet does not make a server faster.
const PACKET_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of one statement on many rows, after which the next one begins.
const STATEMENT_BYTES: usize = 1024 * 1024;
/// Bytes of a packet of a file.
const FILE_PIECE_BYTES: usize = 256 * 1024;
/// What a packet holds beside the statements.
const PACKET_HEAD: usize = 64;

/// Why a statement did not do what it was sent for.
#[derive(Debug)]
pub(super) enum Cause {
    /// The server said so.
    Server(ServerError),
    /// The connection, or the client, said so.
    Client(mysql_async::Error),
    /// It changed (found) this many rows instead of the expected number.
    Affected(u64),
    /// The server would have changed a value to be able to take it.
    Warned,
    /// No answer for this long.
    Silent(Duration),
    /// It is larger than `max_allowed_packet`.
    TooLarge(usize),
}

impl Cause {
    /// Whether a unique index is in the way.
    pub(super) fn is_conflict(&self) -> bool {
        self.code().is_some_and(|code| matches!(code, 1062 | 1586))
    }

    /// The server's error number.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Cause::Server(error) => Some(error.code),
            Cause::Client(_)
            | Cause::Affected(_)
            | Cause::Warned
            | Cause::Silent(_)
            | Cause::TooLarge(_) => None,
        }
    }
}

impl From<mysql_async::Error> for Cause {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(error) => Cause::Server(error),
            error => Cause::Client(error),
        }
    }
}

/// A statement that failed, with the label it was written with.
#[derive(Debug)]
pub(super) struct Failure<L> {
    /// What the statement was.
    pub label: L,
    /// What came of it.
    pub cause: Cause,
}

/// What a server said to a statement.
#[derive(Clone, Copy, Debug, Default)]
struct Answer {
    affected: u64,
    warnings: u16,
}

/// A row of texts, NULL as `None`.
pub(super) type Texts = Vec<Option<String>>;

/// A connection. After an answer that did not come it is closed.
pub(super) struct Wire {
    conn: Option<Conn>,
    /// Longest wait for an answer.
    pub limit: Duration,
    /// `max_allowed_packet`.
    pub packet_max: usize,
    /// The server takes LOAD DATA LOCAL.
    pub local_infile: bool,
}

impl Wire {
    /// Takes a connection over.
    pub(super) fn new(conn: Conn, limit: Duration) -> Self {
        Wire {
            conn: Some(conn),
            limit,
            packet_max: PACKET_BYTES,
            local_infile: false,
        }
    }

    /// Whether nothing can be asked any more.
    pub(super) fn is_closed(&self) -> bool {
        self.conn.is_none()
    }

    /// Says good-bye, which ends a transaction at once.
    pub(super) async fn close(mut self) {
        if let Some(conn) = self.conn.take() {
            // The server notices a closed connection as well.
            let _ = tokio::time::timeout(Duration::from_secs(1), conn.disconnect()).await;
        }
    }

    /// Rows of a query.
    pub(super) async fn rows(&mut self, sql: &str) -> Result<Vec<Texts>, Cause> {
        let limit = self.limit;
        let rows = self
            .guarded(limit, async |conn| conn.query::<Row, _>(sql).await)
            .await?;
        Ok(rows.into_iter().map(texts).collect())
    }

    /// Runs one statement; how many rows it changed (found).
    pub(super) async fn command(&mut self, sql: &str) -> Result<u64, Cause> {
        let limit = self.limit;
        self.command_within(sql, limit).await
    }

    /// The same with a wait of its own.
    pub(super) async fn command_within(
        &mut self,
        sql: &str,
        limit: Duration,
    ) -> Result<u64, Cause> {
        self.guarded(limit, async |conn| {
            conn.query_drop(sql).await?;
            Ok(conn.affected_rows())
        })
        .await
    }

    /// Runs LOAD DATA LOCAL with these bytes as its file; how many rows came, and whether without a warning.
    pub(super) async fn load(&mut self, sql: &str, file: Bytes) -> Result<(u64, bool), Cause> {
        let limit = self.limit;
        self.guarded(limit, async move |conn| {
            let pieces = (0..file.len()).step_by(FILE_PIECE_BYTES);
            let pieces: Vec<std::io::Result<Bytes>> = pieces
                .map(|at| Ok(file.slice(at..file.len().min(at + FILE_PIECE_BYTES))))
                .collect();
            conn.set_infile_handler(async move { Ok(stream::iter(pieces).boxed()) });
            conn.query_drop(sql).await?;
            Ok((conn.affected_rows(), conn.get_warnings() == 0))
        })
        .await
    }

    /// Runs a packet of statements. An error stands behind the answers of those that were before it.
    async fn run(&mut self, sql: &[u8]) -> (Vec<Answer>, Result<(), Cause>) {
        let mut answers = Vec::new();
        let limit = self.limit;
        let taken = &mut answers;
        let done = self
            .guarded(limit, async move |conn| {
                let mut result = conn.query_iter(sql).await?;
                loop {
                    taken.push(Answer {
                        affected: result.affected_rows(),
                        warnings: result.warnings(),
                    });
                    if result.is_empty() {
                        break;
                    }
                    result.next().await?;
                }
                // What failed is found behind the last answer.
                let dropped = result.drop_result().await;
                if dropped.is_err() {
                    taken.pop();
                }
                dropped
            })
            .await;
        (answers, done)
    }

    async fn guarded<T>(
        &mut self,
        limit: Duration,
        ask: impl AsyncFnOnce(&mut Conn) -> mysql_async::Result<T>,
    ) -> Result<T, Cause> {
        let Some(mut conn) = self.conn.take() else {
            return Err(Cause::Client(
                mysql_async::DriverError::ConnectionClosed.into(),
            ));
        };
        let answer = tokio::time::timeout(limit, ask(&mut conn)).await;
        let answer = answer.map_err(|_elapsed| Cause::Silent(limit))?;
        if answer.as_ref().err().is_none_or(|error| !error.is_fatal()) {
            self.conn = Some(conn);
        }
        answer.map_err(Cause::from)
    }
}

fn texts(row: Row) -> Texts {
    let text = |value: Value| match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true)),
    };
    row.unwrap().into_iter().map(text).collect()
}

/// What is asked of a statement's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Anything.
    Any,
    /// This many rows.
    Rows(u64),
    /// This many rows, and every value as it is.
    Exactly(u64),
}

struct Written<L> {
    label: L,
    end: usize,
    expected: Expected,
}

/// Statements written and not yet sent.
pub(super) struct Script<'w, L> {
    /// The connection.
    pub wire: &'w mut Wire,
    /// The statements; whoever writes one appends it, and calls [`Script::end`].
    pub sql: Vec<u8>,
    written: Vec<Written<L>>,
}

impl<'w, L: Clone> Script<'w, L> {
    /// An empty script.
    pub(super) fn new(wire: &'w mut Wire) -> Self {
        Script {
            wire,
            sql: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Where the statement being written begins.
    pub(super) fn begin(&mut self) -> usize {
        if !self.sql.is_empty() {
            self.sql.push(b';');
        }
        self.sql.len()
    }

    /// Whether the statement that began at `start` has as many bytes as it should have.
    pub(super) fn is_full(&self, start: usize) -> bool {
        self.sql.len() - start >= STATEMENT_BYTES.min(self.room() / 2)
    }

    /// Whether it has more than fit into a packet.
    pub(super) fn overflows(&self, start: usize) -> bool {
        self.sql.len() - start > self.room()
    }

    fn room(&self) -> usize {
        self.wire.packet_max.saturating_sub(PACKET_HEAD)
    }

    /// Ends the statement that was appended, and sends what has become enough.
    pub(super) async fn end(&mut self, label: L, expected: Expected) -> Result<(), Failure<L>> {
        let end = self.sql.len();
        self.written.push(Written {
            label,
            end,
            expected,
        });
        if end >= PACKET_BYTES.min(self.room() / 2) {
            self.send().await?;
        }
        Ok(())
    }

    /// Appends a whole statement.
    pub(super) async fn push(
        &mut self,
        label: L,
        sql: &str,
        expected: Expected,
    ) -> Result<(), Failure<L>> {
        self.begin();
        self.sql.extend_from_slice(sql.as_bytes());
        self.end(label, expected).await
    }

    /// Sends everything, and waits for the answers; the first failure in order.
    pub(super) async fn send(&mut self) -> Result<(), Failure<L>> {
        let written = std::mem::take(&mut self.written);
        let mut sql = std::mem::take(&mut self.sql);
        let (mut from, mut start) = (0, 0);
        while from < written.len() {
            let fits = |w: &&Written<L>| w.end - start <= self.room();
            let count = written[from..].iter().take_while(fits).count();
            let part = &written[from..from + count.max(1)];
            let end = part[part.len() - 1].end;
            if count == 0 {
                return Err(Failure {
                    label: part[0].label.clone(),
                    cause: Cause::TooLarge(end - start),
                });
            }
            let (answers, done) = self.wire.run(&sql[start..end]).await;
            judge(part, &answers, done)?;
            from += part.len();
            // Behind the semicolon.
            start = end + 1;
        }
        sql.clear();
        self.sql = sql;
        Ok(())
    }

    /// Forgets what is not sent.
    pub(super) fn discard(&mut self) {
        self.sql.clear();
        self.written.clear();
    }
}

fn judge<L: Clone>(
    part: &[Written<L>],
    answers: &[Answer],
    done: Result<(), Cause>,
) -> Result<(), Failure<L>> {
    for (written, answer) in part.iter().zip(answers) {
        let cause = match written.expected {
            Expected::Any => continue,
            Expected::Rows(rows) | Expected::Exactly(rows) if rows != answer.affected => {
                Cause::Affected(answer.affected)
            }
            Expected::Exactly(_) if answer.warnings > 0 => Cause::Warned,
            Expected::Rows(_) | Expected::Exactly(_) => continue,
        };
        return Err(Failure {
            label: written.label.clone(),
            cause,
        });
    }
    done.map_err(|cause| Failure {
        label: part[answers.len().min(part.len() - 1)].label.clone(),
        cause,
    })
}

/// A name in backquotes, embedded ones doubled.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text in quotes.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Appends a text in quotes, each quote in it doubled.
pub(super) fn put_literal(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'\'');
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\'', rest) {
        out.extend_from_slice(&rest[..=at]);
        out.push(b'\'');
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'\'');
}
