//! A Kafka of a test's own whose listener wants TLS and a login.

use std::fmt::Write as _;

use super::kafka::{Kafka, named};

/// A running broker; stopped when dropped.
pub struct SecuredKafka {
    broker: Kafka,
    /// Address of the SASL_SSL listener.
    pub address: String,
}

impl SecuredKafka {
    /// Starts a broker with one user, for PLAIN and both SCRAM mechanisms.
    pub fn start(user: &str, password: &str) -> Self {
        let broker = Kafka::new("secured");
        let said = broker.run("start", &["--user", &format!("{user}:{password}")]);
        let address = named(&said, "secure=");
        SecuredKafka { broker, address }
    }

    /// Restarts the broker with another password for PLAIN.
    pub fn change_password(&self, user: &str, password: &str) {
        let login = "org.apache.kafka.common.security.plain.PlainLoginModule";
        self.broker.run("restart", &["--set", &format!(
            "listener.name.sasl_ssl.plain.sasl.jaas.config={login} required user_{user}=\"{password}\";"
        )]);
    }

    /// File with the authority that signed the broker's certificate.
    pub fn authority(&self) -> String {
        self.broker.dir.join("tls/ca.pem").display().to_string()
    }

    /// A `walferry.toml` for this broker with properties of librdkafka.
    pub fn settings(&self, pipeline: &super::Pipeline, properties: &[(&str, &str)]) -> String {
        let mut text = format!(
            "pipeline = \"{}\"\n[kafka]\nbrokers = \"{}\"\ndurability = \"single-broker\"\n\
             [http]\nlisten = \"127.0.0.1:{}\"\n[log]\nlevel = \"walferry=trace,info\"\nformat = \"human\"\n\
             [kafka.properties]\n",
            pipeline.name, self.address, pipeline.http_port
        );
        for (name, value) in properties {
            let _ = writeln!(text, "{name} = \"{value}\"");
        }
        text
    }
}
