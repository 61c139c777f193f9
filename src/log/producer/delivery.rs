//! What librdkafka tells the producer.

use std::sync::Arc;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;
use rdkafka::types::RDKafkaErrorCode;

use super::acks::delivery_error;
use super::hand_over::HandOver;
use crate::error::Error;
use crate::log::client::log_line;
use crate::log::reports::Report;

/// Receives delivery reports on the producer's own thread, and hands over what waited for them.
pub(super) struct DeliveryContext(Arc<HandOver>);

impl DeliveryContext {
    pub(super) fn new(hand_over: Arc<HandOver>) -> Self {
        DeliveryContext(hand_over)
    }

    fn fail(&self, error: &Error) {
        self.0.acks.fail(error);
    }
}

impl ClientContext for DeliveryContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::Fatal) {
            self.fail(&Error::transient(format!("Kafka producer: {reason}")).caused_by(error));
            return;
        }
        match Report::read(code, reason).filter(Report::needs_a_person) {
            // librdkafka would try for ever: say it, and let the next epoch ask whether others answer.
            Some(report) => self.fail(&report.transient()),
            // Others pass by themselves: records are sent again until they are acknowledged.
            None => tracing::debug!(error = %error, reason, "Kafka producer"),
        }
    }
}

impl ProducerContext for DeliveryContext {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        match result {
            Ok(message) => {
                let bytes = message.key_len() + message.payload_len();
                let offset = Some(message.offset()).filter(|offset| *offset >= 0);
                let slot = self.0.acks.delivered(opaque, offset, bytes);
                self.0.acknowledged(slot);
            }
            Err((error, message)) => {
                let bytes = message.key_len() + message.payload_len();
                let place = (message.topic().to_owned(), message.partition());
                let error = match error.rdkafka_error_code() {
                    Some(code) => delivery_error(code, &place, bytes),
                    None => {
                        Error::transient("Kafka did not take a record").caused_by(error.clone())
                    }
                };
                self.fail(&error);
            }
        }
    }
}
