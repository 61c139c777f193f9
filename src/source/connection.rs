//! A connection in replication mode: start-up with `replication=database`, TLS, authentication,
//! simple queries, and COPY BOTH. tokio-postgres has no replication mode, so the session is spoken
//! here with postgres-protocol's messages.
//!
//! A command that was given up half-way leaves the session out of step; every later command is
//! refused then.

use std::collections::BTreeMap;
use std::time::Duration;

use postgres_protocol::message::backend::{DataRowBody, Message, NoticeResponseBody};
use postgres_protocol::message::frontend;

use super::commands::{
    command_name, create_slot_command, idle_timeout, server_major, start_replication_command,
};
use super::framing::Wire;
use super::start_up::{StartUp, endpoints, remember};
use crate::config::PostgresSettings;
use crate::error::{Class, Error, NEW_PIPELINE, Result};
use crate::model::Lsn;
use crate::model::relation::quote_identifier;
use crate::postgres::{self, ServerError};
use crate::source::stream::ReplicationStream;

/// Longest wait for the answer to a command that does not wait for other transactions.
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a good-bye to be sent.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// CopyBothResponse, which postgres-protocol does not know.
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';

/// An idle replication connection.
pub struct ReplicationConnection {
    wire: Wire,
    parameters: BTreeMap<String, String>,
    server_major: u32,
    idle_timeout: Option<Duration>,
    /// A command is under way, or was given up.
    in_command: bool,
}

/// `IDENTIFY_SYSTEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's system identifier.
    pub system_id: String,
    /// Current timeline.
    pub timeline: u32,
    /// Current WAL flush position.
    pub flush: Lsn,
    /// Database name.
    pub database: String,
}

/// What `CREATE_REPLICATION_SLOT` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The slot's consistent point.
    pub consistent_point: Lsn,
    /// Exported snapshot, valid until the connection's next command.
    pub snapshot: Option<String>,
}

/// Rows of text.
pub type Rows = Vec<Vec<Option<String>>>;

/// What came of `START_REPLICATION`.
pub enum StartOutcome {
    /// The leader streams.
    Started(ReplicationStream),
    /// Another connection holds the slot (SQLSTATE 55006): back off and read the log again.
    Busy,
}

impl ReplicationConnection {
    /// Connects and authenticates. `options` are session settings (`wal_sender_timeout`, …) sent in
    /// the start-up packet; the value-format settings of [`crate::postgres::connect`] are always sent,
    /// and `synchronous_commit=local`, and an empty `search_path`, so that names in values (`regclass`)
    /// are written out. Hosts are tried in order.
    ///
    /// `wal_sender_timeout` among the options (Postgres's default without it) is also how long the
    /// stream may be silent: see [`ReplicationStream::next`].
    ///
    /// # Errors
    /// Transient when the server cannot be reached; halt for credentials, TLS, rights.
    pub async fn open(
        settings: &PostgresSettings,
        application_name: &str,
        options: &[(&str, String)],
    ) -> Result<Self> {
        let config = postgres::parse(settings)?;
        let idle_timeout = idle_timeout(options)?;
        let encryption = postgres::encryption(settings, &config)?;
        let mut last = Error::transient("the connection string names no host");
        for endpoint in endpoints(&config)? {
            let start_up = StartUp {
                config: &config,
                application_name,
                options,
                endpoint: &endpoint,
            };
            let attempt = tokio::time::timeout(
                settings.connect_timeout,
                start_up.with_fall_back(&encryption),
            );
            match attempt.await {
                Ok(Ok((wire, parameters))) => {
                    return Ok(ReplicationConnection {
                        wire,
                        server_major: server_major(&parameters)?,
                        parameters,
                        idle_timeout,
                        in_command: false,
                    });
                }
                Ok(Err(error)) => match error.class() {
                    Class::Transient => last = error,
                    // As libpq: a server that answers with a refusal is not passed over.
                    Class::Halt | Class::Fenced => return Err(error),
                },
                Err(_elapsed) => last = postgres::connect_timed_out(settings),
            }
        }
        Err(last)
    }

    /// `IDENTIFY_SYSTEM`.
    ///
    /// # Errors
    /// Transient when the connection is lost; else by SQLSTATE.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let rows = self.bounded("IDENTIFY_SYSTEM").await?;
        let unexpected = || Error::transient("IDENTIFY_SYSTEM: the answer has another form");
        match rows.as_slice() {
            [row] => match row.as_slice() {
                [Some(system_id), Some(timeline), Some(flush), Some(database)] => {
                    Ok(SystemIdentity {
                        system_id: system_id.clone(),
                        timeline: timeline.parse().map_err(|_| unexpected())?,
                        flush: flush.parse().map_err(|_| unexpected())?,
                        database: database.clone(),
                    })
                }
                _other => Err(unexpected()),
            },
            _other => Err(unexpected()),
        }
    }

    /// `TIMELINE_HISTORY timeline`: the text of the timeline's history file. None when the server does
    /// not have it; timeline 1 has none anywhere.
    ///
    /// # Errors
    /// Transient when the connection is lost; else by SQLSTATE.
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<Option<String>> {
        if timeline <= 1 {
            return Ok(None);
        }
        let command = format!("TIMELINE_HISTORY {timeline}");
        let answer = tokio::time::timeout(COMMAND_MAX, self.answer(&command))
            .await
            .map_err(|_| unanswered(&command))??;
        // filename, content
        match answer {
            Ok(rows) => match rows
                .into_iter()
                .next()
                .and_then(|row| row.into_iter().nth(1))
            {
                Some(Some(content)) => Ok(Some(content)),
                Some(None) | None => Err(Error::transient(
                    "TIMELINE_HISTORY: the answer has another form",
                )),
            },
            // undefined_file
            Err(error) if error.code == "58P01" => Ok(None),
            Err(error) => Err(error.classified(command_name(&command))),
        }
    }

    /// `SHOW name`.
    ///
    /// # Errors
    /// Halt when there is no such setting; transient when the connection is lost.
    pub async fn show(&mut self, name: &str) -> Result<String> {
        let quoted: Vec<String> = name.split('.').map(quote_identifier).collect();
        let rows = self.bounded(&format!("SHOW {}", quoted.join("."))).await?;
        match rows.into_iter().flatten().next().flatten() {
            Some(value) => Ok(value),
            None => Err(Error::transient(format!("SHOW {name}: no answer"))),
        }
    }

    /// A setting as the server reported it by itself (`server_encoding`, `in_hot_standby`, …).
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server's major version.
    pub fn server_major(&self) -> u32 {
        self.server_major
    }

    /// `CREATE_REPLICATION_SLOT name [TEMPORARY] LOGICAL pgoutput (SNAPSHOT 'export' | 'nothing')`,
    /// in the syntax of the server's version. Waits for transactions open now, however long they take;
    /// drop the future to give up (and then the connection).
    ///
    /// # Errors
    /// By SQLSTATE; transient when the connection is lost.
    pub async fn create_slot(
        &mut self,
        name: &str,
        temporary: bool,
        export_snapshot: bool,
    ) -> Result<CreatedSlot> {
        let command = create_slot_command(name, temporary, export_snapshot, self.server_major);
        let rows = self.answer(&command).await?.map_err(|error| {
            let classified = error.classified(command_name(&command));
            match error.code.as_str() {
                // configuration_limit_exceeded
                "53400" => classified.advising(
                    "raise max_replication_slots on the leader, or drop a slot that nobody needs \
                     (pg_replication_slots shows them)",
                ),
                _other => classified,
            }
        })?;
        let unexpected =
            || Error::transient("CREATE_REPLICATION_SLOT: the answer has another form");
        // slot_name, consistent_point, snapshot_name, output_plugin
        match rows.as_slice() {
            [row] => match row.as_slice() {
                [_, Some(point), snapshot, _] => Ok(CreatedSlot {
                    consistent_point: point.parse().map_err(|_| unexpected())?,
                    snapshot: snapshot.clone(),
                }),
                _other => Err(unexpected()),
            },
            _other => Err(unexpected()),
        }
    }

    /// A simple query or replication command: rows of text.
    ///
    /// # Errors
    /// By SQLSTATE; transient when the connection is lost.
    pub async fn query(&mut self, command: &str) -> Result<Rows> {
        self.answer(command)
            .await?
            .map_err(|error| error.classified(command_name(command)))
    }

    /// The rows, or what the server says against it.
    async fn answer(&mut self, command: &str) -> Result<std::result::Result<Rows, ServerError>> {
        self.send_command(command).await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            match self.wire.message().await? {
                Message::DataRow(body) => rows.push(text_row(&body)?),
                Message::ErrorResponse(body) => failure = Some(ServerError::read(body.fields())?),
                Message::ReadyForQuery(_) => break,
                Message::ParameterStatus(body) => remember(&mut self.parameters, &body)?,
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::EmptyQueryResponse
                | Message::NoticeResponse(_)
                | Message::NotificationResponse(_) => {}
                _other => return Err(unexpected_answer(command)),
            }
        }
        self.in_command = false;
        match failure {
            None => Ok(Ok(rows)),
            Some(error) => Ok(Err(error)),
        }
    }

    /// `START_REPLICATION SLOT slot LOGICAL at (proto_version '1', publication_names …, messages 'true')`.
    ///
    /// # Errors
    /// Halt when the slot does not exist or has been invalidated; else by SQLSTATE.
    pub async fn start_replication(
        mut self,
        slot: &str,
        at: Lsn,
        publications: &[String],
    ) -> Result<StartOutcome> {
        let command = start_replication_command(slot, at, publications);
        let started = tokio::time::timeout(COMMAND_MAX, self.start(&command, slot));
        match started.await.map_err(|_| unanswered(&command))?? {
            true => Ok(StartOutcome::Started(ReplicationStream::new(
                self.wire,
                self.idle_timeout,
                slot,
            ))),
            false => {
                self.wire.terminate(FAREWELL_MAX).await;
                Ok(StartOutcome::Busy)
            }
        }
    }

    /// Closes the connection in order.
    pub async fn close(self) {
        self.wire.terminate(FAREWELL_MAX).await;
    }

    /// Whether the leader streams (`true`) or the slot is busy.
    async fn start(&mut self, command: &str, slot: &str) -> Result<bool> {
        self.send_command(command).await?;
        loop {
            let (tag, total) = self.wire.peek().await?;
            if tag == COPY_BOTH_RESPONSE_TAG {
                drop(self.wire.take(total));
                return Ok(true);
            }
            match self.wire.message().await? {
                Message::ErrorResponse(body) => {
                    let error = ServerError::read(body.fields())?;
                    return if error.code == "55006" {
                        Ok(false)
                    } else {
                        Err(stream_refused(&error, slot, "START_REPLICATION"))
                    };
                }
                Message::NoticeResponse(body) => notice(&body)?,
                Message::ParameterStatus(body) => remember(&mut self.parameters, &body)?,
                _other => return Err(unexpected_answer(command)),
            }
        }
    }

    async fn bounded(&mut self, command: &str) -> Result<Rows> {
        tokio::time::timeout(COMMAND_MAX, self.query(command))
            .await
            .map_err(|_| unanswered(command))?
    }

    async fn send_command(&mut self, command: &str) -> Result<()> {
        if self.in_command {
            return Err(Error::transient(
                "the replication connection was given up in the middle of a command",
            ));
        }
        self.in_command = true;
        self.wire
            .queue(|buffer| frontend::query(command, buffer))
            .map_err(|cause| {
                Error::halt(
                    format!("{}: a name holds a zero byte", command_name(command)),
                    "correct the slot's and publication's names in the source's settings",
                )
                .caused_by(cause)
            })?;
        self.wire.flush().await
    }
}

fn publication_gone(what: String) -> Error {
    Error::halt(
        what,
        format!("create the publication again if manage_publication is false; then {NEW_PIPELINE}"),
    )
}

/// Judges a notice. Postgres 18 skips a publication that does not exist at the place in the WAL that
/// is being decoded, and says so only here: its tables' changes would be lost.
///
/// # Errors
/// Halt for SQLSTATE 55000.
pub(super) fn notice(body: &NoticeResponseBody) -> Result<()> {
    let notice = ServerError::read(body.fields())?;
    if notice.code == "55000" {
        let what = format!(
            "the leader leaves changes out of the stream: {}",
            notice.describe()
        );
        return Err(publication_gone(what));
    }
    tracing::debug!(sqlstate = notice.code, "notice from the leader");
    Ok(())
}

/// Classifies an error of a stream or of its start; a slot or publication that is gone has a remedy
/// of its own.
pub(super) fn stream_refused(error: &ServerError, slot: &str, doing: &str) -> Error {
    let text = error.message().unwrap_or_default();
    // 14 to 16: "cannot read from logical replication slot …" and "can no longer get changes from
    // replication slot …"; 18: "can no longer access replication slot …".
    let invalidated = ["can no longer", "cannot read from logical", "invalidated"]
        .iter()
        .any(|wording| text.contains(wording));
    let what = format!("{doing}: {}", error.describe());
    match error.code.as_str() {
        "42704" if text.contains("replication slot") => Error::halt(what, NEW_PIPELINE),
        "42704" if text.contains("publication") => publication_gone(what),
        "55000" if invalidated => Error::halt(
            what,
            format!(
                "raise the limit that invalidated slot {slot} (max_slot_wal_keep_size, \
                 idle_replication_slot_timeout or wal_level); then {NEW_PIPELINE}"
            ),
        ),
        _other => error.classified(doing),
    }
}

fn text_row(body: &DataRowBody) -> Result<Vec<Option<String>>> {
    use fallible_iterator::FallibleIterator;
    body.ranges()
        .map(|range| {
            Ok(range.map(|range| {
                let bytes = body.buffer().get(range).unwrap_or_default();
                String::from_utf8_lossy(bytes).into_owned()
            }))
        })
        .collect()
        .map_err(garbled)
}

fn unanswered(command: &str) -> Error {
    let seconds = COMMAND_MAX.as_secs();
    Error::transient(format!(
        "{}: no answer within {seconds} s",
        command_name(command)
    ))
}

fn unexpected_answer(command: &str) -> Error {
    Error::transient(format!("{}: unexpected answer", command_name(command)))
}

fn garbled(cause: std::io::Error) -> Error {
    Error::transient("the stream is garbled").caused_by(cause)
}
