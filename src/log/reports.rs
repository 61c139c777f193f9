//! What librdkafka reports about connections, made into errors that say why brokers do not answer and
//! what to do. A question that fails says only "transport failure": its reason comes apart, as an event
//! of the client, and is kept here until it is asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::error::RDKafkaErrorCode;

use crate::error::Error;

/// Why there is no connection; a later one says more than an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Closed by the broker; librdkafka logs it and reports no error.
    Closed,
    /// Refused, not routed, timed out.
    Unreachable,
    /// The host has no address.
    NoAddress,
    /// Closed while TLS is spoken.
    NotTls,
    /// The TLS handshake failed for good.
    Tls,
    /// The broker's certificate does not verify.
    Certificate,
    /// The SASL login is refused.
    Login,
}

/// One reason, with the broker it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    kind: Kind,
    what: String,
}

impl Report {
    /// What an error event means; `None` for events that are not about connecting.
    pub(crate) fn read(code: Option<RDKafkaErrorCode>, reason: &str) -> Option<Self> {
        let (broker, text) = broker_and_text(reason);
        let (kind, says) = match code? {
            RDKafkaErrorCode::Authentication => (Kind::Login, "refuses the login"),
            // Every other time librdkafka calls this a transport failure.
            RDKafkaErrorCode::SSL | RDKafkaErrorCode::BrokerTransportFailure
                if text.contains("certificate verify failed") =>
            {
                (Kind::Certificate, "shows a certificate that is not trusted")
            }
            RDKafkaErrorCode::SSL => (Kind::Tls, "fails in the TLS handshake"),
            RDKafkaErrorCode::BrokerTransportFailure if text.contains("SSL") => {
                (Kind::NotTls, "breaks the TLS connection off")
            }
            RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::OperationTimedOut => {
                (Kind::Unreachable, "cannot be reached")
            }
            RDKafkaErrorCode::Resolve => (Kind::NoAddress, "cannot be reached"),
            _not_about_connecting => return None,
        };
        let what = format!("Kafka at {broker} {says}: {text}");
        Some(Report { kind, what })
    }

    /// What a log line of librdkafka means; `None` for those that are not about a closed connection.
    fn read_log(facility: &str, message: &str) -> Option<Self> {
        let (_thread, reason) = message.split_once("]: ")?;
        let (broker, text) = broker_and_text(reason);
        (facility == "FAIL" && text.starts_with("Disconnected")).then(|| Report {
            kind: Kind::Closed,
            what: format!("Kafka at {broker} closes the connection: {text}"),
        })
    }

    /// Whether it stays until somebody changes the settings or the brokers.
    pub(crate) fn needs_a_person(&self) -> bool {
        self.kind >= Kind::Tls
    }

    /// When all brokers say so: a halt for what needs a person, else transient.
    pub(crate) fn error(&self) -> Error {
        if self.needs_a_person() {
            Error::halt(&self.what, self.remedy())
        } else {
            self.transient()
        }
    }

    /// When one broker says so: others may still answer, and this one may be mended.
    pub(crate) fn transient(&self) -> Error {
        Error::transient(&self.what).advising(self.remedy())
    }

    fn remedy(&self) -> &'static str {
        match self.kind {
            Kind::Closed | Kind::NotTls => {
                "set security.protocol under [kafka.properties] to what that listener speaks: PLAINTEXT, SSL, \
                 SASL_PLAINTEXT or SASL_SSL"
            }
            Kind::Unreachable => "start the brokers, or correct kafka.brokers",
            Kind::NoAddress => {
                "correct the host in kafka.brokers, or this machine's name resolution"
            }
            Kind::Tls => {
                "make security.protocol and the ssl.* settings under [kafka.properties] fit the brokers' \
                 listener"
            }
            Kind::Certificate => {
                "name the authority that signed the brokers' certificates in ssl.ca.location under \
                 [kafka.properties], and use the host names that stand in the certificates in kafka.brokers"
            }
            Kind::Login => {
                "correct security.protocol, sasl.mechanism, sasl.username and sasl.password under \
                 [kafka.properties], or make that user on the brokers"
            }
        }
    }
}

/// Takes `sasl_ssl://host:1/bootstrap: text (after 3ms in state AUTH_REQ)` apart; the time is left out,
/// so that the same error reads the same.
fn broker_and_text(reason: &str) -> (&str, &str) {
    let text = match reason.rfind(" (after ") {
        Some(end) => &reason[..end],
        None => reason,
    };
    let Some((name, text)) = text.split_once(": ") else {
        return ("an unnamed broker", text);
    };
    let address = name.split_once("://").map_or(name, |(_, address)| address);
    let address = address.split_once('/').map_or(address, |(host, _)| host);
    (address, text)
}

/// The reports of one client, shared by its callbacks and whoever asks brokers through it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reports(Arc<Mutex<Seen>>);

#[derive(Clone, Debug, Default)]
struct Seen {
    report: Option<Report>,
    all_down: bool,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Two plain values: a panic elsewhere leaves none half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what an error event says, unless something that says more is kept already.
    pub(crate) fn note(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.lock().all_down = true;
        }
        self.keep(Report::read(code, reason));
    }

    /// The same for a log line.
    pub(crate) fn note_log(&self, facility: &str, message: &str) {
        self.keep(Report::read_log(facility, message));
    }

    fn keep(&self, report: Option<Report>) {
        let kind = |report: &Option<Report>| report.as_ref().map(|r| r.kind);
        let mut seen = self.lock();
        if kind(&report) > kind(&seen.report) {
            seen.report = report;
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        *self.lock() = Seen::default();
    }

    /// What says most since the last `clear`.
    pub(crate) fn report(&self) -> Option<Report> {
        self.lock().report.clone()
    }

    /// Whether every broker was down at some moment since the last `clear`.
    pub(crate) fn all_down(&self) -> bool {
        self.lock().all_down
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    /// Events of librdkafka 2.12 against Kafka 4.3.
    const EVENTS: [(RDKafkaErrorCode, &str, Class, &str); 6] = [
        (
            RDKafkaErrorCode::Authentication,
            "sasl_ssl://127.0.0.1:9/bootstrap: SASL authentication error: Authentication failed: Invalid username or password (after 305ms in state AUTH_REQ)",
            Class::Halt,
            "Kafka at 127.0.0.1:9 refuses the login: SASL authentication error: Authentication failed: Invalid username or password",
        ),
        (
            RDKafkaErrorCode::BrokerTransportFailure,
            "sasl_ssl://k:9/bootstrap: error:0A000086:SSL routines::certificate verify failed (after 4ms in state SSL_HANDSHAKE, 1 identical error(s) suppressed)",
            Class::Halt,
            "Kafka at k:9 shows a certificate that is not trusted: error:0A000086:SSL routines::certificate verify failed",
        ),
        (
            RDKafkaErrorCode::SSL,
            "ssl://k:9/1: SSL handshake failed: error:0A00010B:SSL routines::wrong version number (after 4ms in state SSL_HANDSHAKE)",
            Class::Halt,
            "Kafka at k:9 fails in the TLS handshake: SSL handshake failed: error:0A00010B:SSL routines::wrong version number",
        ),
        (
            RDKafkaErrorCode::BrokerTransportFailure,
            "ssl://k:9/bootstrap: SSL handshake failed: Disconnected: SSL connection closed by peer: connecting to a PLAINTEXT broker listener? (after 1ms in state SSL_HANDSHAKE)",
            Class::Transient,
            "Kafka at k:9 breaks the TLS connection off: SSL handshake failed: Disconnected: SSL connection closed by peer: connecting to a PLAINTEXT broker listener?",
        ),
        (
            RDKafkaErrorCode::BrokerTransportFailure,
            "k:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection refused (after 0ms in state CONNECT)",
            Class::Transient,
            "Kafka at k:9 cannot be reached: Connect to ipv4#127.0.0.1:9 failed: Connection refused",
        ),
        (
            RDKafkaErrorCode::Resolve,
            "k:9/bootstrap: Failed to resolve 'k:9': Name or service not known (after 1ms in state CONNECT)",
            Class::Transient,
            "Kafka at k:9 cannot be reached: Failed to resolve 'k:9': Name or service not known",
        ),
    ];

    #[test]
    fn each_reason_is_said_with_its_broker_and_a_remedy() {
        for (code, reason, class, what) in EVENTS {
            let report = Report::read(Some(code), reason).expect(reason);
            let error = report.error();
            assert_eq!(
                (error.class(), error.what().as_str()),
                (class, what),
                "{reason}"
            );
            assert!(error.remedy().is_some(), "{reason}");
            let one_broker = report.transient();
            assert_eq!(one_broker.class(), Class::Transient, "{reason}");
            assert_eq!(one_broker.remedy(), error.remedy(), "{reason}");
        }
        assert_eq!(
            Report::read(Some(RDKafkaErrorCode::Fatal), "out of order"),
            None
        );
        assert_eq!(Report::read(None, "k:9/1: text"), None);
    }

    #[test]
    fn a_closed_connection_is_read_from_the_log() {
        let reports = Reports::default();
        reports.note_log("CONFWARN", "[thrd:app]: Disconnected: no");
        reports.note_log("FAIL", "[thrd:k:9/1]: k:9/1: Connect failed");
        assert_eq!(reports.report(), None);
        reports.note_log(
            "FAIL",
            "[thrd:k:9/bootstrap]: k:9/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 0ms in state APIVERSION_QUERY)",
        );
        let error = reports.report().map(|r| r.error()).expect("it is kept");
        assert_eq!(
            error.what(),
            "Kafka at k:9 closes the connection: Disconnected: connection closed by peer: receive 0 after POLLIN"
        );
        assert_eq!(error.class(), Class::Transient);
    }

    #[test]
    fn the_reason_that_says_most_is_kept_until_it_is_cleared() {
        let reports = Reports::default();
        reports.note(
            Some(RDKafkaErrorCode::AllBrokersDown),
            "1/1 brokers are down",
        );
        assert_eq!((reports.report(), reports.all_down()), (None, true));
        for (code, reason, ..) in EVENTS {
            reports.note(Some(code), reason);
        }
        assert_eq!(reports.report().map(|r| r.kind), Some(Kind::Login));
        assert!(reports.all_down());
        reports.clear();
        assert_eq!((reports.report(), reports.all_down()), (None, false));
    }
}
