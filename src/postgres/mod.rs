//! Ordinary connections to Postgres servers (tokio-postgres), with libpq's TLS modes, for the
//! source's catalog queries and copy readers and for Postgres followers; and what replication
//! connections share with them: TLS, the connection string, the classification of errors.

pub mod classify;
mod sqlstate;
pub mod tls;
pub mod url;

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::PostgresSettings;
use crate::error::{Error, Result};

pub use classify::{Deadlock, ServerError, classify};
pub use tls::Encryption;
pub use url::{UrlTls, split_tls, with_database};

/// Settings that make the text of values exact and the same everywhere, for every session.
pub const SESSION_SETTINGS: &[(&str, &str)] = &[
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("standard_conforming_strings", "on"),
];

/// A quiet connection is probed after this long, so that a peer that vanished is noticed while a long
/// statement runs.
pub const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Time between two probes.
pub const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Probes without an answer before the connection counts as lost.
pub const TCP_KEEPALIVE_RETRIES: u32 = 3;
/// Sent bytes that nobody acknowledges for this long end the connection.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects and drives the connection on a task of its own until the client is dropped. Sets
/// `application_name`, `client_encoding=UTF8`, and the output settings that make values text exact:
/// `DateStyle=ISO`, `IntervalStyle=postgres`, `TimeZone=UTC`, `extra_float_digits=3`, `bytea_output=hex`,
/// `lc_monetary=C`; and `standard_conforming_strings=on`.
///
/// # Errors
/// Transient when the server cannot be reached or is starting; halt for wrong credentials, a missing
/// database or a certificate that does not verify.
pub async fn connect(settings: &PostgresSettings, application_name: &str) -> Result<Client> {
    let mut config = parse(settings)?;
    config.application_name(application_name);
    let mut options = config.get_options().unwrap_or_default().to_owned();
    for (name, value) in SESSION_SETTINGS {
        options.push_str(&format!(" -c {name}={value}"));
    }
    config.options(options.trim_start());
    let encryption = encryption(settings, &config)?;
    tokio::time::timeout(settings.connect_timeout, open(config, encryption))
        .await
        .map_err(|_| connect_timed_out(settings))?
}

/// Asks the server to end the statement that a connection is waiting for. Whether it did is not known: it may
/// have ended by itself.
pub async fn cancel(settings: &PostgresSettings, token: CancelToken) {
    let asked = async {
        match encryption(settings, &parse(settings)?)? {
            Encryption::Never => token.cancel_query(NoTls).await,
            Encryption::IfOffered(tls) | Encryption::Always(tls) => {
                token
                    .cancel_query(MakeRustlsConnect::new((*tls).clone()))
                    .await
            }
        }
        .map_err(|error| classify(&error, "cancelling a statement"))
    };
    if let Ok(Err(error)) = tokio::time::timeout(settings.connect_timeout, asked).await {
        tracing::debug!(%error, "a statement could not be cancelled");
    }
}

/// The error of a connection that was not there in time.
pub(crate) fn connect_timed_out(settings: &PostgresSettings) -> Error {
    let seconds = settings.connect_timeout.as_secs_f64();
    Error::transient(format!("connecting: no session within {seconds} s"))
}

/// Parses and completes the connection string.
///
/// # Errors
/// Halt when it is malformed or names no host or user. The text does not hold the string.
pub(crate) fn parse(settings: &PostgresSettings) -> Result<Config> {
    const REMEDY: &str = "write url = \"postgres://user:password@host:port/database\"";
    let mut config: Config = settings.url.reveal().parse().map_err(|error| {
        let what = match std::error::Error::source(&error) {
            Some(cause) => malformed(&cause.to_string()),
            None => "the connection string is malformed".to_owned(),
        };
        Error::halt(what, REMEDY)
    })?;
    if config.get_user().is_none() {
        return Err(Error::halt("the connection string names no user", REMEDY));
    }
    if config.get_hosts().is_empty() {
        // TLS needs a name to verify; as in libpq an address will do.
        for address in config.get_hostaddrs().to_owned() {
            config.host(address.to_string());
        }
    }
    if config.get_hosts().is_empty() {
        return Err(Error::halt("the connection string names no host", REMEDY));
    }
    config.connect_timeout(settings.connect_timeout);
    if config.get_keepalives_idle() > TCP_KEEPALIVE_IDLE {
        config.keepalives_idle(TCP_KEEPALIVE_IDLE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(TCP_KEEPALIVE_INTERVAL);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(TCP_KEEPALIVE_RETRIES);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
    Ok(config)
}

/// What is wrong with a connection string. An unknown option is named only if it is one of libpq's: in
/// a string with wrong quoting it may be a piece of the password.
fn malformed(cause: &str) -> String {
    const NOT_SUPPORTED: &[&str] = &[
        "client_encoding",
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
        "gsslib",
        "krbsrvname",
        "max_protocol_version",
        "min_protocol_version",
        "passfile",
        "replication",
        "require_auth",
        "requirepeer",
        "service",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcertmode",
        "sslcompression",
        "sslcrl",
        "sslcrldir",
        "sslpassword",
        "sslsni",
    ];
    let Some(option) = cause.strip_prefix("unknown option") else {
        return format!("the connection string is malformed: {cause}");
    };
    let option = option.trim_matches(|c: char| !c.is_ascii_alphabetic());
    if NOT_SUPPORTED.contains(&option) {
        format!("the connection string has the parameter {option}, which walferry does not have")
    } else {
        "the connection string has a parameter that walferry does not have".to_owned()
    }
}

/// The TLS of a connection; as in libpq, none over Unix sockets.
pub(crate) fn encryption(settings: &PostgresSettings, config: &Config) -> Result<Encryption> {
    let only_unix = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(_) => false,
    });
    if only_unix {
        Ok(Encryption::Never)
    } else {
        tls::encryption(&settings.tls)
    }
}

async fn open(mut config: Config, encryption: Encryption) -> Result<Client> {
    let without_tls = async |mut config: Config| {
        config.ssl_mode(SslMode::Disable);
        let (client, connection) = config
            .connect(NoTls)
            .await
            .map_err(|error| connecting(&error))?;
        drive(connection);
        Ok(client)
    };
    let (tls, fall_back) = match encryption {
        Encryption::Never => return without_tls(config).await,
        Encryption::IfOffered(tls) => {
            config.ssl_mode(SslMode::Prefer);
            (tls, true)
        }
        Encryption::Always(tls) => {
            config.ssl_mode(SslMode::Require);
            (tls, false)
        }
    };
    match config.connect(MakeRustlsConnect::new((*tls).clone())).await {
        Ok((client, connection)) => {
            drive(connection);
            Ok(client)
        }
        Err(error) if fall_back && falls_back(&error) => without_tls(config).await,
        Err(error) => Err(connecting(&error)),
    }
}

/// Whether `sslmode=prefer` tries again without TLS: the handshake failed, or pg_hba.conf has no
/// entry for an encrypted connection (28000). A wrong password (28P01) is not sent a second time.
fn falls_back(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(db) => db.code().code() == "28000",
        None => error.to_string() == "error performing TLS handshake",
    }
}

fn connecting(error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => ServerError::from(db).classified_at_start_up("connecting"),
        None => classify(error, "connecting"),
    }
}

/// Drives the connection until the client is gone. Notices are not shown: they may hold row values.
fn drive<S, T>(mut connection: Connection<S, T>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => {
                    let sqlstate = notice.code().code();
                    tracing::debug!(sqlstate, "notice from the server");
                }
                Ok(_notification) => {}
                // Whoever waits for an answer gets an error of its own; this is for the log only.
                Err(error) => {
                    let error = classify(&error, "connection lost");
                    tracing::debug!(%error, "connection to Postgres ended");
                    return;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, TlsMode};
    use crate::error::Class;

    fn settings(url: &str) -> PostgresSettings {
        PostgresSettings {
            url: Secret::new(url),
            tls: TlsMode::Prefer.into(),
            connect_timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn a_connection_string_that_cannot_work_halts_without_being_shown() {
        for (url, what) in [
            ("postgres://u:secret@h:port/d", "`port`"),
            ("postgres://u:p?secret=1&x@h/d?secret=1", "has a parameter"),
            ("postgres://u:secret@h/d?gssencmode=disable", "gssencmode"),
            ("host=h password=secret", "no user"),
            ("user=u password=secret", "no host"),
        ] {
            let error = parse(&settings(url)).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.class(), Class::Halt, "{text}");
            assert!(text.contains(what), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn an_address_serves_as_host_name_and_a_socket_needs_no_tls() {
        let by_address = settings("user=u hostaddr=127.0.0.1");
        let config = parse(&by_address).unwrap();
        assert_eq!(config.get_hosts(), [Host::Tcp("127.0.0.1".to_owned())]);

        let mut by_socket = settings("user=u host=/tmp");
        by_socket.tls.mode = TlsMode::VerifyFull;
        let config = parse(&by_socket).unwrap();
        let encryption = encryption(&by_socket, &config).unwrap();
        assert!(matches!(encryption, Encryption::Never), "{encryption:?}");
    }

    #[test]
    fn tls_files_that_cannot_serve_halt() {
        let mut missing = settings("host=h user=u");
        missing.tls.mode = TlsMode::VerifyCa;
        missing.tls.root_cert = Some("/nonexistent/root.pem".into());
        let error = tls::encryption(&missing.tls).unwrap_err();
        assert_eq!(error.class(), Class::Halt);
        assert!(error.what().contains("/nonexistent/root.pem"), "{error}");

        let mut half = settings("host=h user=u");
        half.tls.cert = Some("/nonexistent/client.pem".into());
        let error = tls::encryption(&half.tls).unwrap_err();
        assert_eq!(error.class(), Class::Halt);
    }
}
