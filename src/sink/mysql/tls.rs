//! TLS to MySQL servers: libpq's modes, as far as the client library has them.
//!
//! The library verifies a chain together with a name, or neither. For `verify-ca` the server is asked for its
//! certificate first, on a connection of its own on which walferry verifies the chain; the name that is looked for
//! afterwards is one that this certificate has, and the chain is verified again.

use mysql_async::{ClientIdentity, SslOpts};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::failure::io_error;
use crate::config::{ServerSettings, TlsMode, TlsSettings};
use crate::error::{Error, Result};
use crate::postgres::Encryption;
use crate::postgres::tls::encryption;

/// `CLIENT_PROTOCOL_41`, `CLIENT_SSL`, `CLIENT_SECURE_CONNECTION`.
const CAPABILITIES: u32 = 0x200 | 0x800 | 0x8000;
/// `utf8mb4_general_ci`.
const CHARACTER_SET: u8 = 45;
/// Longest greeting that is read.
const GREETING_MAX: usize = 4096;

/// The options of a mode; none: no TLS.
pub(super) async fn options(settings: &ServerSettings, mode: TlsMode) -> Result<Option<SslOpts>> {
    let tls = &settings.tls;
    let options = SslOpts::default();
    let options = match mode {
        TlsMode::Disable => return Ok(None),
        TlsMode::Prefer => options.with_danger_accept_invalid_certs(true),
        // As libpq does: with a root certificate it is verified.
        TlsMode::Require if tls.root_cert.is_none() => {
            options.with_danger_accept_invalid_certs(true)
        }
        TlsMode::Require | TlsMode::VerifyCa => {
            let name = name_of_server(settings).await?;
            trusting(options, tls)?.with_danger_tls_hostname_override(Some(name))
        }
        TlsMode::VerifyFull => trusting(options, tls)?,
    };
    Ok(Some(match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let identity = ClientIdentity::new(cert.clone().into(), key.clone().into());
            options.with_client_identity(Some(identity))
        }
        (Some(_), None) | (None, Some(_)) | (None, None) => options,
    }))
}

/// With the roots of the file, or the system's.
fn trusting(options: SslOpts, settings: &TlsSettings) -> Result<SslOpts> {
    let roots = match &settings.root_cert {
        Some(file) => {
            std::fs::metadata(file).map_err(|error| {
                Error::halt(
                    format!("certificate file {} cannot be read", file.display()),
                    "correct root_cert in [tls] of the sink's file",
                )
                .caused_by(error)
            })?;
            vec![file.clone().into()]
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                return Err(Error::halt(
                    "this system has no root certificates",
                    "install the system's ca-certificates, or name a file as root_cert in [tls]",
                ));
            }
            found
                .certs
                .iter()
                .map(|cert| cert.to_vec().into())
                .collect()
        }
    };
    Ok(options
        .with_root_certs(roots)
        .with_disable_built_in_roots(true))
}

/// A name that the server's certificate has, whose chain is verified.
async fn name_of_server(settings: &ServerSettings) -> Result<String> {
    let mode = TlsMode::VerifyCa;
    let Encryption::Always(config) = encryption(&TlsSettings {
        mode,
        ..settings.tls.clone()
    })?
    else {
        unreachable!("{mode:?} is always encrypted");
    };
    let unreached =
        |error: std::io::Error| io_error(&error, "asking the follower for its certificate");
    let host = settings.url.host.as_str();
    let mut stream = TcpStream::connect((host, settings.url.port))
        .await
        .map_err(unreached)?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.map_err(unreached)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], 0]);
    let mut greeting = vec![0; GREETING_MAX.min(usize::try_from(length).unwrap_or(GREETING_MAX))];
    stream.read_exact(&mut greeting).await.map_err(unreached)?;
    stream.write_all(&request()).await.map_err(unreached)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| {
        Error::halt(
            format!("{host} is no name of a host"),
            "correct the sink's url",
        )
        .caused_by(error)
    })?;
    let connected = TlsConnector::from(config).connect(name, stream).await;
    let connected = connected.map_err(unreached)?;
    let certificates = connected.get_ref().1.peer_certificates();
    let first = certificates.and_then(|all| all.first());
    first.and_then(|first| any_name(first)).ok_or_else(|| {
        Error::halt(
            "the server's certificate has no subject alternative name",
            "give the server a certificate with one, or choose mode = \"require\" without root_cert in [tls]",
        )
    })
}

/// The packet that asks for TLS (`Protocol::SSLRequest`).
fn request() -> [u8; 36] {
    let mut packet = [0; 36];
    // 32 bytes, the second packet of the connection.
    packet[0] = 32;
    packet[3] = 1;
    packet[4..8].copy_from_slice(&CAPABILITIES.to_le_bytes());
    packet[8..12].copy_from_slice(&(16_u32 << 20).to_le_bytes());
    packet[12] = CHARACTER_SET;
    packet
}

fn any_name(certificate: &[u8]) -> Option<String> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let (_critical, names) = certificate.tbs_certificate.get::<SubjectAltName>().ok()??;
    names.0.iter().find_map(|name| match name {
        // `*` stands for one label.
        GeneralName::DnsName(name) => Some(name.as_str().replacen('*', "any", 1)),
        GeneralName::IpAddress(address) => match address.as_bytes() {
            &[a, b, c, d] => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
            v6 => {
                let bytes: [u8; 16] = v6.try_into().ok()?;
                Some(std::net::Ipv6Addr::from(bytes).to_string())
            }
        },
        _other => None,
    })
}
