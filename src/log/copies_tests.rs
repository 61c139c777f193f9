use super::*;
use crate::log::commit_log::{BatchEntry, EpochEntry};
use crate::model::{Epoch, Limits, Lsn, Oid};

fn table(name: &str) -> TableName {
    TableName::new("s", name)
}

fn epoch(tables: &[(&str, u32)]) -> Entry {
    Entry::Epoch(EpochEntry {
        after: 0,
        instance: "i".to_owned(),
        system_id: "7".to_owned(),
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

fn begin(tables: &[&str]) -> Entry {
    Entry::CopyBegin(CopyBegin {
        epoch: Epoch(0),
        number: 0,
        tables: tables.iter().map(|name| table(name)).collect(),
        at: None,
        offsets: BTreeMap::new(),
        indexes: Vec::new(),
    })
}

fn end(copy: i64) -> Entry {
    Entry::CopyEnd(CopyEnd {
        epoch: Epoch(0),
        copy,
        point: Lsn(1),
        rows: BTreeMap::new(),
    })
}

fn ledger(entries: &[Entry]) -> CopyLedger {
    let mut ledger = CopyLedger::new();
    for (offset, entry) in (0..).zip(entries) {
        ledger.valid(offset, entry);
    }
    ledger
}

fn chosen(ledger: &CopyLedger, name: &str, refused: &[i64]) -> Option<i64> {
    let refused: BTreeSet<i64> = refused.iter().copied().collect();
    ledger
        .choose(&table(name), Some(&refused), None)
        .map(|(id, _)| id)
}

#[test]
fn the_newest_complete_copy_goes_before_a_running_one() {
    let both = [("a", 1), ("b", 2)];
    let ledger = ledger(&[
        epoch(&both),
        begin(&["a", "b"]),
        end(1),
        begin(&["a"]),
        end(3),
        begin(&["a"]),
    ]);
    assert_eq!(chosen(&ledger, "a", &[]), Some(3));
    assert_eq!(chosen(&ledger, "a", &[3]), Some(1));
    assert_eq!(chosen(&ledger, "a", &[1, 3]), Some(5));
    assert_eq!(chosen(&ledger, "a", &[1, 3, 5]), None);
    assert_eq!(chosen(&ledger, "b", &[]), Some(1));
    assert_eq!(chosen(&ledger, "c", &[]), None);
    assert!(ledger.has(&table("a"), -1) && ledger.has(&table("a"), 4));
    assert!(!ledger.has(&table("a"), 5) && !ledger.has(&table("b"), 1));
    let captured = &ledger.get(3).expect("known").captured;
    assert_eq!(captured.len(), 2);
}

#[test]
fn an_unfinished_copy_is_void_after_an_epoch_entry_and_a_complete_one_is_not() {
    let captured = [("a", 1), ("b", 2)];
    let ledger = ledger(&[
        epoch(&captured),
        begin(&["a"]),
        end(1),
        begin(&["b"]),
        epoch(&captured),
        end(3),
    ]);
    assert_eq!(chosen(&ledger, "a", &[]), Some(1));
    assert_eq!(chosen(&ledger, "b", &[]), None);
}

#[test]
fn a_later_copy_begin_voids_unfinished_copies_of_its_tables_only() {
    let ledger = ledger(&[
        epoch(&[("a", 1), ("b", 2)]),
        begin(&["a", "b"]),
        begin(&["a"]),
        end(1),
        begin(&["b"]),
    ]);
    assert_eq!(chosen(&ledger, "b", &[]), Some(1), "complete: stays");
    assert_eq!(
        chosen(&ledger, "a", &[]),
        Some(2),
        "the first no longer has a"
    );
}

#[test]
fn a_table_left_out_or_under_another_oid_leaves_every_copy() {
    let mut ledger = ledger(&[
        epoch(&[("a", 1), ("b", 2), ("c", 3)]),
        begin(&["a", "b", "c"]),
        end(1),
    ]);
    let left = ledger.valid(3, &epoch(&[("a", 1), ("b", 9)]));
    assert_eq!(left, [table("b"), table("c")].into());
    assert_eq!(chosen(&ledger, "a", &[]), Some(1));
    assert_eq!(chosen(&ledger, "b", &[]), None);
    // It returns, and still needs a new copy.
    assert!(
        ledger
            .valid(4, &epoch(&[("a", 1), ("b", 2), ("c", 3)]))
            .contains(&table("b"))
    );
    assert_eq!(chosen(&ledger, "c", &[]), None);
    assert_eq!(ledger.captured()[&table("c")].relation, Oid(3));
}

#[test]
fn a_table_with_another_filter_column_list_or_membership_leaves_every_copy() {
    let limited = |limits: &Limits| {
        let mut entry = epoch(&[("a", 1), ("b", 2)]);
        if let Entry::Epoch(epoch) = &mut entry {
            epoch.captured[1].limits = limits.clone();
        }
        entry
    };
    let before = Limits {
        membership: Some(Oid(7)),
        row_filter: Some("(id > 1)".to_owned()),
        columns: Some(vec!["id".to_owned(), "v".to_owned()]),
    };
    let mut copied = ledger(&[limited(&before), begin(&["a", "b"]), end(1)]);
    assert!(copied.valid(3, &limited(&before)).is_empty());
    assert_eq!(chosen(&copied, "b", &[]), Some(1));
    let other = [
        Limits {
            row_filter: Some("(id > 2)".to_owned()),
            ..before.clone()
        },
        Limits {
            columns: Some(vec!["id".to_owned()]),
            ..before.clone()
        },
        Limits {
            membership: Some(Oid(8)),
            ..before.clone()
        },
        Limits::default(),
    ];
    for limits in other {
        let mut ledger = copied.clone();
        assert_eq!(ledger.valid(4, &limited(&limits)), [table("b")].into());
        assert_eq!(chosen(&ledger, "a", &[]), Some(1), "{limits:?}");
        assert_eq!(chosen(&ledger, "b", &[]), None, "{limits:?}");
        // It returns as it was, and still needs a new copy.
        ledger.valid(5, &limited(&before));
        assert_eq!(chosen(&ledger, "b", &[]), None, "{limits:?}");
        assert!(!ledger.has(&table("b"), -1));
    }
}

#[test]
fn batches_and_ends_of_unknown_copies_change_nothing() {
    let batch = Entry::Batch(BatchEntry {
        bytes: 0,
        epoch: Epoch(0),
        from: Lsn(1),
        to: Lsn(2),
        last_commit: None,
        transactions: 0,
        changes: 0,
        offsets: BTreeMap::new(),
        sample: None,
    });
    let ledger = ledger(&[
        epoch(&[("a", 1)]),
        end(7),
        batch,
        begin(&["a"]),
        end(3),
        end(3),
    ]);
    let copy = ledger.get(3).expect("known");
    assert!(copy.end.is_some());
}

#[test]
fn a_trimmed_log_does_not_ask_for_first_copies_again() {
    let both = [("a", 1), ("b", 2)];
    let lacking = |ledger: &CopyLedger| {
        let names = ["a", "b", "c"].into_iter();
        let lacking = names.filter(|name| ledger.lacks_first(&table(name)));
        lacking.collect::<Vec<_>>()
    };
    let mut whole = CopyLedger::at_low_end(0);
    whole.valid(0, &epoch(&both));
    assert_eq!(lacking(&whole), ["a", "b", "c"]);

    let mut trimmed = CopyLedger::at_low_end(70);
    trimmed.valid(70, &epoch(&both));
    assert_eq!(lacking(&trimmed), ["c"]);
    assert_eq!(chosen(&trimmed, "a", &[]), None, "a sink has to ask");
    assert!(!trimmed.has(&table("a"), -1), "so that a wish is heard");
    trimmed.valid(71, &epoch(&[("a", 1), ("b", 9), ("c", 3)]));
    assert_eq!(
        lacking(&trimmed),
        ["b", "c"],
        "another table, and a new one"
    );
    trimmed.valid(72, &epoch(&[("c", 3)]));
    trimmed.valid(73, &epoch(&[("a", 1), ("c", 3)]));
    assert_eq!(
        lacking(&trimmed),
        ["a", "b", "c"],
        "what left returns by a copy"
    );
}

#[test]
fn a_repeated_begin_beside_the_first_changes_nothing() {
    let numbered = |number| match begin(&["a"]) {
        Entry::CopyBegin(begin) => Entry::CopyBegin(CopyBegin { number, ..begin }),
        other => other,
    };
    let mut ledger = ledger(&[epoch(&[("a", 1)]), numbered(1), numbered(1)]);
    assert_eq!(chosen(&ledger, "a", &[]), Some(1), "the id of its source");
    ledger.valid(3, &numbered(2));
    assert_eq!(chosen(&ledger, "a", &[]), Some(3));
}

#[test]
fn a_copy_that_was_trimmed_fulfils_no_wish() {
    let mut ledger = ledger(&[epoch(&[("a", 1)]), begin(&["a"]), end(1)]);
    ledger.cut(1);
    assert!(ledger.has(&table("a"), -1));
    ledger.cut(2);
    assert!(!ledger.has(&table("a"), -1), "a new sink does not see it");
    assert!(
        !ledger.lacks_first(&table("a")),
        "it is made when it is asked for"
    );
}
