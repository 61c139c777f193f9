//! The walks of the protocol as it is: none may fail. A seed walks the same way every time.

use crate::mutants::Mutant;
use crate::random::Random;
use crate::world::{Scenario, Violation, World};

/// What a walk is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Take-over, batches, followers; both tables from the start.
    Log,
    /// The same, and retention that passes slow sinks.
    Retention,
    /// Copies: tables join, leave, return; sinks come late; fail-over.
    Copies,
    /// Fail-over to standbys that may lack what was published.
    FailOver,
}

impl Kind {
    fn scenario(self, seed: u64) -> Scenario {
        let mut random = Random(seed ^ 0x5CE7_A210);
        let long = random.chance(50);
        let copies = match self {
            Kind::Log | Kind::Retention => false,
            Kind::Copies => true,
            Kind::FailOver => random.chance(50),
        };
        Scenario {
            copies,
            partitions: [
                1 + u32::from(random.chance(50)),
                1 + u32::from(random.chance(25)),
            ],
            transactions: if long { 12 } else { 5 },
            steps: match (copies, long) {
                (false, true) => 1_500,
                (false, false) => 700,
                (true, true) => 2_400,
                (true, false) => 1_000,
            },
            faults_percent: [100, 40, 12][random.below(3)],
            fails_over: match self {
                Kind::Log | Kind::Retention => false,
                Kind::Copies => random.chance(30),
                Kind::FailOver => true,
            },
            loses_wal: self == Kind::FailOver,
            retention_passes: self == Kind::Retention,
        }
    }
}

/// Walks a seed; how many steps it took.
pub fn walk(kind: Kind, seed: u64, mutants: &'static [Mutant]) -> (u64, Result<(), Violation>) {
    let mut world = World::new(seed, kind.scenario(seed), mutants, false);
    let result = world.walk();
    (world.taken, result)
}

/// The first of the seeds that fails, in one of these ways.
pub fn first_failure(
    kind: Kind,
    mut seeds: std::ops::Range<u64>,
    mutants: &'static [Mutant],
    ways: &[&str],
) -> Option<(u64, Violation)> {
    seeds.find_map(|seed| {
        let (_steps, result) = walk(kind, seed, mutants);
        let violation = result.err().filter(|found| ways.contains(&found.kind));
        violation.map(|violation| (seed, violation))
    })
}

/// The walk of a seed once more, with what happened in it.
pub fn traced(kind: Kind, seed: u64, mutants: &'static [Mutant]) -> String {
    let mut world = World::new(seed, kind.scenario(seed), mutants, true);
    let result = world.walk();
    let lines: Vec<String> = world.trace.lines.into_iter().collect();
    format!("{}\n=> {result:?}", lines.join("\n"))
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}

fn all_hold(kind: Kind, usual: u64) {
    let first = number("WALFERRY_SEED").unwrap_or(0);
    let walks = number("WALFERRY_WALKS").unwrap_or(usual);
    let mut steps = 0;
    for seed in first..first + walks {
        let (taken, result) = walk(kind, seed, &[]);
        steps += taken;
        if let Err(violation) = result {
            panic!(
                "{kind:?} seed {seed}: {violation}\nagain with WALFERRY_SEED={seed} WALFERRY_WALKS=1\n{}",
                traced(kind, seed, &[])
            );
        }
    }
    println!("{kind:?}: {walks} walks, {steps} steps");
}

#[test]
fn sources_that_take_over_from_one_another_lose_nothing() {
    all_hold(Kind::Log, 150);
}

#[test]
fn sinks_that_retention_passes_halt_and_never_diverge() {
    all_hold(Kind::Retention, 150);
}

#[test]
fn copies_come_into_effect_at_a_boundary() {
    all_hold(Kind::Copies, 150);
}

#[test]
fn fail_over_loses_nothing_or_is_said() {
    all_hold(Kind::FailOver, 150);
}
