//! How long to wait before trying again: doubling, capped, jittered. Never sleeps and reads no clock.

use std::time::Duration;

/// Doubles from `first` to `longest`.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The wait after one more failure. `jitter` in 0..1 spreads it over its upper half.
    pub(crate) fn after_failure(&mut self, jitter: f64) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }

    /// Forgets the failures.
    pub(crate) const fn succeeded(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_longest_and_begin_anew_after_a_success() {
        let ms = |wait: Duration| wait.as_millis();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let waits: Vec<_> = (0..4).map(|_| ms(backoff.after_failure(1.0))).collect();
        assert_eq!(waits, [100, 200, 300, 300]);
        backoff.succeeded();
        assert_eq!(ms(backoff.after_failure(0.0)), 50);
    }
}
