//! Which revision of each Fn serves, which is to, and which is on its way out. Pure: told what is planned and what
//! runners report, with the time; says what to publish and what the gateway shall know.
//!
//! A revision enters the table once a runner has loaded it; until then, and for ever if it fails, the last good one
//! serves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use funcatron_broker::message::{Report, ReportEvent};
use funcatron_broker::names::AppNames;
use funcatron_crds::RevisionName;
use funcatron_routing::app_table::{AppTable, FnEntry, HttpTriggerEntry, RevisionEntry};

use super::manifests::Key;
use super::plan::{Broken, Plan};

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
    body_bytes_max: u64,
    triggers: Vec<HttpTriggerEntry>,
    fns: BTreeMap<String, FnState>,
}

#[derive(Default)]
struct FnState {
    timeout_ms: u64,
    serving: Option<RevisionEntry>,
    wanted: Option<Wanted>,
}

struct Wanted {
    revision: RevisionEntry,
    wake_at: Instant,
    interval: Duration,
}

/// A revision that is out of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retiring {
    pub(crate) names: AppNames,
    pub(crate) revision: RevisionName,
    since: Instant,
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
        let gone: Vec<Key> = self.apps.keys().filter(|key| !plan.apps.contains_key(key)).cloned().collect();
        for key in gone {
            let Some(app) = self.apps.remove(&key) else { continue };
            for (_, function) in app.fns {
                retire(&mut self.retiring, &app.names, function, now);
            }
        }
        for (key, planned) in &plan.apps {
            let app = self.apps.entry(key.clone()).or_insert_with(|| AppState {
                names: planned.names.clone(),
                body_bytes_max: planned.body_bytes_max,
                triggers: Vec::new(),
                fns: BTreeMap::new(),
            });
            app.body_bytes_max = planned.body_bytes_max;
            app.triggers.clone_from(&planned.triggers);
            let leaving: Vec<String> = app
                .fns
                .keys()
                .filter(|name| !planned.fns.contains_key(*name))
                .filter(|name| !plan.broken.contains(&Broken::Fn(Key::new(&key.namespace, name))))
                .cloned()
                .collect();
            for name in leaving {
                let Some(function) = app.fns.remove(&name) else { continue };
                retire(&mut self.retiring, &app.names, function, now);
            }
            for (name, planned) in &planned.fns {
                let function = app.fns.entry(name.clone()).or_default();
                function.timeout_ms = planned.timeout_ms;
                if let Some(revision) = function.want(&planned.revision, now) {
                    self.retiring.push(Retiring { names: app.names.clone(), revision, since: now });
                }
                self.retiring.retain(|old| old.revision != planned.revision.name || old.names != app.names);
            }
        }
    }

    /// Takes a runner's word; answers what people want to be told of it.
    pub(crate) fn on_report(&mut self, report: &Report, now: Instant) -> Option<Notice> {
        let app = self.apps.get_mut(&Key::new(&report.namespace, &report.app))?;
        let fn_key = Key::new(&report.namespace, &report.fn_name);
        let function = app.fns.get_mut(&report.fn_name)?;
        let wanted = function.wanted.as_mut().filter(|wanted| wanted.revision.name.as_str() == report.revision)?;
        match report.event {
            ReportEvent::Loaded => {
                let revision = function.wanted.take()?.revision;
                let name = revision.name.clone();
                if let Some(old) = function.serving.replace(revision).filter(|old| old.name != name) {
                    let retiring = Retiring { names: app.names.clone(), revision: old.name, since: now };
                    self.retiring.push(retiring);
                }
                Some(Notice::Serving { fn_key, revision: name })
            }
            ReportEvent::Failed | ReportEvent::KeyMissing => {
                let serving = function.serving.as_ref().map(|revision| revision.name.clone());
                // The same code fails the same way: only its folder, or what it calls, can mend it.
                wanted.interval = WAKE_INTERVAL_MAX;
                wanted.wake_at = now + WAKE_INTERVAL_MAX;
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
                let Some(wanted) = function.wanted.as_mut().filter(|wanted| wanted.wake_at <= now) else { continue };
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

    /// Everything whose queue must stand: what serves, what is to, and what still drains.
    pub(crate) fn revisions(&self) -> Vec<(AppNames, RevisionName)> {
        let live = self.apps.values().flat_map(|app| {
            let entries = app.fns.values().flat_map(|function| {
                let wanted = function.wanted.as_ref().map(|wanted| &wanted.revision);
                function.serving.iter().chain(wanted)
            });
            entries.map(|revision| (app.names.clone(), revision.name.clone()))
        });
        live.collect()
    }

    /// What the gateway shall know of each App.
    pub(crate) fn tables(&self) -> BTreeMap<Key, AppTable> {
        self.apps.iter().map(|(key, app)| (key.clone(), app.table(key))).collect()
    }

    /// The runtimes that each App's Fns need.
    pub(crate) fn runtimes(&self) -> BTreeSet<(Key, String)> {
        let mut runtimes = BTreeSet::new();
        for (key, app) in &self.apps {
            for function in app.fns.values() {
                let wanted = function.wanted.as_ref().map(|wanted| &wanted.revision);
                for revision in function.serving.iter().chain(wanted) {
                    runtimes.extend(revision.runtime.clone().map(|runtime| (key.clone(), runtime)));
                }
            }
        }
        runtimes
    }

    /// Whether every Fn either serves what is wanted or is known to fail.
    pub(crate) fn is_settled(&self) -> bool {
        self.apps.values().flat_map(|app| app.fns.values()).all(|function| {
            function.wanted.as_ref().is_none_or(|wanted| wanted.interval == WAKE_INTERVAL_MAX)
        })
    }

    /// A fresh host holds nothing: what served there is loaded again before the first call asks for it.
    pub(crate) fn reload(&mut self, app: &Key, runtime: &str, now: Instant) {
        let Some(app) = self.apps.get_mut(app) else { return };
        for function in app.fns.values_mut() {
            let Some(serving) = function.serving.clone().filter(|_| function.wanted.is_none()) else { continue };
            if serving.runtime.as_deref() == Some(runtime) {
                function.wanted =
                    Some(Wanted { revision: serving, wake_at: now, interval: WAKE_INTERVAL_MIN });
            }
        }
    }
}

fn retire(retiring: &mut Vec<Retiring>, names: &AppNames, function: FnState, now: Instant) {
    let wanted = function.wanted.map(|wanted| wanted.revision);
    for revision in function.serving.into_iter().chain(wanted) {
        retiring.push(Retiring { names: names.clone(), revision: revision.name, since: now });
    }
}

impl FnState {
    /// Wants a revision; answers the one that was wanted before and never served.
    fn want(&mut self, revision: &RevisionEntry, now: Instant) -> Option<RevisionName> {
        if self.wanted.as_ref().is_some_and(|wanted| wanted.revision == *revision) {
            return None;
        }
        let earlier = self.wanted.take().map(|wanted| wanted.revision.name);
        let serving = self.serving.as_ref();
        if serving != Some(revision) {
            self.wanted = Some(Wanted { revision: revision.clone(), wake_at: now, interval: WAKE_INTERVAL_MIN });
        }
        let serving = serving.map(|serving| &serving.name);
        earlier.filter(|earlier| *earlier != revision.name && Some(earlier) != serving)
    }
}

impl AppState {
    fn table(&self, key: &Key) -> AppTable {
        let mut table = AppTable::new(&key.namespace, &key.name, self.body_bytes_max);
        table.triggers.clone_from(&self.triggers);
        table.fns = self
            .fns
            .iter()
            .map(|(name, function)| {
                let entry = FnEntry { revision: function.serving.clone(), timeout_ms: function.timeout_ms };
                (name.clone(), entry)
            })
            .collect();
        table
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
