//! The replication stream: frames in, feedback out.
//!
//! Frames are slices of the read buffer. A peer that vanished is noticed: the leader asks for a sign
//! of life at half of `wal_sender_timeout`, and where own feedback keeps it from asking, the feedback
//! asks itself; so silence for the whole of it means that nobody is there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes};
use postgres_protocol::message::backend::{
    COMMAND_COMPLETE_TAG, COPY_DATA_TAG, COPY_DONE_TAG, ERROR_RESPONSE_TAG, Message,
    NOTICE_RESPONSE_TAG, PARAMETER_STATUS_TAG, READY_FOR_QUERY_TAG,
};
use postgres_protocol::message::frontend;
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::{notice, stream_refused};
use super::framing::Wire;
use crate::error::{Error, Result};
use crate::model::Lsn;
use crate::postgres::ServerError;

/// Longest wait for the leader to end the stream and for the good-bye.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// Seconds from 1970 to 2000, where Postgres's time begins.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// One frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// `w`: one pgoutput message.
    Data {
        /// The change's LSN (0 for Relation and Type).
        start: Lsn,
        /// pgoutput's bytes.
        data: Bytes,
    },
    /// `k`.
    Keepalive {
        /// The walsender has sent all up to here.
        end: Lsn,
        /// It wants an answer.
        reply: bool,
    },
}

/// The three positions of feedback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    /// Received.
    pub write: Lsn,
    /// Durable in Kafka and valid.
    pub flush: Lsn,
    /// Durable in the required followers.
    pub apply: Lsn,
}

/// A connection in COPY BOTH.
pub struct ReplicationStream {
    wire: Wire,
    slot: String,
    idle_timeout: Option<Duration>,
    /// Since when the socket has been found empty, if it has.
    silent_since: Option<Instant>,
}

impl ReplicationStream {
    pub(super) fn new(wire: Wire, idle_timeout: Option<Duration>, slot: &str) -> Self {
        ReplicationStream {
            wire,
            slot: slot.to_owned(),
            idle_timeout,
            silent_since: None,
        }
    }

    /// The next frame; waits for it. Cancel-safe. Frames that arrived together are handed out without
    /// another system call.
    ///
    /// # Errors
    /// Transient when the connection ends, is silent for longer than `wal_sender_timeout`, or the
    /// server reports an error; halt when the server says that the slot or publication is gone
    /// (notices 55000 included).
    pub async fn next(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.try_next()? {
                return Ok(frame);
            }
            self.receive().await?;
        }
    }

    /// A frame that is in memory already.
    ///
    /// # Errors
    /// As [`ReplicationStream::next`].
    #[inline]
    pub fn try_next(&mut self) -> Result<Option<Frame>> {
        while let Some((tag, total)) = self.wire.header()? {
            if self.wire.buffered() < total {
                break;
            }
            if tag == COPY_DATA_TAG {
                let mut payload = self.wire.take(total);
                payload.advance(5);
                return frame(payload).map(Some);
            }
            self.control(tag, total)?;
        }
        Ok(None)
    }

    /// Sends a standby status update. Cancel-safe: a half-sent one is completed by the next call.
    ///
    /// # Errors
    /// Transient when the connection is lost or the leader takes no bytes for `wal_sender_timeout`.
    pub async fn feedback(&mut self, feedback: Feedback) -> Result<()> {
        let ask = match (self.silent_since, self.idle_timeout) {
            (Some(since), Some(idle)) => since.elapsed() >= idle / 3,
            (None, _) | (_, None) => false,
        };
        let sending = async {
            self.wire.flush().await?;
            self.wire.queue(|buffer| {
                buffer.put_u8(COPY_DATA_TAG);
                buffer.put_u32(4 + 1 + 4 * 8 + 1);
                buffer.put_u8(b'r');
                buffer.put_u64(feedback.write.0);
                buffer.put_u64(feedback.flush.0);
                buffer.put_u64(feedback.apply.0);
                buffer.put_i64(now_us());
                buffer.put_u8(u8::from(ask));
            });
            self.wire.flush().await
        };
        match self.idle_timeout {
            None => sending.await,
            Some(idle) => match timeout(idle, sending).await {
                Ok(sent) => sent,
                Err(_elapsed) => Err(silent(idle)),
            },
        }
    }

    /// Ends the stream in order: CopyDone, waits (bounded) for the server's, terminates. When the
    /// leader has answered, the slot is free.
    pub async fn close(mut self) {
        let ending = async {
            self.wire.queue(frontend::copy_done);
            self.wire.flush().await?;
            loop {
                let (tag, total) = self.wire.peek().await?;
                drop(self.wire.take(total));
                if tag == READY_FOR_QUERY_TAG {
                    return Ok::<(), Error>(());
                }
            }
        };
        match timeout(CLOSE_MAX, ending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "closing the replication stream"),
            Err(_elapsed) => tracing::debug!("the leader did not end the stream in time"),
        }
        self.wire.terminate(CLOSE_MAX).await;
    }

    /// Waits for bytes. Cancel-safe.
    async fn receive(&mut self) -> Result<()> {
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        match self.idle_timeout {
            None => self.wire.fill().await?,
            Some(idle) => match timeout_at(since + idle, self.wire.fill()).await {
                Ok(filled) => filled?,
                Err(_elapsed) => {
                    // Nobody may have read for a while: what has arrived since is seen only after the
                    // runtime has looked at its sockets.
                    tokio::task::yield_now().await;
                    match timeout(Duration::ZERO, self.wire.fill()).await {
                        Ok(filled) => filled?,
                        Err(_elapsed) => return Err(silent(idle)),
                    }
                }
            },
        }
        self.silent_since = None;
        Ok(())
    }

    /// Handles a message that is not COPY data.
    #[cold]
    fn control(&mut self, tag: u8, total: usize) -> Result<()> {
        match tag {
            ERROR_RESPONSE_TAG | NOTICE_RESPONSE_TAG => match self.wire.parse_buffered()? {
                Message::ErrorResponse(body) => {
                    let error = ServerError::read(body.fields())?;
                    Err(stream_refused(&error, &self.slot, "stream"))
                }
                Message::NoticeResponse(body) => notice(&body),
                _other => Err(garbled()),
            },
            PARAMETER_STATUS_TAG => {
                drop(self.wire.take(total));
                Ok(())
            }
            COPY_DONE_TAG | COMMAND_COMPLETE_TAG | READY_FOR_QUERY_TAG => Err(Error::transient(
                "the leader has ended the stream (it is shutting down)",
            )),
            _unknown => Err(garbled()),
        }
    }
}

/// Reads the content of a CopyData message.
#[inline]
fn frame(mut payload: Bytes) -> Result<Frame> {
    const DATA_HEADER_BYTES: usize = 1 + 8 + 8 + 8; // w, start, end, clock
    const KEEPALIVE_BYTES: usize = 1 + 8 + 8 + 1; // k, end, clock, reply
    match payload.first() {
        Some(b'w') if payload.len() >= DATA_HEADER_BYTES => {
            payload.advance(1);
            let start = Lsn(payload.get_u64());
            payload.advance(8 + 8);
            Ok(Frame::Data {
                start,
                data: payload,
            })
        }
        Some(b'k') if payload.len() == KEEPALIVE_BYTES => {
            payload.advance(1);
            let end = Lsn(payload.get_u64());
            payload.advance(8);
            Ok(Frame::Keepalive {
                end,
                reply: payload.get_u8() != 0,
            })
        }
        Some(_) | None => Err(garbled()),
    }
}

/// Microseconds since 2000-01-01 by our clock; only shown in pg_stat_replication.
fn now_us() -> i64 {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_1970.saturating_sub(POSTGRES_EPOCH).as_micros()).unwrap_or(i64::MAX)
}

fn silent(idle: Duration) -> Error {
    let seconds = idle.as_secs_f64();
    Error::transient(format!("the leader has been silent for {seconds} s"))
}

fn garbled() -> Error {
    Error::transient("the replication stream is garbled")
}
