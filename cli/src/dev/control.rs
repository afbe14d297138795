//! Makes what runs match the plan: declares topology, stores bundles, starts runners, sends wakes, takes reports and
//! swaps tables. The part that the operator plays on a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use funcatron_broker::link::{ConsumeOptions, Consumer, Deleted, Event, Link, LinkError, Target};
use funcatron_broker::message::{Report, Wake, WakeKind};
use funcatron_broker::names::{AppNames, BindingKey, Installation, NameError};
use funcatron_broker::topology;
use funcatron_crds::{Digest, SigningKey};
use funcatron_gateway::{MemoryBundles, TableStore};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::fleet::{Fleet, Notice, WakeOrder};
use super::manifests::Key;
use super::plan::{BindingPlan, Broken, Plan};
use super::runners::{Ensured, Runners};

/// How often due wakes and retired queues are looked for.
const TICK: Duration = Duration::from_millis(100);
/// Addresses of bundles are signed anew with each wake, so they need not live long.
const ADDRESS_LIFE: Duration = Duration::from_secs(600);
/// Reports that may be under way at once.
const REPORTS_PREFETCH: u16 = 64;

/// What people are shown.
pub(crate) enum Word {
    Notice(Notice),
    /// Something that stands in the way of Fns that are otherwise fine.
    Problem(String),
    /// Everything planned serves, or is known to fail.
    Settled,
}

/// Where the gateway's tables and bundles are put.
pub(crate) struct Gateway {
    pub(crate) tables: Arc<TableStore>,
    pub(crate) bundles: Arc<MemoryBundles>,
    pub(crate) signing_key: SigningKey,
    pub(crate) internal_base: String,
}

/// Everything that outlives a broker link.
pub(crate) struct Control {
    installation: Installation,
    gateway: Gateway,
    runners: Runners,
    fleet: Fleet,
    plan: Plan,
    plans: mpsc::Receiver<Plan>,
    words: mpsc::UnboundedSender<Word>,
    settled: bool,
    routes: BTreeSet<Key>,
    apps: BTreeSet<Key>,
    bindings: BTreeMap<Key, BTreeSet<BindingPlan>>,
}

/// Why the broker does not hold what it should.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Control {
    pub(crate) fn new(
        installation: Installation,
        gateway: Gateway,
        runners: Runners,
        plans: mpsc::Receiver<Plan>,
        words: mpsc::UnboundedSender<Word>,
    ) -> Self {
        Self {
            installation,
            gateway,
            runners,
            fleet: Fleet::default(),
            plan: Plan::default(),
            plans,
            words,
            settled: false,
            routes: BTreeSet::new(),
            apps: BTreeSet::new(),
            bindings: BTreeMap::new(),
        }
    }

    /// One broker link's life.
    pub(crate) async fn session(&mut self, link: Arc<dyn Link>, shutdown: &CancellationToken) {
        let link = link.as_ref();
        let mut reports = match self.begin(link).await {
            Ok(reports) => reports,
            Err(error) => return self.say(Word::Problem(format!("the broker does not take our topology: {error}"))),
        };
        let mut ticks = tokio::time::interval(TICK);
        loop {
            let done = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(plan) = self.plans.recv() => self.adopt(link, plan).await,
                Some(event) = reports.next() => self.on_report(event).await,
                _ = ticks.tick() => self.tick(link).await,
            };
            if let Err(error) = done {
                warn!(%error, "broker refused");
            }
        }
    }

    /// Lets running calls finish and ends the runners.
    pub(crate) async fn drain(self) {
        self.runners.drain().await;
    }

    async fn begin(&mut self, link: &dyn Link) -> Result<Consumer, ControlError> {
        link.declare(&topology::installation(&self.installation)).await?;
        self.declare(link).await?;
        let options = ConsumeOptions { prefetch: REPORTS_PREFETCH, exclusive: true, no_ack: false };
        Ok(link.consume(&self.installation.reports_queue(), options).await?)
    }

    async fn adopt(&mut self, link: &dyn Link, plan: Plan) -> Result<(), ControlError> {
        let now = Instant::now();
        self.fleet.adopt(&plan, now);
        self.plan = plan;
        self.settled = false;
        self.store_bundles();
        self.declare(link).await?;
        self.drop_bindings(link).await?;
        self.start_runners(now);
        self.put_routes();
        self.put_apps();
        self.gateway.tables.mark_synced();
        self.tick(link).await
    }

    fn store_bundles(&self) {
        for (key, app) in &self.plan.apps {
            for bytes in app.fns.values().flat_map(|planned| &planned.bundles) {
                self.gateway.bundles.put(&key.namespace, &key.name, bytes.clone());
            }
        }
    }

    async fn declare(&self, link: &dyn Link) -> Result<(), ControlError> {
        for app in self.plan.apps.values() {
            link.declare(&topology::app(&app.names)).await?;
            for runtime in super::plan::RUNTIMES {
                link.declare(&topology::wake(&app.names, runtime)?).await?;
            }
            for binding in &app.bindings {
                let key = BindingKey::parse(&binding.key)?;
                link.declare(&topology::trigger(&app.names, &binding.fn_name, &binding.exchange, &key)?).await?;
            }
        }
        for (names, revision) in self.fleet.revisions() {
            link.declare(&topology::revision(&names, revision.as_str())?).await?;
        }
        Ok(())
    }

    async fn drop_bindings(&mut self, link: &dyn Link) -> Result<(), ControlError> {
        for (key, app) in &self.plan.apps {
            let old = self.bindings.insert(key.clone(), app.bindings.clone()).unwrap_or_default();
            for binding in old.difference(&app.bindings) {
                let exchange = app.names.event_exchange(&binding.exchange)?;
                link.unbind(&exchange, &app.names.durable_queue(&binding.fn_name)?, &binding.key).await?;
            }
        }
        Ok(())
    }

    fn start_runners(&mut self, now: Instant) {
        let wanted = self.fleet.runtimes();
        for (app, runtime) in &wanted {
            let Some(planned) = self.plan.apps.get(app) else { continue };
            match self.runners.ensure(app, runtime, &planned.config) {
                Ok(Ensured::Unchanged) => {}
                Ok(Ensured::Fresh) => self.fleet.reload(app, runtime, now),
                Err(error) => {
                    let fns = planned.fns.iter().filter(|(_, planned)| planned.revision.runtime.as_ref() == Some(runtime));
                    let names: Vec<&str> = fns.map(|(name, _)| name.as_str()).collect();
                    self.say(Word::Problem(format!("{error}. Until then these Fns do not serve: {}", names.join(", "))));
                }
            }
        }
        self.runners.retain(&wanted);
    }

    fn put_routes(&mut self) {
        for key in std::mem::take(&mut self.routes) {
            if self.plan.routes.contains_key(&key) {
                continue;
            }
            if self.plan.broken.contains(&Broken::Route(key.clone())) {
                self.routes.insert(key);
            } else {
                self.put(|tables| tables.put_route(&key.namespace, &key.name, None));
            }
        }
        for (key, table) in &self.plan.routes {
            self.put(|tables| tables.put_route(&key.namespace, &key.name, Some(table.clone())));
            self.routes.insert(key.clone());
        }
    }

    fn put_apps(&mut self) {
        let tables = self.fleet.tables();
        for key in self.apps.iter().filter(|key| !tables.contains_key(key)) {
            self.put(|store| store.put_app(&key.namespace, &key.name, None));
        }
        self.apps = tables.keys().cloned().collect();
        for (key, table) in tables {
            self.put(|store| store.put_app(&key.namespace, &key.name, Some(table)));
        }
    }

    fn put<E: std::fmt::Display>(&self, act: impl FnOnce(&TableStore) -> Result<(), E>) {
        if let Err(error) = act(&self.gateway.tables) {
            self.say(Word::Problem(error.to_string()));
        }
    }

    async fn on_report(&mut self, event: Event) -> Result<(), ControlError> {
        let Event::Delivery(delivery) = event else { return Ok(()) };
        match Report::from_envelope(&delivery.envelope) {
            Ok(report) => {
                debug!(event = ?report.event, revision = %report.revision, "runner reported");
                if let Some(notice) = self.fleet.on_report(&report, Instant::now()) {
                    self.put_apps();
                    self.say(Word::Notice(notice));
                }
            }
            Err(error) => warn!(%error, "report cannot be read"),
        }
        delivery.ack().await?;
        Ok(())
    }

    async fn tick(&mut self, link: &dyn Link) -> Result<(), ControlError> {
        let now = Instant::now();
        for order in self.fleet.wakes_due(now) {
            self.wake(link, order).await?;
        }
        for old in self.fleet.retirable(now) {
            let queue = old.names.revision_queue(old.revision.as_str())?;
            if link.delete_queue(&queue, true).await? != Deleted::NotEmpty {
                self.fleet.retired(&old);
            }
        }
        if !self.settled && !self.plan.apps.is_empty() && self.fleet.is_settled() {
            self.settled = true;
            self.say(Word::Settled);
        }
        Ok(())
    }

    async fn wake(&self, link: &dyn Link, order: WakeOrder) -> Result<(), ControlError> {
        let WakeOrder { app, names, fn_name, revision, lives_for } = order;
        let Some(runtime) = &revision.runtime else { return Ok(()) };
        let expires_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + ADDRESS_LIFE;
        let url = |digest: &Digest| {
            let Gateway { signing_key, internal_base, .. } = &self.gateway;
            signing_key.bundle_url(internal_base, &app.namespace, &app.name, digest, expires_s.as_secs())
        };
        let wake = Wake {
            kind: WakeKind::Load,
            namespace: app.namespace.clone(),
            app: app.name.clone(),
            revision: revision.name.to_string(),
            run: revision.run.to_string(),
            run_url: url(&revision.run),
            code: revision.code.as_ref().map(Digest::to_string),
            code_url: revision.code.as_ref().map(url),
            queue: names.revision_queue(revision.name.as_str())?.to_string(),
            durable_queue: durable_queue(&names, &fn_name, revision.durable)?,
            fn_name,
        };
        let lives_ms = u64::try_from(lives_for.as_millis()).unwrap_or(u64::MAX);
        let envelope = match wake.into_envelope(lives_ms) {
            Ok(envelope) => envelope,
            Err(error) => {
                warn!(%error, "wake cannot be sent");
                return Ok(());
            }
        };
        Ok(link.publish(Target::queue(&names.wake_queue(runtime)?), envelope, false).await?)
    }

    fn say(&self, word: Word) {
        // Nobody listens only while the process ends.
        let _ = self.words.send(word);
    }
}

fn durable_queue(names: &AppNames, fn_name: &str, durable: bool) -> Result<Option<String>, NameError> {
    durable.then(|| names.durable_queue(fn_name).map(|queue| queue.to_string())).transpose()
}
