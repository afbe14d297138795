//! A Trigger's next status. Pure.

use funcatron_crds::{ConditionType, Reason, Trigger, TriggerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::status::{Conditions, Refusal};

/// All that a Trigger's status follows from.
pub(super) struct Facts {
    /// What is wrong with it.
    pub(super) refusal: Option<Refusal>,
    /// Dead letters of its Fn; absent: not looked at.
    pub(super) dead_letters: Option<i64>,
    /// What the broker refused.
    pub(super) obstacle: Option<(Reason, String)>,
}

/// The status that follows. `own` is the URL of the gateway's own hostname.
pub(super) fn next_status(trigger: &Trigger, facts: &Facts, own: &str, now: Time) -> TriggerStatus {
    let Facts { refusal, dead_letters, obstacle } = facts;
    let before = trigger.status.clone().unwrap_or_default();
    let generation = trigger.metadata.generation;
    // What was made for this very spec goes on while the broker is away.
    let made = before.observed_generation == generation
        && funcatron_crds::is_true(&before.conditions, ConditionType::Ready);
    let mut conditions = Conditions::of(&before.conditions, generation, now);
    conditions.set_refusal(refusal.as_ref());
    let ready = match (refusal, obstacle) {
        (Some(Refusal { condition: _, reason, message }), _) => (false, *reason, message.clone()),
        (None, Some((Reason::BrokerUnavailable, _))) if made => (true, Reason::Ready, String::new()),
        (None, Some((reason, message))) => (false, *reason, message.clone()),
        (None, None) => (true, Reason::Ready, String::new()),
    };
    conditions.set(ConditionType::Ready, ready);
    let accepted = refusal.is_none();
    TriggerStatus {
        observed_generation: generation,
        conditions: conditions.finish(),
        urls: url(trigger, own).filter(|_| accepted).into_iter().collect(),
        dead_letters: match trigger.spec.queue.is_some() && accepted {
            true => dead_letters.or(before.dead_letters),
            false => None,
        },
    }
}

fn url(trigger: &Trigger, own: &str) -> Option<String> {
    let source = &trigger.spec.http.as_ref()?.source;
    let own = own.trim_end_matches('/');
    Some(format!("{own}/t/{}/{}{source}", trigger.namespace().unwrap_or_default(), trigger.spec.app))
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::{HttpTrigger, QueueTrigger, TriggerSpec, is_true};

    fn now() -> Time {
        Time(jiff::Timestamp::UNIX_EPOCH)
    }

    fn good() -> Facts {
        Facts { refusal: None, dead_letters: Some(2), obstacle: None }
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
            refusal: None,
        };
        let fresh = next_status(&queue_trigger(), &away(), "", now());
        assert!(!is_true(&fresh.conditions, ConditionType::Ready));
        let mut made = queue_trigger();
        made.status = Some(next_status(&made, &good(), "", now()));
        let status = next_status(&made, &away(), "", now());
        assert!(is_true(&status.conditions, ConditionType::Ready));
        assert_eq!(status.dead_letters, Some(2));
    }
}
