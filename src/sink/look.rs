//! What can be known of a follower before it is started, for `walferry check`.

use crate::error::Error;

/// What a look at one thing found and, unless it is well, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it must be.
    Pass(String),
    /// It works, but somebody should know: what was found, what to do.
    Warning(String, String),
    /// It would not work, or would lose data: what was found, what to do.
    Failure(String, String),
}

impl Verdict {
    /// A server that did not let walferry in. The error's own remedy counts, if it has one.
    pub fn unreachable(error: &Error) -> Self {
        Verdict::failed(error, "start the server, or correct url and [tls]")
    }

    /// A question that a server did not answer. The error's own remedy counts, if it has one.
    pub fn unanswered(error: &Error) -> Self {
        Verdict::failed(error, "see the server's log")
    }

    /// What failed, and what to do if the error has no remedy of its own.
    pub fn failed(error: &Error, otherwise: &str) -> Self {
        failure(error.what(), error.remedy().unwrap_or(otherwise))
    }
}

/// [`Verdict::Pass`].
pub(crate) fn pass(found: impl Into<String>) -> Verdict {
    Verdict::Pass(found.into())
}

/// [`Verdict::Warning`].
pub(crate) fn warning(found: impl Into<String>, remedy: impl Into<String>) -> Verdict {
    Verdict::Warning(found.into(), remedy.into())
}

/// [`Verdict::Failure`].
pub(crate) fn failure(found: impl Into<String>, remedy: impl Into<String>) -> Verdict {
    Verdict::Failure(found.into(), remedy.into())
}

/// What was looked at, with what was found.
pub type Looked = Vec<(&'static str, Verdict)>;
