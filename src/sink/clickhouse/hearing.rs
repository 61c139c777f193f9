//! A stream that is read to its end, even when nothing more can be written.
//!
//! A server that refuses rows before it has read them all answers and closes the connection. What is still written fails
//! then, while the answer, which says why, waits to be read: Linux keeps what came before a reset. An HTTP client that
//! is told of the failed write gives the connection up without reading on.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is written after a write has failed goes nowhere: whether it was heard is what reading tells.
pub(super) struct Hearing<S> {
    stream: S,
    can_write: bool,
}

impl<S> Hearing<S> {
    /// Over a stream of which nothing is known yet.
    pub(super) fn new(stream: S) -> Self {
        Hearing {
            stream,
            can_write: true,
        }
    }
}

impl<S: AsyncWrite + Unpin> Hearing<S> {
    /// What a write comes to that would take so many bytes.
    fn poll(
        &mut self,
        size: usize,
        write: impl FnOnce(Pin<&mut S>) -> Poll<Result<usize>>,
    ) -> Poll<Result<usize>> {
        if self.can_write {
            match ready!(write(Pin::new(&mut self.stream))) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(error) => {
                    tracing::debug!(%error, "ClickHouse takes no more; reading what it says");
                    self.can_write = false;
                }
            }
        }
        Poll::Ready(Ok(size))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Hearing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hearing<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize>> {
        self.poll(data.len(), |stream| stream.poll_write(context, data))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let size = data.iter().map(|slice| slice.len()).sum();
        self.poll(size, |stream| stream.poll_write_vectored(context, data))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flush = |stream: Pin<&mut S>| stream.poll_flush(context).map_ok(|()| 0);
        self.poll(0, flush).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
