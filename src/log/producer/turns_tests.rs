use super::*;

const NAMES: [&str; 2] = ["walferry", "walferry.part"];

/// Key, value, headers and number of a record, owned.
type Owned = (
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Vec<(&'static str, Vec<u8>)>,
    usize,
);

fn add(turn: &mut Turn, value: &[u8], opaque: usize) -> bool {
    let record = Record {
        key: None,
        value: Some(value),
        headers: &[],
        opaque,
    };
    turn.add(&record, Burst::default)
}

fn numbers(burst: &Burst) -> Vec<usize> {
    let mut numbers = Vec::new();
    burst.for_each(|record| {
        numbers.push(record.opaque);
        true
    });
    numbers
}

#[test]
fn records_come_out_as_they_were_put_in() {
    let records: Vec<Owned> = vec![
        (
            Some(b"k".to_vec()),
            Some(b"value".to_vec()),
            vec![(NAMES[0], vec![7; 32])],
            3,
        ),
        (None, None, vec![], 4),
        (
            Some(vec![]),
            None,
            vec![(NAMES[0], vec![1]), (NAMES[1], vec![])],
            5,
        ),
        (None, Some(vec![]), vec![(NAMES[1], vec![9; 8])], 6),
    ];
    let mut burst = Burst::default();
    // Twice: memory that was used before must not show.
    for _ in 0..2 {
        burst = burst.cleared();
        for (key, value, headers, opaque) in &records {
            let headers: Vec<Header<'_>> = headers.iter().map(|(n, b)| (*n, &b[..])).collect();
            burst.add(&Record {
                key: key.as_deref(),
                value: value.as_deref(),
                headers: &headers,
                opaque: *opaque,
            });
        }
        let mut seen: Vec<Owned> = Vec::new();
        burst.for_each(|record| {
            let headers = record.headers.iter().map(|(n, b)| (*n, b.to_vec()));
            seen.push((
                record.key.map(<[u8]>::to_vec),
                record.value.map(<[u8]>::to_vec),
                headers.collect(),
                record.opaque,
            ));
            true
        });
        assert_eq!(seen, records);
    }
    let mut first = Vec::new();
    burst.for_each(|record| {
        first.push(record.opaque);
        record.opaque < 4
    });
    assert_eq!(first, [3, 4], "ended by the second");
}

#[test]
fn little_goes_when_it_is_pushed_and_one_burst_at_a_time() {
    let mut turn = Turn::default();
    assert!(add(&mut turn, b"a", 0), "to be listed");
    assert!(!add(&mut turn, b"b", 1), "listed already");
    assert!(turn.next().is_none(), "neither pushed nor worth it");
    turn.push();
    assert_eq!(numbers(&turn.next().unwrap()), [0, 1]);
    assert!(add(&mut turn, b"c", 2), "off the list since the push");
    turn.push();
    add(&mut turn, b"d", 3);
    for _ in 0..2 {
        assert!(turn.next().is_none(), "the burst before is under way");
        turn.acknowledged();
    }
    assert_eq!(numbers(&turn.next().unwrap()), [2, 3]);
    turn.acknowledged();
    turn.acknowledged();
    // The push was for what is gone.
    add(&mut turn, b"e", 4);
    assert!(turn.next().is_none());
}

#[test]
fn much_goes_by_itself_in_requests_that_kafka_takes() {
    let mut turn = Turn::default();
    let value = vec![0; 10_000];
    let mut sent = 0;
    while turn.waiting.len() < 3 {
        add(&mut turn, &value, sent);
        sent += 1;
    }
    // Larger than a burst may be: alone.
    add(&mut turn, &vec![0; SPARE_MAX_BYTES + 1], sent);
    add(&mut turn, &value, sent + 1);
    let (mut bursts, mut seen) = (Vec::new(), Vec::new());
    turn.push();
    while let Some(burst) = turn.next() {
        assert!(burst.weight <= BURST_MAX_BYTES || burst.len() == 1);
        for _ in 0..burst.len() {
            assert!(turn.next().is_none());
            turn.acknowledged();
        }
        seen.extend(numbers(&burst));
        bursts.push(burst.len());
        assert!(burst.cleared().bytes.capacity() <= SPARE_MAX_BYTES);
    }
    assert_eq!(seen, (0..sent + 2).collect::<Vec<_>>());
    assert_eq!(bursts[2..], [1, 1, 1]);
    assert!(bursts[0] > 80 && bursts[0] == bursts[1], "{bursts:?}");
}

#[test]
fn few_records_are_sent_at_once_unless_there_is_load() {
    let start = Instant::now();
    let mut load = Load::new(start);
    let mut paced = |is_log, records, after| {
        let mut turn = Turn::default();
        for number in 0..records {
            add(&mut turn, b"x", number);
        }
        turn.push();
        let at = start + Duration::from_millis(after);
        load.pace(&turn.next().unwrap(), is_log, at)
    };
    let mut pace = |records, after| paced(false, records, after);
    assert_eq!(pace(PROMPT_RECORDS, 0), Pace::Prompt);
    assert_eq!(pace(1, 1), Pace::Prompt);
    assert_eq!(pace(PROMPT_RECORDS + 1, 2), Pace::Bulk, "many at once");
    assert_eq!(pace(1, 3), Pace::Prompt);
    assert_eq!(pace(LOAD_RECORDS, 4), Pace::Bulk);
    assert_eq!(pace(1, 5), Pace::Bulk, "load");
    assert_eq!(pace(1, 11), Pace::Bulk, "load in the window before");
    assert_eq!(pace(1, 22), Pace::Prompt, "load no more");
    assert_eq!(pace(LOAD_RECORDS, 23), Pace::Bulk);
    assert_eq!(pace(1, 99), Pace::Prompt, "long ago");
    assert_eq!(paced(true, 1, 99), Pace::Entry);
    assert_eq!(paced(true, LOAD_RECORDS, 99), Pace::Bulk);
    assert_eq!(paced(true, 1, 99), Pace::Bulk, "load");
}

#[test]
fn a_burst_that_is_full_waits_for_no_more() {
    let mut load = Load::new(Instant::now());
    let mut pace = |bytes| {
        let mut turn = Turn::default();
        add(&mut turn, &vec![0; bytes], 0);
        load.pace(&turn.next().unwrap(), false, Instant::now())
    };
    assert_eq!(pace(FULL_BYTES), Pace::Full);
    assert_eq!(pace(WORTH_BYTES), Pace::Prompt, "one record");
}

#[test]
fn a_partition_that_has_enough_need_not_be_pushed() {
    let mut turn = Turn::default();
    add(&mut turn, &vec![0; WORTH_BYTES], 0);
    assert_eq!(numbers(&turn.next().unwrap()), [0]);
    // Listed and gone: the push that comes has nothing to do, and asks for nothing later.
    turn.push();
    turn.acknowledged();
    assert!(add(&mut turn, b"x", 1));
    assert!(turn.next().is_none());
}
