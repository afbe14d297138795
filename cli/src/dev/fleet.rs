//! Which revision of each Fn serves, which is to, and which is on its way out. Pure: told what is planned and what
//! runners report, with the time; says what to publish and what the gateway shall know.
//!
//! A revision enters the table once a runner has loaded it; until then, and for ever if it fails, the last good one
//! serves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use funcatron_broker::message::{Report, ReportEvent};
use funcatron_broker::names::AppNames;
use funcatron_crds::{Digest, RevisionName};
use funcatron_routing::app_table::{
    AppBounds, AppTable, AsyncPolicy, FnEntry, HttpTriggerEntry, RevisionEntry,
};

use super::manifests::Key;
use super::plan::{AppPlan, Broken, Plan};

/// A wake that nobody answered is repeated after this, doubled each time …
pub(crate) const WAKE_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const WAKE_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// A retired revision's queue goes once it has been out of the tables for this long: calls that were on their way
/// then have arrived.
const RETIRE_AFTER: Duration = Duration::from_secs(2);

/// All Apps and their Fns.
#[derive(Default)]
pub(crate) struct Fleet {
    apps: BTreeMap<Key, AppState>,
    retiring: Vec<Retiring>,
}

struct AppState {
    names: AppNames,
    bounds: AppBounds,
    triggers: Vec<HttpTriggerEntry>,
    fns: BTreeMap<String, FnState>,
}

#[derive(Default)]
struct FnState {
    timeout_ms: u64,
    detached: AsyncPolicy,
    serving: Option<RevisionEntry>,
    wanted: Option<Wanted>,
}

struct Wanted {
    revision: RevisionEntry,
    wake_at: Instant,
    interval: Duration,
    /// People know that it cannot be loaded.
    failed: bool,
}

/// A revision that is out of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retiring {
    pub(crate) names: AppNames,
    pub(crate) revision: RevisionName,
    app: Key,
    runtime: Option<String>,
    since: Instant,
}

impl Retiring {
    fn of(app: &Key, names: &AppNames, revision: RevisionEntry, since: Instant) -> Self {
        let RevisionEntry { name: revision, runtime, .. } = revision;
        Self { names: names.clone(), revision, app: app.clone(), runtime, since }
    }
}

/// A `load` wake to send.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WakeOrder {
    pub(crate) app: Key,
    pub(crate) names: AppNames,
    pub(crate) fn_name: String,
    pub(crate) revision: RevisionEntry,
    /// How long it is worth anything: until the next.
    pub(crate) lives_for: Duration,
}

/// What people want to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A revision serves now.
    Serving { fn_key: Key, revision: RevisionName },
    /// A revision could not be loaded; `serving` goes on, if there is one.
    Failed { fn_key: Key, reason: String, log: String, serving: Option<RevisionName> },
}

impl Fleet {
    /// Takes a new plan; Fns whose manifests are broken stay as they are.
    pub(crate) fn adopt(&mut self, plan: &Plan, now: Instant) {
        for (key, app) in self.apps.extract_if(.., |key, _| !plan.apps.contains_key(key)) {
            for (_, function) in app.fns {
                retire(&mut self.retiring, &key, &app.names, function, now);
            }
        }
        for (key, planned) in &plan.apps {
            self.adopt_app(key, planned, &plan.broken, now);
        }
    }

    fn adopt_app(&mut self, key: &Key, planned: &AppPlan, broken: &BTreeSet<Broken>, now: Instant) {
        let app = self.apps.entry(key.clone()).or_insert_with(|| AppState::of(planned));
        app.bounds = planned.bounds;
        app.triggers.clone_from(&planned.triggers);
        let leaves = |name: &String| {
            let stays = broken.contains(&Broken::Fn(Key::new(&key.namespace, name)));
            !stays && !planned.fns.contains_key(name)
        };
        for (_, function) in app.fns.extract_if(.., |name, _| leaves(name)) {
            retire(&mut self.retiring, key, &app.names, function, now);
        }
        for (name, planned) in &planned.fns {
            let function = app.fns.entry(name.clone()).or_default();
            (function.timeout_ms, function.detached) = (planned.timeout_ms, planned.detached);
            if let Some(revision) = function.want(&planned.revision, now) {
                self.retiring.push(Retiring::of(key, &app.names, revision, now));
            }
            self.retiring.retain(|old| old.revision != planned.revision.name || old.names != app.names);
        }
    }

    /// Takes a runner's word; answers what people want to be told of it.
    pub(crate) fn on_report(&mut self, report: &Report, now: Instant) -> Option<Notice> {
        let app_key = Key::new(&report.namespace, &report.app);
        let app = self.apps.get_mut(&app_key)?;
        let fn_key = Key::new(&report.namespace, &report.fn_name);
        let function = app.fns.get_mut(&report.fn_name)?;
        let wanted =
            function.wanted.as_mut().filter(|wanted| wanted.revision.name.as_str() == report.revision)?;
        match report.event {
            ReportEvent::Loaded => {
                let revision = function.wanted.take()?.revision;
                let name = revision.name.clone();
                if let Some(old) = function.serving.replace(revision).filter(|old| old.name != name) {
                    self.retiring.push(Retiring::of(&app_key, &app.names, old, now));
                }
                Some(Notice::Serving { fn_key, revision: name })
            }
            ReportEvent::Failed | ReportEvent::KeyMissing => {
                let serving = function.serving.as_ref().map(|revision| revision.name.clone());
                // The same code fails the same way: only its folder, or what it calls, can mend it.
                wanted.interval = WAKE_INTERVAL_MAX;
                wanted.wake_at = now + WAKE_INTERVAL_MAX;
                if std::mem::replace(&mut wanted.failed, true) {
                    return None;
                }
                let (reason, log) = (report.reason.clone(), report.log.clone());
                Some(Notice::Failed {
                    fn_key,
                    reason: reason.unwrap_or_default(),
                    log: log.unwrap_or_default(),
                    serving,
                })
            }
            ReportEvent::Unloaded | ReportEvent::Stuck => None,
        }
    }

    /// The wakes to send now; each is due again later, until a report comes.
    pub(crate) fn wakes_due(&mut self, now: Instant) -> Vec<WakeOrder> {
        let mut due = Vec::new();
        for (key, app) in &mut self.apps {
            for (name, function) in &mut app.fns {
                let Some(wanted) = function.wanted.as_mut().filter(|wanted| wanted.wake_at <= now) else {
                    continue;
                };
                due.push(WakeOrder {
                    app: key.clone(),
                    names: app.names.clone(),
                    fn_name: name.clone(),
                    revision: wanted.revision.clone(),
                    lives_for: wanted.interval,
                });
                wanted.wake_at = now + wanted.interval;
                wanted.interval = (wanted.interval * 2).min(WAKE_INTERVAL_MAX);
            }
        }
        due
    }

    /// Revisions whose queues may go; each stays listed until `retired` says that it went.
    pub(crate) fn retirable(&self, now: Instant) -> Vec<Retiring> {
        self.retiring.iter().filter(|old| now.duration_since(old.since) >= RETIRE_AFTER).cloned().collect()
    }

    /// A queue is gone.
    pub(crate) fn retired(&mut self, gone: &Retiring) {
        self.retiring.retain(|old| old != gone);
    }

    /// Everything whose queue must stand: what serves, and what is to.
    pub(crate) fn revisions(&self) -> Vec<(AppNames, RevisionName)> {
        let of = |app| AppState::revisions(app).map(|revision| (app.names.clone(), revision.name.clone()));
        self.apps.values().flat_map(of).collect()
    }

    /// What the gateway shall know of each App.
    pub(crate) fn tables(&self) -> BTreeMap<Key, AppTable> {
        self.apps.iter().map(|(key, app)| (key.clone(), app.table(key))).collect()
    }

    /// The runtimes that each App's Fns need.
    pub(crate) fn runtimes(&self) -> BTreeSet<(Key, String)> {
        let mut runtimes = BTreeSet::new();
        for (key, app) in &self.apps {
            let named = app.revisions().filter_map(|revision| revision.runtime.clone());
            runtimes.extend(named.map(|runtime| (key.clone(), runtime)));
        }
        runtimes
    }

    /// The runtimes that must run on: those that Fns need, and those whose last calls are still under way.
    pub(crate) fn runtimes_in_use(&self) -> BTreeSet<(Key, String)> {
        let retiring = self.retiring.iter();
        let leaving = retiring.filter_map(|old| Some((old.app.clone(), old.runtime.clone()?)));
        self.runtimes().into_iter().chain(leaving).collect()
    }

    /// The bundles that a host may ask for, by App.
    pub(crate) fn bundles<'a>(&'a self) -> BTreeMap<&'a Key, Vec<&'a Digest>> {
        let of = |app: &'a AppState| {
            app.revisions().flat_map(|revision| revision.code.iter().chain([&revision.run]))
        };
        self.apps.iter().map(|(key, app)| (key, of(app).collect())).collect()
    }

    /// Whether every Fn either serves what is wanted or is known to fail.
    pub(crate) fn is_settled(&self) -> bool {
        let mut fns = self.apps.values().flat_map(|app| app.fns.values());
        fns.all(|function| function.wanted.as_ref().is_none_or(|wanted| wanted.failed))
    }

    /// Whether a Fn has never served yet, and is about to.
    pub(crate) fn is_coming(&self, namespace: &str, fn_name: &str) -> bool {
        let apps = self.apps.iter().filter(|(key, _)| key.namespace == namespace);
        let mut fns = apps.filter_map(|(_, app)| app.fns.get(fn_name));
        fns.any(|function| {
            function.serving.is_none() && function.wanted.as_ref().is_some_and(|wanted| !wanted.failed)
        })
    }

    /// A runtime that is not to be had on this machine: its Fns do not load, which people know.
    pub(crate) fn unavailable(&mut self, app: &Key, runtime: &str) {
        let fns = self.apps.get_mut(app).into_iter().flat_map(|app| app.fns.values_mut());
        for wanted in fns.filter_map(|function| function.wanted.as_mut()) {
            wanted.failed |= wanted.revision.runtime.as_deref() == Some(runtime);
        }
    }

    /// A fresh host holds nothing: what served there is loaded again before the first call asks for it.
    pub(crate) fn reload(&mut self, app: &Key, runtime: &str, now: Instant) {
        let Some(app) = self.apps.get_mut(app) else { return };
        for function in app.fns.values_mut() {
            let Some(serving) = function.serving.clone().filter(|_| function.wanted.is_none()) else {
                continue;
            };
            if serving.runtime.as_deref() == Some(runtime) {
                function.wanted = Some(Wanted::now(serving, now));
            }
        }
    }
}

fn retire(retiring: &mut Vec<Retiring>, app: &Key, names: &AppNames, function: FnState, now: Instant) {
    let wanted = function.wanted.map(|wanted| wanted.revision);
    let revisions = function.serving.into_iter().chain(wanted);
    retiring.extend(revisions.map(|revision| Retiring::of(app, names, revision, now)));
}

impl Wanted {
    fn now(revision: RevisionEntry, now: Instant) -> Self {
        Self { revision, wake_at: now, interval: WAKE_INTERVAL_MIN, failed: false }
    }
}

impl FnState {
    /// Wants a revision; answers the one that was wanted before and never served.
    fn want(&mut self, revision: &RevisionEntry, now: Instant) -> Option<RevisionEntry> {
        if self.wanted.as_ref().is_some_and(|wanted| wanted.revision == *revision) {
            return None;
        }
        let earlier = self.wanted.take().map(|wanted| wanted.revision);
        let serving = self.serving.as_ref();
        if serving != Some(revision) {
            self.wanted = Some(Wanted::now(revision.clone(), now));
        }
        let serving = serving.map(|serving| &serving.name);
        earlier.filter(|earlier| earlier.name != revision.name && Some(&earlier.name) != serving)
    }
}

impl AppState {
    fn of(planned: &AppPlan) -> Self {
        Self {
            names: planned.names.clone(),
            bounds: planned.bounds,
            triggers: Vec::new(),
            fns: BTreeMap::new(),
        }
    }

    /// What serves, and what is to.
    fn revisions(&self) -> impl Iterator<Item = &RevisionEntry> {
        self.fns.values().flat_map(|function| {
            let wanted = function.wanted.as_ref().map(|wanted| &wanted.revision);
            function.serving.iter().chain(wanted)
        })
    }

    fn table(&self, key: &Key) -> AppTable {
        let mut table = AppTable::new(&key.namespace, &key.name, self.bounds);
        table.triggers.clone_from(&self.triggers);
        table.fns = self
            .fns
            .iter()
            .map(|(name, function)| {
                let FnState { serving, timeout_ms, detached, .. } = function;
                let entry =
                    FnEntry { revision: serving.clone(), timeout_ms: *timeout_ms, detached: *detached };
                (name.clone(), entry)
            })
            .collect();
        table
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
