//! What becomes of a delivery from a durable queue, before and after each attempt. Pure: it is handed the time.
//!
//! The runner counts attempts itself, by what the queue says of earlier ones, so that whoever gives a call up can tell
//! the ledger; the queue's own limit lies far beyond.

use std::fmt;

use funcatron_broker::message::{ATTEMPTS_DEFAULT, Call, CallId, Ended, Outcome};
use funcatron_crds::{DEFAULT_ATTEMPTS, RunDocument};
use http::StatusCode;

const _: () = assert!(ATTEMPTS_DEFAULT == DEFAULT_ATTEMPTS, "calls and events are tried alike");

/// What an attempt at an event goes by: unlike a call, it says nothing of its own, and the ledger does not know it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EventTerms {
    /// How long one attempt may take.
    pub(crate) timeout_ms: u64,
    /// How many there are.
    pub(crate) attempts_max: u32,
}

impl EventTerms {
    /// As the Fn's revision says.
    pub(crate) fn of(document: &RunDocument) -> Self {
        Self { timeout_ms: document.timeout_ms, attempts_max: document.attempts_max }
    }

    /// Whether there is no attempt left after the `delivered` earlier ones.
    pub(crate) fn is_exhausted(self, delivered: u32) -> bool {
        // Whatever a runner was told, the first attempt is made.
        delivered >= self.attempts_max.max(1)
    }

    /// What follows the attempt after the `delivered` earlier ones.
    pub(crate) fn next(self, outcome: Outcome, delivered: u32) -> Next {
        next(outcome, self.is_exhausted(delivered.saturating_add(1)))
    }
}

/// One attempt at a call that nobody waits for, as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) id: CallId,
    pub(crate) fn_name: String,
    /// From 1.
    pub(crate) number: u32,
    /// Of so many.
    max: u32,
}

/// Why a call is not tried any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// Each attempt ended with its runner.
    Exhausted,
    /// It is older than its Fn wants calls to be.
    TooOld,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exhausted => "its last attempt ended with its runner",
            Self::TooOld => "it is older than spec.async.retry.maxAge of its Fn",
        })
    }
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: it is done.
    Done,
    /// Another attempt.
    Again,
    /// No other attempt would do better, or none is left: it becomes a dead letter.
    Dead,
}

impl Attempt {
    /// The attempt that a delivery is of; `delivered` counts the earlier ones.
    pub(crate) fn of(call: &Call, delivered: u32) -> Self {
        Self {
            id: call.id,
            fn_name: call.fn_name.clone(),
            number: delivered.saturating_add(1),
            max: call.attempts_max.unwrap_or(ATTEMPTS_DEFAULT).max(1),
        }
    }

    /// Whether there is a reason not to begin it.
    pub(crate) fn given_up(&self, deadline_ms: u64, now_ms: u64) -> Option<GivenUp> {
        if self.number > self.max {
            return Some(GivenUp::Exhausted);
        }
        (deadline_ms <= now_ms).then_some(GivenUp::TooOld)
    }

    /// Why nothing follows its failure.
    pub(crate) fn last_words(&self, outcome: Outcome) -> String {
        let Self { number, max, .. } = self;
        match outcome {
            Outcome::Answer(status) if is_refusal(outcome) => {
                format!("the function answered {status}, and would again")
            }
            Outcome::Answer(status) => format!("attempt {number} of {max} was answered {status}"),
            Outcome::TimedOut => format!("attempt {number} of {max} was not done in time"),
            _ => format!("attempt {number} of {max} failed"),
        }
    }

    /// What follows it.
    pub(crate) fn next(&self, outcome: Outcome) -> Next {
        next(outcome, self.number >= self.max)
    }
}

fn next(outcome: Outcome, is_last: bool) -> Next {
    match ended(outcome) {
        Ended::Success => Next::Done,
        _ if is_last || is_refusal(outcome) => Next::Dead,
        _ => Next::Again,
    }
}

/// How the ledger calls an outcome.
pub(crate) fn ended(outcome: Outcome) -> Ended {
    match outcome {
        Outcome::Answer(status) if status.as_u16() < 400 => Ended::Success,
        Outcome::TimedOut => Ended::Timeout,
        _ => Ended::Error,
    }
}

/// The function's word that this call is wrong, which it will say again: client errors, but those that pass by
/// themselves.
fn is_refusal(outcome: Outcome) -> bool {
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    matches!(outcome, Outcome::Answer(status) if status.is_client_error() && !passing.contains(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn attempt(number: u32) -> Attempt {
        Attempt { id: CallId::fresh(), fn_name: "hello".into(), number, max: 3 }
    }

    /// Of a Fn that allows an event two attempts.
    const TWO: EventTerms = EventTerms { timeout_ms: 1000, attempts_max: 2 };

    fn answer(status: u16) -> Outcome {
        Outcome::Answer(StatusCode::from_u16(status).unwrap())
    }

    #[test]
    fn an_attempt_beyond_the_last_is_not_begun() {
        assert_eq!(attempt(3).given_up(NOW + 1, NOW), None);
        assert_eq!(attempt(4).given_up(NOW + 1, NOW), Some(GivenUp::Exhausted));
    }

    #[test]
    fn a_call_older_than_wanted_is_not_begun() {
        assert_eq!(attempt(1).given_up(NOW, NOW), Some(GivenUp::TooOld));
    }

    #[test]
    fn failures_are_tried_again_until_the_last_attempt() {
        for outcome in
            [Outcome::Failed, Outcome::TimedOut, answer(500), answer(503), answer(429), answer(408)]
        {
            assert_eq!(attempt(1).next(outcome), Next::Again, "{outcome:?}");
            assert_eq!(attempt(3).next(outcome), Next::Dead, "{outcome:?}");
        }
    }

    #[test]
    fn an_event_is_tried_as_often_as_its_fn_says() {
        assert_eq!(TWO.next(Outcome::Failed, 0), Next::Again);
        assert_eq!(TWO.next(Outcome::Failed, 1), Next::Dead);
        assert!(!TWO.is_exhausted(1) && TWO.is_exhausted(2));
        let once = EventTerms { attempts_max: 1, ..TWO };
        assert_eq!(once.next(Outcome::TimedOut, 0), Next::Dead);
    }

    #[test]
    fn what_the_function_refuses_is_not_tried_again() {
        for status in [400, 404, 422] {
            assert_eq!(attempt(1).next(answer(status)), Next::Dead);
        }
        assert_eq!(TWO.next(answer(400), 0), Next::Dead);
    }

    #[test]
    fn what_is_done_is_done() {
        for status in [200, 204, 302] {
            assert_eq!(attempt(1).next(answer(status)), Next::Done);
        }
        assert_eq!(TWO.next(answer(200), 9), Next::Done);
    }
}
