//! How long to wait before trying again: doubling, capped, jittered. Never sleeps and reads no clock.

use std::time::Duration;

/// Doubles from `first` to `longest`.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// A backoff that has seen no failure yet.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The wait after one more failure. `jitter` in 0..1 spreads it over its upper half, so that what failed
    /// together is not tried together.
    pub fn after_failure(&mut self, jitter: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        let wait = doubled.min(self.longest);
        wait.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }

    /// Failures seen since the last success.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Forgets the failures.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff() -> Backoff {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(2))
    }

    #[test]
    fn waits_double_until_the_longest() {
        let mut backoff = backoff();
        let waits: Vec<u128> = (0..7).map(|_| backoff.after_failure(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
    }

    #[test]
    fn success_starts_over() {
        let mut backoff = backoff();
        backoff.after_failure(1.0);
        backoff.after_failure(1.0);
        backoff.succeeded();
        assert_eq!(backoff.failures(), 0);
        assert_eq!(backoff.after_failure(1.0), Duration::from_millis(100));
    }

    #[test]
    fn waits_reach_a_longest_that_is_no_doubling_and_begin_anew_after_a_success() {
        let ms = |wait: Duration| wait.as_millis();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let waits: Vec<_> = (0..4).map(|_| ms(backoff.after_failure(1.0))).collect();
        assert_eq!(waits, [100, 200, 300, 300]);
        backoff.succeeded();
        assert_eq!(ms(backoff.after_failure(0.0)), 50);
    }

    #[test]
    fn jitter_never_halves_more_than_once() {
        assert_eq!(backoff().after_failure(0.0), Duration::from_millis(50));
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = backoff();
        let last = (0..1000).map(|_| backoff.after_failure(1.0)).last();
        assert_eq!(last, Some(Duration::from_secs(2)));
    }
}
