//! TLS to Postgres servers with libpq's modes, through rustls with ring. Used by ordinary and by
//! replication connections alike.
//!
//! Signatures of the handshake are verified in every mode, also where the certificate is not: channel
//! binding means something only if the server has shown that it holds the certificate's key.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::{rfc4519, rfc5280, rfc5912};

use crate::config::{TlsMode, TlsSettings};
use crate::error::{Error, Result};

/// Whether a connection is encrypted, decided before it is opened.
#[derive(Clone, Debug)]
pub enum Encryption {
    /// Never asked for.
    Never,
    /// Asked for; without it where the server has none.
    IfOffered(Arc<ClientConfig>),
    /// Refused without it.
    Always(Arc<ClientConfig>),
}

/// Reads the certificate files and makes the TLS configuration of a mode.
///
/// # Errors
/// Halt when a file cannot be read or holds no usable certificate or key.
pub fn encryption(settings: &TlsSettings) -> Result<Encryption> {
    match settings.mode {
        TlsMode::Disable => Ok(Encryption::Never),
        TlsMode::Prefer => Ok(Encryption::IfOffered(client_config(settings, None)?)),
        TlsMode::Require => {
            // libpq: "if a root CA file exists, the behavior of sslmode=require will be the same as
            // that of verify-ca".
            let trust = match settings.root_cert {
                Some(_) => Some(Trust::read(settings, Names::Any)?),
                None => None,
            };
            Ok(Encryption::Always(client_config(settings, trust)?))
        }
        TlsMode::VerifyCa => {
            let trust = Trust::read(settings, Names::Any)?;
            Ok(Encryption::Always(client_config(settings, Some(trust))?))
        }
        TlsMode::VerifyFull => {
            let trust = Trust::read(settings, Names::Match)?;
            Ok(Encryption::Always(client_config(settings, Some(trust))?))
        }
    }
}

fn client_config(settings: &TlsSettings, trust: Option<Trust>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| tls_files("the TLS library refuses its own defaults", error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { provider, trust }));
    let mut config = match (&settings.cert, &settings.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key_file = key.display();
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                tls_files(format!("client key {key_file} cannot be read"), error)
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                let cert = cert.display();
                tls_files(
                    format!("client certificate {cert} and key {key_file} do not work"),
                    error,
                )
            })?
        }
        (Some(_), None) | (None, Some(_)) => {
            return Err(Error::halt(
                "a client certificate needs its key and the key its certificate",
                "set both sslcert and sslkey, or neither",
            ));
        }
    };
    // What libpq announces; Postgres 17+ insists on it under sslnegotiation=direct.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = |error| {
        tls_files(
            format!("certificate file {} cannot be read", file.display()),
            error,
        )
    };
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(unreadable)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    if certificates.is_empty() {
        return Err(Error::halt(
            format!("certificate file {} holds no certificate", file.display()),
            "name a PEM file with BEGIN CERTIFICATE in it",
        ));
    }
    Ok(certificates)
}

fn tls_files(
    what: impl Into<String>,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::halt(
        what,
        "check the TLS files that the connector's settings name: PEM, readable, key not encrypted",
    )
    .caused_by(cause)
}

/// Which host names a certificate may be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Any,
    Match,
}

/// Whom a server certificate must come from.
#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    /// The certificates of `sslrootcert` themselves: a self-signed server certificate is often given
    /// as its own root, which OpenSSL takes and webpki does not (`CaUsedAsEndEntity`).
    pinned: Vec<CertificateDer<'static>>,
    names: Names,
}

impl Trust {
    fn read(settings: &TlsSettings, names: Names) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let mut pinned = Vec::new();
        match &settings.root_cert {
            Some(file) => {
                pinned = certificates(file)?;
                for certificate in &pinned {
                    roots.add(certificate.clone()).map_err(|error| {
                        let file = file.display();
                        tls_files(format!("a certificate in {file} cannot be a root"), error)
                    })?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    return Err(Error::halt(
                        "this system has no root certificates",
                        "install the system's ca-certificates, or name a file in tls.root_cert",
                    ));
                }
            }
        }
        Ok(Trust {
            roots,
            pinned,
            names,
        })
    }

    fn verify(
        &self,
        provider: &CryptoProvider,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if self.pinned.contains(end_entity) {
            verify_validity(end_entity, now)?;
        } else {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                intermediates,
                now,
                provider.signature_verification_algorithms.all,
            )?;
        }
        match self.names {
            Names::Any => Ok(()),
            Names::Match => verify_server_name(&parsed, server_name).or_else(|error| {
                if common_name_matches(end_entity, &server_name.to_str()) {
                    Ok(())
                } else {
                    Err(error)
                }
            }),
        }
    }
}

fn verify_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let certificate =
        x509_cert::Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let validity = certificate.tbs_certificate.validity;
    let now = now.as_secs();
    if now < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// libpq: a certificate without subject alternative names is for the host in its common name, of
/// which the left-most label may be `*`.
fn common_name_matches(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(certificate) = x509_cert::Certificate::from_der(certificate) else {
        return false;
    };
    let certificate = certificate.tbs_certificate;
    let has_alternatives = certificate
        .extensions
        .iter()
        .flatten()
        .any(|extension| extension.extn_id == rfc5280::ID_CE_SUBJECT_ALT_NAME);
    if has_alternatives {
        return false;
    }
    let mut common_names = certificate
        .subject
        .0
        .iter()
        .flat_map(|names| names.0.iter())
        .filter(|name| name.oid == rfc4519::CN);
    let Some(name) = common_names.next() else {
        return false;
    };
    std::str::from_utf8(name.value.value()).is_ok_and(|name| name_matches(name, host))
}

fn name_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(host),
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && domain.eq_ignore_ascii_case(rest)),
    }
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None`: any certificate will do.
    trust: Option<Trust>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            trust.verify(&self.provider, end_entity, intermediates, server_name, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The `tls-server-end-point` channel binding of a server certificate (RFC 5929): its hash by the
/// hash function of its own signature, SHA-256 in place of MD5 and SHA-1. `None` where the signature
/// has no single hash function (Ed25519) or hides it in parameters (RSA-PSS).
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    const MD5_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.4");
    let algorithm = x509_cert::Certificate::from_der(certificate)
        .ok()?
        .signature_algorithm
        .oid;
    let is = |algorithms: &[ObjectIdentifier]| algorithms.contains(&algorithm);
    if is(&[
        MD5_WITH_RSA,
        rfc5912::SHA_1_WITH_RSA_ENCRYPTION,
        rfc5912::SHA_256_WITH_RSA_ENCRYPTION,
        rfc5912::ECDSA_WITH_SHA_256,
    ]) {
        Some(Sha256::digest(certificate).to_vec())
    } else if is(&[
        rfc5912::SHA_384_WITH_RSA_ENCRYPTION,
        rfc5912::ECDSA_WITH_SHA_384,
    ]) {
        Some(Sha384::digest(certificate).to_vec())
    } else if is(&[
        rfc5912::SHA_512_WITH_RSA_ENCRYPTION,
        rfc5912::ECDSA_WITH_SHA_512,
    ]) {
        Some(Sha512::digest(certificate).to_vec())
    } else {
        None
    }
}

/// Classifies the failure of a handshake: a certificate that does not verify needs a person, a
/// broken connection does not.
pub fn handshake_failed(error: &std::io::Error) -> Error {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(tls) = tls else {
        return Error::transient(format!("the TLS handshake broke off: {error}"));
    };
    match tls {
        rustls::Error::InvalidCertificate(_) => Error::halt(
            format!("the server's certificate does not verify: {tls}"),
            "check tls.root_cert, the certificate's names and dates, and that the host name is the one in the \
             certificate; or choose a weaker tls.mode",
        ),
        rustls::Error::AlertReceived(_) => Error::halt(
            format!("the server refused the TLS handshake: {tls}"),
            "check tls.cert and tls.key, and the server's TLS settings and log",
        ),
        rustls::Error::PeerIncompatible(_) | rustls::Error::PeerMisbehaved(_) => Error::halt(
            format!("the server's TLS does not go with walferry's: {tls}"),
            "check which versions (TLS 1.2 or newer is needed) and ciphers the server takes",
        ),
        _other => Error::transient(format!("the TLS handshake failed: {tls}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_stands_for_its_host_or_one_label() {
        for (pattern, host, matches) in [
            ("db.example.com", "db.example.com", true),
            ("DB.example.com", "db.Example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*", "localhost", false),
            ("db.example.com", "example.com", false),
        ] {
            assert_eq!(name_matches(pattern, host), matches, "{pattern} {host}");
        }
    }
}
