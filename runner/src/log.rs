//! How a shared host is asked for what a function writes during one call, and how it says so (docs/hosts.md). Pure.
//!
//! Only asked for where nobody waits: a call that somebody waits for costs nothing by it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Asks for the log on a request, and carries it in base64 on the answer. What speaks to the platform like this is
/// neither taken from a client nor passed on to one.
const LOG: HeaderName = HeaderName::from_static("fn-log");
const KEEP: HeaderValue = HeaderValue::from_static("keep");

/// Asks for the log.
pub(crate) fn ask(request: &mut HeaderMap) {
    request.insert(LOG, KEEP);
}

/// The log that came with an answer to a request that asked for it; none where nothing was written.
pub(crate) fn read(answer: &HeaderMap) -> Option<String> {
    let bytes = STANDARD.decode(answer.get(LOG)?.as_bytes()).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(LOG, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_log_is_read_whatever_is_in_it() {
        assert_eq!(read(&answer("c2FpZArDqQo=")).as_deref(), Some("said\né\n"));
        assert_eq!(read(&answer("/w==")).as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn what_is_no_log_is_none() {
        assert_eq!(read(&HeaderMap::new()), None);
        assert_eq!(read(&answer("no base64")), None);
    }
}
