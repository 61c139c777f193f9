//! Proving to the leader who we are: trust, cleartext password, MD5, SCRAM-SHA-256 and
//! SCRAM-SHA-256-PLUS (channel binding `tls-server-end-point`).

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::config::{ChannelBinding as Wanted, Config};

use super::framing::Wire;
use crate::error::{Error, Result};
use crate::postgres::ServerError;

/// Why a start-up failed.
pub(super) enum StartUpError {
    /// The server refused.
    Refused(ServerError),
    /// Anything else.
    Other(Error),
}

impl From<Error> for StartUpError {
    fn from(error: Error) -> Self {
        StartUpError::Other(error)
    }
}

impl From<StartUpError> for Error {
    fn from(error: StartUpError) -> Self {
        match error {
            StartUpError::Refused(error) => {
                error.classified_at_start_up("connecting to the leader")
            }
            StartUpError::Other(error) => error,
        }
    }
}

/// Answers the server's demands until it is satisfied.
pub(super) async fn authenticate(wire: &mut Wire, config: &Config) -> Result<(), StartUpError> {
    match demand(wire).await? {
        Message::AuthenticationOk => return Ok(unbound(config)?),
        Message::AuthenticationCleartextPassword => {
            unbound(config)?;
            let password = password(config)?;
            send(wire, |buffer| frontend::password_message(password, buffer)).await?;
        }
        Message::AuthenticationMd5Password(body) => {
            unbound(config)?;
            let user = config.get_user().unwrap_or_default();
            let hash = md5_hash(user.as_bytes(), password(config)?, body.salt());
            send(wire, |buffer| {
                frontend::password_message(hash.as_bytes(), buffer)
            })
            .await?;
        }
        Message::AuthenticationSasl(body) => scram(wire, config, &body).await?,
        Message::AuthenticationGss
        | Message::AuthenticationSspi
        | Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential => {
            return Err(Error::halt(
                "the leader asks for an authentication that walferry does not have (GSSAPI, SSPI or \
                 Kerberos)",
                "give this role a line with scram-sha-256 or cert in the leader's pg_hba.conf",
            )
            .into());
        }
        _other => return Err(unexpected().into()),
    }
    match demand(wire).await? {
        Message::AuthenticationOk => Ok(()),
        _other => Err(unexpected().into()),
    }
}

async fn scram(
    wire: &mut Wire,
    config: &Config,
    body: &AuthenticationSaslBody,
) -> Result<(), StartUpError> {
    let offered: Vec<&str> = body.mechanisms().collect().map_err(garbled)?;
    let end_point = match config.get_channel_binding() {
        Wanted::Disable => None,
        _wanted => wire.end_point.clone().flatten(),
    };
    let (mechanism, binding) = if let Some(end_point) = end_point {
        if offered.contains(&SCRAM_SHA_256_PLUS) {
            let binding = ChannelBinding::tls_server_end_point(end_point);
            (SCRAM_SHA_256_PLUS, binding)
        } else {
            // Says that we could: a man in the middle who took the offer away is found out.
            (SCRAM_SHA_256, ChannelBinding::unrequested())
        }
    } else {
        (SCRAM_SHA_256, ChannelBinding::unsupported())
    };
    if !offered.contains(&mechanism) {
        return Err(Error::halt(
            "the leader offers no SASL mechanism that walferry has",
            "give this role a line with scram-sha-256 in the leader's pg_hba.conf",
        )
        .into());
    }
    if mechanism != SCRAM_SHA_256_PLUS {
        unbound(config)?;
    }
    let mut scram = ScramSha256::new(password(config)?, binding);
    send(wire, |buffer| {
        frontend::sasl_initial_response(mechanism, scram.message(), buffer)
    })
    .await?;
    match demand(wire).await? {
        Message::AuthenticationSaslContinue(body) => {
            scram.update(body.data()).map_err(scram_failed)?;
        }
        _other => return Err(unexpected().into()),
    }
    send(wire, |buffer| {
        frontend::sasl_response(scram.message(), buffer)
    })
    .await?;
    match demand(wire).await? {
        Message::AuthenticationSaslFinal(body) => {
            Ok(scram.finish(body.data()).map_err(scram_failed)?)
        }
        _other => Err(unexpected().into()),
    }
}

/// The next message of the start-up; the server's refusal as an error.
pub(super) async fn demand(wire: &mut Wire) -> Result<Message, StartUpError> {
    match wire.message().await? {
        Message::ErrorResponse(body) => {
            Err(StartUpError::Refused(ServerError::read(body.fields())?))
        }
        message => Ok(message),
    }
}

async fn send(
    wire: &mut Wire,
    encode: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
) -> Result<()> {
    wire.queue(encode).map_err(|cause| {
        Error::halt(
            "user or password cannot be sent",
            "take zero bytes out of user and password in the connector's settings",
        )
        .caused_by(cause)
    })?;
    wire.flush().await
}

fn password(config: &Config) -> Result<&[u8]> {
    config.get_password().ok_or_else(|| {
        Error::halt(
            "the leader asks for a password and the settings have none",
            "put the password into the connection string (from the environment or a file)",
        )
    })
}

/// Refuses to go on without channel binding where `channel_binding=require` stands.
fn unbound(config: &Config) -> Result<()> {
    match config.get_channel_binding() {
        Wanted::Require => Err(Error::halt(
            "channel_binding=require, but the leader authenticates without it",
            "use TLS and scram-sha-256 at the leader, or channel_binding=prefer",
        )),
        _wanted => Ok(()),
    }
}

fn scram_failed(cause: std::io::Error) -> Error {
    Error::halt(
        "SCRAM authentication failed at the leader's answer",
        "check that this is the right server and that its scram_iterations is at most 100000",
    )
    .caused_by(cause)
}

fn garbled(cause: std::io::Error) -> Error {
    Error::transient("the stream is garbled").caused_by(cause)
}

fn unexpected() -> Error {
    Error::transient("the leader sent an unexpected message during authentication")
}
