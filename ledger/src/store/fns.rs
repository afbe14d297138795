//! What is known of Fns: how each is called, and whom the ends of its calls are told. The newest word counts.

use funcatron_broker::message::{CallbackTarget, FnEvent};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::rows::{self, signed, unsigned, without_nul};
use super::write::{Batch, Outcome};
use super::{Store, StoreError};

const FN: &str = "INSERT INTO fns (namespace, app, fn, at_ms, url, timeout_ms, attempts_max, age_max_ms, on_success, \
     on_failure, deleted) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
     ON CONFLICT (namespace, app, fn) DO UPDATE SET at_ms = excluded.at_ms, url = excluded.url, \
     timeout_ms = excluded.timeout_ms, attempts_max = excluded.attempts_max, age_max_ms = excluded.age_max_ms, \
     on_success = excluded.on_success, on_failure = excluded.on_failure, deleted = excluded.deleted \
     WHERE excluded.at_ms >= fns.at_ms";
const STANDING: &str = "SELECT url, timeout_ms, attempts_max, age_max_ms FROM fns \
     WHERE namespace = $1 AND app = $2 AND fn = $3 AND deleted = 0";
const ON_SUCCESS: &str = "SELECT on_success AS target FROM fns WHERE namespace = $1 AND app = $2 AND fn = $3";
const ON_FAILURE: &str = "SELECT on_failure AS target FROM fns WHERE namespace = $1 AND app = $2 AND fn = $3";

/// How a Fn is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownFn {
    /// Where it is invoked from inside the cluster.
    pub url: String,
    /// How long one attempt may take.
    pub timeout_ms: u64,
    /// Attempts, where it says so.
    pub attempts_max: Option<u32>,
    /// How long a call may wait, where it says so.
    pub age_max_ms: Option<u64>,
}

impl Batch<'_> {
    pub(super) async fn function(&mut self, event: &FnEvent) -> Result<Outcome, StoreError> {
        let FnEvent {
            user_id: _,
            namespace,
            app,
            fn_name,
            at_ms,
            url,
            timeout_ms,
            attempts_max,
            age_max_ms,
            on_success,
            on_failure,
            deleted,
        } = event;
        let written = sqlx::query(FN)
            .bind(namespace.clone())
            .bind(app.clone())
            .bind(fn_name.clone())
            .bind(signed(*at_ms))
            .bind(without_nul(url))
            .bind(signed(*timeout_ms))
            .bind(attempts_max.map(i64::from))
            .bind(age_max_ms.map(signed))
            .bind(on_success.as_ref().map(rows::to_document))
            .bind(on_failure.as_ref().map(rows::to_document))
            .bind(i64::from(*deleted))
            .execute(&mut *self.transaction)
            .await?;
        Ok(if written.rows_affected() == 0 { Outcome::Nothing } else { Outcome::Kept })
    }

    /// Whom that end of a Fn's call is told: as the Fn said last, even where it is gone by now.
    pub(super) async fn callback_target(
        &mut self,
        (namespace, app, fn_name): (&str, &str, &str),
        is_success: bool,
    ) -> Result<Option<CallbackTarget>, StoreError> {
        let sql = if is_success { ON_SUCCESS } else { ON_FAILURE };
        let query = sqlx::query(sql).bind(namespace.to_owned()).bind(app.to_owned()).bind(fn_name.to_owned());
        let row = query.fetch_optional(&mut *self.transaction).await?;
        row.map_or(Ok(None), |row| rows::document(&row, "target"))
    }
}

impl Store {
    /// A Fn that stands.
    pub async fn known_fn(
        &self,
        namespace: &str,
        app: &str,
        fn_name: &str,
    ) -> Result<Option<KnownFn>, StoreError> {
        let query = sqlx::query(STANDING).bind(namespace.to_owned()).bind(app.to_owned());
        let row = query.bind(fn_name.to_owned()).fetch_optional(&self.reads).await?;
        row.as_ref().map(read).transpose()
    }
}

fn read(row: &AnyRow) -> Result<KnownFn, StoreError> {
    let attempts: Option<i64> = row.try_get("attempts_max")?;
    Ok(KnownFn {
        url: row.try_get("url")?,
        timeout_ms: unsigned(row.try_get("timeout_ms")?),
        attempts_max: attempts.and_then(|attempts| u32::try_from(attempts).ok()),
        age_max_ms: row.try_get::<Option<i64>, _>("age_max_ms")?.map(unsigned),
    })
}
