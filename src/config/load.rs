//! From files to [`Settings`]: what is needed, what is allowed, and what holds otherwise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Document, nearest};
use super::values::{
    is_connector_name, is_pipeline_name, is_slot_name, is_table_pattern, parse_duration,
    parse_size, print_size,
};
use super::{
    Durability, HttpSettings, KafkaSettings, LogFormat, LogSettings, PostgresSettings,
    PostgresSinkSettings, Secret, Settings, SinkSettings, SourceSettings, StdoutFrom,
    StdoutSinkSettings, StoreSettings, TlsMode, TlsSettings, defaults, raw,
};
use crate::error::{Error, Result};

/// Name of the settings file in the configuration directory.
pub const MAIN_FILE: &str = "walferry.toml";

const KINDS: [&str; 3] = ["postgres-source", "postgres", "stdout"];

/// Properties of librdkafka that walferry sets itself, with the reason.
const OWN_PROPERTIES: [(&str, &str); 24] = [
    ("bootstrap.servers", "it is kafka.brokers"),
    ("metadata.broker.list", "it is kafka.brokers"),
    ("client.id", "walferry names its clients itself"),
    ("acks", "only records on all in-sync replicas count"),
    (
        "request.required.acks",
        "only records on all in-sync replicas count",
    ),
    ("enable.idempotence", "order within a partition needs it"),
    (
        "enable.gapless.guarantee",
        "it ends the producer when it need not",
    ),
    ("message.timeout.ms", "records are never given up"),
    ("delivery.timeout.ms", "records are never given up"),
    ("message.send.max.retries", "records are never given up"),
    ("retries", "records are never given up"),
    ("max.in.flight", "the idempotent producer bounds it"),
    (
        "max.in.flight.requests.per.connection",
        "the idempotent producer bounds it",
    ),
    (
        "transactional.id",
        "the commit log takes the place of transactions",
    ),
    ("partitioner", "walferry chooses partitions itself"),
    ("group.id", "walferry keeps offsets in its checkpoints"),
    (
        "group.instance.id",
        "walferry keeps offsets in its checkpoints",
    ),
    (
        "enable.auto.commit",
        "walferry keeps offsets in its checkpoints",
    ),
    (
        "enable.auto.offset.store",
        "walferry keeps offsets in its checkpoints",
    ),
    (
        "auto.offset.reset",
        "a lost offset must halt a reader, not move it",
    ),
    ("isolation.level", "the commit log decides what counts"),
    ("enable.partition.eof", "walferry reads watermarks itself"),
    (
        "allow.auto.create.topics",
        "topics are made with explicit settings only",
    ),
    ("dr_msg_cb", "callbacks cannot be set"),
];

/// Reads `walferry.toml` and every connector, and checks every value. Opens no connection.
///
/// # Errors
/// The first thing that is wrong, as a halt with file, line, key and what would be right.
pub fn load(config_dir: &Path, connectors_dir: &Path) -> Result<Settings> {
    let document = Document::read(&config_dir.join(MAIN_FILE))?;
    let main: raw::Main = document.parse()?;
    let pipeline = pipeline(&document, main.pipeline)?;
    let mut settings = Settings {
        kafka: kafka(&document, main.kafka)?,
        http: http(&document, main.http)?,
        log: log(&document, main.log)?,
        pipeline,
        source: None,
        sinks: Vec::new(),
    };
    for (name, path) in connector_files(connectors_dir)? {
        connector(&mut settings, &name, &path)?;
    }
    if settings.source.is_none() && settings.sinks.is_empty() {
        return Err(Error::halt(
            format!("{}: there is no connector", connectors_dir.display()),
            "add one TOML file a connector, such as leader.toml with kind = \"postgres-source\"",
        ));
    }
    one_follower_one_sink(&settings, connectors_dir)?;
    Ok(settings)
}

fn pipeline(document: &Document, name: Option<String>) -> Result<String> {
    let name = required(document, "pipeline", name, "pipeline = \"shop\"")?;
    if is_pipeline_name(&name) {
        return Ok(name);
    }
    Err(document.error(
        "pipeline",
        format!("{} cannot name a pipeline", document.written("pipeline")),
        "use 1 to 40 lower-case letters, digits and underscores: it begins the names of topics, slot and publication",
    ))
}

fn kafka(document: &Document, raw: raw::Kafka) -> Result<KafkaSettings> {
    let brokers = required(
        document,
        "kafka.brokers",
        raw.brokers,
        "brokers = \"kafka1:9092,kafka2:9092\" under [kafka]",
    )?;
    let well_formed = brokers.split(',').all(|broker| {
        broker
            .trim()
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    });
    if !well_formed {
        return Err(document.error(
            "kafka.brokers",
            format!(
                "{} is not a list of brokers",
                document.written("kafka.brokers")
            ),
            "write host:port, several with commas between",
        ));
    }
    let durability = choice(
        document,
        "kafka.durability",
        raw.durability,
        Durability::Replicated,
        &[
            ("replicated", Durability::Replicated),
            ("single-broker", Durability::SingleBroker),
        ],
    )?;
    let key = "kafka.replication_factor";
    let (least, default) = match durability {
        Durability::Replicated => (3, 3),
        Durability::SingleBroker => (1, 1),
    };
    let replication_factor = number(document, key, raw.replication_factor, default, least, 100)?;
    Ok(KafkaSettings {
        brokers,
        durability,
        replication_factor: replication_factor as i32,
        retention: duration(
            document,
            "kafka.retention",
            raw.retention,
            defaults::RETENTION,
            (
                Duration::from_secs(1),
                Duration::from_secs(100 * 365 * 86_400),
            ),
        )?,
        properties: properties(document, &raw.properties)?,
    })
}

fn properties(document: &Document, table: &toml::Table) -> Result<BTreeMap<String, Secret>> {
    let mut flat = BTreeMap::new();
    flatten(document, "", table, &mut flat)?;
    for (name, reason) in OWN_PROPERTIES {
        if flat.contains_key(name) {
            return Err(document.error(
                &format!("kafka.properties.{name}"),
                format!("walferry sets this itself: {reason}"),
                "remove it",
            ));
        }
    }
    Ok(flat)
}

/// `security.protocol = "SSL"` is a table in a table to TOML and one name to librdkafka.
fn flatten(
    document: &Document,
    prefix: &str,
    table: &toml::Table,
    flat: &mut BTreeMap<String, Secret>,
) -> Result<()> {
    for (name, value) in table {
        let name = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(yes) => yes.to_string(),
            toml::Value::Table(inner) => {
                flatten(document, &name, inner, flat)?;
                continue;
            }
            toml::Value::Array(_) | toml::Value::Datetime(_) => {
                return Err(document.error(
                    &format!("kafka.properties.{name}"),
                    "has a value of the wrong kind",
                    "write a text, a number, true or false",
                ));
            }
        };
        flat.insert(name, Secret::new(text));
    }
    Ok(())
}

fn http(document: &Document, raw: raw::Http) -> Result<HttpSettings> {
    let listen = raw.listen.unwrap_or_else(|| defaults::LISTEN.to_owned());
    let listen = listen.parse().map_err(|_| {
        document.error(
            "http.listen",
            format!(
                "{} is not an address to listen on",
                document.written("http.listen")
            ),
            "write an IP address and a port, such as \"127.0.0.1:8642\" or \"0.0.0.0:8642\"",
        )
    })?;
    Ok(HttpSettings { listen })
}

fn log(document: &Document, raw: raw::Log) -> Result<LogSettings> {
    let level = raw.level.unwrap_or_else(|| defaults::LOG_LEVEL.to_owned());
    if tracing_subscriber::EnvFilter::try_new(&level).is_err() {
        return Err(document.error(
            "log.level",
            format!("{} is not a log filter", document.written("log.level")),
            "write error, warn, info, debug or trace, or a filter such as \"info,walferry=debug\"",
        ));
    }
    let format = choice(
        document,
        "log.format",
        raw.format,
        LogFormat::Auto,
        &[
            ("auto", LogFormat::Auto),
            ("human", LogFormat::Human),
            ("json", LogFormat::Json),
        ],
    )?;
    Ok(LogSettings { level, format })
}

/// Names and paths of the connectors' files, by name.
fn connector_files(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
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

fn connector(settings: &mut Settings, name: &str, path: &Path) -> Result<()> {
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
            settings.source = Some(source(&document, name, &settings.pipeline)?);
        }
        "postgres" => settings.sinks.push(postgres_sink(&document, name)?),
        "stdout" => settings.sinks.push(stdout_sink(&document, name)?),
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

fn source(document: &Document, name: &str, pipeline: &str) -> Result<SourceSettings> {
    let raw: raw::Source = document.parse()?;
    let own_name = format!("walferry_{pipeline}");
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
    Ok(SourceSettings {
        name: name.to_owned(),
        postgres: postgres(document, raw.url, raw.tls, raw.connect_timeout)?,
        slot,
        publication,
        manage_publication: raw.manage_publication.unwrap_or(true),
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
        wal_sender_timeout: duration(
            document,
            "wal_sender_timeout",
            raw.wal_sender_timeout,
            defaults::WAL_SENDER_TIMEOUT,
            (second, 3600 * second),
        )?,
        batch_max_bytes,
        queue_max_bytes,
    })
}

fn postgres_sink(document: &Document, name: &str) -> Result<SinkSettings> {
    let raw: raw::PostgresSink = document.parse()?;
    let (include, exclude) = tables(document, raw.tables)?;
    let statement_timeout = duration(
        document,
        "statement_timeout",
        raw.statement_timeout,
        defaults::STATEMENT_TIMEOUT,
        (Duration::from_secs(1), Duration::from_secs(24 * 3600)),
    )?;
    let store = PostgresSinkSettings {
        postgres: postgres(document, raw.url, raw.tls, raw.connect_timeout)?,
        create_tables: raw.create_tables.unwrap_or(true),
        statement_timeout,
    };
    Ok(SinkSettings {
        name: name.to_owned(),
        store: StoreSettings::Postgres(store),
        include,
        exclude,
        batch_max_bytes: size(
            document,
            "batch_max_bytes",
            raw.batch_max_bytes,
            defaults::SINK_BATCH,
        )?,
        fetch_max_bytes: size(
            document,
            "fetch_max_bytes",
            raw.fetch_max_bytes,
            defaults::FETCH,
        )?,
    })
}

fn stdout_sink(document: &Document, name: &str) -> Result<SinkSettings> {
    let raw: raw::StdoutSink = document.parse()?;
    let (include, exclude) = tables(document, raw.tables)?;
    let from = choice(
        document,
        "from",
        raw.from,
        StdoutFrom::Now,
        &[("now", StdoutFrom::Now), ("earliest", StdoutFrom::Earliest)],
    )?;
    Ok(SinkSettings {
        name: name.to_owned(),
        store: StoreSettings::Stdout(StdoutSinkSettings { from }),
        include,
        exclude,
        batch_max_bytes: size(
            document,
            "batch_max_bytes",
            raw.batch_max_bytes,
            defaults::SINK_BATCH,
        )?,
        fetch_max_bytes: size(
            document,
            "fetch_max_bytes",
            raw.fetch_max_bytes,
            defaults::FETCH,
        )?,
    })
}

fn postgres(
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
    // The parser's own error could quote a piece of a password, so it is not shown.
    let parsed = url.parse::<tokio_postgres::Config>().ok();
    if !parsed.is_some_and(|config| !config.get_hosts().is_empty()) {
        return Err(document.error(
            "url",
            "is not a Postgres connection string",
            "write postgres://user:password@host:5432/database, with @ : / % and # in a password percent-encoded, or host=… port=… user=… dbname=…",
        ));
    }
    Ok(PostgresSettings {
        url: Secret::new(url),
        tls: self::tls(document, tls)?,
        connect_timeout: duration(
            document,
            "connect_timeout",
            connect_timeout,
            defaults::CONNECT_TIMEOUT,
            (Duration::from_millis(100), Duration::from_secs(3600)),
        )?,
    })
}

fn tls(document: &Document, raw: raw::Tls) -> Result<TlsSettings> {
    let mode = choice(
        document,
        "tls.mode",
        raw.mode,
        TlsMode::Prefer,
        &[
            ("disable", TlsMode::Disable),
            ("prefer", TlsMode::Prefer),
            ("require", TlsMode::Require),
            ("verify-ca", TlsMode::VerifyCa),
            ("verify-full", TlsMode::VerifyFull),
        ],
    )?;
    let file = |key: &str, path: Option<String>| match path {
        None => Ok(None),
        Some(path) => {
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
    };
    if raw.cert.is_some() != raw.key.is_some() {
        let (there, missing) = if raw.cert.is_some() {
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
    Ok(TlsSettings {
        mode,
        root_cert: file("tls.root_cert", raw.root_cert)?,
        cert: file("tls.cert", raw.cert)?,
        key: file("tls.key", raw.key)?,
    })
}

fn tables(document: &Document, raw: raw::Tables) -> Result<(Vec<String>, Vec<String>)> {
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

/// Two sinks of a pipeline in one database would both write the same tables.
fn one_follower_one_sink(settings: &Settings, directory: &Path) -> Result<()> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for sink in &settings.sinks {
        let StoreSettings::Postgres(store) = &sink.store else {
            continue;
        };
        if let Some(first) = seen.insert(store.postgres.url.reveal(), &sink.name) {
            return Err(Error::halt(
                format!(
                    "{}: {}.toml has the same url as {first}.toml",
                    directory.display(),
                    sink.name
                ),
                "one follower has one sink: remove one of the two files, or correct its url",
            ));
        }
    }
    Ok(())
}

fn required(
    document: &Document,
    key: &str,
    value: Option<String>,
    example: &str,
) -> Result<String> {
    match value {
        Some(text) if !text.trim().is_empty() => Ok(text),
        Some(_empty) => Err(document.error(key, "is empty", format!("write {example}"))),
        None => Err(document.error(key, "is missing", format!("add {example}"))),
    }
}

fn choice<T: Copy>(
    document: &Document,
    key: &str,
    text: Option<String>,
    default: T,
    known: &[(&str, T)],
) -> Result<T> {
    let Some(text) = text else {
        return Ok(default);
    };
    if let Some((_, value)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let mut remedy = format!("write one of: {}", names.join(", "));
    if let Some(near) = nearest(&text, &names) {
        remedy = format!("did you mean \"{near}\"? {remedy}");
    }
    Err(document.error(
        key,
        format!("{} is not known here", document.written(key)),
        remedy,
    ))
}

fn number(
    document: &Document,
    key: &str,
    value: Option<u32>,
    default: u32,
    least: u32,
    most: u32,
) -> Result<u32> {
    let value = value.unwrap_or(default);
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    let mut remedy = format!("write a number from {least} to {most}");
    if key == "kafka.replication_factor" && value < least {
        remedy.push_str(
            ", or set kafka.durability = \"single-broker\" if losing that broker may lose data",
        );
    }
    Err(document.error(key, format!("{value} is out of bounds"), remedy))
}

fn size(document: &Document, key: &str, value: Option<raw::Size>, default: usize) -> Result<usize> {
    let Some(raw::Size(text)) = value else {
        return Ok(default);
    };
    let Some(bytes) = parse_size(&text) else {
        return Err(document.error(
            key,
            format!("{} is not a size", document.written(key)),
            "write a whole number with a unit, such as \"16MiB\", \"64kB\" or \"512B\" (units: B, kB, MB, GB, KiB, MiB, GiB)",
        ));
    };
    match usize::try_from(bytes) {
        Ok(bytes) if (defaults::LEAST_SIZE..=defaults::LARGEST_SIZE).contains(&bytes) => Ok(bytes),
        Ok(_) | Err(_) => Err(document.error(
            key,
            format!("{} is out of bounds", document.written(key)),
            "write a size from \"64KiB\" to \"2GiB\"",
        )),
    }
}

fn duration(
    document: &Document,
    key: &str,
    value: Option<raw::Span>,
    default: Duration,
    bounds: (Duration, Duration),
) -> Result<Duration> {
    let Some(raw::Span(text)) = value else {
        return Ok(default);
    };
    let Some(time) = parse_duration(&text) else {
        return Err(document.error(
            key,
            format!("{} is not a duration", document.written(key)),
            "write a number with a unit, such as \"500ms\", \"30s\", \"5min\", \"12h\" or \"7d\"",
        ));
    };
    if (bounds.0..=bounds.1).contains(&time) {
        return Ok(time);
    }
    Err(document.error(
        key,
        format!("{} is out of bounds", document.written(key)),
        format!(
            "write a time from {} to {}",
            humantime::format_duration(bounds.0),
            humantime::format_duration(bounds.1)
        ),
    ))
}
