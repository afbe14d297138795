//! What shall run: manifests turned into tables, bundles and topology. Pure: looks at no file and starts nothing.
//! The same cores as on a cluster decide here: revisions, bundles, routing.

mod environment;
mod fns;
mod routes;
mod triggers;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use funcatron_broker::message::FnEvent;
use funcatron_broker::names::{AppNames, Installation};
use funcatron_broker::policy::Policy;
use funcatron_crds::ScheduleTrigger;
use funcatron_operator::schedule::Timetable;
use funcatron_routing::RouteTable;
use funcatron_routing::app_table::{AppBounds, AsyncPolicy, HttpTriggerEntry, RevisionEntry};

use super::manifests::{Key, Manifests, Problem};

pub(crate) use environment::ConfigFile;
pub(crate) use fns::RUNTIMES;

/// Everything that shall run, and what is wrong with the rest.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) apps: BTreeMap<Key, AppPlan>,
    pub(crate) routes: BTreeMap<Key, RouteTable>,
    pub(crate) problems: Vec<Problem>,
    /// What is not wrong, but does not run here.
    pub(crate) notes: Vec<String>,
    /// Objects whose manifest is broken: what serves of them goes on.
    pub(crate) broken: BTreeSet<Broken>,
}

impl Plan {
    /// The Fns of a runtime, of all Apps.
    pub(crate) fn fns_of(&self, runtime: &str) -> Vec<&str> {
        let fns = self.apps.values().flat_map(|app| &app.fns);
        fns.filter(|(_, planned)| planned.revision.runtime.as_deref() == Some(runtime))
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

/// An object that cannot be planned from what the folder says now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    Fn(Key),
    Route(Key),
    Trigger(Key),
}

/// One App.
pub(crate) struct AppPlan {
    pub(crate) names: AppNames,
    pub(crate) bounds: AppBounds,
    pub(crate) fns: BTreeMap<String, FnPlan>,
    pub(crate) triggers: Vec<HttpTriggerEntry>,
    pub(crate) bindings: BTreeSet<BindingPlan>,
    /// By the Trigger's name.
    pub(crate) schedules: BTreeMap<String, SchedulePlan>,
    /// Values of the Secrets and ConfigMaps that its Fns name.
    pub(crate) config: BTreeMap<ConfigFile, Vec<u8>>,
}

/// One Fn that can run.
pub(crate) struct FnPlan {
    pub(crate) revision: RevisionEntry,
    pub(crate) timeout_ms: u64,
    pub(crate) detached: AsyncPolicy,
    /// What its queues go by besides what goes for all.
    pub(crate) policies: Vec<Policy>,
    /// What the ledger is told of it, but for where it is invoked.
    pub(crate) word: FnEvent,
    /// Its run document and code.
    pub(crate) bundles: [Bytes; 2],
}

/// A queue Trigger's binding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BindingPlan {
    pub(crate) fn_name: String,
    pub(crate) exchange: String,
    pub(crate) key: String,
}

/// A schedule that can be kept.
pub(crate) struct SchedulePlan {
    pub(crate) fn_name: String,
    pub(crate) spec: ScheduleTrigger,
    pub(crate) suspended: bool,
    pub(crate) table: Timetable,
}

/// Decides what runs. `folders` holds the files of each `source.path`, by Fn.
pub(crate) fn compile(
    installation: &Installation,
    manifests: &Manifests,
    folders: &BTreeMap<Key, BTreeMap<String, Vec<u8>>>,
) -> Plan {
    let mut plan = Plan { problems: manifests.problems.clone(), ..Plan::default() };
    for (key, app) in &manifests.apps {
        match AppNames::new(installation, &key.namespace, &key.name) {
            Ok(names) => {
                let app_plan = AppPlan {
                    names,
                    bounds: AppBounds::of(&app.object.spec),
                    fns: BTreeMap::new(),
                    triggers: Vec::new(),
                    bindings: BTreeSet::new(),
                    schedules: BTreeMap::new(),
                    config: BTreeMap::new(),
                };
                plan.apps.insert(key.clone(), app_plan);
            }
            Err(error) => plan.problems.push(app.origin.problem("/metadata", error.to_string())),
        }
    }
    triggers::plan(&mut plan, manifests);
    fns::plan(&mut plan, manifests, folders);
    routes::plan(&mut plan, manifests);
    plan.problems.sort();
    plan.problems.dedup();
    plan
}

/// The App in the same namespace, or the words for its absence.
fn app_missing(app: &str) -> String {
    format!("App {app} is not in this folder; add it, or name one that is")
}

#[cfg(test)]
mod tests;
