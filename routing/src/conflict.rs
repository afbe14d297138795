//! Who owns a hostname and base path: the oldest Route that claims it.
//! Never removes anything: the operator keeps tables of Routes in conflict out of the gateway.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use crate::source::RouteKey;
use crate::table::RouteTable;

/// A path on a hostname, which one Route can own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// None = the gateway's own hostname; `path` then begins with `/<namespace>`.
    pub host: Option<String>,
    /// The path: a Route's base path, or the path of an explicit match of a Route without one.
    pub path: String,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host.as_deref().unwrap_or_default(), self.path)
    }
}

/// A claim that an older Route owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What is owned already.
    pub claim: Claim,
    /// By whom. To be named to others in the same namespace only.
    pub owner: RouteKey,
}

/// The Routes that claim what an older one owns, with each such claim.
///
/// Age is creation time, then namespace and name (Gateway API's order). A Route in conflict over one claim
/// still owns its others, so that removing a third Route takes nothing from one that serves.
pub fn conflicts<'a>(tables: impl IntoIterator<Item = &'a RouteTable>) -> BTreeMap<RouteKey, Vec<Conflict>> {
    let mut by_age: Vec<&RouteTable> = tables.into_iter().collect();
    by_age.sort_by_key(|table| (table.created_ms(), table.namespace(), table.route()));
    let mut owners: BTreeMap<Claim, RouteKey> = BTreeMap::new();
    let mut found: BTreeMap<RouteKey, Vec<Conflict>> = BTreeMap::new();
    for table in by_age {
        let key = table.key();
        for claim in table.claims() {
            match owners.entry(claim) {
                Entry::Vacant(free) => {
                    free.insert(key.clone());
                }
                Entry::Occupied(taken) if *taken.get() == key => {}
                Entry::Occupied(taken) => found
                    .entry(key.clone())
                    .or_default()
                    .push(Conflict { claim: taken.key().clone(), owner: taken.get().clone() }),
            }
        }
    }
    found
}
