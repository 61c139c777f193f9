//! SIGTERM and SIGINT: the first asks every part to finish what is in flight; a second ends the
//! process at once. SIGHUP: the settings are read again.

use std::io::Write;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::reload::Handle;

/// Exit code after a second signal.
pub const EXIT_INTERRUPTED: i32 = 1;

/// Ends the process with this exit code, without the handlers that libraries have registered: OpenSSL's
/// tears down what librdkafka's threads still use, and the process would die of a signal.
pub fn leave(code: i32) -> ! {
    // Nobody to say it to is no reason to stay.
    let _gone = std::io::stdout().flush();
    let _gone = std::io::stderr().flush();
    // SAFETY: takes a number, and ends the process.
    unsafe { libc::_exit(code) }
}

/// Listens on a task of its own; cancels `stop` at the first signal.
///
/// # Errors
/// Transient when the handlers cannot be installed.
pub fn listen(stop: CancellationToken) -> Result<()> {
    let mut terminate = install(SignalKind::terminate())?;
    let mut interrupt = install(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        tracing::info!(signal = name, "stopping: finishing what is in flight");
        stop.cancel();
        let name = next().await;
        tracing::warn!(signal = name, "stopping at once");
        leave(EXIT_INTERRUPTED);
    });
    Ok(())
}

/// Asks for the settings to be read again at each SIGHUP, on a task of its own.
///
/// # Errors
/// Transient when the handler cannot be installed.
pub fn reload_on_hangup(handle: Handle) -> Result<()> {
    let mut hangup = install(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!(signal = "SIGHUP", "reading the settings again");
            // What came of it is in the log.
            let _said = handle.reload().await;
        }
    });
    Ok(())
}

fn install(kind: SignalKind) -> Result<Signal> {
    signal(kind)
        .map_err(|error| Error::transient("a signal cannot be listened to").caused_by(error))
}
