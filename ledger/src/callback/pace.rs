//! Whether a callback was taken, and when it is tried again: pure, told the time and a random number.

use std::time::Duration;

use crate::store::{CallbackStatus, Settled};

/// A receiver that asks for more waits no longer than this: its callback is not to outlive what is kept of its call by far.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(6 * 60 * 60);
/// How long until the next try where the fault is the platform's own, such as a broker that is away.
const POSTPONE: Duration = Duration::from_secs(5);
/// Each wait is up to so much shorter or longer, so that what failed together does not come back together.
const JITTER: f64 = 0.2;

/// How often and how long callbacks are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Attempts in all.
    pub attempts_max: u32,
    /// The wait after the first of them.
    pub wait_first: Duration,
    /// Each wait is so many times the one before.
    pub wait_factor: u32,
    /// Name, connection and answer of one attempt over HTTP; far below a minute, for which a callback is held.
    pub answer_timeout: Duration,
    /// How often is looked for callbacks that are due.
    pub look_interval: Duration,
}

impl Default for Pace {
    /// Eight attempts: after 15 s, 1, 4, 16 and 64 minutes, 4 and 17 hours. A receiver may be away for a day.
    fn default() -> Self {
        Self {
            attempts_max: 8,
            wait_first: Duration::from_secs(15),
            wait_factor: 4,
            // As long as webhooks commonly may take.
            answer_timeout: Duration::from_secs(15),
            look_interval: Duration::from_millis(500),
        }
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attempted {
    /// It was taken.
    Taken,
    /// It was not, and perhaps is later.
    Again { error: String, retry_after: Option<Duration> },
    /// It never will be.
    Never(String),
    /// It was not tried: what stands in its way is the platform's.
    Postponed(String),
}

/// What an answer's status says of a callback.
pub(crate) fn judge_status(status: u16, retry_after: Option<Duration>) -> Attempted {
    match status {
        200..=299 => Attempted::Taken,
        300..=399 => Attempted::Again {
            error: format!("it answered {status}, and no redirect is followed"),
            retry_after,
        },
        // Come again: late, early, too often (RFC 9110, 8470, 6585).
        408 | 425 | 429 => Attempted::Again { error: format!("it answered {status}"), retry_after },
        400..=499 => Attempted::Never(format!("it answered {status}")),
        _ => Attempted::Again { error: format!("it answered {status}"), retry_after },
    }
}

impl Pace {
    /// What becomes of a callback after its `attempt`th try. `chance` is between 0 and 1.
    pub(crate) fn settle(&self, attempt: u32, came: Attempted, now_ms: u64, chance: f64) -> Settled {
        let settled = |status, error, due_ms| Settled { status, attempts: attempt, error, due_ms };
        match came {
            Attempted::Taken => settled(CallbackStatus::Delivered, None, None),
            Attempted::Never(error) => settled(CallbackStatus::Failed, Some(error), None),
            Attempted::Again { error, .. } if attempt >= self.attempts_max => {
                settled(CallbackStatus::Failed, Some(error), None)
            }
            Attempted::Again { error, retry_after } => {
                let wait =
                    self.wait(attempt, chance).max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX));
                settled(CallbackStatus::Waiting, Some(error), Some(later(now_ms, wait)))
            }
            Attempted::Postponed(error) => {
                let due_ms = later(now_ms, jittered(POSTPONE, chance));
                Settled {
                    attempts: attempt - 1,
                    ..settled(CallbackStatus::Waiting, Some(error), Some(due_ms))
                }
            }
        }
    }

    fn wait(&self, attempt: u32, chance: f64) -> Duration {
        let times = self.wait_factor.saturating_pow(attempt.saturating_sub(1));
        jittered(self.wait_first.saturating_mul(times), chance)
    }
}

fn jittered(wait: Duration, chance: f64) -> Duration {
    wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance)
}

fn later(now_ms: u64, wait: Duration) -> u64 {
    now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_000;

    fn again(retry_after: Option<Duration>) -> Attempted {
        Attempted::Again { error: "it answered 503".into(), retry_after }
    }

    #[test]
    fn waits_grow_and_eight_attempts_take_about_a_day() {
        let pace = Pace::default();
        let mut total = Duration::ZERO;
        for attempt in 1..8 {
            let settled = pace.settle(attempt, again(None), NOW_MS, 0.5);
            assert_eq!((settled.status, settled.attempts), (CallbackStatus::Waiting, attempt));
            total += Duration::from_millis(settled.due_ms.unwrap() - NOW_MS);
        }
        let hours = total.as_secs() / 3600;
        assert!((20..28).contains(&hours), "{hours} hours");
        let last = pace.settle(8, again(None), NOW_MS, 0.5);
        assert_eq!((last.status, last.due_ms), (CallbackStatus::Failed, None));
        assert_eq!(last.error.as_deref(), Some("it answered 503"));
    }

    #[test]
    fn chance_moves_a_wait_by_a_fifth_at_most() {
        let wait = |chance| Pace::default().settle(1, again(None), 0, chance).due_ms.unwrap();
        assert_eq!((wait(0.0), wait(0.5), wait(1.0)), (12_000, 15_000, 18_000));
    }

    #[test]
    fn a_receivers_wait_counts_within_its_bound_and_shortens_none() {
        let due = |retry_after| Pace::default().settle(1, again(Some(retry_after)), 0, 0.5).due_ms.unwrap();
        assert_eq!(due(Duration::from_secs(1)), 15_000);
        assert_eq!(due(Duration::from_secs(60)), 60_000);
        assert_eq!(due(Duration::from_secs(1_000_000)), 6 * 60 * 60 * 1000);
    }

    #[test]
    fn what_the_platform_lacks_costs_a_callback_no_attempt() {
        let settled =
            Pace::default().settle(8, Attempted::Postponed("the broker is away".into()), NOW_MS, 0.5);
        assert_eq!((settled.status, settled.attempts), (CallbackStatus::Waiting, 7));
        assert_eq!(settled.due_ms, Some(6_000));
    }

    #[test]
    fn a_status_says_whether_to_come_again() {
        for status in [200, 202, 204] {
            assert_eq!(judge_status(status, None), Attempted::Taken, "{status}");
        }
        for status in [400, 401, 404, 410, 422] {
            assert!(matches!(judge_status(status, None), Attempted::Never(_)), "{status}");
        }
        for status in [301, 302, 307, 408, 425, 429, 500, 502, 503] {
            assert!(matches!(judge_status(status, None), Attempted::Again { .. }), "{status}");
        }
    }
}
