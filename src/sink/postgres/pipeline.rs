//! Statements on the wire before the earlier ones are answered: one round trip for many.
//!
//! While statements are in here nothing else may be awaited on the connection: tokio-postgres stops
//! reading when an answer that nobody polls for is longer than its channel. So: drain, then prepare or COPY.
//!
//! The server runs them in the order in which they were pushed. In a transaction a failed statement
//! fails all that follow, so the first failure in order is the true one.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_postgres::{Client, Statement};

use super::params::Param;

/// Statements that may be unanswered at a time; bounds the memory of encoded parameters.
const WINDOW: usize = 32;

/// Why a statement did not do what it was sent for.
#[derive(Debug)]
pub(super) enum Cause {
    /// The server or the connection said so.
    Database(tokio_postgres::Error),
    /// It changed this many rows instead of the expected number.
    Affected(u64),
    /// No answer for this long.
    Silent(Duration),
}

impl Cause {
    /// Whether transactions waited for each other, and this one was given up.
    pub(super) fn is_deadlock(&self) -> bool {
        use tokio_postgres::error::SqlState;
        match self {
            Cause::Database(error) => error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED),
            Cause::Affected(_) | Cause::Silent(_) => false,
        }
    }

    /// Whether it is a violation of a unique or exclusion constraint.
    pub(super) fn is_conflict(&self) -> bool {
        use tokio_postgres::error::SqlState;
        match self {
            Cause::Database(error) => {
                error.code() == Some(&SqlState::UNIQUE_VIOLATION)
                    || error.code() == Some(&SqlState::EXCLUSION_VIOLATION)
            }
            Cause::Affected(_) | Cause::Silent(_) => false,
        }
    }
}

/// Awaits an answer for at most `limit`: a dead link must not hold a worker for ever.
pub(super) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Cause> {
    tokio::time::timeout(limit, answer)
        .await
        .map_err(|_elapsed| Cause::Silent(limit))?
        .map_err(Cause::Database)
}

/// A statement that failed, with the label it was pushed with.
#[derive(Debug)]
pub(super) struct Failure<L> {
    /// What the statement was.
    pub label: L,
    /// What came of it.
    pub cause: Cause,
}

type Answer = Result<u64, tokio_postgres::Error>;

enum State<'a> {
    Waiting(BoxFuture<'a, Answer>),
    Answered(Answer),
}

struct Sent<'a, L> {
    label: L,
    expected: Option<u64>,
    state: State<'a>,
}

/// Statements sent and not yet checked.
pub(super) struct Pipeline<'a, L> {
    client: Arc<Client>,
    limit: Duration,
    sent: VecDeque<Sent<'a, L>>,
}

impl<'a, L> Pipeline<'a, L> {
    /// An empty pipeline; no answer is awaited longer than `limit`.
    pub(super) fn new(client: Arc<Client>, limit: Duration) -> Self {
        Pipeline {
            client,
            limit,
            sent: VecDeque::new(),
        }
    }

    /// The connection.
    pub(super) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Longest wait for an answer.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Waits at least this long for every answer from here on.
    pub(super) fn wait_at_least(&mut self, limit: Duration) {
        self.limit = self.limit.max(limit);
    }

    /// Sends a prepared statement; `expected` is the number of rows it must change.
    pub(super) async fn execute(
        &mut self,
        label: L,
        statement: Statement,
        params: Vec<Param<'a>>,
        expected: Option<u64>,
    ) -> Result<(), Failure<L>> {
        let client = Arc::clone(&self.client);
        let answer = async move { client.execute_raw(&statement, params).await };
        self.push(label, Box::pin(answer), expected).await
    }

    /// Sends a statement that has no parameters and whose row count does not matter.
    pub(super) async fn command(&mut self, label: L, sql: String) -> Result<(), Failure<L>> {
        let client = Arc::clone(&self.client);
        let answer = async move { client.batch_execute(&sql).await.map(|()| 0) };
        self.push(label, Box::pin(answer), None).await
    }

    /// Sends what `answer` sends when it is first polled (tokio-postgres hands a request to the
    /// connection's queue before it first waits, which keeps requests in the order of the polls).
    pub(super) async fn push(
        &mut self,
        label: L,
        mut answer: BoxFuture<'a, Answer>,
        expected: Option<u64>,
    ) -> Result<(), Failure<L>> {
        while self.sent.len() >= WINDOW {
            self.check_first().await?;
        }
        let polled = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
        let state = match polled {
            Poll::Ready(answer) => State::Answered(answer),
            Poll::Pending => State::Waiting(answer),
        };
        self.sent.push_back(Sent {
            label,
            expected,
            state,
        });
        Ok(())
    }

    /// Waits for everything sent; the first failure in order.
    pub(super) async fn drain(&mut self) -> Result<(), Failure<L>> {
        while !self.sent.is_empty() {
            self.check_first().await?;
        }
        Ok(())
    }

    /// Waits for everything sent, whatever comes of it.
    pub(super) async fn discard(&mut self) {
        while !self.sent.is_empty() {
            // The first failure has been told already; these statements fail because of it.
            let _ = self.check_first().await;
        }
    }

    async fn check_first(&mut self) -> Result<(), Failure<L>> {
        let Some(Sent {
            label,
            expected,
            state,
        }) = self.sent.pop_front()
        else {
            return Ok(());
        };
        let answer = match state {
            State::Answered(answer) => answer.map_err(Cause::Database),
            State::Waiting(answer) => within(self.limit, answer).await,
        };
        let cause = match answer {
            Ok(rows) if expected.is_none_or(|expected| expected == rows) => return Ok(()),
            Ok(rows) => Cause::Affected(rows),
            Err(cause) => cause,
        };
        Err(Failure { label, cause })
    }
}
