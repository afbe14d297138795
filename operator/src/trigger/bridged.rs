//! Triggers that take from a queue on a broker of the user's own: which of them their App's bridge serves, and what its
//! word on one comes to. Pure: it is handed the time.

use std::time::{Duration, Instant};

use funcatron_broker::message::BridgeState;
use funcatron_crds::{BridgedQueue, Trigger};
use kube::ResourceExt;

/// A connection takes a thread and 8 MiB of buffers, and a bridge has 512 MiB.
pub(crate) const BRIDGED_MAX: usize = 32;
/// What a Trigger beyond that is told.
pub(crate) const TOO_MANY: &str =
    "spec.queue.broker: an App takes from at most 32 queues on other brokers, and older Triggers do";
/// Three of a bridge's reports, and a moment.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(100);

/// Of an App's Triggers, those that its bridge serves: the oldest.
pub(crate) fn admitted<'a>(triggers: impl Iterator<Item = &'a Trigger>) -> Vec<&'a Trigger> {
    let mut bridged: Vec<&Trigger> = triggers.filter(|trigger| is_bridged(trigger)).collect();
    bridged.sort_by_key(|trigger| {
        (trigger.creation_timestamp().map(|time| time.0.as_second()), trigger.name_any())
    });
    bridged.truncate(BRIDGED_MAX);
    bridged
}

/// Whether a bridge is to serve it now.
pub(crate) fn is_bridged(trigger: &Trigger) -> bool {
    !trigger.spec.is_suspended() && BridgedQueue::of(&trigger.name_any(), &trigger.spec).is_some()
}

/// What a bridge last said of a Trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Of which configuration.
    pub(crate) configured: String,
    /// Its word; absent: none yet.
    pub(crate) word: Option<(BridgeState, Option<String>)>,
    /// When, or since when it is waited for.
    pub(crate) at: Instant,
}

/// How a Trigger stands with its bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bridging {
    /// Messages get through.
    Running,
    /// They do not.
    Trouble(String),
    /// The bridge will say.
    Awaited,
    /// It should have said.
    Silent,
}

/// What the bridge's word comes to; another configuration's counts for nothing.
pub(crate) fn judge(heard: &Heard, configured: &str, now: Instant) -> Bridging {
    let Heard { configured: of, word, at } = heard;
    let is_fresh = now.saturating_duration_since(*at) <= SILENCE_MAX;
    match word.as_ref().filter(|_| of == configured) {
        _ if !is_fresh => Bridging::Silent,
        Some((BridgeState::Running, _)) => Bridging::Running,
        Some((BridgeState::Trouble, why)) => {
            Bridging::Trouble(why.clone().unwrap_or_else(|| "its queue cannot be taken from".to_owned()))
        }
        Some((BridgeState::Starting, _)) | None => Bridging::Awaited,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::{QueueBroker, QueueTrigger, SecretKeyRef, TriggerSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn trigger(name: &str, second: i64) -> Trigger {
        let secret_key_ref = SecretKeyRef { name: "rabbit".into(), key: "url".into() };
        let queue = QueueTrigger {
            broker: Some(QueueBroker { secret_key_ref }),
            name: Some("orders".into()),
            ..QueueTrigger::default()
        };
        let mut trigger = Trigger::new(name, TriggerSpec { queue: Some(queue), ..TriggerSpec::default() });
        trigger.metadata.creation_timestamp = Some(Time(jiff::Timestamp::from_second(second).unwrap()));
        trigger
    }

    #[test]
    fn the_oldest_are_served_and_the_suspended_take_no_place() {
        let mut all: Vec<Trigger> = (0..40).map(|n| trigger(&format!("t{n}"), 40 - n)).collect();
        all[39].spec.suspend = Some(true);
        let served = admitted(all.iter());
        assert_eq!(served.len(), BRIDGED_MAX);
        assert_eq!((served[0].name_any(), served[31].name_any()), ("t38".to_owned(), "t7".to_owned()));
    }

    fn heard(word: Option<(BridgeState, Option<String>)>) -> Heard {
        Heard { configured: "now".into(), word, at: Instant::now() }
    }

    #[test]
    fn a_word_counts_while_it_is_fresh_and_of_this_configuration() {
        let running = heard(Some((BridgeState::Running, None)));
        let at = running.at;
        assert_eq!(judge(&running, "now", at), Bridging::Running);
        assert_eq!(judge(&running, "changed", at), Bridging::Awaited);
        assert_eq!(judge(&running, "now", at + SILENCE_MAX * 2), Bridging::Silent);
    }

    #[test]
    fn trouble_is_told_and_what_begins_is_awaited() {
        let trouble = heard(Some((BridgeState::Trouble, Some("no queue".into()))));
        assert_eq!(judge(&trouble, "now", trouble.at), Bridging::Trouble("no queue".into()));
        for word in [None, Some((BridgeState::Starting, None))] {
            let heard = heard(word);
            assert_eq!(judge(&heard, "now", heard.at), Bridging::Awaited);
            assert_eq!(judge(&heard, "now", heard.at + SILENCE_MAX * 2), Bridging::Silent);
        }
    }
}
