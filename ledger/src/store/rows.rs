//! Rows to types and back. Never runs a statement.

use funcatron_broker::message::{CallId, Source};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::StoreError;
use crate::state::{CallState, CallbackKind, Status, Tells};

/// The columns of a call's state.
macro_rules! state_columns {
    () => {
        "id, namespace, app, fn, number, status, source, retry_of, submitted_ms, started_ms, completed_ms, \
         attempts, started_attempt, failed_attempt, answer_attempt, revision, runner, reason, heard_ms, tells"
    };
}
pub(super) use state_columns;

pub(super) fn state(row: &AnyRow) -> Result<CallState, StoreError> {
    let text = |column: &str| row.try_get::<Option<String>, _>(column);
    let status: String = row.try_get("status")?;
    Ok(CallState {
        id: id("id", &row.try_get::<String, _>("id")?)?,
        namespace: row.try_get("namespace")?,
        app: row.try_get("app")?,
        fn_name: row.try_get("fn")?,
        status: Status::parse(&status).ok_or_else(|| corrupt("status", &status))?,
        source: text("source")?.map(|word| parse_source(&word)).transpose()?,
        retry_of: text("retry_of")?.map(|text| id("retry_of", &text)).transpose()?,
        submitted_ms: unsigned(row.try_get("submitted_ms")?),
        started_ms: row.try_get::<Option<i64>, _>("started_ms")?.map(unsigned),
        completed_ms: row.try_get::<Option<i64>, _>("completed_ms")?.map(unsigned),
        heard_ms: unsigned(row.try_get("heard_ms")?),
        attempts: attempt(row, "attempts")?,
        started_attempt: attempt(row, "started_attempt")?,
        failed_attempt: attempt(row, "failed_attempt")?,
        answer_attempt: attempt(row, "answer_attempt")?,
        revision: text("revision")?,
        runner: text("runner")?,
        reason: text("reason")?,
        tells: parse_tells(row.try_get("tells")?)?,
    })
}

pub(super) fn attempt(row: &AnyRow, column: &'static str) -> Result<u32, StoreError> {
    let number: i64 = row.try_get(column)?;
    u32::try_from(number).map_err(|_| corrupt(column, &number.to_string()))
}

pub(super) fn document<T: DeserializeOwned>(
    row: &AnyRow,
    column: &'static str,
) -> Result<Option<T>, StoreError> {
    let text: Option<String> = row.try_get(column)?;
    let read = text.map(|text| serde_json::from_str(&text)).transpose();
    read.map_err(|error| StoreError::Corrupt { column, reason: error.to_string() })
}

pub(super) fn to_document<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("texts and numbers are JSON")
}

pub(super) fn source(source: Source) -> &'static str {
    match source {
        Source::Http => "http",
        Source::Invoke => "invoke",
        Source::Schedule => "schedule",
        Source::Retry => "retry",
        Source::Event => "event",
        Source::Callback => "callback",
    }
}

fn parse_source(word: &str) -> Result<Source, StoreError> {
    use Source::{Callback, Event, Http, Invoke, Retry, Schedule};
    let all = [Http, Invoke, Schedule, Retry, Event, Callback];
    all.into_iter().find(|known| source(*known) == word).ok_or_else(|| corrupt("source", word))
}

pub(super) fn tells(tells: Tells) -> i64 {
    match tells {
        Tells::Unknown => 0,
        Tells::Yes => 1,
        Tells::No => 2,
    }
}

fn parse_tells(number: i64) -> Result<Tells, StoreError> {
    let all = [Tells::Unknown, Tells::Yes, Tells::No];
    let found = all.into_iter().find(|known| tells(*known) == number);
    found.ok_or_else(|| corrupt("tells", &number.to_string()))
}

pub(super) fn kind(kind: CallbackKind) -> &'static str {
    match kind {
        CallbackKind::Success => "success",
        CallbackKind::Failure => "failure",
    }
}

pub(super) fn parse_kind(word: &str) -> Result<CallbackKind, StoreError> {
    let all = [CallbackKind::Success, CallbackKind::Failure];
    all.into_iter().find(|known| kind(*known) == word).ok_or_else(|| corrupt("kind", word))
}

pub(super) fn id(column: &'static str, text: &str) -> Result<CallId, StoreError> {
    text.parse().map_err(|_| corrupt(column, text))
}

pub(super) fn corrupt(column: &'static str, value: &str) -> StoreError {
    StoreError::Corrupt { column, reason: format!("{value:?}") }
}

/// Neither database has unsigned numbers; what is beyond them is beyond all dates.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// PostgreSQL's texts hold every character but NUL, which tenants may well send.
pub(super) fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
