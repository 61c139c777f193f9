//! The list of faults: names, what they hit, and how long they last. Pure; `inject` does them.

use std::fmt;
use std::ops::RangeInclusive;

use rand::RngExt;
use rand::rngs::SmallRng;
use serde::Serialize;

/// One of the two followers, and the sink that feeds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Side {
    A,
    B,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::A, Side::B];

    /// Name of the sink.
    pub fn name(self) -> &'static str {
        match self {
            Side::A => "a",
            Side::B => "b",
        }
    }

    pub fn index(self) -> usize {
        match self {
            Side::A => 0,
            Side::B => 1,
        }
    }
}

/// A walferry process by what it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Role {
    Source,
    Sink(Side),
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Source, Role::Sink(Side::A), Role::Sink(Side::B)];

    /// Name of the connector.
    pub fn name(self) -> &'static str {
        match self {
            Role::Source => "leader",
            Role::Sink(side) => side.name(),
        }
    }
}

/// What can be killed or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Victim {
    Worker(Role),
    Leader,
    Follower(Side),
    Broker(u32),
    Brokers,
}

/// A link between two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Pair {
    SourceLeader,
    KafkaOf(Role),
    SinkFollower(Side),
    /// What the other brokers reach one by, to replicate from it.
    ToBroker(u32),
}

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Ill {
    /// Connections are closed and refused.
    Cut,
    /// Connections stay open and nothing passes.
    HalfOpen,
    /// Half a second of latency, with jitter.
    Slow,
    /// 100 kB a second.
    Narrow,
    /// Each connection is reset after its first bytes.
    Reset,
    /// Small pieces with pauses between.
    Sliced,
}

/// One fault, with all that its begin and end need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Fault {
    Kill(Victim),
    Pause(Victim),
    Link(Ill, Pair),
    DiskFull,
    ReadOnly(Side),
    Lock(Side),
    Quota,
    Walsender,
    /// Two of one kind at once; then one of them is killed.
    TwoSources {
        first_dies: bool,
    },
    /// The source stops (SIGSTOP) until another has taken over, then goes on.
    StaleSource {
        first_dies: bool,
    },
    TwoSinks(Side),
    StaleSink(Side),
    /// The clock of a walferry process jumps forward, then back.
    Clock(Role),
    /// A follower is emptied and begins with a new copy.
    Rebuild(Side),
    /// A table of the leader gets columns, which are renamed, written and dropped.
    Alter(&'static str),
    /// A follower is built anew from Kafka as of a moment ago, stays there, and follows again.
    Travel(Side),
    /// A copy is read from one follower while it follows; another is built anew from it.
    Lend {
        from: Side,
        to: Side,
    },
}

/// What two faults at once must not share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Worker(Role),
    Leader,
    Follower(Side),
    Kafka,
    Link(Pair),
    /// What columns tables have.
    Columns,
}

impl Fault {
    pub fn subjects(self) -> Vec<Subject> {
        let one = match self {
            Fault::Kill(victim) | Fault::Pause(victim) => match victim {
                Victim::Worker(role) => Subject::Worker(role),
                Victim::Leader => Subject::Leader,
                Victim::Follower(side) => Subject::Follower(side),
                Victim::Broker(_) | Victim::Brokers => Subject::Kafka,
            },
            Fault::Link(_, Pair::ToBroker(_)) => Subject::Kafka,
            Fault::Link(_, pair) => Subject::Link(pair),
            Fault::DiskFull => Subject::Follower(Side::B),
            Fault::ReadOnly(side) | Fault::Lock(side) => Subject::Follower(side),
            Fault::Quota => Subject::Kafka,
            Fault::Walsender => Subject::Leader,
            Fault::TwoSources { .. } | Fault::StaleSource { .. } => Subject::Worker(Role::Source),
            Fault::TwoSinks(side) | Fault::StaleSink(side) => Subject::Worker(Role::Sink(side)),
            Fault::Clock(role) => Subject::Worker(role),
            Fault::Alter(_) => Subject::Columns,
            Fault::Rebuild(side) => {
                let sink = Subject::Worker(Role::Sink(side));
                return vec![sink, Subject::Follower(side), Subject::Columns];
            }
            Fault::Travel(side) => {
                return vec![Subject::Worker(Role::Sink(side)), Subject::Follower(side)];
            }
            Fault::Lend { from, to } => {
                let sink = Subject::Worker(Role::Sink(to));
                let followers = [from, to].map(Subject::Follower);
                return [sink, Subject::Columns]
                    .into_iter()
                    .chain(followers)
                    .collect();
            }
        };
        vec![one]
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What a fault of a kind needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    Toxiproxy,
    SmallDisk,
    Faketime,
}

/// One row of the list that `--list` prints.
pub struct Kind {
    pub name: &'static str,
    pub what: &'static str,
    pub needs: Needs,
    /// How long it lasts, in milliseconds.
    pub hold_ms: RangeInclusive<u64>,
    /// Chooses the particulars.
    pub choose: fn(&mut SmallRng) -> Fault,
}

fn side(random: &mut SmallRng) -> Side {
    Side::BOTH[random.random_range(0..2)]
}

fn sink(random: &mut SmallRng) -> Role {
    Role::Sink(side(random))
}

fn broker(random: &mut SmallRng) -> Victim {
    Victim::Broker(node(random))
}

fn node(random: &mut SmallRng) -> u32 {
    random.random_range(1..=3)
}

const fn kind(
    name: &'static str,
    what: &'static str,
    needs: Needs,
    hold_ms: RangeInclusive<u64>,
    choose: fn(&mut SmallRng) -> Fault,
) -> Kind {
    Kind {
        name,
        what,
        needs,
        hold_ms,
        choose,
    }
}

/// Tables that are altered.
pub const ALTERED: [&str; 4] = ["accounts", "journal", "documents", "wanderers"];

use Needs::{Faketime, Nothing, SmallDisk, Toxiproxy};

/// Every kind of fault. Times: a source's session with the leader ends after 6 s of silence, a broker's
/// session after 3 s, librdkafka's requests after 20 s, a sink's statement after 5 s + 30 s.
#[rustfmt::skip]
pub const KINDS: &[Kind] = &[
    kind("kill-source", "kill -9 of the source", Nothing, 0..=4_000, |_| Fault::Kill(Victim::Worker(Role::Source))),
    kind("kill-sink", "kill -9 of a sink", Nothing, 0..=4_000, |r| Fault::Kill(Victim::Worker(sink(r)))),
    kind("kill-leader", "kill -9 of every process of the leader", Nothing, 0..=4_000, |_| Fault::Kill(Victim::Leader)),
    kind("kill-follower", "kill -9 of every process of a follower", Nothing, 0..=4_000, |r| Fault::Kill(Victim::Follower(side(r)))),
    kind("kill-broker", "kill -9 of a broker", Nothing, 1_000..=8_000, |r| Fault::Kill(broker(r))),
    kind("kill-brokers", "kill -9 of all brokers", Nothing, 1_000..=8_000, |_| Fault::Kill(Victim::Brokers)),
    kind("pause-source", "SIGSTOP of the source, for longer than the leader waits", Nothing, 3_000..=12_000, |_| Fault::Pause(Victim::Worker(Role::Source))),
    kind("pause-sink", "SIGSTOP of a sink", Nothing, 3_000..=12_000, |r| Fault::Pause(Victim::Worker(sink(r)))),
    kind("pause-leader", "SIGSTOP of every process of the leader", Nothing, 5_000..=15_000, |_| Fault::Pause(Victim::Leader)),
    kind("pause-follower", "SIGSTOP of every process of a follower", Nothing, 5_000..=45_000, |r| Fault::Pause(Victim::Follower(side(r)))),
    kind("pause-broker", "SIGSTOP of a broker, for longer than its session", Nothing, 5_000..=25_000, |r| Fault::Pause(broker(r))),
    kind("pause-brokers", "SIGSTOP of all brokers", Nothing, 5_000..=25_000, |_| Fault::Pause(Victim::Brokers)),
    kind("cut-source-leader", "connections closed and refused", Toxiproxy, 1_000..=8_000, |_| Fault::Link(Ill::Cut, Pair::SourceLeader)),
    kind("cut-source-kafka", "the same", Toxiproxy, 1_000..=8_000, |_| Fault::Link(Ill::Cut, Pair::KafkaOf(Role::Source))),
    kind("cut-sink-kafka", "the same", Toxiproxy, 1_000..=8_000, |r| Fault::Link(Ill::Cut, Pair::KafkaOf(sink(r)))),
    kind("cut-sink-follower", "the same", Toxiproxy, 1_000..=8_000, |r| Fault::Link(Ill::Cut, Pair::SinkFollower(side(r)))),
    kind("cut-broker", "the other brokers are cut off from one", Toxiproxy, 5_000..=15_000, |r| Fault::Link(Ill::Cut, Pair::ToBroker(node(r)))),
    kind("half-open-source-leader", "connections stay open, nothing passes", Toxiproxy, 8_000..=20_000, |_| Fault::Link(Ill::HalfOpen, Pair::SourceLeader)),
    kind("half-open-source-kafka", "the same", Toxiproxy, 8_000..=30_000, |_| Fault::Link(Ill::HalfOpen, Pair::KafkaOf(Role::Source))),
    kind("half-open-sink-kafka", "the same", Toxiproxy, 8_000..=30_000, |r| Fault::Link(Ill::HalfOpen, Pair::KafkaOf(sink(r)))),
    kind("half-open-sink-follower", "the same", Toxiproxy, 8_000..=45_000, |r| Fault::Link(Ill::HalfOpen, Pair::SinkFollower(side(r)))),
    kind("half-open-broker", "the same", Toxiproxy, 8_000..=30_000, |r| Fault::Link(Ill::HalfOpen, Pair::ToBroker(node(r)))),
    kind("slow-source-leader", "latency of 400 ms +- 200 each way", Toxiproxy, 4_000..=12_000, |_| Fault::Link(Ill::Slow, Pair::SourceLeader)),
    kind("slow-source-kafka", "the same", Toxiproxy, 4_000..=12_000, |_| Fault::Link(Ill::Slow, Pair::KafkaOf(Role::Source))),
    kind("slow-sink-kafka", "the same", Toxiproxy, 4_000..=12_000, |r| Fault::Link(Ill::Slow, Pair::KafkaOf(sink(r)))),
    kind("slow-sink-follower", "the same", Toxiproxy, 4_000..=12_000, |r| Fault::Link(Ill::Slow, Pair::SinkFollower(side(r)))),
    kind("slow-broker", "the same", Toxiproxy, 4_000..=12_000, |r| Fault::Link(Ill::Slow, Pair::ToBroker(node(r)))),
    kind("narrow-source-leader", "100 kB a second each way", Toxiproxy, 4_000..=12_000, |_| Fault::Link(Ill::Narrow, Pair::SourceLeader)),
    kind("narrow-source-kafka", "the same", Toxiproxy, 4_000..=12_000, |_| Fault::Link(Ill::Narrow, Pair::KafkaOf(Role::Source))),
    kind("narrow-sink-kafka", "the same", Toxiproxy, 4_000..=12_000, |r| Fault::Link(Ill::Narrow, Pair::KafkaOf(sink(r)))),
    kind("narrow-sink-follower", "the same", Toxiproxy, 4_000..=12_000, |r| Fault::Link(Ill::Narrow, Pair::SinkFollower(side(r)))),
    kind("narrow-broker", "the same", Toxiproxy, 4_000..=12_000, |r| Fault::Link(Ill::Narrow, Pair::ToBroker(node(r)))),
    kind("reset-source-leader", "each connection is reset 0.7 s after its first bytes", Toxiproxy, 3_000..=8_000, |_| Fault::Link(Ill::Reset, Pair::SourceLeader)),
    kind("reset-source-kafka", "the same", Toxiproxy, 3_000..=8_000, |_| Fault::Link(Ill::Reset, Pair::KafkaOf(Role::Source))),
    kind("reset-sink-kafka", "the same", Toxiproxy, 3_000..=8_000, |r| Fault::Link(Ill::Reset, Pair::KafkaOf(sink(r)))),
    kind("reset-sink-follower", "the same", Toxiproxy, 3_000..=8_000, |r| Fault::Link(Ill::Reset, Pair::SinkFollower(side(r)))),
    kind("reset-broker", "the same", Toxiproxy, 3_000..=8_000, |r| Fault::Link(Ill::Reset, Pair::ToBroker(node(r)))),
    kind("sliced-source-leader", "pieces of about 100 bytes with 1 ms between", Toxiproxy, 3_000..=8_000, |_| Fault::Link(Ill::Sliced, Pair::SourceLeader)),
    kind("sliced-source-kafka", "the same", Toxiproxy, 3_000..=8_000, |_| Fault::Link(Ill::Sliced, Pair::KafkaOf(Role::Source))),
    kind("sliced-sink-kafka", "the same", Toxiproxy, 3_000..=8_000, |r| Fault::Link(Ill::Sliced, Pair::KafkaOf(sink(r)))),
    kind("sliced-sink-follower", "the same", Toxiproxy, 3_000..=8_000, |r| Fault::Link(Ill::Sliced, Pair::SinkFollower(side(r)))),
    kind("sliced-broker", "the same", Toxiproxy, 3_000..=8_000, |r| Fault::Link(Ill::Sliced, Pair::ToBroker(node(r)))),
    kind("disk-full", "follower b's file system has no byte left", SmallDisk, 8_000..=15_000, |_| Fault::DiskFull),
    kind("read-only", "default_transaction_read_only on a follower", Nothing, 3_000..=10_000, |r| Fault::ReadOnly(side(r))),
    kind("lock", "a session holds ACCESS EXCLUSIVE on a follower's table", Nothing, 3_000..=12_000, |r| Fault::Lock(side(r))),
    kind("quota", "Kafka lets clients write 40 kB and read 80 kB a second", Nothing, 6_000..=12_000, |_| Fault::Quota),
    kind("walsender", "pg_terminate_backend of the slot's walsender, three times", Nothing, 1_000..=5_000, |_| Fault::Walsender),
    kind("two-sources", "a second source is started, then one of them is killed", Nothing, 3_000..=8_000, |r| Fault::TwoSources { first_dies: r.random() }),
    kind("stale-source", "SIGSTOP of the source, another takes over, the first goes on", Nothing, 12_000..=18_000, |r| Fault::StaleSource { first_dies: r.random() }),
    kind("two-sinks", "a second worker of a sink is started; the first is fenced", Nothing, 4_000..=8_000, |r| Fault::TwoSinks(side(r))),
    kind("stale-sink", "SIGSTOP of a sink, another takes over, the first goes on", Nothing, 5_000..=10_000, |r| Fault::StaleSink(side(r))),
    kind("clock-source", "the source's clock jumps an hour ahead, then two back", Faketime, 6_000..=10_000, |_| Fault::Clock(Role::Source)),
    kind("rebuild", "a follower is emptied, its checkpoint dropped; it is copied anew under load", Nothing, 0..=2_000, |r| Fault::Rebuild(side(r))),
    kind("alter", "columns are added to a table, renamed, written and dropped", Nothing, 2_000..=8_000, |r| Fault::Alter(ALTERED[r.random_range(0..ALTERED.len())])),
    // Not of b: what is replayed again and again from the first copy on does not fit on its small disk.
    kind("travel", "walferry rebuild --to-lsn of follower a, to a moment ago; then sink resume", Nothing, 1_000..=6_000, |_| Fault::Travel(Side::A)),
    kind("lend", "walferry copy --from b; then follower a is built anew from that copy by walferry rebuild", Nothing, 0..=2_000, |_| Fault::Lend { from: Side::B, to: Side::A }),
    kind("clock-sink", "the same of a sink", Faketime, 6_000..=10_000, |r| Fault::Clock(sink(r))),
];

/// The kinds that `--fault` names: a whole name, or its beginning up to a `-`.
pub fn named(names: &[String]) -> Result<Vec<&'static Kind>, String> {
    if names.is_empty() {
        return Ok(KINDS.iter().collect());
    }
    let fits = |kind: &Kind, name: &str| {
        kind.name == name
            || kind
                .name
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('-'))
    };
    if let Some(unknown) = names.iter().find(|n| !KINDS.iter().any(|k| fits(k, n))) {
        return Err(format!(
            "there is no fault {unknown}; --list names those there are"
        ));
    }
    Ok(KINDS
        .iter()
        .filter(|kind| names.iter().any(|name| fits(kind, name)))
        .collect())
}
