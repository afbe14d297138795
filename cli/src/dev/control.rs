//! Makes what runs match the plan: declares topology, stores bundles, starts runners, sends wakes, takes reports and
//! swaps tables. The part that the operator plays on a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use funcatron_broker::link::{ConsumeOptions, Consumer, Event, Link, LinkError, Target};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Report, Wake, WakeKind};
use funcatron_broker::names::{AppNames, BindingKey, Installation, NameError};
use funcatron_broker::policy::Policy;
use funcatron_broker::topology;
use funcatron_crds::{Digest, SigningKey};
use funcatron_gateway::{MemoryBundles, TableStore};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::callbacks::Words;
use super::declared::Declared;
use super::fleet::{Fleet, Notice, WakeOrder};
use super::manifests::Key;
use super::plan::{AppPlan, BindingPlan, Broken, Plan, SchedulePlan};
use super::runners::{Ensured, Runners};
use super::schedules::{Fired, Schedules};

/// How often due wakes, due schedules and retired queues are looked for.
const TICK: Duration = Duration::from_millis(100);
/// Addresses of bundles are signed anew with each wake, so they need not live long.
const ADDRESS_LIFE: Duration = Duration::from_secs(600);
/// Reports that may be under way at once.
const REPORTS_PREFETCH: u16 = 64;

/// What people are shown.
pub(crate) enum Word {
    Notice(Notice),
    /// A schedule has called its Fn.
    Fired(Fired),
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
    /// The broker in this process, whose policies are ours to keep.
    local: Option<LocalBroker>,
    gateway: Gateway,
    runners: Runners,
    fleet: Fleet,
    schedules: Schedules,
    ledger: Words,
    plan: Plan,
    plans: mpsc::Receiver<Plan>,
    words: mpsc::Sender<Word>,
    declared: Declared,
    adopted: bool,
    settled: bool,
    /// Routes that are in the gateway's tables, and those whose tables of this plan are not there yet.
    routes: BTreeSet<Key>,
    waiting_routes: BTreeSet<Key>,
    apps: BTreeSet<Key>,
    bindings: BTreeMap<Key, (AppNames, BTreeSet<BindingPlan>)>,
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
        local: Option<LocalBroker>,
        gateway: Gateway,
        runners: Runners,
        plans: mpsc::Receiver<Plan>,
        words: mpsc::Sender<Word>,
    ) -> Self {
        Self {
            installation,
            local,
            gateway,
            runners,
            fleet: Fleet::default(),
            schedules: Schedules::default(),
            ledger: Words::default(),
            plan: Plan::default(),
            plans,
            words,
            declared: Declared::default(),
            adopted: false,
            settled: false,
            routes: BTreeSet::new(),
            waiting_routes: BTreeSet::new(),
            apps: BTreeSet::new(),
            bindings: BTreeMap::new(),
        }
    }

    /// One broker link's life.
    pub(crate) async fn session(&mut self, link: Arc<dyn Link>, shutdown: &CancellationToken) {
        let link = link.as_ref();
        let mut reports = match self.begin(link).await {
            Ok(reports) => reports,
            Err(error) => {
                return self.say(Word::Problem(format!("the broker does not take our topology: {error}")));
            }
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

    /// Lets running calls finish and ends the runners; what then stands on the broker is nobody's.
    pub(crate) async fn drain(self) -> Declared {
        self.runners.drain().await;
        self.declared
    }

    async fn begin(&mut self, link: &dyn Link) -> Result<Consumer, ControlError> {
        self.declared.declare(link, &topology::installation(&self.installation)).await?;
        self.declared.declare(link, &topology::ledger(&self.installation)).await?;
        if self.adopted {
            self.apply(link).await?;
        }
        let options = ConsumeOptions { prefetch: REPORTS_PREFETCH, exclusive: true, no_ack: false };
        Ok(link.consume(&self.installation.reports_queue(), options).await?)
    }

    async fn adopt(&mut self, link: &dyn Link, plan: Plan) -> Result<(), ControlError> {
        self.fleet.adopt(&plan, Instant::now());
        self.schedules.adopt(&plan, Timestamp::now());
        self.waiting_routes = plan.routes.keys().cloned().collect();
        self.plan = plan;
        self.adopted = true;
        self.settled = false;
        self.store_bundles();
        self.apply(link).await?;
        self.tick(link).await
    }

    /// Makes broker, runners and tables match the plan; again on each new link, since the last may have broken half-way.
    async fn apply(&mut self, link: &dyn Link) -> Result<(), ControlError> {
        self.set_policies();
        self.declare(link).await?;
        self.drop_bindings(link).await?;
        self.start_runners(Instant::now());
        self.put_tables();
        self.gateway.tables.mark_synced();
        let news = self.ledger.news(&self.plan, &self.gateway.internal_base);
        Ok(self.ledger.tell(link, &self.installation, news).await?)
    }

    fn store_bundles(&self) {
        for (key, app) in &self.plan.apps {
            for bytes in app.fns.values().flat_map(|planned| &planned.bundles) {
                self.gateway.bundles.put(&key.namespace, &key.name, bytes.clone());
            }
        }
        self.drop_bundles();
    }

    /// Forgets the bundles of revisions that are gone.
    fn drop_bundles(&self) {
        let wanted = self.fleet.bundles();
        for key in self.apps.iter().chain(wanted.keys().copied()) {
            let wanted = wanted.get(key);
            self.gateway.bundles.retain(&key.namespace, &key.name, |digest| {
                wanted.is_some_and(|wanted| wanted.contains(&digest))
            });
        }
    }

    fn set_policies(&self) {
        let Some(local) = &self.local else { return };
        let fns = self.plan.apps.values().flat_map(|app| app.fns.values());
        let own = fns.flat_map(|planned| planned.policies.iter().cloned());
        local.set_policies(std::iter::once(Policy::of_all(&self.installation)).chain(own).collect());
    }

    async fn declare(&mut self, link: &dyn Link) -> Result<(), ControlError> {
        let mut items = Vec::new();
        for AppPlan { names, bindings, schedules, .. } in self.plan.apps.values() {
            items.extend(topology::app(names));
            for runtime in super::plan::RUNTIMES {
                items.extend(topology::wake(names, runtime)?);
            }
            for SchedulePlan { fn_name, .. } in schedules.values() {
                items.extend(topology::durable(names, fn_name)?);
            }
            for BindingPlan { fn_name, exchange, key } in bindings {
                items.extend(topology::trigger(names, fn_name, exchange, &BindingKey::parse(key)?)?);
            }
        }
        for (names, revision) in self.fleet.revisions() {
            items.extend(topology::revision(&names, revision.as_str())?);
            items.extend(topology::durable(&names, revision.fn_name())?);
        }
        Ok(self.declared.declare(link, &items).await?)
    }

    async fn drop_bindings(&mut self, link: &dyn Link) -> Result<(), ControlError> {
        for (key, (names, bindings)) in &self.bindings {
            let planned = self.plan.apps.get(key).map(|app| &app.bindings);
            for binding in
                bindings.iter().filter(|binding| planned.is_none_or(|planned| !planned.contains(binding)))
            {
                let exchange = names.event_exchange(&binding.exchange)?;
                link.unbind(&exchange, &names.durable_queue(&binding.fn_name)?, &binding.key).await?;
            }
        }
        let of = |(key, app): (&Key, &AppPlan)| (key.clone(), (app.names.clone(), app.bindings.clone()));
        self.bindings = self.plan.apps.iter().map(of).collect();
        Ok(())
    }

    fn start_runners(&mut self, now: Instant) {
        let wanted = self.fleet.runtimes();
        for (app, runtime) in &wanted {
            let Some(planned) = self.plan.apps.get(app) else { continue };
            match self.runners.ensure(app, runtime, &planned.config) {
                Ok(Ensured::Unchanged) => {}
                Ok(Ensured::Fresh) => self.fleet.reload(app, runtime, now),
                Ok(Ensured::Missing) => self.fleet.unavailable(app, runtime),
                Err(error) => {
                    self.fleet.unavailable(app, runtime);
                    let fns = self.plan.fns_of(runtime).join(", ");
                    self.say(Word::Problem(format!("{error}. Until then these Fns do not serve: {fns}")));
                }
            }
        }
        self.runners.retain(&self.fleet.runtimes_in_use());
    }

    /// Shows the gateway what serves now. A Fn enters before the Routes that name it, and leaves after them.
    fn put_tables(&mut self) {
        self.drop_routes();
        self.put_apps();
        self.put_routes();
        self.drop_bundles();
    }

    fn drop_routes(&mut self) {
        let Plan { routes, broken, .. } = &self.plan;
        let stays = |key: &Key| routes.contains_key(key) || broken.contains(&Broken::Route(key.clone()));
        let leaving: Vec<Key> = self.routes.extract_if(.., |key| !stays(key)).collect();
        for key in leaving {
            self.put(|tables| tables.put_route(&key.namespace, &key.name, None));
        }
    }

    /// A Route that serves already waits for the Fns that it is to name from now on.
    fn put_routes(&mut self) {
        for key in std::mem::take(&mut self.waiting_routes) {
            let Some(table) = self.plan.routes.get(&key) else { continue };
            let mut targets = table.targets().into_iter();
            if self.routes.contains(&key)
                && targets.any(|target| self.fleet.is_coming(&key.namespace, target))
            {
                self.waiting_routes.insert(key);
                continue;
            }
            self.put(|tables| tables.put_route(&key.namespace, &key.name, Some(table.clone())));
            self.routes.insert(key);
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
                    self.put_tables();
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
            if self.declared.delete_drained(link, &queue).await? {
                self.fleet.retired(&old);
                self.runners.retain(&self.fleet.runtimes_in_use());
            }
        }
        let base = &self.gateway.internal_base;
        for fired in self.schedules.fire(link, &self.plan, base, Timestamp::now()).await {
            match fired {
                Ok(fired) => self.say(Word::Fired(fired)),
                Err(error) => warn!(%error, "cannot fire a schedule, trying again"),
            }
        }
        if self.adopted && !self.settled && self.fleet.is_settled() {
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
        // Nobody listens while the process ends, and a person who is thousands of lines behind reads them no more.
        let _ = self.words.try_send(word);
    }
}

fn durable_queue(names: &AppNames, fn_name: &str, durable: bool) -> Result<Option<String>, NameError> {
    durable.then(|| names.durable_queue(fn_name).map(|queue| queue.to_string())).transpose()
}
