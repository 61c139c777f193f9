use super::*;

const S: i64 = 1_000_000;

fn sample(flush: u64, at_s: i64) -> Sample {
    Sample {
        flush: Lsn(flush),
        clock_us: at_s * S,
    }
}

/// A tracker that has read the log and then got these (flush, leader's second) as they came,
/// each `delay_us` after it was taken, on a host whose clock is `skew_us` ahead of the leader's.
fn live(samples: &[(u64, i64)], skew_us: i64, delay_us: i64) -> LagTracker {
    let mut tracker = LagTracker::new();
    tracker.caught_up();
    for (flush, at_s) in samples {
        tracker.take(sample(*flush, *at_s), at_s * S + skew_us + delay_us);
    }
    tracker
}

#[test]
fn an_idle_leader_with_everything_applied_is_zero_behind() {
    let tracker = live(&[(100, 10), (100, 11), (100, 12)], 0, 0);
    let lag = tracker.lag(Lsn(100), None, 12 * S + S / 2);
    assert_eq!(lag.bytes, Some(0));
    assert_eq!(lag.seconds, Some(0.0));
    assert_eq!(lag.staleness_seconds, Some(0.5));
}

#[test]
fn a_busy_leader_is_measured_from_the_first_sample_above_the_boundary() {
    let tracker = live(&[(100, 10), (200, 11), (300, 12), (400, 13)], 0, 0);
    let lag = tracker.lag(Lsn(250), None, 14 * S);
    assert_eq!(lag.bytes, Some(150));
    assert_eq!(lag.seconds, Some(2.0), "sample 300 was taken at 12");
    assert_eq!(
        lag.staleness_seconds,
        Some(3.0),
        "sample 200 was taken at 11"
    );
}

#[test]
fn a_paused_follower_falls_behind_second_by_second() {
    let mut tracker = live(&[(100, 10)], 0, 0);
    for at in 11..600 {
        tracker.take(sample(100 * at as u64, at), at * S);
        let lag = tracker.lag(Lsn(100), None, at * S);
        assert_eq!(lag.bytes, Some(100 * at as u64 - 100));
        assert_eq!(lag.seconds, Some((at - 11) as f64));
        assert_eq!(lag.staleness_seconds, Some((at - 10) as f64));
    }
}

#[test]
fn a_dead_source_makes_zero_unknown_and_staleness_grow() {
    let tracker = live(&[(100, 10)], 0, 0);
    let just_fresh = tracker.lag(Lsn(100), None, 13 * S - 1);
    assert_eq!((just_fresh.bytes, just_fresh.seconds), (Some(0), Some(0.0)));
    for (now_s, staleness) in [(13, 3.0), (20, 10.0), (4000, 3990.0)] {
        let lag = tracker.lag(Lsn(100), None, now_s * S);
        assert_eq!((lag.bytes, lag.seconds), (None, None));
        assert_eq!(lag.staleness_seconds, Some(staleness));
    }
}

#[test]
fn what_is_known_to_be_missing_stays_known_when_the_source_dies() {
    let tracker = live(&[(100, 10), (200, 11)], 0, 0);
    let lag = tracker.lag(Lsn(100), None, 100 * S);
    assert_eq!(lag.bytes, None, "how much the leader has by now is unknown");
    assert_eq!(lag.seconds, Some(89.0), "it had more at 11");
    assert_eq!(lag.staleness_seconds, Some(90.0));
}

#[test]
fn a_wrong_clock_on_this_host_changes_nothing() {
    for skew in [-3600 * S, -S, 0, 5 * S, 86_400 * S] {
        let tracker = live(&[(100, 10), (200, 11), (300, 12)], skew, 0);
        let lag = tracker.lag(Lsn(200), None, 13 * S + skew);
        assert_eq!(lag.bytes, Some(100), "{skew}");
        assert_eq!(lag.seconds, Some(1.0), "{skew}");
        assert_eq!(lag.staleness_seconds, Some(2.0), "{skew}");
    }
}

#[test]
fn samples_that_come_in_a_burst_after_a_pause_do_not_move_the_clock() {
    let mut tracker = live(&[(100, 10), (200, 11)], 0, 0);
    // Kafka was away; what was sampled from 12 to 40 comes at 41, all at once.
    for at in 12..=40 {
        tracker.take(sample(100 * at as u64, at), 41 * S);
    }
    let lag = tracker.lag(Lsn(1200), None, 41 * S);
    assert_eq!(lag.seconds, Some(28.0), "sample 1300 was taken at 13");
    assert_eq!(lag.bytes, Some(2800));
}

#[test]
fn old_samples_read_from_the_log_are_not_taken_for_fresh_ones() {
    let mut tracker = LagTracker::new();
    tracker.behind();
    tracker.take_old(sample(100, 10));
    tracker.take_old(sample(200, 11));
    let reading = tracker.lag(Lsn(200), None, 1000 * S);
    assert_eq!((reading.bytes, reading.seconds), (None, None));
    assert_eq!(reading.staleness_seconds, Some(989.0));
    tracker.caught_up();
    let source_dead = tracker.lag(Lsn(200), None, 1000 * S);
    assert_eq!((source_dead.bytes, source_dead.seconds), (None, None));
    tracker.take(sample(300, 1000), 1000 * S);
    let live = tracker.lag(Lsn(100), None, 1001 * S);
    assert_eq!(live.bytes, Some(200));
    assert_eq!(live.seconds, Some(990.0), "the leader had more at 11");
}

#[test]
fn while_the_log_cannot_be_read_only_what_is_missing_and_staleness_are_known() {
    let mut tracker = live(&[(100, 10), (200, 11)], 0, 0);
    tracker.behind();
    let missing = tracker.lag(Lsn(100), None, 12 * S);
    assert_eq!((missing.bytes, missing.seconds), (None, Some(1.0)));
    let lag = tracker.lag(Lsn(200), None, 12 * S);
    assert_eq!((lag.bytes, lag.seconds), (None, None));
    assert_eq!(lag.staleness_seconds, Some(1.0));
    // It is read again, from before: what is read comes in place of what was known.
    tracker.begin_anew();
    tracker.take_old(sample(50, 9));
    assert_eq!(
        tracker.lag(Lsn(200), None, 12 * S).staleness_seconds,
        Some(3.0)
    );
}

#[test]
fn a_follower_behind_every_sample_has_the_staleness_of_its_last_commit() {
    let tracker = live(&[(500, 100)], 0, 0);
    assert_eq!(tracker.lag(Lsn(100), None, 100 * S).staleness_seconds, None);
    let lag = tracker.lag(Lsn(100), Some(40 * S), 100 * S);
    assert_eq!(lag.staleness_seconds, Some(60.0));
}

#[test]
fn memory_is_bounded_and_thinning_only_enlarges_lag() {
    let mut tracker = LagTracker::new();
    tracker.caught_up();
    let days = 3 * 86_400;
    for at in 1..=days {
        tracker.take(sample(10 * at as u64, at), at * S);
        assert!(tracker.samples.len() <= SAMPLES_MAX);
    }
    for applied_s in [1, 1000, 86_400, days - 10, days] {
        let lag = tracker.lag(Lsn(10 * applied_s as u64), Some(0), days * S);
        let exact = (days - applied_s) as f64;
        let seconds = lag.seconds.unwrap();
        assert!(
            seconds >= (exact - 1.0).max(0.0),
            "{applied_s}: {seconds} {exact}"
        );
        assert!(lag.staleness_seconds.unwrap() >= exact, "{applied_s}");
    }
}

#[test]
fn a_copying_sink_promises_nothing() {
    let tracker = live(&[(100, 10)], 0, 0);
    let mut view = SinkView {
        applied: Some(Lsn(100)),
        state: crate::status::State::Retrying,
        copying: true,
        ..SinkView::default()
    };
    assert_eq!(tracker.sink_lag(&view, 10 * S), Lag::default());
    view.copying = false;
    assert_eq!(tracker.sink_lag(&view, 10 * S).bytes, Some(0));
}

#[test]
fn behind_every_sample_the_last_applied_commit_is_the_bound_or_seconds_are_absent() {
    let tracker = live(&[(500, 100), (600, 101)], 0, 0);
    let unknown = tracker.lag(Lsn(100), None, 102 * S);
    assert_eq!((unknown.bytes, unknown.seconds), (Some(500), None));
    assert_eq!(unknown.staleness_seconds, None);
    let bound = tracker.lag(Lsn(100), Some(10 * S), 102 * S);
    assert_eq!(bound.seconds, Some(92.0), "it had no more at 10");
    assert_eq!(bound.staleness_seconds, Some(92.0));
    let caught_up = tracker.lag(Lsn(600), Some(10 * S), 102 * S);
    assert_eq!(caught_up.seconds, Some(0.0));
}

#[test]
fn an_hour_without_a_source_is_not_forgotten_when_it_is_back() {
    // The leader was written all the time; nobody sampled it from 11 to 3611.
    let mut tracker = live(&[(100, 10), (200, 11)], 0, 0);
    for at in 3611..3620 {
        tracker.take(sample(9000 + at as u64, at), at * S);
    }
    let before = tracker.lag(Lsn(200), None, 3620 * S);
    assert_eq!(before.seconds, Some(3609.0), "perhaps since 11, not 3611");
    assert_eq!(before.staleness_seconds, Some(3609.0));
    // In the gap the commits that are applied say more.
    let within = tracker.lag(Lsn(5000), Some(1800 * S), 3620 * S);
    assert_eq!(within.seconds, Some(1820.0));
    let behind_it = tracker.lag(Lsn(9000 + 3611), Some(3600 * S), 3620 * S);
    assert_eq!(
        behind_it.seconds,
        Some(8.0),
        "the samples are neighbours again"
    );
}

#[test]
fn a_transaction_that_keeps_entries_from_being_written_counts_from_its_beginning() {
    // No entry from 11 to 611; the one after it brings the newest sample only.
    let tracker = live(&[(100, 10), (100, 11), (9000, 611)], 0, 0);
    let lag = tracker.lag(Lsn(100), Some(5 * S), 612 * S);
    assert_eq!(lag.seconds, Some(601.0));
    // An idle leader in the same time has a sample of the same LSN at the end of it.
    let idle = live(&[(100, 10), (100, 610), (9000, 611)], 0, 0);
    assert_eq!(idle.lag(Lsn(100), Some(5 * S), 612 * S).seconds, Some(1.0));
}

#[test]
fn a_commit_time_beyond_the_first_sample_above_does_not_lower_the_lag() {
    // The leader's clock was set back in between.
    let tracker = live(&[(500, 100)], 0, 0);
    let lag = tracker.lag(Lsn(100), Some(150 * S), 102 * S);
    assert_eq!((lag.seconds, lag.staleness_seconds), (Some(2.0), Some(2.0)));
}

proptest::proptest! {
    /// A leader that writes at all times or not, sampled now and then, a follower somewhere:
    /// whatever is missing, seconds are never lower than the truth by more than samples lie apart.
    #[test]
    fn seconds_are_never_lower_than_the_truth(
        written in proptest::collection::vec(0u64..3, 2..200),
        gaps in proptest::collection::vec(1usize..12, 1..200),
        (applied_at, commit_ago) in (0usize..200, proptest::option::of(0usize..40)),
    ) {
        // flush[s]: the leader's flush LSN at second s.
        let flush: Vec<u64> = written
            .iter()
            .scan(100, |lsn, more| { *lsn += more; Some(*lsn) })
            .collect();
        let end = flush.len() - 1;
        let mut tracker = LagTracker::new();
        tracker.caught_up();
        let mut at = gaps[0] - 1;
        for gap in gaps.iter().cycle() {
            if at > end { break; }
            tracker.take(sample(flush[at], at as i64), at as i64 * S);
            at += gap;
        }
        let applied_at = applied_at.min(end);
        let applied = flush[applied_at];
        let commit = commit_ago.map(|ago| applied_at.saturating_sub(ago) as i64 * S);
        let lag = tracker.lag(Lsn(applied), commit, end as i64 * S);
        let truth = flush.iter().position(|lsn| *lsn > applied).map_or(0, |since| end - since);
        if let Some(seconds) = lag.seconds {
            proptest::prop_assert!(seconds + 3.0 >= truth as f64, "{} {} {:?}", seconds, truth, flush);
            let staleness = lag.staleness_seconds.unwrap_or(f64::MAX);
            proptest::prop_assert!(seconds <= staleness);
            proptest::prop_assert!(staleness >= truth as f64);
        }
    }
}
