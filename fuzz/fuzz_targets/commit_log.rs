//! Any lines as a commit log: what parses is judged in order. Never a panic, what was read is
//! written the same, the log's end never steps back, and a hole changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walferry_fuzz::log::commit_log::{Entry, Verdict, judge};
use walferry_fuzz::log::copies::CopyLedger;
use walferry_fuzz::model::checkpoint::LogPlace;

fuzz_target!(|bytes: &[u8]| {
    let mut place = LogPlace::at_low_end(0);
    let mut ledger = CopyLedger::new();
    for (offset, line) in (0..).zip(bytes.split(|byte| *byte == b'\n')) {
        let Ok(entry) = serde_json::from_slice::<Entry>(line) else {
            continue;
        };
        let text = serde_json::to_vec(&entry).expect("an entry is JSON");
        let again: Entry = serde_json::from_slice(&text).expect("what is written can be read");
        assert_eq!(again, entry);

        let before = place.clone();
        match judge(&mut place, offset, &entry) {
            Err(hole) => {
                assert!(hole.remedy().is_some());
                assert_eq!(place, before);
            }
            Ok(verdict) => {
                assert_eq!(place.next_offset, offset + 1);
                assert!(place.to >= before.to, "{before:?} {entry:?}");
                if verdict == Verdict::Valid {
                    assert_eq!(place.last_valid, Some(offset));
                    ledger.valid(offset, &entry);
                } else {
                    let moved = LogPlace {
                        next_offset: offset + 1,
                        ..before
                    };
                    assert_eq!(place, moved, "what does not count changes nothing");
                }
            }
        }
    }
    for table in &place.captured {
        assert_eq!(ledger.lacks_first(table), !ledger.has(table, -1));
        if let Some((_, copy)) = ledger.choose(table, None, None) {
            assert!(copy.tables.contains(table));
        }
    }
});
