//! Instructions a row, counted by callgrind and compared with those of `bench/instructions.toml`.
//!
//! The program runs itself under valgrind, which counts anew each time that [`counted`] begins and
//! writes a file each time that it ends: so preparation does not count, and one run does for all cases.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::cases::{ALL, ROWS};

/// The argument for what runs under valgrind.
pub const RUN: &str = "instructions-run";
/// Above so much of its expected instructions a case is a regression: another compiler or C library
/// moves counts by a few percent.
const ABOVE_PERCENT: u64 = 125;
/// Below so much of them the file would no longer show a regression.
const BELOW_PERCENT: u64 = 75;

/// In the package's directory.
const FILE: &str = "bench/instructions.toml";
const HEAD: &str = "# Instructions a row, by architecture: written by `./dev instructions --write`, see bench/README.md.\n";

/// [`counted`], as callgrind names it.
const COUNTED: &str = concat!(module_path!(), "::counted");

/// By name of the case.
type Counts = BTreeMap<String, u64>;

/// Does the work of each case once.
pub fn run() {
    for case in &ALL {
        counted(&mut *case.prepare());
    }
}

#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    black_box(work); // so that the call above is not this function's end
}

/// Prints a table of expected and counted instructions.
///
/// # Errors
/// When a case takes many more than expected, or the file's cases are not the program's.
pub fn compare() -> anyhow::Result<()> {
    let all_expected = read()?;
    let expected = all_expected.get(ARCH).with_context(|| {
        format!("{FILE} has no counts for {ARCH}: ./dev instructions --write adds them")
    })?;
    let now = count()?;
    println!("{:<24} expected      now  difference", "instructions a row");
    let (mut above, mut below) = (Vec::new(), Vec::new());
    for (case, &now) in &now {
        let Some(&expected) = expected.get(case) else {
            println!("{case:<24}        - {now:>8}");
            continue;
        };
        let difference = (now as f64 / expected as f64 - 1.0) * 100.0;
        println!("{case:<24} {expected:>8} {now:>8} {difference:>+9.1} %");
        if now * 100 > expected * ABOVE_PERCENT {
            above.push(case.as_str());
        } else if now * 100 < expected * BELOW_PERCENT {
            below.push(case.as_str());
        }
    }
    if !below.is_empty() {
        println!(
            "much less than expected, so that the file would not show a regression: {}",
            below.join(", ")
        );
        println!("./dev instructions --write notes the new counts");
    }
    ensure!(
        above.is_empty(),
        "a regression: more than {ABOVE_PERCENT} % of what {FILE} expects: {}; if it is meant, note it: ./dev instructions --write",
        above.join(", ")
    );
    ensure!(
        now.keys().eq(expected.keys()),
        "the cases of {FILE} are not those of bench/codec; note them: ./dev instructions --write"
    );
    Ok(())
}

/// Writes the file with what is counted now; other architectures' counts stay.
///
/// # Errors
/// When that fails.
pub fn write() -> anyhow::Result<()> {
    let mut all = read()?;
    all.insert(ARCH.to_owned(), count()?);
    let text = format!("{HEAD}\n{}", toml::to_string(&all)?);
    std::fs::write(path(), text).with_context(|| format!("writing {FILE}"))?;
    println!("wrote {FILE}");
    Ok(())
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE)
}

fn read() -> anyhow::Result<BTreeMap<String, Counts>> {
    let text = std::fs::read_to_string(path()).with_context(|| format!("reading {FILE}"))?;
    toml::from_str(&text).with_context(|| format!("reading {FILE}"))
}

/// Runs all cases under callgrind.
fn count() -> anyhow::Result<Counts> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind");
    let done = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--zero-before={COUNTED}"))
        .arg(format!("--dump-after={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .arg(RUN)
        .output()
        .context("running valgrind")?;
    ensure!(
        done.status.success(),
        "valgrind failed:\n{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let mut counts = Counts::new();
    for (index, case) in ALL.iter().enumerate() {
        let dump = out.with_extension((index + 1).to_string());
        let instructions = total(&dump).with_context(|| format!("case {case}"))?;
        counts.insert(case.to_string(), instructions / ROWS as u64);
    }
    Ok(counts)
}

/// The instructions of one dump of callgrind (valgrind's manual, "Callgrind Format Specification").
fn total(dump: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(dump)
        .with_context(|| format!("{}, which valgrind should have written", dump.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:"));
    match total.context("a dump without totals")?.trim().parse()? {
        0 => bail!("callgrind counted nothing"),
        instructions => Ok(instructions),
    }
}
