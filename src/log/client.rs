//! What all of walferry's Kafka clients have in common: librdkafka's settings and its log lines.

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

use crate::config::KafkaSettings;
use crate::error::Error;
use crate::log::reports::Reports;

/// Settings for one client: brokers, walferry's defaults, then `own`, then what the operator passes
/// through (which wins, except over `fixed`: what the protocol depends on).
pub fn client_config(
    kafka: &KafkaSettings,
    own: &[(&str, &str)],
    fixed: &[(&str, &str)],
) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.brokers);
    config.set("client.id", "walferry");
    config.set("topic.metadata.propagation.max.ms", "30000");
    // A dead broker that sends no RST is noticed by time-out; a restarted one is used again soon.
    config.set("socket.keepalive.enable", "true");
    config.set("socket.nagle.disable", "true");
    config.set("socket.timeout.ms", "20000");
    // A new client connects twice, and librdkafka waits half of this in between.
    config.set("reconnect.backoff.ms", "20");
    config.set("reconnect.backoff.max.ms", "2000");
    config.set("log.connection.close", "false");
    for (name, value) in own {
        config.set(*name, *value);
    }
    for (name, value) in &kafka.properties {
        config.set(name, value.reveal());
    }
    for (name, value) in fixed {
        config.set(*name, *value);
    }
    config.set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// What to say when librdkafka refuses to make a client. A property's value is never said: it may be
/// a secret.
pub(crate) fn refused(what: &str, error: KafkaError) -> Error {
    const REMEDY: &str = "correct the property that the error names, under [kafka] in the settings";
    match error {
        KafkaError::ClientConfig(_, description, name, value) => {
            let description = if value.is_empty() {
                description
            } else {
                description.replace(&value, "***")
            };
            Error::halt(
                format!("{what} cannot be made: property {name}: {description}"),
                REMEDY,
            )
        }
        other => Error::halt(format!("{what} cannot be made"), REMEDY).caused_by(other),
    }
}

/// Writes librdkafka's log lines to `tracing`, one level quieter than it means them: it cries
/// wolf at every reconnect, and what stops a worker comes back as an error anyway. Keeps why brokers
/// cannot be reached for whoever asks them something.
#[derive(Clone, Debug, Default)]
pub struct QuietContext {
    reports: Reports,
}

impl QuietContext {
    pub(crate) fn reports(&self) -> &Reports {
        &self.reports
    }
}

impl ClientContext for QuietContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
        self.reports.note_log(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(error = %error, reason, "Kafka client");
        self.reports.note(error.rdkafka_error_code(), reason);
    }
}

impl ConsumerContext for QuietContext {}

impl ProducerContext for QuietContext {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

pub(crate) fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::warn!(facility, "Kafka client: {message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::info!(facility, "Kafka client: {message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::debug!(facility, "Kafka client: {message}");
        }
        RDKafkaLogLevel::Debug => tracing::trace!(facility, "Kafka client: {message}"),
    }
}
