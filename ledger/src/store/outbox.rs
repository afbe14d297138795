//! Callbacks that are to be delivered: decided in the transaction that ends their call, taken under a lease by whichever
//! replica has room, and kept with their call as what became of them.
//!
//! Never delivers, and never decides when to try again.

use funcatron_broker::message::{CallId, CallbackTarget};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::rows::{self, signed, unsigned, without_nul};
use super::write::Batch;
use super::{Store, StoreError};
use crate::callback::shown;
use crate::state::{CallState, CallbackKind};

/// Callbacks of one App that may wait at once. A receiver that is away for a day must not fill everybody's disk, at up to
/// 2 KiB each.
pub(super) const WAITING_PER_APP_MAX: i64 = 10_000;
/// An error is a sentence.
const ERROR_BYTES_KEPT: usize = 512;

const WAITING: &str = "SELECT COUNT(*) AS waiting FROM (SELECT 1 FROM callbacks WHERE namespace = $1 AND app = $2 \
     AND due_ms IS NOT NULL LIMIT $3) AS held";
const DECIDE: &str = "INSERT INTO callbacks (call_id, kind, namespace, app, target, shown, status, attempts, last_error, \
     at_ms, due_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10) ON CONFLICT (call_id, kind) DO NOTHING";
const END: &str = "UPDATE callbacks SET status = 'dropped', last_error = 'its App was deleted', target = NULL, \
     due_ms = NULL, at_ms = $3 WHERE namespace = $1 AND app = $2 AND due_ms IS NOT NULL";
const END_FNS: &str =
    "UPDATE fns SET deleted = 1, at_ms = $3 WHERE namespace = $1 AND app = $2 AND at_ms <= $3";
const APPS: &str = "SELECT namespace, app, COUNT(*) AS waiting, MIN(due_ms) AS due_ms FROM callbacks \
     WHERE due_ms IS NOT NULL GROUP BY namespace, app";
// The condition stands outside too: another replica may have taken it since the inner one was looked at.
const TAKE: &str = "UPDATE callbacks SET attempts = attempts + 1, due_ms = $1 WHERE due_ms <= $2 AND (call_id, kind) IN \
     (SELECT call_id, kind FROM callbacks WHERE namespace = $3 AND app = $4 AND due_ms <= $2 \
     ORDER BY due_ms LIMIT $5) RETURNING call_id, kind, namespace, app, target, attempts";
// Whoever has taken it since counts further: what an older holder says of it is late.
const SETTLE: &str = "UPDATE callbacks SET status = $4, attempts = $5, last_error = $6, at_ms = $7, due_ms = $8, \
     target = CASE WHEN $4 = 'waiting' THEN target ELSE NULL END \
     WHERE call_id = $1 AND kind = $2 AND attempts = $3 AND due_ms IS NOT NULL";
const OF_CALL: &str =
    "SELECT kind, shown, status, attempts, last_error, at_ms FROM callbacks WHERE call_id = $1 ORDER BY kind";

/// How far a callback has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackStatus {
    /// It is to be delivered, perhaps again.
    Waiting,
    /// It was taken.
    Delivered,
    /// It was given up on.
    Failed,
    /// It was never tried, or not to its end.
    Dropped,
}

impl CallbackStatus {
    const ALL: [Self; 4] = [Self::Waiting, Self::Delivered, Self::Failed, Self::Dropped];

    /// As it stands in the database and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// A callback that is to be delivered now, by whoever holds this, within its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueCallback {
    /// Whose end is told.
    pub call: CallId,
    /// Which end.
    pub kind: CallbackKind,
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// Who is told.
    pub target: CallbackTarget,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// How far the callback has come.
    pub status: CallbackStatus,
    /// Attempts that count so far.
    pub attempts: u32,
    /// What stood in its way.
    pub error: Option<String>,
    /// When it is tried again; there is a time while it waits, and none after.
    pub due_ms: Option<u64>,
}

/// A callback as it is shown with its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCallback {
    /// Which end.
    pub kind: CallbackKind,
    /// Who is told, without what may be a credential.
    pub target: String,
    /// How far it has come.
    pub status: CallbackStatus,
    /// Attempts that count so far.
    pub attempts: u32,
    /// What stood in its way last.
    pub last_error: Option<String>,
    /// When it came so far.
    pub at_ms: u64,
}

/// An App of which callbacks wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingApp {
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// How many wait.
    pub waiting: u64,
    /// When the first of them is to be tried.
    pub due_ms: u64,
}

impl Batch<'_> {
    /// A call has ended: its callback, if its Fn asks for one, is there with the end itself or not at all.
    pub(super) async fn decide_callback(&mut self, state: &CallState) -> Result<(), StoreError> {
        let Some(kind) = state.callback() else { return Ok(()) };
        let of = (&*state.namespace, &*state.app, &*state.fn_name);
        let Some(target) = self.callback_target(of, kind == CallbackKind::Success).await? else {
            return Ok(());
        };
        let has_room = self.take_room(&state.namespace, &state.app).await?;
        let at_ms = signed(state.completed_ms.unwrap_or(state.heard_ms));
        let too_many = format!("{} callbacks of its App were waiting already", self.callbacks_max);
        let (status, error) = match has_room {
            true => (CallbackStatus::Waiting, None),
            false => (CallbackStatus::Dropped, Some(too_many)),
        };
        sqlx::query(DECIDE)
            .bind(state.id.to_string())
            .bind(rows::kind(kind))
            .bind(state.namespace.clone())
            .bind(state.app.clone())
            .bind(has_room.then(|| rows::to_document(&target)))
            .bind(without_nul(&shown(&target)))
            .bind(status.as_str())
            .bind(error)
            .bind(at_ms)
            .bind(has_room.then_some(at_ms))
            .execute(&mut *self.transaction)
            .await?;
        Ok(())
    }

    /// Whether one more callback of an App may wait; it then does.
    async fn take_room(&mut self, namespace: &str, app: &str) -> Result<bool, StoreError> {
        let key = (namespace.to_owned(), app.to_owned());
        let waiting = match self.waiting.get(&key) {
            Some(waiting) => *waiting,
            None => {
                let query = sqlx::query(WAITING).bind(key.0.clone()).bind(key.1.clone());
                let row = query.bind(self.callbacks_max).fetch_one(&mut *self.transaction).await?;
                row.try_get("waiting")?
            }
        };
        let has_room = waiting < self.callbacks_max;
        self.waiting.insert(key, waiting + i64::from(has_room));
        Ok(has_room)
    }

    /// The App is gone, and with it whoever wanted to be told.
    pub(super) async fn end_callbacks(
        &mut self,
        namespace: &str,
        app: &str,
        at_ms: u64,
    ) -> Result<(), StoreError> {
        for sql in [END, END_FNS] {
            let query = sqlx::query(sql).bind(namespace.to_owned()).bind(app.to_owned());
            query.bind(signed(at_ms)).execute(&mut *self.transaction).await?;
        }
        self.waiting.clear();
        Ok(())
    }
}

impl Store {
    /// The Apps of which callbacks wait.
    pub async fn apps_with_callbacks(&self) -> Result<Vec<WaitingApp>, StoreError> {
        let rows = sqlx::query(APPS).fetch_all(&self.reads).await?;
        let read = |row: &AnyRow| {
            Ok(WaitingApp {
                namespace: row.try_get("namespace")?,
                app: row.try_get("app")?,
                waiting: unsigned(row.try_get("waiting")?),
                due_ms: unsigned(row.try_get("due_ms")?),
            })
        };
        rows.iter().map(read).collect()
    }

    /// Takes what is due of an App, the oldest first, at most so many; nobody else gets them before `until_ms`, and
    /// afterwards whoever asks, since their holder is gone then.
    pub async fn take_callbacks(
        &self,
        app: &WaitingApp,
        now_ms: u64,
        until_ms: u64,
        limit: u32,
    ) -> Result<Vec<DueCallback>, StoreError> {
        let query = sqlx::query(TAKE).bind(signed(until_ms)).bind(signed(now_ms));
        let query = query.bind(app.namespace.clone()).bind(app.app.clone()).bind(i64::from(limit));
        let rows = query.fetch_all(&self.writes).await?;
        let target = |row: &AnyRow| {
            rows::document(row, "target")?.ok_or_else(|| rows::corrupt("target", "nothing, and it waits"))
        };
        let read = |row: &AnyRow| {
            Ok(DueCallback {
                call: rows::id("call_id", &row.try_get::<String, _>("call_id")?)?,
                kind: rows::parse_kind(&row.try_get::<String, _>("kind")?)?,
                namespace: row.try_get("namespace")?,
                app: row.try_get("app")?,
                target: target(row)?,
                attempt: rows::attempt(row, "attempts")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Writes what became of an attempt; `false` where somebody else has taken the callback since, or it is gone.
    pub async fn settle_callback(
        &self,
        due: &DueCallback,
        settled: &Settled,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let Settled { status, attempts, error, due_ms } = settled;
        let written = sqlx::query(SETTLE)
            .bind(due.call.to_string())
            .bind(rows::kind(due.kind))
            .bind(i64::from(due.attempt))
            .bind(status.as_str())
            .bind(i64::from(*attempts))
            .bind(error.as_deref().map(sentence))
            .bind(signed(now_ms))
            .bind(due_ms.map(signed))
            .execute(&self.writes)
            .await?;
        Ok(written.rows_affected() > 0)
    }

    /// The callbacks of a call, in the order of their kinds.
    pub async fn callbacks(&self, id: CallId) -> Result<Vec<ShownCallback>, StoreError> {
        let rows = sqlx::query(OF_CALL).bind(id.to_string()).fetch_all(&self.reads).await?;
        rows.iter().map(show).collect()
    }
}

fn show(row: &AnyRow) -> Result<ShownCallback, StoreError> {
    let status: String = row.try_get("status")?;
    let known = CallbackStatus::ALL.into_iter().find(|known| known.as_str() == status);
    Ok(ShownCallback {
        kind: rows::parse_kind(&row.try_get::<String, _>("kind")?)?,
        target: row.try_get("shown")?,
        status: known.ok_or_else(|| rows::corrupt("status", &status))?,
        attempts: rows::attempt(row, "attempts")?,
        last_error: row.try_get("last_error")?,
        at_ms: unsigned(row.try_get("at_ms")?),
    })
}

/// As much of an error as is kept.
fn sentence(error: &str) -> String {
    let end = error.floor_char_boundary(ERROR_BYTES_KEPT);
    without_nul(&error[..end])
}
