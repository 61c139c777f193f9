//! The files as they are written. Every field is optional here; what is needed, what it may be and
//! what it is otherwise is decided in `load`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

/// `walferry.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Main {
    pub(super) pipeline: Option<String>,
    #[serde(default)]
    pub(super) kafka: Kafka,
    #[serde(default)]
    pub(super) http: Http,
    #[serde(default)]
    pub(super) log: Log,
    #[serde(default)]
    pub(super) otlp: Otlp,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kafka {
    pub(super) brokers: Option<String>,
    pub(super) durability: Option<String>,
    pub(super) replication_factor: Option<u32>,
    pub(super) retention: Option<Span>,
    #[serde(default)]
    pub(super) properties: toml::Table,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Http {
    pub(super) listen: Option<String>,
    pub(super) metrics_listen: Option<String>,
    pub(super) token: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) level: Option<String>,
    pub(super) format: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Otlp {
    pub(super) endpoint: Option<String>,
}

/// `kind = "postgres-source"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    #[serde(rename = "kind")]
    pub(super) _kind: String,
    pub(super) url: Option<String>,
    #[serde(default)]
    pub(super) tls: Tls,
    pub(super) connect_timeout: Option<Span>,
    pub(super) slot: Option<String>,
    pub(super) publication: Option<String>,
    pub(super) manage_publication: Option<bool>,
    pub(super) event_trigger: Option<bool>,
    #[serde(default)]
    pub(super) tables: Tables,
    pub(super) partitions: Option<u32>,
    pub(super) wal_sender_timeout: Option<Span>,
    pub(super) epoch_max: Option<Span>,
    pub(super) batch_max_bytes: Option<Size>,
    pub(super) queue_max_bytes: Option<Size>,
    #[serde(default)]
    pub(super) copy: Copy,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Copy {
    pub(super) enabled: Option<bool>,
    pub(super) readers: Option<u32>,
    pub(super) group_max_bytes: Option<Size>,
    pub(super) every: Option<Span>,
    pub(super) max_bytes_per_second: Option<Size>,
}

/// `kind = "postgres"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PostgresSink {
    #[serde(rename = "kind")]
    pub(super) _kind: String,
    pub(super) url: Option<String>,
    #[serde(default)]
    pub(super) tls: Tls,
    pub(super) connect_timeout: Option<Span>,
    pub(super) create_tables: Option<bool>,
    pub(super) schema_changes: Option<String>,
    pub(super) statement_timeout: Option<Span>,
    pub(super) indexes: Option<String>,
    pub(super) build_indexes: Option<String>,
    pub(super) verify_every: Option<Span>,
    pub(super) verify_max_rows_per_second: Option<u32>,
    #[serde(default)]
    pub(super) tables: Tables,
    pub(super) batch_max_bytes: Option<Size>,
    pub(super) fetch_max_bytes: Option<Size>,
}

/// `kind = "clickhouse"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClickHouseSink {
    #[serde(rename = "kind")]
    pub(super) _kind: String,
    pub(super) url: Option<String>,
    #[serde(default)]
    pub(super) tls: Tls,
    pub(super) connect_timeout: Option<Span>,
    pub(super) statement_timeout: Option<Span>,
    pub(super) mode: Option<String>,
    pub(super) create_tables: Option<bool>,
    pub(super) schema_changes: Option<String>,
    #[serde(default)]
    pub(super) databases: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) columns: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) layout: BTreeMap<String, Layout>,
    pub(super) verify_every: Option<Span>,
    #[serde(default)]
    pub(super) tables: Tables,
    pub(super) batch_max_bytes: Option<Size>,
    pub(super) batch_max_age: Option<Span>,
    pub(super) fetch_max_bytes: Option<Size>,
}

/// `[layout."schema.table"]` of a ClickHouse sink.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layout {
    pub(super) order_by: Option<Vec<String>>,
    pub(super) partition_by: Option<String>,
}

/// `kind = "mysql"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MySqlSink {
    #[serde(rename = "kind")]
    pub(super) _kind: String,
    pub(super) url: Option<String>,
    #[serde(default)]
    pub(super) tls: Tls,
    pub(super) connect_timeout: Option<Span>,
    pub(super) statement_timeout: Option<Span>,
    pub(super) create_tables: Option<bool>,
    pub(super) schema_changes: Option<String>,
    #[serde(default)]
    pub(super) databases: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) columns: BTreeMap<String, String>,
    pub(super) verify_every: Option<Span>,
    #[serde(default)]
    pub(super) tables: Tables,
    pub(super) batch_max_bytes: Option<Size>,
    pub(super) fetch_max_bytes: Option<Size>,
}

/// `kind = "stdout"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StdoutSink {
    #[serde(rename = "kind")]
    pub(super) _kind: String,
    pub(super) from: Option<String>,
    #[serde(default)]
    pub(super) tables: Tables,
    pub(super) batch_max_bytes: Option<Size>,
    pub(super) fetch_max_bytes: Option<Size>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) mode: Option<String>,
    pub(super) root_cert: Option<String>,
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tables {
    pub(super) include: Option<Vec<String>>,
    pub(super) exclude: Option<Vec<String>>,
}

/// A size with its unit, in quotes.
pub(super) struct Size(pub(super) String);

/// A duration with its unit, in quotes.
pub(super) struct Span(pub(super) String);

/// A string whose wrong kind is answered with what would be right.
struct QuotedText(&'static str);

impl Visitor<'_> for QuotedText {
    type Value = String;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a size in double quotes with its unit such as \"16MiB\"";
        deserializer.deserialize_str(QuotedText(expected)).map(Size)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a duration in double quotes with its unit such as \"30s\"";
        deserializer.deserialize_str(QuotedText(expected)).map(Span)
    }
}

/// Names of a section's keys, as serde knows them: the docs are checked against these.
pub(super) fn keys<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // The only thing this deserializer does is to note the field names and fail.
    let _ = T::deserialize(FieldNames(&mut fields));
    fields
}

struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("only names are asked for"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("only names are asked for"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
