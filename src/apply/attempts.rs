//! Sessions of a worker, one after the other, as long as another one at once may do what the last one could not.

use super::SinkContext;
use super::careful::Careful;
use super::session::Session;
use crate::error::{Class, Result};
use crate::sink::{self, Sink};

/// How often a sink that has learned something from an error tries again at once.
const ATTEMPTS_AT_ONCE_MAX: u32 = 20;

/// Runs sessions until one ends well, or with an error that another one would not help; see
/// [`run_session`](super::run_session). After a halt the batch concerned is read again in smaller batches, down to one
/// entry, on a new connection: what it holds before the change that cannot be applied is applied, and a follower's
/// table that was altered meanwhile is looked at anew. The entry itself is tried in smaller chunks, so that the error
/// names the change. The same where a statement took too long: all of it goes in smaller steps, where it would never
/// go at once.
pub async fn run(context: &SinkContext) -> Result<()> {
    let mut careful = Careful::NOT;
    let mut learned: Option<Box<dyn Sink>> = None;
    let mut attempts = 0;
    loop {
        let sink = learned
            .take()
            .unwrap_or_else(|| sink::create(&context.pipeline, &context.sink, &context.instance));
        let opened = tokio::select! {
            biased;
            () = context.stop.cancelled() => return Ok(()),
            opened = Session::open(context, sink, careful) => opened,
        };
        let mut session = opened?;
        let Err(error) = session.run().await else {
            return Ok(());
        };
        // The error that led here is the one to tell; a transaction that cannot be given up ends
        // with its connection.
        if let Err(error) = session.sink.rollback().await {
            tracing::debug!(sink = %context.sink.name, %error, "giving up the transaction");
        }
        if let Some((table, why)) = session.sink.needs_copy() {
            session.copy_anew(table, &why).await?;
            continue;
        }
        if session.has_committed {
            attempts = 0;
        }
        if let Some(why) = session.sink.again_at_once()
            && attempts < ATTEMPTS_AT_ONCE_MAX
        {
            attempts += 1;
            tracing::info!(sink = %context.sink.name, %error, "{why}");
            learned = Some(session.sink);
            continue;
        }
        let at = session.next_offset();
        let attempt = session.attempt.map(|(attempt, _first)| attempt);
        let smaller = error
            .may_go_in_parts()
            .then(|| careful.after(at, session.batch_end, attempt));
        match smaller.flatten() {
            Some(smaller) => careful = smaller,
            None => return Err(session.or_skip(error)),
        }
        let sink = &context.sink.name;
        if error.class() == Class::Halt {
            tracing::info!(
                sink,
                log_offset = at,
                "something cannot be applied; going on in smaller steps up to it"
            );
        } else {
            tracing::warn!(sink, log_offset = at, %error, "it took too long; going on in smaller steps");
        }
    }
}
