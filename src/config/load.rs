//! From files to [`Settings`]: what is needed, what is allowed, and what holds otherwise.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::checks::{choice, duration, number, required};
use super::connector::{connector, connector_files};
use super::document::Document;
use super::values::is_pipeline_name;
use super::{
    Durability, HttpSettings, KafkaSettings, LogFormat, LogSettings, OtlpSettings, Secret,
    Settings, StoreSettings, defaults, raw,
};
use crate::error::{Error, Result};

/// Name of the settings file in the configuration directory.
pub const MAIN_FILE: &str = "walferry.toml";

/// Properties of librdkafka that walferry sets itself, with the reason.
const OWN_PROPERTIES: [(&str, &str); 28] = [
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
    ("linger.ms", "walferry goes by the load"),
    ("queue.buffering.max.ms", "walferry goes by the load"),
    ("batch.size", "walferry bounds what it hands over at a time"),
    (
        "batch.num.messages",
        "walferry bounds what it hands over at a time",
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
        otlp: otlp(&document, main.otlp)?,
        pipeline,
        source: None,
        sinks: Vec::new(),
        known_sinks: Vec::new(),
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
    settings.known_sinks.clone_from(&settings.sinks);
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
    let metrics_listen = raw.metrics_listen;
    let metrics_listen = metrics_listen.map(|text| address(document, "http.metrics_listen", &text));
    let token = raw.token.map(|token| {
        // It goes into a header as it is.
        let fits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Secret::new(token)).ok_or_else(|| {
            document.error(
                "http.token",
                "it is empty or has characters that a header cannot carry",
                "use letters, digits and punctuation without spaces, such as the output of openssl rand -hex 32",
            )
        })
    });
    Ok(HttpSettings {
        listen: address(document, "http.listen", &listen)?,
        metrics_listen: metrics_listen.transpose()?,
        token: token.transpose()?,
    })
}

fn otlp(document: &Document, raw: raw::Otlp) -> Result<Option<OtlpSettings>> {
    raw.endpoint
        .map(|text| endpoint(document, &text))
        .transpose()
}

fn endpoint(document: &Document, text: &str) -> Result<OtlpSettings> {
    let wrong = || {
        document.error(
            "otlp.endpoint",
            format!("{} is not an address of a collector", document.written("otlp.endpoint")),
            "write http://host:port, such as \"http://127.0.0.1:4318\"; to one that wants TLS let a collector on this machine pass spans on",
        )
    };
    let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
    let (address, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let fits = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || port.parse::<u16>().is_err() || !fits(rest) {
        return Err(wrong());
    }
    let path = if path.len() > 1 { path } else { "/v1/traces" };
    Ok(OtlpSettings {
        address: address.to_owned(),
        path: path.to_owned(),
    })
}

fn address(document: &Document, key: &str, text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        document.error(
            key,
            format!("{} is not an address to listen on", document.written(key)),
            "write an IP address and a port, such as \"127.0.0.1:8642\" or \"0.0.0.0:8642\"",
        )
    })
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

/// Two sinks of a pipeline in one database would both write the same tables.
fn one_follower_one_sink(settings: &Settings, directory: &Path) -> Result<()> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for sink in &settings.sinks {
        let url = match &sink.store {
            StoreSettings::Postgres(store) => &store.postgres.url,
            StoreSettings::ClickHouse(store) => &store.server.url.written,
            StoreSettings::MySql(store) => &store.server.url.written,
            StoreSettings::Stdout(_) => continue,
        };
        if let Some(first) = seen.insert(url.reveal(), &sink.name) {
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
