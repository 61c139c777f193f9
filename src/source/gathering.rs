//! A TCP socket that is read in larger pieces while much comes in.
//!
//! A walsender sends once a change (`WalSndWriteData`), and each time the kernel wakes a reader that
//! waits for the socket. That is dear for both, for the walsender most: with a reader that does nothing but
//! wait it needs more than twice the CPU time that it needs with one that is busy meanwhile. So while there is
//! load the kernel is asked to say nothing below [`PIECE_BYTES`] (`SO_RCVLOWAT`), for [`GATHER_MAX`] at
//! most. Without load each byte is told at once, as it is everywhere but on Linux.

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// What is waited for while there is load.
const PIECE_BYTES: libc::c_int = 64 << 10;
/// How long it is waited for. Tokio's timers count milliseconds.
const GATHER_MAX: Duration = Duration::from_millis(1);
/// There is load when so much has come since the socket was last found empty. At 2,000 small transactions a
/// second less than that comes in a millisecond.
const LOAD_BYTES: usize = 8 << 10;

/// The socket.
pub(super) struct Gathering {
    socket: TcpStream,
    /// Bytes read since the socket was last found empty.
    came: usize,
    /// The kernel says nothing below [`PIECE_BYTES`]. Whoever waits then also waits for `until`.
    gathers: bool,
    until: Pin<Box<Sleep>>,
}

impl Gathering {
    /// Reads the socket as it is until there is load.
    pub(super) fn new(socket: TcpStream) -> Self {
        Gathering {
            socket,
            came: 0,
            gathers: false,
            until: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// Sets from how many bytes on the kernel says that there are some. It looks at once whether there are
    /// (`tcp_set_rcvlowat` calls `tcp_data_ready`).
    fn tell_from(&self, bytes: libc::c_int) -> io::Result<()> {
        // SAFETY: the descriptor is the socket's, which is open; the option's value is a c_int that lives during the call.
        let code = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                (&raw const bytes).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if code == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Reads what is there, and counts it.
    fn poll_socket(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, into))?;
        self.came += into.filled().len() - before;
        Poll::Ready(Ok(()))
    }

    /// Waits for `until`, then lets the kernel tell every byte.
    fn poll_until(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.until.as_mut().poll(context));
        self.gathers = false;
        Poll::Ready(self.tell_from(1))
    }
}

impl AsyncRead for Gathering {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.poll_socket(context, into)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if std::mem::take(&mut this.came) >= LOAD_BYTES && cfg!(target_os = "linux") {
            if !this.gathers {
                this.gathers = true;
                this.tell_from(PIECE_BYTES)?;
            }
            this.until.as_mut().reset(Instant::now() + GATHER_MAX);
        }
        if this.gathers && this.poll_until(context)?.is_ready() {
            // What is there by now has been told, perhaps before this.
            return this.poll_socket(context, into);
        }
        Poll::Pending
    }
}

impl AsyncWrite for Gathering {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Gathering, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        let far = far.unwrap().0;
        far.set_nodelay(true).unwrap();
        (Gathering::new(near.unwrap()), far)
    }

    /// Whatever is waited for, the last byte comes without another behind it.
    #[tokio::test]
    async fn everything_comes_however_it_is_sent() {
        let (mut near, mut far) = pair().await;
        let sizes = [
            1,
            LOAD_BYTES,
            1,
            3 * PIECE_BYTES as usize,
            7,
            LOAD_BYTES + 1,
            0,
            5,
        ];
        let mut sent = 0;
        for round in 0..200 {
            let size = sizes[round % sizes.len()];
            far.write_all(&vec![round as u8; size]).await.unwrap();
            sent += size;
            // Nothing more comes until all of it has been read.
            let mut got = vec![0; size];
            near.read_exact(&mut got).await.unwrap();
            assert!(got.iter().all(|byte| *byte == round as u8), "round {round}");
        }
        drop(far);
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(sent > 0);
    }

    #[tokio::test]
    async fn under_load_many_small_pieces_are_read_at_once() {
        let (mut near, mut far) = pair().await;
        far.write_all(&[1; LOAD_BYTES]).await.unwrap();
        let mut got = vec![0; LOAD_BYTES];
        near.read_exact(&mut got).await.unwrap();
        let (mut reads, mut bytes) = (0, 0);
        let sending = async {
            for _ in 0..1000 {
                far.write_all(&[2; 100]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let reading = async {
            let mut got = vec![0; 1 << 20];
            while bytes < 100_000 {
                bytes += near.read(&mut got).await.unwrap();
                reads += 1;
            }
        };
        tokio::join!(sending, reading);
        assert!(reads < 500, "{reads} reads for 1000 pieces");
    }

    #[tokio::test]
    async fn without_load_a_byte_is_there_at_once() {
        let (mut near, mut far) = pair().await;
        for _ in 0..50 {
            far.write_all(&[1; 100]).await.unwrap();
            let mut got = [0; 100];
            near.read_exact(&mut got).await.unwrap();
            assert!(!near.gathers);
        }
    }
}
