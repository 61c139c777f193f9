//! Distributions since start, in fixed buckets as Prometheus wants them.

/// Upper bounds of durations, seconds.
pub const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// Upper bounds of numbers of changes.
pub const CHANGES: &[f64] = &[1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];

/// The most bounds that a histogram has.
const BOUNDS_MAX: usize = 13;

/// How many observations fell into which bucket, and their sum.
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: [u64; BOUNDS_MAX + 1],
    sum: f64,
}

impl Histogram {
    /// An empty one with these upper bounds, in rising order.
    pub const fn new(bounds: &'static [f64]) -> Self {
        assert!(bounds.len() <= BOUNDS_MAX);
        Histogram {
            bounds,
            counts: [0; BOUNDS_MAX + 1],
            sum: 0.0,
        }
    }

    /// Counts one observation. Below zero counts as zero: clocks of two hosts were compared.
    pub fn observe(&mut self, value: f64) {
        let value = value.max(0.0);
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }

    /// Upper bounds with the number of observations at or below each; the last bound is infinite.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts).scan(0, |below, (bound, count)| {
            *below += count;
            Some((bound, *below))
        })
    }

    /// Its upper bounds, without the infinite one.
    pub fn bounds(&self) -> &'static [f64] {
        self.bounds
    }

    /// Sum of all observations.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_fall_into_the_first_bucket_that_holds_them() {
        let mut histogram = Histogram::new(CHANGES);
        for value in [-3.0, 1.0, 1.5, 10.0, 2e6] {
            histogram.observe(value);
        }
        let found: Vec<_> = histogram.cumulative().map(|(_, count)| count).collect();
        assert_eq!(found, [2, 4, 4, 4, 4, 4, 4, 5]);
        assert_eq!(histogram.cumulative().last().unwrap().0, f64::INFINITY);
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum() - 2_000_012.5).abs() < 1e-6);
    }
}
