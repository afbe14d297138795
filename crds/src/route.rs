//! `Route`: which HTTP requests reach which Fns, from an OpenAPI document or in Gateway API's words.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ConfigMapKeyRef, Timeout, schema};

/// What runs later has nobody to stream to.
const ASYNC_OR_DIRECT_RULE: &str =
    "!(has(self.async) && self.async && has(self.direct) && self.direct == 'Always')";
const ASYNC_OR_DIRECT_MESSAGE: &str =
    "async: nobody waits for what runs later; remove it, or set `direct` to `Auto` or `Never`";

/// Rules that send HTTP requests to Fns. Exactly one of `openapi` and `rules` is set.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(group = "funcatron.dev", version = "v1alpha1", kind = "Route", namespaced, status = "RouteStatus")]
#[kube(category = "funcatron", shortname = "froute", plural = "routes", derive = "PartialEq")]
#[kube(
    doc = "Which HTTP requests reach which Fns: from an OpenAPI document, or by rules in Gateway API's words."
)]
#[kube(validation = Rule::new(schema::NAME_RULE).message(schema::NAME_MESSAGE))]
#[kube(printcolumn(name = "App", type_ = "string", json_path = ".spec.app"))]
#[kube(printcolumn(
    name = "Ready",
    type_ = "string",
    json_path = r#".status.conditions[?(@.type=="Ready")].status"#
))]
#[kube(printcolumn(
    name = "Reason",
    type_ = "string",
    json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
))]
#[kube(printcolumn(name = "URL", type_ = "string", json_path = ".status.urls[0]"))]
#[kube(printcolumn(name = "Operations", type_ = "integer", json_path = ".status.operations"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.openapi) != has(self.rules)")
        .message("spec: set exactly one of `openapi` and `rules`")
)]
#[x_kube(
    validation = Rule::new("!has(self.basePath) || has(self.openapi)")
        .message("spec.basePath: goes with `openapi` only; write it into the rules' paths")
)]
#[x_kube(
    validation = Rule::new("!has(self.fn) || has(self.openapi)")
        .message("spec.fn: goes with `openapi` only; name the Fn in the rules' backends")
)]
#[x_kube(
    validation = Rule::new("!has(self.operations) || has(self.openapi)")
        .message("spec.operations: goes with `openapi` only; a rule has its own backends and timeout")
)]
#[x_kube(
    validation = Rule::new("!has(self.operations) || self.operations.all(id, size(id) >= 1 && size(id) <= 255)")
        .message("spec.operations: an operationId has 1 to 255 characters")
)]
pub struct RouteSpec {
    /// The App it belongs to, in the same namespace.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    #[x_kube(validation = Rule::new("self == oldSelf").message(schema::APP_MESSAGE))]
    pub app: String,
    /// Hostnames it answers on; absent: its App's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::hostnames")]
    pub hostnames: Vec<String>,
    /// Put before every path; absent: the document's own, else `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(schema::PATH_RULE).message(schema::PATH_MESSAGE))]
    pub base_path: Option<String>,
    /// An OpenAPI 3.0, 3.1 or Swagger 2.0 document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openapi: Option<OpenApiSource>,
    /// The Fn of every operation that names none.
    #[serde(default, rename = "fn", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    pub fn_name: Option<String>,
    /// Settings by operationId.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 1000))]
    pub operations: BTreeMap<String, OperationRule>,
    /// Explicit rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub rules: Vec<RouteRule>,
}

/// Where the document is. Exactly one field is set.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.inline) != has(self.configMapKeyRef)")
        .message("openapi: set exactly one of `inline` and `configMapKeyRef`")
)]
pub struct OpenApiSource {
    /// The text itself, YAML or JSON, at most 262,144 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262_144))]
    pub inline: Option<String>,
    /// A key of a ConfigMap: text in `data`, or gzip or text in `binaryData`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<ConfigMapKeyRef>,
}

/// What a Route says of one operation.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(ASYNC_OR_DIRECT_RULE).message(ASYNC_OR_DIRECT_MESSAGE))]
pub struct OperationRule {
    /// Its Fn.
    #[serde(default, rename = "fn", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    pub fn_name: Option<String>,
    /// Its timeout, instead of the Fn's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// Whether a call may run again when its runner or the broker is lost; default: as its HTTP method has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// Whether bodies stream past the broker; default: the document's `x-funcatron-direct`, else `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<Direct>,
    /// Whether it is answered 202 at once and runs later.
    #[serde(default, rename = "async", skip_serializing_if = "Option::is_none")]
    pub is_async: Option<bool>,
}

/// Requests that match any of `matches` go to the backends, by weight.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.backends.exists(backend, !has(backend.weight) || backend.weight > 0)")
        .message("backends: give at least one a weight above 0")
)]
#[x_kube(validation = Rule::new(ASYNC_OR_DIRECT_RULE).message(ASYNC_OR_DIRECT_MESSAGE))]
pub struct RouteRule {
    /// Alternatives; absent: every path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub matches: Vec<RouteMatch>,
    /// Where its requests go.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub backends: Vec<Backend>,
    /// Its timeout, instead of the Fn's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// Whether a call may run again when its runner or the broker is lost; default: as its HTTP method has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// Whether bodies stream past the broker; default `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<Direct>,
    /// Whether it is answered 202 at once and runs later.
    #[serde(default, rename = "async", skip_serializing_if = "Option::is_none")]
    pub is_async: Option<bool>,
}

/// Whether the bodies of a call stream between gateway and runner, past the broker.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Direct {
    /// Where a body is large, of unknown length, or a stream of events.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never: what is too large for a message is refused.
    Never,
}

/// All that is set must hold.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// The path; absent: every path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// The method; absent: every method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
    /// Headers, each equal to its value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub headers: Vec<HeaderMatch>,
}

/// How a path is compared.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
pub struct PathMatch {
    /// The comparison; default PathPrefix.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// A path beginning with `/`.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(schema::PATH_RULE).message(schema::PATH_MESSAGE))]
    pub value: String,
}

/// Gateway API's path match types.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PathMatchType {
    /// The whole path.
    Exact,
    /// Leading whole segments.
    #[default]
    PathPrefix,
}

/// Gateway API's methods.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "each is the method of its name")]
pub enum HttpMethod {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

/// A header that must be present and equal.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
pub struct HeaderMatch {
    /// Its name, in any case.
    #[schemars(length(min = 1, max = 256), regex(pattern = "^[-A-Za-z0-9!#$%&'*+.^_\x60|~]+$"))]
    pub name: String,
    /// Its whole value.
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
}

/// A Fn and its share.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
pub struct Backend {
    /// A Fn of the Route's App.
    #[serde(rename = "fn")]
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    pub fn_name: String,
    /// Its share of the requests, 0 to 1,000,000; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: Option<i32>,
}

/// What the operator says of a Route.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Ready, and what it stands on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Where it answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::urls")]
    pub urls: Vec<String>,
    /// Operations or rules that serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub operations: Option<i32>,
    /// Claims of this Route that belong to an older one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conflicts")]
    pub conflicts: Vec<String>,
}
