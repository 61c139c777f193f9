//! The replication stream: frames in, feedback out.

use bytes::Bytes;

use crate::error::Result;
use crate::model::Lsn;

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
pub struct ReplicationStream {}

impl ReplicationStream {
    /// The next frame; waits for it. Cancel-safe. Frames that arrived together are handed out without
    /// another system call.
    ///
    /// # Errors
    /// Transient when the connection ends or the server reports an error; halt when the server says
    /// that the slot or publication is gone (notices 55000 included).
    pub async fn next(&mut self) -> Result<Frame> {
        todo!()
    }

    /// A frame that is in memory already.
    pub fn try_next(&mut self) -> Result<Option<Frame>> {
        todo!()
    }

    /// Sends a standby status update.
    pub async fn feedback(&mut self, feedback: Feedback) -> Result<()> {
        let _ = feedback;
        todo!()
    }

    /// Ends the stream in order: CopyDone, waits (bounded) for the server's, terminates.
    pub async fn close(self) {
        todo!()
    }
}
