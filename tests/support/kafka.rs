//! A Kafka of a test's own, for what must not happen to the run's.

use std::path::PathBuf;
use std::process::Command;

use super::process;

/// One broker; stopped when dropped.
pub struct Kafka {
    pub dir: PathBuf,
    pub bootstrap: String,
}

impl Kafka {
    /// Starts a broker.
    pub fn start(name: &str) -> Self {
        Kafka::start_with(name, &[])
    }

    /// Starts a broker with settings of its own (`name=value`).
    pub fn start_with(name: &str, settings: &[&str]) -> Self {
        let mut kafka = Kafka::new(name);
        let settings: Vec<&str> = settings.iter().flat_map(|s| ["--set", s]).collect();
        kafka.started(&settings);
        kafka
    }

    /// A broker that is not started yet.
    pub fn new(name: &str) -> Self {
        Kafka {
            dir: super::directory(name).join("kafka"),
            bootstrap: String::new(),
        }
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.run("stop", &["--mode", "immediate"]);
    }

    /// Stops it where it is (SIGSTOP), or lets it go on (SIGCONT).
    pub fn signal(&self, name: &str) {
        let pid = process::started_in(&self.dir.join("node-1"));
        process::signal(&pid.to_string(), name);
    }

    /// Starts it again on its old data and port.
    pub fn start_again(&mut self) {
        self.started(&[]);
    }

    fn started(&mut self, more: &[&str]) {
        let said = self.run("start", more);
        self.bootstrap = named(&said, "bootstrap=");
    }

    /// Runs a command of `./dev server kafka` on this broker.
    pub fn run(&self, action: &str, more: &[&str]) -> String {
        let mut command = Command::new(super::dev());
        command
            .args(["server", "kafka", action])
            .arg(&self.dir)
            .args(more);
        let output = command.output().expect("the dev script can be run");
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// The word behind a prefix in what the script says.
pub fn named(said: &str, prefix: &str) -> String {
    let word = said
        .split_whitespace()
        .find_map(|word| word.strip_prefix(prefix));
    word.unwrap_or_else(|| panic!("the script says no {prefix}: {said}"))
        .to_owned()
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let stop = Command::new(super::dev())
            .args(["server", "kafka", "stop"])
            .arg(&self.dir)
            .args(["--mode", "immediate"])
            .output();
        // The run stops what is left at its end.
        drop(stop);
        super::forget_data(&self.dir.join("node-1/data"));
    }
}
