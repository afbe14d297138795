//! An App's table: which revision of each Fn serves, and which Fn each HTTP trigger starts. Written by the operator
//! (or `dev`), read by the gateway. Pure data; never holds a Secret's value.

use std::collections::BTreeMap;

use funcatron_crds::{AppLimits, AppSpec, AsyncRetry, Digest, FnAsync, RecordedCalls, RevisionName};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The largest request body of an App that does not say.
const BODY_BYTES_DEFAULT: u64 = 6 << 20;

/// All that a gateway knows of one App besides its Routes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AppTable {
    /// Of this table's form: [`AppTable::VERSION`].
    pub version: u32,
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// What its calls are held to.
    #[serde(flatten)]
    pub bounds: AppBounds,
    /// Its Fns by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fns: BTreeMap<String, FnEntry>,
    /// Its HTTP triggers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<HttpTriggerEntry>,
}

/// What an App's calls are held to.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AppBounds {
    /// Largest request body.
    pub body_bytes_max: u64,
    /// Calls in flight at once in each gateway; absent: as the gateway has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_max: Option<u32>,
    /// Whether the ledger is told of calls that somebody waits for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub records_all: bool,
}

impl AppBounds {
    /// A body's bound, and otherwise none.
    pub const fn with_body(bytes_max: u64) -> Self {
        Self { body_bytes_max: bytes_max, in_flight_max: None, records_all: false }
    }

    /// As an App asks for them.
    pub fn of(spec: &AppSpec) -> Self {
        let AppLimits { body_bytes, concurrency } = spec.limits.clone().unwrap_or_default();
        let body_bytes = body_bytes.and_then(|bytes| u64::try_from(bytes).ok());
        Self {
            body_bytes_max: body_bytes.unwrap_or(BODY_BYTES_DEFAULT),
            in_flight_max: concurrency.and_then(|calls| u32::try_from(calls).ok()),
            records_all: spec.record == Some(RecordedCalls::All),
        }
    }
}

/// One Fn.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FnEntry {
    /// The revision that serves; absent: nothing was loaded yet, and calls are answered 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionEntry>,
    /// Longest time from submit to answer.
    pub timeout_ms: u64,
    /// How calls are tried that nobody waits for.
    #[serde(default, rename = "async", skip_serializing_if = "AsyncPolicy::is_default")]
    pub detached: AsyncPolicy,
}

/// How calls are tried that nobody waits for.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AsyncPolicy {
    /// Attempts in all; absent: as the wire has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// Since its submission; an older one is not begun. Absent: as the wire has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_max_ms: Option<u64>,
}

impl AsyncPolicy {
    /// As a Fn asks for it. The CRD's rules have refused what is out of bounds.
    pub fn of(asked: Option<&FnAsync>) -> Self {
        let retry = asked.and_then(|asked| asked.retry.as_ref());
        // The waits between attempts are the queue's.
        let Some(AsyncRetry { max_attempts, backoff: _, max_age }) = retry else {
            return Self::default();
        };
        let age = max_age.as_ref().and_then(|age| age.to_duration().ok());
        let age_ms = age.and_then(|age| u64::try_from(age.as_millis()).ok());
        Self {
            attempts_max: max_attempts.and_then(|attempts| u32::try_from(attempts).ok()),
            age_max_ms: age_ms,
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The revision that serves a Fn.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RevisionEntry {
    /// Its name, and so its queue's.
    pub name: RevisionName,
    /// Whose shared runners are woken for it; absent: it has runners of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Its run document.
    pub run: Digest,
    /// Its code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Digest>,
    /// Calls at once in one process or container.
    pub concurrency: u32,
    /// Whether the Fn has a durable queue, which its runners consume as well.
    #[serde(default)]
    pub durable: bool,
}

/// An HTTP trigger, served at `/t/<namespace>/<app><source>`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HttpTriggerEntry {
    /// The Trigger.
    pub name: String,
    /// Begins with `/`; it and every path below it, by whole segments.
    pub source: String,
    /// The Fn that it starts.
    #[serde(rename = "fn")]
    pub fn_name: String,
    /// Whether a request is answered at once and runs later.
    #[serde(default, rename = "async", skip_serializing_if = "std::ops::Not::not")]
    pub is_async: bool,
}

/// Why bytes are no App's table.
#[derive(Debug, Error)]
pub enum AppTableReadError {
    /// Another form.
    #[error("cannot read the App's table")]
    Json(#[source] serde_json::Error),
    /// Written by a newer operator.
    #[error("the App's table has version {0}, and this gateway reads 1")]
    Version(u32),
}

impl AppTable {
    /// The form that this code reads and writes.
    pub const VERSION: u32 = 1;

    /// An App without Fns.
    pub fn new(namespace: impl Into<String>, app: impl Into<String>, bounds: AppBounds) -> Self {
        Self {
            version: Self::VERSION,
            namespace: namespace.into(),
            app: app.into(),
            bounds,
            fns: BTreeMap::new(),
            triggers: Vec::new(),
        }
    }

    /// Canonical JSON: the same table gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a table of strings, numbers and lists is always JSON")
    }

    /// Reads what `to_bytes` wrote; a form of another version is refused by its number.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, AppTableReadError> {
        #[derive(Deserialize)]
        struct Form {
            version: u32,
        }
        let form: Form = serde_json::from_slice(bytes).map_err(AppTableReadError::Json)?;
        if form.version != Self::VERSION {
            return Err(AppTableReadError::Version(form.version));
        }
        serde_json::from_slice(bytes).map_err(AppTableReadError::Json)
    }

    /// The Fn that the trigger path reaches: the longest source that is the path or a folder of it.
    pub fn find_trigger(&self, path: &str) -> Option<&HttpTriggerEntry> {
        self.triggers
            .iter()
            .filter(|t| covers(&t.source, path))
            .max_by_key(|t| t.source.trim_end_matches('/').len())
    }
}

/// Whole segments: `/hook` covers `/hook` and `/hook/x`, not `/hooks`.
fn covers(source: &str, path: &str) -> bool {
    let source = source.trim_end_matches('/');
    path.strip_prefix(source).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> AppTable {
        let trigger = |name: &str, source: &str| HttpTriggerEntry {
            name: name.into(),
            source: source.into(),
            fn_name: "invoice".into(),
            is_async: name == "deep",
        };
        let mut table = AppTable::new("team-a", "shop", AppBounds::with_body(6_291_456));
        table.triggers =
            vec![trigger("hook", "/hook"), trigger("deep", "/hook/deep/"), trigger("other", "/other")];
        let revision = RevisionEntry {
            name: RevisionName::parse("invoice-0123abcd").unwrap(),
            runtime: Some("python".into()),
            run: Digest::of(b"run"),
            code: Some(Digest::of(b"code")),
            concurrency: 1,
            durable: true,
        };
        table.fns.insert(
            "invoice".into(),
            FnEntry { revision: Some(revision), timeout_ms: 30_000, detached: AsyncPolicy::default() },
        );
        table.fns.insert(
            "new".into(),
            FnEntry {
                revision: None,
                timeout_ms: 1,
                detached: AsyncPolicy { attempts_max: Some(2), age_max_ms: Some(60_000) },
            },
        );
        table
    }

    #[test]
    fn what_the_operator_writes_the_gateway_reads() {
        let bytes = table().to_bytes();
        assert_eq!(AppTable::from_slice(&bytes).unwrap(), table());
        assert_eq!(bytes, table().to_bytes());
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        let mut newer = table();
        newer.version = 2;
        let refused = AppTable::from_slice(&newer.to_bytes()).unwrap_err();
        assert!(matches!(refused, AppTableReadError::Version(2)));
        assert!(
            AppTable::from_slice(br#"{"version":2,"unknown":[]}"#)
                .is_err_and(|e| e.to_string().contains('2'))
        );
        assert!(matches!(AppTable::from_slice(b"{}"), Err(AppTableReadError::Json(_))));
    }

    #[test]
    fn the_longest_source_of_whole_segments_wins() {
        let table = table();
        let found = |path: &str| table.find_trigger(path).map(|t| t.name.as_str());
        assert_eq!(found("/hook"), Some("hook"));
        assert_eq!(found("/hook/x"), Some("hook"));
        assert_eq!(found("/hook/deep"), Some("deep"));
        assert_eq!(found("/hook/deep/x"), Some("deep"));
        assert_eq!(found("/hooks"), None);
        assert_eq!(found("/"), None);
        let mut all = AppTable::new("a", "b", AppBounds::with_body(1));
        let (name, source, fn_name) = ("all".into(), "/".into(), "f".into());
        all.triggers = vec![HttpTriggerEntry { name, source, fn_name, is_async: false }];
        assert!(all.find_trigger("/anything").is_some());
    }
}
