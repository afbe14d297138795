//! What the operator tells an App's bridge of each queue on a broker of the user's own. Never holds that broker's
//! address: the bridge finds it in a mounted Secret.

use serde::{Deserialize, Serialize};

use crate::{Digest, SecretKeyRef, TriggerSpec};

/// How many messages a bridge has in hand of one queue, where its Trigger says nothing.
pub const PREFETCH_DEFAULT: u16 = 50;
/// Hex digits that tell two configurations of one Trigger apart.
const CONFIGURED_HEX: usize = 16;

/// One queue that a bridge takes messages from.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BridgedQueue {
    /// The Trigger, which names the App's exchange that takes the messages.
    pub trigger: String,
    /// The queue on the user's broker.
    pub queue: String,
    /// How many of its messages are in hand at once.
    pub prefetch: u16,
    /// Says what it was configured from, so that a report of an older configuration is known as such.
    pub configured: String,
}

impl BridgedQueue {
    /// What a Trigger's bridge is told; absent where it has none. Suspended or not.
    pub fn of(trigger: &str, spec: &TriggerSpec) -> Option<Self> {
        let queue = spec.queue.as_ref()?;
        let (broker, name) = (queue.broker.as_ref()?, queue.name.as_ref()?);
        let SecretKeyRef { name: secret, key } = &broker.secret_key_ref;
        let prefetch = queue.prefetch.unwrap_or(PREFETCH_DEFAULT);
        let whole = serde_json::json!([trigger, spec.fn_name, secret, key, name, prefetch]).to_string();
        let configured = Digest::of(whole.as_bytes()).hex()[..CONFIGURED_HEX].to_owned();
        Some(Self { trigger: trigger.to_owned(), queue: name.clone(), prefetch, configured })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{QueueBroker, QueueTrigger};

    fn spec(key: &str, prefetch: Option<u16>) -> TriggerSpec {
        let secret_key_ref = SecretKeyRef { name: "rabbit".into(), key: key.into() };
        let queue = QueueTrigger {
            broker: Some(QueueBroker { secret_key_ref }),
            name: Some("orders".into()),
            prefetch,
            ..QueueTrigger::default()
        };
        TriggerSpec { queue: Some(queue), ..TriggerSpec::default() }
    }

    #[test]
    fn each_change_makes_another_configuration() {
        let of = |spec: &TriggerSpec| BridgedQueue::of("on-order", spec).unwrap();
        let first = of(&spec("url", None));
        assert_eq!((first.queue.as_str(), first.prefetch), ("orders", PREFETCH_DEFAULT));
        assert_eq!(first, of(&spec("url", Some(PREFETCH_DEFAULT))));
        assert_ne!(first.configured, of(&spec("other", None)).configured);
        assert_ne!(first.configured, of(&spec("url", Some(1))).configured);
    }

    #[test]
    fn a_binding_of_an_exchange_needs_no_bridge() {
        let queue = QueueTrigger { exchange: Some("payments".into()), ..QueueTrigger::default() };
        let spec = TriggerSpec { queue: Some(queue), ..TriggerSpec::default() };
        assert_eq!(BridgedQueue::of("on-paid", &spec), None);
    }
}
