//! Conditions: their types, their reasons, and how one is set. Never reads a clock: the caller brings the time.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Longest message that a condition may carry, in bytes, by Kubernetes' own schema.
pub const MESSAGE_BYTES_MAX: usize = 32_768;

/// What a condition speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// It does its work; the sum of the others.
    Ready,
    /// Its spec is valid and belongs where it stands.
    Accepted,
    /// All that it names exists.
    ResolvedRefs,
    /// Something answers for it.
    Available,
    /// A newer state is on its way.
    Progressing,
    /// Calls that nobody waits for are tried as its spec says; Ready does not stand on it.
    AsyncReady,
}

impl ConditionType {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Ready,
        Self::Accepted,
        Self::ResolvedRefs,
        Self::Available,
        Self::Progressing,
        Self::AsyncReady,
    ];

    /// The word in `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Available => "Available",
            Self::Progressing => "Progressing",
            Self::AsyncReady => "AsyncReady",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Kubernetes' three truths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be said.
    Unknown,
}

impl ConditionStatus {
    /// The word in `status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Why a condition is as it is: the word in `reason`, which users and scripts may rely on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name),+
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The word in `reason`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name)),+
                }
            }
        }
    };
}

reasons! {
    /// It does its work.
    Ready,
    /// Its spec is valid.
    Accepted,
    /// All that it names exists.
    ResolvedRefs,
    /// Something answers for it.
    Available,
    /// The newest state is the one that serves.
    UpToDate,
    /// A dedicated Fn of no replicas: as its user wishes.
    ScaledToZero,
    /// Suspended: as its user wishes.
    Suspended,
    /// A schedule may not fire before an earlier call is over, and nobody knows whether it is.
    EarlierUnknown,
    /// Its bridge has not said yet how it stands with its queue.
    BridgeStarting,
    /// Its queue, on a broker of the user's own, cannot be taken from.
    QueueUnavailable,
    /// The operator has not got to it yet.
    Pending,
    /// A field's value cannot be honoured.
    Invalid,
    /// Its App does not exist in its namespace.
    AppNotFound,
    /// The Fn that it names does not exist in its App.
    FnNotFound,
    /// No such runtime.
    RuntimeNotFound,
    /// A ConfigMap that it names does not exist.
    ConfigMapNotFound,
    /// A Secret that it names does not exist.
    SecretNotFound,
    /// A key that it names is missing in its ConfigMap or Secret.
    KeyNotFound,
    /// Its code is larger than a bundle may be.
    SourceTooLarge,
    /// Its code cannot be packed, for example by a file's name.
    SourceInvalid,
    /// The OpenAPI document cannot be read or served.
    OpenApiInvalid,
    /// An operation that no Fn answers.
    OperationWithoutFn,
    /// An older object owns what it claims.
    Conflict,
    /// The namespace's name is one of the gateway's own paths.
    NamespaceReserved,
    /// A runner is loading the newest revision.
    Loading,
    /// The newest revision failed to load.
    LoadFailed,
    /// Its pods are on their way.
    PodsPending,
    /// Its pods fail.
    PodsFailing,
    /// The broker does not answer.
    BrokerUnavailable,
    /// The broker refused what its App needs.
    BrokerRefused,
    /// The broker is of a version that lacks what its calls need.
    BrokerTooOld,
    /// The cluster refused what it needs, for example by a quota.
    ApplyFailed,
    /// Something it stands on is not Ready.
    DependencyNotReady,
    /// It is being deleted.
    Deleting,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Sets one condition and keeps the list in the order of `ConditionType`; `lastTransitionTime` moves only when the
/// status does (the Kubernetes API conventions), so that an unchanged object stays unchanged.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: ConditionType,
    status: impl Into<ConditionStatus>,
    reason: Reason,
    message: impl Into<String>,
    generation: Option<i64>,
    now: &Time,
) {
    let status = status.into().as_str();
    let since = conditions
        .iter()
        .find(|c| c.type_ == kind.as_str() && c.status == status)
        .map_or_else(|| now.clone(), |c| c.last_transition_time.clone());
    conditions.retain(|c| c.type_ != kind.as_str());
    conditions.push(Condition {
        last_transition_time: since,
        message: truncated(message.into()),
        observed_generation: generation,
        reason: reason.as_str().to_owned(),
        status: status.to_owned(),
        type_: kind.as_str().to_owned(),
    });
    conditions.sort_by_key(order);
}

/// Takes a condition away that no longer applies.
pub fn remove_condition(conditions: &mut Vec<Condition>, kind: ConditionType) {
    conditions.retain(|c| c.type_ != kind.as_str());
}

/// The condition of that type.
pub fn find_condition(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == kind.as_str())
}

/// Whether the condition of that type holds.
pub fn is_true(conditions: &[Condition], kind: ConditionType) -> bool {
    find_condition(conditions, kind).is_some_and(|c| c.status == ConditionStatus::True.as_str())
}

/// Foreign types go last, as they were.
fn order(condition: &Condition) -> usize {
    let known = ConditionType::ALL.iter().position(|kind| kind.as_str() == condition.type_);
    known.unwrap_or(ConditionType::ALL.len())
}

fn truncated(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX - '…'.len_utf8()).rev().find(|&i| message.is_char_boundary(i));
        message.truncate(end.unwrap_or(0));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    fn set(list: &mut Vec<Condition>, kind: ConditionType, holds: bool, message: &str, second: i64) {
        set_condition(list, kind, holds, Reason::Pending, message, Some(1), &at(second));
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut list = vec![];
        set(&mut list, ConditionType::Ready, false, "first", 100);
        set(&mut list, ConditionType::Ready, false, "second", 200);
        assert_eq!((list[0].message.as_str(), &list[0].last_transition_time), ("second", &at(100)));
        set(&mut list, ConditionType::Ready, true, "third", 300);
        assert_eq!(list[0].last_transition_time, at(300));
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn same_input_gives_the_same_list_at_any_time() {
        let mut list = vec![];
        set(&mut list, ConditionType::Accepted, true, "", 1);
        set(&mut list, ConditionType::Ready, true, "", 1);
        let before = list.clone();
        set(&mut list, ConditionType::Accepted, true, "", 9);
        set(&mut list, ConditionType::Ready, true, "", 9);
        assert_eq!(list, before);
    }

    #[test]
    fn order_does_not_depend_on_the_order_of_setting() {
        let mut list = vec![];
        for kind in ConditionType::ALL.into_iter().rev() {
            set(&mut list, kind, true, "", 1);
        }
        let types: Vec<_> = list.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(types, ConditionType::ALL.map(ConditionType::as_str));
    }

    #[test]
    fn each_type_is_found_set_and_removed_on_its_own() {
        let mut list = vec![];
        set(&mut list, ConditionType::Ready, true, "", 1);
        set(&mut list, ConditionType::Available, false, "", 1);
        assert!(is_true(&list, ConditionType::Ready));
        assert!(!is_true(&list, ConditionType::Available));
        assert!(!is_true(&list, ConditionType::Accepted));
        remove_condition(&mut list, ConditionType::Ready);
        assert!(find_condition(&list, ConditionType::Ready).is_none());
        assert!(find_condition(&list, ConditionType::Available).is_some());
    }

    #[test]
    fn a_message_is_cut_at_a_character_within_kubernetes_limit() {
        let mut list = vec![];
        set(&mut list, ConditionType::Ready, true, &"ü".repeat(20_000), 1);
        assert!(list[0].message.len() <= MESSAGE_BYTES_MAX);
        assert!(list[0].message.ends_with("ü…"));
    }

    #[test]
    fn reasons_have_the_form_kubernetes_asks_for() {
        for reason in Reason::ALL {
            assert!(reason.as_str().bytes().all(|b| b.is_ascii_alphabetic()), "{reason}");
            assert!(reason.as_str().len() <= 64);
        }
    }
}
