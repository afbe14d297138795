//! What a ledger is told when it starts.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::names::Installation;

use crate::access::{Access, AllowAll};
use crate::callback::{AllowList, CallbackConfig, CallbackKey, Pace};
use crate::objects::ObjectsConfig;
use crate::store::DatabaseAddress;

/// What an App that says nothing gets: a long weekend's calls are there on its first working day.
const RETENTION: Duration = Duration::from_secs(72 * 60 * 60);

/// What a ledger is told when it starts.
#[derive(Clone)]
pub struct LedgerConfig {
    /// Whose names it uses on the broker.
    pub installation: Installation,
    /// Where the API is served, for the cluster's inside only.
    pub api: SocketAddr,
    /// Where probes and metrics are served.
    pub ops: SocketAddr,
    /// Where calls are kept.
    pub database: DatabaseAddress,
    /// How long calls are kept after their end, where their App does not say.
    pub retention: Duration,
    /// Who may do what.
    pub access: Arc<dyn Access>,
    /// How the ends of calls are told.
    pub callbacks: CallbackConfig,
    /// Where bodies are kept that no message carries; none: there are none.
    pub objects: Option<ObjectsConfig>,
}

impl LedgerConfig {
    /// A ledger that keeps calls in memory and listens on ports of the kernel's choice: as `dev` has it.
    pub fn in_memory(installation: Installation) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            installation,
            api: any,
            ops: any,
            database: DatabaseAddress::in_memory(),
            retention: RETENTION,
            access: Arc::new(AllowAll),
            callbacks: CallbackConfig {
                key: Arc::new(CallbackKey::fresh()),
                allow: AllowList::default(),
                pace: Pace::default(),
            },
            objects: None,
        }
    }
}

impl fmt::Debug for LedgerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { installation, api, ops, database, retention, access: _, callbacks, objects } = self;
        f.debug_struct("LedgerConfig")
            .field("installation", installation)
            .field("api", api)
            .field("ops", ops)
            .field("database", database)
            .field("retention", retention)
            .field("callbacks", callbacks)
            .field("objects", objects)
            .finish_non_exhaustive()
    }
}
