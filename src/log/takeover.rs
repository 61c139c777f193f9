//! Taking over as the source: what became of the own epoch entry, and where streaming may resume.
//!
//! The order is fixed (other orders lose data): read the log (X = its `to`), START_REPLICATION at
//! X, then read the leader and the slot's confirmed position, judge the leader, append the epoch
//! entry, find out whether it counts, and only then judge the slot. Read later or judged earlier, the
//! slot halts falsely; judged later, a leader that halts the source has taken over nevertheless.

use crate::error::{Error, NEW_PIPELINE, Result};
use crate::log::commit_log::{Entry, EpochEntry, Verdict, judge};
use crate::model::checkpoint::LogPlace;
use crate::model::{Epoch, Lsn};

/// What became of an epoch entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochFate {
    /// It counts, and its epoch is the current one.
    Current(Epoch),
    /// It is void, or another source has taken over since: begin again with reading.
    Void,
    /// It is not among the entries: read further.
    NotSeen,
}

/// Judges the log from `place` (a reader at the offset `own.after`) on, up to and including the
/// own epoch entry, and says what became of it. Where the log was trimmed meanwhile it is judged from
/// its low end on. The producer may have repeated the entry: the first
/// valid one gives the epoch, whatever offset the acknowledgement named.
///
/// `place` ends behind the last entry, fit for `Confirmations::new` when the epoch is current.
///
/// # Errors
/// Halt as [`judge`].
pub fn epoch_fate<'a>(
    place: &mut LogPlace,
    entries: impl IntoIterator<Item = &'a (i64, Entry)>,
    own: &EpochEntry,
) -> Result<EpochFate> {
    let (mut seen, mut epoch) = (false, None);
    for (offset, entry) in entries {
        if *offset < place.next_offset {
            continue;
        }
        place.behind_trim(*offset);
        let verdict = judge(place, *offset, entry)?;
        if matches!(entry, Entry::Epoch(epoch) if epoch == own) {
            seen = true;
            if verdict == Verdict::Valid {
                epoch = place.epoch;
            }
        }
    }
    Ok(match epoch {
        Some(epoch) if place.epoch == Some(epoch) => EpochFate::Current(epoch),
        Some(_) => EpochFate::Void,
        None if seen => EpochFate::Void,
        None => EpochFate::NotSeen,
    })
}

/// Where a timeline ended and the next one began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineSwitch {
    /// The timeline that ended.
    pub timeline: u32,
    /// Its last WAL position that the next one continues.
    pub end: Lsn,
}

/// Reads a timeline history file as `TIMELINE_HISTORY` returns it: lines of timeline, switch point
/// and reason, separated by white space; comments begin with `#`.
///
/// # Errors
/// Transient when a line cannot be read (`readTimeLineHistory` in Postgres's timeline.c fails on it too).
pub fn parse_timeline_history(text: &str) -> Result<Vec<TimelineSwitch>> {
    let mut switches = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        let timeline = words.next().and_then(|word| word.parse().ok());
        let end = words.next().and_then(|word| word.parse().ok());
        let (Some(timeline), Some(end)) = (timeline, end) else {
            return Err(Error::transient(
                "the leader's timeline history has a line that is not timeline, LSN and reason",
            ));
        };
        switches.push(TimelineSwitch { timeline, end });
    }
    Ok(switches)
}

/// What the log says of the leader, as read in the first step of a take-over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// The log's `to`; none: no entry has a boundary yet.
    pub to: Option<Lsn>,
    /// System identifier and timeline of the last valid epoch entry before the own one.
    pub leader: Option<(String, u32)>,
}

/// The leader as it was found after START_REPLICATION.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLeader {
    /// Its system identifier.
    pub system_id: String,
    /// Its timeline.
    pub timeline: u32,
    /// The history of that timeline; needed only when the log knows another timeline.
    pub history: Option<Vec<TimelineSwitch>>,
    /// Its flush position, read after START_REPLICATION.
    pub flush: Lsn,
    /// The slot's confirmed position, read after START_REPLICATION.
    pub slot_confirmed: Lsn,
}

/// Whether the log was written from the server with system identifier `found`, if from any.
///
/// # Errors
/// Halt when it was written from another.
pub fn same_system(log: &LogEnd, found: &str) -> Result<()> {
    match &log.leader {
        Some((known, _)) if known != found => Err(Error::halt(
            format!(
                "the leader has system identifier {found}, but the log was written from {known}: \
                 positions of two systems cannot be compared"
            ),
            format!("point the source's url back at the leader it had, or {NEW_PIPELINE}"),
        )),
        Some(_) | None => Ok(()),
    }
}

/// Whether this leader has all that the log was written from. To be judged *before* the epoch entry
/// is appended: once an entry that names another leader or timeline counts, the log itself says that
/// this is its leader, and the next source would resume on it. It is judged from what was read of
/// the log before, and halts nobody falsely, for the log only grows.
///
/// # Errors
/// Halt, each with its remedy: another system, a timeline that left before the log's end, WAL lost.
pub fn may_lead(log: &LogEnd, leader: &FoundLeader) -> Result<()> {
    same_system(log, &leader.system_id)?;
    let Some(resume) = log.to else {
        return Ok(());
    };
    if let Some((_, known)) = log.leader {
        check_timeline(resume, known, leader)?;
    }
    reachable(resume, "the commit log's end", leader)
}

/// Where streaming may resume: transactions that end at or before it are dropped. To be judged only
/// once the epoch entry is known to count: before, another source may have confirmed more.
///
/// # Errors
/// Halt, each with its remedy, when continuity between the log and this leader cannot be shown.
pub fn may_resume(log: &LogEnd, leader: &FoundLeader) -> Result<Lsn> {
    may_lead(log, leader)?;
    let confirmed = leader.slot_confirmed;
    let Some(resume) = log.to else {
        reachable(confirmed, "the slot's confirmed position", leader)?;
        return Ok(confirmed);
    };
    if confirmed > resume {
        return Err(Error::halt(
            format!(
                "the slot is confirmed to {confirmed}, but the commit log ends at {resume}: the changes \
                 between are no longer available"
            ),
            format!(
                "find out who else moves the slot, or why Kafka lost entries it had acknowledged; then \
                 {NEW_PIPELINE}"
            ),
        ));
    }
    Ok(resume)
}

fn reachable(resume: Lsn, what: &str, leader: &FoundLeader) -> Result<()> {
    if leader.flush < resume {
        return Err(Error::halt(
            format!(
                "{what} is {resume}, but the leader's WAL ends at {}: the leader has lost WAL that was \
                 already published (a restored backup, or a failover to a standby that lagged behind)",
                leader.flush
            ),
            format!("bring back the leader that has this WAL, or {NEW_PIPELINE}"),
        ));
    }
    Ok(())
}

fn check_timeline(resume: Lsn, known: u32, leader: &FoundLeader) -> Result<()> {
    let remedy = || format!("bring back the leader that was followed, or {NEW_PIPELINE}");
    if known == leader.timeline {
        return Ok(());
    }
    let Some(history) = &leader.history else {
        return Err(Error::halt(
            format!(
                "the leader is on timeline {} and the log on timeline {known}, and the leader does not \
                 have the timeline's history",
                leader.timeline
            ),
            remedy(),
        ));
    };
    let switch = history.iter().find(|switch| switch.timeline == known);
    match switch {
        Some(switch) if resume <= switch.end => Ok(()),
        Some(switch) => Err(Error::halt(
            format!(
                "the log ends at {resume} on timeline {known}, but the leader's timeline {} left that \
                 one at {}: it does not have all changes that were published",
                leader.timeline, switch.end
            ),
            remedy(),
        )),
        None => Err(Error::halt(
            format!(
                "the log was written from timeline {known}, which is no ancestor of the leader's \
                 timeline {}",
                leader.timeline
            ),
            remedy(),
        )),
    }
}

#[cfg(test)]
#[path = "takeover_tests.rs"]
mod tests;
