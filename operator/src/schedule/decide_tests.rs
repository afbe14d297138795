use std::collections::BTreeMap;

use funcatron_crds::{ConcurrencyPolicy, ScheduleTrigger, Span};
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn spec(cron: &str) -> ScheduleTrigger {
    ScheduleTrigger { cron: cron.into(), ..ScheduleTrigger::default() }
}

fn table(spec: &ScheduleTrigger) -> Timetable {
    Timetable::new(spec, false, "uid").unwrap()
}

fn claimed(decision: Decision) -> Timestamp {
    match decision.act {
        Act::Claim(firing) => firing.tick,
        other => panic!("no claim: {other:?}"),
    }
}

fn rests_until(decision: Decision) -> Timestamp {
    match decision.act {
        Act::Rest { until: Some(until), .. } => until,
        other => panic!("no rest: {other:?}"),
    }
}

const NOON: &str = "2026-11-22T12:00:00Z";

/// Created at noon, with a look in that moment.
fn looked_at_noon(spec: &ScheduleTrigger) -> History {
    decide(&table(spec), &History::new(at(NOON)), Earlier::NotAsked, at(NOON)).history
}

#[test]
fn a_new_schedule_waits_for_its_first_tick() {
    let decision = decide(&table(&spec("@hourly")), &History::new(at(NOON)), Earlier::NotAsked, at(NOON));
    assert_eq!(rests_until(decision), at("2026-11-22T13:00:00Z"));
    assert_eq!(decision.history.next_firing, Some(at("2026-11-22T13:00:00Z")));
}

#[test]
fn a_tick_is_claimed_published_and_over() {
    let (table, now) = (table(&spec("@hourly")), at("2026-11-22T13:00:00.25Z"));
    let decision = decide(&table, &looked_at_noon(&spec("@hourly")), Earlier::NotAsked, now);
    assert_eq!(claimed(decision), at("2026-11-22T13:00:00Z"));
    assert_eq!(decision.history.firing.unwrap().deadline, at("2026-11-22T14:00:00Z"));
    let again = decide(&table, &decision.history, Earlier::NotAsked, now);
    assert_eq!(again.act, Act::Publish(decision.history.firing.unwrap()), "after a crash");
    let over = decide(&table, &decision.history.fired(), Earlier::NotAsked, now);
    assert_eq!(rests_until(over), at("2026-11-22T14:00:00Z"));
    assert_eq!(over.history.last_fired, Some(at("2026-11-22T13:00:00Z")));
}

#[test]
fn of_many_missed_ticks_the_latest_is_made_up_alone() {
    let now = at("2026-11-24T09:30:00Z");
    let decision =
        decide(&table(&spec("@hourly")), &looked_at_noon(&spec("@hourly")), Earlier::NotAsked, now);
    assert_eq!(claimed(decision), at("2026-11-24T09:00:00Z"));
    let after = decide(&table(&spec("@hourly")), &decision.history.fired(), Earlier::NotAsked, now);
    assert_eq!(rests_until(after), at("2026-11-24T10:00:00Z"));
}

#[test]
fn a_tick_beyond_its_starting_deadline_is_skipped_and_told_once() {
    let spec = ScheduleTrigger { starting_deadline: Some(Span::new("10m")), ..spec("@hourly") };
    let just = decide(&table(&spec), &looked_at_noon(&spec), Earlier::NotAsked, at("2026-11-22T13:10:00Z"));
    assert_eq!(claimed(just), at("2026-11-22T13:00:00Z"));
    let now = at("2026-11-22T13:10:01Z");
    let late = decide(&table(&spec), &looked_at_noon(&spec), Earlier::NotAsked, now);
    let (until, skipped) = (Some(at("2026-11-22T14:00:00Z")), Some(at("2026-11-22T13:00:00Z")));
    assert_eq!(late.act, Act::Rest { until, skipped });
    let again = decide(&table(&spec), &late.history, Earlier::NotAsked, now);
    assert_eq!(again.act, Act::Rest { until, skipped: None });
}

#[test]
fn a_suspended_schedule_rests_and_keeps_what_it_claimed() {
    let suspended = Timetable::new(&spec("@hourly"), true, "uid").unwrap();
    let now = at("2026-11-22T13:00:00Z");
    let begun =
        decide(&table(&spec("@hourly")), &looked_at_noon(&spec("@hourly")), Earlier::NotAsked, now).history;
    for history in [looked_at_noon(&spec("@hourly")), begun] {
        let decision = decide(&suspended, &history, Earlier::NotAsked, now);
        assert_eq!(decision.act, Act::Rest { until: None, skipped: None });
        assert_eq!((decision.history.next_firing, decision.history.firing), (None, history.firing));
    }
}

#[test]
fn another_expression_does_not_reach_back() {
    let history = looked_at_noon(&spec("0 15 * * *"));
    let now = at("2026-11-22T14:00:00Z");
    let changed = decide(&table(&spec("30 12 * * *")), &history, Earlier::NotAsked, now);
    assert_eq!(rests_until(changed), at("2026-11-23T12:30:00Z"));
    let sooner = decide(&table(&spec("*/5 * * * *")), &history, Earlier::NotAsked, now);
    assert_eq!(rests_until(sooner), at("2026-11-22T14:05:00Z"));
}

#[test]
fn forbid_asks_and_then_waits_or_fires() {
    let spec = ScheduleTrigger { concurrency_policy: Some(ConcurrencyPolicy::Forbid), ..spec("@hourly") };
    let table = table(&spec);
    let first = decide(&table, &looked_at_noon(&spec), Earlier::NotAsked, at("2026-11-22T13:00:00Z"));
    assert_eq!(claimed(first), at("2026-11-22T13:00:00Z"), "nothing is earlier than the first");
    let (history, now) = (first.history.fired(), at("2026-11-22T14:00:00Z"));
    let earlier = at("2026-11-22T13:00:00Z");
    let act = |known| decide(&table, &history, known, now).act;
    assert_eq!(act(Earlier::NotAsked), Act::Ask(earlier));
    assert_eq!(act(Earlier::Running), Act::Hold { earlier, unknown: false });
    assert_eq!(act(Earlier::Unknown), Act::Hold { earlier, unknown: true });
    let held = decide(&table, &history, Earlier::Running, now).history;
    assert_eq!(held.next_firing, Some(now), "it is owed");
    let later = decide(&table, &held, Earlier::Over, at("2026-11-22T14:40:00Z"));
    assert_eq!(claimed(later), now);
}

#[test]
fn a_claim_whose_call_could_not_start_any_more_is_made_up_or_skipped() {
    let claim = |spec: &ScheduleTrigger| {
        decide(&table(spec), &looked_at_noon(spec), Earlier::NotAsked, at("2026-11-22T12:10:00Z")).history
    };
    let now = at("2026-11-23T09:00:00Z");
    let plain = spec("10 12 * * *");
    let again = decide(&table(&plain), &claim(&plain), Earlier::NotAsked, now);
    assert_eq!(claimed(again), at("2026-11-22T12:10:00Z"));
    assert_eq!(again.history.firing.unwrap().deadline, at("2026-11-23T10:00:00Z"));
    let strict = ScheduleTrigger { starting_deadline: Some(Span::new("10m")), ..plain };
    let skipped = decide(&table(&strict), &claim(&strict), Earlier::NotAsked, now);
    assert!(matches!(skipped.act, Act::Rest { skipped: Some(_), .. }), "{skipped:?}");
    assert_eq!(skipped.history.firing, None);
}

/// What happens between two looks.
#[derive(Debug, Clone)]
enum Step {
    Pass(i64),
    Suspend(bool),
    /// The next look ends so: before the claim is written, after it, after the publish, or well.
    Die(u8),
    Earlier(Earlier),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..200_i64).prop_map(Step::Pass),
        1 => (3_000..400_000_i64).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Suspend),
        2 => (0..4_u8).prop_map(Step::Die),
        1 => prop_oneof![Just(Earlier::Over), Just(Earlier::Running), Just(Earlier::Unknown)].prop_map(Step::Earlier),
    ]
}

fn schedule() -> impl Strategy<Value = ScheduleTrigger> {
    let cron = prop_oneof![Just("* * * * *"), Just("*/7 * * * *"), Just("30 2 * * *"), Just("@hourly")];
    let zone = prop_oneof![
        Just("UTC"),
        Just("Europe/Berlin"),
        Just("America/New_York"),
        Just("Australia/Lord_Howe")
    ];
    let jitter = prop_oneof![Just(None), Just(Some(Span::new("30s"))), Just(Some(Span::new("10m")))];
    let deadline = prop_oneof![Just(None), Just(Some(Span::new("10s"))), Just(Some(Span::new("1h")))];
    (cron, zone, jitter, deadline, any::<bool>()).prop_map(
        |(cron, zone, jitter, starting_deadline, forbid)| ScheduleTrigger {
            cron: cron.into(),
            time_zone: Some(zone.into()),
            jitter,
            starting_deadline,
            concurrency_policy: forbid.then_some(ConcurrencyPolicy::Forbid),
        },
    )
}

/// A schedule's life, with everything that was published: by call, how often, and when first.
struct Life {
    now: Timestamp,
    written: History,
    suspended: bool,
    earlier: Earlier,
    published: BTreeMap<Timestamp, u32>,
}

impl Life {
    fn look(&mut self, spec: &ScheduleTrigger, death: u8) {
        let table = Timetable::new(spec, self.suspended, "uid").unwrap();
        // Firing ends; what is owed then is one tick at most.
        for _ in 0..3 {
            let mut decision = decide(&table, &self.written, Earlier::NotAsked, self.now);
            if let Act::Ask(_) = decision.act {
                decision = decide(&table, &self.written, self.earlier, self.now);
            }
            match decision.act {
                Act::Claim(firing) | Act::Publish(firing) => {
                    assert!(!self.suspended, "a suspended one fires");
                    self.judge(&table, firing, matches!(decision.act, Act::Claim(_)));
                    if death == 1 {
                        return;
                    }
                    self.written = decision.history;
                    if death == 2 {
                        return;
                    }
                    *self.published.entry(firing.tick).or_default() += 1;
                    if death == 3 {
                        return;
                    }
                    self.written = decision.history.fired();
                }
                Act::Rest { until, .. } => {
                    assert!(until.is_none_or(|until| until > self.now), "it would spin");
                    self.written = decision.history;
                    return;
                }
                Act::Ask(_) => panic!("asked twice"),
                Act::Hold { .. } => {
                    self.written = decision.history;
                    return;
                }
            }
        }
        panic!("it fires without an end");
    }

    fn judge(&self, table: &Timetable, firing: Firing, claim: bool) {
        assert!(table.due(firing.tick) <= self.now, "before its time");
        assert!(self.written.last_fired.is_none_or(|last| firing.tick > last), "twice, or backwards");
        if claim {
            assert!(!is_late(table, firing.tick, self.now), "beyond its deadline");
            assert_eq!(table.latest_due(self.now), Some(firing.tick), "not the latest");
        } else {
            assert_eq!(self.written.firing, Some(firing));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_tick_fires_twice_none_while_suspended_and_none_beyond_its_deadline(
        spec in schedule(),
        start in 0..31_536_000_i64,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let now = at("2026-01-01T00:00:00Z") + SignedDuration::from_secs(start);
        let mut life = Life {
            now,
            written: History::new(now),
            suspended: false,
            earlier: Earlier::Over,
            published: BTreeMap::new(),
        };
        let mut deaths = 0;
        for step in steps {
            let mut death = 0;
            match step {
                Step::Pass(seconds) => life.now += SignedDuration::from_secs(seconds),
                Step::Suspend(suspended) => life.suspended = suspended,
                Step::Die(how) => death = how,
                Step::Earlier(earlier) => life.earlier = earlier,
            }
            deaths += u32::from(death > 0);
            life.look(&spec, death);
        }
        // Each crash can send one call once more, and nothing else can.
        let more: u32 = life.published.values().map(|times| times - 1).sum();
        prop_assert!(more <= deaths, "{more} repeats of {deaths} crashes");
    }
}

#[test]
fn each_tick_of_a_year_fires_exactly_once_over_gaps_and_overlaps() {
    for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"] {
        for cron in ["30 2 * * *", "0 1,2,3 * * *", "15 */6 * * *"] {
            let spec = ScheduleTrigger { time_zone: Some(zone.into()), ..spec(cron) };
            assert_eq!(fired_in_2026(&spec), ticks_of_2026(&spec), "{cron} in {zone}");
        }
    }
}

const YEAR: [&str; 2] = ["2026-01-01T00:00:30Z", "2027-01-01T00:00:30Z"];

fn ticks_of_2026(spec: &ScheduleTrigger) -> Vec<Timestamp> {
    let ([start, end], table) = (YEAR.map(at), table(spec));
    let ticks = std::iter::successors(table.next_after(start), |tick| table.next_after(*tick));
    ticks.take_while(|tick| *tick <= end).collect()
}

fn fired_in_2026(spec: &ScheduleTrigger) -> Vec<Timestamp> {
    let ([start, end], table) = (YEAR.map(at), table(spec));
    let (mut history, mut now, mut fired) = (History::new(start), start, vec![]);
    while now <= end {
        let decision = decide(&table, &history, Earlier::NotAsked, now);
        history = decision.history;
        match decision.act {
            Act::Claim(firing) => {
                fired.push(firing.tick);
                history = history.fired();
            }
            Act::Rest { until: Some(until), .. } => now = until,
            other => panic!("{other:?}"),
        }
    }
    fired
}
