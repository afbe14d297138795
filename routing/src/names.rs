//! Names a Route may use, checked once: hostnames, base paths, Fn names.
//! Never looks anything up.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::pattern::{Pattern, PatternError, Segment};

/// Names of all kinds are DNS labels of at most 40 characters.
const FN_NAME_BYTES_MAX: usize = 40;
/// RFC 1035: a name has at most 253 visible characters.
const HOSTNAME_BYTES_MAX: usize = 253;
/// RFC 1035: a label has at most 63.
const LABEL_BYTES_MAX: usize = 63;

/// Why a name cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum NameError {
    #[error("`*` would take every hostname")]
    EveryHostname,
    #[error("an IP address is no hostname")]
    IpAddress,
    #[error("not a DNS name of lower-case labels, with `*.` at most in front")]
    Hostname,
    #[error("not a DNS label of at most {FN_NAME_BYTES_MAX} characters")]
    FnName,
    #[error("{0}")]
    Path(#[from] PatternError),
    #[error("a base path holds no template")]
    TemplatedBasePath,
}

/// A hostname as Gateway API has it: exact, or `*.` and a suffix that stands for any depth of labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Hostname {
    Exact(String),
    /// The suffix with its leading dot, as `.example.com`.
    Wildcard(String),
}

impl TryFrom<String> for Hostname {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let text = text.to_ascii_lowercase();
        if text == "*" {
            return Err(NameError::EveryHostname);
        }
        let name = text.strip_prefix("*.").unwrap_or(&text);
        if name.len() > HOSTNAME_BYTES_MAX || !name.split('.').all(is_dns_label) {
            return Err(NameError::Hostname);
        }
        // As in browsers' URLs: what ends on a number is an IPv4 address or nothing.
        if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(NameError::IpAddress);
        }
        match text.strip_prefix('*') {
            Some(suffix) => Ok(Self::Wildcard(suffix.to_owned())),
            None => Ok(Self::Exact(text)),
        }
    }
}

impl From<Hostname> for String {
    fn from(hostname: Hostname) -> Self {
        hostname.to_string()
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl Hostname {
    /// Whether a request for `name` (lower case, no port) is one for this hostname.
    pub(crate) fn covers(&self, name: &str) -> bool {
        match self {
            Self::Exact(own) => own == name,
            Self::Wildcard(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
        }
    }
}

/// A path below which all of a Route's rules stand; `/` has no segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct BasePath {
    text: String,
    segments: Vec<Segment>,
}

impl TryFrom<String> for BasePath {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let pattern = Pattern::prefix(&text)?;
        if text.contains(['{', '}']) {
            return Err(NameError::TemplatedBasePath);
        }
        Ok(Self { text: pattern.canonical(), segments: pattern.segments().to_vec() })
    }
}

impl Default for BasePath {
    fn default() -> Self {
        Self { text: "/".to_owned(), segments: Vec::new() }
    }
}

impl From<BasePath> for String {
    fn from(base_path: BasePath) -> Self {
        base_path.as_str().to_owned()
    }
}

impl BasePath {
    /// `/` or a path without trailing slash.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Whether `name` can be that of a Fn.
pub(crate) fn check_fn_name(name: &str) -> Result<(), NameError> {
    if name.len() > FN_NAME_BYTES_MAX || !is_dns_label(name) {
        return Err(NameError::FnName);
    }
    Ok(())
}

fn is_dns_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty()
        && label.len() <= LABEL_BYTES_MAX
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hostname(text: &str) -> Result<Hostname, NameError> {
        Hostname::try_from(text.to_owned())
    }

    #[test]
    fn a_star_alone_is_refused() {
        assert_eq!(hostname("*"), Err(NameError::EveryHostname));
    }

    #[test]
    fn addresses_and_inner_stars_are_refused() {
        assert_eq!(hostname("10.0.0.1"), Err(NameError::IpAddress));
        assert_eq!(hostname("*.0.0.1"), Err(NameError::IpAddress));
        for bad in ["", "a..b", "a.*.b", "*a.b", "a_b.c", "-a.b", "a.b.", "host:80", "[::1]", "**.b", "a b"] {
            assert_eq!(hostname(bad), Err(NameError::Hostname), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_covers_any_depth_but_not_its_own_suffix() {
        let wildcard = hostname("*.Example.com").unwrap();
        assert_eq!(wildcard.to_string(), "*.example.com");
        assert!(wildcard.covers("a.example.com") && wildcard.covers("a.b.example.com"));
        assert!(!wildcard.covers("example.com") && !wildcard.covers("aexample.com"));
        assert!(!wildcard.covers(".example.com"));
    }

    #[test]
    fn a_base_path_loses_its_trailing_slash() {
        let base = |text: &str| BasePath::try_from(text.to_owned()).map(|base| base.as_str().to_owned());
        assert_eq!(base("/v1/").as_deref(), Ok("/v1"));
        assert_eq!(base("/").as_deref(), Ok("/"));
        assert_eq!(base("/%761").as_deref(), Ok("/v1"));
        assert_eq!(base("/a%2Fb%25").as_deref(), Ok("/a%2Fb%25"));
        for bad in ["", "v1", "//v1", "/v1//", "/a//b", "/../b", "/a?b", "/{v}"] {
            assert!(base(bad).is_err(), "{bad}");
        }
    }
}
