//! A Trigger's next status. Pure.

use funcatron_crds::{ConditionType, Reason, Trigger, TriggerStatus, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::bridged::Bridging;
use super::schedule::{Hold, write_history};
use crate::schedule::History;
use crate::status::{Conditions, Refusal, Verdict};

/// All that a Trigger's status follows from.
pub(super) struct Facts<'a> {
    /// What is wrong with it.
    pub(super) refusal: Option<Refusal>,
    /// Dead letters of its Fn; absent: not looked at.
    pub(super) dead_letters: Option<i64>,
    /// What the broker refused.
    pub(super) obstacle: Option<(Reason, String)>,
    /// How far its schedule has come.
    pub(super) schedule: Option<Scheduled<'a>>,
    /// How it stands with its bridge, where it has one.
    pub(super) bridging: Option<Bridging>,
}

/// How far a schedule has come.
pub(super) struct Scheduled<'a> {
    /// What ids follow from.
    pub(super) seed: &'a str,
    /// What has fired, and what will.
    pub(super) history: History,
    /// Why a tick that is owed does not fire.
    pub(super) hold: Option<Hold>,
}

/// The status that follows. `own` is the URL of the gateway's own hostname.
pub(super) fn next_status(trigger: &Trigger, facts: &Facts<'_>, own: &str, now: Time) -> TriggerStatus {
    let before = trigger.status.clone().unwrap_or_default();
    let generation = trigger.metadata.generation;
    let mut conditions = Conditions::of(&before.conditions, generation, now);
    conditions.set_refusal(facts.refusal.as_ref());
    conditions.set(ConditionType::Ready, ready(trigger, facts));
    let Facts { refusal, dead_letters, obstacle: _, schedule, bridging: _ } = facts;
    let accepted = refusal.is_none();
    let answers = accepted && !trigger.spec.is_suspended();
    let mut status = TriggerStatus {
        observed_generation: generation,
        conditions: conditions.finish(),
        urls: url(trigger, own).filter(|_| answers).into_iter().collect(),
        dead_letters: match trigger.spec.is_durable() && accepted {
            true => dead_letters.or(before.dead_letters),
            false => None,
        },
        ..TriggerStatus::default()
    };
    match schedule {
        Some(Scheduled { seed, history, hold: _ }) => write_history(&mut status, history, seed),
        // Refused, it fires nothing, and what it fired before is still true.
        None if trigger.spec.schedule.is_some() => {
            status.last_fired = before.last_fired;
            status.last_call = before.last_call;
        }
        None => {}
    }
    status
}

fn ready(trigger: &Trigger, facts: &Facts<'_>) -> Verdict {
    let Facts { refusal, dead_letters: _, obstacle, schedule, bridging } = facts;
    // What was made for this very spec goes on while the broker is away.
    let made = trigger.status.as_ref().is_some_and(|before| {
        before.observed_generation == trigger.metadata.generation
            && funcatron_crds::is_true(&before.conditions, ConditionType::Ready)
    });
    let hold = schedule.as_ref().and_then(|schedule| schedule.hold.as_ref());
    match (refusal, obstacle, hold) {
        (Some(Refusal { condition: _, reason, message }), _, _) => (false, *reason, message.clone()),
        (None, Some((Reason::BrokerUnavailable, _)), _) if made => (true, good(trigger), String::new()),
        (None, Some((reason, message)), _) => (false, *reason, message.clone()),
        (None, None, Some(Hold::Unknown(message))) => (false, Reason::EarlierUnknown, message.clone()),
        (None, None, Some(Hold::Running(message))) => (true, good(trigger), message.clone()),
        (None, None, None) => match bridging {
            None | Some(Bridging::Running) => (true, good(trigger), String::new()),
            // Another operator has heard of it, and this one will.
            Some(Bridging::Awaited) if made => (true, good(trigger), String::new()),
            Some(bridging) => not_bridged(trigger, bridging),
        },
    }
}

fn not_bridged(trigger: &Trigger, bridging: &Bridging) -> Verdict {
    let deployment = names::bridge(&trigger.spec.app);
    match bridging {
        Bridging::Trouble(why) => (false, Reason::QueueUnavailable, why.clone()),
        Bridging::Silent => {
            let message =
                format!("the bridge says nothing of its queue: see the pod of Deployment `{deployment}`");
            (false, Reason::BridgeStarting, message)
        }
        Bridging::Awaited | Bridging::Running => {
            (false, Reason::BridgeStarting, format!("Deployment `{deployment}` is to take from its queue"))
        }
    }
}

/// Suspended is as its user wishes.
fn good(trigger: &Trigger) -> Reason {
    if trigger.spec.is_suspended() { Reason::Suspended } else { Reason::Ready }
}

fn url(trigger: &Trigger, own: &str) -> Option<String> {
    let source = &trigger.spec.http.as_ref()?.source;
    let own = own.trim_end_matches('/');
    Some(format!("{own}/t/{}/{}{source}", trigger.namespace().unwrap_or_default(), trigger.spec.app))
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::{HttpTrigger, QueueTrigger, ScheduleTrigger, TriggerSpec, find_condition, is_true};

    fn now() -> Time {
        Time(jiff::Timestamp::UNIX_EPOCH)
    }

    fn good() -> Facts<'static> {
        Facts { refusal: None, dead_letters: Some(2), obstacle: None, schedule: None, bridging: None }
    }

    fn queue_trigger() -> Trigger {
        let spec = TriggerSpec { queue: Some(QueueTrigger::default()), ..TriggerSpec::default() };
        Trigger::new("on-paid", spec)
    }

    #[test]
    fn an_http_trigger_answers_on_the_gateways_own_hostname() {
        let http = Some(HttpTrigger { source: "/hook".into() });
        let spec = TriggerSpec { app: "shop".into(), http, ..TriggerSpec::default() };
        let mut trigger = Trigger::new("hook", spec);
        trigger.metadata.namespace = Some("team-a".into());
        let status = next_status(&trigger, &good(), "http://gw/", now());
        assert_eq!(status.urls, ["http://gw/t/team-a/shop/hook"]);
        assert_eq!(status.dead_letters, None);
        let refused = Facts { refusal: Some(Refusal::app_not_found("team-a", "shop")), ..good() };
        assert!(next_status(&trigger, &refused, "http://gw/", now()).urls.is_empty());
    }

    #[test]
    fn the_brokers_absence_keeps_what_was_made_ready_and_its_count() {
        let away = || Facts {
            dead_letters: None,
            obstacle: Some((Reason::BrokerUnavailable, "away".into())),
            ..good()
        };
        let fresh = next_status(&queue_trigger(), &away(), "", now());
        assert!(!is_true(&fresh.conditions, ConditionType::Ready));
        let mut made = queue_trigger();
        made.status = Some(next_status(&made, &good(), "", now()));
        let status = next_status(&made, &away(), "", now());
        assert!(is_true(&status.conditions, ConditionType::Ready));
        assert_eq!(status.dead_letters, Some(2));
    }

    #[test]
    fn a_bridged_trigger_is_ready_once_its_bridge_says_so_and_tells_its_trouble() {
        let of = |before: Option<TriggerStatus>, bridging: Bridging| {
            let mut trigger = queue_trigger();
            trigger.spec.app = "shop".into();
            trigger.status = before;
            next_status(&trigger, &Facts { bridging: Some(bridging), ..good() }, "", now())
        };
        let starting = ready_of(&of(None, Bridging::Awaited));
        assert_eq!((starting.0.as_str(), starting.1.as_str()), ("False", "BridgeStarting"));
        let running = of(None, Bridging::Running);
        assert_eq!(ready_of(&running), ("True".into(), "Ready".into(), String::new()));
        let again = of(Some(running.clone()), Bridging::Awaited);
        assert_eq!(ready_of(&again).0, "True", "an operator that has just started keeps what was");
        let trouble = ready_of(&of(Some(running.clone()), Bridging::Trouble("no queue".into())));
        assert_eq!(trouble, ("False".into(), "QueueUnavailable".into(), "no queue".into()));
        let silent = ready_of(&of(Some(running), Bridging::Silent));
        assert_eq!((silent.0.as_str(), silent.1.as_str()), ("False", "BridgeStarting"));
        assert!(silent.2.contains("shop-funcatron-bridge"));
    }

    fn schedule_trigger() -> Trigger {
        let schedule = Some(ScheduleTrigger { cron: "@hourly".into(), ..ScheduleTrigger::default() });
        Trigger::new("nightly", TriggerSpec { schedule, ..TriggerSpec::default() })
    }

    fn scheduled(hold: Option<Hold>) -> Facts<'static> {
        let history = History { last_fired: Some(jiff::Timestamp::UNIX_EPOCH), ..History::new(now().0) };
        Facts { schedule: Some(Scheduled { seed: "uid", history, hold }), ..good() }
    }

    fn ready_of(status: &TriggerStatus) -> (String, String, String) {
        let ready = find_condition(&status.conditions, ConditionType::Ready).unwrap().clone();
        (ready.status, ready.reason, ready.message)
    }

    #[test]
    fn a_firing_that_waits_is_told_and_only_the_unknown_is_not_ready() {
        let of = |hold| ready_of(&next_status(&schedule_trigger(), &scheduled(hold), "", now()));
        assert_eq!(of(None), ("True".into(), "Ready".into(), String::new()));
        let waits = of(Some(Hold::Running("waits".into())));
        assert_eq!(waits, ("True".into(), "Ready".into(), "waits".into()));
        let unknown = of(Some(Hold::Unknown("who knows".into())));
        assert_eq!(unknown, ("False".into(), "EarlierUnknown".into(), "who knows".into()));
    }

    #[test]
    fn a_refusal_keeps_what_has_fired_and_promises_nothing() {
        let mut trigger = schedule_trigger();
        trigger.status = Some(next_status(&trigger, &scheduled(None), "", now()));
        let refused = Facts { refusal: Some(Refusal::app_not_found("team-a", "shop")), ..good() };
        let status = next_status(&trigger, &refused, "", now());
        assert_eq!((status.last_fired, status.next_firing), (Some(now()), None));
    }

    #[test]
    fn a_suspended_trigger_is_ready_and_answers_nowhere() {
        let http = Some(HttpTrigger { source: "/hook".into() });
        let spec = TriggerSpec { app: "shop".into(), http, suspend: Some(true), ..TriggerSpec::default() };
        let status = next_status(&Trigger::new("hook", spec), &good(), "http://gw", now());
        assert_eq!(ready_of(&status), ("True".into(), "Suspended".into(), String::new()));
        assert!(status.urls.is_empty());
    }
}
