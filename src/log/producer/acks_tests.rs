use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

const A: PartitionSlot = PartitionSlot(0);
const B: PartitionSlot = PartitionSlot(7);

#[test]
fn a_batch_is_acknowledged_when_its_last_record_is() {
    let acks = Acks::new();
    let (batch, other) = (acks.open(), acks.open());
    let sent: Vec<usize> = [A, B, A, B]
        .into_iter()
        .map(|slot| acks.sending(batch, slot, 10))
        .collect();
    acks.sending(other, A, 5);
    let mut waiting = pin!(acks.acked(batch));
    assert!(poll(waiting.as_mut()).is_none());
    // The last acknowledgement of B names no offset: a retry answered as duplicate.
    for (opaque, offset) in sent.into_iter().zip([Some(3), Some(9), Some(4), None]) {
        assert!(poll(waiting.as_mut()).is_none());
        acks.delivered(opaque, offset, 10);
    }
    let acked = poll(waiting.as_mut()).expect("complete").expect("no error");
    let in_a = Acked {
        last: Some(4),
        largest_named: Some(4),
        count: 2,
    };
    let in_b = Acked {
        last: None,
        largest_named: Some(9),
        count: 2,
    };
    assert_eq!(acked, [(A, in_a), (B, in_b)].into());
    assert_eq!(acks.queued(0), 5);
}

#[test]
fn a_cell_is_clean_for_the_next_batch() {
    let acks = Acks::new();
    for round in 0..3 * CELLS as i64 {
        let batch = acks.open();
        let opaque = acks.sending(batch, A, 1);
        assert_eq!(unpack(opaque), (cell_of(batch), A));
        acks.delivered(opaque, Some(round), 1);
        let acked = poll(pin!(acks.acked(batch)))
            .expect("complete")
            .expect("no error");
        assert_eq!((acked[&A].last, acked[&A].count), (Some(round), 1));
    }
    assert!(
        poll(pin!(acks.acked(acks.open())))
            .expect("empty")
            .expect("no error")
            .is_empty()
    );
}

#[test]
fn room_is_waited_for_until_enough_is_acknowledged() {
    let acks = Acks::new();
    let batch = acks.open();
    let sent: Vec<usize> = (0..4).map(|_| acks.sending(batch, A, 25)).collect();
    let mut waiting = pin!(acks.room(0, 75));
    assert!(poll(waiting.as_mut()).is_none());
    acks.delivered(sent[0], Some(0), 25);
    assert!(
        poll(waiting.as_mut()).is_none(),
        "not below three quarters yet"
    );
    acks.delivered(sent[1], Some(1), 25);
    assert!(poll(waiting.as_mut()).is_some());
}

#[test]
fn the_first_error_ends_the_epoch_for_all_who_wait() {
    let acks = Acks::new();
    let batch = acks.open();
    acks.sending(batch, A, 100);
    let mut acked = pin!(acks.acked(batch));
    let mut room = pin!(acks.room(0, 1));
    let mut failed = pin!(acks.failed());
    assert!(poll(acked.as_mut()).is_none());
    assert!(poll(room.as_mut()).is_none());
    assert!(poll(failed.as_mut()).is_none());
    let place = ("t".to_owned(), 0);
    acks.fail(&delivery_error(
        RDKafkaErrorCode::MessageSizeTooLarge,
        &place,
        9,
    ));
    acks.fail(&Error::transient("later"));
    let reasons = [
        poll(acked.as_mut()).expect("over").expect_err("over"),
        poll(room.as_mut()).expect("over").expect_err("over"),
        poll(failed.as_mut()).expect("over"),
        acks.check().expect_err("over"),
    ];
    for reason in reasons {
        assert_eq!(reason.class(), Class::Halt);
        assert!(reason.remedy().is_some() && reason.what().contains("9 bytes"));
    }
    let other = delivery_error(RDKafkaErrorCode::UnknownTopicOrPartition, &place, 9);
    assert_eq!(other.class(), Class::Transient);
}
