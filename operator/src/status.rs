//! Conditions as all kinds set them, and why an object is refused. Pure.

use funcatron_crds::{ConditionType, Reason, find_condition, set_condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Why a spec cannot be honoured, and which condition says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Accepted or ResolvedRefs.
    pub(crate) condition: ConditionType,
    /// The word for scripts.
    pub(crate) reason: Reason,
    /// The sentence for people.
    pub(crate) message: String,
}

impl Refusal {
    /// The spec itself is at fault.
    pub(crate) fn accepted(reason: Reason, message: impl Into<String>) -> Self {
        Self { condition: ConditionType::Accepted, reason, message: message.into() }
    }

    /// Something that it names is at fault.
    pub(crate) fn refs(reason: Reason, message: impl Into<String>) -> Self {
        Self { condition: ConditionType::ResolvedRefs, reason, message: message.into() }
    }

    /// Its App is not there.
    pub(crate) fn app_not_found(namespace: &str, app: &str) -> Self {
        Self::refs(
            Reason::AppNotFound,
            format!("spec.app: there is no App `{app}` in namespace `{namespace}`"),
        )
    }
}

/// One condition to be set: holds or not, why, and in words.
pub(crate) type Verdict = (bool, Reason, String);

/// Conditions in the making; those of before keep their times.
pub(crate) struct Conditions {
    list: Vec<Condition>,
    generation: Option<i64>,
    now: Time,
}

impl Conditions {
    /// Begins with what the object's status says.
    pub(crate) fn of(before: &[Condition], generation: Option<i64>, now: Time) -> Self {
        Self { list: before.to_vec(), generation, now }
    }

    /// Sets one.
    pub(crate) fn set(&mut self, kind: ConditionType, (holds, reason, message): Verdict) {
        set_condition(&mut self.list, kind, holds, reason, message, self.generation, &self.now);
    }

    /// Sets Accepted and ResolvedRefs by a refusal or its absence.
    pub(crate) fn set_refusal(&mut self, refusal: Option<&Refusal>) {
        for (kind, good) in
            [(ConditionType::Accepted, Reason::Accepted), (ConditionType::ResolvedRefs, Reason::ResolvedRefs)]
        {
            let refused = refusal.filter(|refusal| refusal.condition == kind);
            let verdict = match refused {
                Some(Refusal { condition: _, reason, message }) => (false, *reason, message.clone()),
                None => (true, good, String::new()),
            };
            self.set(kind, verdict);
        }
    }

    /// The whole list.
    pub(crate) fn finish(self) -> Vec<Condition> {
        self.list
    }
}

/// What Ready says, for Events: they are sent when this changes.
pub(crate) fn readiness(conditions: &[Condition]) -> Option<(&str, &str, &str)> {
    find_condition(conditions, ConditionType::Ready)
        .map(|ready| (ready.status.as_str(), ready.reason.as_str(), ready.message.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::is_true;

    fn now() -> Time {
        Time(jiff::Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_refusal_speaks_in_its_own_condition_alone() {
        let mut conditions = Conditions::of(&[], Some(1), now());
        conditions.set_refusal(Some(&Refusal::app_not_found("team-a", "shop")));
        let list = conditions.finish();
        assert!(is_true(&list, ConditionType::Accepted));
        assert!(!is_true(&list, ConditionType::ResolvedRefs));
    }
}
