use super::*;
use crate::model::SlotState;
use crate::status::{SinkView, SourceView, Verified};

fn sink(name: &str, state: State, seconds: Option<f64>) -> SinkReport {
    let lag = Lag {
        seconds,
        bytes: seconds.map(|s| s as u64 * 1024),
        ..Lag::default()
    };
    SinkReport {
        name: name.to_owned(),
        standing: standing(state, &lag),
        since_unix_seconds: Some(40),
        view: SinkView {
            state,
            ..SinkView::default()
        },
        lag,
    }
}

fn source(state: State) -> SourceReport {
    SourceReport {
        name: "leader".to_owned(),
        since_unix_seconds: Some(90),
        unpublished_bytes: None,
        view: SourceView {
            state,
            slot: Some(SlotState {
                active: true,
                wal_status: Some(WalStatus::Reserved),
                retained_bytes: Some(1536),
                safe_bytes: None,
            }),
            ..SourceView::default()
        },
    }
}

fn error(what: &str, remedy: &str) -> Option<LastError> {
    Some(LastError {
        what: what.to_owned(),
        remedy: Some(remedy.to_owned()),
        at_unix_seconds: 40,
    })
}

fn current(name: &str) -> SinkReport {
    sink(name, State::Streaming, Some(0.3))
}

#[test]
fn all_current_is_good_and_tells_of_the_leaders_disk() {
    let verdict = Verdict::of(
        Some(&source(State::Streaming)),
        &[current("a"), current("b")],
        100.0,
    );
    assert_eq!(verdict.level, Level::Good);
    assert_eq!(verdict.headline, "All 2 followers are current");
    let told: Vec<&str> = verdict.facts.iter().map(|f| f.text.as_str()).collect();
    assert_eq!(
        told,
        ["The leader keeps 1.5 KiB of WAL for the slot; no limit is set, its disk is the limit"]
    );
    let one = Verdict::of(None, &[current("a")], 100.0);
    assert_eq!(one.headline, "a is current");
    assert!(
        one.facts.is_empty(),
        "the slot is another process's business"
    );
    let none = Verdict::of(Some(&source(State::Streaming)), &[], 100.0);
    assert_eq!(none.headline, "No sink runs in this process");
}

#[test]
fn the_one_that_is_not_current_is_named_with_since_when() {
    let sinks = [
        current("a"),
        sink("slow", State::Streaming, Some(252.0)),
        current("c"),
    ];
    let verdict = Verdict::of(None, &sinks, 100.0);
    assert_eq!(verdict.level, Level::Watch);
    assert_eq!(verdict.headline, "slow is behind, one of 3 followers");
    assert_eq!(
        verdict.facts[0].text,
        "slow is streaming, behind for 4m 12s and 252.0 KiB"
    );
    let far = Verdict::of(None, &[sink("slow", State::Streaming, Some(301.0))], 100.0);
    assert_eq!(far.level, Level::Bad);
}

#[test]
fn a_halt_comes_first_with_its_reason_and_remedy() {
    let mut halted = sink("reports", State::Halted, Some(60.0));
    halted.view.last_error = error("table public.a diverged", "repair the row");
    let sinks = [sink("slow", State::Streaming, Some(400.0)), halted];
    let verdict = Verdict::of(Some(&source(State::Streaming)), &sinks, 100.0);
    assert_eq!(verdict.level, Level::Bad);
    assert_eq!(verdict.headline, "reports has halted, one of 2 followers");
    let fact = &verdict.facts[1];
    assert_eq!(
        fact.text,
        "reports is halted for 60.0 s, behind for 60.0 s and 60.0 KiB: table public.a diverged"
    );
    assert_eq!(fact.remedy.as_deref(), Some("repair the row"));
}

#[test]
fn without_a_source_nothing_is_called_current() {
    let mut down = source(State::Retrying);
    down.view.last_error = error("the leader refuses connections", "start it");
    down.view.slot = None;
    let stale = SinkReport {
        lag: Lag {
            staleness_seconds: Some(9.0),
            ..Lag::default()
        },
        ..sink("a", State::Streaming, None)
    };
    let verdict = Verdict::of(Some(&down), &[stale], 100.0);
    assert_eq!(verdict.level, Level::Bad);
    assert_eq!(
        verdict.headline,
        "The source does not stream: how far followers are is not known"
    );
    let told: Vec<&str> = verdict.facts.iter().map(|f| f.text.as_str()).collect();
    assert_eq!(
        told,
        [
            "leader is retrying for 10.0 s: the leader refuses connections",
            "a has a lag that nobody knows",
            "a is streaming, and how far behind is not known; it shows the leader of 9.0 s ago",
            "Whether the leader keeps WAL for the slot is not known",
        ]
    );
}

#[test]
fn the_leaders_disk_and_kafkas_retention_are_risks() {
    let of = |status, safe_bytes| {
        let mut source = source(State::Streaming);
        source.view.slot = source.view.slot.map(|slot| SlotState {
            wal_status: Some(status),
            safe_bytes,
            active: false,
            ..slot
        });
        let verdict = Verdict::of(Some(&source), &[current("a")], 100.0);
        (verdict.level, verdict.facts[0].text.clone())
    };
    let (level, text) = of(WalStatus::Extended, Some(2048));
    assert_eq!(level, Level::Watch);
    assert!(text.contains("2.0 KiB more may be written"), "{text}");
    assert!(text.contains("nobody streams"), "{text}");
    assert_eq!(of(WalStatus::Unreserved, Some(0)).0, Level::Bad);
    assert_eq!(of(WalStatus::Lost, None).0, Level::Bad);

    let mut late = sink("late", State::Streaming, Some(20.0));
    late.lag.retention_headroom_seconds = Some(3600.0);
    late.standing = standing(State::Streaming, &late.lag);
    assert_eq!(
        late.standing,
        Level::Good,
        "20 s behind is not about to lose anything"
    );
    late.lag.seconds = Some(82_000.0);
    late.standing = standing(State::Streaming, &late.lag);
    let verdict = Verdict::of(None, &[late], 100.0);
    assert_eq!(verdict.level, Level::Bad);
    assert!(
        verdict.facts[0].text.contains("in 1h"),
        "{:?}",
        verdict.facts
    );
}

#[test]
fn a_difference_that_was_found_is_told_while_all_is_current() {
    let mut sink = current("a");
    sink.view.verified = Some(Verified {
        differing: 3,
        ..Verified::default()
    });
    let verdict = Verdict::of(None, &[sink], 100.0);
    assert_eq!(verdict.level, Level::Bad);
    assert_eq!(verdict.headline, "a is current");
    assert!(
        verdict.facts[0].text.contains("in 3 rows"),
        "{:?}",
        verdict.facts
    );
}

#[test]
fn many_are_counted_and_the_worst_told() {
    let sinks: Vec<SinkReport> = (0..9)
        .map(|at| {
            sink(
                &format!("s{at}"),
                State::Streaming,
                Some(100.0 + f64::from(at)),
            )
        })
        .collect();
    let verdict = Verdict::of(None, &sinks, 100.0);
    assert_eq!(verdict.headline, "All 9 followers are behind");
    assert_eq!(verdict.facts.len(), TOLD_MAX + 1);
    assert!(
        verdict.facts[0].text.starts_with("s8 "),
        "{:?}",
        verdict.facts
    );
    assert_eq!(verdict.facts[TOLD_MAX].text, "and 4 more");
}

#[test]
fn what_does_not_stream_is_not_good() {
    for state in State::ALL {
        let level = standing(
            state,
            &Lag {
                seconds: Some(0.0),
                ..Lag::default()
            },
        );
        assert_eq!(level == Level::Good, state == State::Streaming, "{state:?}");
    }
}
