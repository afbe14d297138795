//! Whether a delivery may run. Pure: it is handed the time.

use std::time::Duration;

use funcatron_broker::message::Outcome;

use crate::slots::Lane;

/// What is known of a call before it starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub lane: Lane,
    pub attempt: u32,
    pub deadline_ms: u64,
    pub timeout_ms: u64,
}

/// What becomes of a call before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It runs, and may take this long.
    Run(Duration),
    /// It is too late to start it.
    Refuse(Outcome),
}

/// Whether a call starts now. (Whether it was out before is asked when it comes, not when it starts.)
pub(crate) fn admit(start: Start, now_ms: u64) -> Admission {
    let Start { lane, attempt, deadline_ms, timeout_ms } = start;
    // In a durable queue nobody waits: each attempt has the whole timeout, from when it starts.
    if lane == Lane::Durable {
        return Admission::Run(Duration::from_millis(timeout_ms));
    }
    let left_ms = deadline_ms.saturating_sub(now_ms);
    let late = left_ms == 0 || (attempt <= 1 && left_ms < timeout_ms / 2);
    match late {
        true => Admission::Refuse(Outcome::Expired),
        false => Admission::Run(Duration::from_millis(left_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn admit_at(lane: Lane, attempt: u32, left_ms: i64) -> Admission {
        let deadline_ms = NOW.checked_add_signed(left_ms).unwrap();
        admit(Start { lane, attempt, deadline_ms, timeout_ms: 1000 }, NOW)
    }

    #[test]
    fn a_call_runs_until_its_deadline() {
        assert_eq!(admit_at(Lane::Sync, 1, 900), Admission::Run(Duration::from_millis(900)));
    }

    #[test]
    fn a_call_past_its_deadline_is_not_started() {
        for attempt in 1..4 {
            assert_eq!(admit_at(Lane::Sync, attempt, 0), Admission::Refuse(Outcome::Expired));
            assert_eq!(admit_at(Lane::Sync, attempt, -5), Admission::Refuse(Outcome::Expired));
        }
    }

    #[test]
    fn less_than_half_the_timeout_counts_at_the_first_attempt_alone() {
        assert_eq!(admit_at(Lane::Sync, 1, 499), Admission::Refuse(Outcome::Expired));
        assert_eq!(admit_at(Lane::Sync, 1, 500), Admission::Run(Duration::from_millis(500)));
        assert_eq!(admit_at(Lane::Sync, 2, 1), Admission::Run(Duration::from_millis(1)));
    }

    #[test]
    fn what_waited_in_a_durable_queue_has_its_whole_timeout() {
        assert_eq!(admit_at(Lane::Durable, 1, -900_000), Admission::Run(Duration::from_secs(1)));
    }
}
