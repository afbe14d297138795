//! Which HTTP Trigger of an App owns which source: the oldest. Pure.

use std::collections::BTreeMap;

use funcatron_crds::Trigger;
use kube::ResourceExt;

/// The HTTP Triggers whose sources are their own; of those with one source, the oldest.
pub(crate) fn winners<'a>(triggers: impl Iterator<Item = &'a Trigger>) -> Vec<&'a Trigger> {
    let mut owners: BTreeMap<String, &Trigger> = BTreeMap::new();
    for trigger in triggers {
        let Some(source) = source(trigger) else { continue };
        let owner = owners.entry(source).or_insert(trigger);
        if age(trigger) < age(owner) {
            *owner = trigger;
        }
    }
    owners.into_values().collect()
}

/// The one that owns this Trigger's source, when that is another.
pub(crate) fn owner_of<'a>(
    trigger: &Trigger,
    triggers: impl Iterator<Item = &'a Trigger>,
) -> Option<&'a Trigger> {
    let wanted = source(trigger)?;
    let winners = winners(triggers);
    let owner = winners.into_iter().find(|owner| source(owner).as_ref() == Some(&wanted))?;
    (owner.name_any() != trigger.name_any()).then_some(owner)
}

/// A trailing slash makes no other source.
fn source(trigger: &Trigger) -> Option<String> {
    trigger.spec.http.as_ref().map(|http| http.source.trim_end_matches('/').to_owned())
}

fn age(trigger: &Trigger) -> (Option<i64>, String) {
    let created = trigger.creation_timestamp().map(|time| time.0.as_second());
    (created, trigger.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::{HttpTrigger, TriggerSpec};
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn trigger(name: &str, source: &str, second: i64) -> Trigger {
        let http = Some(HttpTrigger { source: source.to_owned() });
        let mut trigger = Trigger::new(name, TriggerSpec { http, ..TriggerSpec::default() });
        trigger.metadata.creation_timestamp = Some(Time(Timestamp::from_second(second).unwrap()));
        trigger
    }

    #[test]
    fn the_oldest_owns_a_source_whatever_the_order() {
        let (old, new) = (trigger("z", "/hook", 1), trigger("a", "/hook/", 2));
        for pair in [[&old, &new], [&new, &old]] {
            let winners: Vec<_> = winners(pair.into_iter()).iter().map(|t| t.name_any()).collect();
            assert_eq!(winners, ["z"]);
            assert_eq!(owner_of(&new, pair.into_iter()).map(|t| t.name_any()), Some("z".to_owned()));
            assert!(owner_of(&old, pair.into_iter()).is_none());
        }
    }

    #[test]
    fn of_the_same_age_the_first_by_name_owns_it() {
        let (a, b) = (trigger("a", "/hook", 1), trigger("b", "/hook", 1));
        assert_eq!(winners([&b, &a].into_iter()).len(), 1);
        assert!(owner_of(&a, [&b, &a].into_iter()).is_none());
    }
}
