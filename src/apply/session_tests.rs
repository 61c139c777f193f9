use super::*;
use crate::apply::Shown;
use crate::log::topics::Topics;
use crate::model::Selection;
use crate::model::checkpoint::LogPlace;

#[test]
fn a_store_without_a_memory_goes_on_after_an_error_and_others_believe_their_own() {
    let checkpoint = Checkpoint::beginning(3, LogPlace::at_low_end(12));
    for takes_copies in [false, true] {
        let terms = Terms {
            topics: Topics::new("p"),
            selection: Selection::new(&["*.*".to_owned()], &[]),
            takes_copies,
            moves_tables: false,
        };
        let memory = Shown::default();
        assert_eq!(shown(&memory, &terms), None);
        note_shown(&memory, &terms, &checkpoint);
        let expected = (!takes_copies).then(|| checkpoint.clone());
        assert_eq!(shown(&memory, &terms), expected);
    }
}
