//! How a process is, in words: what an operator reads first, on the status page and in the terminal.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::report::{SinkReport, SourceReport};
use crate::config::values::print_size;
use crate::lag::Lag;
use crate::model::WalStatus;
use crate::status::{LastError, State};

/// A follower that is behind for longer is worth a look: the threshold of alert WalferryLagHigh.
pub const LAG_WATCH_SECONDS: f64 = 30.0;
/// A follower that is behind for longer is bad: the threshold of alert WalferryLagCritical.
pub const LAG_BAD_SECONDS: f64 = 300.0;
/// Kafka may expire what a follower needs within this time: the threshold of alert
/// WalferryRetentionHeadroomLow.
pub const HEADROOM_BAD_SECONDS: f64 = 86_400.0;
/// Followers that are told of one by one.
const TOLD_MAX: usize = 5;

/// How bad it is, from good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// In its normal work, and current.
    Good,
    /// Not as it should be for long, or on its way.
    Watch,
    /// Nobody knows.
    #[default]
    Unknown,
    /// Somebody should act.
    Bad,
}

/// All of it in words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The worst of what follows.
    pub level: Level,
    /// One sentence without an end: whether followers are current, and else which one is not.
    pub headline: String,
    /// What else is to be known, the worst first.
    pub facts: Vec<Fact>,
}

/// One thing to be known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub text: String,
    /// What to do.
    pub remedy: Option<String>,
}

/// How a sink is, by its state and its lag.
pub(super) fn standing(state: State, lag: &Lag) -> Level {
    let behind = match lag.seconds {
        Some(seconds) if seconds > LAG_BAD_SECONDS => Level::Bad,
        Some(seconds) if seconds > LAG_WATCH_SECONDS => Level::Watch,
        Some(_) => Level::Good,
        None => Level::Unknown,
    };
    let headroom = lag.retention_headroom_seconds;
    let expires = headroom.is_some_and(|left| left < HEADROOM_BAD_SECONDS);
    let kept = if expires && behind != Level::Good {
        Level::Bad
    } else {
        Level::Good
    };
    let by_state = match state {
        State::Halted | State::Fenced => Level::Bad,
        State::Retrying => Level::Watch.max(behind),
        State::Copying | State::Paused => Level::Watch,
        State::Starting | State::Waiting | State::Stopped => Level::Unknown,
        State::Streaming => behind,
    };
    by_state.max(kept)
}

impl Verdict {
    /// Of the parts of a process at this time.
    pub(super) fn of(source: Option<&SourceReport>, sinks: &[SinkReport], now: f64) -> Self {
        let mut facts = Vec::new();
        let followers = followers(sinks);
        let headline = match source.and_then(|source| source_trouble(source, now)) {
            Some((headline, fact)) => {
                facts.push(fact);
                if !sinks.is_empty() {
                    let level = sinks.iter().map(|sink| sink.standing).max();
                    facts.push(plain(level.unwrap_or_default(), followers));
                }
                headline
            }
            None => followers,
        };
        let mut worst: Vec<&SinkReport> =
            sinks.iter().filter(|s| s.standing > Level::Good).collect();
        worst.sort_by(|a, b| {
            let seconds = |sink: &SinkReport| sink.lag.seconds.unwrap_or_default();
            let by_lag = seconds(b).total_cmp(&seconds(a));
            b.standing.cmp(&a.standing).then(by_lag)
        });
        facts.extend(worst.iter().take(TOLD_MAX).map(|sink| sink_fact(sink, now)));
        if let Some(more) = worst.len().checked_sub(TOLD_MAX).filter(|more| *more > 0) {
            facts.push(plain(worst[TOLD_MAX].standing, format!("and {more} more")));
        }
        facts.extend(sinks.iter().filter_map(verified_fact));
        facts.extend(source.map(slot_fact));
        let level = facts.iter().map(|fact| fact.level).max();
        facts.sort_by_key(|fact| std::cmp::Reverse(fact.level));
        Verdict {
            level: level.unwrap_or(Level::Good),
            headline,
            facts,
        }
    }
}

/// The sentence about all followers.
fn followers(sinks: &[SinkReport]) -> String {
    let worst = sinks.iter().map(|sink| sink.standing).max();
    let in_states = |states: &[State]| -> Vec<&SinkReport> {
        let all = sinks.iter();
        all.filter(|sink| states.contains(&sink.view.state))
            .collect()
    };
    let behind: Vec<&SinkReport> = sinks
        .iter()
        .filter(|s| s.lag.seconds.is_some_and(|lag| lag > LAG_WATCH_SECONDS))
        .collect();
    let unknown: Vec<&SinkReport> = sinks.iter().filter(|s| s.lag.seconds.is_none()).collect();
    let groups = [
        (in_states(&[State::Halted]), "has halted", "have halted"),
        (
            in_states(&[State::Fenced]),
            "was taken over",
            "were taken over",
        ),
        (
            in_states(&[State::Retrying]),
            "cannot go on and tries again",
            "cannot go on and try again",
        ),
        (
            in_states(&[State::Paused]),
            "is paused at the position it was to stop at",
            "are paused at the positions they were to stop at",
        ),
        (behind, "is behind", "are behind"),
        (
            in_states(&[State::Copying]),
            "is being copied",
            "are being copied",
        ),
        (
            in_states(&[State::Starting, State::Waiting]),
            "is starting",
            "are starting",
        ),
        (in_states(&[State::Stopped]), "has stopped", "have stopped"),
        (
            unknown,
            "has a lag that nobody knows",
            "have a lag that nobody knows",
        ),
    ];
    let group = groups.into_iter().find(|(of, ..)| !of.is_empty());
    match (sinks.len(), worst, group) {
        (0, ..) => "No sink runs in this process".to_owned(),
        (1, _, Some((_, is, _))) => format!("{} {is}", sinks[0].name),
        (all, _, Some((of, is, _))) if of.len() == 1 => {
            format!("{} {is}, one of {all} followers", of[0].name)
        }
        (all, _, Some((of, _, are))) if of.len() == all => format!("All {all} followers {are}"),
        (all, _, Some((of, _, are))) => format!("{} of {all} followers {are}", of.len()),
        (1, Some(Level::Good), None) => format!("{} is current", sinks[0].name),
        (all, _, None) => format!("All {all} followers are current"),
    }
}

/// What keeps the source from its work.
fn source_trouble(source: &SourceReport, now: f64) -> Option<(String, Fact)> {
    let view = &source.view;
    let (headline, level) = match view.state {
        State::Streaming | State::Copying | State::Paused => return None,
        State::Halted => (
            "The source has halted: nothing new reaches Kafka",
            Level::Bad,
        ),
        State::Fenced => ("Another source has taken over", Level::Bad),
        State::Retrying => (
            "The source does not stream: how far followers are is not known",
            Level::Bad,
        ),
        State::Waiting => ("Another source has the slot; this one waits", Level::Watch),
        State::Starting => ("The source is starting", Level::Unknown),
        State::Stopped => ("The source has stopped", Level::Unknown),
    };
    let since = since(source.since_unix_seconds, now);
    let named = format!("{} is {}{since}", source.name, view.state.name());
    Some((
        headline.to_owned(),
        with_error(level, named, view.last_error.as_ref()),
    ))
}

fn sink_fact(sink: &SinkReport, now: f64) -> Fact {
    let view = &sink.view;
    let since = since(sink.since_unix_seconds, now);
    let mut named = format!("{} is {}", sink.name, view.state.name());
    if view.state != State::Streaming {
        named.push_str(&since);
    }
    match (sink.lag.seconds, sink.lag.bytes) {
        (Some(seconds), Some(bytes)) if seconds > 0.0 => {
            named.push_str(&format!(
                ", behind for {} and {}",
                print_span(seconds),
                print_size(bytes)
            ));
        }
        (Some(seconds), None) if seconds > 0.0 => {
            named.push_str(&format!(", behind for {}", print_span(seconds)));
        }
        (None, _) if view.state == State::Streaming => {
            let stale = sink.lag.staleness_seconds;
            let stale = stale.map(|at| format!("; it shows the leader of {} ago", print_span(at)));
            named.push_str(&format!(
                ", and how far behind is not known{}",
                stale.unwrap_or_default()
            ));
        }
        _ => {}
    }
    let headroom = sink.lag.retention_headroom_seconds;
    if let Some(left) =
        headroom.filter(|left| *left < HEADROOM_BAD_SECONDS && sink.lag.seconds != Some(0.0))
    {
        named.push_str(&format!(
            "; Kafka may expire what it needs in {}",
            print_span(left)
        ));
    }
    if let (State::Paused, Some(target)) = (view.state, view.target) {
        return Fact {
            level: sink.standing,
            text: format!("{named}: it shows the leader at {target}, as it was ordered to"),
            remedy: Some(format!(
                "walferry sink resume {} lets it follow again",
                sink.name
            )),
        };
    }
    let error = view.last_error.as_ref();
    let stands = !matches!(view.state, State::Streaming | State::Copying);
    with_error(sink.standing, named, error.filter(|_| stands))
}

/// What the newest comparison with the leader found, if it is not good.
fn verified_fact(sink: &SinkReport) -> Option<Fact> {
    let verified = sink.view.verified.filter(|found| found.differing > 0)?;
    Some(Fact {
        level: Level::Bad,
        text: format!(
            "{} differed from the leader in {} rows when it was last verified",
            sink.name, verified.differing
        ),
        remedy: Some(format!("walferry verify {} names them", sink.name)),
    })
}

/// Whether the leader's disk is at risk.
fn slot_fact(source: &SourceReport) -> Fact {
    let Some(slot) = &source.view.slot else {
        return plain(
            Level::Unknown,
            "Whether the leader keeps WAL for the slot is not known".to_owned(),
        );
    };
    let kept = slot.retained_bytes.map(print_size);
    let keeps = match kept {
        Some(kept) => format!("The leader keeps {kept} of WAL for the slot"),
        None => "The leader does not say how much WAL it keeps for the slot".to_owned(),
    };
    let left = match slot.safe_bytes {
        Some(left) => format!(
            "; {} more may be written before the slot is in danger",
            print_size(left)
        ),
        None => "; no limit is set, its disk is the limit".to_owned(),
    };
    let active = if slot.active {
        ""
    } else {
        "; nobody streams from it"
    };
    match slot.wal_status {
        Some(WalStatus::Lost) => {
            plain(Level::Bad, "The slot has lost WAL that it needs".to_owned())
        }
        Some(WalStatus::Unreserved) => plain(
            Level::Bad,
            format!("{keeps}, and may remove it at its next checkpoint{active}"),
        ),
        Some(WalStatus::Extended) => plain(
            Level::Watch,
            format!("{keeps}, more than max_wal_size{left}{active}"),
        ),
        Some(WalStatus::Reserved) | None => plain(Level::Good, format!("{keeps}{left}{active}")),
    }
}

fn plain(level: Level, text: String) -> Fact {
    Fact {
        level,
        text,
        remedy: None,
    }
}

fn with_error(level: Level, named: String, error: Option<&LastError>) -> Fact {
    Fact {
        level,
        text: match error {
            Some(error) => format!("{named}: {}", error.what),
            None => named,
        },
        remedy: error.and_then(|error| error.remedy.clone()),
    }
}

fn since(unix_seconds: Option<u64>, now: f64) -> String {
    let span = unix_seconds.map(|since| (now - since as f64).max(0.0));
    span.map_or_else(String::new, |span| format!(" for {}", print_span(span)))
}

/// A time for people: `3.2 s`, `4m 12s`.
pub(crate) fn print_span(seconds: f64) -> String {
    if seconds < 100.0 {
        return format!("{seconds:.1} s");
    }
    humantime::format_duration(Duration::from_secs(seconds as u64)).to_string()
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
