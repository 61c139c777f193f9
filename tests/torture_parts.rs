//! The parts of the torture test that need no servers: its schedule, and the independent judge of
//! the commit log.

#![allow(dead_code)] // the test uses a part of what `./dev torture` does

use std::collections::BTreeMap;

use serde_json::json;

#[path = "torture/fault.rs"]
mod fault;
#[path = "torture/independent/log.rs"]
mod log;
#[path = "torture/lsn.rs"]
mod lsn;
#[path = "torture/schedule.rs"]
mod schedule;

use fault::{KINDS, Kind, named};
use schedule::{Step, schedule};

fn all() -> Vec<&'static Kind> {
    named(&[]).unwrap()
}

fn faults(step: &Step) -> Vec<&schedule::Planned> {
    let second = step.second.as_ref().map(|(_, planned)| planned);
    [Some(&step.first), second].into_iter().flatten().collect()
}

#[test]
fn a_schedule_follows_from_the_seed_alone() {
    assert_eq!(schedule(7, 5.0, &all()), schedule(7, 5.0, &all()));
    assert_ne!(schedule(7, 5.0, &all()), schedule(8, 5.0, &all()));
}

#[test]
fn a_longer_run_begins_as_the_shorter_one() {
    let (short, long) = (schedule(3, 1.0, &all()), schedule(3, 9.0, &all()));
    assert!(!short.is_empty() && short.len() < long.len());
    assert_eq!(short, long[..short.len()]);
}

#[test]
fn every_kind_comes_before_one_comes_again() {
    for seed in 0..50 {
        let mut times: BTreeMap<&str, usize> = KINDS.iter().map(|k| (k.name, 0)).collect();
        for step in schedule(seed, 60.0, &all()) {
            for planned in faults(&step) {
                *times.get_mut(planned.name).unwrap() += 1;
            }
        }
        // A drawn fault is put aside when its subject is taken by the first one.
        assert!(times.values().all(|n| *n > 0), "seed {seed}: {times:?}");
    }
}

#[test]
fn two_faults_at_once_never_hit_the_same_part() {
    for seed in 0..200 {
        for step in schedule(seed, 30.0, &all()) {
            if let Some((at, second)) = &step.second {
                let taken = step.first.fault.subjects();
                let mut others = second.fault.subjects().into_iter();
                assert!(!others.any(|subject| taken.contains(&subject)), "{step}");
                assert!(*at <= step.first.hold_ms, "{step}");
            }
        }
    }
}

#[test]
fn faults_are_named_whole_or_by_their_beginning() {
    let names = |of: &[&str]| -> Vec<&str> {
        let of: Vec<String> = of.iter().map(|n| (*n).to_owned()).collect();
        named(&of).unwrap().iter().map(|k| k.name).collect()
    };
    assert_eq!(names(&["kill-sink"]), ["kill-sink"]);
    assert_eq!(names(&["cut"]).len(), 5);
    assert!(named(&["kil".to_owned()]).is_err());
}

#[test]
fn the_judge_passes_over_what_is_void_or_repeated_and_stops_at_a_hole() {
    let epoch = |after: u64| json!({"kind": "epoch", "after": after});
    let batch = |epoch: u64, from: &str, to: &str| {
        json!({"kind": "batch", "epoch": epoch, "from": from, "to": to,
               "offsets": {"p.public.t": {"0": {"last": 4, "count": 2}}}})
    };
    let mut log = log::Log::default();
    let entries = [
        epoch(0),
        batch(0, "0/10", "0/20"),
        batch(0, "0/10", "0/20"), // a producer repeats itself
        epoch(1),                 // written without having seen the batch: void
        batch(3, "0/20", "0/30"),
        epoch(4),
        batch(0, "0/20", "0/40"), // of a source that was superseded
        batch(5, "0/20", "0/28"),
    ];
    for (offset, entry) in (0..).zip(&entries) {
        log.take(offset, entry.to_string().as_bytes()).unwrap();
    }
    assert_eq!((log.epochs, log.void, log.repeats), (2, 3, 1));
    let taken: Vec<_> = log
        .batches
        .iter()
        .map(|b| (b.epoch, b.from, b.to))
        .collect();
    assert_eq!(taken, [(0, 0x10, 0x20), (5, 0x20, 0x28)]);
    let hole = batch(5, "0/30", "0/40").to_string();
    assert!(log.take(8, hole.as_bytes()).is_err());
}
