//! One part: its session runs again and again. A transient error is retried with back-off; a halt or a
//! fence ends it, and a sink that has halted can be resumed.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rand::RngExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::{Class, Error, Result};
use crate::model::Lsn;
use crate::status::{ErrorCounts, LastError, Shared, SinkView, SourceView, State};

/// First wait after a transient error.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// Longest wait between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A session that lasted this long was a success, as is one that got on: the next wait is the first again.
const SUCCESS_AFTER: Duration = Duration::from_secs(60);

/// The fields that the supervisor writes, in both kinds of view.
pub(super) trait PartView: Clone + Send + 'static {
    fn state(&mut self) -> &mut State;
    fn last_error(&mut self) -> &mut Option<LastError>;
    fn errors(&mut self) -> &mut ErrorCounts;
    fn count_retry(&mut self);
    /// The boundary that moves when the part gets on.
    fn boundary(&self) -> Option<Lsn>;
}

impl PartView for SourceView {
    fn state(&mut self) -> &mut State {
        &mut self.state
    }
    fn last_error(&mut self) -> &mut Option<LastError> {
        &mut self.last_error
    }
    fn errors(&mut self) -> &mut ErrorCounts {
        &mut self.errors
    }
    fn count_retry(&mut self) {} // a source counts epochs
    fn boundary(&self) -> Option<Lsn> {
        self.published
    }
}

impl PartView for SinkView {
    fn state(&mut self) -> &mut State {
        &mut self.state
    }
    fn last_error(&mut self) -> &mut Option<LastError> {
        &mut self.last_error
    }
    fn errors(&mut self) -> &mut ErrorCounts {
        &mut self.errors
    }
    fn count_retry(&mut self) {
        self.retries += 1;
    }
    fn boundary(&self) -> Option<Lsn> {
        self.applied
    }
}

/// Runs `session` again and again until it is asked to stop, halts for good or is fenced.
pub(super) async fn supervise<V: PartView, F: Future<Output = Result<()>> + Send>(
    part: String,
    view: Arc<Shared<V>>,
    (stop, resume): (CancellationToken, Option<Arc<Notify>>),
    session: impl Fn() -> F,
) {
    let mut failures = 0;
    while !stop.is_cancelled() {
        let (begun, before) = (Instant::now(), view.get().boundary());
        let Err(error) = caught(session()).await else {
            break;
        };
        if stop.is_cancelled() {
            // On the way out: the next start tries again.
            tracing::warn!(part, error = %error.what(), "stopped with an error");
            break;
        }
        // The first boundary of all is what was there before, not what the session has done.
        let got_on = before.is_some() && view.get().boundary() > before;
        failures = failures_after(failures, begun.elapsed(), got_on);
        let state = state_after(error.class());
        note(&part, &view, &error, state);
        match (error.class(), &resume) {
            (Class::Halt, Some(resume)) => {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = resume.notified() => tracing::info!(part, "resumed"),
                }
                failures = 0;
            }
            (Class::Halt | Class::Fenced, _) => return,
            (Class::Transient, _) => {
                let jitter = rand::rng().random_range(0.5..1.0);
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(backoff(failures).mul_f64(jitter)) => {}
                }
            }
        }
    }
    view.update(|v| *v.state() = State::Stopped);
}

/// The session's result; a panic is a halt of this part.
async fn caught(session: impl Future<Output = Result<()>>) -> Result<()> {
    match AssertUnwindSafe(session).catch_unwind().await {
        Ok(result) => result,
        Err(payload) => {
            let text = payload
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no text".to_owned());
            Err(Error::halt(
                format!("a bug in walferry: {text}"),
                "report it with the log around this line; a restart resumes at the last durable boundary",
            ))
        }
    }
}

/// What a part is after an error of this class.
fn state_after(class: Class) -> State {
    match class {
        Class::Transient => State::Retrying,
        Class::Halt => State::Halted,
        Class::Fenced => State::Fenced,
    }
}

/// Failures in a row, when a session has failed after so many of them.
fn failures_after(failures: u32, lasted: Duration, got_on: bool) -> u32 {
    if got_on || lasted >= SUCCESS_AFTER {
        1
    } else {
        failures + 1
    }
}

/// The wait before attempt number `failures + 1`, before jitter.
fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (RETRY_FIRST * 2_u32.pow(doublings)).min(RETRY_MAX)
}

/// Says an error in the log, and only then shows it: who sees a part halted finds the reason there.
fn note<V: PartView>(part: &str, view: &Shared<V>, error: &Error, state: State) {
    let newest = LastError::now(error);
    let mut shown = view.get();
    let same = |last: &LastError| last.what == newest.what;
    let repeated = shown.last_error().as_ref().is_some_and(same) && *shown.state() == state;
    let what = error.what();
    match error.class() {
        // The same error again is in the metrics; the log says what changed.
        Class::Transient if repeated => tracing::debug!(part, error = %what, "still retrying"),
        Class::Transient => {
            tracing::warn!(part, error = %what, remedy = error.remedy(), "retrying");
        }
        Class::Halt => {
            tracing::error!(part, error = %what, remedy = error.remedy(), "halted");
        }
        Class::Fenced => tracing::error!(part, error = %what, "another worker has taken over"),
    }
    view.update(|v| {
        *v.state() = state;
        *v.last_error() = Some(newest);
        v.errors().count(error.class());
        if error.class() == Class::Transient {
            v.count_retry();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::SinkHandle;
    use std::sync::atomic::{AtomicU32, Ordering};

    async fn run_part(results: Vec<fn() -> Result<()>>) -> (SinkView, u32) {
        let view: Arc<Shared<SinkView>> = Arc::default();
        let calls = AtomicU32::new(0);
        let stop = CancellationToken::new();
        supervise("dw".to_owned(), view.clone(), (stop, None), || {
            let call = calls.fetch_add(1, Ordering::Relaxed) as usize;
            let result = results[call];
            async move { result() }
        })
        .await;
        (view.get(), calls.into_inner())
    }

    /// Notes what a view shows whenever something is written into the log.
    struct Looks(Arc<Shared<SinkView>>, Arc<std::sync::Mutex<Vec<State>>>);

    impl std::io::Write for Looks {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.1.lock().unwrap().push(self.0.get().state);
            Ok(line.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_halt_is_in_the_log_before_it_is_shown() {
        let view: Arc<Shared<SinkView>> = Arc::default();
        let seen = Arc::default();
        let (watched, looks) = (view.clone(), Arc::clone(&seen));
        let log = tracing_subscriber::fmt()
            .with_writer(move || Looks(watched.clone(), Arc::clone(&looks)))
            .finish();
        let error = Error::halt("the disk is full", "make room");
        tracing::subscriber::with_default(log, || note("dw", &view, &error, State::Halted));
        assert_eq!(*seen.lock().unwrap(), [State::Starting]);
        assert_eq!(view.get().state, State::Halted);
    }

    #[test]
    fn waits_double_and_are_bounded() {
        let waits: Vec<u64> = [1, 2, 3, 7, 8, 9, 40, u32::MAX]
            .map(|failures| backoff(failures).as_millis() as u64)
            .to_vec();
        assert_eq!(waits, [250, 500, 1000, 16000, 30000, 30000, 30000, 30000]);
    }

    #[test]
    fn waits_begin_anew_after_a_session_that_got_on() {
        let second = Duration::from_secs(1);
        assert_eq!(failures_after(7, second, false), 8);
        assert_eq!(failures_after(7, second, true), 1);
        assert_eq!(failures_after(7, 60 * second, false), 1);
    }

    #[tokio::test]
    async fn a_transient_error_is_retried_and_a_halt_ends_the_part() {
        let (view, calls) = run_part(vec![|| Err(Error::transient("connection refused")), || {
            Err(Error::halt("diverged", "rebuild"))
        }])
        .await;
        assert_eq!(calls, 2);
        assert_eq!(view.state, State::Halted);
        assert_eq!(view.retries, 1);
        assert_eq!((view.errors.transient, view.errors.halt), (1, 1));
        let last = view.last_error.unwrap();
        assert_eq!(
            (last.what.as_str(), last.remedy.as_deref()),
            ("diverged", Some("rebuild"))
        );
    }

    #[tokio::test]
    async fn a_halted_sink_goes_on_when_it_is_resumed_and_only_then() {
        let handle = SinkHandle {
            name: "dw".to_owned(),
            view: Arc::default(),
            resume: Arc::default(),
        };
        assert_eq!(handle.resume(), Err(State::Starting));
        let (halted, calls) = (Notify::new(), AtomicU32::new(0));
        let session = || {
            let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
            let halted = &halted;
            async move {
                halted.notify_one();
                if first {
                    Err(Error::halt("diverged", "repair"))
                } else {
                    Ok(())
                }
            }
        };
        let ends = (CancellationToken::new(), Some(handle.resume.clone()));
        let supervised = supervise("dw".to_owned(), handle.view.clone(), ends, session);
        let resumed = async {
            halted.notified().await;
            while handle.resume().is_err() {
                tokio::task::yield_now().await;
            }
            assert_eq!(handle.resume(), Err(State::Starting), "once");
        };
        tokio::join!(supervised, resumed);
        assert_eq!(
            (calls.into_inner(), handle.view.get().state),
            (2, State::Stopped)
        );
    }

    #[tokio::test]
    async fn a_panic_halts_its_part_with_a_clear_text() {
        let (view, _) = run_part(vec![|| panic!("count is {}", 7)]).await;
        assert_eq!(view.state, State::Halted);
        assert!(
            view.last_error
                .unwrap()
                .what
                .contains("a bug in walferry: count is 7")
        );
    }

    #[tokio::test]
    async fn a_fenced_part_stops_and_says_so() {
        let (view, calls) = run_part(vec![|| Err(Error::fenced("owned by another"))]).await;
        assert_eq!((view.state, calls), (State::Fenced, 1));
        let (view, _) = run_part(vec![|| Ok(())]).await;
        assert_eq!(view.state, State::Stopped);
    }
}
