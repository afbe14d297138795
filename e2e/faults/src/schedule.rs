//! What is done when: every fault in turn, then some at random, then restarts and an upgrade. Pure: all that is drawn
//! follows from the seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};

use crate::fault::{Allowed, Fault, How, Target};

/// Load runs this long before anything happens: connections are made and code is loaded.
const LEAD_MS: std::ops::Range<u64> = 2_000..5_000;
/// Between strikes at random: some meet a platform that is whole again, some one that is not.
const PAUSE_MS: std::ops::Range<u64> = 1_000..12_000;

/// How much is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    /// Calls accepted in each round that nobody waits for.
    pub(crate) detached: usize,
    /// A second.
    pub(crate) detached_rate: u32,
    /// Strikes of the round at random; all of different targets.
    pub(crate) random: usize,
}

/// The whole proof.
pub(crate) const FULL: Form = Form { detached: 10_000, detached_rate: 120, random: 7 };
/// The same faults and rules with fewer calls, for every change.
pub(crate) const SHORT: Form = Form { detached: 500, detached_rate: 30, random: 3 };

/// GETs a second, and as many POSTs, while faults happen.
const FAULT_RATE: u32 = 20;
/// The same for restarts: 100 requests a second in all.
const ROLL_RATE: u32 = 40;
const ROLL_DETACHED_RATE: u32 = 20;

/// A part that is restarted pod by pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Gateway,
    Runners,
    Operator,
    Ledger,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Strike(Fault),
    Restart(Part),
    /// Every part gets other images.
    Upgrade,
}

/// Something to do, that long after what came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) after: Duration,
    pub(crate) act: Act,
    /// Which of several pods, modulo their count.
    pub(crate) pick: usize,
}

/// Calls a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) get: u32,
    pub(crate) post: u32,
    pub(crate) detached: u32,
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) name: String,
    pub(crate) dues: Vec<Due>,
    pub(crate) rates: Rates,
    /// Accepted calls that nobody waits for, before which it does not end.
    pub(crate) detached: usize,
}

impl Round {
    /// What all that happens in it explains.
    pub(crate) fn allowed(&self) -> Allowed {
        let strikes = self.dues.iter().filter_map(|due| match due.act {
            Act::Strike(fault) => Some(fault.allowed()),
            Act::Restart(_) | Act::Upgrade => None,
        });
        strikes.fold(Allowed::default(), Allowed::or)
    }

    /// Whether it needs a database beside the ledger.
    pub(crate) fn needs_database(&self) -> bool {
        let is_database = |due: &Due| matches!(due.act, Act::Strike(Fault { target: Target::Database, .. }));
        self.dues.iter().any(is_database)
    }
}

/// All rounds, those that need a database last.
pub(crate) fn plan(seed: u64, form: Form) -> Vec<Round> {
    let mut draw = StdRng::seed_from_u64(seed);
    let rates = Rates { get: FAULT_RATE, post: FAULT_RATE, detached: form.detached_rate };
    let of = |name: String, dues| Round { name, dues, rates, detached: form.detached };
    let mut rounds = Vec::new();
    for target in Target::EVERYWHERE {
        for how in [How::Kill, How::Stop] {
            let fault = Fault { target, how };
            rounds.push(of(fault.to_string(), vec![due(&mut draw, LEAD_MS, Act::Strike(fault))]));
        }
    }
    rounds.push(of(format!("{} at random", form.random), at_random(&mut draw, form.random)));
    rounds.extend(rolls(&mut draw, form));
    for how in [How::Kill, How::Stop] {
        let fault = Fault { target: Target::Database, how };
        rounds.push(of(fault.to_string(), vec![due(&mut draw, LEAD_MS, Act::Strike(fault))]));
    }
    rounds
}

fn at_random(draw: &mut StdRng, count: usize) -> Vec<Due> {
    // Each target once: a container that dies twice within minutes is started again later each time.
    let mut targets = Target::EVERYWHERE;
    targets.shuffle(draw);
    let chosen = targets.into_iter().take(count);
    let strikes = chosen.enumerate().map(|(index, target)| {
        let how = [How::Kill, How::Stop].choose(draw).copied().unwrap_or(How::Kill);
        let after = if index == 0 { LEAD_MS } else { PAUSE_MS };
        due(draw, after, Act::Strike(Fault { target, how }))
    });
    strikes.collect()
}

fn rolls(draw: &mut StdRng, form: Form) -> Vec<Round> {
    let rates = Rates { get: ROLL_RATE, post: ROLL_RATE, detached: ROLL_DETACHED_RATE };
    let all = [
        ("restart gateway", Act::Restart(Part::Gateway)),
        ("restart runners", Act::Restart(Part::Runners)),
        ("restart operator", Act::Restart(Part::Operator)),
        ("restart ledger", Act::Restart(Part::Ledger)),
        ("upgrade", Act::Upgrade),
    ];
    // As many as the restart lasts, since none of these is about their number.
    let detached = form.detached.min(500);
    let rolls = all.map(|(name, act)| {
        let dues = vec![due(draw, LEAD_MS, act)];
        Round { name: name.to_owned(), dues, rates, detached }
    });
    rolls.into()
}

fn due(draw: &mut StdRng, after_ms: std::ops::Range<u64>, act: Act) -> Due {
    let after = Duration::from_millis(draw.random_range(after_ms));
    Due { after, act, pick: draw.random_range(0..1_000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_plan() {
        assert_eq!(plan(1, FULL), plan(1, FULL));
        assert_ne!(plan(1, FULL), plan(2, FULL));
    }

    #[test]
    fn each_fault_has_a_round_of_its_own_in_both_forms() {
        for form in [SHORT, FULL] {
            let rounds = plan(7, form);
            for target in [&Target::EVERYWHERE[..], &[Target::Database]].concat() {
                for how in [How::Kill, How::Stop] {
                    let fault = Act::Strike(Fault { target, how });
                    let own = |round: &&Round| round.dues.len() == 1 && round.dues[0].act == fault;
                    assert_eq!(rounds.iter().filter(own).count(), 1, "{target:?} {how:?}");
                }
            }
        }
    }

    #[test]
    fn strikes_at_random_are_of_different_targets() {
        for seed in 0..50 {
            let mut draw = StdRng::seed_from_u64(seed);
            let mut targets: Vec<Target> = at_random(&mut draw, 7)
                .into_iter()
                .filter_map(|due| match due.act {
                    Act::Strike(fault) => Some(fault.target),
                    _ => None,
                })
                .collect();
            targets.sort();
            assert_eq!(targets, Target::EVERYWHERE);
        }
    }

    #[test]
    fn a_restart_is_under_a_hundred_requests_a_second_and_excuses_nothing() {
        let rolls: Vec<Round> = plan(1, FULL).into_iter().filter(|r| r.name.starts_with("restart")).collect();
        assert_eq!(rolls.len(), 4);
        for round in rolls {
            assert_eq!(round.rates.get + round.rates.post + round.rates.detached, 100);
            assert_eq!(round.allowed(), Allowed::default());
        }
    }
}
