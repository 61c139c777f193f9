//! `copy.max_bytes_per_second`: how fast the readers of a copy may read, all together; and not at all while
//! copies are paused.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::log::progress::Pauses;

/// Readers that are ahead by less do not wait: a row is small, and timers are not that fine.
const AHEAD_MAX: Duration = Duration::from_millis(20);

/// Shared by all readers.
#[derive(Debug)]
pub struct Throttle {
    /// None: as fast as they can.
    max_bytes_per_second: Option<usize>,
    /// When what was read so far should have been read.
    paid_at: Mutex<Instant>,
    pauses: Pauses,
}

impl Throttle {
    /// Nothing read yet.
    pub fn new(max_bytes_per_second: Option<usize>, pauses: Pauses) -> Self {
        Throttle {
            max_bytes_per_second,
            paid_at: Mutex::new(Instant::now()),
            pauses,
        }
    }

    /// Notes what was read, and waits as long as that is too fast, or copies are paused.
    pub async fn read(&self, bytes: usize) {
        if self.pauses.now() {
            self.pauses.until(false).await;
        }
        let Some(max) = self.max_bytes_per_second else {
            return;
        };
        let now = Instant::now();
        let paid_at = {
            // A moment only: a panic elsewhere leaves it whole.
            let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
            *paid_at = paid(*paid_at, now, bytes, max);
            *paid_at
        };
        if paid_at.saturating_duration_since(now) >= AHEAD_MAX {
            tokio::time::sleep_until(paid_at.into()).await;
        }
    }
}

/// When these bytes may have been read, behind what was read before. Time that nobody used is not made up for.
fn paid(before: Instant, now: Instant, bytes: usize, max_bytes_per_second: usize) -> Instant {
    let takes = Duration::from_secs_f64(bytes as f64 / max_bytes_per_second as f64);
    before.max(now) + takes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_together_read_no_faster_than_they_may() {
        let begun = Instant::now();
        let second = Duration::from_secs(1);
        let mut at = begun;
        // Two readers, a thousand bytes each and turn.
        for _ in 0..2 * 500 {
            at = paid(at, begun, 1000, 100_000);
        }
        let took = at - begun;
        let wanted = 10 * second;
        assert!(took.abs_diff(wanted) < second / 100, "{took:?}");
        let idle = at + 5 * second;
        assert_eq!(paid(at, idle, 100_000, 100_000), idle + second);
    }

    #[tokio::test]
    async fn while_copies_are_paused_nobody_reads_on() {
        let (tell, pauses) = Pauses::told();
        let throttle = Throttle::new(None, pauses);
        throttle.read(1).await;
        tell(true);
        let mut reading = std::pin::pin!(throttle.read(1));
        for _ in 0..3 {
            assert!(futures_util::poll!(&mut reading).is_pending());
            tokio::task::yield_now().await;
        }
        tell(false);
        reading.await;
    }

    #[tokio::test]
    async fn without_a_limit_nobody_waits() {
        let throttle = Throttle::new(None, Pauses::never());
        throttle.read(usize::MAX).await;
    }
}
