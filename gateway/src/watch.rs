//! Follows the tables that the operator writes into ConfigMaps of the system namespace.
//! A table that cannot be read leaves the one before it in place; with the API server gone, all stay.

use std::collections::BTreeSet;
use std::io::Read;

use flate2::read::GzDecoder;
use funcatron_crds::names;
use funcatron_routing::app_table::{AppTable, AppTableReadError};
use funcatron_routing::{RouteKey, RouteTable, TableError};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use std::sync::Arc;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::tables::{PutTableError, TableStore};

/// How long one watch request lives: below the five minutes after which proxies and API servers cut it.
const WATCH_SECONDS: u32 = 200;
/// An App's table unpacked: far more than a thousand Fns need, far less than hurts.
const APP_TABLE_BYTES_MAX: u64 = 16 << 20;

/// Whose table a ConfigMap holds, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum TableKey {
    Route { namespace: String, name: String },
    App { namespace: String, name: String },
}

/// A table, read.
#[derive(Debug)]
enum Table {
    Route(Box<RouteTable>),
    App(Box<AppTable>),
}

/// Why a ConfigMap's table does not serve.
#[derive(Debug, Error)]
enum ReadTableError {
    #[error("the ConfigMap holds no table")]
    Missing,
    #[error("the Route's table cannot be read")]
    Route(#[source] TableError),
    #[error("the App's table cannot be read")]
    App(#[source] AppTableReadError),
    #[error("the App's table cannot be unpacked")]
    Unpack(#[source] std::io::Error),
    #[error("the table cannot serve")]
    Put(#[source] PutTableError),
}

impl TableKey {
    /// `route.<namespace>.<name>` or `app.<namespace>.<name>`; anything else is not a table's.
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, '.');
        let (kind, namespace, name) = (parts.next()?, parts.next()?.to_owned(), parts.next()?.to_owned());
        match kind {
            "route" => Some(Self::Route { namespace, name }),
            "app" => Some(Self::App { namespace, name }),
            _ => None,
        }
    }

    fn read(&self, object: &ConfigMap) -> Result<Table, ReadTableError> {
        let plain = object.data.as_ref().and_then(|data| data.get(names::TABLE_KEY));
        let packed = object.binary_data.as_ref().and_then(|data| data.get(names::TABLE_GZIP_KEY));
        let bytes = match (plain, packed) {
            (Some(plain), _) => plain.as_bytes(),
            (None, Some(packed)) => &packed.0,
            (None, None) => return Err(ReadTableError::Missing),
        };
        match self {
            Self::Route { .. } => RouteTable::decode(bytes)
                .map(|table| Table::Route(Box::new(table)))
                .map_err(ReadTableError::Route),
            Self::App { .. } if plain.is_some() => app_table(bytes),
            Self::App { .. } => app_table(&unpack(bytes).map_err(ReadTableError::Unpack)?),
        }
    }

    fn put(&self, store: &TableStore, table: Option<Table>) -> Result<(), PutTableError> {
        match (self, table) {
            (Self::Route { namespace, name }, Some(Table::Route(table))) => {
                store.put_route(namespace, name, Some(*table))
            }
            (Self::App { namespace, name }, Some(Table::App(table))) => {
                store.put_app(namespace, name, Some(*table))
            }
            (Self::Route { namespace, name }, _) => store.put_route(namespace, name, None),
            (Self::App { namespace, name }, _) => store.put_app(namespace, name, None),
        }
    }
}

fn app_table(bytes: &[u8]) -> Result<Table, ReadTableError> {
    AppTable::from_slice(bytes).map(|table| Table::App(Box::new(table))).map_err(ReadTableError::App)
}

fn unpack(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    GzDecoder::new(bytes).take(APP_TABLE_BYTES_MAX).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// Follows the tables until `shutdown`; the store is synced once all of them have been seen.
pub async fn watch_tables(
    client: Client,
    system_namespace: &str,
    store: Arc<TableStore>,
    shutdown: CancellationToken,
) {
    let selector =
        format!("{} in ({},{})", names::LABEL_PART, names::PART_ROUTE_TABLE, names::PART_APP_TABLE);
    let config = watcher::Config::default().labels(&selector).timeout(WATCH_SECONDS);
    let events = watcher(Api::<ConfigMap>::namespaced(client, system_namespace), config).default_backoff();
    pin_mut!(events);
    let mut follower = Follower { store, listed: Vec::new(), reachable: true };
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        follower.follow(event);
    }
}

struct Follower {
    store: Arc<TableStore>,
    /// What a list under way has shown so far.
    listed: Vec<ConfigMap>,
    reachable: bool,
}

impl Follower {
    fn follow(&mut self, event: Result<watcher::Event<ConfigMap>, watcher::Error>) {
        match event {
            Err(error) => {
                if std::mem::replace(&mut self.reachable, false) {
                    warn!(%error, "cannot follow the tables, serving from the last ones");
                }
                return;
            }
            Ok(watcher::Event::Init) => self.listed.clear(),
            Ok(watcher::Event::InitApply(object)) => self.listed.push(object),
            Ok(watcher::Event::InitDone) => self.relist(),
            Ok(watcher::Event::Apply(object)) => self.apply(&object),
            Ok(watcher::Event::Delete(object)) => self.delete(&object.name_any()),
        }
        if !std::mem::replace(&mut self.reachable, true) {
            info!("following the tables again");
        }
    }

    fn apply(&self, object: &ConfigMap) {
        let name = object.name_any();
        let Some(key) = TableKey::parse(&name) else { return };
        let put =
            key.read(object).and_then(|table| key.put(&self.store, Some(table)).map_err(ReadTableError::Put));
        if let Err(error) = put {
            warn!(name, error = %Causes(&error), "a table does not serve, the one before it stays");
        }
    }

    fn delete(&self, name: &str) {
        let Some(key) = TableKey::parse(name) else { return };
        if let Err(error) = key.put(&self.store, None) {
            warn!(name, error = %Causes(&error), "could not take a table out");
        }
    }

    /// Everything was listed: Apps first, so that no Route is there before its App; then out with what was not listed.
    fn relist(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        let keys: BTreeSet<TableKey> =
            listed.iter().filter_map(|object| TableKey::parse(&object.name_any())).collect();
        let (routes, apps): (Vec<_>, Vec<_>) =
            listed.iter().partition(|object| object.name_any().starts_with("route."));
        apps.into_iter().for_each(|object| self.apply(object));
        self.put_routes(&routes, &keys);
        for (namespace, name) in self.store.app_keys() {
            if !keys.contains(&TableKey::App { namespace: namespace.clone(), name: name.clone() }) {
                self.delete(&names::app_table(&namespace, &name));
            }
        }
        info!(tables = keys.len(), "tables listed");
        self.store.mark_synced();
    }

    /// All at once: a copy of the index for each of ten thousand would take minutes.
    fn put_routes(&self, routes: &[&ConfigMap], keys: &BTreeSet<TableKey>) {
        let mut changes = Vec::with_capacity(routes.len());
        for object in routes {
            let name = object.name_any();
            let Some(key) = TableKey::parse(&name) else { continue };
            match (key.read(object), key) {
                (Ok(Table::Route(table)), TableKey::Route { namespace, name })
                    if table.key() == (RouteKey { namespace: namespace.clone(), name: name.clone() }) =>
                {
                    changes.push((table.key(), Some(*table)));
                }
                (Err(error), _) => {
                    warn!(name, error = %Causes(&error), "a table does not serve, the one before it stays")
                }
                (Ok(_), key) => warn!(name, ?key, "a table is another's, the one before it stays"),
            }
        }
        for key in self.store.route_keys() {
            let RouteKey { namespace, name } = key.clone();
            if !keys.contains(&TableKey::Route { namespace, name }) {
                changes.push((key, None));
            }
        }
        if let Err(error) = self.store.put_routes(changes) {
            warn!(error = %Causes(&error), "the tables listed do not serve");
        }
    }
}

/// An error with all that caused it, in one line.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
