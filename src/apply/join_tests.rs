use super::*;
use crate::log::commit_log::{Captured, CopyBegin, CopyEnd, Entry, EpochEntry, Extent, judge};
use crate::log::topics::Topics;
use crate::model::selection::Selection;
use crate::model::{Epoch, Limits, Lsn, Oid};

fn table(name: &str) -> TableName {
    TableName::new("public", name)
}

fn terms() -> Terms {
    Terms {
        topics: Topics::new("p"),
        selection: Selection::new(&["*.*".to_owned()], &["public.not_*".to_owned()]),
        takes_copies: true,
        moves_tables: false,
    }
}

fn epoch(after: i64, tables: &[(&str, u32)]) -> Entry {
    Entry::Epoch(EpochEntry {
        after,
        instance: "i".to_owned(),
        system_id: "1".to_owned(),
        timeline: 1,
        captured: tables
            .iter()
            .map(|(name, oid)| Captured {
                table: table(name),
                relation: Oid(*oid),
                limits: Limits::default(),
            })
            .collect(),
        dropped: Vec::new(),
    })
}

fn begin(epoch: u64, at: Option<Lsn>, tables: &[&str]) -> Entry {
    let topics = terms().topics;
    let all = tables
        .iter()
        .flat_map(|name| [topics.table(&table(name)), topics.copy(&table(name))]);
    Entry::CopyBegin(CopyBegin {
        epoch: Epoch(epoch),
        number: 0,
        tables: tables.iter().map(|name| table(name)).collect(),
        at,
        offsets: all.map(|topic| (topic, [(0, 7)].into())).collect(),
        indexes: Vec::new(),
    })
}

fn end(epoch: u64, copy: i64, tables: &[&str]) -> Entry {
    let topics = terms().topics;
    let extent = Extent { last: 9, count: 3 };
    Entry::CopyEnd(CopyEnd {
        epoch: Epoch(epoch),
        copy,
        point: Lsn(50),
        rows: tables
            .iter()
            .map(|name| (topics.copy(&table(name)), [(0, extent)].into()))
            .collect(),
    })
}

/// A checkpoint and a ledger behind these entries of a log that begins at offset 0.
fn behind(entries: &[Entry]) -> (Checkpoint, CopyLedger) {
    let (mut place, mut ledger) = (LogPlace::at_low_end(0), CopyLedger::new());
    for (offset, entry) in (0..).zip(entries) {
        judge(&mut place, offset, entry).expect("no hole");
        if place.last_valid == Some(offset) {
            ledger.valid(offset, entry);
        }
    }
    (Checkpoint::beginning(4, place), ledger)
}

fn begun(checkpoint: &Checkpoint, ledger: &CopyLedger) -> Join {
    match next_join_step(checkpoint, ledger, &terms()) {
        JoinStep::Begin(join) => join,
        other => panic!("expected a join to begin, not {other:?}"),
    }
}

/// The join with all its rows, caught up to the checkpoint.
fn caught_up(mut join: Join, checkpoint: &Checkpoint) -> Join {
    join.complete = true;
    join.point = Some(Lsn(50));
    join.log = checkpoint.log.clone();
    join
}

#[test]
fn without_a_copy_one_is_asked_for_but_only_for_tables_that_are_taken() {
    let (checkpoint, ledger) = behind(&[epoch(0, &[("a", 1), ("not_b", 2)])]);
    assert_eq!(
        next_join_step(&checkpoint, &ledger, &terms()),
        JoinStep::Ask
    );
    let wanted = wants(&checkpoint, &ledger, &terms());
    assert_eq!(
        wanted,
        [Want {
            table: table("a"),
            after: -1
        }]
    );
}

#[test]
fn a_complete_copy_comes_before_a_running_one() {
    let entries = [
        epoch(0, &[("a", 1), ("b", 2)]),
        begin(0, None, &["a"]),
        end(0, 1, &["a"]),
        begin(0, None, &["a", "b"]),
    ];
    let (checkpoint, ledger) = behind(&entries);
    let join = begun(&checkpoint, &ledger);
    assert_eq!((join.copy, &join.tables), (1, &[table("a")].into()));
    assert_eq!(join.log.next_offset, 2);
    assert_eq!(join.cursors["p.public.a"][&0], 7);
    assert_eq!(join.rows["p.copy.public.a"][&0].sequence, -1);
    // One that cannot be finished is still asked for.
    let wanted = wants(&checkpoint, &ledger, &terms());
    assert_eq!(
        wanted,
        [Want {
            table: table("b"),
            after: -1
        }]
    );
}

#[test]
fn a_copy_that_was_given_up_is_not_tried_again_and_a_newer_one_is_wanted() {
    let entries = [
        epoch(0, &[("a", 1)]),
        begin(0, None, &["a"]),
        end(0, 1, &["a"]),
    ];
    let (checkpoint, ledger) = behind(&entries);
    let joined = with_join(&checkpoint, begun(&checkpoint, &ledger));
    let given_up = given_up(&joined, &[table("a")].into(), &terms());
    assert!(given_up.joins.is_empty());
    assert_eq!(given_up.version, checkpoint.version + 2);
    assert_eq!(next_join_step(&given_up, &ledger, &terms()), JoinStep::Ask);
    let wanted = wants(&given_up, &ledger, &terms());
    assert_eq!(
        wanted,
        [Want {
            table: table("a"),
            after: 1
        }]
    );
}

#[test]
fn a_table_comes_into_effect_only_at_the_checkpoints_own_place_and_not_before_the_point() {
    let entries = [
        epoch(0, &[("a", 1)]),
        begin(0, None, &["a"]),
        end(0, 1, &["a"]),
    ];
    let (mut checkpoint, ledger) = behind(&entries);
    checkpoint.log.to = Some(Lsn(49));
    let mut join = caught_up(begun(&checkpoint, &ledger), &checkpoint);
    let step = |checkpoint: &Checkpoint, join: &Join| {
        next_join_step(&with_join(checkpoint, join.clone()), &ledger, &terms())
    };
    assert_eq!(step(&checkpoint, &join), JoinStep::AwaitMain);
    checkpoint.log.to = Some(Lsn(50));
    assert_eq!(step(&checkpoint, &join), JoinStep::TakeEffect);
    // The other tables are further than the place says: the rest of the entry comes first.
    checkpoint.split = Some(Lsn(55));
    assert_eq!(step(&checkpoint, &join), JoinStep::AwaitMain);
    checkpoint.split = None;
    join.log.next_offset -= 1;
    assert_eq!(step(&checkpoint, &join), JoinStep::Load);
    join.log.next_offset += 1;
    join.complete = false;
    assert_eq!(step(&checkpoint, &join), JoinStep::Load);
}

#[test]
fn tables_in_effect_take_the_joins_cursors_and_forget_refusals() {
    let entries = [
        epoch(0, &[("a", 1)]),
        begin(0, None, &["a"]),
        end(0, 1, &["a"]),
    ];
    let (mut checkpoint, ledger) = behind(&entries);
    checkpoint.refused.insert(table("a").quoted(), [0].into());
    let join = caught_up(begun(&checkpoint, &ledger), &checkpoint);
    let next = taken_effect(&with_join(&checkpoint, join));
    assert_eq!(next.in_effect, [table("a")].into());
    assert_eq!(next.cursors["p.public.a"][&0], 7);
    assert!(next.joins.is_empty() && next.refused.is_empty());
    assert_eq!(next_join_step(&next, &ledger, &terms()), JoinStep::Nothing);
}

#[test]
#[should_panic(expected = "another place")]
fn a_join_behind_the_checkpoint_never_comes_into_effect() {
    let entries = [
        epoch(0, &[("a", 1)]),
        begin(0, None, &["a"]),
        end(0, 1, &["a"]),
    ];
    let (checkpoint, ledger) = behind(&entries);
    let mut join = caught_up(begun(&checkpoint, &ledger), &checkpoint);
    join.log.next_offset -= 1;
    taken_effect(&with_join(&checkpoint, join));
}

#[test]
fn a_running_copy_is_void_after_an_epoch_and_after_a_later_copy_of_its_table() {
    let running = [epoch(0, &[("a", 1), ("b", 2)]), begin(0, None, &["a", "b"])];
    let (checkpoint, ledger) = behind(&running);
    let joined = with_join(&checkpoint, begun(&checkpoint, &ledger));
    let after = |entry: Entry| {
        let mut ledger = ledger.clone();
        ledger.valid(2, &entry);
        next_join_step(&joined, &ledger, &terms())
    };
    let both = JoinStep::GiveUp([table("a"), table("b")].into());
    assert_eq!(after(epoch(2, &[("a", 1), ("b", 2)])), both);
    assert_eq!(
        after(begin(0, None, &["b"])),
        JoinStep::GiveUp([table("b")].into())
    );
}

#[test]
fn a_table_that_left_or_came_back_as_another_is_given_up() {
    let entries = [
        epoch(0, &[("a", 1)]),
        begin(0, None, &["a"]),
        end(0, 1, &["a"]),
    ];
    let (checkpoint, ledger) = behind(&entries);
    let joined = with_join(&checkpoint, begun(&checkpoint, &ledger));
    let mut filtered = epoch(3, &[("a", 1)]);
    if let Entry::Epoch(epoch) = &mut filtered {
        epoch.captured[0].limits.row_filter = Some("(id > 1)".to_owned());
    }
    for next in [epoch(3, &[]), epoch(3, &[("a", 9)]), filtered] {
        let mut ledger = ledger.clone();
        ledger.valid(3, &next);
        let step = next_join_step(&joined, &ledger, &terms());
        assert_eq!(step, JoinStep::GiveUp([table("a")].into()));
    }
}

#[test]
fn the_log_is_needed_from_the_copy_and_from_the_epoch_on() {
    let entries = [
        epoch(0, &[("a", 1)]),
        begin(0, None, &["a"]),
        end(0, 1, &["a"]),
        epoch(3, &[("a", 1)]),
    ];
    let (checkpoint, ledger) = behind(&entries);
    assert_eq!(oldest_needed(&checkpoint), 3);
    assert_eq!(
        oldest_needed(&with_join(&checkpoint, begun(&checkpoint, &ledger))),
        1
    );
}

#[test]
fn the_main_reader_stands_still_only_for_a_joins_last_steps() {
    let entries = [
        epoch(0, &[("a", 1)]),
        begin(0, None, &["a"]),
        end(0, 1, &["a"]),
    ];
    let (mut checkpoint, ledger) = behind(&entries);
    let begun = begun(&checkpoint, &ledger);
    checkpoint.log.to = Some(Lsn(50));
    let mut join = caught_up(begun, &checkpoint);
    let place = checkpoint.log.next_offset;
    let holds = |checkpoint: &Checkpoint, join: &Join, gap: i64| {
        let mut checkpoint = checkpoint.clone();
        checkpoint.log.next_offset = place + gap;
        holds_main(&with_join(&checkpoint, join.clone()))
    };
    assert!(!holds_main(&checkpoint), "there is no join");
    let held: Vec<bool> = [0, 1, 64, 65]
        .map(|gap| holds(&checkpoint, &join, gap))
        .to_vec();
    assert_eq!(held, [false, true, true, false]);
    join.complete = false;
    assert!(!holds(&checkpoint, &join, 1), "rows are missing");
    join.complete = true;
    checkpoint.log.to = Some(Lsn(49));
    assert!(!holds(&checkpoint, &join, 1), "the point is still ahead");
}

#[test]
fn a_table_comes_into_effect_under_a_load_that_never_ends() {
    let entries = [
        epoch(0, &[("a", 1)]),
        begin(0, None, &["a"]),
        end(0, 1, &["a"]),
    ];
    let (mut checkpoint, ledger) = behind(&entries);
    checkpoint.log.to = Some(Lsn(50));
    let join = caught_up(begun(&checkpoint, &ledger), &checkpoint);
    checkpoint.log.next_offset += 500;
    let mut checkpoint = with_join(&checkpoint, join);
    for _step in 0..10 {
        match next_join_step(&checkpoint, &ledger, &terms()) {
            JoinStep::TakeEffect => return,
            JoinStep::Load => {}
            other => panic!("{other:?}"),
        }
        // A step of the loader ends where the checkpoint was when it began; meanwhile the main
        // reader commits what it has, which is always something.
        let limit = checkpoint.log.next_offset;
        if !holds_main(&checkpoint) {
            checkpoint.log.next_offset += 3;
        }
        checkpoint.joins[0].log.next_offset = limit;
    }
    panic!("the join never caught up");
}

#[test]
fn a_follower_that_is_to_stop_takes_complete_copies_from_before_and_asks_for_none() {
    let entries = [
        epoch(0, &[("a", 1)]),
        begin(0, None, &["a"]),
        end(0, 1, &["a"]),
        begin(0, None, &["a"]),
    ];
    let (mut checkpoint, ledger) = behind(&entries);
    checkpoint.log.to = Some(Lsn(60));
    checkpoint.refused.insert(table("a").quoted(), [1].into());
    assert_eq!(begun(&checkpoint, &ledger).copy, 3, "one that is running");
    checkpoint.target = Some(Lsn(50));
    assert_eq!(
        next_join_step(&checkpoint, &ledger, &terms()),
        JoinStep::Ask
    );
    assert!(wants(&checkpoint, &ledger, &terms()).is_empty());
    checkpoint.refused.clear();
    assert_eq!(begun(&checkpoint, &ledger).copy, 1);
    // The point must not lie inside of the entry in which the follower stops.
    checkpoint.target = Some(Lsn(70));
    for (reached, expected) in [(50, Some(1)), (49, None)] {
        checkpoint.log.to = Some(Lsn(reached));
        let copy = match next_join_step(&checkpoint, &ledger, &terms()) {
            JoinStep::Begin(join) => Some(join.copy),
            _asks => None,
        };
        assert_eq!(copy, expected);
    }
}
