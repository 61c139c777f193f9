//! A bar on standard error for what a command waits for; where that is no terminal, a line now and then.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::status::count;

/// How often a line says how far it is, where no bar is drawn.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Cells of the bar.
const CELLS: usize = 30;

/// How much of something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// So much.
    pub done: u64,
    /// Of so much, as far as is known; 0: nothing is known.
    pub total: u64,
}

/// One bar.
pub(super) struct Bar {
    unit: &'static str,
    drawn: bool,
    said_at: Option<Instant>,
    begun: Option<(Instant, u64)>,
}

impl Bar {
    /// Nothing is drawn yet. `unit`: what is counted.
    pub(super) fn new(unit: &'static str) -> Self {
        Bar {
            unit,
            drawn: false,
            said_at: None,
            begun: None,
        }
    }

    /// Draws it, or says it if that was long ago. `waiting`: what is said while nothing is known.
    pub(super) fn show(&mut self, name: &str, done: Done, waiting: &str) {
        let now = Instant::now();
        let (begun, from) = *self.begun.get_or_insert((now, done.done));
        let seconds = (now - begun).as_secs_f64();
        let line = match line(done, self.unit, seconds, from) {
            Some(line) => format!("{name} {line}"),
            None => format!("{name}: {waiting}"),
        };
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[2K{line}");
            self.drawn = true;
        } else if self.said_at.is_none_or(|at| now - at >= SAY_EVERY) {
            eprintln!("{line}");
            self.said_at = Some(now);
        }
    }

    /// Removes what is drawn.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            eprint!("\r\x1b[2K");
        }
    }
}

/// `[██████████░░░░░░░░░░░░░░░░░░░░]  33%  250,000/s  1m 5s left  (1,000,000 of 3,000,000 rows)`; none
/// while nothing is known. So much had been done when the seconds began: `from`. Where all that is known to be
/// there is done, more is on its way: `1,000,000 rows so far  250,000/s`.
fn line(Done { done, total }: Done, unit: &str, seconds: f64, from: u64) -> Option<String> {
    if total == 0 {
        return None;
    }
    let rate = done.saturating_sub(from) as f64 / seconds.max(0.001);
    let is_known = seconds >= 1.0 && rate >= 1.0;
    let pace = if is_known {
        format!("  {}/s", count(rate as u64))
    } else {
        String::new()
    };
    if done >= total {
        return Some(format!("{} {unit} so far{pace}", count(done)));
    }
    let left = if is_known {
        let seconds = ((total - done) as f64 / rate).ceil();
        let left = humantime::format_duration(Duration::from_secs(seconds as u64));
        format!("  {left} left")
    } else {
        String::new()
    };
    let ratio = done as f64 / total as f64;
    let full = (ratio * CELLS as f64) as usize;
    let bar = "█".repeat(full) + &"░".repeat(CELLS - full);
    let (done, total) = (count(done), count(total));
    let percent = (ratio * 100.0).floor();
    Some(format!(
        "[{bar}] {percent:>3.0}%{pace}{left}  ({done} of {total} {unit})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_tells_rate_and_time_left() {
        let of = |done, total| Done { done, total };
        assert_eq!(
            line(of(1_000, 4_000), "rows", 2.0, 0).unwrap(),
            "[███████░░░░░░░░░░░░░░░░░░░░░░░]  25%  500/s  6s left  (1,000 of 4,000 rows)"
        );
        assert_eq!(line(of(0, 0), "rows", 2.0, 0), None);
        let more = line(of(5_000, 4_000), "rows", 0.5, 0).unwrap();
        assert_eq!(more, "5,000 rows so far");
        let more = line(of(5_000, 5_000), "rows", 2.0, 1_000).unwrap();
        assert_eq!(more, "5,000 rows so far  2,000/s");
        let nearly = line(of(9_999, 10_000), "rows", 0.5, 0).unwrap();
        assert!(nearly.contains(" 99%  (9,999 of 10,000 rows)"), "{nearly}");
    }
}
