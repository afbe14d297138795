//! Reading calls: one, many with a cursor, a log. Never writes.

use funcatron_broker::message::{CallId, RecordedAnswer, RecordedRequest};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::rows::{self, signed, state_columns, unsigned};
use super::{Store, StoreError};
use crate::state::{CallState, Status};

const BY_ID: &str =
    concat!("SELECT ", state_columns!(), ", request, answer, trimmed FROM calls WHERE id = $1");
const BY_NUMBER: &str = concat!(
    "SELECT ",
    state_columns!(),
    ", request, answer, trimmed FROM calls WHERE namespace = $1 AND app = $2 AND number = $3"
);
const LIST: &str = concat!(
    "SELECT ",
    state_columns!(),
    " FROM calls WHERE namespace = $1 AND app = $2 AND number < $3 \
     AND submitted_ms >= $4 AND submitted_ms < $5"
);

/// Newest first; a call has no more attempts than that.
const LOG_WEIGHTS: &str = "SELECT attempt, CAST(OCTET_LENGTH(log) AS BIGINT) AS bytes FROM call_logs \
     WHERE call_id = $1 ORDER BY attempt DESC LIMIT 101";
const LOGS: &str = "SELECT attempt, log FROM call_logs WHERE call_id = $1 AND attempt >= $2 \
     ORDER BY attempt LIMIT 101";

/// Bytes of logs read at once: the whole of sixteen attempts' logs, as much as a call's record may weigh besides.
const LOG_BYTES_SHOWN_MAX: i64 = 256 * 1024;

/// A call as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its number within its App, from 1 without a gap.
    pub number: u64,
    /// What is known of it.
    pub state: CallState,
    /// What was asked for.
    pub request: Option<RecordedRequest>,
    /// What came of it.
    pub answer: Option<RecordedAnswer>,
    /// Whether request, answer and logs had to make room for those of newer calls.
    pub is_trimmed: bool,
}

/// Logs of a call's attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logs {
    /// The last attempts and what each left, in their order.
    pub attempts: Vec<(u32, String)>,
    /// How many earlier ones there are besides.
    pub left_out: usize,
}

/// How a call is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKey {
    /// By its id.
    Id(CallId),
    /// By its number within its App.
    Number(u64),
}

/// Which calls of an App.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Of this Fn alone.
    pub fn_name: Option<String>,
    /// Of this status alone.
    pub status: Option<Status>,
    /// Submitted then or later.
    pub from_ms: Option<u64>,
    /// Submitted earlier.
    pub to_ms: Option<u64>,
    /// With numbers below this one.
    pub below: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// Calls, newest first, without their requests and answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Number and state of each.
    pub calls: Vec<(u64, CallState)>,
    /// Where the next page begins, if there is one.
    pub below: Option<u64>,
}

impl Store {
    /// Whether an App is known: it stands by the operator's word, or has calls.
    pub async fn knows_app(&self, namespace: &str, app: &str) -> Result<bool, StoreError> {
        let (namespace, app) = (namespace.to_owned(), app.to_owned());
        let standing = sqlx::query("SELECT app FROM apps WHERE namespace = $1 AND app = $2 AND deleted = 0")
            .bind(namespace.clone())
            .bind(app.clone());
        if standing.fetch_optional(&self.reads).await?.is_some() {
            return Ok(true);
        }
        let any = sqlx::query("SELECT id FROM calls WHERE namespace = $1 AND app = $2 LIMIT 1");
        Ok(any.bind(namespace).bind(app).fetch_optional(&self.reads).await?.is_some())
    }

    /// A call of an App.
    pub async fn call(&self, namespace: &str, app: &str, key: CallKey) -> Result<Option<Call>, StoreError> {
        let call = match key {
            CallKey::Id(id) => self.call_by_id(id).await?,
            CallKey::Number(number) => {
                let query = sqlx::query(BY_NUMBER).bind(namespace.to_owned()).bind(app.to_owned());
                let row = query.bind(signed(number)).fetch_optional(&self.reads).await?;
                row.as_ref().map(read_call).transpose()?
            }
        };
        Ok(call.filter(|call| call.state.namespace == namespace && call.state.app == app))
    }

    /// A call by its id, whichever App's it is.
    pub async fn call_by_id(&self, id: CallId) -> Result<Option<Call>, StoreError> {
        let row = sqlx::query(BY_ID).bind(id.to_string()).fetch_optional(&self.reads).await?;
        row.as_ref().map(read_call).transpose()
    }

    /// Calls of an App, newest first.
    pub async fn list(&self, namespace: &str, app: &str, query: &ListQuery) -> Result<Page, StoreError> {
        let ListQuery { fn_name, status, from_ms, to_ms, below, limit } = query;
        let status = status.map(|status| status.as_str().to_owned());
        let filters = [("fn", fn_name), ("status", &status)];
        let filters = filters.into_iter().filter_map(|(column, value)| Some((column, value.clone()?)));
        let (columns, values): (Vec<&str>, Vec<String>) = filters.unzip();
        // One more than asked for tells whether there is a next page.
        let wanted = usize::try_from(*limit).unwrap_or(usize::MAX);
        let mut query = sqlx::query(sqlx::AssertSqlSafe(list_sql(&columns)))
            .bind(namespace.to_owned())
            .bind(app.to_owned())
            .bind(below.map_or(i64::MAX, signed))
            .bind(from_ms.map_or(0, signed))
            .bind(to_ms.map_or(i64::MAX, signed));
        for value in values {
            query = query.bind(value);
        }
        let rows = query.bind(i64::from(*limit) + 1).fetch_all(&self.reads).await?;
        let read = rows.iter().take(wanted).map(|row| Ok((number(row)?, rows::state(row)?)));
        let calls = read.collect::<Result<Vec<_>, StoreError>>()?;
        let below = calls.last().filter(|_| rows.len() > wanted).map(|(number, _)| *number);
        Ok(Page { calls, below })
    }

    /// The logs of a call's last attempts, as many as are shown at once.
    pub async fn logs(&self, id: CallId) -> Result<Logs, StoreError> {
        let rows = sqlx::query(LOG_WEIGHTS).bind(id.to_string()).fetch_all(&self.reads).await?;
        let read = rows.iter().map(|row| Ok((rows::attempt(row, "attempt")?, row.try_get("bytes")?)));
        let weights = read.collect::<Result<Vec<(u32, i64)>, StoreError>>()?;
        let shown = shown(&weights);
        let Some((first, _)) = shown.last() else { return Ok(Logs::default()) };
        let query = sqlx::query(LOGS).bind(id.to_string()).bind(i64::from(*first));
        let rows = query.fetch_all(&self.reads).await?;
        let read = rows.iter().map(|row| Ok((rows::attempt(row, "attempt")?, row.try_get("log")?)));
        let attempts = read.collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Logs { attempts, left_out: weights.len() - shown.len() })
    }
}

/// The first of these logs that weigh no more than is shown at once; the very first in any case.
fn shown(weights: &[(u32, i64)]) -> &[(u32, i64)] {
    let mut bytes = 0;
    let fits = |(_, weight): &&(u32, i64)| {
        bytes += weight;
        bytes <= LOG_BYTES_SHOWN_MAX
    };
    let count = weights.iter().take_while(fits).count();
    &weights[..count.max(1).min(weights.len())]
}

/// The statement that compares these columns, and no others: each filter has an index, which an `OR` would hide.
fn list_sql(columns: &[&str]) -> String {
    let first = 6;
    let filters = columns.iter().zip(first..).map(|(column, place)| format!(" AND {column} = ${place}"));
    let filters: String = filters.collect();
    format!("{LIST}{filters} ORDER BY number DESC LIMIT ${}", first + columns.len())
}

fn read_call(row: &AnyRow) -> Result<Call, StoreError> {
    Ok(Call {
        number: number(row)?,
        state: rows::state(row)?,
        request: rows::document(row, "request")?,
        answer: rows::document(row, "answer")?,
        is_trimmed: row.try_get::<i64, _>("trimmed")? != 0,
    })
}

fn number(row: &AnyRow) -> Result<u64, StoreError> {
    Ok(unsigned(row.try_get("number")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_of_the_last_logs_are_shown_as_fit_and_one_at_least() {
        let count = |bytes: i64, attempts: u32| {
            let weights: Vec<(u32, i64)> = (1..=attempts).rev().map(|attempt| (attempt, bytes)).collect();
            let shown = shown(&weights);
            assert!(shown.is_empty() || shown[0].0 == attempts, "the last is shown");
            shown.len()
        };
        assert_eq!((count(1, 0), count(1, 101), count(16 * 1024, 101)), (0, 101, 16));
        assert_eq!((count(LOG_BYTES_SHOWN_MAX, 2), count(LOG_BYTES_SHOWN_MAX + 1, 2)), (1, 1));
    }
}
