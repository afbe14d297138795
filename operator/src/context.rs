//! What every reconcile is handed: clients, caches, memory. Decides nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::message::EncodeError;
use funcatron_broker::names::{AppNames, NameError};
use funcatron_crds::{App, Function, Reason, Route, Trigger};
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::PartialObjectMeta;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource, ResourceExt};
use tracing::warn;

use crate::apply::ApplyError;
use crate::broker::{Broker, BrokerError};
use crate::cache::Cache;
use crate::config::OperatorConfig;
use crate::keys::{Kind, Name};
use crate::ledger::Ledger;
use crate::management::{Management, ManagementError};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::policies::Keeper;
use crate::queue::WorkQueue;

/// An Event's note, by the Kubernetes API.
const NOTE_BYTES_MAX: usize = 1000;
/// A read that has not come back by then is tried again.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// What the API server last said, kind by kind.
#[derive(Default)]
pub(crate) struct Caches {
    /// All Apps.
    pub(crate) apps: Cache<App>,
    /// All Fns.
    pub(crate) fns: Cache<Function>,
    /// All Routes.
    pub(crate) routes: Cache<Route>,
    /// All Triggers.
    pub(crate) triggers: Cache<Trigger>,
    /// Deployments of ours.
    pub(crate) deployments: Cache<Deployment>,
    /// Revisions of ours.
    pub(crate) revisions: Cache<ControllerRevision>,
    /// NetworkPolicies of ours, less their specs.
    pub(crate) policies: Cache<PartialObjectMeta<NetworkPolicy>>,
    /// Tables and bundles of ours, less their contents.
    pub(crate) tables: Cache<PartialObjectMeta<ConfigMap>>,
    /// Everyone's ConfigMaps, less their contents.
    pub(crate) config_maps: Cache<PartialObjectMeta<ConfigMap>>,
}

impl Caches {
    /// Waits until each has listed everything once.
    pub(crate) async fn synced(&self) {
        self.apps.synced().await;
        self.fns.synced().await;
        self.routes.synced().await;
        self.triggers.synced().await;
        self.deployments.synced().await;
        self.revisions.synced().await;
        self.policies.synced().await;
        self.tables.synced().await;
        self.config_maps.synced().await;
    }

    /// The App, unless it is missing or going.
    pub(crate) fn living_app(&self, namespace: &str, app: &str) -> Option<Arc<App>> {
        self.apps.get(namespace, app).filter(|app| app.metadata.deletion_timestamp.is_none())
    }

    /// The Fns of an App that are not going.
    pub(crate) fn fns_of(&self, namespace: &str, app: &str) -> Vec<Arc<Function>> {
        let of_app = |function: &Arc<Function>| {
            function.spec.app == app && function.metadata.deletion_timestamp.is_none()
        };
        self.fns.in_namespace(namespace).into_iter().filter(of_app).collect()
    }

    /// The Triggers of an App.
    pub(crate) fn triggers_of(&self, namespace: &str, app: &str) -> Vec<Arc<Trigger>> {
        let of_app =
            |trigger: &Arc<Trigger>| trigger.spec.app == app && trigger.metadata.deletion_timestamp.is_none();
        self.triggers.in_namespace(namespace).into_iter().filter(of_app).collect()
    }

    /// Whether messages of a queue or a schedule start the Fn.
    pub(crate) fn has_durable_trigger(&self, namespace: &str, app: &str, fn_name: &str) -> bool {
        self.triggers_of(namespace, app)
            .iter()
            .any(|trigger| trigger.spec.fn_name == fn_name && trigger.spec.is_durable())
    }
}

/// Why a reconcile stopped before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A read failed.
    #[error("cannot read {what}")]
    Read {
        /// What was to be read.
        what: String,
        /// The API server's words.
        #[source]
        source: Box<kube::Error>,
    },
    /// The broker's link failed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The broker's management API failed.
    #[error(transparent)]
    Management(#[from] ManagementError),
    /// Somebody else's object has the name that ours needs.
    #[error("{kind} {name} stands already and is not ours; rename the Fn or that object")]
    NameTaken {
        /// The object's kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A call that no message can carry.
    #[error("a call cannot be sent")]
    Message(#[source] EncodeError),
    /// A name that the CRD's rules should have refused.
    #[error("a name does not fit the broker")]
    Name(#[from] NameError),
}

impl ReconcileError {
    /// What the user or an administrator can mend, in words for a status; anything else is tried again in silence.
    pub(crate) fn obstacle(&self) -> Option<(Reason, String)> {
        match self {
            Self::Apply(error) => error.refusal().map(|words| (Reason::ApplyFailed, words)),
            Self::NameTaken { .. } | Self::Name(_) | Self::Message(_) => {
                Some((Reason::ApplyFailed, self.to_string()))
            }
            Self::Broker(error) if error.is_down() => {
                Some((Reason::BrokerUnavailable, "the broker does not answer; trying on".to_owned()))
            }
            Self::Broker(error) => error.refusal().map(|words| (Reason::BrokerRefused, words)),
            Self::Management(error) if error.is_refusal() => Some((Reason::BrokerRefused, error.to_string())),
            Self::Management(error) => Some((Reason::BrokerUnavailable, format!("{error}; trying on"))),
            Self::Read { .. } => None,
        }
    }
}

/// All that a reconcile works with.
pub(crate) struct Context {
    /// What the operator was told.
    pub(crate) config: OperatorConfig,
    /// The API server.
    pub(crate) client: Client,
    /// What it last said.
    pub(crate) caches: Caches,
    /// What is to be reconciled.
    pub(crate) queue: WorkQueue,
    /// What only this process knows.
    pub(crate) memory: Memory,
    /// The link to the broker.
    pub(crate) broker: Broker,
    /// The broker's users and names.
    pub(crate) management: Management,
    /// The broker's policies, as far as they are known.
    pub(crate) policies: Keeper,
    /// What became of calls, where there is a ledger.
    pub(crate) ledger: Option<Ledger>,
    /// Events for people.
    pub(crate) recorder: Recorder,
    /// Numbers for operators.
    pub(crate) metrics: Metrics,
}

impl Context {
    /// The broker names of an App.
    pub(crate) fn names(&self, namespace: &str, app: &str) -> Result<AppNames, NameError> {
        AppNames::new(&self.config.installation, namespace, app)
    }

    /// Whether the Fn has a durable queue: since a Trigger or its spec asks for one, or a gateway has made one.
    pub(crate) fn is_durable(&self, namespace: &str, app: &str, fn_name: &str) -> bool {
        let asked = || {
            let function = self.caches.fns.get(namespace, fn_name);
            function.is_some_and(|function| function.spec.image.is_some() || function.spec.detached.is_some())
        };
        let seen = || {
            let name = Name::new(namespace, fn_name);
            let known =
                self.memory.with_known_fn(&name, |memory| memory.app == app && memory.has_durable_queue);
            known.unwrap_or(false)
        };
        self.caches.has_durable_trigger(namespace, app, fn_name) || asked() || seen()
    }

    /// A durable queue was seen. Whether that is news.
    pub(crate) fn saw_durable_queue(&self, function: &Name, app: &str) -> bool {
        self.memory.with_fn(function, |memory| {
            if memory.app.is_empty() {
                app.clone_into(&mut memory.app);
            }
            memory.app == app && !std::mem::replace(&mut memory.has_durable_queue, true)
        })
    }

    /// The runtimes that Fns may name.
    pub(crate) fn runtimes(&self) -> BTreeSet<String> {
        self.config.host_images.keys().cloned().collect()
    }

    /// Tells people that an object's readiness changed. An Event lost is no reason to fail.
    pub(crate) async fn tell<K>(&self, kind: Kind, object: &K, readiness: (&str, &str, &str))
    where
        K: Resource<DynamicType = ()> + ResourceExt,
    {
        let (status, reason, message) = readiness;
        let event = Event {
            type_: if status == "True" { EventType::Normal } else { EventType::Warning },
            reason: reason.to_owned(),
            note: Some(head(message, NOTE_BYTES_MAX).to_owned()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await
            && !crate::apply::is_leaving(&error)
        {
            warn!(kind = kind.as_str(), name = object.name_any(), %error, "cannot publish an event");
        }
    }
}

/// The time for a status; everything pure gets it as an argument.
pub(crate) fn now() -> Time {
    Time(jiff::Timestamp::now())
}

/// The start of a text, whole characters.
fn head(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_at_a_character() {
        assert_eq!(head("aé", 2), "a");
        assert_eq!(head("short", NOTE_BYTES_MAX), "short");
    }
}
