//! What may change of queues that stand: how long a failed attempt waits, and how many dead letters are kept how long.
//!
//! On RabbitMQ these are policies, since a queue's arguments cannot change; the operator keeps them. Of the policies
//! that fit a queue, the one of the highest priority alone counts, and where it bounds what an argument bounds as well,
//! the lower bound does (<https://www.rabbitmq.com/docs/parameters#policies>). A queue without one tries again at once,
//! and keeps its dead letters by its own bounds: worse, and nothing is lost.
//! Pure: says what shall stand. Never performs I/O.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::names::{AppNames, Installation, NameError, QueueName};
use crate::topology::DEAD_LENGTH_MAX;

/// The wait before the second attempt, where a Fn says nothing.
const BACKOFF_DEFAULT: Duration = Duration::from_secs(1);
/// The longest wait of a Fn that says nothing, or little.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest wait of a Fn with a longer backoff, in its backoffs: past that its attempts come no rarer.
const WAIT_MAX_TIMES: u32 = 10;
/// Above 0, which is what an administrator's own policy for everything mostly has: that must not hide this one.
const PRIORITY_ALL: i32 = 10;
/// Above the one for all, with room between for an administrator's.
const PRIORITY_ONE: i32 = 20;
/// All our policies are for queues of this type.
const APPLY_TO: &str = "quorum_queues";

/// How long a failed attempt waits for the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// After the first failed attempt; the n-th waits n times as long.
    pub min_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

impl Waits {
    /// Of a Fn that wants its second attempt to wait so long.
    pub fn of(backoff: Duration) -> Self {
        let ms = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        // RabbitMQ refuses a wait of nothing.
        let min_ms = ms(backoff).max(1);
        Self { min_ms, max_ms: min_ms.saturating_mul(WAIT_MAX_TIMES.into()).max(ms(WAIT_MAX)) }
    }

    /// After so many failed attempts.
    pub fn after(self, failed: u32) -> Duration {
        Duration::from_millis(self.min_ms.saturating_mul(failed.into()).min(self.max_ms))
    }
}

impl Default for Waits {
    fn default() -> Self {
        Self::of(BACKOFF_DEFAULT)
    }
}

/// Which dead letters are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// So many, the newest.
    pub length_max: u32,
    /// Each so long from when it came; none is for ever.
    pub age_max: Option<Duration>,
}

/// What a policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Of a durable queue.
    Retries(Waits),
    /// Of a queue of dead letters.
    DeadLetters(Kept),
}

/// Which queues a policy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    /// Every durable queue of an installation.
    EveryDurable(Installation),
    /// One queue.
    One(QueueName),
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    scope: Scope,
    rule: Rule,
}

impl Policy {
    /// For every durable queue of an installation whose Fn says nothing.
    pub fn of_all(installation: &Installation) -> Self {
        let scope = Scope::EveryDurable(installation.clone());
        Self { scope, rule: Rule::Retries(Waits::default()) }
    }

    /// How a Fn's failed calls wait.
    pub fn retries(names: &AppNames, fn_name: &str, waits: Waits) -> Result<Self, NameError> {
        Ok(Self { scope: Scope::One(names.durable_queue(fn_name)?), rule: Rule::Retries(waits) })
    }

    /// What is kept of a Fn's dead letters; `None` where its queue's own bounds say the same.
    pub fn dead_letters(names: &AppNames, fn_name: &str, kept: Kept) -> Result<Option<Self>, NameError> {
        let queue = names.dead_queue(fn_name)?;
        let bounds = kept.length_max < DEAD_LENGTH_MAX || kept.age_max.is_some();
        Ok(bounds.then_some(Self { scope: Scope::One(queue), rule: Rule::DeadLetters(kept) }))
    }

    /// Its name among the policies: its queue's, so that a sweep reads its owner from it.
    pub fn name(&self) -> String {
        match &self.scope {
            Scope::EveryDurable(installation) => format!("{installation}.retries"),
            Scope::One(queue) => queue.to_string(),
        }
    }

    /// Whether it is for that queue.
    pub fn is_for(&self, queue: &str) -> bool {
        match &self.scope {
            Scope::One(one) => one.as_str() == queue,
            Scope::EveryDurable(installation) => {
                let rest = queue.strip_prefix(&installation.prefix()).unwrap_or_default();
                matches!(rest.split('.').collect::<Vec<_>>()[..], [_, _, "fn", _])
            }
        }
    }

    /// Of several for one queue, the one of the highest counts alone.
    pub fn priority(&self) -> i32 {
        match self.scope {
            Scope::EveryDurable(_) => PRIORITY_ALL,
            Scope::One(_) => PRIORITY_ONE,
        }
    }

    /// What it says.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Whether only RabbitMQ 4.3 and newer know what it says.
    pub fn needs_delayed_retries(&self) -> bool {
        matches!(self.rule, Rule::Retries(_))
    }

    /// As RabbitMQ's management API takes it, and gives it back beside its name and virtual host.
    pub fn body(&self) -> Value {
        json!({
            "pattern": self.pattern(),
            "apply-to": APPLY_TO,
            "priority": self.priority(),
            "definition": self.definition(),
        })
    }

    /// A regular expression, which matches anywhere unless anchored; labels hold no character with a meaning.
    fn pattern(&self) -> String {
        match &self.scope {
            Scope::EveryDurable(installation) => format!(r"^{installation}\.[^.]+\.[^.]+\.fn\.[^.]+$"),
            Scope::One(queue) => format!("^{}$", queue.as_str().replace('.', r"\.")),
        }
    }

    fn definition(&self) -> Map<String, Value> {
        let mut definition = Map::new();
        let mut say = |key: &str, value: Value| drop(definition.insert(key.to_owned(), value));
        match self.rule {
            Rule::Retries(Waits { min_ms, max_ms }) => {
                // An attempt that ends with its runner counts as one that failed; a returned message does not.
                say("delayed-retry-type", "failed".into());
                say("delayed-retry-min", min_ms.into());
                say("delayed-retry-max", max_ms.into());
            }
            Rule::DeadLetters(Kept { length_max, age_max }) => {
                say("max-length", length_max.into());
                if let Some(age) = age_max {
                    say("message-ttl", u64::try_from(age.as_millis()).unwrap_or(u64::MAX).into());
                }
            }
        }
        definition
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> AppNames {
        AppNames::new(&Installation::parse("inst").unwrap(), "team-a", "shop").unwrap()
    }

    fn every() -> Policy {
        Policy::of_all(names().installation())
    }

    #[test]
    fn waits_grow_by_one_backoff_to_a_minute_or_ten_backoffs() {
        let waits = |backoff, failed| Waits::of(Duration::from_millis(backoff)).after(failed).as_millis();
        for (backoff, failed, wait) in [
            (1_000, 1, 1_000),
            (1_000, 4, 4_000),
            (1_000, 100, 60_000),
            (100, 3, 300),
            (30_000, 10, 300_000),
            (30_000, 11, 300_000),
            (3_600_000, 100, 36_000_000),
        ] {
            assert_eq!(waits(backoff, failed), wait, "{backoff} ms after {failed}");
        }
        assert_eq!(Waits::default(), Waits { min_ms: 1_000, max_ms: 60_000 });
    }

    #[test]
    fn a_policy_is_for_durable_queues_of_its_installation_alone() {
        assert_eq!(every().body()["pattern"], r"^inst\.[^.]+\.[^.]+\.fn\.[^.]+$");
        assert!(every().is_for("inst.team-a.shop.fn.mail"));
        for other in [
            "inst.team-a.shop.dead.mail",
            "inst.ledger",
            "inst.team-a.shop.rev.fn",
            "inst2.team-a.shop.fn.mail",
            "inst.team-a.fn.mail",
            "x.inst.team-a.shop.fn.mail",
        ] {
            assert!(!every().is_for(other), "{other}");
        }
    }

    #[test]
    fn a_fns_own_policy_is_for_its_queue_alone_and_comes_before_that_of_all() {
        let own = Policy::retries(&names(), "mail", Waits::of(Duration::from_secs(5))).unwrap();
        assert_eq!(own.name(), "inst.team-a.shop.fn.mail");
        assert!(own.is_for("inst.team-a.shop.fn.mail") && !own.is_for("inst.team-a.shop.fn.mail-2"));
        assert!(own.priority() > every().priority());
        assert_eq!(
            own.body(),
            json!({
                "pattern": r"^inst\.team-a\.shop\.fn\.mail$",
                "apply-to": "quorum_queues",
                "priority": 20,
                "definition": {
                    "delayed-retry-type": "failed", "delayed-retry-min": 5_000, "delayed-retry-max": 60_000,
                },
            })
        );
    }

    #[test]
    fn dead_letters_have_a_policy_only_where_their_queue_does_not_say_the_same() {
        let of = |length_max, age_max| {
            Policy::dead_letters(&names(), "mail", Kept { length_max, age_max }).unwrap()
        };
        assert_eq!(of(10_000, None), None);
        assert_eq!(of(7, None).unwrap().body()["definition"], json!({"max-length": 7}));
        let aged = of(10_000, Some(Duration::from_secs(60))).unwrap();
        assert_eq!(aged.body()["definition"], json!({"max-length": 10_000, "message-ttl": 60_000}));
        assert_eq!(aged.name(), "inst.team-a.shop.dead.mail");
        assert!(!aged.needs_delayed_retries() && every().needs_delayed_retries());
    }
}
