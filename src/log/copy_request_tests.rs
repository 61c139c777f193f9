use super::*;
use crate::config::values::is_connector_name;
use crate::log::commit_log::{Captured, CopyBegin, EpochEntry, Extent, Extents};
use crate::model::{Epoch, Limits, Oid};
use std::collections::BTreeMap;

fn table(name: &str) -> TableName {
    TableName::new("public", name)
}

fn epoch(tables: &[&str]) -> Entry {
    let captured = tables.iter().map(|name| Captured {
        table: table(name),
        relation: Oid(1),
        limits: Limits::default(),
    });
    Entry::Epoch(EpochEntry {
        after: 0,
        instance: "i".into(),
        system_id: "s".into(),
        timeline: 1,
        captured: captured.collect(),
        dropped: Vec::new(),
    })
}

fn begin(number: u64, tables: &[&str]) -> Entry {
    Entry::CopyBegin(CopyBegin {
        epoch: Epoch(0),
        number,
        tables: tables.iter().map(|name| table(name)).collect(),
        at: None,
        offsets: BTreeMap::new(),
        indexes: Vec::new(),
    })
}

fn end(copy: i64, rows: &[(&str, u64)]) -> Entry {
    let rows: Extents = rows
        .iter()
        .map(|(name, count)| {
            let extent = Extent {
                last: 9,
                count: *count,
            };
            let topic = Topics::new("p").copy(&table(name));
            (topic, BTreeMap::from([(0, extent), (1, extent)]))
        })
        .collect();
    Entry::CopyEnd(CopyEnd {
        epoch: Epoch(0),
        copy,
        point: Lsn(77),
        rows,
    })
}

fn ledger(entries: &[(i64, Entry)]) -> CopyLedger {
    let mut ledger = CopyLedger::new();
    for (offset, entry) in entries {
        ledger.valid(*offset, entry);
    }
    ledger
}

#[test]
fn no_sink_can_have_the_key_of_a_request() {
    let key = key("0123456789abcdef");
    assert!(is_key(&key) && !is_key(PAUSE_KEY));
    assert!(!is_connector_name(&key) && !is_connector_name(PAUSE_KEY));
    for sink in ["copy", "copy-1", "warehouse"] {
        assert!(is_connector_name(sink) && !is_key(sink), "{sink}");
    }
}

#[test]
fn a_request_names_the_follower_only_where_it_is_to_be_read() {
    let request = CopyRequest::behind(8, [table("t")]);
    let json = serde_json::to_string(&request).unwrap();
    let of_leader = r#"{"wants":[{"schema":"public","name":"t","after":7}]}"#;
    assert_eq!(json, of_leader, "as earlier releases write and read it");
    let request = request.read_from(Some("a".to_owned()));
    let json = serde_json::to_string(&request).unwrap();
    let of_follower = r#"{"wants":[{"schema":"public","name":"t","after":7}],"from":"a"}"#;
    assert_eq!(json, of_follower);
    for (json, from) in [(of_leader, None), (of_follower, Some("a"))] {
        let read: CopyRequest = serde_json::from_str(json).unwrap();
        assert_eq!(read.from.as_deref(), from);
    }
}

#[test]
fn only_a_copy_that_began_behind_the_request_fulfils_it() {
    let captured = [table("a"), table("b")];
    let request = CopyRequest::behind(12, captured.clone());
    let open = |tables: &[&str]| Standing::Open(tables.iter().map(|name| table(name)).collect());
    // The copy at 10 was running when it was asked.
    let mut entries = vec![(0, epoch(&["a", "b"])), (10, begin(1, &["a", "b"]))];
    let standing = |entries: &[(i64, Entry)], captured: &[TableName]| {
        request.standing(captured, &ledger(entries), 20)
    };
    assert_eq!(standing(&entries, &captured), open(&["a", "b"]));
    entries.push((14, end(10, &[])));
    assert_eq!(standing(&entries, &captured), open(&["a", "b"]));
    entries.extend([(15, begin(2, &["a"])), (16, end(15, &[]))]);
    assert_eq!(standing(&entries, &captured), open(&["b"]));
    assert_eq!(
        standing(&entries, &captured[..1]),
        Standing::Fulfilled,
        "b is not captured any more"
    );
    entries.extend([(17, begin(3, &["b"])), (18, end(17, &[]))]);
    assert_eq!(standing(&entries, &captured), Standing::Fulfilled);
}

#[test]
fn two_requests_are_fulfilled_by_one_copy_behind_both_and_trimmed_copies_fulfil_none() {
    let captured = [table("a")];
    let requests = [12, 15].map(|log_end| CopyRequest::behind(log_end, captured.clone()));
    let mut known = ledger(&[
        (0, epoch(&["a"])),
        (15, begin(1, &["a"])),
        (16, end(15, &[])),
    ]);
    for request in &requests {
        assert_eq!(request.standing(&captured, &known, 20), Standing::Fulfilled);
    }
    known.cut(18);
    for request in &requests {
        let open = Standing::Open(captured.to_vec());
        assert_eq!(request.standing(&captured, &known, 20), open);
    }
}

#[test]
fn a_request_for_a_log_that_is_gone_makes_no_copy_and_no_endless_loop() {
    let captured = [table("a")];
    let request = CopyRequest::behind(1000, captured.clone());
    let known = ledger(&[(0, epoch(&["a"]))]);
    assert_eq!(
        request.standing(&captured, &known, 999),
        Standing::OfAnotherLog
    );
    let open = Standing::Open(captured.to_vec());
    assert_eq!(request.standing(&captured, &known, 1000), open);
}

#[test]
fn what_is_waited_for_comes_with_the_end_of_a_copy_that_began_behind_the_request() {
    let before = ledger(&[(0, epoch(&["a", "b", "c"])), (10, begin(1, &["a", "b"]))]);
    let tables = ["a", "b", "c"].map(table);
    let mut awaited = Awaited::behind(12, tables, before, Topics::new("p"));
    assert_eq!(awaited.valid(13, &end(10, &[("a", 1)])), []);
    let begun = |copy, tables: &[&str]| Step::Begun {
        copy,
        tables: tables.iter().map(|name| table(name)).collect(),
    };
    assert_eq!(
        awaited.valid(14, &begin(2, &["a", "b"])),
        [begun(14, &["a", "b"])]
    );
    // The producer's repeat of it.
    assert_eq!(awaited.valid(15, &begin(2, &["a", "b"])), []);
    let copied = |name: &str, rows| Step::Copied {
        copy: 14,
        table: table(name),
        point: Lsn(77),
        rows,
    };
    assert_eq!(
        awaited.valid(16, &end(14, &[("a", 3), ("b", 0)])),
        [copied("a", 6), copied("b", 0)]
    );
    assert_eq!(
        awaited.valid(17, &begin(3, &["a"])),
        [],
        "is not waited for"
    );
    assert_eq!(awaited.valid(18, &begin(4, &["c"])), [begun(18, &["c"])]);
    assert_eq!(awaited.valid(19, &epoch(&["a", "b", "c"])), [Step::Void]);
    assert_eq!(awaited.valid(20, &end(18, &[])), [], "void");
    assert_eq!(awaited.valid(21, &epoch(&["a"])), [Step::Left(table("c"))]);
    assert!(awaited.waiting().is_empty());
}
