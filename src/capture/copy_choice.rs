//! Which copy is made next: the tables that need one, in groups, those that failed by themselves.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use crate::error::Class;
use crate::log::copies::CopyLedger;
use crate::log::progress::Progress;
use crate::model::TableName;

/// First wait after a copy that failed.
pub const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// Longest wait after a copy that failed.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// Where the rows of a copy are read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadFrom {
    /// The leader.
    Leader,
    /// The follower of this sink.
    Follower(String),
}

impl fmt::Display for ReadFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadFrom::Leader => f.write_str("the leader"),
            ReadFrom::Follower(sink) => write!(f, "the follower of {sink}"),
        }
    }
}

/// Tables by where their copies are to be read, each once: what the leader is to be asked for anyway needs no
/// follower, and of several followers the first will do.
pub fn once(
    leader: BTreeSet<TableName>,
    followers: BTreeMap<String, BTreeSet<TableName>>,
) -> BTreeMap<ReadFrom, Vec<TableName>> {
    let mut seen = leader.clone();
    let mut all = BTreeMap::from([(ReadFrom::Leader, leader.into_iter().collect())]);
    for (sink, mut tables) in followers {
        tables.retain(|table| seen.insert(table.clone()));
        if !tables.is_empty() {
            let tables: Vec<TableName> = tables.into_iter().collect();
            all.insert(ReadFrom::Follower(sink), tables);
        }
    }
    all
}

/// Captured tables that need a copy: none in the log is good for them, or a sink asks for a newer
/// one. `made` are this epoch's copies by table: a wish for one above them that it cannot have seen
/// comes from another log and is passed over.
pub fn needed(
    captured: &[TableName],
    ledger: &CopyLedger,
    wishes: &BTreeMap<String, Progress>,
    made: &BTreeMap<TableName, i64>,
) -> Vec<TableName> {
    let wished = |table: &TableName| {
        wishes
            .values()
            .flat_map(|progress| &progress.wants)
            .filter(|want| want.table == *table)
            .any(|want| {
                !ledger.has(table, want.after)
                    && made.get(table).is_none_or(|&newest| newest == want.after)
            })
    };
    captured
        .iter()
        .filter(|table| ledger.lacks_first(table) || wished(table))
        .cloned()
        .collect()
}

/// Tables whose newest copy is as old as a copy may get.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outdated {
    /// The tables.
    pub tables: Vec<TableName>,
    /// After how long the next one will be; none: no other has a copy.
    pub next: Option<Duration>,
}

/// Captured tables whose newest complete copy was begun `every` ago or earlier, at `now_us` by the
/// leader's clock. One whose copies were trimmed from the log is among them, one that never had one is
/// not: it gets its first.
pub fn outdated(
    captured: &[TableName],
    ledger: &CopyLedger,
    every: Duration,
    now_us: i64,
) -> Outdated {
    let every_us = i64::try_from(every.as_micros()).unwrap_or(i64::MAX);
    let mut found = Outdated::default();
    let had_one = |table: &&TableName| {
        let is_on_its_way = ledger.newest_complete(table).is_none() && ledger.has(table, -1);
        !ledger.lacks_first(table) && !is_on_its_way
    };
    for table in captured.iter().filter(had_one) {
        // Where nothing was sampled since its begin it is new.
        let begun_us = ledger
            .newest_complete(table)
            .map(|copy| copy.begun_us.unwrap_or(now_us));
        let left_us = begun_us.map_or(0, |begun_us| {
            every_us.saturating_sub(now_us.saturating_sub(begun_us))
        });
        match u64::try_from(left_us) {
            Ok(left_us @ 1..) => {
                let left = Duration::from_micros(left_us);
                found.next = Some(found.next.map_or(left, |next| next.min(left)));
            }
            Ok(0) | Err(_) => found.tables.push(table.clone()),
        }
    }
    found
}

/// The tables of one copy, of those that need one with their bytes: the smallest first, as many as
/// stay below `max_bytes`, and one at least. What is unfinished when the source dies is repeated, and
/// a table comes into effect at followers when its group does.
pub fn group(mut tables: Vec<(u64, TableName)>, max_bytes: u64) -> Vec<TableName> {
    tables.sort();
    let mut sum = 0_u64;
    let fits = |(index, (bytes, _)): &(usize, (u64, TableName))| {
        sum = sum.saturating_add(*bytes);
        *index == 0 || sum <= max_bytes
    };
    let chosen = tables.into_iter().enumerate().take_while(fits);
    chosen.map(|(_, (_, table))| table).collect()
}

/// Tables whose copy failed in this epoch. Each is then copied by itself, with a back-off of its own,
/// so that one sick table does not keep the others from their copy.
#[derive(Debug, Default)]
pub struct Failures(BTreeMap<TableName, Failure>);

/// Failures by where the rows were to be read: a sick follower keeps no copy of the leader waiting.
#[derive(Debug, Default)]
pub struct AllFailures(BTreeMap<ReadFrom, Failures>);

impl AllFailures {
    /// What comes next of the tables that are wished for, the leader's first. Failures are forgotten where
    /// nothing is wished for any more.
    pub fn next(
        &mut self,
        wished: &BTreeMap<ReadFrom, Vec<TableName>>,
        now: Instant,
    ) -> (ReadFrom, Next) {
        self.0.retain(|from, _| wished.contains_key(from));
        let mut due: Option<Instant> = None;
        for (from, tables) in wished {
            match self.of(from).next(tables, now) {
                Next::Copy(tables) => return (from.clone(), Next::Copy(tables)),
                Next::WaitUntil(at) => due = due.into_iter().chain([at]).min(),
                Next::Wait => {}
            }
        }
        (ReadFrom::Leader, due.map_or(Next::Wait, Next::WaitUntil))
    }

    /// Those of copies that are read there.
    pub fn of(&mut self, from: &ReadFrom) -> &mut Failures {
        self.0.entry(from.clone()).or_default()
    }
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    /// When it is tried again.
    due: Instant,
    /// How long it waited for that.
    back_off: Duration,
}

/// What the maker of copies does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// One copy of these tables.
    Copy(Vec<TableName>),
    /// Nothing until then, or until a sink asks for something.
    WaitUntil(Instant),
    /// Nothing until a sink asks for something.
    Wait,
}

impl Failures {
    /// What comes next of the tables that need a copy.
    pub fn next(&self, needed: &[TableName], now: Instant) -> Next {
        let together: Vec<TableName> = needed
            .iter()
            .filter(|table| !self.0.contains_key(*table))
            .cloned()
            .collect();
        if !together.is_empty() {
            return Next::Copy(together);
        }
        let first = needed
            .iter()
            .filter_map(|table| Some((self.0.get(table)?.due, table)))
            .min();
        match first {
            Some((due, table)) if due <= now => Next::Copy(vec![table.clone()]),
            Some((due, _)) => Next::WaitUntil(due),
            None => Next::Wait,
        }
    }

    /// Notes a copy that failed. Where it was of several tables, which of them it was is not known.
    pub fn failed(&mut self, tables: &[TableName], class: Class, now: Instant) {
        for table in tables {
            let back_off = match (self.0.get(table), class) {
                _ if tables.len() > 1 => BACK_OFF_MIN,
                (_, Class::Halt | Class::Fenced) => BACK_OFF_MAX,
                (Some(before), Class::Transient) => (before.back_off * 2).min(BACK_OFF_MAX),
                (None, Class::Transient) => BACK_OFF_MIN,
            };
            let failure = Failure {
                due: now + back_off,
                back_off,
            };
            self.0.insert(table.clone(), failure);
        }
    }

    /// Notes tables that were copied.
    pub fn copied(&mut self, tables: &[TableName]) {
        for table in tables {
            self.0.remove(table);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::commit_log::{Captured, CopyBegin, CopyEnd, Entry, EpochEntry, Extents};
    use crate::log::progress::Want;
    use crate::model::{Epoch, Limits, Lsn, Oid};

    fn table(name: &str) -> TableName {
        TableName::new("public", name)
    }

    fn ledger(complete: &[(&str, i64)]) -> CopyLedger {
        let mut ledger = CopyLedger::new();
        let captured = ["a", "b"].map(|name| Captured {
            table: table(name),
            relation: Oid(1),
            limits: Limits::default(),
        });
        let epoch = EpochEntry {
            after: 0,
            instance: "i".into(),
            system_id: "s".into(),
            timeline: 1,
            captured: captured.to_vec(),
            dropped: Vec::new(),
        };
        ledger.valid(0, &Entry::Epoch(epoch));
        for &(name, id) in complete {
            let begin = CopyBegin {
                epoch: Epoch(0),
                number: 0,
                tables: vec![table(name)],
                at: None,
                offsets: BTreeMap::new(),
                indexes: Vec::new(),
            };
            let end = CopyEnd {
                epoch: Epoch(0),
                copy: id,
                point: Lsn(1),
                rows: Extents::new(),
            };
            ledger.valid(id, &Entry::CopyBegin(begin));
            ledger.valid(id + 1, &Entry::CopyEnd(end));
        }
        ledger
    }

    fn wishes(name: &str, after: i64) -> BTreeMap<String, Progress> {
        let progress = Progress {
            sink: "s".into(),
            applied: Lsn(0),
            log_offset: 0,
            wants: vec![Want {
                table: table(name),
                after,
            }],
        };
        BTreeMap::from([("s".into(), progress)])
    }

    #[test]
    fn tables_without_a_copy_and_tables_asked_for_are_copied() {
        let captured = [table("a"), table("b")];
        let none = BTreeMap::new();
        let made = BTreeMap::new();
        let need =
            |ledger: &CopyLedger,
             wishes: &BTreeMap<String, Progress>,
             made: &BTreeMap<TableName, i64>| needed(&captured, ledger, wishes, made);
        assert_eq!(need(&ledger(&[]), &none, &made), captured.to_vec());
        let all = ledger(&[("a", 10), ("b", 20)]);
        assert!(need(&all, &none, &made).is_empty());
        assert_eq!(need(&ledger(&[("a", 10)]), &none, &made), vec![table("b")]);
        assert!(
            need(&all, &wishes("a", -1), &made).is_empty(),
            "there is one"
        );
        assert_eq!(need(&all, &wishes("a", 10), &made), vec![table("a")]);
        assert!(need(&all, &wishes("gone", 10), &made).is_empty());
        let made = BTreeMap::from([(table("a"), 10)]);
        assert_eq!(need(&all, &wishes("a", 10), &made), vec![table("a")]);
        assert!(
            need(&all, &wishes("a", 99), &made).is_empty(),
            "a wish that no copy can fulfil is no endless loop"
        );
    }

    #[test]
    fn after_a_failed_copy_its_tables_are_copied_one_by_one_and_a_sick_one_blocks_nobody() {
        let (a, b, c) = (table("a"), table("b"), table("c"));
        let mut needed = vec![a.clone(), b.clone()];
        let mut failures = Failures::default();
        let mut now = Instant::now();
        assert_eq!(failures.next(&[], now), Next::Wait);
        assert_eq!(failures.next(&needed, now), Next::Copy(needed.clone()));
        failures.failed(&needed, Class::Halt, now);
        let due = now + BACK_OFF_MIN;
        assert_eq!(failures.next(&needed, now), Next::WaitUntil(due));
        needed.push(c.clone());
        let fresh = Next::Copy(vec![c.clone()]);
        assert_eq!(failures.next(&needed, now), fresh, "has not failed");
        needed.pop();

        now = due;
        assert_eq!(failures.next(&needed, now), Next::Copy(vec![a.clone()]));
        failures.failed(std::slice::from_ref(&a), Class::Transient, now);
        assert_eq!(failures.next(&needed, now), Next::Copy(vec![b.clone()]));
        failures.copied(std::slice::from_ref(&b));
        needed.pop();
        let mut waits = Vec::new();
        while waits.len() < 8 {
            let Next::WaitUntil(due) = failures.next(&needed, now) else {
                panic!("no back-off");
            };
            waits.push((due - now).as_secs());
            now = due;
            assert_eq!(failures.next(&needed, now), Next::Copy(vec![a.clone()]));
            failures.failed(&needed, Class::Transient, now);
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        failures.copied(&needed);
        assert_eq!(failures.next(&needed, now), Next::Copy(needed.clone()));
    }

    #[test]
    fn a_table_is_read_once_and_from_the_leader_if_it_is_to_be_read_there_anyway() {
        let set = |names: &[&str]| names.iter().map(|name| table(name)).collect();
        let followers = BTreeMap::from([
            ("x".to_owned(), set(&["a", "b"])),
            ("y".to_owned(), set(&["b"])),
            ("z".to_owned(), set(&["b", "c"])),
        ]);
        let of = |sink: &str| ReadFrom::Follower(sink.to_owned());
        assert_eq!(
            once(set(&["a"]), followers),
            BTreeMap::from([
                (ReadFrom::Leader, vec![table("a")]),
                (of("x"), vec![table("b")]),
                (of("z"), vec![table("c")]),
            ])
        );
    }

    #[test]
    fn the_leaders_copies_come_first_and_a_sick_follower_keeps_none_of_them_waiting() {
        let follower = ReadFrom::Follower("x".to_owned());
        let wished = |leader: &[&str], of_follower: &[&str]| {
            let names = |names: &[&str]| names.iter().map(|name| table(name)).collect::<Vec<_>>();
            once(
                names(leader).into_iter().collect(),
                BTreeMap::from([("x".to_owned(), names(of_follower).into_iter().collect())]),
            )
        };
        let (mut failures, now) = (AllFailures::default(), Instant::now());
        let nothing = wished(&[], &[]);
        assert_eq!(failures.next(&nothing, now), (ReadFrom::Leader, Next::Wait));
        let of = |from: &ReadFrom, name: &str| (from.clone(), Next::Copy(vec![table(name)]));
        let both = wished(&["a"], &["b"]);
        assert_eq!(failures.next(&both, now), of(&ReadFrom::Leader, "a"));
        let one = wished(&[], &["b"]);
        assert_eq!(failures.next(&one, now), of(&follower, "b"));
        failures
            .of(&follower)
            .failed(&[table("b")], Class::Halt, now);
        let (_, waits) = failures.next(&one, now);
        assert_eq!(waits, Next::WaitUntil(now + BACK_OFF_MAX));
        let both = wished(&["b"], &[]);
        assert_eq!(
            failures.next(&both, now),
            of(&ReadFrom::Leader, "b"),
            "the leader is another matter"
        );
        assert_eq!(
            failures.next(&one, now),
            of(&follower, "b"),
            "another request begins anew"
        );
    }

    #[test]
    fn a_copy_grows_old_by_the_leaders_clock_and_a_trimmed_one_is() {
        let captured = [table("a"), table("b")];
        let hour_us = 3_600_000_000_i64;
        let mut known = ledger(&[("a", 10)]);
        known.sampled(5 * hour_us);
        let begin = CopyBegin {
            epoch: Epoch(0),
            number: 0,
            tables: vec![table("b")],
            at: None,
            offsets: BTreeMap::new(),
            indexes: Vec::new(),
        };
        known.valid(20, &Entry::CopyBegin(begin));
        let every = Duration::from_secs(2 * 3600);
        let at = |known: &CopyLedger, hours: i64| {
            let found = outdated(&captured, known, every, hours * hour_us);
            (found.tables, found.next.map(|next| next.as_secs() / 3600))
        };
        // b has no complete one yet: its first is on its way.
        assert_eq!(at(&known, 6), (vec![], Some(1)));
        assert_eq!(at(&known, 7), (vec![table("a")], None));
        known.sampled(6 * hour_us);
        let end = CopyEnd {
            epoch: Epoch(0),
            copy: 20,
            point: Lsn(1),
            rows: Extents::new(),
        };
        known.valid(21, &Entry::CopyEnd(end));
        assert_eq!(at(&known, 6), (vec![], Some(1)), "counted from its begin");
        assert_eq!(at(&known, 7), (captured.to_vec(), None));
        assert_eq!(
            at(&known, 4),
            (vec![], Some(3)),
            "a clock that was set back"
        );
        known.cut(30);
        assert_eq!(at(&known, 6), (captured.to_vec(), None), "trimmed");
    }

    #[test]
    fn a_group_is_the_smallest_tables_that_fit_and_one_at_least() {
        let group = |sizes: &[(&str, u64)], max_bytes| {
            let tables = sizes.iter().map(|(name, bytes)| (*bytes, table(name)));
            let group = group(tables.collect(), max_bytes);
            group
                .into_iter()
                .map(|table| table.name)
                .collect::<Vec<_>>()
        };
        let sizes = [("big", 70), ("a", 10), ("empty", 0), ("b", 20)];
        assert_eq!(group(&sizes, 1000), ["empty", "a", "b", "big"]);
        assert_eq!(group(&sizes, 30), ["empty", "a", "b"]);
        assert_eq!(group(&sizes, 29), ["empty", "a"]);
        assert_eq!(group(&[("big", 70)], 5), ["big"]);
        assert_eq!(group(&[("x", u64::MAX), ("y", u64::MAX)], 5), ["x"]);
        assert!(group(&[], 5).is_empty());
    }
}
