//! `connectors/*.toml`: the source and the sinks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::checks::{choice, duration, number, optional_duration, optional_size, required, size};
use super::document::{Document, nearest};
use super::values::{is_connector_name, is_slot_name, is_table_pattern, print_size};
use super::{
    PostgresSettings, Secret, Settings, SourceSettings, TlsMode, TlsSettings, clickhouse, defaults,
    mysql, raw, sink,
};
use crate::error::{Error, Result};
use crate::postgres::{UrlTls, split_tls};

const KINDS: [&str; 5] = [
    "postgres-source",
    "postgres",
    "clickhouse",
    "mysql",
    "stdout",
];

const URL_FORM: &str = "write postgres://user:password@host:5432/database, with @ : / % and # in a password percent-encoded, or host=… port=… user=… password=… dbname=…";

/// Names and paths of the connectors' files, by name.
pub(super) fn connector_files(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let unreadable = |error: std::io::Error| {
        Error::halt(
            format!("{}: cannot be read: {error}", directory.display()),
            "create the directory with one TOML file a connector, or name it with --connectors",
        )
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_toml = path.extension().is_some_and(|e| e == "toml");
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if !is_toml || stem.starts_with('.') || path.is_dir() {
            continue;
        }
        if !is_connector_name(&stem) {
            return Err(Error::halt(
                format!(
                    "{}: the file's name cannot name a connector",
                    path.display()
                ),
                "use lower-case letters, digits, underscores and hyphens before .toml: it is the connector's name in logs, metrics and checkpoints",
            ));
        }
        files.push((stem.into_owned(), path));
    }
    files.sort();
    Ok(files)
}

pub(super) fn connector(settings: &mut Settings, name: &str, path: &Path) -> Result<()> {
    let document = Document::read(path)?;
    let Some(kind) = document.top_level_string("kind")? else {
        return Err(document.error(
            "",
            "kind is missing, or not a text",
            format!("add kind = \"…\", one of: {}", KINDS.join(", ")),
        ));
    };
    match kind.as_str() {
        "postgres-source" => {
            if let Some(first) = &settings.source {
                return Err(document.error(
                    "kind",
                    format!("a second source; {}.toml is one already", first.name),
                    "a pipeline has one leader: remove one of the two, or give it a pipeline of its own",
                ));
            }
            settings.source = Some(source(&document, name, settings)?);
        }
        "postgres" => settings.sinks.push(sink::postgres(&document, name)?),
        "clickhouse" => settings.sinks.push(clickhouse::sink(&document, name)?),
        "mysql" => settings.sinks.push(mysql::sink(&document, name)?),
        "stdout" => settings.sinks.push(sink::stdout(&document, name)?),
        _other => {
            let near = nearest(&kind, &KINDS).unwrap_or("postgres");
            return Err(document.error(
                "kind",
                format!("`{kind}` is not a kind of connector"),
                format!("did you mean \"{near}\"? Known: {}", KINDS.join(", ")),
            ));
        }
    }
    Ok(())
}

fn source(document: &Document, name: &str, main: &Settings) -> Result<SourceSettings> {
    let raw: raw::Source = document.parse()?;
    let own_name = format!("walferry_{}", main.pipeline);
    let slot = raw.slot.unwrap_or_else(|| own_name.clone());
    if !is_slot_name(&slot) {
        return Err(document.error(
            "slot",
            format!(
                "{} cannot name a replication slot",
                document.written("slot")
            ),
            "use 1 to 63 lower-case letters, digits and underscores",
        ));
    }
    let publication = raw.publication.unwrap_or(own_name);
    if publication.is_empty() || publication.len() > 63 || publication.contains('\0') {
        return Err(document.error(
            "publication",
            format!(
                "{} cannot name a publication",
                document.written("publication")
            ),
            "use 1 to 63 bytes",
        ));
    }
    let (include, exclude) = tables(document, raw.tables)?;
    let second = Duration::from_secs(1);
    let batch_max_bytes = size(
        document,
        "batch_max_bytes",
        raw.batch_max_bytes,
        defaults::SOURCE_BATCH,
    )?;
    let queue_max_bytes = size(
        document,
        "queue_max_bytes",
        raw.queue_max_bytes,
        defaults::QUEUE,
    )?;
    if queue_max_bytes < batch_max_bytes {
        return Err(document.error(
            "queue_max_bytes",
            "is smaller than batch_max_bytes: a batch would not fit into the queue",
            format!(
                "write at least \"{}\"",
                print_size(batch_max_bytes as u64).replace(' ', "")
            ),
        ));
    }
    let source = SourceSettings {
        name: name.to_owned(),
        postgres: postgres(document, raw.url, raw.tls, raw.connect_timeout)?,
        slot,
        publication,
        manage_publication: raw.manage_publication.unwrap_or(true),
        event_trigger: raw.event_trigger.unwrap_or(false),
        include,
        exclude,
        partitions: number(
            document,
            "partitions",
            raw.partitions,
            defaults::PARTITIONS,
            1,
            1000,
        )?,
        copy: raw.copy.enabled.unwrap_or(true),
        copy_readers: number(
            document,
            "copy.readers",
            raw.copy.readers,
            defaults::COPY_READERS,
            1,
            32,
        )?,
        copy_group_max_bytes: size(
            document,
            "copy.group_max_bytes",
            raw.copy.group_max_bytes,
            defaults::COPY_GROUP,
        )?,
        copy_every: optional_duration(
            document,
            "copy.every",
            raw.copy.every,
            (second, 365 * 86_400 * second),
        )?,
        copy_max_bytes_per_second: optional_size(
            document,
            "copy.max_bytes_per_second",
            raw.copy.max_bytes_per_second,
        )?,
        wal_sender_timeout: duration(
            document,
            "wal_sender_timeout",
            raw.wal_sender_timeout,
            defaults::WAL_SENDER_TIMEOUT,
            (second, 3600 * second),
        )?,
        epoch_max: duration(
            document,
            "epoch_max",
            raw.epoch_max,
            defaults::EPOCH_MAX,
            (second, 365 * 86_400 * second),
        )?,
        batch_max_bytes,
        queue_max_bytes,
    };
    check_schedule(document, &source, main.kafka.retention)?;
    Ok(source)
}

/// Copies are made where they are wanted, and one is usable at any time.
fn check_schedule(document: &Document, source: &SourceSettings, retention: Duration) -> Result<()> {
    let Some(every) = source.copy_every else {
        return Ok(());
    };
    if !source.copy {
        return Err(document.error(
            "copy.every",
            "is set, but copy.enabled = false: this source makes no copies",
            "remove one of the two",
        ));
    }
    if source.copies_last(Some(retention)) {
        return Ok(());
    }
    Err(document.error(
        "copy.every",
        format!(
            "{} is more than half of kafka.retention ({}): a copy could expire before the next one is complete",
            humantime::format_duration(every),
            humantime::format_duration(retention)
        ),
        format!(
            "write at most \"{}\", or raise kafka.retention in walferry.toml",
            humantime::format_duration(retention / 2)
        ),
    ))
}

pub(super) fn postgres(
    document: &Document,
    url: Option<String>,
    tls: raw::Tls,
    connect_timeout: Option<raw::Span>,
) -> Result<PostgresSettings> {
    let url = required(
        document,
        "url",
        url,
        "url = \"postgres://user:${env:PASSWORD}@host:5432/database\"",
    )?;
    // Its errors name keys, never the string.
    let (url, of_url) = split_tls(&url).map_err(|error| {
        let remedy = error.remedy().unwrap_or(URL_FORM).to_owned();
        document.error("url", error.what(), remedy)
    })?;
    // The parser's own error could quote a piece of a password, so it is not shown.
    let Ok(parsed) = url.parse::<tokio_postgres::Config>() else {
        return Err(document.error("url", "is not a Postgres connection string", URL_FORM));
    };
    if parsed.get_hosts().is_empty() && parsed.get_hostaddrs().is_empty() {
        return Err(document.error("url", "names no host", URL_FORM));
    }
    if parsed.get_user().is_none() {
        return Err(document.error("url", "names no user", URL_FORM));
    }
    Ok(PostgresSettings {
        url: Secret::new(url),
        tls: self::tls(document, tls, of_url)?,
        connect_timeout: duration(
            document,
            "connect_timeout",
            connect_timeout,
            defaults::CONNECT_TIMEOUT,
            (Duration::from_millis(100), Duration::from_secs(3600)),
        )?,
    })
}

/// TLS may be said in the url, as libpq does, or under `[tls]`; each key in one place only.
pub(super) fn tls(document: &Document, raw: raw::Tls, of_url: UrlTls) -> Result<TlsSettings> {
    let own = [
        (
            "tls.mode",
            "sslmode",
            raw.mode.is_some() && of_url.mode.is_some(),
        ),
        (
            "tls.root_cert",
            "sslrootcert",
            raw.root_cert.is_some() && of_url.root_cert.is_some(),
        ),
        (
            "tls.cert",
            "sslcert",
            raw.cert.is_some() && of_url.cert.is_some(),
        ),
        (
            "tls.key",
            "sslkey",
            raw.key.is_some() && of_url.key.is_some(),
        ),
    ];
    for (key, libpq, twice) in own {
        if twice {
            return Err(document.error(
                key,
                format!("the url says {libpq} too"),
                "leave one of the two",
            ));
        }
    }
    let mode = choice(
        document,
        "tls.mode",
        raw.mode,
        of_url.mode.unwrap_or(TlsMode::Prefer),
        &[
            ("disable", TlsMode::Disable),
            ("prefer", TlsMode::Prefer),
            ("require", TlsMode::Require),
            ("verify-ca", TlsMode::VerifyCa),
            ("verify-full", TlsMode::VerifyFull),
        ],
    )?;
    let cert = raw.cert.map(PathBuf::from).or(of_url.cert);
    let client_key = raw.key.map(PathBuf::from).or(of_url.key);
    if cert.is_some() != client_key.is_some() {
        let (there, missing) = if cert.is_some() {
            ("tls.cert", "tls.key")
        } else {
            ("tls.key", "tls.cert")
        };
        return Err(document.error(
            there,
            format!("stands without {missing}"),
            format!("set {missing} too: a client certificate needs both"),
        ));
    }
    let root_cert = raw.root_cert.map(PathBuf::from).or(of_url.root_cert);
    Ok(TlsSettings {
        mode,
        root_cert: readable(document, "tls.root_cert", root_cert)?,
        cert: readable(document, "tls.cert", cert)?,
        key: readable(document, "tls.key", client_key)?,
    })
}

/// The path, taken from the settings file's directory, once it has been opened for reading.
fn readable(document: &Document, key: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>> {
    let Some(path) = path else {
        return Ok(None);
    };
    let path = document.directory().join(path);
    match std::fs::File::open(&path) {
        Ok(_readable) => Ok(Some(path)),
        Err(error) => Err(document.error(
            key,
            format!("the file {} cannot be read: {error}", path.display()),
            "name a PEM file that the user walferry runs as can read; a relative path starts at this settings file",
        )),
    }
}

/// `[tables]` of a connector: what it takes, and what of that it does not.
pub(super) fn tables(document: &Document, raw: raw::Tables) -> Result<(Vec<String>, Vec<String>)> {
    let include = raw.include.unwrap_or_else(|| vec!["*.*".to_owned()]);
    let exclude = raw.exclude.unwrap_or_default();
    if include.is_empty() {
        return Err(document.error(
            "tables.include",
            "selects no table",
            "leave it out to take all tables, or name some: include = [\"public.*\"]",
        ));
    }
    for (key, patterns) in [("tables.include", &include), ("tables.exclude", &exclude)] {
        for (index, pattern) in patterns.iter().enumerate() {
            if !is_table_pattern(pattern) {
                return Err(document.error(
                    key,
                    format!(
                        "{} is not a table pattern",
                        document.written_item(key, index)
                    ),
                    "write schema.table without quotes, with * for any characters and ? for one, such as \"public.*\"",
                ));
            }
        }
    }
    Ok((include, exclude))
}
