//! Which calls their clients have left. Reads no clock: it is handed the time.

use std::collections::{HashSet, VecDeque};

use funcatron_broker::message::CallId;
use parking_lot::Mutex;

/// Ids remembered at once; beyond it the oldest is forgotten, and that call runs for nobody. As many as a runner's
/// queue on the cancel exchange holds.
const IDS_MAX: usize = 10_000;
/// A cancelled call that has not come by now has passed its deadline: no timeout is longer.
const REMEMBERED_MS: u64 = 3_600_000;

/// Cancelled calls of one App, remembered for as long as they may still come.
#[derive(Debug, Default)]
pub(crate) struct Cancelled(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    ids: HashSet<CallId>,
    by_age: VecDeque<(u64, CallId)>,
}

impl Cancelled {
    /// Remembers a call.
    pub(crate) fn insert(&self, id: CallId, now_ms: u64) {
        let mut remembered = self.0.lock();
        remembered.forget_old(now_ms);
        if remembered.ids.insert(id) {
            remembered.by_age.push_back((now_ms.saturating_add(REMEMBERED_MS), id));
        }
        if remembered.by_age.len() > IDS_MAX {
            remembered.forget_oldest();
        }
    }

    /// Whether a call was cancelled. Asked once of each call, since none comes twice: it is then forgotten.
    pub(crate) fn take(&self, id: CallId) -> bool {
        self.0.lock().ids.remove(&id)
    }
}

impl Remembered {
    fn forget_old(&mut self, now_ms: u64) {
        while self.by_age.front().is_some_and(|(until_ms, _)| *until_ms <= now_ms) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.by_age.pop_front() {
            self.ids.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids<const N: usize>() -> [CallId; N] {
        std::array::from_fn(|_| CallId::fresh())
    }

    #[test]
    fn a_cancelled_call_is_known_once() {
        let cancelled = Cancelled::default();
        let [a, b] = ids();
        cancelled.insert(a, 0);
        assert!(cancelled.take(a));
        assert!(!cancelled.take(a));
        assert!(!cancelled.take(b));
    }

    #[test]
    fn what_cannot_come_any_more_is_forgotten() {
        let cancelled = Cancelled::default();
        let [a, b] = ids();
        cancelled.insert(a, 0);
        cancelled.insert(b, REMEMBERED_MS);
        assert!(!cancelled.take(a));
        assert!(cancelled.take(b));
    }

    #[test]
    fn a_flood_forgets_the_oldest_first() {
        let cancelled = Cancelled::default();
        let flood: Vec<CallId> = (0..=IDS_MAX).map(|_| CallId::fresh()).collect();
        flood.iter().for_each(|id| cancelled.insert(*id, 0));
        assert!(!cancelled.take(flood[0]));
        assert!(cancelled.take(flood[1]));
        assert!(cancelled.take(flood[IDS_MAX]));
        assert!(cancelled.0.lock().by_age.len() <= IDS_MAX);
    }
}
