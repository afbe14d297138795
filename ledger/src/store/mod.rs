//! The ledger's database: PostgreSQL, or SQLite within this process. One SQL for both, over sqlx's driver for either.
//!
//! Says whether a failure may pass; never retries, never reads a clock, never decides what an event means.

mod address;
mod fns;
mod objects;
mod outbox;
mod read;
mod rows;
mod sweep;
mod write;

use std::time::Duration;

use sqlx::SqlSafeStr as _;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, AnyPool, Executor as _};

pub use address::{AddressError, DatabaseAddress};
pub use fns::KnownFn;
pub use objects::Room;
pub use outbox::{CallbackStatus, DueCallback, Settled, ShownCallback, WaitingApp};
pub use read::{Call, CallKey, ListQuery, Logs, Page};
pub use sweep::{Keep, Swept};
pub use write::{Entry, Outcome};

use address::Kind;
use outbox::WAITING_PER_APP_MAX;

/// PostgreSQL's writers: events, the sweep, and what requests change. Apart from the readers, so that many requests
/// do not hold up events.
const POSTGRES_WRITERS_MAX: u32 = 4;
/// PostgreSQL's readers answer requests; a server's hundred connections are others' too.
const POSTGRES_READERS_MAX: u32 = 8;
/// SQLite's readers run beside its one writer; more than the cores of a small pod buy nothing.
const SQLITE_READERS_MAX: u32 = 4;
/// A request hears that the database is away before whoever asks loses patience.
const READ_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Events may wait longer for their turn: nobody waits for them, and they come again.
const WRITE_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any of our statements on a healthy database; a frozen one must not hold a transaction for ever.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);

/// Each version of the schema, oldest first. A released one never changes.
const MIGRATIONS: [(i64, &str, &str, &str); 5] = [
    (
        1,
        "calls",
        include_str!("../../migrations/postgres/0001_calls.sql"),
        include_str!("../../migrations/sqlite/0001_calls.sql"),
    ),
    (
        2,
        "bounds",
        include_str!("../../migrations/postgres/0002_bounds.sql"),
        include_str!("../../migrations/sqlite/0002_bounds.sql"),
    ),
    (
        3,
        "claims",
        include_str!("../../migrations/postgres/0003_claims.sql"),
        include_str!("../../migrations/sqlite/0003_claims.sql"),
    ),
    (
        4,
        "callbacks",
        include_str!("../../migrations/postgres/0004_callbacks.sql"),
        include_str!("../../migrations/sqlite/0004_callbacks.sql"),
    ),
    (
        5,
        "objects",
        include_str!("../../migrations/postgres/0005_objects.sql"),
        include_str!("../../migrations/sqlite/0005_objects.sql"),
    ),
];

/// Why the database did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought to this version.
    #[error("the database's schema could not be brought to this version")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// It did not answer.
    #[error("the database did not answer in {0:?}")]
    TimedOut(Duration),
    /// What stands there is not what was written.
    #[error("{column} of a call is not readable: {reason}")]
    Corrupt {
        /// The column.
        column: &'static str,
        /// Why.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same would fail again however long one waits: the fault is in what was to be written.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Database(sqlx::Error::Encode(_)) => true,
            // PostgreSQL's class 22 is "data exception"; SQLite's 18 and 20 are "too big" and "mismatch".
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("22") || code == "18" || code == "20")
            }
            Self::Database(_) | Self::Migrate(_) | Self::TimedOut(_) => false,
        }
    }
}

/// The ledger's database.
#[derive(Debug, Clone)]
pub struct Store {
    kind: Kind,
    writes: AnyPool,
    reads: AnyPool,
    callbacks_max: i64,
}

impl Store {
    /// Takes the address; connects at first need, so that a database that is away does not stop the process.
    pub fn open(address: &DatabaseAddress) -> Self {
        sqlx::any::install_default_drivers();
        let (kind, options) = (address.kind(), address.options());
        let (reads, writes) = match kind {
            Kind::Postgres => {
                let reads = pool(kind, POSTGRES_READERS_MAX, READ_ACQUIRE_TIMEOUT, options.clone());
                let writes = pool(kind, POSTGRES_WRITERS_MAX, WRITE_ACQUIRE_TIMEOUT, options);
                (reads, writes)
            }
            Kind::SqliteFile => {
                let reads = pool(kind, SQLITE_READERS_MAX, READ_ACQUIRE_TIMEOUT, options.clone());
                (reads, pool(kind, 1, WRITE_ACQUIRE_TIMEOUT, options))
            }
            Kind::SqliteMemory => {
                // Each connection would be a database of its own.
                let pool = pool(kind, 1, WRITE_ACQUIRE_TIMEOUT, options);
                (pool.clone(), pool)
            }
        };
        Self { kind, writes, reads, callbacks_max: WAITING_PER_APP_MAX }
    }

    /// With another bound on the callbacks of one App that may wait.
    pub fn with_callbacks_max(self, callbacks_max: i64) -> Self {
        Self { callbacks_max, ..self }
    }

    /// Brings the schema to this version; on PostgreSQL under a lock that all replicas share.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let migrations = MIGRATIONS.map(|(version, name, postgres, sqlite)| {
            let sql = if self.kind == Kind::Postgres { postgres } else { sqlite };
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        });
        Migrator::with_migrations(migrations.into()).run(&self.writes).await?;
        Ok(())
    }

    /// Closes what is open.
    pub async fn close(&self) {
        self.reads.close().await;
        self.writes.close().await;
    }
}

fn pool(kind: Kind, connections_max: u32, acquire_timeout: Duration, options: AnyConnectOptions) -> AnyPool {
    let pool = AnyPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(acquire_timeout)
        .after_connect(move |connection, _| Box::pin(prepare(kind, connection)));
    // In memory, the connection is the database.
    let pool = if kind == Kind::SqliteMemory { pool.idle_timeout(None).max_lifetime(None) } else { pool };
    pool.connect_lazy_with(options)
}

/// What each connection is told first.
async fn prepare(kind: Kind, connection: &mut AnyConnection) -> sqlx::Result<()> {
    match kind {
        Kind::Postgres => {
            let timeout = format!("SET statement_timeout = {}", STATEMENT_TIMEOUT.as_millis());
            connection.execute(sqlx::AssertSqlSafe(timeout)).await?;
        }
        // An event is acknowledged after its commit, so the commit must survive a power cut: synchronous stays FULL.
        Kind::SqliteFile => {
            connection.execute("PRAGMA journal_mode = WAL").await?;
            connection.execute("PRAGMA synchronous = FULL").await?;
        }
        Kind::SqliteMemory => {}
    }
    Ok(())
}
