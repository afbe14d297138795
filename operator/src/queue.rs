//! The work queue: which object is reconciled next. Each key is held once, runs once at a time and waits out its
//! own backoff. The core takes the time as an argument; only `WorkQueue` knows a clock.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::keys::Key;

/// First wait after a failure; doubles to `BACKOFF_MAX`.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// A broken dependency is asked again at least this often, so that its return is noticed within a minute.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing to do until something changes.
    Done,
    /// Something is awaited that no watch reports: look again after this long.
    Waiting(Duration),
    /// An error: again after the key's backoff.
    Failed,
}

/// The queue's rules, without a clock.
#[derive(Debug, Default)]
struct Schedule {
    by_time: BTreeSet<(Instant, Key)>,
    due: HashMap<Key, Instant>,
    running: HashSet<Key>,
    failures: HashMap<Key, u32>,
}

impl Schedule {
    fn add(&mut self, key: Key, at: Instant) {
        match self.due.get(&key) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => {
                self.by_time.remove(&(*later, key.clone()));
            }
            None => {}
        }
        self.due.insert(key.clone(), at);
        self.by_time.insert((at, key));
    }

    fn take(&mut self, now: Instant) -> Option<Key> {
        let (at, key) = self
            .by_time
            .iter()
            .take_while(|(at, _)| *at <= now)
            .find(|(_, key)| !self.running.contains(key))
            .cloned()?;
        self.by_time.remove(&(at, key.clone()));
        self.due.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// When the first key that does not run is due.
    fn next_due(&self) -> Option<Instant> {
        self.by_time.iter().find(|(_, key)| !self.running.contains(key)).map(|(at, _)| *at)
    }

    fn finish(&mut self, key: &Key, outcome: Outcome, now: Instant) {
        self.running.remove(key);
        match outcome {
            Outcome::Done => {
                self.failures.remove(key);
            }
            Outcome::Waiting(after) => {
                self.failures.remove(key);
                self.add(key.clone(), now + after);
            }
            Outcome::Failed => {
                let failures = self.failures.entry(key.clone()).or_default();
                let after = backoff(*failures);
                *failures = failures.saturating_add(1);
                self.add(key.clone(), now + after);
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        self.failures.remove(key);
    }
}

/// The wait after so many failures before this one.
fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX)
}

/// Keys to reconcile, shared by the watches that add and the workers that take.
#[derive(Debug, Default)]
pub(crate) struct WorkQueue {
    schedule: Mutex<Schedule>,
    changed: Notify,
}

impl WorkQueue {
    /// Reconciles the key as soon as a worker is free.
    pub(crate) fn add(&self, key: Key) {
        self.add_after(key, Duration::ZERO);
    }

    /// Reconciles the key after a while, unless it comes sooner anyway.
    pub(crate) fn add_after(&self, key: Key, after: Duration) {
        self.schedule.lock().add(key, Instant::now() + after);
        self.changed.notify_one();
    }

    /// The next key; waits for one. Whoever takes it calls `finish`.
    pub(crate) async fn take(&self) -> Key {
        loop {
            let (taken, next_due) = {
                let mut schedule = self.schedule.lock();
                (schedule.take(Instant::now()), schedule.next_due())
            };
            if let Some(key) = taken {
                // Another worker may be needed for what else is due.
                self.changed.notify_one();
                return key;
            }
            match next_due {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// Says how the reconcile of a taken key ended.
    pub(crate) fn finish(&self, key: &Key, outcome: Outcome) {
        self.schedule.lock().finish(key, outcome, Instant::now());
        self.changed.notify_one();
    }

    /// Drops what is remembered of a key whose object is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.schedule.lock().forget(key);
    }

    /// Keys that wait, running ones not counted.
    pub(crate) fn len(&self) -> usize {
        self.schedule.lock().due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Kind;

    fn key(name: &str) -> Key {
        Key::new(Kind::Fn, "team-a", name)
    }

    #[test]
    fn a_key_added_twice_runs_once() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.add(key("a"), now);
        schedule.add(key("a"), now + Duration::from_secs(1));
        assert_eq!(schedule.take(now), Some(key("a")));
        assert_eq!(schedule.take(now + Duration::from_secs(2)), None);
    }

    #[test]
    fn the_sooner_time_wins() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.add(key("a"), now + Duration::from_secs(9));
        schedule.add(key("a"), now);
        assert_eq!(schedule.take(now), Some(key("a")));
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn a_running_key_is_not_taken_again_but_is_not_lost() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.add(key("a"), now);
        assert_eq!(schedule.take(now), Some(key("a")));
        schedule.add(key("a"), now);
        schedule.add(key("b"), now + Duration::from_secs(1));
        assert_eq!(schedule.take(now), None);
        assert_eq!(schedule.next_due(), Some(now + Duration::from_secs(1)));
        schedule.finish(&key("a"), Outcome::Done, now);
        assert_eq!(schedule.take(now), Some(key("a")));
    }

    #[test]
    fn each_failure_waits_longer_and_success_forgets_them() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        for wait_ms in [250, 500, 1000] {
            schedule.add(key("a"), now);
            schedule.take(now);
            schedule.finish(&key("a"), Outcome::Failed, now);
            assert_eq!(schedule.next_due(), Some(now + Duration::from_millis(wait_ms)));
        }
        schedule.add(key("a"), now);
        schedule.take(now);
        schedule.finish(&key("a"), Outcome::Done, now);
        assert!(schedule.failures.is_empty());
        assert_eq!(backoff(40), BACKOFF_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_worker_wakes_when_the_key_is_due() {
        let queue = WorkQueue::default();
        queue.add_after(key("a"), Duration::from_secs(5));
        let started = Instant::now();
        assert_eq!(queue.take().await, key("a"));
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }
}
