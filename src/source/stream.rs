//! The replication stream: frames in, feedback out.
//!
//! Frames are slices of the read buffer. A peer that vanished is noticed: the leader asks for a sign
//! of life at half of `wal_sender_timeout`, and where own feedback keeps it from asking, the feedback
//! asks itself; so silence for the whole of it means that nobody is there.

use std::time::{Duration, SystemTime};

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
use crate::model::clock::{POSTGRES_EPOCH_US, unix_us};
use crate::postgres::ServerError;

/// Longest wait for the leader to end the stream and for the good-bye.
const CLOSE_MAX: Duration = Duration::from_secs(2);

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
    (unix_us(SystemTime::now()) - POSTGRES_EPOCH_US).max(0)
}

fn silent(idle: Duration) -> Error {
    let seconds = idle.as_secs_f64();
    Error::transient(format!("the leader has been silent for {seconds} s"))
}

fn garbled() -> Error {
    Error::transient("the replication stream is garbled")
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::error::Class;

    fn stream(idle: Option<Duration>) -> (ReplicationStream, DuplexStream) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let wire = Wire::new(Box::new(near), None);
        (ReplicationStream::new(wire, idle, "slot"), far)
    }

    fn copy_data(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![b'd'];
        bytes.put_u32(u32::try_from(payload.len()).unwrap() + 4);
        bytes.extend(payload);
        bytes
    }

    fn data(start: u64, content: &[u8]) -> Vec<u8> {
        let mut payload = vec![b'w'];
        payload.put_u64(start);
        payload.put_u64(start);
        payload.put_i64(0);
        payload.extend(content);
        copy_data(&payload)
    }

    fn keepalive(end: u64, reply: u8) -> Vec<u8> {
        let mut payload = vec![b'k'];
        payload.put_u64(end);
        payload.put_i64(0);
        payload.put_u8(reply);
        copy_data(&payload)
    }

    fn message(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = copy_data(content);
        bytes[0] = tag;
        bytes
    }

    #[tokio::test]
    async fn frames_that_came_together_are_handed_out_from_memory() {
        let (mut stream, mut far) = stream(None);
        let mut bytes = data(7, b"change");
        bytes.extend(message(b'S', b"TimeZone\0UTC\0"));
        bytes.extend(keepalive(9, 1));
        bytes.extend(&data(10, b"cut off")[..10]);
        far.write_all(&bytes).await.unwrap();
        assert_eq!(stream.try_next().unwrap(), None);
        assert_eq!(
            stream.next().await.unwrap(),
            Frame::Data {
                start: Lsn(7),
                data: Bytes::from_static(b"change"),
            }
        );
        assert_eq!(
            stream.try_next().unwrap(),
            Some(Frame::Keepalive {
                end: Lsn(9),
                reply: true,
            })
        );
        assert_eq!(stream.try_next().unwrap(), None);
        far.write_all(&data(10, b"cut off")[10..]).await.unwrap();
        let Frame::Data { data, .. } = stream.next().await.unwrap() else {
            panic!("a keepalive")
        };
        assert_eq!(&data[..], b"cut off");
    }

    #[tokio::test]
    async fn waiting_may_be_given_up_at_any_byte() {
        let (mut stream, mut far) = stream(None);
        let mut sent = data(1, b"first");
        sent.extend(keepalive(2, 0));
        sent.extend(data(3, b"second"));
        let mut frames = Vec::new();
        for byte in sent {
            far.write_u8(byte).await.unwrap();
            if let Ok(frame) = timeout(Duration::ZERO, stream.next()).await {
                frames.push(frame.unwrap());
            }
        }
        while let Some(frame) = stream.try_next().unwrap() {
            frames.push(frame);
        }
        assert_eq!(frames.len(), 3);
    }

    #[tokio::test]
    async fn a_silent_leader_is_noticed_even_if_waiting_is_given_up_again_and_again() {
        let idle = Duration::from_millis(60);
        let (mut stream, _far) = stream(Some(idle));
        let started = Instant::now();
        let error = loop {
            match timeout(idle / 10, stream.next()).await {
                Ok(Ok(frame)) => panic!("{frame:?}"),
                Ok(Err(error)) => break error,
                Err(_elapsed) => assert!(started.elapsed() < Duration::from_secs(20)),
            }
        };
        assert_eq!(error.class(), Class::Transient);
        assert!(error.what().contains("silent"), "{error}");
        assert!(started.elapsed() >= idle);
    }

    #[tokio::test]
    async fn what_arrived_while_nobody_read_is_no_silence() {
        let idle = Duration::from_millis(30);
        let (mut stream, mut far) = stream(Some(idle));
        timeout(Duration::ZERO, stream.next()).await.unwrap_err();
        far.write_all(&keepalive(1, 0)).await.unwrap();
        stream.silent_since = Instant::now().checked_sub(2 * idle);
        stream.next().await.unwrap();
        assert_eq!(stream.silent_since, None);
    }

    #[tokio::test]
    async fn feedback_asks_for_a_sign_of_life_after_some_silence() {
        let idle = Duration::from_secs(30);
        let (mut stream, mut far) = stream(Some(idle));
        let feedback = Feedback {
            write: Lsn(3),
            flush: Lsn(2),
            apply: Lsn(1),
        };
        for (silent, asks) in [(None, 0), (Some(idle / 10), 0), (Some(idle / 2), 1)] {
            stream.silent_since = silent.and_then(|silent| Instant::now().checked_sub(silent));
            stream.feedback(feedback).await.unwrap();
            let mut sent = [0; 39];
            far.read_exact(&mut sent).await.unwrap();
            assert_eq!(sent[..6], [b'd', 0, 0, 0, 38, b'r']);
            let mut rest = BytesMut::from(&sent[6..]);
            assert_eq!((rest.get_u64(), rest.get_u64(), rest.get_u64()), (3, 2, 1));
            assert_eq!(sent[38], asks);
        }
    }

    #[tokio::test]
    async fn a_leader_that_takes_nothing_ends_feedback() {
        let (near, _far) = tokio::io::duplex(8);
        let wire = Wire::new(Box::new(near), None);
        let mut stream = ReplicationStream::new(wire, Some(Duration::from_millis(30)), "slot");
        let error = stream.feedback(Feedback::default()).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient);
    }

    #[tokio::test]
    async fn what_ends_a_stream_is_told_apart() {
        let skipped = b"SWARNING\0VWARNING\0C55000\0Mskipped loading publication \"p\"\0\0";
        let terminated = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0";
        let missing = b"SERROR\0VERROR\0C42704\0Mpublication \"p\" does not exist\0\0";
        for (bytes, class) in [
            (message(b'N', skipped), Class::Halt),
            (message(b'E', missing), Class::Halt),
            (message(b'E', terminated), Class::Transient),
            (message(b'C', b"COPY 0\0"), Class::Transient),
            (message(b'c', b""), Class::Transient),
            (message(b'?', b""), Class::Transient),
            (copy_data(b""), Class::Transient),
            (copy_data(b"w"), Class::Transient),
            (copy_data(b"k12345678"), Class::Transient),
        ] {
            let (mut stream, mut far) = stream(None);
            far.write_all(&bytes).await.unwrap();
            let error = stream.next().await.unwrap_err();
            assert_eq!(error.class(), class, "{error}");
        }
        let (mut stream, mut far) = stream(None);
        let notice = b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0";
        far.write_all(&message(b'N', notice)).await.unwrap();
        far.write_all(&keepalive(1, 0)).await.unwrap();
        stream.next().await.unwrap();
    }
}
