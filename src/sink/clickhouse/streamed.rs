//! A request's body that is sent while it is written. Whoever stops before its end has the connection cut off, so that
//! the server does not take the beginning for the whole.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc;

/// About how long a piece is, in bytes.
pub(super) const PIECE_BYTES: usize = 1024 * 1024;

/// How many pieces may wait to be sent.
const WAITING_MAX: usize = 2;

/// Memory of pieces that have been sent, for others: the kernel need not hand out pages for each anew.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Vec<Vec<u8>>>>);

impl Memory {
    /// Without bytes in it.
    fn take(&self) -> Vec<u8> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.pop().unwrap_or_default()
    }

    fn keep(&self, mut memory: Vec<u8>) {
        memory.clear();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() <= WAITING_MAX && memory.capacity() <= 2 * PIECE_BYTES {
            kept.push(memory);
        }
    }
}

/// A piece under way. Gives its memory back.
struct Piece {
    data: Vec<u8>,
    memory: Memory,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.memory.keep(std::mem::take(&mut self.data));
    }
}

/// Writes a body.
pub(super) struct Writer {
    /// Nothing: the end.
    pieces: mpsc::Sender<Option<Bytes>>,
    memory: Memory,
}

/// Nobody sends what is written: the connection is lost, or the server has answered.
#[derive(Debug)]
pub(super) struct Unsent;

impl Writer {
    /// Sends what `write` appends.
    ///
    /// # Errors
    /// [`Unsent`].
    pub(super) async fn write(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Unsent> {
        let mut data = self.memory.take();
        write(&mut data);
        let memory = self.memory.clone();
        let piece = Bytes::from_owner(Piece { data, memory });
        self.send(Some(piece)).await
    }

    /// Says that this was all.
    ///
    /// # Errors
    /// [`Unsent`].
    pub(super) async fn end(self) -> Result<(), Unsent> {
        self.send(None).await
    }

    async fn send(&self, piece: Option<Bytes>) -> Result<(), Unsent> {
        self.pieces.send(piece).await.map_err(|_closed| Unsent)
    }
}

/// The body.
pub(super) struct Streamed(mpsc::Receiver<Option<Bytes>>);

/// A body, and what writes it.
pub(super) fn streamed(memory: &Memory) -> (Writer, Streamed) {
    let (pieces, received) = mpsc::channel(WAITING_MAX);
    let memory = memory.clone();
    (Writer { pieces, memory }, Streamed(received))
}

/// The writer was dropped before its end.
#[derive(Debug)]
pub(super) struct CutOff;

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the rows were not written to their end")
    }
}

impl std::error::Error for CutOff {}

impl Body for Streamed {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        self.0.poll_recv(context).map(|received| match received {
            Some(Some(piece)) => Some(Ok(Frame::data(piece))),
            Some(None) => None,
            None => Some(Err(CutOff)),
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn only_what_is_written_to_its_end_has_one() {
        let memory = Memory::default();
        for ends in [true, false] {
            let (writer, body) = streamed(&memory);
            let write = async move {
                for piece in [b"ab", b"cd", b"ef"] {
                    writer.write(|data| data.extend_from_slice(piece)).await?;
                }
                match ends {
                    true => writer.end().await,
                    false => Ok(()),
                }
            };
            let (written, received) = tokio::join!(write, body.collect());
            assert!(written.is_ok());
            match ends {
                true => assert_eq!(received.expect("a whole body").to_bytes(), "abcdef"),
                false => assert!(received.is_err()),
            }
        }
    }

    #[tokio::test]
    async fn memory_is_used_again_and_nobody_waits_for_a_reader_that_is_gone() {
        let memory = Memory::default();
        let (writer, mut body) = streamed(&memory);
        let written = writer.write(|data| data.resize(5000, 1)).await;
        assert!(written.is_ok());
        drop(body.frame().await);
        assert!(memory.take().capacity() >= 5000);
        drop(body);
        assert!(writer.write(|data| data.push(1)).await.is_err());
    }
}
