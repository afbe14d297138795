//! Forgetting: calls whose App keeps them no longer, old claims, and Apps of which nothing is left.
//!
//! In small steps, each a statement of its own, so that events are written in between. Never forgets a call that has
//! not ended.

use sqlx::Row as _;

use super::rows::signed;
use super::{Store, StoreError};

/// Calls deleted by one statement: a few milliseconds of the writer's time.
const STEP: i64 = 500;
/// Calls kept of one App, whatever its retention: one tenant must not fill everybody's disk.
const CALLS_PER_APP_MAX: i64 = 1_000_000;
/// Longer than a message waits in any queue that is attended to.
const CLAIM_LIFE_MS: i64 = 7 * 24 * 60 * 60 * 1000;

const APPS: &str = "SELECT c.namespace AS namespace, c.app AS app, c.last_number AS last_number, \
     a.retention_ms AS retention_ms FROM app_counters c \
     LEFT JOIN apps a ON a.namespace = c.namespace AND a.app = c.app";
const OLD: &str = "DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE namespace = $1 AND app = $2 \
     AND completed_ms < $3 LIMIT $4)";
const TOO_MANY: &str = "DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE namespace = $1 AND app = $2 \
     AND number <= $3 AND completed_ms IS NOT NULL ORDER BY number LIMIT $4)";
const CLAIMS: &str =
    "DELETE FROM claims WHERE call_id IN (SELECT call_id FROM claims WHERE at_ms < $1 LIMIT $2)";
const GONE_COUNTERS: &str = "DELETE FROM app_counters WHERE EXISTS (SELECT 1 FROM apps a \
     WHERE a.namespace = app_counters.namespace AND a.app = app_counters.app AND a.deleted = 1) \
     AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.namespace = app_counters.namespace AND c.app = app_counters.app)";
const GONE_APPS: &str = "DELETE FROM apps WHERE deleted = 1 AND at_ms < $1 AND NOT EXISTS \
     (SELECT 1 FROM app_counters c WHERE c.namespace = apps.namespace AND c.app = apps.app)";

impl Store {
    /// Forgets what is older than its App keeps it, or than the default; says how many calls that were.
    pub async fn sweep(&self, now_ms: u64, retention_ms: u64) -> Result<u64, StoreError> {
        let mut swept = 0;
        for row in sqlx::query(APPS).fetch_all(&self.reads).await? {
            let (namespace, app): (String, String) = (row.try_get("namespace")?, row.try_get("app")?);
            let kept_ms: Option<i64> = row.try_get("retention_ms")?;
            let oldest_ms = signed(now_ms).saturating_sub(kept_ms.unwrap_or(signed(retention_ms)));
            swept += self.delete(OLD, &namespace, &app, oldest_ms).await?;
            let oldest = row.try_get::<i64, _>("last_number")?.saturating_sub(CALLS_PER_APP_MAX);
            if oldest > 0 {
                swept += self.delete(TOO_MANY, &namespace, &app, oldest).await?;
            }
        }
        let forgotten_ms = signed(now_ms).saturating_sub(CLAIM_LIFE_MS);
        while self.execute(sqlx::query(CLAIMS).bind(forgotten_ms).bind(STEP)).await? == STEP.unsigned_abs() {}
        self.execute(sqlx::query(GONE_COUNTERS)).await?;
        self.execute(sqlx::query(GONE_APPS).bind(forgotten_ms)).await?;
        Ok(swept)
    }

    async fn delete(
        &self,
        sql: &'static str,
        namespace: &str,
        app: &str,
        bound: i64,
    ) -> Result<u64, StoreError> {
        let mut deleted = 0;
        loop {
            let query = sqlx::query(sql).bind(namespace.to_owned()).bind(app.to_owned());
            let step = self.execute(query.bind(bound).bind(STEP)).await?;
            deleted += step;
            if step < STEP.unsigned_abs() {
                return Ok(deleted);
            }
        }
    }

    async fn execute(
        &self,
        query: sqlx::query::Query<'_, sqlx::Any, sqlx::any::AnyArguments>,
    ) -> Result<u64, StoreError> {
        Ok(query.execute(&self.writes).await?.rows_affected())
    }
}
