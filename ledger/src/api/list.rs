//! Lists of calls: what is asked for, and cursors, which are opaque to whoever is handed one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::problem::Problem;
use crate::state::Status;
use crate::store::ListQuery;

/// Calls of a page, where the request does not say.
const LIMIT: u32 = 20;
/// Calls of a page: their states alone, so a page stays below 200 KiB.
const LIMIT_MAX: u32 = 100;
/// What a cursor begins with: another form would get another number.
const CURSOR_FORM: &str = "1:";

/// What a request for a list may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    #[serde(rename = "fn")]
    fn_name: Option<String>,
    status: Option<String>,
    from: Option<String>,
    to: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

impl Asked {
    /// Reads it; an error names the parameter and the fix.
    pub(crate) fn validate(&self) -> Result<ListQuery, Problem> {
        let limit = self.limit.unwrap_or(LIMIT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(bad(format!("limit is {limit}, and 1 to {LIMIT_MAX} are allowed")));
        }
        let status = self.status.as_deref().map(|word| {
            Status::parse(word).ok_or_else(|| {
                bad("status is none of queued, running, success, error, timeout, cancelled, dead".to_owned())
            })
        });
        Ok(ListQuery {
            fn_name: self.fn_name.clone(),
            status: status.transpose()?,
            from_ms: self.from.as_deref().map(|text| time("from", text)).transpose()?,
            to_ms: self.to.as_deref().map(|text| time("to", text)).transpose()?,
            below: self.cursor.as_deref().map(read_cursor).transpose()?,
            limit,
        })
    }

    /// The address of the next page, which asks for the same.
    pub(crate) fn next(&self, path: &str, below: u64) -> String {
        let Self { fn_name, status, from, to, cursor: _, limit } = self;
        let limit = limit.map(|limit| limit.to_string());
        let cursor = Some(URL_SAFE_NO_PAD.encode(format!("{CURSOR_FORM}{below}")));
        let all = [
            ("fn", fn_name),
            ("status", status),
            ("from", from),
            ("to", to),
            ("limit", &limit),
            ("cursor", &cursor),
        ];
        let said = all.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let pairs: Vec<String> = said
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
            .collect();
        format!("{path}?{}", pairs.join("&"))
    }
}

fn read_cursor(text: &str) -> Result<u64, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let number =
        bytes.and_then(|bytes| String::from_utf8(bytes).ok()?.strip_prefix(CURSOR_FORM)?.parse().ok());
    number.ok_or_else(|| bad("cursor is none that this ledger gave: take it from `next`".to_owned()))
}

/// RFC 3339, or Unix milliseconds.
fn time(name: &str, text: &str) -> Result<u64, Problem> {
    let ms = text.parse::<u64>().ok().or_else(|| {
        let time: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(time.as_millisecond()).ok()
    });
    ms.ok_or_else(|| {
        bad(format!("{name} is neither a time such as 2026-11-22T10:00:00Z nor Unix milliseconds"))
    })
}

fn bad(why: String) -> Problem {
    Problem::BadRequest(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_asks_for_the_same_from_where_this_one_ended() {
        let asked = Asked {
            fn_name: Some("mail".into()),
            from: Some("2026-11-22T10:00:00+01:00".into()),
            limit: Some(5),
            ..Asked::default()
        };
        let next = asked.next("/calls", 42);
        let uri: http::Uri = next.parse().unwrap();
        let read = axum::extract::Query::<Asked>::try_from_uri(&uri).unwrap().0;
        let query = read.validate().unwrap();
        assert_eq!(query, ListQuery { below: Some(42), ..asked.validate().unwrap() });
        assert_eq!((query.from_ms, query.limit), (Some(1_795_338_000_000), 5));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let why = |asked: Asked| match asked.validate() {
            Err(Problem::BadRequest(why)) => why,
            other => panic!("{other:?}"),
        };
        let text = |text: &str| Some(text.to_owned());
        assert!(why(Asked { limit: Some(101), ..Asked::default() }).contains("1 to 100"));
        assert!(why(Asked { limit: Some(0), ..Asked::default() }).contains("limit"));
        assert!(why(Asked { status: text("done"), ..Asked::default() }).contains("queued, running"));
        assert!(why(Asked { from: text("yesterday"), ..Asked::default() }).starts_with("from"));
        assert!(why(Asked { to: text("-1"), ..Asked::default() }).starts_with("to"));
        assert!(why(Asked { cursor: text("MTIz"), ..Asked::default() }).contains("`next`"));
    }
}
