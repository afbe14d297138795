//! Faults as data: whom, how, and which answers each explains. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::call::{Flaw, Kind};

/// Longer than three heartbeats of 5 s, within which the broker gives up a connection: a frozen part is taken for
/// dead. Shorter than the probes' patience of 30 s: it comes back as it was rather than as a fresh one.
pub(crate) const FROZEN: Duration = Duration::from_secs(20);

/// A part of the platform, or what it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Gateway,
    Runner,
    Host,
    Broker,
    Operator,
    ApiServer,
    Ledger,
    /// The ledger's database, where it is a process of its own.
    Database,
}

impl Target {
    /// Those that every installation has.
    pub(crate) const EVERYWHERE: [Self; 7] = [
        Self::Gateway,
        Self::Runner,
        Self::Host,
        Self::Broker,
        Self::Operator,
        Self::ApiServer,
        Self::Ledger,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Runner => "runner",
            Self::Host => "host",
            Self::Broker => "broker",
            Self::Operator => "operator",
            Self::ApiServer => "API server",
            Self::Ledger => "ledger",
            Self::Database => "database",
        }
    }
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// SIGKILL, from which whoever started it recovers it.
    Kill,
    /// SIGSTOP, and after [`FROZEN`] SIGCONT.
    Stop,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) target: Target,
    pub(crate) how: How,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.how {
            How::Kill => "kill",
            How::Stop => "stop",
        };
        write!(f, "{how} {}", self.target.name())
    }
}

/// Answers that are not good and that what happened explains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Allowed(BTreeSet<(Kind, Flaw)>);

impl Allowed {
    /// Whether this flaw is explained for a call of this kind.
    pub(crate) fn explains(&self, kind: Kind, flaw: Flaw) -> bool {
        self.0.contains(&(kind, flaw))
    }

    /// What either explains.
    pub(crate) fn or(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    fn all(pairs: &[(Kind, Flaw)]) -> Self {
        Self(pairs.iter().copied().collect())
    }
}

impl Fault {
    /// What it explains. A fault that is not named here explains nothing.
    pub(crate) fn allowed(self) -> Allowed {
        use Flaw::{Broken, Refused, Unknown};
        use Kind::{Detached, Get, Post};
        Allowed::all(match (self.target, self.how) {
            // Connections die with their gateway: what was on them may have run, and only a GET is sent again.
            (Target::Gateway, How::Kill) => &[(Post, Broken), (Detached, Broken)],
            // It wakes without its link to the broker: what was published has an unknown end, what comes next is refused.
            (Target::Gateway, How::Stop) => {
                &[(Get, Refused), (Post, Refused), (Post, Unknown), (Detached, Refused)]
            }
            // A call that may have begun and must not run twice can only be given up.
            (Target::Runner | Target::Host, _) => &[(Post, Unknown)],
            // Nothing can be sent meanwhile, and what had been sent is unknown; a GET is sent again.
            (Target::Broker, _) => &[(Get, Refused), (Post, Refused), (Post, Unknown), (Detached, Refused)],
            // None of these is on the way of a call.
            (Target::Operator | Target::ApiServer | Target::Ledger | Target::Database, _) => &[],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_of_runners_and_hosts_excuse_no_idempotent_call() {
        for target in [Target::Runner, Target::Host] {
            for how in [How::Kill, How::Stop] {
                let allowed = Fault { target, how }.allowed();
                for flaw in [Flaw::Refused, Flaw::Unknown, Flaw::Broken, Flaw::Silent, Flaw::Wrong] {
                    assert!(!allowed.explains(Kind::Get, flaw), "{target:?} {how:?} {flaw:?}");
                    assert!(!allowed.explains(Kind::Detached, flaw), "{target:?} {how:?} {flaw:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_explains_a_wrong_answer_or_a_call_that_hangs() {
        for target in Target::EVERYWHERE {
            for how in [How::Kill, How::Stop] {
                let allowed = Fault { target, how }.allowed();
                for kind in [Kind::Get, Kind::Post, Kind::Detached] {
                    assert!(!allowed.explains(kind, Flaw::Wrong) && !allowed.explains(kind, Flaw::Silent));
                }
            }
        }
    }

    #[test]
    fn several_faults_explain_what_each_does() {
        let runner = Fault { target: Target::Runner, how: How::Kill };
        let broker = Fault { target: Target::Broker, how: How::Kill };
        let both = runner.allowed().or(broker.allowed());
        assert!(both.explains(Kind::Post, Flaw::Unknown) && both.explains(Kind::Get, Flaw::Refused));
        assert!(!runner.allowed().explains(Kind::Get, Flaw::Refused));
    }
}
