//! A Kafka of a test's own whose listener wants TLS and a login.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// A running broker; stopped when dropped.
pub struct SecuredKafka {
    dir: PathBuf,
    /// Address of the SASL_SSL listener.
    pub address: String,
}

impl SecuredKafka {
    /// Starts a broker with one user, for PLAIN and both SCRAM mechanisms.
    pub fn start(user: &str, password: &str) -> Self {
        let mut kafka = SecuredKafka {
            dir: super::directory("secured").join("kafka"),
            address: String::new(),
        };
        let said = kafka.run("start", &["--user", &format!("{user}:{password}")]);
        let address = said
            .split_whitespace()
            .find_map(|w| w.strip_prefix("secure="));
        address
            .expect("the dev script names it")
            .clone_into(&mut kafka.address);
        kafka
    }

    /// Restarts the broker with another password for PLAIN.
    pub fn change_password(&self, user: &str, password: &str) {
        let login = "org.apache.kafka.common.security.plain.PlainLoginModule";
        self.run("restart", &["--set", &format!(
            "listener.name.sasl_ssl.plain.sasl.jaas.config={login} required user_{user}=\"{password}\";"
        )]);
    }

    fn run(&self, action: &str, more: &[&str]) -> String {
        let mut command = Command::new(super::dev());
        command
            .args(["server", "kafka", action])
            .arg(&self.dir)
            .args(more);
        let output = command.output().expect("the dev script can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// File with the authority that signed the broker's certificate.
    pub fn authority(&self) -> String {
        self.dir.join("tls/ca.pem").display().to_string()
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

impl Drop for SecuredKafka {
    fn drop(&mut self) {
        let _ = Command::new(super::dev())
            .args(["server", "kafka", "stop"])
            .arg(&self.dir)
            .args(["--mode", "immediate"])
            .output();
    }
}
