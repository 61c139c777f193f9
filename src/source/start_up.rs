//! The start of a replication session: at which address, with or without TLS, the start-up packet,
//! authentication, and the settings that the server reports.

use std::collections::BTreeMap;

use postgres_protocol::message::backend::{Message, ParameterStatusBody};
use postgres_protocol::message::frontend;
use tokio_postgres::config::{Config, Host, TargetSessionAttrs};

use super::authentication::{StartUpError, authenticate, demand};
use super::framing::{Endpoint, Socket, Wire};
use crate::error::{Error, Result};
use crate::postgres::{Encryption, SESSION_SETTINGS};

/// The endpoints of a connection string; `hostaddr`, if given, goes with the host at its place.
pub(super) fn endpoints(config: &Config) -> Result<Vec<Endpoint>> {
    let ports = config.get_ports();
    let addresses = config.get_hostaddrs();
    let hosts = config.get_hosts();
    if (!addresses.is_empty() && addresses.len() != hosts.len())
        || (ports.len() > 1 && ports.len() != hosts.len())
    {
        return Err(Error::halt(
            "the connection string's hosts, addresses and ports are not of the same number",
            "write one port for all, or one for each host",
        ));
    }
    let endpoint = |(i, host): (usize, &Host)| {
        let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(host) => Endpoint::Tcp {
                host: host.clone(),
                address: addresses.get(i).copied(),
                port,
            },
            Host::Unix(directory) => Endpoint::Unix {
                path: directory.join(format!(".s.PGSQL.{port}")),
            },
        }
    };
    Ok(hosts.iter().enumerate().map(endpoint).collect())
}

/// The byte stream of a session and what the server says of its settings.
pub(super) type Started = (Wire, BTreeMap<String, String>);

/// One attempt at one endpoint.
pub(super) struct StartUp<'a> {
    pub(super) config: &'a Config,
    pub(super) application_name: &'a str,
    pub(super) options: &'a [(&'a str, String)],
    pub(super) endpoint: &'a Endpoint,
}

impl StartUp<'_> {
    /// With `sslmode=prefer` a second attempt goes without TLS, if the first failed because of it:
    /// no handshake, or no line of pg_hba.conf for encrypted connections (28000).
    pub(super) async fn with_fall_back(&self, encryption: &Encryption) -> Result<Started> {
        let fall_back = match encryption {
            Encryption::IfOffered(_) => true,
            Encryption::Never | Encryption::Always(_) => false,
        };
        let socket = Socket::open(self.endpoint, self.config).await?;
        match Wire::start(socket, self.config, encryption).await {
            Ok(mut wire) => match self.talk(&mut wire).await {
                Ok(parameters) => return Ok((wire, parameters)),
                Err(StartUpError::Refused(error))
                    if fall_back && wire.end_point.is_some() && error.code == "28000" => {}
                Err(error) => return Err(error.into()),
            },
            Err(_handshake) if fall_back => {}
            Err(error) => return Err(error),
        }
        let socket = Socket::open(self.endpoint, self.config).await?;
        let mut wire = Wire::start(socket, self.config, &Encryption::Never).await?;
        let parameters = self.talk(&mut wire).await?;
        Ok((wire, parameters))
    }

    async fn talk(&self, wire: &mut Wire) -> Result<BTreeMap<String, String>, StartUpError> {
        wire.queue(|buffer| frontend::startup_message(self.parameters(), buffer))
            .map_err(|cause| {
                Error::halt(
                    "the start-up packet cannot be made",
                    "take zero bytes out of the connection string",
                )
                .caused_by(cause)
            })?;
        wire.flush().await?;
        authenticate(wire, self.config).await?;
        let parameters = until_ready(wire).await?;
        self.judge(&parameters)?;
        Ok(parameters)
    }

    fn parameters(&self) -> Vec<(&str, &str)> {
        let user = self.config.get_user().unwrap_or_default();
        let mut parameters = vec![
            ("user", user),
            ("database", self.config.get_dbname().unwrap_or(user)),
            ("replication", "database"),
            ("application_name", self.application_name),
            ("client_encoding", "UTF8"),
            ("synchronous_commit", "local"),
            ("search_path", ""),
        ];
        if let Some(options) = self.config.get_options() {
            parameters.push(("options", options));
        }
        parameters.extend_from_slice(SESSION_SETTINGS);
        parameters.extend(
            self.options
                .iter()
                .map(|(name, value)| (*name, value.as_str())),
        );
        parameters
    }

    /// `target_session_attrs`, by the parameters that servers from 14 on report.
    fn judge(&self, parameters: &BTreeMap<String, String>) -> Result<()> {
        let on = |name: &str| parameters.get(name).is_some_and(|value| value == "on");
        let read_only = on("in_hot_standby") || on("default_transaction_read_only");
        let fits = match self.config.get_target_session_attrs() {
            TargetSessionAttrs::ReadWrite => !read_only,
            TargetSessionAttrs::ReadOnly => read_only,
            _any => true,
        };
        if fits {
            Ok(())
        } else {
            Err(Error::transient(
                "the server is not of the kind that target_session_attrs asks for",
            ))
        }
    }
}

async fn until_ready(wire: &mut Wire) -> Result<BTreeMap<String, String>, StartUpError> {
    let mut parameters = BTreeMap::new();
    loop {
        match demand(wire).await? {
            Message::ParameterStatus(body) => remember(&mut parameters, &body)?,
            Message::NoticeResponse(_) | Message::BackendKeyData(_) => {}
            Message::ReadyForQuery(_) => return Ok(parameters),
            _other => return Err(Error::transient("start-up: unexpected answer").into()),
        }
    }
}

/// Notes what the server says of a setting.
pub(super) fn remember(
    parameters: &mut BTreeMap<String, String>,
    body: &ParameterStatusBody,
) -> Result<()> {
    let name = body.name().map_err(garbled)?;
    let value = body.value().map_err(garbled)?;
    parameters.insert(name.to_owned(), value.to_owned());
    Ok(())
}

fn garbled(cause: std::io::Error) -> Error {
    Error::transient("the stream is garbled").caused_by(cause)
}
