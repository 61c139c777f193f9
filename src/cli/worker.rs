//! A sink worker that a command runs itself.

use std::time::Duration;

use crate::apply::{self, SinkContext};
use crate::error::{Class, Error, Result};

/// Wait before the next session after an error that may pass.
const RETRY: Duration = Duration::from_secs(1);

/// Runs session after session until the worker is asked to stop, or one ends with an error that `is_end`.
///
/// # Errors
/// Those of a session that do not pass by themselves.
pub(super) async fn keep(context: &SinkContext, is_end: impl Fn(&Error) -> bool) -> Result<()> {
    let stop = &context.stop;
    let mut said = None;
    while !stop.is_cancelled() {
        let Err(error) = apply::run_session(context).await else {
            break;
        };
        if is_end(&error) {
            break;
        }
        match error.class() {
            Class::Halt | Class::Fenced => return Err(error),
            Class::Transient => {
                let what = error.what();
                if said.as_ref() != Some(&what) {
                    eprintln!("waiting: {what}");
                    said = Some(what);
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    Ok(())
}
