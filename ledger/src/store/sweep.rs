//! Forgetting: calls whose App keeps them no longer, what is beyond an App's share of the disk, old claims, and Apps of
//! which nothing is left. Ending: calls of which nothing is heard any more.
//!
//! In small steps, each a transaction of its own, so that events are written in between.

use sqlx::Row as _;
use sqlx::any::AnyArguments;

use super::rows::{self, signed};
use super::{Store, StoreError};

/// Rows changed by one statement: a few milliseconds of the writer's time, though each call may have a hundred logs.
const STEP: i64 = 100;
/// Calls kept of one App, whatever its retention and however they stand: one tenant must not fill everybody's disk.
const CALLS_PER_APP_MAX: i64 = 1_000_000;
/// Bytes of requests, answers and logs kept of one App: several Apps that fill theirs still fit a volume of 8 GiB.
const BYTES_PER_APP_MAX: i64 = 1024 * 1024 * 1024;
/// Claims kept of one App: more than all its runners have under way, and 30 MiB at most.
const CLAIMS_PER_APP_MAX: i64 = 100_000;
/// Longer than a message waits in any queue that is attended to.
const CLAIM_LIFE_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// A call may wait 168 hours at most; a day more is room for its last attempt and for a ledger that was away.
pub(super) const SILENCE_MS: i64 = 8 * 24 * 60 * 60 * 1000;

const APPS: &str = "SELECT c.namespace AS namespace, c.app AS app, c.last_number AS last_number, \
     a.retention_ms AS retention_ms FROM app_counters c \
     LEFT JOIN apps a ON a.namespace = c.namespace AND a.app = c.app";
const OLD: &str = "DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE namespace = $1 AND app = $2 \
     AND completed_ms < $3 LIMIT $4)";
const TOO_MANY: &str = "DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE namespace = $1 AND app = $2 \
     AND number <= $3 ORDER BY number LIMIT $4)";
// The conditions stand outside too: an event may have been written since the inner ones were looked at.
const SILENT: &str = "UPDATE calls SET status = 'dead', completed_ms = $1, \
     reason = 'nothing was heard of it for 8 days' \
     WHERE completed_ms IS NULL AND heard_ms < $2 AND id IN \
     (SELECT id FROM calls WHERE completed_ms IS NULL AND heard_ms < $2 ORDER BY heard_ms LIMIT $3) RETURNING id";
const HEAVY: &str = "SELECT namespace, app FROM calls WHERE bytes > 0 \
     GROUP BY namespace, app HAVING SUM(bytes) > $1";
/// The newest call that has no room beside those that are newer.
const NO_ROOM: &str = "SELECT MAX(number) AS number FROM (SELECT number, \
     SUM(bytes) OVER (ORDER BY number DESC) AS kept FROM calls \
     WHERE namespace = $1 AND app = $2 AND bytes > 0) AS weighed WHERE kept > $3";
const TRIM: &str = "UPDATE calls SET request = NULL, answer = NULL, bytes = 0, trimmed = 1 WHERE id IN \
     (SELECT id FROM calls WHERE namespace = $1 AND app = $2 AND number <= $3 AND bytes > 0 \
     ORDER BY number LIMIT $4) RETURNING id";
const CLAIMS: &str = "DELETE FROM claims WHERE (call_id, namespace, app) IN \
     (SELECT call_id, namespace, app FROM claims WHERE at_ms < $1 LIMIT $2)";
const MANY_CLAIMS: &str = "SELECT namespace, app, COUNT(*) AS held FROM claims \
     GROUP BY namespace, app HAVING COUNT(*) > $1";
const OLDEST_CLAIMS: &str = "DELETE FROM claims WHERE namespace = $1 AND app = $2 AND call_id IN \
     (SELECT call_id FROM claims WHERE namespace = $1 AND app = $2 ORDER BY at_ms LIMIT $3)";
const GONE_COUNTERS: &str = "DELETE FROM app_counters WHERE EXISTS (SELECT 1 FROM apps a \
     WHERE a.namespace = app_counters.namespace AND a.app = app_counters.app AND a.deleted = 1) \
     AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.namespace = app_counters.namespace AND c.app = app_counters.app)";
const GONE_APPS: &str = "DELETE FROM apps WHERE deleted = 1 AND at_ms < $1 AND NOT EXISTS \
     (SELECT 1 FROM app_counters c WHERE c.namespace = apps.namespace AND c.app = apps.app)";

const GONE_FNS: &str = "DELETE FROM fns WHERE deleted = 1 AND at_ms < $1";

type Query = sqlx::query::Query<'static, sqlx::Any, AnyArguments>;

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// A call after its end, where its App does not say.
    pub retention_ms: u64,
    /// Calls of one App: the newest.
    pub calls_per_app_max: i64,
    /// Bytes of requests, answers and logs of one App: those of its newest calls.
    pub bytes_per_app_max: i64,
    /// Claims of one App: the newest.
    pub claims_per_app_max: i64,
}

impl Keep {
    /// The bounds of a ledger that keeps calls so long.
    pub fn for_ms(retention_ms: u64) -> Self {
        Self {
            retention_ms,
            calls_per_app_max: CALLS_PER_APP_MAX,
            bytes_per_app_max: BYTES_PER_APP_MAX,
            claims_per_app_max: CLAIMS_PER_APP_MAX,
        }
    }
}

/// What became of how many calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// They are gone.
    pub forgotten: u64,
    /// Their requests, answers and logs are gone.
    pub trimmed: u64,
    /// They are dead.
    pub given_up: u64,
}

impl Store {
    /// Keeps the bounds, and gives up on calls of which nothing was heard for 8 days.
    pub async fn sweep(&self, now_ms: u64, keep: &Keep) -> Result<Swept, StoreError> {
        let now_ms = signed(now_ms);
        self.know_objects().await?;
        let forgotten = self.forget_calls(now_ms, keep).await?;
        let trimmed = self.trim(keep.bytes_per_app_max).await?;
        let silent_ms = now_ms.saturating_sub(SILENCE_MS);
        let given_up = self.give_up(now_ms, silent_ms).await?;
        let forgotten_ms = now_ms.saturating_sub(CLAIM_LIFE_MS);
        self.forget_claims(forgotten_ms, keep.claims_per_app_max).await?;
        self.execute(sqlx::query(GONE_COUNTERS)).await?;
        self.execute(sqlx::query(GONE_APPS).bind(forgotten_ms)).await?;
        self.execute(sqlx::query(GONE_FNS).bind(forgotten_ms)).await?;
        Ok(Swept { forgotten, trimmed, given_up })
    }

    async fn forget_calls(&self, now_ms: i64, keep: &Keep) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        for row in sqlx::query(APPS).fetch_all(&self.reads).await? {
            let (namespace, app): (String, String) = (row.try_get("namespace")?, row.try_get("app")?);
            let delete = |sql, bound: i64| {
                let of_app = sqlx::query(sql).bind(namespace.clone()).bind(app.clone());
                of_app.bind(bound).bind(STEP)
            };
            let kept_ms: Option<i64> = row.try_get("retention_ms")?;
            let oldest_ms = now_ms.saturating_sub(kept_ms.unwrap_or(signed(keep.retention_ms)));
            forgotten += self.repeat(|| delete(OLD, oldest_ms)).await?;
            let oldest = row.try_get::<i64, _>("last_number")?.saturating_sub(keep.calls_per_app_max);
            if oldest > 0 {
                forgotten += self.repeat(|| delete(TOO_MANY, oldest)).await?;
            }
        }
        Ok(forgotten)
    }

    /// Takes requests, answers and logs from the oldest calls of each App that has more of them than it may.
    async fn trim(&self, bytes_max: i64) -> Result<u64, StoreError> {
        let mut trimmed = 0;
        for row in sqlx::query(HEAVY).bind(bytes_max).fetch_all(&self.reads).await? {
            let (namespace, app): (String, String) = (row.try_get("namespace")?, row.try_get("app")?);
            let query = sqlx::query(NO_ROOM).bind(namespace.clone()).bind(app.clone()).bind(bytes_max);
            let row = query.fetch_one(&self.reads).await?;
            let Some(number) = row.try_get::<Option<i64>, _>("number")? else { continue };
            let step = || {
                let of_app = sqlx::query(TRIM).bind(namespace.clone()).bind(app.clone());
                of_app.bind(number).bind(STEP)
            };
            while let count @ 1.. = self.trim_some(step()).await? {
                trimmed += count;
            }
        }
        Ok(trimmed)
    }

    async fn trim_some(&self, calls: Query) -> Result<u64, StoreError> {
        let mut transaction = self.writes.begin().await?;
        let rows = calls.fetch_all(&mut *transaction).await?;
        for row in &rows {
            let logs = sqlx::query("DELETE FROM call_logs WHERE call_id = $1");
            logs.bind(row.try_get::<String, _>("id")?).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(rows.len() as u64)
    }

    /// Ends calls of which nothing is heard; whoever wants to be told of a failure is.
    async fn give_up(&self, now_ms: i64, silent_ms: i64) -> Result<u64, StoreError> {
        let mut given_up = 0;
        loop {
            let mut batch = self.begin().await?;
            let silent = sqlx::query(SILENT).bind(now_ms).bind(silent_ms).bind(STEP);
            let rows = silent.fetch_all(&mut *batch.transaction).await?;
            for row in &rows {
                let id = rows::id("id", &row.try_get::<String, _>("id")?)?;
                if let Some(state) = batch.load(id).await? {
                    batch.decide_callback(&state).await?;
                }
            }
            batch.transaction.commit().await?;
            let step = rows.len() as u64;
            given_up += step;
            if step < STEP.unsigned_abs() {
                return Ok(given_up);
            }
        }
    }

    async fn forget_claims(&self, oldest_ms: i64, claims_max: i64) -> Result<(), StoreError> {
        self.repeat(|| sqlx::query(CLAIMS).bind(oldest_ms).bind(STEP)).await?;
        for row in sqlx::query(MANY_CLAIMS).bind(claims_max).fetch_all(&self.reads).await? {
            let (namespace, app): (String, String) = (row.try_get("namespace")?, row.try_get("app")?);
            let mut over = row.try_get::<i64, _>("held")? - claims_max;
            while over > 0 {
                let of_app = sqlx::query(OLDEST_CLAIMS).bind(namespace.clone()).bind(app.clone());
                self.execute(of_app.bind(over.min(STEP))).await?;
                over -= STEP;
            }
        }
        Ok(())
    }

    /// Runs a statement that changes up to a step of rows until none is left; says how many it changed.
    async fn repeat(&self, statement: impl Fn() -> Query) -> Result<u64, StoreError> {
        let mut changed = 0;
        loop {
            let step = self.execute(statement()).await?;
            changed += step;
            if step < STEP.unsigned_abs() {
                return Ok(changed);
            }
        }
    }

    async fn execute(&self, query: Query) -> Result<u64, StoreError> {
        Ok(query.execute(&self.writes).await?.rows_affected())
    }
}
