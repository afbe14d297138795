//! A Fn's next status, from what was observed, decided and done. Pure.

use funcatron_crds::{ConditionType, FnStatus, Function, Reason, RevisionName, find_condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::decide::Verdict;
use crate::status::{Conditions, Refusal, Verdict as Said};

/// A dedicated Fn's pods.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Pods {
    /// As its user wishes.
    pub(crate) wanted: i32,
    /// Ready ones of the newest revision.
    pub(crate) ready: i32,
    /// What keeps others from being so.
    pub(crate) trouble: Option<String>,
}

/// All that a Fn's status follows from.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    /// What is wrong with the spec or what it names.
    pub(crate) refusal: Option<Refusal>,
    /// What the spec asks to run; absent while refused.
    pub(crate) latest: Option<&'a RevisionName>,
    /// What the App's table holds.
    pub(crate) serving: Option<&'a RevisionName>,
    /// What runners said of the newest.
    pub(crate) verdict: &'a Verdict,
    /// Pods; absent: shared.
    pub(crate) pods: Option<Pods>,
    /// Whether the broker answers.
    pub(crate) broker_up: bool,
    /// What the cluster or the broker refused.
    pub(crate) obstacle: Option<(Reason, String)>,
    /// How calls fare that nobody waits for; absent: there are none, or what was said stays.
    pub(crate) later: Option<Said>,
    /// Where it is invoked.
    pub(crate) url: String,
    /// Its pods' label selector.
    pub(crate) selector: Option<String>,
}

/// What runners had said of the newest revision before a restart: a status is the operator's memory.
pub(crate) fn remembered(status: Option<&FnStatus>, latest: &RevisionName) -> Verdict {
    let Some(status) = status else { return Verdict::Unknown };
    if status.latest_revision.as_deref() != Some(latest.as_str()) {
        return Verdict::Unknown;
    }
    let said = |kind: ConditionType, reason: Reason| {
        find_condition(&status.conditions, kind).filter(|condition| condition.reason == reason.as_str())
    };
    if let Some(missing) = said(ConditionType::ResolvedRefs, Reason::KeyNotFound) {
        return Verdict::KeyMissing(missing.message.clone());
    }
    if let Some(failed) = said(ConditionType::Progressing, Reason::LoadFailed) {
        return Verdict::Failed(failed.message.clone());
    }
    match status.revision.as_deref() == Some(latest.as_str()) {
        true => Verdict::Loaded,
        false => Verdict::Unknown,
    }
}

/// The status that follows.
pub(crate) fn next_status(function: &Function, facts: &Facts<'_>, now: Time) -> FnStatus {
    let before = function.status.clone().unwrap_or_default();
    let generation = function.metadata.generation;
    FnStatus {
        observed_generation: generation,
        conditions: conditions(&before.conditions, facts, generation, now),
        revision: facts.serving.map(|name| name.as_str().to_owned()),
        // While a spec is refused, what was newest stays known: it may be the one that serves.
        latest_revision: facts.latest.map(|name| name.as_str().to_owned()).or(before.latest_revision),
        url: Some(facts.url.clone()),
        replicas: facts.pods.as_ref().map(|pods| pods.ready),
        selector: facts.selector.clone(),
    }
}

fn conditions(before: &[Condition], facts: &Facts<'_>, generation: Option<i64>, now: Time) -> Vec<Condition> {
    let mut conditions = Conditions::of(before, generation, now);
    let missing = match facts.verdict {
        Verdict::KeyMissing(what) => Some(Refusal::refs(Reason::KeyNotFound, what.clone())),
        _ => None,
    };
    let refusal = facts.refusal.clone().or(missing);
    conditions.set_refusal(refusal.as_ref());
    conditions.set(ConditionType::Available, available(facts));
    let progressing = progressing(facts, refusal.as_ref());
    conditions.set(ConditionType::Progressing, progressing.clone());
    conditions.set(ConditionType::Ready, ready(facts, refusal.as_ref(), progressing));
    if let Some(later) = &facts.later {
        conditions.set(ConditionType::AsyncReady, later.clone());
    }
    conditions.finish()
}

fn available(facts: &Facts<'_>) -> Said {
    match (facts.serving, &facts.pods) {
        (_, Some(pods)) if pods.wanted == 0 => {
            (false, Reason::ScaledToZero, "spec.scale.replicas is 0: no pod answers".to_owned())
        }
        (None, _) => (false, Reason::Pending, "no revision has been loaded yet".to_owned()),
        (Some(name), Some(pods)) if pods.ready == 0 && facts.latest == Some(name) => {
            let trouble = pods.trouble.clone().unwrap_or_else(|| "no pod is ready".to_owned());
            (false, Reason::PodsPending, trouble)
        }
        (Some(name), _) => (true, Reason::Available, format!("revision {name} serves")),
    }
}

fn progressing(facts: &Facts<'_>, refusal: Option<&Refusal>) -> Said {
    let Some(latest) = facts.latest else { return (false, Reason::Invalid, String::new()) };
    if let Verdict::Failed(why) = facts.verdict {
        return (false, Reason::LoadFailed, why.clone());
    }
    if let Some(refusal) = refusal {
        return (false, refusal.reason, String::new());
    }
    if facts.serving == Some(latest) {
        return (false, Reason::UpToDate, String::new());
    }
    if let Some((reason, message)) = &facts.obstacle {
        return (true, *reason, message.clone());
    }
    if !facts.broker_up {
        return (true, Reason::BrokerUnavailable, "the broker does not answer; trying on".to_owned());
    }
    match &facts.pods {
        Some(Pods { wanted: 0, .. }) => (false, Reason::ScaledToZero, String::new()),
        Some(Pods { trouble: Some(trouble), .. }) => (true, Reason::PodsFailing, trouble.clone()),
        Some(Pods { ready: 0, .. }) => {
            (true, Reason::PodsPending, format!("pods of revision {latest} start"))
        }
        _ => (true, Reason::Loading, format!("revision {latest} is being loaded")),
    }
}

/// Tells the truth about code, not about pods.
fn ready(facts: &Facts<'_>, refusal: Option<&Refusal>, progressing: Said) -> Said {
    if let Some(Refusal { condition: _, reason, message }) = refusal {
        return (false, *reason, still_serving(facts, message.clone()));
    }
    if let Verdict::Failed(why) = facts.verdict {
        return (false, Reason::LoadFailed, still_serving(facts, why.clone()));
    }
    if facts.pods.as_ref().is_some_and(|pods| pods.wanted == 0) {
        return (true, Reason::ScaledToZero, "no pods, as spec.scale.replicas says".to_owned());
    }
    match (facts.latest, facts.serving) {
        (Some(latest), Some(serving)) if latest == serving => {
            (true, Reason::Ready, format!("revision {latest} serves"))
        }
        _ => (false, progressing.1, still_serving(facts, progressing.2)),
    }
}

fn still_serving(facts: &Facts<'_>, message: String) -> String {
    match facts.serving {
        Some(serving) => format!("{message} (revision {serving} serves on)"),
        None => message,
    }
}

/// A failed load in one message: the reason, and the last line that the code itself printed.
pub(crate) fn failure(reason: Option<&str>, log: Option<&str>) -> String {
    let reason =
        reason.map(str::trim).filter(|reason| !reason.is_empty()).unwrap_or("the code does not load");
    let last = log.and_then(|log| log.lines().map(str::trim).rfind(|line| !line.is_empty()));
    match last {
        Some(last) if !reason.contains(last) => format!("{reason}: {last}"),
        _ => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::{FnSpec, is_true};

    fn time() -> Time {
        Time(jiff::Timestamp::UNIX_EPOCH)
    }

    fn rev(hash: &str) -> RevisionName {
        RevisionName::new("hello", hash).unwrap()
    }

    fn facts<'a>(latest: &'a RevisionName, verdict: &'a Verdict) -> Facts<'a> {
        Facts {
            refusal: None,
            latest: Some(latest),
            serving: None,
            verdict,
            pods: None,
            broker_up: true,
            obstacle: None,
            later: None,
            url: "http://gateway/invoke/team-a/hello".into(),
            selector: None,
        }
    }

    fn condition(status: &FnStatus, kind: ConditionType) -> (&str, &str, &str) {
        let found = find_condition(&status.conditions, kind).unwrap();
        (found.status.as_str(), found.reason.as_str(), found.message.as_str())
    }

    fn hello() -> Function {
        Function::new("hello", FnSpec::default())
    }

    #[test]
    fn a_loaded_revision_is_ready() {
        let latest = rev("aaaaaaaa");
        let facts = Facts { serving: Some(&latest), ..facts(&latest, &Verdict::Loaded) };
        let status = next_status(&hello(), &facts, time());
        assert!(is_true(&status.conditions, ConditionType::Ready));
        assert!(is_true(&status.conditions, ConditionType::Available));
        assert!(!is_true(&status.conditions, ConditionType::Progressing));
        assert_eq!(status.revision.as_deref(), Some("hello-aaaaaaaa"));
    }

    #[test]
    fn a_failing_import_shows_its_last_log_line_and_who_serves_on() {
        let (old, new) = (rev("aaaaaaaa"), rev("bbbbbbbb"));
        let verdict = Verdict::Failed(failure(
            Some("cannot import func"),
            Some("Traceback…\nModuleNotFoundError: nope\n"),
        ));
        let facts = Facts { serving: Some(&old), ..facts(&new, &verdict) };
        let status = next_status(&hello(), &facts, time());
        let (holds, reason, message) = condition(&status, ConditionType::Ready);
        assert_eq!((holds, reason), ("False", "LoadFailed"));
        assert!(
            message.contains("ModuleNotFoundError: nope") && message.contains("hello-aaaaaaaa serves on")
        );
        assert!(is_true(&status.conditions, ConditionType::Available));
    }

    #[test]
    fn what_a_status_said_before_a_restart_is_said_again_word_for_word() {
        let (old, new) = (rev("aaaaaaaa"), rev("bbbbbbbb"));
        let verdicts = [
            Verdict::Loaded,
            Verdict::Failed("boom".into()),
            Verdict::KeyMissing("Secret db has no key url".into()),
            Verdict::Unknown,
        ];
        for verdict in verdicts {
            let serving = if verdict == Verdict::Loaded { &new } else { &old };
            let facts = Facts { serving: Some(serving), ..facts(&new, &verdict) };
            let status = next_status(&hello(), &facts, time());
            assert_eq!(remembered(Some(&status), &new), verdict);
            let mut again = hello();
            again.status = Some(status.clone());
            let later = Time(jiff::Timestamp::MAX);
            assert_eq!(next_status(&again, &facts, later), status);
        }
    }

    #[test]
    fn a_verdict_about_another_revision_is_not_remembered() {
        let (old, new) = (rev("aaaaaaaa"), rev("bbbbbbbb"));
        let verdict = Verdict::Failed("boom".into());
        let status = next_status(&hello(), &facts(&old, &verdict), time());
        assert_eq!(remembered(Some(&status), &new), Verdict::Unknown);
    }

    #[test]
    fn a_refused_spec_says_why_and_keeps_the_newest_revision_known() {
        let old = rev("aaaaaaaa");
        let mut function = hello();
        function.status =
            Some(FnStatus { latest_revision: Some("hello-aaaaaaaa".into()), ..FnStatus::default() });
        let refusal = Refusal::accepted(Reason::SourceTooLarge, "spec.source: too large");
        let facts = Facts {
            refusal: Some(refusal),
            latest: None,
            serving: Some(&old),
            ..facts(&old, &Verdict::Unknown)
        };
        let status = next_status(&function, &facts, time());
        assert_eq!(condition(&status, ConditionType::Accepted).1, "SourceTooLarge");
        assert_eq!(condition(&status, ConditionType::Ready).1, "SourceTooLarge");
        assert_eq!(status.latest_revision.as_deref(), Some("hello-aaaaaaaa"));
        assert!(is_true(&status.conditions, ConditionType::Available));
    }

    #[test]
    fn scaled_to_zero_is_ready_and_not_available() {
        let latest = rev("aaaaaaaa");
        let pods = Some(Pods::default());
        let status = next_status(&hello(), &Facts { pods, ..facts(&latest, &Verdict::Unknown) }, time());
        assert_eq!(condition(&status, ConditionType::Ready).1, "ScaledToZero");
        assert!(!is_true(&status.conditions, ConditionType::Available));
    }

    #[test]
    fn a_pod_that_cannot_start_says_so() {
        let latest = rev("aaaaaaaa");
        let pods = Pods { wanted: 1, ready: 0, trouble: Some("ImagePullBackOff: no such image".into()) };
        let facts = Facts { pods: Some(pods), ..facts(&latest, &Verdict::Unknown) };
        let status = next_status(&hello(), &facts, time());
        let (holds, reason, message) = condition(&status, ConditionType::Ready);
        assert_eq!((holds, reason, message), ("False", "PodsFailing", "ImagePullBackOff: no such image"));
    }

    #[test]
    fn what_is_wrong_with_calls_that_run_later_leaves_the_fn_ready() {
        let latest = rev("aaaaaaaa");
        let later = Some((false, Reason::BrokerTooOld, "upgrade".to_owned()));
        let facts = Facts { serving: Some(&latest), later, ..facts(&latest, &Verdict::Loaded) };
        let status = next_status(&hello(), &facts, time());
        assert!(is_true(&status.conditions, ConditionType::Ready));
        assert_eq!(condition(&status, ConditionType::AsyncReady), ("False", "BrokerTooOld", "upgrade"));
        // As long as nothing new is known, that stays said.
        let mut again = hello();
        again.status = Some(status.clone());
        assert_eq!(next_status(&again, &Facts { later: None, ..facts }, time()), status);
    }

    #[test]
    fn a_broker_that_is_away_changes_nothing_for_what_serves() {
        let latest = rev("aaaaaaaa");
        let facts = Facts { serving: Some(&latest), broker_up: false, ..facts(&latest, &Verdict::Loaded) };
        assert!(is_true(&next_status(&hello(), &facts, time()).conditions, ConditionType::Ready));
    }
}
