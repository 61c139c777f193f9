//! What a follower durably knows of itself. It lives in the follower and is the only truth about
//! what the follower has.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Epoch, Lsn, Selection, TableName};

/// Next offset to read, by topic and partition.
pub type Cursors = BTreeMap<String, BTreeMap<i32, i64>>;

/// A reader's place in the commit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlace {
    /// Offset of the next entry to read.
    pub next_offset: i64,
    /// Current epoch; none before the first valid entry.
    pub epoch: Option<Epoch>,
    /// The log's `to` after the last valid entry; none before the first.
    pub to: Option<Lsn>,
    /// Offset of the last valid entry.
    pub last_valid: Option<i64>,
    /// Tables of the current epoch's captured set.
    pub captured: BTreeSet<TableName>,
    /// Whether the reader began at the log's low end and has not yet seen an entry.
    pub fresh: bool,
}

impl LogPlace {
    /// Captured tables that a sink takes and that are not among those in effect.
    pub fn lacks<'a>(
        &'a self,
        in_effect: &'a BTreeSet<TableName>,
        selection: &'a Selection,
    ) -> impl Iterator<Item = &'a TableName> {
        let captured = self.captured.iter();
        // Asked at every commit: matching patterns is the dearer of the two.
        captured.filter(|table| !in_effect.contains(table) && selection.takes(table))
    }

    /// Whether a reader that is to stop at the boundary `target` is there; `split`: how far it has applied
    /// the next entry already.
    pub fn is_at(&self, target: Option<Lsn>, split: Option<Lsn>) -> bool {
        let boundary = self.boundary(split);
        target.is_some_and(|target| boundary.is_some_and(|boundary| boundary >= target))
    }

    /// The boundary up to which a reader has read that has applied the next entry up to `split`; none: it has
    /// read nothing.
    pub fn boundary(&self, split: Option<Lsn>) -> Option<Lsn> {
        split.or(self.to)
    }
}

/// A follower's checkpoint: written in the same follower transaction as the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Grows by one at every durable step: the fence against a second worker and against an own
    /// COMMIT of unknown outcome.
    pub version: i64,
    /// Boundary up to which the tables in effect show the leader.
    pub applied: Lsn,
    /// Leader's clock at the last applied commit, microseconds since 2000-01-01 UTC.
    pub commit_time_us: Option<i64>,
    /// Main reader's place in the commit log.
    pub log: LogPlace,
    /// Main reader's cursors: partitions of the tables in effect.
    pub cursors: Cursors,
    /// Tables in effect.
    pub in_effect: BTreeSet<TableName>,
    /// Joins under way: copies being loaded.
    pub joins: Vec<Join>,
    /// Copy ids that were tried and found unusable, by table.
    pub refused: BTreeMap<String, BTreeSet<i64>>,
    /// The leader's system identifier, from the epoch entry.
    pub system_id: Option<String>,
    /// The leader's timeline, from the epoch entry.
    pub timeline: Option<u32>,
    /// Id of the Kafka cluster the log is in.
    pub cluster_id: Option<String>,
    /// The boundary at which the follower is to stop and stay; none: it follows.
    #[serde(default)]
    pub target: Option<Lsn>,
    /// A boundary inside of the entry at `log.next_offset`: what that entry has of transactions with a
    /// lower commit LSN is applied. `log` and `cursors` stand before the entry.
    #[serde(default)]
    pub split: Option<Lsn>,
    /// A boundary at which the follower is to stand for a moment, so that somebody can open a snapshot there.
    #[serde(default)]
    pub hold: Option<Hold>,
}

/// A moment at a boundary: it lasts as long as the database session that asked for it, and not beyond a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The boundary.
    pub at: Lsn,
    /// When it is over at the latest, by the follower's clock, microseconds since 1970.
    pub until_us: i64,
    /// Number of the lock that the session has while it wants the follower to stand.
    pub lock: i32,
}

impl Checkpoint {
    /// Of a follower that has nothing yet and reads the log from `log` on.
    pub fn beginning(version: i64, log: LogPlace) -> Self {
        Checkpoint {
            version,
            applied: Lsn::ZERO,
            commit_time_us: None,
            log,
            cursors: Cursors::new(),
            in_effect: BTreeSet::new(),
            joins: Vec::new(),
            refused: BTreeMap::new(),
            system_id: None,
            timeline: None,
            cluster_id: None,
            target: None,
            split: None,
            hold: None,
        }
    }

    /// The boundary at which its reader is to stop: to stay there, or for a moment.
    pub fn stops_at(&self) -> Option<Lsn> {
        self.target.or(self.hold.map(|hold| hold.at))
    }

    /// The boundary up to which the follower has read: its tables in effect show the leader there.
    pub fn boundary(&self) -> Lsn {
        self.log.boundary(self.split).unwrap_or(Lsn::ZERO)
    }

    /// Whether the follower has reached the boundary at which it is to stop.
    pub fn is_at_target(&self) -> bool {
        self.log.is_at(self.target, self.split)
    }

    /// Captured tables that the sink takes and that are not in effect.
    pub fn lacking(&self, selection: &Selection) -> BTreeSet<TableName> {
        self.lacks(selection).cloned().collect()
    }

    /// Whether every captured table that the sink takes is in effect. Until then the follower promises nothing.
    pub fn is_complete(&self, selection: &Selection) -> bool {
        self.log.epoch.is_some() && self.lacks(selection).next().is_none()
    }

    /// Whether the follower shows the boundary at which it is to stop, with every table that the sink takes.
    pub fn is_paused(&self, selection: &Selection) -> bool {
        // Asked at every commit, and most followers have no target.
        self.is_at_target() && self.is_complete(selection)
    }

    fn lacks<'a>(&'a self, selection: &'a Selection) -> impl Iterator<Item = &'a TableName> {
        self.log.lacks(&self.in_effect, selection)
    }
}

/// Tables of one copy on their way into effect. One row set, one second reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The copy: offset of its `copy_begin` entry.
    pub copy: i64,
    /// Tables of the copy that this join brings in.
    pub tables: BTreeSet<TableName>,
    /// The copy's point, known from `copy_end`.
    pub point: Option<Lsn>,
    /// Progress of the rows, by copy topic and partition.
    pub rows: BTreeMap<String, BTreeMap<i32, JoinRows>>,
    /// Whether all rows are loaded (counts came out at `copy_end`).
    pub complete: bool,
    /// The second reader's place in the commit log.
    pub log: LogPlace,
    /// The second reader's cursors in the tables' topics.
    pub cursors: Cursors,
    /// Changes of the entries that the second reader has passed, of whatever table.
    #[serde(default)]
    pub changes: u64,
}

/// How far the rows of one partition of a copy topic are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRows {
    /// Next offset to read.
    pub next_offset: i64,
    /// Last sequence number taken; -1 for none.
    pub sequence: i64,
    /// Rows (records) taken.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_that_knows_no_hold_is_read() {
        let hold = Hold {
            at: Lsn(40),
            until_us: 7,
            lock: 1,
        };
        let held = Checkpoint {
            hold: Some(hold),
            ..Checkpoint::beginning(
                3,
                LogPlace {
                    next_offset: 0,
                    epoch: None,
                    to: None,
                    last_valid: None,
                    captured: BTreeSet::new(),
                    fresh: true,
                },
            )
        };
        let mut state = serde_json::to_value(&held).expect("it is JSON");
        let read: Checkpoint = serde_json::from_value(state.clone()).expect("it is read");
        assert_eq!(read, held);
        state.as_object_mut().expect("an object").remove("hold");
        let old: Checkpoint = serde_json::from_value(state).expect("it is read");
        assert_eq!((old.hold, old.version), (None, 3));
    }

    #[test]
    fn a_follower_that_is_held_is_not_one_that_stays() {
        let mut place = LogPlace {
            next_offset: 1,
            epoch: Some(Epoch(0)),
            to: Some(Lsn(40)),
            last_valid: Some(0),
            captured: BTreeSet::new(),
            fresh: false,
        };
        let all = Selection::new(&["*.*".to_owned()], &[]);
        let mut checkpoint = Checkpoint {
            hold: Some(Hold {
                at: Lsn(40),
                until_us: 7,
                lock: 1,
            }),
            ..Checkpoint::beginning(3, place.clone())
        };
        assert_eq!(checkpoint.stops_at(), Some(Lsn(40)));
        assert!(!checkpoint.is_at_target() && !checkpoint.is_paused(&all));
        place.to = Some(Lsn(41));
        checkpoint.target = Some(Lsn(41));
        checkpoint.log = place;
        assert_eq!(checkpoint.stops_at(), Some(Lsn(41)));
        assert!(checkpoint.is_paused(&all));
    }
}
