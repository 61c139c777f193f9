use super::*;
use crate::error::Class;

const X: Lsn = Lsn(0x100);

fn log(to: Option<Lsn>) -> LogEnd {
    LogEnd {
        to,
        leader: Some(("7".to_owned(), 2)),
    }
}

fn leader() -> FoundLeader {
    FoundLeader {
        system_id: "7".to_owned(),
        timeline: 2,
        history: None,
        flush: Lsn(0x200),
        slot_confirmed: Lsn(0x80),
    }
}

#[track_caller]
fn halts(log: &LogEnd, leader: &FoundLeader, says: &str) {
    let error = may_resume(log, leader).expect_err("it must halt");
    assert_eq!(error.class(), Class::Halt);
    assert!(error.what().contains(says), "{error}");
    assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()));
}

#[test]
fn streaming_resumes_where_the_log_ends() {
    assert_eq!(may_resume(&log(Some(X)), &leader()).expect("resumes"), X);
    let exact = FoundLeader {
        slot_confirmed: X,
        flush: X,
        ..leader()
    };
    assert_eq!(may_resume(&log(Some(X)), &exact).expect("resumes"), X);
}

#[test]
fn a_log_without_boundary_resumes_where_the_slot_is() {
    for known in [None, Some(("7".to_owned(), 1))] {
        let end = LogEnd {
            to: None,
            leader: known,
        };
        assert_eq!(may_resume(&end, &leader()).expect("resumes"), Lsn(0x80));
    }
}

#[test]
fn a_slot_beyond_the_log_halts() {
    let moved = FoundLeader {
        slot_confirmed: Lsn(0x101),
        ..leader()
    };
    halts(&log(Some(X)), &moved, "confirmed to 0/101");
}

#[test]
fn a_leader_that_lost_wal_halts() {
    let short = FoundLeader {
        flush: Lsn(0xFF),
        ..leader()
    };
    halts(&log(Some(X)), &short, "WAL ends at 0/FF");
}

#[test]
fn another_system_halts_whatever_else_fits() {
    let other = FoundLeader {
        system_id: "8".to_owned(),
        ..leader()
    };
    halts(&log(Some(X)), &other, "system identifier 8");
    halts(&log(None), &other, "system identifier 8");
}

#[test]
fn a_new_timeline_is_followed_only_if_it_has_all_that_was_published() {
    let switch = |timeline, end| TimelineSwitch {
        timeline,
        end: Lsn(end),
    };
    let promoted = |history| FoundLeader {
        timeline: 3,
        history,
        ..leader()
    };
    let end = log(Some(X));
    let has_it = promoted(Some(vec![switch(1, 0x10), switch(2, 0x100)]));
    assert_eq!(may_resume(&end, &has_it).expect("resumes"), X);
    let lacks_it = promoted(Some(vec![switch(1, 0x10), switch(2, 0xFF)]));
    halts(&end, &lacks_it, "left that one at 0/FF");
    halts(&end, &promoted(Some(vec![switch(1, 0x10)])), "no ancestor");
    halts(&end, &promoted(None), "history");
}

#[test]
fn timeline_history_is_read_as_postgres_writes_it() {
    let text =
        "1\t0/5000158\tno recovery target specified\n\n# x\n2\t16/B374D848\tbefore 2000-01-01\n";
    let switches = parse_timeline_history(text).expect("a history");
    assert_eq!(switches.len(), 2);
    assert_eq!(switches[1].timeline, 2);
    assert_eq!(switches[1].end.to_string(), "16/B374D848");
    assert!(parse_timeline_history("1\n").is_err());
    assert!(
        parse_timeline_history("")
            .expect("timeline 1 has none")
            .is_empty()
    );
}

#[test]
fn a_leader_that_does_not_fit_takes_over_nothing_and_the_slot_is_judged_later() {
    let leader = leader();
    let end = log(Some(X));
    let moved = FoundLeader {
        slot_confirmed: Lsn(0x101),
        ..leader.clone()
    };
    may_lead(&end, &moved).expect("another source may have confirmed more");
    let other = FoundLeader {
        system_id: "8".to_owned(),
        ..leader.clone()
    };
    let promoted = FoundLeader {
        timeline: 3,
        history: Some(vec![TimelineSwitch {
            timeline: 2,
            end: Lsn(0xFF),
        }]),
        ..leader.clone()
    };
    let short = FoundLeader {
        flush: Lsn(0xFF),
        ..leader
    };
    for misfit in [other, promoted, short] {
        let error = may_lead(&end, &misfit).expect_err("it must not append its epoch entry");
        assert_eq!(error.class(), Class::Halt);
    }
}

fn own(instance: &str, after: i64) -> EpochEntry {
    EpochEntry {
        after,
        instance: instance.to_owned(),
        system_id: "7".to_owned(),
        timeline: 1,
        captured: vec![],
        dropped: Vec::new(),
    }
}

fn fate(entries: &[(i64, EpochEntry)], mine: &EpochEntry) -> EpochFate {
    let entries: Vec<_> = entries
        .iter()
        .map(|(offset, entry)| (*offset, Entry::Epoch(entry.clone())))
        .collect();
    epoch_fate(&mut LogPlace::at_low_end(0), &entries, mine).expect("no hole")
}

#[test]
fn the_first_valid_one_of_repeated_epoch_entries_is_the_epoch() {
    let (a, b) = (own("a", 0), own("b", 1));
    assert_eq!(
        fate(&[(0, a.clone()), (1, a.clone())], &a),
        EpochFate::Current(Epoch(0))
    );
    assert_eq!(
        fate(&[(0, a.clone()), (1, b.clone())], &b),
        EpochFate::Current(Epoch(1))
    );
    assert_eq!(fate(&[(0, a.clone()), (1, b.clone())], &a), EpochFate::Void);
    assert_eq!(fate(&[(0, b.clone()), (1, a.clone())], &a), EpochFate::Void);
    assert_eq!(fate(&[(0, b)], &a), EpochFate::NotSeen);
}

#[test]
fn an_epoch_entry_that_was_trimmed_away_is_not_seen_and_nobody_halts() {
    let later = Entry::Epoch(own("b", 13));
    let batch = Entry::Batch(crate::log::commit_log::BatchEntry {
        bytes: 0,
        epoch: Epoch(13),
        from: Lsn(0x2D),
        to: Lsn(0x38),
        last_commit: None,
        transactions: 0,
        changes: 0,
        offsets: Default::default(),
        sample: None,
    });
    let mut place = LogPlace::at_low_end(0);
    place.next_offset = 3;
    place.to = Some(Lsn(0x12));
    let fate = epoch_fate(&mut place, &[(13, later), (14, batch)], &own("a", 3));
    assert_eq!(fate.expect("no hole"), EpochFate::NotSeen);
    assert_eq!(place.to, Some(Lsn(0x38)));
}
