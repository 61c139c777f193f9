use super::*;
use crate::apply::Shown;
use crate::log::progress::Want;
use crate::model::checkpoint::LogPlace;
use crate::model::{Lsn, TableName};

#[test]
fn a_wish_for_a_copy_is_repeated_until_it_is_granted() {
    let mut progress = Progress {
        sink: "dw".to_owned(),
        applied: Lsn(1),
        log_offset: 1,
        wants: Vec::new(),
    };
    assert_eq!(say_after(None, &progress), Some(PROGRESS_EVERY));
    assert_eq!(say_after(Some(&progress.clone()), &progress), None);
    let before = progress.clone();
    progress.wants.push(Want {
        table: TableName::new("public", "a"),
        after: -1,
    });
    assert_eq!(say_after(Some(&before), &progress), Some(PROGRESS_EVERY));
    assert_eq!(
        say_after(Some(&progress.clone()), &progress),
        Some(WANTS_EVERY)
    );
}

#[test]
fn a_store_without_a_memory_goes_on_after_an_error_and_others_believe_their_own() {
    let checkpoint = Checkpoint {
        version: 3,
        applied: Lsn(7),
        commit_time_us: None,
        log: LogPlace::at_low_end(12),
        cursors: Default::default(),
        in_effect: Default::default(),
        joins: Vec::new(),
        refused: Default::default(),
        system_id: None,
        timeline: None,
        cluster_id: None,
        target: None,
        split: None,
    };
    for takes_copies in [false, true] {
        let terms = Terms {
            topics: Topics::new("p"),
            selection: Selection::new(&["*.*".to_owned()], &[]),
            takes_copies,
        };
        let memory = Shown::default();
        assert_eq!(shown(&memory, &terms), None);
        note_shown(&memory, &terms, &checkpoint);
        let expected = (!takes_copies).then(|| checkpoint.clone());
        assert_eq!(shown(&memory, &terms), expected);
    }
}
