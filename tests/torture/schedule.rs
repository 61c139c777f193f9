//! What happens when: a pure function of the seed, the minutes and the kinds of faults allowed.

use std::fmt;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::fault::{Fault, Kind};

/// One fault with the time it lasts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Planned {
    pub name: &'static str,
    pub fault: Fault,
    pub hold_ms: u64,
}

/// One or two faults.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Undisturbed time before it.
    pub pause_ms: u64,
    /// Begins after the pause.
    pub first: Planned,
    /// Begins so many milliseconds after the first.
    pub second: Option<(u64, Planned)>,
    /// Whether both followers must have caught up before the next step.
    pub settle: bool,
}

/// What catching up is taken to last when the schedule is filled, in milliseconds.
const SETTLE_MS: u64 = 6_000;

impl Step {
    /// How long it is planned to last.
    fn planned_ms(&self) -> u64 {
        let second = self.second.as_ref().map_or(0, |(at, p)| at + p.hold_ms);
        let settle = if self.settle { SETTLE_MS } else { 0 };
        self.pause_ms + self.first.hold_ms.max(second) + settle
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |planned: &Planned| {
            format!(
                "{} {:?} for {} ms",
                planned.name, planned.fault, planned.hold_ms
            )
        };
        write!(f, "after {} ms: {}", self.pause_ms, one(&self.first))?;
        if let Some((at, second)) = &self.second {
            write!(f, ", {at} ms later {}", one(second))?;
        }
        write!(f, "{}", if self.settle { ", then settle" } else { "" })
    }
}

/// Fills `minutes` with faults. Kinds are taken from a shuffled deck, so that each comes once before
/// one comes twice; about one step in four has a second fault of another subject.
pub fn schedule(seed: u64, minutes: f64, kinds: &[&'static Kind]) -> Vec<Step> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut deck: Vec<&'static Kind> = Vec::new();
    let (mut steps, mut planned_ms) = (Vec::new(), 0);
    let budget_ms = (minutes * 60_000.0) as u64;
    while planned_ms < budget_ms && !kinds.is_empty() {
        let step = next(&mut random, &mut deck, kinds);
        planned_ms += step.planned_ms();
        steps.push(step);
    }
    steps
}

fn next(random: &mut SmallRng, deck: &mut Vec<&'static Kind>, kinds: &[&'static Kind]) -> Step {
    let pause_ms = random.random_range(200..3_000);
    let first = draw(random, deck, kinds);
    let mut second = None;
    if random.random_range(0..4) == 0 {
        let other = draw(random, deck, kinds);
        let taken = first.fault.subjects();
        if !other.fault.subjects().iter().any(|s| taken.contains(s)) {
            second = Some((random.random_range(0..=first.hold_ms), other));
        }
    }
    Step {
        pause_ms,
        first,
        second,
        settle: random.random_range(0..3) != 0,
    }
}

fn draw(random: &mut SmallRng, deck: &mut Vec<&'static Kind>, kinds: &[&'static Kind]) -> Planned {
    if deck.is_empty() {
        deck.extend(kinds);
        deck.shuffle(random);
    }
    let kind = deck.pop().expect("it was filled above");
    Planned {
        name: kind.name,
        fault: (kind.choose)(random),
        hold_ms: random.random_range(kind.hold_ms.clone()),
    }
}
