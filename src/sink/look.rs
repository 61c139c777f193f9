//! What can be known of a follower before it is started, for `walferry check`.

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

impl From<crate::error::Error> for Verdict {
    fn from(error: crate::error::Error) -> Self {
        let remedy = error.remedy().unwrap_or("see the server's log").to_owned();
        Verdict::Failure(error.what(), remedy)
    }
}

/// What was looked at, with what was found.
pub type Looked = Vec<(&'static str, Verdict)>;
