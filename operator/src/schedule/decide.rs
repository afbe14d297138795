//! Whether a tick fires now. Told what has happened and what time it is; the caller writes down what it decides, over
//! the very state that it read, before it acts.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};

use super::timetable::Timetable;

/// How long a call may wait for its start, from when its tick fires: beyond it the tick is as good as missed.
pub const CALL_AGE_MAX: Duration = Duration::from_secs(3600);

/// A tick that is being fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Firing {
    /// The tick.
    pub tick: Timestamp,
    /// Until when its call may wait for its start; whole seconds.
    pub deadline: Timestamp,
}

/// All that is kept of a schedule between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Nothing before it is owed.
    pub since: Timestamp,
    /// The last tick that fired.
    pub last_fired: Option<Timestamp>,
    /// Until when the call of that tick might wait for its start.
    pub last_deadline: Option<Timestamp>,
    /// The first tick that is still owed. A change of the expression does not reach back before it.
    pub next_firing: Option<Timestamp>,
    /// A tick that was claimed, and whose call may or may not be with the broker.
    pub firing: Option<Firing>,
}

impl History {
    /// Of a schedule that is new.
    pub fn new(since: Timestamp) -> Self {
        Self { since, last_fired: None, last_deadline: None, next_firing: None, firing: None }
    }

    /// The broker has the call of what was claimed.
    #[must_use]
    pub fn fired(self) -> Self {
        let Some(Firing { tick, deadline }) = self.firing else { return self };
        Self { last_fired: Some(tick), last_deadline: Some(deadline), firing: None, ..self }
    }

    /// A claim whose call could not start any more.
    fn stale(&self) -> Option<Timestamp> {
        self.firing.map(|firing| firing.tick)
    }

    /// The tick whose call may still run when this one fires.
    fn earlier(&self, tick: Timestamp) -> Option<Timestamp> {
        self.stale().filter(|stale| *stale != tick).or(self.last_fired)
    }

    fn owes(&self, tick: Timestamp) -> bool {
        let promised = [self.next_firing, self.stale()].into_iter().flatten().min();
        tick > self.since
            && self.last_fired.is_none_or(|last| tick > last)
            && promised.is_none_or(|promised| tick >= promised)
    }
}

/// What is known of an earlier call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// Nobody was asked.
    NotAsked,
    /// It is over.
    Over,
    /// It waits or runs.
    Running,
    /// Nobody can tell.
    Unknown,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing before that moment; absent: nothing at all. A tick that was missed for good is named.
    Rest {
        /// When the next tick is due.
        until: Option<Timestamp>,
        /// The latest tick that was too late.
        skipped: Option<Timestamp>,
    },
    /// Find out about the call of that tick, and decide again.
    Ask(Timestamp),
    /// A tick waits for the end of the call of that earlier one.
    Hold {
        /// The earlier tick.
        earlier: Timestamp,
        /// Nobody can tell whether that call is over.
        unknown: bool,
    },
    /// Write the history down, unless somebody else has written since; then publish.
    Claim(Firing),
    /// It was claimed before: publish, once more perhaps, under the same id.
    Publish(Firing),
}

/// What to do, and what to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub act: Act,
    /// What to keep.
    pub history: History,
}

/// Decides. Of several ticks that are owed the latest alone fires, as of a CronJob.
pub fn decide(table: &Timetable, history: &History, earlier: Earlier, now: Timestamp) -> Decision {
    if table.suspended {
        let history = History { next_firing: None, ..*history };
        return Decision { act: Act::Rest { until: None, skipped: None }, history };
    }
    if let Some(firing) = history.firing.filter(|firing| now < firing.deadline) {
        return Decision { act: Act::Publish(firing), history: *history };
    }
    let due = table.latest_due(now);
    let Some(tick) = due.filter(|tick| history.owes(*tick)) else { return rest(table, history, due, None) };
    if is_late(table, tick, now) {
        return rest(table, history, due, Some(tick));
    }
    let held = |act| Decision { act, history: History { next_firing: Some(tick), ..*history } };
    match (history.earlier(tick).filter(|_| table.forbids_overlap), earlier) {
        (None, _) | (Some(_), Earlier::Over) => claim(table, history, tick, now),
        (Some(before), Earlier::NotAsked) => held(Act::Ask(before)),
        (Some(before), Earlier::Running) => held(Act::Hold { earlier: before, unknown: false }),
        (Some(before), Earlier::Unknown) => held(Act::Hold { earlier: before, unknown: true }),
    }
}

fn is_late(table: &Timetable, tick: Timestamp, now: Timestamp) -> bool {
    let latest = table.starting_deadline.and_then(|deadline| table.due(tick).checked_add(deadline).ok());
    latest.is_some_and(|latest| now > latest)
}

/// Waits for the first tick that is neither due nor behind us.
fn rest(
    table: &Timetable,
    history: &History,
    due: Option<Timestamp>,
    skipped: Option<Timestamp>,
) -> Decision {
    let behind = [due, history.last_fired].into_iter().flatten().fold(history.since, Timestamp::max);
    let next = table.next_after(behind);
    Decision {
        act: Act::Rest { until: next.map(|next| table.due(next)), skipped },
        history: History { next_firing: next, firing: None, ..*history },
    }
}

fn claim(table: &Timetable, history: &History, tick: Timestamp, now: Timestamp) -> Decision {
    let age = SignedDuration::try_from(CALL_AGE_MAX).unwrap_or(SignedDuration::ZERO);
    // A status holds whole seconds, and what is read again must be what was written.
    let second = now.round(Unit::Second).unwrap_or(now);
    let firing = Firing { tick, deadline: second.checked_add(age).unwrap_or(Timestamp::MAX) };
    let next_firing = table.next_after(tick);
    Decision { act: Act::Claim(firing), history: History { firing: Some(firing), next_firing, ..*history } }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
