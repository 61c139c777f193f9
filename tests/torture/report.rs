//! What a person sees while it runs and at the end, and the JSON for machines.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::load::Counts;
use crate::schedule::Step;

/// Lines with the time since the start, on standard error and in a file.
pub struct Diary {
    begun: Instant,
    file: Mutex<File>,
}

impl Diary {
    pub fn open(file: &Path) -> anyhow::Result<Self> {
        Ok(Diary {
            begun: Instant::now(),
            file: Mutex::new(File::create(file)?),
        })
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    pub fn say(&self, text: &str) {
        let line = format!("[{:>7.1} s] {text}", self.seconds());
        eprintln!("{line}");
        // The terminal has it already.
        let _ = writeln!(self.file.lock().expect("no panic holds it"), "{line}");
    }
}

/// What went wrong. The first finding ends the run.
pub struct Findings {
    found: Mutex<Vec<String>>,
    /// Cancelled by the first one.
    pub any: CancellationToken,
}

impl Findings {
    pub fn new() -> Self {
        Findings {
            found: Mutex::default(),
            any: CancellationToken::new(),
        }
    }

    pub fn add(&self, diary: &Diary, what: String) {
        diary.say(&format!("FINDING: {what}"));
        self.found.lock().expect("no panic holds it").push(what);
        self.any.cancel();
    }

    pub fn all(&self) -> Vec<String> {
        self.found.lock().expect("no panic holds it").clone()
    }
}

/// What the checker of one follower has seen.
#[derive(Debug, Default)]
pub struct Looks {
    /// Looks with every invariant checked.
    pub whole: AtomicU64,
    /// Those that saw another state than the look before.
    pub new: AtomicU64,
    /// Looks while the follower was copying.
    pub copying: AtomicU64,
    /// Looks that failed, as faults make them.
    pub failed: AtomicU64,
    pub applied: AtomicU64,
}

/// A fault that was done.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    pub name: &'static str,
    pub what: String,
    pub at_seconds: f64,
    pub hold_ms: u64,
    /// What was seen of its effect.
    pub note: Option<String>,
}

/// Everything of one run.
#[derive(Default, Serialize)]
pub struct Report {
    pub seed: u64,
    pub minutes: f64,
    pub faults_asked: Vec<String>,
    pub skipped: Vec<String>,
    pub seconds: f64,
    pub schedule: Vec<Step>,
    pub done: Vec<Done>,
    pub committed: u64,
    pub unknown: u64,
    pub aborted: u64,
    pub looks: [u64; 2],
    pub looks_new: [u64; 2],
    pub looks_failed: [u64; 2],
    pub recovered: usize,
    pub recovery_max_seconds: f64,
    pub independent: Option<String>,
    pub findings: Vec<String>,
    pub passed: bool,
}

impl Report {
    /// Copies the counters.
    pub fn count(&mut self, counts: &Counts, looks: &[Looks; 2]) {
        self.committed = counts.committed.load(Ordering::Relaxed);
        self.unknown = counts.unknown.load(Ordering::Relaxed);
        self.aborted = counts.aborted.load(Ordering::Relaxed);
        let of = |field: fn(&Looks) -> &AtomicU64| {
            [0, 1].map(|side| field(&looks[side]).load(Ordering::Relaxed))
        };
        self.looks = of(|l| &l.whole);
        self.looks_new = of(|l| &l.new);
        self.looks_failed = of(|l| &l.failed);
    }

    /// The table for people.
    pub fn print(&self) {
        let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
        for done in &self.done {
            *by_name.entry(done.name).or_default() += 1;
        }
        println!("\nfault                        times");
        for (name, times) in &by_name {
            println!("{name:<28} {times:>5}");
        }
        println!("{:<28} {:>5}", "in all", self.done.len());
        for skipped in &self.skipped {
            println!("skipped: {skipped}");
        }
        println!(
            "\ntransactions committed       {:>9}   (outcome unknown {}, rolled back {})",
            self.committed, self.unknown, self.aborted
        );
        println!(
            "looks at followers a, b      {:>9} {:>9}   (of them new states {}, {}; failed {}, {})",
            self.looks[0],
            self.looks[1],
            self.looks_new[0],
            self.looks_new[1],
            self.looks_failed[0],
            self.looks_failed[1]
        );
        println!(
            "caught up after faults       {:>9}   (slowest {:.1} s)",
            self.recovered, self.recovery_max_seconds
        );
        if let Some(independent) = &self.independent {
            println!("independent reader           {independent}");
        }
        println!("time                         {:>9.0} s", self.seconds);
        for finding in &self.findings {
            println!("FINDING: {finding}");
        }
        let verdict = if self.passed { "passed" } else { "FAILED" };
        println!("seed {}: {verdict}", self.seed);
        if !self.passed {
            println!("again: {}", self.again());
        }
    }

    /// The command with the same schedule.
    fn again(&self) -> String {
        let faults: String = self
            .faults_asked
            .iter()
            .map(|f| format!(" --fault {f}"))
            .collect();
        format!(
            "./dev torture --seed {} --minutes {}{faults}",
            self.seed, self.minutes
        )
    }
}
