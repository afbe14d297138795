//! `Trigger`: what starts a Fn besides a Route.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Calls a Fn from a queue or at an HTTP path of the gateway's own hostname. Exactly one of `queue` and `http` is set.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(group = "funcatron.dev", version = "v1alpha1", kind = "Trigger", namespaced, status = "TriggerStatus")]
#[kube(category = "funcatron", shortname = "ftrigger", plural = "triggers")]
#[serde(rename_all = "camelCase")]
pub struct TriggerSpec {
    /// The App it belongs to, in the same namespace.
    pub app: String,
    /// The Fn it calls.
    #[serde(rename = "fn")]
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
    pub exchange: String,
    /// A topic pattern; default `#`, every message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding_key: Option<String>,
}

/// A path below `/t/<namespace>/<app>`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
pub struct HttpTrigger {
    /// Begins with `/`; it and every path below it (by whole segments) reach the Fn.
    pub source: String,
}

/// What the operator says of a Trigger.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct TriggerStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, and what it stands on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Where an HTTP trigger answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Dead letters of its Fn that wait in the App's dead-letter queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<i64>,
}
