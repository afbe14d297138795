//! What the broker's version says of what it can. Pure.

use std::fmt;

use funcatron_crds::Reason;

use crate::status::Verdict;

/// The first RabbitMQ whose quorum queues have a failed message wait.
const DELAYED_RETRIES_SINCE: (u32, u32) = (4, 3);

/// A broker's version, as far as it decides anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerVersion {
    major: u32,
    minor: u32,
    text: String,
}

impl BrokerVersion {
    /// Reads `4.3.6`, `4.3.0-rc.1` and whatever else begins with two numbers.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next()?.parse().ok();
        Some(Self { major: number()?, minor: number()?, text: text.to_owned() })
    }

    /// Whether a failed message can wait for its next delivery.
    pub(crate) fn delays_retries(&self) -> bool {
        (self.major, self.minor) >= DELAYED_RETRIES_SINCE
    }
}

impl fmt::Display for BrokerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How calls fare that nobody waits for, of a Fn that has a queue for them; `None` where that cannot be said now, and
/// what was said before stays.
pub(crate) fn async_ready(version: Option<&BrokerVersion>, refusal: Option<String>) -> Option<Verdict> {
    let version = version?;
    if !version.delays_retries() {
        let (major, minor) = DELAYED_RETRIES_SINCE;
        let message = format!(
            "RabbitMQ {version} cannot have a failed call wait: it is tried again at once, whatever \
             spec.async.retry.backoff says; upgrade the broker to {major}.{minor} or newer"
        );
        return Some((false, Reason::BrokerTooOld, message));
    }
    match refusal {
        Some(refusal) => Some((false, Reason::BrokerRefused, refusal)),
        None => Some((true, Reason::Ready, String::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> BrokerVersion {
        BrokerVersion::parse(text).unwrap()
    }

    #[test]
    fn failed_calls_wait_from_4_3_on() {
        for (text, waits) in [
            ("4.3.0", true),
            ("4.3.6", true),
            ("4.3.0-rc.1", true),
            ("4.10.1", true),
            ("5.0.0", true),
            ("4.3", true),
            ("4.2.9", false),
            ("3.13.7", false),
            ("3.10.8+deb12", false),
        ] {
            assert_eq!(version(text).delays_retries(), waits, "{text}");
        }
    }

    #[test]
    fn what_is_no_version_says_nothing() {
        for text in ["", "4", "v4.3.0", "unknown", "4.x", "99999999999.1"] {
            assert_eq!(BrokerVersion::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_broker_that_is_too_old_is_named_with_what_is_missing_and_what_to_do() {
        let (holds, reason, message) = async_ready(Some(&version("4.2.1")), None).unwrap();
        assert_eq!((holds, reason), (false, Reason::BrokerTooOld));
        for part in ["RabbitMQ 4.2.1", "tried again at once", "upgrade the broker to 4.3"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn nothing_is_said_of_a_broker_that_is_not_known() {
        assert_eq!(async_ready(None, Some("no".into())), None);
    }

    #[test]
    fn a_policy_that_is_refused_is_told() {
        let refused = async_ready(Some(&version("4.3.6")), Some("no".into()));
        assert_eq!(refused, Some((false, Reason::BrokerRefused, "no".into())));
        assert!(async_ready(Some(&version("4.3.6")), None).unwrap().0);
    }
}
