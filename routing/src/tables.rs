//! All Routes of a gateway, indexed. A change makes a new value and shares all that did not change,
//! so that a gateway can swap one Route while requests read the old tables.
//! Never decides whether a Route may serve: conflicts are kept out before.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::index::{Entry, Node};
use crate::names::Hostname;
use crate::pattern::Segment;
use crate::source::RouteKey;
use crate::table::RouteTable;

/// Where Routes without hostnames answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OwnHost {
    /// On these names, which no Route can take: below `/<namespace>`.
    Named(Vec<String>),
    /// On every name that no Route claims: below `/<namespace>`.
    #[default]
    Unclaimed,
    /// As `Unclaimed`, and every Route answers there at its own path too, the oldest first on a clash.
    Dev,
}

/// All Routes of a gateway. Copies are cheap.
#[derive(Clone)]
pub struct Tables {
    own: Arc<OwnHost>,
    routes: Arc<HashMap<Arc<RouteKey>, Arc<RouteTable>>>,
    exact: Arc<HashMap<Arc<str>, Arc<Node>>>,
    /// By suffix, its leading dot included.
    wildcards: Arc<HashMap<Arc<str>, Arc<Node>>>,
    below_namespace: Arc<Node>,
    /// Every Route at its own path; filled in `dev` only.
    anywhere: Arc<Node>,
}

impl Default for Tables {
    fn default() -> Self {
        Self::new(OwnHost::default())
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("own", &self.own).field("routes", &self.routes.len()).finish()
    }
}

impl Tables {
    /// Tables without a Route.
    pub fn new(own: OwnHost) -> Self {
        let own = match own {
            OwnHost::Named(names) => {
                OwnHost::Named(names.iter().map(|name| name.trim_end_matches('.').to_lowercase()).collect())
            }
            other => other,
        };
        Self {
            own: Arc::new(own),
            routes: Arc::default(),
            exact: Arc::default(),
            wildcards: Arc::default(),
            below_namespace: Arc::default(),
            anywhere: Arc::default(),
        }
    }

    /// The same tables with one Route's part put in, replaced or (`None`) taken out.
    #[must_use]
    pub fn replace(&self, key: &RouteKey, table: Option<RouteTable>) -> Self {
        self.replace_all([(key.clone(), table)])
    }

    /// Many changes at the price of one copy.
    #[must_use]
    pub fn replace_all(&self, changes: impl IntoIterator<Item = (RouteKey, Option<RouteTable>)>) -> Self {
        let mut next = self.clone();
        for (key, table) in changes {
            next.set(key, table.map(Arc::new));
        }
        next
    }

    /// How many Routes there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The Routes, in no order.
    pub fn routes(&self) -> impl Iterator<Item = &RouteTable> {
        self.routes.values().map(|table| &**table)
    }

    /// One Route's table.
    pub fn get(&self, key: &RouteKey) -> Option<&RouteTable> {
        self.routes.get(key).map(|table| &**table)
    }

    fn set(&mut self, key: RouteKey, table: Option<Arc<RouteTable>>) {
        let routes = Arc::make_mut(&mut self.routes);
        let before = match &table {
            Some(table) => routes.insert(Arc::new(key), Arc::clone(table)),
            None => routes.remove(&key),
        };
        // In before out: what stays as it was is then not pruned and grown again.
        if let Some(table) = table {
            self.change(&table, |node, above| node.insert(above, &table));
        }
        if let Some(before) = before {
            self.change(&before, |node, above| node.remove(above, &before));
        }
    }

    fn change(&mut self, table: &RouteTable, mut change: impl FnMut(&mut Arc<Node>, &[Segment])) {
        if *self.own == OwnHost::Dev {
            change(&mut self.anywhere, &[]);
        }
        if table.hostnames.is_empty() {
            change(&mut self.below_namespace, &[Segment::Literal(table.namespace().into())]);
        }
        for hostname in &table.hostnames {
            let (hosts, name) = match hostname {
                Hostname::Exact(name) => (&mut self.exact, name),
                Hostname::Wildcard(suffix) => (&mut self.wildcards, suffix),
            };
            let hosts = Arc::make_mut(hosts);
            let node = hosts.entry(name.as_str().into()).or_default();
            change(node, &[]);
            if node.is_empty() {
                hosts.remove(name.as_str());
            }
        }
    }

    /// Shows every rule that holds for `host` (lower case, no port) and `path`, in the order of precedence.
    pub(crate) fn visit<'a, B>(
        &'a self,
        host: &str,
        path: &str,
        show: &mut impl FnMut(&'a Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Some(path) = path.strip_prefix('/') else { return ControlFlow::Continue(()) };
        if self.is_own(host) {
            return self.below_namespace.visit(Some(path), show);
        }
        let mut claimed = false;
        if let Some(node) = self.exact.get(host) {
            claimed = true;
            node.visit(Some(path), show)?;
        }
        if !self.wildcards.is_empty() {
            // A wildcard stands for one label or more: the suffix begins behind the first character at least.
            for (at, _) in host.match_indices('.').filter(|(at, _)| *at > 0) {
                if let Some(node) = self.wildcards.get(&host[at..]) {
                    claimed = true;
                    node.visit(Some(path), show)?;
                }
            }
        }
        if claimed || matches!(*self.own, OwnHost::Named(_)) {
            return ControlFlow::Continue(());
        }
        self.anywhere.visit(Some(path), show)?;
        self.below_namespace.visit(Some(path), show)
    }

    fn is_own(&self, host: &str) -> bool {
        matches!(&*self.own, OwnHost::Named(names) if names.iter().any(|name| name == host))
    }
}
