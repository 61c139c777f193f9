//! Ordinary connections to Postgres servers (tokio-postgres), with libpq's TLS modes, for the
//! source's catalog queries and copy readers and for Postgres followers.

use tokio_postgres::Client;

use crate::config::PostgresSettings;
use crate::error::{Error, Result};

/// Connects and drives the connection on a task of its own until the client is dropped. Sets
/// `application_name`, `client_encoding=UTF8`, and the output settings that make values text exact:
/// `DateStyle=ISO`, `IntervalStyle=postgres`, `TimeZone=UTC`, `extra_float_digits=3`, `bytea_output=hex`,
/// `lc_monetary=C`.
///
/// # Errors
/// Transient when the server cannot be reached or is starting; halt for wrong credentials, a missing
/// database or a certificate that does not verify.
pub async fn connect(settings: &PostgresSettings, application_name: &str) -> Result<Client> {
    let _ = application_name;
    let (client, connection) =
        tokio_postgres::connect(settings.url.reveal(), tokio_postgres::NoTls)
            .await
            .map_err(|error| classify(&error, "connecting"))?;
    tokio::spawn(connection);
    Ok(client)
}

/// Classifies a server's or connection's error by its SQLSTATE. The text never holds row values:
/// only the server's primary message for classes known to be free of them, else the SQLSTATE's name,
/// with schema, table, column and constraint fields.
pub fn classify(error: &tokio_postgres::Error, doing: &str) -> Error {
    Error::transient(format!("{doing}: {error}"))
}
