//! `Trigger`: what starts a Fn besides a Route.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Calls a Fn from a queue or at an HTTP path of the gateway's own hostname. Exactly one of `queue` and `http` is set.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(group = "funcatron.dev", version = "v1alpha1", kind = "Trigger", namespaced, status = "TriggerStatus")]
#[kube(category = "funcatron", shortname = "ftrigger", plural = "triggers", derive = "PartialEq")]
#[kube(doc = "Calls a Fn from a queue, or at a path of the gateway's own hostname.")]
#[kube(validation = Rule::new(schema::NAME_RULE).message(schema::NAME_MESSAGE))]
#[kube(printcolumn(name = "App", type_ = "string", json_path = ".spec.app"))]
#[kube(printcolumn(name = "Fn", type_ = "string", json_path = ".spec.fn"))]
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
#[kube(printcolumn(name = "Dead letters", type_ = "integer", json_path = ".status.deadLetters"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.queue) != has(self.http)")
        .message("spec: set exactly one of `queue` and `http`")
)]
pub struct TriggerSpec {
    /// The App it belongs to, in the same namespace.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    #[x_kube(validation = Rule::new("self == oldSelf").message(schema::APP_MESSAGE))]
    pub app: String,
    /// The Fn it calls.
    #[serde(rename = "fn")]
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    pub fn_name: String,
    /// Messages of an exchange of the App.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueTrigger>,
    /// Requests to `/t/<namespace>/<app>/<source>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpTrigger>,
}

/// A binding of the Fn's durable queue to the App's own topic exchange of that name.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct QueueTrigger {
    /// The exchange's name within the App, a DNS label.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    pub exchange: String,
    /// A topic pattern; default `#`, every message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[!-~]+$"))]
    pub binding_key: Option<String>,
}

/// A path below `/t/<namespace>/<app>`.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
pub struct HttpTrigger {
    /// Begins with `/`; it and every path below it (by whole segments) reach the Fn.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(schema::PATH_RULE).message(schema::PATH_MESSAGE))]
    pub source: String,
}

/// What the operator says of a Trigger.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct TriggerStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Ready, and what it stands on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Where an HTTP trigger answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::urls")]
    pub urls: Vec<String>,
    /// Dead letters of its Fn that wait in the App's dead-letter queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub dead_letters: Option<i64>,
}
