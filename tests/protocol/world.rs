//! One walk: the world's parts, and what must hold in the end.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;

use walferry::apply::follow::Terms;
use walferry::log::progress::Progress;
use walferry::log::topics::Topics;
use walferry::model::checkpoint::LogPlace;
use walferry::model::selection::Selection;
use walferry::model::{Cursors, Lsn, TableName};

use crate::follower::Guard;
use crate::kafka::{Kafka, Shared};
use crate::leader::{Leader, TABLES, name};
use crate::mutants::Mutant;
use crate::random::Random;
use crate::sink::Sink;
use crate::source::{Phase, Source};

/// What went wrong, or ended a walk early.
#[derive(Clone, Debug)]
pub struct Violation {
    pub kind: &'static str,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.what)
    }
}

pub fn violation(kind: &'static str, what: impl Into<String>) -> Violation {
    let what = what.into();
    Violation { kind, what }
}

pub type Walk<T = ()> = Result<T, Violation>;

/// What happens in a walk.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Tables come into effect by copies, join, leave and return; else both are there from the start.
    pub copies: bool,
    pub partitions: [u32; 2],
    pub transactions: usize,
    pub steps: usize,
    /// How many of the faults that are drawn happen: restless walks and calm ones.
    pub faults_percent: usize,
    /// A standby may be promoted.
    pub fails_over: bool,
    /// It may lack what was published.
    pub loses_wal: bool,
    /// Retention may pass sinks: they may halt.
    pub retention_passes: bool,
}

/// Lines of what happened, newest last.
#[derive(Default)]
pub struct Trace {
    pub on: bool,
    pub lines: VecDeque<String>,
}

/// Lines kept of a walk.
const TRACE_MAX: usize = 300;

pub struct World {
    pub random: Random,
    pub mutants: &'static [Mutant],
    pub scenario: Scenario,
    pub terms: Terms,
    pub kafka: Shared,
    pub leader: Leader,
    pub sources: Vec<Source>,
    pub sinks: Vec<Sink>,
    /// Tables that the settings name.
    pub wanted: BTreeSet<usize>,
    pub progress: BTreeMap<String, Progress>,
    /// A reader of all of the log.
    pub truth: LogPlace,
    /// Valid epoch entries.
    pub epochs: Vec<i64>,
    /// What the epoch's copies have said to be lower bounds of what follows.
    pub bounds: Cursors,
    pub instances: u64,
    pub owners: u64,
    /// No more faults.
    pub calm: bool,
    /// Where a promoted leader's history begins, if it lacks what may have been published.
    pub lacks_behind: Option<Lsn>,
    /// A source has halted because of that: a person must act, and the walk ends.
    pub halted: bool,
    pub trace: Trace,
    /// Steps taken.
    pub taken: u64,
}

impl World {
    pub fn new(seed: u64, scenario: Scenario, mutants: &'static [Mutant], traced: bool) -> Self {
        let mut random = Random(seed);
        let topics = Topics::new("p");
        let mut kafka = Kafka::default();
        for table in TABLES {
            kafka.add_topic(topics.table(&name(table)), scenario.partitions[table]);
            kafka.add_topic(topics.copy(&name(table)), scenario.partitions[table]);
        }
        let both = !scenario.copies || random.chance(50);
        let wanted: BTreeSet<usize> = if both { [0, 1].into() } else { [0].into() };
        let mut leader = Leader::new(scenario.partitions, scenario.transactions);
        leader.publication = wanted.iter().map(|table| leader.oid_now(*table)).collect();
        let mut world = World {
            random,
            mutants,
            scenario,
            terms: Terms {
                topics,
                selection: Selection::new(&["*.*".to_owned()], &[]),
                takes_copies: scenario.copies,
                moves_tables: false,
            },
            kafka: Rc::new(RefCell::new(kafka)),
            leader,
            sources: Vec::new(),
            sinks: Vec::new(),
            wanted,
            progress: BTreeMap::new(),
            truth: LogPlace::at_low_end(0),
            epochs: Vec::new(),
            bounds: Cursors::new(),
            instances: 0,
            owners: 100,
            calm: false,
            lacks_behind: None,
            halted: false,
            trace: Trace {
                on: traced,
                lines: VecDeque::new(),
            },
            taken: 0,
        };
        world.add_sink();
        if !scenario.copies {
            world.add_sink();
        }
        world
    }

    pub fn is(&self, mutant: Mutant) -> bool {
        self.mutants.contains(&mutant)
    }

    pub fn say(&mut self, what: impl FnOnce() -> String) {
        if self.trace.on {
            if self.trace.lines.len() == TRACE_MAX {
                self.trace.lines.pop_front();
            }
            self.trace.lines.push_back(what());
        }
    }

    pub fn guard(&self) -> Guard {
        if self.is(Mutant::NoGuard) {
            Guard::None
        } else if self.is(Mutant::GuardWithoutVersion) {
            Guard::Place
        } else {
            Guard::OwnerAndVersion
        }
    }

    pub fn add_sink(&mut self) {
        self.owners += 1;
        let speed = [1, 4, 16][self.random.below(3)];
        let budget = [1, 150, 100_000][self.random.below(3)];
        let name = format!("sink{}", self.sinks.len());
        self.sinks.push(Sink::new(name, self.owners, speed, budget));
    }

    pub fn add_source(&mut self) {
        let speed = [1, 4, 16][self.random.below(3)];
        let window = [1, 1, 3][self.random.below(3)];
        self.sources.push(Source::new(speed, window));
        let at = self.sources.len() - 1;
        self.say(|| format!("S{at} starts"));
    }

    pub fn end_source(&mut self, at: usize) {
        self.sources[at].alive = false;
        if self.leader.slot.holder == Some(at) {
            self.leader.slot.holder = None;
        }
    }

    fn is_done(&self) -> bool {
        let end = self.leader.last_end();
        let tables: BTreeSet<TableName> = self.wanted.iter().map(|table| name(*table)).collect();
        let newest = self.captured_in(self.truth.epoch);
        let current = self
            .wanted
            .iter()
            .all(|table| newest.get(&name(*table)) == Some(&self.leader.oid_now(*table)));
        current
            && self.sinks.iter().filter(|sink| !sink.halted).all(|sink| {
                let checkpoint = sink.follower.checkpoint.as_ref();
                checkpoint.is_some_and(|checkpoint| {
                    checkpoint.applied >= end
                        && checkpoint.in_effect == tables
                        && checkpoint.log.epoch == self.truth.epoch
                })
            })
    }

    /// Walks, then lets everything come through: in the end all followers show the leader.
    pub fn walk(&mut self) -> Walk {
        for _ in 0..self.scenario.steps {
            self.taken += 1;
            self.act()?;
        }
        if self.halted {
            return Ok(());
        }
        self.calm = true;
        self.say(|| "no more faults".to_owned());
        if self.scenario.copies && self.sinks.len() < 3 {
            self.add_sink();
        }
        for _ in 0..CALM_ROUNDS {
            self.calm_round()?;
            if self.is_done() || self.halted {
                return Ok(());
            }
        }
        let sinks: Vec<String> = self.sinks.iter().map(stand).collect();
        let phases: Vec<Phase> = self
            .sources
            .iter()
            .filter(|source| source.alive)
            .map(|source| source.phase)
            .collect();
        let what = format!(
            "the leader ends at {}, sources {phases:?}, sinks {}",
            self.leader.last_end(),
            sinks.join(", ")
        );
        Err(violation("stuck", what))
    }
}

/// Rounds without faults within which everything must have come through.
const CALM_ROUNDS: usize = 1_500;

fn stand(sink: &Sink) -> String {
    let Some(checkpoint) = &sink.follower.checkpoint else {
        return "nothing".to_owned();
    };
    let join = checkpoint.joins.first();
    let join = join.map_or("no join".to_owned(), |join| {
        format!("copy {} complete {}", join.copy, join.complete)
    });
    let tables = checkpoint.in_effect.len();
    format!("{} with {tables} tables, {join}", checkpoint.applied)
}
