//! Bodies of calls that no message carries: in an object store, by namespace, App and call.
//!
//! A row of the database stands for each before its first byte is written, so that nothing lies in the store that nobody
//! knows of. Never holds a body: what comes and goes is passed on piece by piece.

mod address;
mod collect;
mod name;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::message::SpilledBody;
use funcatron_crds::{ObjectAct, SigningKey};
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::sync::Semaphore;

use crate::clock::now_ms;
use crate::store::{Room, Store, StoreError};

pub use address::{ObjectsAddress, ObjectsAddressError};
pub(crate) use collect::run as collect;
pub use name::ObjectName;
pub(crate) use serve::router;

/// Bodies that are written at once: each holds a part of 8 MiB, and another while it is on its way to the store.
const WRITES_MAX: usize = 12;
/// Bodies that are read at once: each holds a piece of some KiB, and a connection to the store.
const READS_MAX: usize = 256;
/// What S3 copies in one step, as a redrive and a retry do.
const OBJECT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// Of the whole room, an App may take half: one tenant's bodies leave room for the others'.
const APPS_SHARE: u64 = 2;
/// After the deadline before which a call begins: clocks differ, and an attempt asks a moment after it began.
const ADDRESS_SLACK: Duration = Duration::from_secs(15 * 60);

/// What a ledger is told of its object store.
#[derive(Debug, Clone)]
pub struct ObjectsConfig {
    /// Where bodies are kept.
    pub store: ObjectsAddress,
    /// How many bytes of them, all together.
    pub bytes_max: u64,
    /// Base URL at which runners reach the gateways' internal listener, through which they fetch bodies.
    pub gateway_base: String,
    /// Signs and verifies their addresses; gateways share it.
    pub key: SigningKey,
}

/// Why the object store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectError {
    #[error("the object store failed")]
    Store(#[from] object_store::Error),
    #[error("the objects' rows are out of reach")]
    Rows(#[from] StoreError),
    #[error("there is no room for it")]
    Full,
    #[error("it is longer than {0} bytes")]
    TooLarge(u64),
    #[error("it broke off on its way here")]
    BrokenOff,
}

/// The object store, and who may come at once.
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: object_store::path::Path,
    rows: Store,
    key: SigningKey,
    gateway_base: String,
    bytes_max: u64,
    writes: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

impl Objects {
    /// Opens the store that the configuration names; a file system's is made ready.
    pub(crate) fn open(config: ObjectsConfig, rows: Store) -> Result<Self, ObjectsAddressError> {
        let ObjectsConfig { store, bytes_max, gateway_base, key } = config;
        let (store, prefix) = store.open()?;
        Ok(Self {
            store,
            prefix,
            rows,
            key,
            gateway_base,
            bytes_max,
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
            reads: Arc::new(Semaphore::new(READS_MAX)),
        })
    }

    pub(crate) fn set_gateway_base(&mut self, base: &str) {
        base.clone_into(&mut self.gateway_base);
    }

    /// What there is room for.
    pub(crate) fn room(&self) -> Room {
        Room { of_app: self.bytes_max / APPS_SHARE, of_all: self.bytes_max }
    }

    /// Takes room for so many bytes of an object, with which a row stands for it.
    async fn reserve(&self, name: &ObjectName, bytes: u64, room: Room) -> Result<(), ObjectError> {
        if bytes > OBJECT_BYTES_MAX {
            return Err(ObjectError::TooLarge(OBJECT_BYTES_MAX));
        }
        let has_room = self.rows.reserve_object(name, bytes, now_ms(), room).await?;
        if has_room { Ok(()) } else { Err(ObjectError::Full) }
    }

    /// Takes an object away, then its row: what fails in between is tried again.
    pub(crate) async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        match self.store.delete(&name.path(&self.prefix)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.rows.forget_object(name).await?)
    }

    /// Gives a call's body to a call that repeats it; says whether there was one to give. One that was given before is
    /// as good.
    pub(crate) async fn copy(
        &self,
        from: &ObjectName,
        to: &ObjectName,
        room: Room,
    ) -> Result<bool, ObjectError> {
        let (source, target) = (from.path(&self.prefix), to.path(&self.prefix));
        let Some(size) = self.size(&source).await? else { return Ok(self.size(&target).await?.is_some()) };
        self.reserve(to, size, room).await?;
        self.store.copy(&source, &target).await?;
        Ok(true)
    }

    /// `None` where there is none.
    async fn size(&self, path: &object_store::path::Path) -> Result<Option<u64>, ObjectError> {
        match self.store.head(path).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What a call's message says of its body, which may be fetched for as long as the call may run.
    pub(crate) fn spilled(
        &self,
        name: &ObjectName,
        digest: String,
        size: u64,
        deadline_ms: u64,
    ) -> SpilledBody {
        let expires_s = (deadline_ms / 1000).saturating_add(ADDRESS_SLACK.as_secs());
        let call = name.id().to_string();
        let at = self.key.object_url(ObjectAct::Get, &self.gateway_base, name.of(&call), expires_s);
        SpilledBody { digest, size, at }
    }
}
