//! walferry as users run it: a process with its settings in files.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{DEADLINE, Postgres, directory, kafka, unique, until};

/// Settings of one pipeline in a directory of their own.
pub struct Pipeline {
    pub name: String,
    pub dir: PathBuf,
    pub http_port: u16,
}

impl Pipeline {
    /// A pipeline with a source on `leader` and one Postgres sink a follower, named `a`, `b`, ….
    pub fn new(leader: &Postgres, followers: &[&Postgres]) -> Self {
        Self::with(leader, followers, "", "")
    }

    /// The same with more lines in the source's and in each sink's file.
    pub fn with(leader: &Postgres, followers: &[&Postgres], source: &str, sink: &str) -> Self {
        let followers: Vec<String> = followers.iter().map(|f| f.url("postgres")).collect();
        Self::between(&leader.url("postgres"), &followers, source, sink)
    }

    /// The same for any databases.
    pub fn between(leader: &str, followers: &[String], source: &str, sink: &str) -> Self {
        let name = format!("t{}", unique());
        let dir = directory(&format!("pipeline-{name}"));
        let http_port = free_port();
        for sub in ["config", "connectors"] {
            std::fs::create_dir_all(dir.join(sub)).unwrap();
        }
        let pipeline = Pipeline {
            name,
            dir,
            http_port,
        };
        pipeline.write(
            "config/walferry.toml",
            &format!(
                "pipeline = \"{}\"\n[kafka]\nbrokers = \"{}\"\ndurability = \"single-broker\"\n\
                 [http]\nlisten = \"127.0.0.1:{http_port}\"\n[log]\nlevel = \"walferry=debug,info\"\nformat = \"human\"\n",
                pipeline.name,
                kafka()
            ),
        );
        pipeline.write(
            "connectors/leader.toml",
            &format!("kind = \"postgres-source\"\nurl = \"{leader}\"\n{source}\n"),
        );
        for (follower, name) in followers.iter().zip('a'..) {
            pipeline.write(
                &format!("connectors/{name}.toml"),
                &format!("kind = \"postgres\"\nurl = \"{follower}\"\n{sink}\n"),
            );
        }
        pipeline
    }

    /// Writes one file of the settings.
    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.dir.join(file), text).unwrap();
    }

    /// Uses another Kafka than the run's.
    pub fn use_kafka(&self, bootstrap: &str) {
        let file = self.dir.join("config/walferry.toml");
        let text = std::fs::read_to_string(file).unwrap();
        self.write("config/walferry.toml", &text.replace(&kafka(), bootstrap));
    }

    /// The same settings for a second process, which listens on another port.
    pub fn twin(&self) -> Self {
        let twin = Pipeline {
            name: self.name.clone(),
            dir: directory(&format!("twin-{}", self.name)),
            http_port: free_port(),
        };
        for sub in ["config", "connectors"] {
            std::fs::create_dir_all(twin.dir.join(sub)).unwrap();
            for file in std::fs::read_dir(self.dir.join(sub)).unwrap() {
                let file = file.unwrap();
                let text = std::fs::read_to_string(file.path()).unwrap();
                let ports =
                    [self.http_port, twin.http_port].map(|port| format!("127.0.0.1:{port}\""));
                let text = text.replace(&ports[0], &ports[1]);
                std::fs::write(twin.dir.join(sub).join(file.file_name()), text).unwrap();
            }
        }
        twin
    }

    /// A command of walferry's with this pipeline's settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walferry"));
        command.arg("--config").arg(self.dir.join("config"));
        command.arg("--connectors").arg(self.dir.join("connectors"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end; its exit code and all it said.
    pub fn say(&self, arguments: &[impl AsRef<str>]) -> (i32, String) {
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let output = self.command(&arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.code().unwrap(), said)
    }

    /// Runs a command that must work; all it said.
    pub fn do_it(&self, arguments: &[impl AsRef<str>]) -> String {
        let (code, said) = self.say(arguments);
        assert_eq!(code, 0, "{said}");
        said
    }

    /// Starts `walferry run`.
    pub fn run(&self) -> Walferry {
        self.run_only(&[])
    }

    /// Starts `walferry run --only NAME…`.
    pub fn run_only(&self, only: &[&str]) -> Walferry {
        self.run_with(only, &[])
    }

    /// The same with variables in its environment.
    pub fn run_with(&self, only: &[&str], environment: &[(&str, String)]) -> Walferry {
        let mut arguments = vec!["run"];
        for name in only {
            arguments.extend(["--only", name]);
        }
        let mut command = self.command(&arguments);
        self.start(command.envs(environment.iter().map(|(name, value)| (name, value))))
    }

    /// Starts `walferry run`, which kills itself at a named point (`walferry::killpoint`).
    pub fn run_until(&self, point: &str) -> Walferry {
        self.start(self.command(&["run"]).env("WALFERRY_DIE_AT", point))
    }

    fn start(&self, command: &mut Command) -> Walferry {
        let log = self.dir.join(format!("run-{}.log", unique()));
        let file = std::fs::File::create(&log).unwrap();
        let child = command
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .expect("walferry can be started");
        Walferry { child, log }
    }
}

/// A running `walferry run`; killed when dropped.
pub struct Walferry {
    child: Child,
    pub log: PathBuf,
}

impl Walferry {
    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; returns the exit code and panics when it takes too long.
    pub fn terminate(mut self) -> i32 {
        self.signal("TERM");
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.ended() {
                return status.code().unwrap_or(-1);
            }
            assert!(
                Instant::now() < end,
                "walferry does not stop; log: {}",
                self.log.display()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended by itself.
    pub async fn dies(mut self) {
        let end = Instant::now() + DEADLINE;
        while self.ended().is_none() {
            assert!(Instant::now() < end, "{}", self.output());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        super::process::signal(&self.child.id().to_string(), name);
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Peak resident memory in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// Resident memory now, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// How many regions the allocator has for the arenas of threads: glibc reserves 64 MiB for each, at a multiple
    /// of that.
    pub fn arena_regions(&self) -> usize {
        const REGION: u64 = 64 << 20;
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.child.id())).unwrap();
        let parts: Vec<(u64, u64, &str)> = maps
            .lines()
            .map(|line| {
                let (range, rest) = line.split_once(' ').unwrap();
                let (from, to) = range.split_once('-').unwrap();
                let address = |text| u64::from_str_radix(text, 16).unwrap();
                (address(from), address(to), &rest[..4])
            })
            .collect();
        // A region is a part in use and, right behind it, a part that is only reserved.
        let is_region = |pair: &&[(u64, u64, &str)]| {
            let ((from, used, first), (reserved, to, second)) = (pair[0], pair[1]);
            (first, second) == ("rw-p", "---p")
                && (used, to) == (reserved, from + REGION)
                && from % REGION == 0
        };
        parts.windows(2).filter(is_region).count()
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        let kilobytes = kilobytes.expect("Linux reports a process's memory");
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        read(&self.log)
    }

    /// The first line that it writes with `part` in it; waits for it.
    pub async fn says(&self, part: &str) -> String {
        until(&format!("walferry says {part}"), || async {
            let output = self.output();
            let line = output.lines().find(|line| line.contains(part));
            line.map(str::to_owned).ok_or(output)
        })
        .await
    }
}

impl Drop for Walferry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let mut tail = String::new();
            let text = read(&self.log);
            for line in text
                .lines()
                .rev()
                .take(40)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
            {
                let _ = writeln!(tail, "  {line}");
            }
            eprintln!("the end of {}:\n{tail}", self.log.display());
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
