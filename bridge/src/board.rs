//! What is known of each queue: whether it is taken from, whether its messages get through. Never does I/O; says when
//! something changed.

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{info, warn};

/// What is told of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its broker has not answered yet.
    Starting,
    /// Messages are taken, and get through.
    Running,
    /// They do not, and why.
    Trouble(String),
}

/// How it stands at the user's broker.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Inlet {
    Starting,
    Running,
    Trouble(String),
}

#[derive(Debug, Clone)]
struct Seen {
    inlet: Inlet,
    /// Why the platform's broker took the last message not.
    outlet: Option<String>,
    /// Messages in hand that no message of ours can carry, and why the last of them.
    stuck: (u32, String),
}

impl Seen {
    const fn new() -> Self {
        Self { inlet: Inlet::Starting, outlet: None, stuck: (0, String::new()) }
    }

    fn verdict(&self) -> Verdict {
        match (&self.inlet, &self.stuck, &self.outlet) {
            (Inlet::Trouble(why), _, _) => Verdict::Trouble(why.clone()),
            (_, (1.., why), _) => Verdict::Trouble(why.clone()),
            (_, _, Some(why)) => Verdict::Trouble(why.clone()),
            (Inlet::Running, _, None) => Verdict::Running,
            (Inlet::Starting, _, None) => Verdict::Starting,
        }
    }
}

/// All queues, by their place in the configuration.
#[derive(Debug)]
pub(crate) struct Board {
    seen: Mutex<Vec<Seen>>,
    changed: Notify,
}

impl Board {
    pub(crate) fn new(queues: usize) -> Self {
        Self { seen: Mutex::new(vec![Seen::new(); queues]), changed: Notify::new() }
    }

    /// Messages come from now on.
    pub(crate) fn inlet_runs(&self, at: usize, queue: &str) {
        if self.update(at, |seen| seen.inlet = Inlet::Running) {
            info!(queue, "messages of this queue get through");
        }
    }

    /// The connection broke, which is made again: trouble only if that fails.
    pub(crate) fn inlet_breaks(&self, at: usize, queue: &str) {
        info!(queue, "the connection to this queue's broker was lost");
        self.update(at, |seen| *seen = Seen::new());
    }

    /// No messages come, and what was in hand is in the user's queue again.
    pub(crate) fn inlet_fails(&self, at: usize, queue: &str, why: &str) {
        let changed = self.update(at, |seen| {
            *seen = Seen { inlet: Inlet::Trouble(why.to_owned()), ..Seen::new() };
        });
        if changed {
            warn!(queue, reason = why, "no messages of this queue");
        }
    }

    /// The platform's broker has a message.
    pub(crate) fn outlet_took(&self, at: usize) {
        self.update(at, |seen| seen.outlet = None);
    }

    /// It has it not, which is tried again.
    pub(crate) fn outlet_refused(&self, at: usize, queue: &str, why: &str) {
        if self.update(at, |seen| seen.outlet = Some(why.to_owned())) {
            warn!(queue, reason = why, "messages of this queue do not get through, trying on");
        }
    }

    /// A message stays in hand, since nothing can carry it.
    pub(crate) fn is_stuck(&self, at: usize, queue: &str, why: &str) {
        warn!(queue, reason = why, "a message of this queue is kept back");
        self.update(at, |seen| seen.stuck = (seen.stuck.0 + 1, why.to_owned()));
    }

    /// All verdicts, in the configuration's order.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        self.seen.lock().iter().map(Seen::verdict).collect()
    }

    /// Comes back when a verdict has changed since the last time.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether the verdict is another now.
    fn update(&self, at: usize, change: impl FnOnce(&mut Seen)) -> bool {
        let mut all = self.seen.lock();
        let Some(seen) = all.get_mut(at) else { return false };
        let before = seen.verdict();
        change(seen);
        let is_other = before != seen.verdict();
        if is_other {
            self.changed.notify_one();
        }
        is_other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(board: &Board) -> Verdict {
        board.verdicts().remove(0)
    }

    fn trouble(why: &str) -> Verdict {
        Verdict::Trouble(why.to_owned())
    }

    #[test]
    fn a_queue_runs_once_it_is_taken_from_and_its_messages_get_through() {
        let board = Board::new(1);
        assert_eq!(verdict(&board), Verdict::Starting);
        board.inlet_runs(0, "q");
        assert_eq!(verdict(&board), Verdict::Running);
        board.outlet_refused(0, "q", "full");
        assert_eq!(verdict(&board), trouble("full"));
        board.outlet_took(0);
        assert_eq!(verdict(&board), Verdict::Running);
    }

    #[test]
    fn a_message_that_stays_in_hand_is_trouble_until_it_is_given_back() {
        let board = Board::new(1);
        board.inlet_runs(0, "q");
        board.is_stuck(0, "q", "too large");
        board.outlet_took(0);
        assert_eq!(verdict(&board), trouble("too large"));
        board.inlet_breaks(0, "q");
        assert_eq!(verdict(&board), Verdict::Starting);
        board.inlet_runs(0, "q");
        assert_eq!(verdict(&board), Verdict::Running);
    }

    #[tokio::test]
    async fn a_change_is_told_however_late_one_listens() {
        let board = Board::new(1);
        board.inlet_runs(0, "q");
        board.inlet_runs(0, "q");
        board.changed().await;
    }
}
