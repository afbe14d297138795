//! What a Route asks for, in plain types of our own, so that callers can hold it in any form.
//! Never checks anything: `compile` does.

use std::collections::BTreeMap;
use std::fmt;

use funcatron_crds::Direct;
use serde::{Deserialize, Serialize};

/// One Route, as it is to be compiled.
#[derive(Clone, Copy, Debug)]
pub struct RouteSource<'a> {
    /// The Route's namespace: the tenant.
    pub namespace: &'a str,
    /// The Route's name.
    pub name: &'a str,
    /// The App that the Route belongs to.
    pub app: &'a str,
    /// The Route's own hostnames, else its App's; empty = the gateway's own hostname, below `/<namespace>`.
    pub hostnames: &'a [String],
    /// `spec.basePath`; stands above the document's.
    pub base_path: Option<&'a str>,
    /// Creation time, in milliseconds since 1970: age decides conflicts.
    pub created_ms: i64,
    /// The Route's uid, which tells a Route made anew from the one before it.
    pub uid: &'a str,
    /// What to match, and who answers.
    pub rules: Rules<'a>,
}

/// Where a Route's rules come from.
#[derive(Clone, Copy, Debug)]
pub enum Rules<'a> {
    /// From an OpenAPI or Swagger document.
    OpenApi {
        /// JSON or YAML, perhaps gzip.
        document: &'a [u8],
        /// `spec.fn`: who answers operations for which nobody else is named.
        fn_default: Option<&'a str>,
        /// `spec.operations`, by operationId.
        operations: &'a BTreeMap<String, OperationOverride>,
    },
    /// Written out, in Gateway API's words.
    Explicit(&'a [ExplicitRule]),
}

/// How a rule's calls are made, where that is not as their Fn or their request has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallPolicy {
    /// The call's timeout, counted from submit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether it may run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// Whether bodies stream past the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<Direct>,
    /// Whether it is answered at once and runs later.
    #[serde(default, rename = "async", skip_serializing_if = "std::ops::Not::not")]
    pub is_async: bool,
}

/// What a Route says of one operation of its document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationOverride {
    /// The Fn that answers.
    #[serde(rename = "fn", default, skip_serializing_if = "Option::is_none")]
    pub fn_name: Option<String>,
    /// How its calls are made.
    #[serde(flatten)]
    pub call: CallPolicy,
}

/// One explicit rule: any of its matches leads to its backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplicitRule {
    /// Alternatives; none = everything (Gateway API's default).
    #[serde(default)]
    pub matches: Vec<RouteMatch>,
    /// Who answers, by weight.
    pub backends: Vec<Backend>,
    /// How its calls are made.
    #[serde(flatten)]
    pub call: CallPolicy,
}

/// Conditions on a request, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteMatch {
    /// None = `PathPrefix /`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// None = every method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Headers that must all be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
}

/// A condition on a request's path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathMatch {
    /// How `value` is compared.
    #[serde(rename = "type")]
    pub kind: PathMatchType,
    /// The path, below the Route's base path; begins with `/`.
    pub value: String,
}

/// How a path is compared: by whole segments, case kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatchType {
    /// The whole path, its trailing slash included.
    Exact,
    /// The path's first segments; a trailing slash of the value plays no part.
    PathPrefix,
}

/// A header that must be there with exactly this value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    /// The header's name, in any case.
    pub name: String,
    /// The header's value, byte by byte.
    pub value: String,
}

/// A Fn that answers a share of the calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The Fn, in the Route's own namespace.
    #[serde(rename = "fn")]
    pub fn_name: String,
    /// Its share, relative to its siblings'.
    #[serde(default = "one")]
    pub weight: u32,
}

/// Gateway API's default weight.
fn one() -> u32 {
    1
}

/// A Route's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteKey {
    /// The Route's namespace.
    pub namespace: String,
    /// The Route's name.
    pub name: String,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
