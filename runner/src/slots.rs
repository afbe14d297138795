//! A revision's concurrency: how many of its calls run at once, and which of those in hand is next. Never runs
//! anything itself.

use std::collections::VecDeque;

/// Which kind of queue a delivery came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Someone waits for the answer.
    Sync,
    /// It waits in a durable queue until it has run.
    Durable,
}

/// Deliveries in hand and free slots. What is in hand is bounded by the consumers' prefetch.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    free: usize,
    sync: VecDeque<T>,
    durable: VecDeque<T>,
}

impl<T> Slots<T> {
    /// `concurrency` free slots, at least one.
    pub(crate) fn new(concurrency: usize) -> Self {
        Self { free: concurrency.max(1), sync: VecDeque::new(), durable: VecDeque::new() }
    }

    /// Takes a delivery in hand.
    pub(crate) fn hold(&mut self, lane: Lane, delivery: T) {
        match lane {
            Lane::Sync => self.sync.push_back(delivery),
            Lane::Durable => self.durable.push_back(delivery),
        }
    }

    /// Takes back in hand what was started and not run: it is the next of its lane.
    pub(crate) fn hold_again(&mut self, lane: Lane, delivery: T) {
        match lane {
            Lane::Sync => self.sync.push_front(delivery),
            Lane::Durable => self.durable.push_front(delivery),
        }
    }

    /// The next delivery to run, with a slot taken for it: sync before durable, each in order of arrival.
    pub(crate) fn start(&mut self) -> Option<(Lane, T)> {
        if self.free == 0 {
            return None;
        }
        let next = match self.sync.pop_front() {
            Some(delivery) => (Lane::Sync, delivery),
            None => (Lane::Durable, self.durable.pop_front()?),
        };
        self.free -= 1;
        Some(next)
    }

    /// Gives a slot back.
    pub(crate) const fn release(&mut self) {
        self.free += 1;
    }

    /// Empties the hand, sync first: for deliveries that will not run here.
    pub(crate) fn give_up(&mut self) -> Vec<(Lane, T)> {
        let sync = self.sync.drain(..).map(|held| (Lane::Sync, held));
        let durable = self.durable.drain(..).map(|held| (Lane::Durable, held));
        sync.chain(durable).collect()
    }

    /// Deliveries in hand that have no slot yet.
    pub(crate) fn held(&self) -> usize {
        self.sync.len() + self.durable.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_runs_before_durable() {
        let mut slots = Slots::new(1);
        slots.hold(Lane::Durable, "event");
        slots.hold(Lane::Sync, "call");
        assert_eq!(slots.start(), Some((Lane::Sync, "call")));
        assert_eq!(slots.start(), None, "the one slot is taken");
        slots.release();
        assert_eq!(slots.start(), Some((Lane::Durable, "event")));
    }

    #[test]
    fn no_more_run_than_there_are_slots() {
        let mut slots = Slots::new(2);
        (0..5).for_each(|call| slots.hold(Lane::Sync, call));
        assert_eq!(std::iter::from_fn(|| slots.start()).count(), 2);
        assert_eq!(slots.held(), 3);
    }

    #[test]
    fn calls_start_in_order_of_arrival() {
        let mut slots = Slots::new(3);
        (0..3).for_each(|call| slots.hold(Lane::Sync, call));
        let order: Vec<_> = std::iter::from_fn(|| slots.start()).map(|(_, call)| call).collect();
        assert_eq!(order, [0, 1, 2]);
    }

    #[test]
    fn an_empty_hand_takes_no_slot() {
        let mut slots: Slots<u8> = Slots::new(1);
        assert_eq!(slots.start(), None);
        slots.hold(Lane::Durable, 1);
        assert_eq!(slots.start(), Some((Lane::Durable, 1)));
    }
}
