//! The tables that requests are dispatched by: Routes and Apps, each replaced by itself while requests read on.
//! Never performs I/O and never waits: a reader sees the tables of before a swap or of after it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use funcatron_broker::names::{Installation, NameError};
use funcatron_routing::app_table::AppTable;
use funcatron_routing::{OwnHost, RouteKey, RouteTable, Tables};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;

use crate::apps::AppPart;

/// Why a table cannot serve; the one before it stays.
#[derive(Debug, Error)]
pub enum PutTableError {
    /// An App or Fn whose name cannot be a broker name.
    #[error("App {namespace}/{app} gives no broker names")]
    Names {
        /// The App's namespace.
        namespace: String,
        /// The App.
        app: String,
        /// What is wrong with them.
        source: NameError,
    },
    /// A table that says to be another's.
    #[error("the table of {said} was put as that of {put}")]
    Misplaced {
        /// What the table says.
        said: String,
        /// What the caller says.
        put: String,
    },
}

/// All tables. Readers are never held up; writers replace one part at a time.
#[derive(Debug)]
pub struct TableStore {
    installation: Installation,
    routes: ArcSwap<Routes>,
    apps: ArcSwap<HashMap<Box<str>, Arc<Namespace>>>,
    /// Writers take turns, so that none builds on what another is about to replace.
    write: Mutex<()>,
    own: OwnHost,
    synced: watch::Sender<bool>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Routes {
    tables: Tables,
    claimed: ClaimedHosts,
}

/// The hostnames that Routes name, for listeners whose own host is any other.
#[derive(Debug, Default)]
struct ClaimedHosts(Vec<Box<str>>);

#[derive(Debug, Default, Clone)]
struct Namespace {
    apps: HashMap<Box<str>, Arc<AppPart>>,
    /// Which App a Fn belongs to: a Fn's name is unique in its namespace.
    owners: HashMap<Box<str>, Arc<AppPart>>,
}

impl TableStore {
    /// No tables yet, not synced.
    pub fn new(installation: &Installation, own: OwnHost) -> Self {
        let tables = Tables::new(own.clone());
        Self {
            installation: installation.clone(),
            routes: ArcSwap::from_pointee(Routes { tables, claimed: ClaimedHosts::default() }),
            apps: ArcSwap::default(),
            write: Mutex::new(()),
            own,
            synced: watch::Sender::new(false),
            changes: watch::Sender::new(0),
        }
    }

    /// Replaces one Route's table, or takes it away.
    pub fn put_route(
        &self,
        namespace: &str,
        name: &str,
        table: Option<RouteTable>,
    ) -> Result<(), PutTableError> {
        let key = RouteKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.put_routes([(key, table)])
    }

    /// Replaces many Routes' tables at once, for one copy of what is read.
    pub fn put_routes(
        &self,
        changes: impl IntoIterator<Item = (RouteKey, Option<RouteTable>)>,
    ) -> Result<(), PutTableError> {
        let changes: Vec<_> = changes.into_iter().collect();
        for (key, table) in &changes {
            if let Some(said) = table.as_ref().map(RouteTable::key).filter(|said| said != key) {
                return Err(PutTableError::Misplaced { said: said.to_string(), put: key.to_string() });
            }
        }
        let _turn = self.write.lock();
        let tables = self.routes.load().tables.replace_all(changes);
        let claimed = match self.own {
            OwnHost::Named(_) => ClaimedHosts::default(),
            OwnHost::Unclaimed | OwnHost::Dev => ClaimedHosts::of(&tables),
        };
        self.routes.store(Arc::new(Routes { tables, claimed }));
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Replaces one App's table, or takes it away.
    pub fn put_app(&self, namespace: &str, app: &str, table: Option<AppTable>) -> Result<(), PutTableError> {
        let _turn = self.write.lock();
        let mut namespaces = HashMap::clone(&self.apps.load());
        let mut within = namespaces.get(namespace).map(|found| Namespace::clone(found)).unwrap_or_default();
        let earlier = within.apps.remove(app);
        within.owners.retain(|_, owner| *owner.app != *app);
        if let Some(table) = table {
            let part = self.build(namespace, app, table, earlier.as_deref())?;
            for name in part.fn_names() {
                within.owners.insert(name.into(), Arc::clone(&part));
            }
            within.apps.insert(app.into(), part);
        }
        if within.apps.is_empty() {
            namespaces.remove(namespace);
        } else {
            namespaces.insert(namespace.into(), Arc::new(within));
        }
        self.apps.store(Arc::new(namespaces));
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    fn build(
        &self,
        namespace: &str,
        app: &str,
        table: AppTable,
        earlier: Option<&AppPart>,
    ) -> Result<Arc<AppPart>, PutTableError> {
        if (table.namespace.as_str(), table.app.as_str()) != (namespace, app) {
            let said = format!("App {}/{}", table.namespace, table.app);
            return Err(PutTableError::Misplaced { said, put: format!("App {namespace}/{app}") });
        }
        AppPart::build(&self.installation, table, earlier).map(Arc::new).map_err(|source| {
            PutTableError::Names { namespace: namespace.to_owned(), app: app.to_owned(), source }
        })
    }

    /// Says that what is in the tables is all there is: part of what a gateway waits for before it is ready.
    pub fn mark_synced(&self) {
        self.synced.send_replace(true);
    }

    /// Whether all tables have been seen once.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Every Route that is in the tables.
    pub fn route_keys(&self) -> Vec<RouteKey> {
        self.routes.load().tables.routes().map(RouteTable::key).collect()
    }

    /// Every App that is in the tables: namespace and name.
    pub fn app_keys(&self) -> Vec<(String, String)> {
        self.all_apps().iter().map(|part| (part.namespace.to_string(), part.app.to_string())).collect()
    }

    /// The installation that these tables are of.
    pub(crate) fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The Routes as they are now.
    pub(crate) fn routes(&self) -> RoutesNow {
        RoutesNow(self.routes.load())
    }

    /// An App as it is now.
    pub(crate) fn app(&self, namespace: &str, app: &str) -> Option<Arc<AppPart>> {
        self.apps.load().get(namespace)?.apps.get(app).cloned()
    }

    /// The App of a Fn.
    pub(crate) fn owner(&self, namespace: &str, fn_name: &str) -> Option<Arc<AppPart>> {
        self.apps.load().get(namespace)?.owners.get(fn_name).cloned()
    }

    /// All Apps as they are now.
    pub(crate) fn all_apps(&self) -> Vec<Arc<AppPart>> {
        self.apps.load().values().flat_map(|namespace| namespace.apps.values().cloned()).collect()
    }

    /// Whether this hostname is the gateway's own, and so no tenant's.
    pub(crate) fn is_own(&self, host: &str) -> bool {
        match &self.own {
            OwnHost::Named(names) => names.iter().any(|name| name.eq_ignore_ascii_case(host)),
            OwnHost::Unclaimed | OwnHost::Dev => !self.routes.load().claimed.has(host),
        }
    }

    /// Told at each change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// The Routes at one moment.
pub(crate) struct RoutesNow(Guard<Arc<Routes>>);

impl RoutesNow {
    pub(crate) fn tables(&self) -> &Tables {
        &self.0.tables
    }
}

impl ClaimedHosts {
    fn of(tables: &Tables) -> Self {
        let mut hosts: Vec<Box<str>> = tables
            .routes()
            .flat_map(RouteTable::hostnames)
            .map(|host| host.to_ascii_lowercase().into())
            .collect();
        hosts.sort_unstable();
        hosts.dedup();
        Self(hosts)
    }

    /// A wildcard stands for one or more labels, as in Gateway API.
    fn has(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let listed = |name: &str| self.0.binary_search_by(|known| (**known).cmp(name)).is_ok();
        let parents = host.match_indices('.').map(|(at, _)| &host[at..]);
        listed(&host) || parents.into_iter().any(|parent| listed(&format!("*{parent}")))
    }
}
