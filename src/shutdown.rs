//! SIGTERM and SIGINT: the first asks every part to finish what is in flight; a second ends the
//! process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// Exit code after a second signal.
pub const EXIT_INTERRUPTED: i32 = 1;

/// Listens on a task of its own; cancels `stop` at the first signal.
///
/// # Errors
/// Transient when the handlers cannot be installed.
pub fn listen(stop: CancellationToken) -> Result<()> {
    let install = |kind| {
        signal(kind).map_err(|error| {
            Error::transient("handlers for SIGTERM and SIGINT cannot be installed").caused_by(error)
        })
    };
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
        std::process::exit(EXIT_INTERRUPTED);
    });
    Ok(())
}
