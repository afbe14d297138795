//! What the operator knows that neither the cluster nor the broker tells: what runners reported, how far retirements
//! have come, what Routes compiled to. All of it can be learnt again after a restart.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use funcatron_broker::message::FnEvent;
use funcatron_crds::RevisionName;
use funcatron_routing::{Conflict, RouteKey, RouteTable, conflicts};
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::app::ledger::Wish;
use crate::function::decide::{Load, Retirement};
use crate::keys::Name;
use crate::trigger::bridged::{Bridging, Heard, judge};

/// Reported revisions remembered for each Fn: its history and a few that reports may race ahead with.
const LOADS_MAX: usize = 16;

/// What is known of one Fn.
#[derive(Debug, Default)]
pub(crate) struct FnMemory {
    /// Its uid: a Fn made anew inherits nothing.
    pub(crate) uid: String,
    /// Its App.
    pub(crate) app: String,
    /// What was asked of runners, and answered, by revision.
    pub(crate) loads: BTreeMap<RevisionName, Load>,
    /// How far each retirement has come.
    pub(crate) retirements: BTreeMap<RevisionName, Retirement>,
    /// What serves, once this process has decided; absent: the status still tells.
    pub(crate) serving: Option<Option<RevisionName>>,
    /// Whether a durable queue was seen for it that no spec asks for.
    pub(crate) has_durable_queue: bool,
    /// The last look at that queue.
    pub(crate) durable_look: Option<DurableLook>,
    /// What the ledger was told of it.
    pub(crate) told: Option<FnEvent>,
}

impl FnMemory {
    /// The load of a revision; the map stays bounded however many a runner invents.
    pub(crate) fn load(&mut self, revision: &RevisionName) -> Option<&mut Load> {
        if !self.loads.contains_key(revision) && self.loads.len() >= LOADS_MAX {
            return None;
        }
        Some(self.loads.entry(revision.clone()).or_default())
    }
}

/// A Route as it was last compiled.
#[derive(Clone)]
pub(crate) struct Compiled {
    /// What it was compiled from.
    pub(crate) input: String,
    /// What came out, or, of a spec that cannot be compiled, what did last.
    pub(crate) table: Option<Arc<RouteTable>>,
    /// The table as it is written; absent: the input could not be compiled.
    pub(crate) object: Option<Arc<ConfigMap>>,
}

/// The last look at a durable queue and its dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DurableLook {
    /// Ready messages and dead letters.
    pub(crate) seen: (u32, i64),
    /// How long was waited for the next.
    pub(crate) wait: Duration,
}

/// Everything that is remembered.
#[derive(Default)]
pub(crate) struct Memory {
    fns: Mutex<HashMap<Name, FnMemory>>,
    durable_looks: Mutex<HashMap<Name, DurableLook>>,
    heard: Mutex<HashMap<Name, Heard>>,
    wishes: Mutex<HashMap<Name, Wish>>,
    suspect_bindings: Mutex<BTreeSet<(Name, String)>>,
    routes: Mutex<BTreeMap<Name, Compiled>>,
    apps: Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>,
}

impl Memory {
    /// Works on what is known of a Fn. Never held over an await.
    pub(crate) fn with_fn<T>(&self, name: &Name, work: impl FnOnce(&mut FnMemory) -> T) -> T {
        work(self.fns.lock().entry(name.clone()).or_default())
    }

    /// Works on what is known of a Fn, if anything is.
    pub(crate) fn with_known_fn<T>(&self, name: &Name, work: impl FnOnce(&mut FnMemory) -> T) -> Option<T> {
        self.fns.lock().get_mut(name).map(work)
    }

    /// Forgets a Fn.
    pub(crate) fn forget_fn(&self, name: &Name) -> Option<FnMemory> {
        self.fns.lock().remove(name)
    }

    /// The last look at a Trigger's queues; absent: it is new, or something about it changed.
    pub(crate) fn durable_look(&self, trigger: &Name) -> Option<DurableLook> {
        self.durable_looks.lock().get(trigger).copied()
    }

    /// Keeps a look.
    pub(crate) fn keep_durable_look(&self, trigger: &Name, look: DurableLook) {
        self.durable_looks.lock().insert(trigger.clone(), look);
    }

    /// The next look is as the first.
    pub(crate) fn forget_durable_look(&self, trigger: &Name) {
        self.durable_looks.lock().remove(trigger);
    }

    /// Keeps a bridge's word on a Trigger, whose caller knows that it stands; whether it is news.
    pub(crate) fn hear(&self, trigger: &Name, heard: Heard) -> bool {
        let told = (heard.configured.clone(), heard.word.clone());
        let before = self.heard.lock().insert(trigger.clone(), heard);
        before.is_none_or(|before| (before.configured, before.word) != told)
    }

    /// How a Trigger stands with its bridge. One of which nothing was heard is waited for from now on.
    pub(crate) fn bridging(&self, trigger: &Name, configured: &str, now: Instant) -> Bridging {
        let mut all = self.heard.lock();
        let awaited = || Heard { configured: configured.to_owned(), word: None, at: now };
        let heard = all.entry(trigger.clone()).or_insert_with(awaited);
        if heard.configured != configured {
            *heard = awaited();
        }
        judge(heard, configured, now)
    }

    /// While the broker is away nobody's silence means anything.
    pub(crate) fn excuse_bridge(&self, trigger: &Name, now: Instant) {
        if let Some(heard) = self.heard.lock().get_mut(trigger) {
            heard.at = now;
        }
    }

    /// The Trigger is gone.
    pub(crate) fn forget_bridge(&self, trigger: &Name) {
        self.heard.lock().remove(trigger);
    }

    /// What the ledger was told that an App wants.
    pub(crate) fn wish_told(&self, app: &Name) -> Option<Wish> {
        self.wishes.lock().get(app).copied()
    }

    /// The ledger was told.
    pub(crate) fn keep_wish(&self, app: &Name, wish: Wish) {
        self.wishes.lock().insert(app.clone(), wish);
    }

    /// The App is gone.
    pub(crate) fn forget_wish(&self, app: &Name) {
        self.wishes.lock().remove(app);
    }

    /// A Trigger of the Fn changed or went: its queue may have bindings that nobody wants.
    pub(crate) fn suspect_bindings(&self, namespace: &str, app: &str, fn_name: &str) {
        let suspect = (Name::new(namespace, fn_name), app.to_owned());
        self.suspect_bindings.lock().insert(suspect);
    }

    /// Whether the Fn's bindings are suspect, of which Apps; they are not any more.
    pub(crate) fn take_suspect_bindings(&self, function: &Name) -> Vec<String> {
        let mut suspects = self.suspect_bindings.lock();
        let apps = suspects.iter().filter(|(name, _)| name == function).map(|(_, app)| app.clone()).collect();
        suspects.retain(|(name, _)| name != function);
        apps
    }

    /// What a Route compiled to.
    pub(crate) fn compiled(&self, name: &Name) -> Option<Compiled> {
        self.routes.lock().get(name).cloned()
    }

    /// Keeps what a Route compiled to.
    pub(crate) fn keep_compiled(&self, name: &Name, compiled: Compiled) {
        self.routes.lock().insert(name.clone(), compiled);
    }

    /// Forgets a Route.
    pub(crate) fn forget_route(&self, name: &Name) {
        self.routes.lock().remove(name);
    }

    /// Every Route in conflict, with what it cannot have. Over all Routes of the installation.
    pub(crate) fn conflicts(&self) -> BTreeMap<RouteKey, Vec<Conflict>> {
        let routes = self.routes.lock();
        conflicts(routes.values().filter_map(|compiled| compiled.table.as_deref()))
    }

    /// One reconcile of an App's objects at a time: they share its table, its runners and its bundles.
    pub(crate) async fn app_turn(&self, app: Name) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(self.apps.lock().entry(app).or_default());
        turn.lock_owned().await
    }

    /// Drops the turns that nobody holds or awaits.
    pub(crate) fn tidy(&self) {
        self.apps.lock().retain(|_, turn| Arc::strong_count(turn) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_revisions_do_not_grow_the_memory() {
        let mut memory = FnMemory::default();
        for i in 0..LOADS_MAX + 5 {
            let known = memory.load(&RevisionName::new("hello", &format!("{i:08x}")).unwrap()).is_some();
            assert_eq!(known, i < LOADS_MAX);
        }
        assert!(memory.load(&RevisionName::new("hello", "00000000").unwrap()).is_some());
    }
}
