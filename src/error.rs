//! Errors, classified once, where they are made: retry, or halt until a person acts.

use std::fmt;

/// What the supervisor does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may pass by itself: retry with back-off and say the state.
    Transient,
    /// A person must act: the part concerned stops and says what, where and the remedy.
    Halt,
    /// Another worker has taken this part over: stop without touching anything.
    Fenced,
}

/// Remedy where changes are lost for every follower. What the steps lead to: a checkpoint that is
/// gone releases its tables to the new pipeline's sink, and a slot that stays would keep WAL for ever.
pub const NEW_PIPELINE: &str = "begin a new pipeline, which copies every table: stop walferry, delete \
     this pipeline's rows from walferry.checkpoint on every follower, drop its slot on the leader if it \
     is still there, write another name as `pipeline` into walferry.toml, and start walferry";

/// Remedy where one follower cannot go on, but could from a copy and what the log has behind it. Where
/// that is what it cannot take, it would halt there again: [`NEW_PIPELINE`].
pub const COPY_ANEW: &str = "copy the follower anew: walferry rebuild, with the name of this sink";

/// An error with its class, what and where, and the remedy if there is one to name.
///
/// Never holds row values or secrets.
#[derive(Debug)]
pub struct Error {
    class: Class,
    what: String,
    remedy: Option<String>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// It was ended because it took too long.
    too_long: bool,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn of(class: Class, what: String) -> Self {
        Error {
            class,
            what,
            remedy: None,
            cause: None,
            too_long: false,
        }
    }

    /// An error that may pass by itself.
    pub fn transient(what: impl Into<String>) -> Self {
        Error::of(Class::Transient, what.into())
    }

    /// An error that needs a person; `remedy` is one sentence that can be followed word for word.
    pub fn halt(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::of(Class::Halt, what.into()).advising(remedy)
    }

    /// Adds what to do should it not pass by itself.
    pub fn advising(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Says that it was ended because it took too long.
    pub fn taking_too_long(mut self) -> Self {
        self.too_long = true;
        self
    }

    /// Another worker owns this part now.
    pub fn fenced(what: impl Into<String>) -> Self {
        Error::of(Class::Fenced, what.into())
    }

    /// Adds the error that led to this one.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Puts where it happened in front: `follower: table public.a: …`.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Whether what failed may go in smaller parts: all of it if it took too long, all but the part that halts
    /// otherwise.
    pub fn may_go_in_parts(&self) -> bool {
        self.too_long || self.class == Class::Halt
    }

    /// The remedy: for halts, and for transient errors that often need a person too.
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// What and where with its causes, without the remedy, on one line.
    pub fn what(&self) -> String {
        let mut text = self.what.clone();
        let mut cause = self.cause.as_deref().map(|c| c as &dyn std::error::Error);
        while let Some(error) = cause {
            let line = error.to_string();
            if !text.contains(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what())?;
        match &self.remedy {
            Some(remedy) => write!(f, "; remedy: {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause
            .as_deref()
            .map(|c| c as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_halts_or_took_too_long_may_go_in_parts() {
        let transient = || Error::transient("the follower is away");
        assert!(!transient().may_go_in_parts());
        assert!(!Error::fenced("another worker").may_go_in_parts());
        assert!(Error::halt("a row is refused", "mend it").may_go_in_parts());
        let too_long = transient().taking_too_long();
        assert!(too_long.may_go_in_parts());
        assert_eq!(too_long.class(), Class::Transient);
    }
}
