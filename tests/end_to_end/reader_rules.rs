//! docs/examples/transactions judges entries and takes records as walferry itself does: random logs and
//! partitions, most of which no source would ever write.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use walferry::apply::take::{Taken, Taker};
use walferry::log::commit_log::{Entry, Extent, Verdict, judge};
use walferry::log::header::RecordHeader;
use walferry::model::checkpoint::LogPlace;
use walferry::model::{Epoch, Lsn, Position, SchemaVersion};

/// Cases of each kind.
const CASES: usize = 4_000;

/// Answers of the example, one for each case.
fn answers(cases: &[Value]) -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = std::env::var("WALFERRY_PYTHONPATH")
        .expect("WALFERRY_PYTHONPATH is not set: run the tests by `./dev test`, which fetches what it names");
    let example = root.join("docs/examples/transactions");
    let mut child = Command::new("python3")
        .arg("-B")
        .arg(root.join("tests/end_to_end/reader_rules.py"))
        .env("PYTHONPATH", format!("{}:{packages}", example.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 can be started");
    let mut input = child.stdin.take().unwrap();
    let lines: String = cases.iter().map(|case| format!("{case}\n")).collect();
    let writing = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A log of sources that know nothing of one another; often enough one of them guesses right.
fn random_log(random: &mut SmallRng) -> Vec<(i64, Value)> {
    let low = random.random_range(0..3_i64);
    let (mut epochs, mut ends) = (vec![0_i64], vec![10_u64]);
    let mut log = Vec::new();
    for offset in low..low + random.random_range(1..30) {
        let epoch = epochs[epochs.len() - 1 - random.random_range(0..epochs.len().min(2))];
        let end = ends[ends.len() - 1 - random.random_range(0..ends.len().min(2))];
        let entry = match random.random_range(0..10) {
            0..2 => {
                epochs.push(offset);
                let after = offset - random.random_range(0..=offset.min(3));
                json!({"kind": "epoch", "after": after, "instance": "i", "system_id": "7", "timeline": 1, "captured": []})
            }
            2..7 => {
                let from = if random.random_range(0..40) == 0 {
                    end + 1
                } else {
                    end
                };
                let to = from + random.random_range(0..3) * 5;
                ends.push(to);
                json!({"kind": "batch", "epoch": epoch, "from": Lsn(from).to_string(), "to": Lsn(to).to_string()})
            }
            7..9 => {
                let at = (random.random_range(0..8) > 0).then(|| Lsn(end).to_string());
                let number = random.random_range(0..3);
                json!({"kind": "copy_begin", "epoch": epoch, "number": number, "tables": [], "at": at, "offsets": {}})
            }
            _ => json!({"kind": "copy_end", "epoch": epoch, "copy": 0, "point": "0/1", "rows": {}}),
        };
        log.push((offset, entry));
    }
    log
}

/// walferry's verdicts: v(alid), x (not), ! (a hole, where reading ends).
fn judged(log: &[(i64, Value)]) -> String {
    let mut place = LogPlace::at_low_end(log[0].0);
    let mut verdicts = String::new();
    for (offset, entry) in log {
        let entry: Entry = serde_json::from_value(entry.clone()).unwrap();
        match judge(&mut place, *offset, &entry) {
            Ok(Verdict::Valid) => verdicts.push('v'),
            Ok(Verdict::Repeat | Verdict::Void) => verdicts.push('x'),
            Err(_hole) => {
                verdicts.push('!');
                break;
            }
        }
    }
    verdicts
}

#[test]
fn the_example_judges_entries_as_walferry_does() {
    let mut random = SmallRng::seed_from_u64(7);
    let logs: Vec<_> = (0..CASES).map(|_| random_log(&mut random)).collect();
    let cases: Vec<Value> = logs.iter().map(|log| json!({"entries": log})).collect();
    let mut met = String::new();
    for (log, answer) in logs.iter().zip(answers(&cases)) {
        let verdicts = judged(log);
        assert_eq!(answer, verdicts.as_str(), "{log:#?}");
        met.push_str(&verdicts);
    }
    for verdict in ['v', 'x', '!'] {
        let times = met.matches(verdict).count();
        assert!(times > CASES / 20, "{verdict}: {times} times");
    }
}

/// A partition with the records of one batch, others, and repeats.
#[derive(Debug)]
struct Case {
    records: Vec<(u64, u64, u32)>,
    extent: Extent,
    start: i64,
}

const EPOCH: u64 = 5;
const BOUNDS: (u64, u64) = (100, 200);

fn random_case(random: &mut SmallRng) -> Case {
    let (mut records, mut wanted): (Vec<(u64, u64, u32)>, _) = (Vec::new(), Vec::new());
    let mut next = (BOUNDS.0, 0);
    for _ in 0..random.random_range(0..12) {
        match random.random_range(0..8) {
            0 => records.push((EPOCH - 1, 150, random.random_range(0..4))),
            1 => records.push((EPOCH, random.random_range(90..100), 0)),
            2 => records.push((EPOCH, BOUNDS.1, 0)),
            // What a producer repeats it repeats in order.
            3 => {
                let again = random.random_range(0..=wanted.len());
                records.extend(&wanted[again..]);
            }
            _ => {
                let record = (EPOCH, next.0, next.1);
                next = if random.random() {
                    (next.0 + 9, 0)
                } else {
                    (next.0, next.1 + 1)
                };
                wanted.push(record);
                records.push(record);
            }
        }
    }
    if random.random_range(0..8) == 0 {
        // What makes `last` too high.
        records.push((EPOCH, BOUNDS.1, 1));
    }
    let end = i64::try_from(records.len()).unwrap();
    let missing = random.random_range(0..8) == 0;
    let count = wanted.len() as u64 + u64::from(missing);
    let last = end - 1;
    Case {
        extent: Extent { last, count },
        start: random.random_range(0..=end.min(2)),
        records,
    }
}

/// Offsets that walferry takes, or none when it misses records.
fn taken(case: &Case, start: i64) -> Option<Vec<i64>> {
    let bounds = (Lsn(BOUNDS.0), Lsn(BOUNDS.1));
    let mut taker = Taker::new(Epoch(EPOCH), bounds, case.extent, start);
    let mut found = Vec::new();
    let records = (0..).zip(&case.records);
    for (offset, &(epoch, commit, ordinal)) in records.skip(start as usize) {
        if taker.done() {
            break;
        }
        let header = RecordHeader {
            epoch: Epoch(epoch),
            position: Position {
                commit: Lsn(commit),
                ordinal,
            },
            version: SchemaVersion(0),
        };
        match taker.offer(offset, &header) {
            Taken::Take => found.push(offset),
            Taken::Skip => {}
            Taken::Lost => return None,
        }
    }
    taker.done().then_some(found)
}

#[test]
fn the_example_takes_records_as_walferry_does() {
    let mut random = SmallRng::seed_from_u64(8);
    let cases: Vec<Case> = (0..CASES).map(|_| random_case(&mut random)).collect();
    let asked: Vec<Value> = cases
        .iter()
        .map(|case| {
            json!({"records": case.records, "epoch": EPOCH, "bounds": [BOUNDS.0, BOUNDS.1],
                   "extent": case.extent, "start": case.start})
        })
        .collect();
    let (mut whole, mut lost) = (0, 0);
    for (case, answer) in cases.iter().zip(answers(&asked)) {
        let expected = taken(case, case.start);
        assert_eq!(answer[0], json!(expected), "{case:?}");
        // Without a cursor the same records are found, wherever they are looked for first.
        let positions = |offsets: Value| -> Option<Vec<(u64, u32)>> {
            let offsets: Option<Vec<usize>> = serde_json::from_value(offsets).unwrap();
            let position = |at: usize| (case.records[at].1, case.records[at].2);
            Some(offsets?.into_iter().map(position).collect())
        };
        let from_the_first = positions(json!(taken(case, 0)));
        assert_eq!(positions(answer[1].clone()), from_the_first, "{case:?}");
        *(if expected.is_some() {
            &mut whole
        } else {
            &mut lost
        }) += 1;
    }
    assert!(
        whole > CASES / 20 && lost > CASES / 20,
        "{whole} whole, {lost} lost"
    );
}
