//! The pgoutput decoder on bytes that nobody sent: no panic, and tuples as long as they say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walferry_fuzz::pgoutput::{Message, Old, Tuple, decode};

fn walk(tuple: &Tuple<'_>) {
    assert_eq!(tuple.iter().count(), tuple.len());
}

fuzz_target!(|bytes: &[u8]| {
    match decode(bytes) {
        Ok(Message::Insert { new, .. }) => walk(&new),
        Ok(Message::Update { old, new, .. }) => {
            match old {
                Some(Old::Key(old) | Old::Full(old)) => walk(&old),
                None => {}
            }
            walk(&new);
        }
        Ok(Message::Delete {
            old: Old::Key(old) | Old::Full(old),
            ..
        }) => walk(&old),
        Ok(
            Message::Begin(_)
            | Message::Commit(_)
            | Message::Origin { .. }
            | Message::Relation(_)
            | Message::Type { .. }
            | Message::Truncate { .. }
            | Message::Logical { .. },
        )
        | Err(_) => {}
    }
});
