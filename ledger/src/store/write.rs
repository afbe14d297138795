//! Writing what came, many at once: all of it or nothing.
//!
//! A batch reads and locks each call once, and a call's number is taken in the transaction that first writes the call.

use std::collections::HashMap;

use funcatron_broker::message::{AppEvent, CallEvent, CallId, Claim, FnEvent, Record, Verdict};
use sqlx::any::AnyRow;
use sqlx::{Any, Row as _, Transaction};

use super::address::Kind;
use super::rows::{self, signed, state_columns, without_nul};
use super::{STATEMENT_TIMEOUT, Store, StoreError};
use crate::state::{Applied, CallState, Claimant, apply, decide};

/// A batch is many statements, each within its own bound.
const BATCH_TIMEOUT: std::time::Duration = STATEMENT_TIMEOUT.saturating_mul(2);

const LOAD: &str = concat!("SELECT ", state_columns!(), " FROM calls WHERE id = $1");
const LOAD_LOCKED: &str = concat!("SELECT ", state_columns!(), " FROM calls WHERE id = $1 FOR UPDATE");
const NUMBER: &str = "INSERT INTO app_counters (namespace, app, last_number) VALUES ($1, $2, 1) \
     ON CONFLICT (namespace, app) DO UPDATE SET last_number = app_counters.last_number + 1 RETURNING last_number";
const INSERT: &str = concat!(
    "INSERT INTO calls (",
    state_columns!(),
    ", request, answer, bytes) VALUES \
     ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)"
);
const UPDATE: &str = "UPDATE calls SET status = $2, source = $3, retry_of = $4, submitted_ms = $5, started_ms = $6, \
     completed_ms = $7, attempts = $8, started_attempt = $9, failed_attempt = $10, answer_attempt = $11, \
     revision = $12, runner = $13, reason = $14, request = COALESCE($15, request), \
     answer = CASE WHEN $16 = 1 THEN $17 ELSE answer END, heard_ms = $18, tells = $19, \
     bytes = COALESCE(OCTET_LENGTH(COALESCE($15, request)), 0) \
     + COALESCE(OCTET_LENGTH(CASE WHEN $16 = 1 THEN $17 ELSE answer END), 0) \
     + (SELECT COALESCE(SUM(OCTET_LENGTH(log)), 0) FROM call_logs WHERE call_id = $1) WHERE id = $1";
const LOG: &str = "INSERT INTO call_logs (call_id, attempt, log) VALUES ($1, $2, $3) \
     ON CONFLICT (call_id, attempt) DO UPDATE SET log = excluded.log";
const CLAIMANT: &str =
    "SELECT attempt, claimant FROM claims WHERE call_id = $1 AND namespace = $2 AND app = $3";
const CLAIM: &str = "INSERT INTO claims (call_id, namespace, app, attempt, claimant, at_ms) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (call_id, namespace, app) DO UPDATE \
     SET attempt = excluded.attempt, at_ms = excluded.at_ms \
     WHERE claims.claimant = excluded.claimant AND claims.attempt <= excluded.attempt";
const APP: &str = "INSERT INTO apps (namespace, app, at_ms, retention_ms, record, deleted) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (namespace, app) DO UPDATE \
     SET at_ms = excluded.at_ms, retention_ms = excluded.retention_ms, record = excluded.record, \
     deleted = excluded.deleted WHERE excluded.at_ms >= apps.at_ms";
const END_OF_APP: &str = "UPDATE calls SET status = 'cancelled', completed_ms = $3, reason = 'its App was deleted' \
     WHERE namespace = $1 AND app = $2 AND status IN ('queued', 'running')";

/// One thing to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Something happened to a call.
    Call(CallEvent),
    /// An App's word.
    App(AppEvent),
    /// A Fn's word.
    Fn(FnEvent),
    /// A runner asks, at this time.
    Claim(Claim, u64),
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is written.
    Kept,
    /// It said nothing that is to be kept.
    Nothing,
    /// It speaks of another App's call.
    Foreign,
    /// The word on a claim, which is written.
    Claimed(Verdict),
}

/// One transaction, and the calls that it has read.
pub(super) struct Batch<'a> {
    kind: Kind,
    pub(super) transaction: Transaction<'a, Any>,
    calls: HashMap<CallId, Option<CallState>>,
    /// Callbacks that wait, of the Apps whose calls have ended here.
    pub(super) waiting: HashMap<(String, String), i64>,
    /// As many of one App may.
    pub(super) callbacks_max: i64,
}

/// What an event brought, as it stands in the database.
struct Documents {
    request: Option<String>,
    answer: Option<String>,
    /// What they and the log weigh.
    bytes: i64,
}

impl Documents {
    fn of(applied: &Applied) -> Self {
        let request = applied.request.as_ref().map(rows::to_document);
        let answer = applied.answer.as_ref().and_then(Option::as_ref).map(rows::to_document);
        let log = applied.log.as_ref().map(|(_, log)| without_nul(log));
        let bytes = [&request, &answer, &log].into_iter().flatten().map(String::len).sum::<usize>();
        Self { request, answer, bytes: i64::try_from(bytes).unwrap_or(i64::MAX) }
    }
}

impl Store {
    /// Writes all of these in their order, or none; says what became of each.
    pub async fn apply(&self, entries: &[Entry]) -> Result<Vec<Outcome>, StoreError> {
        let writing = Box::pin(self.apply_at_once(entries));
        let written = tokio::time::timeout(BATCH_TIMEOUT, writing).await;
        written.unwrap_or(Err(StoreError::TimedOut(BATCH_TIMEOUT)))
    }

    async fn apply_at_once(&self, entries: &[Entry]) -> Result<Vec<Outcome>, StoreError> {
        let mut batch = self.begin().await?;
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            outcomes.push(match entry {
                Entry::Call(event) => batch.call(event).await?,
                Entry::App(event) => batch.app(event).await?,
                Entry::Fn(event) => batch.function(event).await?,
                Entry::Claim(claim, at_ms) => batch.claim(claim, *at_ms).await?,
            });
        }
        batch.transaction.commit().await?;
        Ok(outcomes)
    }

    pub(super) async fn begin(&self) -> Result<Batch<'static>, StoreError> {
        let transaction = self.writes.begin().await?;
        let (calls, waiting) = (HashMap::new(), HashMap::new());
        Ok(Batch { kind: self.kind, transaction, calls, waiting, callbacks_max: self.callbacks_max })
    }
}

impl Batch<'_> {
    /// The call as this transaction sees it.
    pub(super) async fn load(&mut self, id: CallId) -> Result<Option<CallState>, StoreError> {
        if let Some(known) = self.calls.get(&id) {
            return Ok(known.clone());
        }
        let sql = if self.kind == Kind::Postgres { LOAD_LOCKED } else { LOAD };
        let row = sqlx::query(sql).bind(id.to_string()).fetch_optional(&mut *self.transaction).await?;
        let state = row.as_ref().map(rows::state).transpose()?;
        self.calls.insert(id, state.clone());
        Ok(state)
    }

    async fn call(&mut self, event: &CallEvent) -> Result<Outcome, StoreError> {
        let known = self.load(event.id).await?;
        if known.as_ref().is_some_and(|known| known.namespace != event.namespace || known.app != event.app) {
            return Ok(Outcome::Foreign);
        }
        let is_new = known.is_none();
        let before = known.clone();
        let Some(applied) = apply(known, event.clone()) else { return Ok(Outcome::Nothing) };
        let news = applied.request.is_some() || applied.answer.is_some() || applied.log.is_some();
        if before.as_ref() != Some(&applied.state) || news {
            self.write(&applied, is_new).await?;
        }
        if before.is_none_or(|before| before.callback().is_none()) {
            self.decide_callback(&applied.state).await?;
        }
        self.calls.insert(event.id, Some(applied.state));
        Ok(Outcome::Kept)
    }

    async fn write(&mut self, applied: &Applied, is_new: bool) -> Result<(), StoreError> {
        if is_new {
            self.insert(applied).await?;
            return self.log(applied).await;
        }
        // The update weighs what stands there.
        self.log(applied).await?;
        self.update(applied).await
    }

    async fn log(&mut self, applied: &Applied) -> Result<(), StoreError> {
        if let Some((attempt, log)) = &applied.log {
            let query = sqlx::query(LOG).bind(applied.state.id.to_string()).bind(i64::from(*attempt));
            query.bind(without_nul(log)).execute(&mut *self.transaction).await?;
        }
        Ok(())
    }

    async fn insert(&mut self, applied: &Applied) -> Result<(), StoreError> {
        let (state, kept) = (&applied.state, Documents::of(applied));
        let taken: AnyRow = sqlx::query(NUMBER)
            .bind(state.namespace.clone())
            .bind(state.app.clone())
            .fetch_one(&mut *self.transaction)
            .await?;
        sqlx::query(INSERT)
            .bind(state.id.to_string())
            .bind(state.namespace.clone())
            .bind(state.app.clone())
            .bind(state.fn_name.clone())
            .bind(taken.try_get::<i64, _>("last_number")?)
            .bind(state.status.as_str())
            .bind(state.source.map(|source| rows::source(source).to_owned()))
            .bind(state.retry_of.map(|id| id.to_string()))
            .bind(signed(state.submitted_ms))
            .bind(state.started_ms.map(signed))
            .bind(state.completed_ms.map(signed))
            .bind(i64::from(state.attempts))
            .bind(i64::from(state.started_attempt))
            .bind(i64::from(state.failed_attempt))
            .bind(i64::from(state.answer_attempt))
            .bind(state.revision.as_deref().map(without_nul))
            .bind(state.runner.as_deref().map(without_nul))
            .bind(state.reason.as_deref().map(without_nul))
            .bind(signed(state.heard_ms))
            .bind(rows::tells(state.tells))
            .bind(kept.request)
            .bind(kept.answer)
            .bind(kept.bytes)
            .execute(&mut *self.transaction)
            .await?;
        Ok(())
    }

    async fn update(&mut self, applied: &Applied) -> Result<(), StoreError> {
        let (state, kept) = (&applied.state, Documents::of(applied));
        sqlx::query(UPDATE)
            .bind(state.id.to_string())
            .bind(state.status.as_str())
            .bind(state.source.map(|source| rows::source(source).to_owned()))
            .bind(state.retry_of.map(|id| id.to_string()))
            .bind(signed(state.submitted_ms))
            .bind(state.started_ms.map(signed))
            .bind(state.completed_ms.map(signed))
            .bind(i64::from(state.attempts))
            .bind(i64::from(state.started_attempt))
            .bind(i64::from(state.failed_attempt))
            .bind(i64::from(state.answer_attempt))
            .bind(state.revision.as_deref().map(without_nul))
            .bind(state.runner.as_deref().map(without_nul))
            .bind(state.reason.as_deref().map(without_nul))
            .bind(kept.request)
            .bind(i64::from(applied.answer.is_some()))
            .bind(kept.answer)
            .bind(signed(state.heard_ms))
            .bind(rows::tells(state.tells))
            .execute(&mut *self.transaction)
            .await?;
        Ok(())
    }

    async fn claim(&mut self, claim: &Claim, at_ms: u64) -> Result<Outcome, StoreError> {
        // A call of that id that is another App's says nothing about this one's.
        let state = self.load(claim.id).await?;
        let state = state.filter(|state| state.namespace == claim.namespace && state.app == claim.app);
        let row = sqlx::query(CLAIMANT)
            .bind(claim.id.to_string())
            .bind(claim.namespace.clone())
            .bind(claim.app.clone())
            .fetch_optional(&mut *self.transaction)
            .await?;
        let recorded = row.as_ref().map(claimant).transpose()?;
        let verdict = match decide(recorded.as_ref(), state.map(|state| state.status), claim) {
            // Another replica may have answered another publication since.
            Verdict::Run if !self.record(claim, at_ms).await? => Verdict::Duplicate,
            verdict => verdict,
        };
        Ok(Outcome::Claimed(verdict))
    }

    /// Whether the claim stands there now.
    async fn record(&mut self, claim: &Claim, at_ms: u64) -> Result<bool, StoreError> {
        let written = sqlx::query(CLAIM)
            .bind(claim.id.to_string())
            .bind(claim.namespace.clone())
            .bind(claim.app.clone())
            .bind(i64::from(claim.attempt))
            .bind(without_nul(&claim.claimant))
            .bind(signed(at_ms))
            .execute(&mut *self.transaction)
            .await?;
        Ok(written.rows_affected() > 0)
    }

    async fn app(&mut self, event: &AppEvent) -> Result<Outcome, StoreError> {
        let AppEvent { user_id: _, namespace, app, at_ms, retention_ms, record, deleted } = event;
        let record = match record {
            Record::Async => "Async",
            Record::All => "All",
        };
        let written = sqlx::query(APP)
            .bind(namespace.clone())
            .bind(app.clone())
            .bind(signed(*at_ms))
            .bind(retention_ms.map(signed))
            .bind(record)
            .bind(i64::from(*deleted))
            .execute(&mut *self.transaction)
            .await?;
        if written.rows_affected() == 0 {
            return Ok(Outcome::Nothing);
        }
        if *deleted {
            // Its queues are gone, and with them whatever would have ended its calls.
            let end = sqlx::query(END_OF_APP).bind(namespace.clone()).bind(app.clone()).bind(signed(*at_ms));
            end.execute(&mut *self.transaction).await?;
            self.end_callbacks(namespace, app, *at_ms).await?;
            self.calls.clear();
        }
        Ok(Outcome::Kept)
    }
}

fn claimant(row: &AnyRow) -> Result<Claimant, StoreError> {
    Ok(Claimant { attempt: rows::attempt(row, "attempt")?, claimant: row.try_get("claimant")? })
}
