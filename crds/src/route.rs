//! `Route`: which HTTP requests reach which Fns, from an OpenAPI document or in Gateway API's words.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{KeySelector, Timeout};

/// Rules that send HTTP requests to Fns. Exactly one of `openapi` and `rules` is set.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(group = "funcatron.dev", version = "v1alpha1", kind = "Route", namespaced, status = "RouteStatus")]
#[kube(category = "funcatron", shortname = "froute", plural = "routes")]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec {
    /// The App it belongs to, in the same namespace.
    pub app: String,
    /// Hostnames it answers on; absent: its App's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Put before every path; absent: the document's own, else `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_path: Option<String>,
    /// An OpenAPI 3.0, 3.1 or Swagger 2.0 document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openapi: Option<OpenApiSource>,
    /// The Fn of every operation that names none.
    #[serde(default, rename = "fn", skip_serializing_if = "Option::is_none")]
    pub fn_name: Option<String>,
    /// Settings by operationId.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub operations: BTreeMap<String, OperationRule>,
    /// Explicit rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RouteRule>,
}

/// Where the document is. Exactly one field is set.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct OpenApiSource {
    /// The text itself, YAML or JSON, at most 262,144 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
    /// A key of a ConfigMap: text in `data`, or gzip or text in `binaryData`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeySelector>,
}

/// What a Route says of one operation.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct OperationRule {
    /// Its Fn.
    #[serde(default, rename = "fn", skip_serializing_if = "Option::is_none")]
    pub fn_name: Option<String>,
    /// Its timeout, instead of the Fn's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
}

/// Requests that match any of `matches` go to the backends, by weight.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct RouteRule {
    /// Alternatives; absent: every path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<RouteMatch>,
    /// Where its requests go.
    pub backends: Vec<Backend>,
    /// Its timeout, instead of the Fn's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
}

/// All that is set must hold.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
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
    pub headers: Vec<HeaderMatch>,
}

/// How a path is compared.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
pub struct PathMatch {
    /// The comparison; default PathPrefix.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// A path beginning with `/`.
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
    pub name: String,
    /// Its whole value.
    pub value: String,
}

/// A Fn and its share.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
pub struct Backend {
    /// A Fn of the Route's App.
    #[serde(rename = "fn")]
    pub fn_name: String,
    /// Its share of the requests, 0 to 1,000,000; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
}

/// What the operator says of a Route.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, and what it stands on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Where it answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Operations or rules that serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<i32>,
    /// Claims of this Route that belong to an older one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
}
