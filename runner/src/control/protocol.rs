//! The words of the control socket (docs/hosts.md): one JSON object a line, each way. Never performs I/O.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The version of these words.
pub(crate) const WIRE: u32 = 1;
/// The longest line a host may send: an exit with what its calls had written, 16 Ki characters that may take twelve
/// bytes each as JSON, with room for what later versions add.
pub(crate) const EVENT_BYTES_MAX: usize = 256 * 1024;
/// The most of a function's own log that is passed on, in a report or a line of ours.
pub(crate) const LOG_BYTES_MAX: usize = 1024;

/// What the runner asks of a host.
#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub(crate) enum Request<'a> {
    /// The first line: the host kills what it was running and answers with its own.
    Hello {
        /// [`WIRE`].
        wire: u32,
    },
    /// Start a revision.
    Load {
        id: u64,
        #[serde(flatten)]
        load: &'a Load,
    },
    /// Stop a revision that runs no call.
    #[serde(rename_all = "camelCase")]
    Unload { id: u64, revision: &'a str, grace_ms: u64 },
    /// Stop a revision at once, whatever it runs.
    Kill { id: u64, revision: &'a str },
}

/// What to start, and how.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Load {
    /// The revision's name.
    pub revision: String,
    /// The directory with its code.
    pub code: PathBuf,
    /// What in it to call, in the runtime's own words.
    pub handler: String,
    /// Its whole environment. Holds secrets.
    pub env: BTreeMap<String, String>,
    /// Calls at once.
    pub concurrency: u32,
    /// Bound on its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// How long it may take to start.
    pub start_timeout_ms: u64,
    /// Where it is to listen.
    pub socket: PathBuf,
    /// Its App, for log lines.
    pub app: String,
    /// Its Fn, for log lines.
    #[serde(rename = "fn")]
    pub fn_name: String,
}

// The environment holds secrets: a derived Debug would put them into logs.
impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load")
            .field("revision", &self.revision)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// What a host says.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub(crate) enum HostEvent {
    /// Answers hello: nothing runs any more.
    Hello {
        /// The host's wire version.
        #[serde(default)]
        wire: Option<u32>,
    },
    /// A revision listens on its socket.
    Loaded { id: u64, revision: String },
    /// A revision could not be started (or a request could not be met).
    Failed {
        id: u64,
        #[serde(default)]
        reason: String,
        #[serde(default)]
        log: String,
    },
    /// A request made no sense to the host.
    Error {
        #[serde(default)]
        id: Option<u64>,
        #[serde(default)]
        reason: String,
    },
    /// A revision has been stopped.
    Unloaded { id: u64 },
    /// A revision has been killed; what its calls had written, by call.
    Killed {
        id: u64,
        #[serde(default)]
        calls: BTreeMap<String, String>,
    },
    /// A revision's process ended by itself.
    Exited {
        revision: String,
        #[serde(default)]
        code: Option<i32>,
        #[serde(default)]
        signal: Option<String>,
        #[serde(default)]
        log: String,
        #[serde(default)]
        calls: BTreeMap<String, String>,
    },
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

/// Cuts a function's log to its last [`LOG_BYTES_MAX`] bytes, at a character.
pub(crate) fn log_tail(log: &str) -> &str {
    let mut from = log.len().saturating_sub(LOG_BYTES_MAX);
    while !log.is_char_boundary(from) {
        from += 1;
    }
    &log[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load {
            revision: "hello-12345678".into(),
            code: "/run/funcatron/code/ab".into(),
            handler: "func.handler".into(),
            env: BTreeMap::from([("TOKEN".into(), "hunter2".into())]),
            concurrency: 4,
            memory_bytes: None,
            start_timeout_ms: 5000,
            socket: "/run/funcatron/w/1.sock".into(),
            app: "shop".into(),
            fn_name: "hello".into(),
        }
    }

    #[test]
    fn a_load_is_one_flat_line() {
        let line = serde_json::to_string(&Request::Load { id: 7, load: &load() }).unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["op"], "load");
        assert_eq!(value["id"], 7);
        assert_eq!(value["fn"], "hello");
        assert_eq!(value["startTimeoutMs"], 5000);
        assert!(!line.contains('\n'));
    }

    #[test]
    fn an_unload_says_its_grace() {
        let line = serde_json::to_string(&Request::Unload { id: 1, revision: "a-1", grace_ms: 5 }).unwrap();
        assert_eq!(line, r#"{"op":"unload","id":1,"revision":"a-1","graceMs":5}"#);
    }

    #[test]
    fn secrets_never_show_in_debug() {
        assert!(!format!("{:?}", load()).contains("hunter2"));
        assert!(!format!("{:?}", Request::Load { id: 1, load: &load() }).contains("hunter2"));
    }

    #[test]
    fn words_of_a_later_version_are_no_error() {
        let event: HostEvent = serde_json::from_str(r#"{"event":"metrics","rss":1}"#).unwrap();
        assert_eq!(event, HostEvent::Unknown);
        let event: HostEvent =
            serde_json::from_str(r#"{"event":"loaded","id":1,"revision":"a","pid":7,"new":1}"#).unwrap();
        assert_eq!(event, HostEvent::Loaded { id: 1, revision: "a".into() });
    }

    #[test]
    fn a_log_is_cut_to_its_end_at_a_character() {
        let log = format!("{}é{}", "a".repeat(2000), "b".repeat(LOG_BYTES_MAX - 1));
        assert_eq!(log_tail(&log), "b".repeat(LOG_BYTES_MAX - 1));
        assert_eq!(log_tail("short"), "short");
    }
}
