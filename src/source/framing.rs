//! The byte stream under a replication connection: socket, TLS, and the cutting of Postgres's
//! messages out of a read buffer.
//!
//! Reading is cancel-safe: bytes are in the buffer or still in the socket, nothing in between. Blocks
//! of the buffer are handed out as slices without a copy; a block lives as long as its last slice and
//! no longer, and a block that grew for one large message is not kept.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{Config, SslNegotiation};
use tokio_rustls::TlsConnector;

use super::gathering::Gathering;
use crate::error::{Error, Result};
use crate::postgres::{Encryption, tls};

/// Size of the blocks that are read into.
const BLOCK_BYTES: usize = 256 * 1024;
/// With less room than this a new block is begun.
const ROOM_MIN_BYTES: usize = 64 * 1024;
/// A message larger than Postgres can make (`MaxAllocSize`) means that the stream is garbled.
const MESSAGE_MAX_BYTES: usize = 0x3fff_ffff + 5;

pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// One address of the leader.
#[derive(Clone, Debug)]
pub(super) enum Endpoint {
    /// Name for DNS and for the certificate, address to connect to if it is given, port.
    Tcp {
        host: String,
        address: Option<std::net::IpAddr>,
        port: u16,
    },
    /// Directory of the socket, and port.
    Unix { path: std::path::PathBuf },
}

/// A connected socket on which nothing has been said.
pub(super) enum Socket {
    /// With the host's name for its certificate.
    Tcp(TcpStream, String),
    Unix(UnixStream),
}

impl Socket {
    /// Connects; TCP without delays and with keepalive as the connection string says.
    pub(super) async fn open(endpoint: &Endpoint, config: &Config) -> Result<Self> {
        let unreachable =
            |cause: io::Error| Error::transient("the leader cannot be reached").caused_by(cause);
        match endpoint {
            Endpoint::Unix { path } => {
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                Ok(Socket::Unix(stream))
            }
            Endpoint::Tcp {
                host,
                address,
                port,
            } => {
                let stream = match address {
                    Some(address) => TcpStream::connect((*address, *port)).await,
                    None => TcpStream::connect((host.as_str(), *port)).await,
                }
                .map_err(unreachable)?;
                tune(&stream, config).map_err(unreachable)?;
                Ok(Socket::Tcp(stream, host.clone()))
            }
        }
    }
}

/// An open byte stream with its buffers.
pub(super) struct Wire {
    stream: Box<dyn Duplex>,
    read: BytesMut,
    write: BytesMut,
    /// `read` has grown beyond a block.
    grown: bool,
    /// Channel binding of the TLS session; outer `None`: no TLS.
    pub(super) end_point: Option<Option<Vec<u8>>>,
}

impl Wire {
    /// A byte stream on the socket, with TLS as `encryption` says; as in libpq, none over Unix sockets.
    pub(super) async fn start(
        socket: Socket,
        config: &Config,
        encryption: &Encryption,
    ) -> Result<Self> {
        match socket {
            Socket::Unix(stream) => Ok(Wire::new(Box::new(stream), None)),
            Socket::Tcp(stream, host) => encrypt(stream, &host, config, encryption).await,
        }
    }

    pub(super) fn new(stream: Box<dyn Duplex>, end_point: Option<Option<Vec<u8>>>) -> Self {
        Wire {
            stream,
            read: BytesMut::with_capacity(BLOCK_BYTES),
            write: BytesMut::new(),
            grown: false,
            end_point,
        }
    }

    /// Tag and whole length of the message that the buffer begins with, as soon as its header is there.
    #[inline]
    pub(super) fn header(&self) -> Result<Option<(u8, usize)>> {
        let Some((&[tag, length @ ..], _)) = self.read.split_first_chunk::<5>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length) as usize;
        if !(4..MESSAGE_MAX_BYTES).contains(&length) {
            return Err(Error::transient(format!(
                "the stream is garbled: a message claims {length} bytes"
            )));
        }
        Ok(Some((tag, length + 1)))
    }

    /// Bytes in the buffer.
    #[inline]
    pub(super) fn buffered(&self) -> usize {
        self.read.len()
    }

    /// Takes `length` buffered bytes without copying them.
    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Bytes {
        let taken = self.read.split_to(length).freeze();
        if self.grown {
            self.shrink();
        }
        taken
    }

    /// Leaves a block that grew to those who hold its slices.
    #[cold]
    fn shrink(&mut self) {
        let mut block = BytesMut::with_capacity(BLOCK_BYTES.max(self.read.len()));
        block.extend_from_slice(&self.read);
        self.read = block;
        self.grown = false;
    }

    /// Reads what the socket has, at least a byte. Cancel-safe.
    pub(super) async fn fill(&mut self) -> Result<()> {
        self.make_room()?;
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) => Err(Error::transient("the leader closed the connection")),
            Ok(_) => Ok(()),
            Err(cause) => Err(lost(cause)),
        }
    }

    /// Room for the rest of a message that has begun, a block's worth at least. A large message's
    /// block doubles as its bytes come in, so that a length alone reserves nothing.
    fn make_room(&mut self) -> Result<()> {
        let missing = match self.header()? {
            Some((_, total)) => total.saturating_sub(self.read.len()),
            None => 0,
        };
        let room = self.read.capacity() - self.read.len();
        if room >= ROOM_MIN_BYTES.max(missing.min(BLOCK_BYTES)) {
            return Ok(());
        }
        let wanted = missing.clamp(BLOCK_BYTES, self.read.len().max(BLOCK_BYTES));
        self.read.reserve(wanted);
        if self.read.len() + wanted > 2 * BLOCK_BYTES {
            self.grown = true;
        }
        Ok(())
    }

    /// The next message; not for messages that postgres-protocol does not know (`W`). Cancel-safe.
    pub(super) async fn message(&mut self) -> Result<Message> {
        self.peek().await?;
        self.parse_buffered()
    }

    /// The message that the buffer begins with and that is whole.
    pub(super) fn parse_buffered(&mut self) -> Result<Message> {
        let parsed = Message::parse(&mut self.read);
        if self.grown {
            self.shrink();
        }
        match parsed {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Error::transient("the stream is garbled")),
            Err(cause) => Err(Error::transient("the stream is garbled").caused_by(cause)),
        }
    }

    /// Waits for a whole message and shows its tag and length. Cancel-safe.
    pub(super) async fn peek(&mut self) -> Result<(u8, usize)> {
        loop {
            if let Some((tag, total)) = self.header()?
                && self.read.len() >= total
            {
                return Ok((tag, total));
            }
            self.fill().await?;
        }
    }

    /// Puts a message behind what waits to be sent.
    pub(super) fn queue<T>(&mut self, encode: impl FnOnce(&mut BytesMut) -> T) -> T {
        encode(&mut self.write)
    }

    /// Sends all that waits. Cancel-safe: what was not sent goes with the next call.
    pub(super) async fn flush(&mut self) -> Result<()> {
        while self.write.has_remaining() {
            match self.stream.write_buf(&mut self.write).await {
                Ok(0) => return Err(Error::transient("the leader closed the connection")),
                Ok(_) => {}
                Err(cause) => return Err(lost(cause)),
            }
        }
        self.stream.flush().await.map_err(lost)
    }

    /// Says good-bye and closes, within `wait`.
    pub(super) async fn terminate(mut self, wait: Duration) {
        self.queue(frontend::terminate);
        let farewell = async {
            self.flush().await?;
            self.stream.shutdown().await.map_err(lost)
        };
        // Nobody waits for this connection any more: whether the server heard it changes nothing.
        if let Ok(Err(error)) = tokio::time::timeout(wait, farewell).await {
            tracing::debug!(%error, "closing a replication connection");
        }
    }
}

fn lost(cause: io::Error) -> Error {
    Error::transient("the connection to the leader is lost").caused_by(cause)
}

fn tune(stream: &TcpStream, config: &Config) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(config.get_tcp_user_timeout().copied())?;
    Ok(())
}

/// SSLRequest and TLS handshake, as far as asked for and offered.
async fn encrypt(
    mut stream: TcpStream,
    host: &str,
    config: &Config,
    encryption: &Encryption,
) -> Result<Wire> {
    let (tls, required) = match encryption {
        Encryption::Never => return Ok(Wire::new(Box::new(Gathering::new(stream)), None)),
        Encryption::IfOffered(tls) => (tls, false),
        Encryption::Always(tls) => (tls, true),
    };
    if config.get_ssl_negotiation() != SslNegotiation::Direct {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await.map_err(lost)?;
        // Exactly one byte: what follows a plain-text answer before the handshake is not ours
        // (CVE-2021-23222).
        match stream.read_u8().await.map_err(lost)? {
            b'S' => {}
            b'N' if required => {
                return Err(Error::halt(
                    "the server does not offer TLS",
                    "set ssl = on at the server, or sslmode=disable or prefer in the settings",
                ));
            }
            b'N' => return Ok(Wire::new(Box::new(Gathering::new(stream)), None)),
            _error_response => {
                return Err(Error::transient(
                    "the server answers the request for TLS with an error (it may be out of processes)",
                ));
            }
        }
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|cause| {
        Error::halt(
            "the host is no name that a certificate can hold",
            "write a DNS name or an address into the connection string",
        )
        .caused_by(cause)
    })?;
    let stream = TlsConnector::from(std::sync::Arc::clone(tls))
        .connect(name, Gathering::new(stream))
        .await
        .map_err(|error| tls::handshake_failed(&error))?;
    let end_point = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| tls::server_end_point(chain.first()?));
    Ok(Wire::new(Box::new(stream), Some(end_point)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut;

    fn message(tag: u8, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.put_u8(tag);
        bytes.put_u32(u32::try_from(length).unwrap() + 4);
        bytes.extend(std::iter::repeat_n(tag, length));
        bytes
    }

    #[tokio::test]
    async fn messages_of_all_sizes_come_out_whole_and_large_blocks_are_not_kept() {
        let sizes = [0, 1, BLOCK_BYTES, 7, 5_000_000, 3, ROOM_MIN_BYTES, 12_345];
        let (near, mut far) = tokio::io::duplex(10_000);
        let writer = tokio::spawn(async move {
            for size in sizes {
                far.write_all(&message(b'x', size)).await.unwrap();
            }
            far
        });
        let mut wire = Wire::new(Box::new(near), None);
        let mut held = Vec::new();
        for size in sizes {
            let (tag, total) = wire.peek().await.unwrap();
            assert_eq!((tag, total), (b'x', size + 5));
            let taken = wire.take(total);
            assert_eq!(taken, message(b'x', size));
            assert!(!wire.grown);
            held.push(taken.slice(..1));
        }
        assert!(wire.read.capacity() <= 2 * BLOCK_BYTES + ROOM_MIN_BYTES);
        drop(writer.await.unwrap());
        let error = wire.peek().await.unwrap_err();
        assert!(error.what().contains("closed"), "{error}");
    }

    #[tokio::test]
    async fn a_length_that_cannot_be_is_refused_before_memory_is_taken() {
        for length in [0u32, 3, 0x4000_0005, u32::MAX] {
            let (near, mut far) = tokio::io::duplex(100);
            far.write_u8(b'd').await.unwrap();
            far.write_u32(length).await.unwrap();
            let mut wire = Wire::new(Box::new(near), None);
            let error = wire.peek().await.unwrap_err();
            assert!(error.what().contains("garbled"), "{error}");
        }
        let (near, mut far) = tokio::io::duplex(100);
        far.write_u8(b'd').await.unwrap();
        far.write_u32(0x3fff_ffff).await.unwrap();
        drop(far);
        let mut wire = Wire::new(Box::new(near), None);
        wire.peek().await.unwrap_err();
        assert!(wire.read.capacity() <= 2 * BLOCK_BYTES);
    }
}
