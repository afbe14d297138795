//! An App's next status. Pure.

use funcatron_crds::{App, AppStatus, ConditionType, Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::runners::Runners;
use crate::status::{Conditions, Refusal, Verdict};

/// All that an App's status follows from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// What is wrong with its spec.
    pub(crate) refusal: Option<Refusal>,
    /// Its shared runners.
    pub(crate) runners: Vec<Runners>,
    /// Fns that name it.
    pub(crate) fns: usize,
    /// The key that its credentials were made with.
    pub(crate) key_id: Option<String>,
    /// What the cluster or the broker refused.
    pub(crate) obstacle: Option<(Reason, String)>,
}

/// The status that follows.
pub(crate) fn next_status(app: &App, facts: &Facts, now: Time) -> AppStatus {
    let Facts { refusal, runners, fns, key_id, obstacle } = facts;
    let before = app.status.clone().unwrap_or_default();
    let generation = app.metadata.generation;
    let mut conditions = Conditions::of(&before.conditions, generation, now);
    conditions.set_refusal(refusal.as_ref());
    let available = available(runners);
    conditions.set(ConditionType::Available, available.clone());
    conditions
        .set(ConditionType::Ready, ready(refusal.as_ref(), obstacle.as_ref(), key_id.is_some(), available));
    AppStatus {
        observed_generation: generation,
        conditions: conditions.finish(),
        fns: Some(i32::try_from(*fns).unwrap_or(i32::MAX)),
        credentials_key_id: key_id.clone(),
    }
}

fn available(runners: &[Runners]) -> Verdict {
    let lacking: Vec<&str> =
        runners.iter().filter(|runners| runners.ready == 0).map(|runners| runners.runtime.as_str()).collect();
    if lacking.is_empty() {
        return (true, Reason::Available, String::new());
    }
    (false, Reason::PodsPending, format!("no shared runner is ready for: {}", lacking.join(", ")))
}

fn ready(
    refusal: Option<&Refusal>,
    obstacle: Option<&(Reason, String)>,
    credentials: bool,
    available: Verdict,
) -> Verdict {
    if let Some(Refusal { condition: _, reason, message }) = refusal {
        return (false, *reason, message.clone());
    }
    match obstacle {
        // What stands goes on without the broker; only what was never made needs it.
        Some((Reason::BrokerUnavailable, _)) if credentials => {}
        Some((reason, message)) => return (false, *reason, message.clone()),
        None => {}
    }
    match available {
        (true, ..) => (true, Reason::Ready, String::new()),
        lacking => lacking,
    }
}

/// The gateway's own hostname is nobody else's.
pub(crate) fn check_hostnames(hostnames: &[String], gateway: &str) -> Result<(), Refusal> {
    let own = hostnames.iter().find(|hostname| hostname.eq_ignore_ascii_case(gateway));
    match own {
        Some(own) => {
            let message =
                format!("spec.hostnames: `{own}` is the gateway's own; leave it out to answer below it");
            Err(Refusal::accepted(Reason::Conflict, message))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::{AppSpec, find_condition, is_true};

    fn now() -> Time {
        Time(jiff::Timestamp::UNIX_EPOCH)
    }

    fn runners(ready: i32) -> Vec<Runners> {
        vec![Runners { runtime: "python".into(), wanted: 2, ready }]
    }

    fn status_of(facts: &Facts) -> AppStatus {
        next_status(&App::new("shop", AppSpec::default()), facts, now())
    }

    #[test]
    fn an_app_without_code_needs_no_runner_to_be_ready() {
        assert!(is_true(&status_of(&Facts::default()).conditions, ConditionType::Ready));
    }

    #[test]
    fn a_runtime_without_a_ready_runner_is_named() {
        let status = status_of(&Facts { runners: runners(0), ..Facts::default() });
        let ready = find_condition(&status.conditions, ConditionType::Ready).unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "PodsPending"));
        assert!(ready.message.contains("python"));
        assert!(is_true(
            &status_of(&Facts { runners: runners(1), ..Facts::default() }).conditions,
            ConditionType::Ready
        ));
    }

    #[test]
    fn the_broker_is_needed_to_begin_and_not_to_go_on() {
        let obstacle = Some((Reason::BrokerUnavailable, "away".to_owned()));
        let begun = Facts { obstacle, key_id: Some("k".into()), ..Facts::default() };
        assert!(is_true(&status_of(&begun).conditions, ConditionType::Ready));
        let fresh = Facts { key_id: None, ..begun };
        assert!(!is_true(&status_of(&fresh).conditions, ConditionType::Ready));
    }

    #[test]
    fn the_gateways_own_hostname_is_refused_in_any_case() {
        assert!(check_hostnames(&["Gateway.Example.com".into()], "gateway.example.com").is_err());
        assert!(check_hostnames(&["shop.example.com".into()], "gateway.example.com").is_ok());
    }
}
