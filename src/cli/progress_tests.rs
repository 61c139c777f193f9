use super::*;

fn copy(table: &str, rows: u64, rows_estimate: Option<u64>) -> CopyProgress {
    CopyProgress {
        table: format!("public.{table}"),
        rows,
        rows_estimate,
        done: false,
    }
}

fn done(table: &str, rows: u64) -> CopyProgress {
    CopyProgress {
        done: true,
        ..copy(table, rows, None)
    }
}

fn part(name: &str, copies: &[CopyProgress]) -> PartCopies {
    PartCopies {
        part: name.to_owned(),
        copies: copies.to_vec(),
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_bar_shows_share_rate_and_time_left() {
    assert_eq!(
        bar(
            "leader",
            &copy("t", 1_000_000, Some(4_000_000)),
            Some(40_000.0)
        ),
        "leader: public.t [█████░░░░░░░░░░░░░░░]  25%  40,000 rows/s  1m 15s left  (1,000,000 of about 4,000,000)"
    );
    assert_eq!(
        bar("leader", &copy("t", 5, Some(4)), Some(1.0)),
        "leader: public.t [███████████████████░]  99%  1 rows/s  (5 of about 4)",
        "more rows than estimated"
    );
    assert_eq!(
        bar("leader", &copy("t", 1234, None), None),
        "leader: public.t  1,234 rows",
        "nothing is known"
    );
    assert_eq!(
        bar("leader", &copy("t", 1, Some(1_000_000)), Some(0.0)),
        "leader: public.t [░░░░░░░░░░░░░░░░░░░░]   0%  0 rows/s  (1 of about 1,000,000)",
        "it stands still"
    );
}

#[test]
fn rates_are_of_the_last_seconds_and_begin_anew_with_a_copy() {
    let begun = Instant::now();
    let mut paces = Paces::default();
    let mut rate = |at, rows| {
        let now = copy("t", rows, None);
        paces.see(
            &[part("leader", std::slice::from_ref(&now))],
            begun + seconds(at),
        );
        paces.rate("leader", &now)
    };
    assert_eq!(rate(0, 100), None);
    assert_eq!(rate(1, 200), Some(100.0));
    assert_eq!(rate(2, 500), Some(200.0));
    // Slower from here on: the first seconds count less and less, then no more.
    assert_eq!(rate(10, 1300), Some(120.0));
    assert_eq!(rate(20, 1400), Some(10.0));
    assert_eq!(rate(21, 50), None, "begun again");
    assert_eq!(rate(22, 60), Some(10.0));
}

#[test]
fn tables_beyond_the_room_for_bars_are_counted() {
    let paces = Paces::default();
    let waiting = [copy("a", 0, Some(1)), done("b", 7)];
    let lines = |copies: &[CopyProgress]| part("dw", copies).bars(&paces);
    assert_eq!(lines(&waiting), ["dw: 1 table to copy"]);
    assert_eq!(lines(&waiting[1..]), [""; 0]);
    let under_way: Vec<CopyProgress> = (0..20).map(|n| copy(&n.to_string(), 1, None)).collect();
    let lines = lines(&under_way);
    assert_eq!(lines.len(), BARS_MAX + 1);
    assert_eq!(lines[0], "dw: public.0  1 rows");
    assert_eq!(lines[BARS_MAX], "dw: 12 more tables to copy");
}

/// What the log says of these copies, seen at these seconds.
fn said(seen: &[(u64, &[CopyProgress])]) -> Vec<(u64, Stage, String, u64)> {
    let begun = Instant::now();
    let mut log = Log::default();
    let each = seen.iter().flat_map(|(at, copies)| {
        let parts = [part("p", copies)];
        let notes = log.notes(&parts, begun + seconds(*at));
        notes
            .into_iter()
            .map(|n| (*at, n.stage, n.copy.table, n.copy.rows))
    });
    each.collect()
}

#[test]
fn the_log_says_when_a_copy_begins_and_ends_and_now_and_then_in_between() {
    let t = "public.t".to_owned();
    let looks: &[(u64, &[CopyProgress])] = &[
        (0, &[copy("t", 0, None)]),
        (1, &[copy("t", 10, None)]),
        (2, &[copy("t", 20, None)]),
        (11, &[copy("t", 110, None)]),
        (12, &[copy("t", 120, None)]),
        (13, &[done("t", 130)]),
        (30, &[done("t", 130)]),
        (31, &[]),
    ];
    let wanted = [
        (1, Stage::Begins, t.clone(), 10),
        (11, Stage::GoesOn, t.clone(), 110),
        (13, Stage::Ends, t.clone(), 130),
    ];
    assert_eq!(said(looks), wanted);

    // Faster than anybody looks, then failed and begun again.
    let looks: &[(u64, &[CopyProgress])] = &[
        (0, &[done("t", 5)]),
        (1, &[copy("t", 0, None)]),
        (2, &[copy("t", 10, None)]),
        (3, &[copy("t", 3, None)]),
    ];
    let wanted = [
        (0, Stage::Ends, t.clone(), 5),
        (2, Stage::Begins, t.clone(), 10),
        (3, Stage::Begins, t, 3),
    ];
    assert_eq!(said(looks), wanted);
}
