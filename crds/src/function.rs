//! `Fn`: code or an image, and how it is run. The Rust type is `Function`, since `Fn` is Rust's own.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{EnvFromSource, EnvVar, LocalObjectReference, ResourceLimits, Span, Timeout, schema};

/// A function: code for a runtime, hosted by its App's shared runners, or an image with a Deployment of its own.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(group = "funcatron.dev", version = "v1alpha1", kind = "Fn", root = "Function", plural = "fns")]
#[kube(namespaced, status = "FnStatus", category = "funcatron", shortname = "ffn", derive = "PartialEq")]
#[kube(
    doc = "A function: code for a runtime, hosted by its App's shared runners, or an image with pods of its own."
)]
#[kube(validation = Rule::new(schema::NAME_RULE).message(schema::NAME_MESSAGE))]
#[kube(scale(
    spec_replicas_path = ".spec.scale.replicas",
    status_replicas_path = ".status.replicas",
    label_selector_path = ".status.selector"
))]
#[kube(printcolumn(name = "App", type_ = "string", json_path = ".spec.app"))]
#[kube(printcolumn(name = "Runtime", type_ = "string", json_path = ".spec.runtime"))]
#[kube(printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", priority = 1))]
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
#[kube(printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision"))]
#[kube(printcolumn(name = "URL", type_ = "string", json_path = ".status.url"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.runtime) != has(self.image)")
        .message("spec: set exactly one of `runtime` (with `source`) and `image`")
)]
#[x_kube(
    validation = Rule::new("has(self.runtime) == has(self.source)")
        .message("spec.source: goes with `runtime`: set both, or neither beside `image`")
)]
#[x_kube(
    validation = Rule::new("!has(self.handler) || has(self.runtime)")
        .message("spec.handler: goes with `runtime` only; remove it beside `image`")
)]
#[x_kube(
    validation = Rule::new("!has(self.imagePullSecrets) || has(self.image)")
        .message("spec.imagePullSecrets: goes with `image` only; remove it beside `runtime`")
)]
#[x_kube(
    validation = Rule::new("!has(self.scale) || has(self.image)")
        .message("spec.scale: goes with `image` only; shared runners are sized by the App's spec.runners")
)]
#[x_kube(
    validation = Rule::new("!has(self.contract) || has(self.image)")
        .message("spec.contract: goes with `image` only; remove it beside `runtime`")
)]
#[x_kube(
    validation = Rule::new("!has(self.contract) || self.contract != 'command'")
        .message("spec.contract: `command` is not there yet; use `fn` or `http`")
)]
#[x_kube(
    validation = Rule::new("!has(self.contract) || self.contract != 'http' || !has(self.env) || self.env.all(e, e.name != 'PORT')")
        .message("spec.env: PORT is the platform's own where `contract` is `http`: remove it, and listen on $PORT")
)]
pub struct FnSpec {
    /// The App it belongs to, in the same namespace.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    #[x_kube(validation = Rule::new("self == oldSelf").message(schema::APP_MESSAGE))]
    pub app: String,
    /// The runtime that hosts its `source`: `python` or `node`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    pub runtime: Option<String>,
    /// Its code; goes with `runtime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<FnSource>,
    /// What is called in the code, in the runtime's own form; default `handler`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[^\\s\\x00-\\x1f\\x7f]+$"))]
    pub handler: Option<String>,
    /// A container image that speaks `contract`; instead of `runtime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^[A-Za-z0-9][-A-Za-z0-9._:/@+]*$"))]
    pub image: Option<String>,
    /// What the image speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<Contract>,
    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Its environment, over its App's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub env: Vec<EnvVar>,
    /// Whole ConfigMaps and Secrets as environment; `env` wins over them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub env_from: Vec<EnvFromSource>,
    /// Of one host process (shared) or of the container (image).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceLimits>,
    /// Longest time from submit to answer; default 30s, 1ms to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// Calls at once in one host process, 1 to 1000; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub concurrency: Option<i32>,
    /// How its calls are tried that nobody waits for.
    #[serde(default, rename = "async", skip_serializing_if = "Option::is_none")]
    pub detached: Option<FnAsync>,
    /// Size of an image Fn's Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<FnScale>,
}

/// What an image speaks: Fn's http-stream contract (`fn`) or plain HTTP/1.1 on `$PORT` (`http`); `command` is not there
/// yet; default `fn`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum Contract {
    /// Fn's http-stream contract, on a Unix socket.
    #[default]
    Fn,
    /// Plain HTTP/1.1, on a port of the pod's own.
    Http,
    /// A process for each call; refused, since it is not there yet.
    Command,
}

impl Contract {
    /// Whether it is what a Fn has that names none.
    pub fn is_fn(&self) -> bool {
        *self == Self::Fn
    }
}

/// Where code comes from. Exactly one field is set.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.inline) != has(self.files)")
        .message("source: set exactly one of `inline` and `files`")
)]
pub struct FnSource {
    /// One file's text, at most 262,144 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262_144))]
    pub inline: Option<String>,
    /// The keys of a ConfigMap as files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesSource>,
    /// A folder beside the manifest; `funcatron dev` alone knows it, so it is no part of the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub path: Option<String>,
}

/// Files from an object of the cluster.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct FilesSource {
    /// The ConfigMap whose keys are the files' names.
    pub config_map_ref: LocalObjectReference,
}

/// Calls that nobody waits for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct FnAsync {
    /// How often and how long they are tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<AsyncRetry>,
    /// How many of those that were given up are kept, and how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetters>,
    /// Who is told that one succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_success: Option<Callback>,
    /// Who is told that one failed for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<Callback>,
}

/// Whom the end of a call is told. Exactly one field is set.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[x_kube(
    validation = Rule::new("has(self.fn) != has(self.url)")
        .message("a callback: set exactly one of `fn` and `url`")
)]
pub struct Callback {
    /// A Fn of the same App, which is called with the call's end.
    #[serde(default, rename = "fn", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    pub fn_name: Option<String>,
    /// Where the call's end is sent, signed; https, unless the platform allows the host without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new(schema::CALLBACK_URL_RULE).message(schema::CALLBACK_URL_MESSAGE))]
    pub url: Option<String>,
}

/// When a call that fails is tried again, and when it is given up. It then is a dead letter.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct AsyncRetry {
    /// Attempts in all, 1 to 100; default 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: Option<i32>,
    /// The wait before the second attempt, 100ms to 1h; the n-th failed attempt waits n times as long, at most a minute
    /// or, where that is more, ten times this; default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('1h')")
            .message("backoff: 100ms to 1h: write it like 500ms, 2s or 5m")
    )]
    pub backoff: Option<Span>,
    /// Since it was accepted, 1s to 168h; one that is older is not begun; default 6h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('168h')")
            .message("maxAge: 1s to 168h: write it like 90s, 30m or 6h")
    )]
    pub max_age: Option<Span>,
}

/// What is kept of the calls that were given up: the newest.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetters {
    /// Dead letters kept at most, 1 to 10,000; the oldest go first; default 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_length: Option<i32>,
    /// How long each is kept, 1m to 8760h; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('8760h')")
            .message("maxAge: 1m to 8760h: write it like 30m, 24h or 720h")
    )]
    pub max_age: Option<Span>,
}

/// Replicas of a dedicated Fn.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
pub struct FnScale {
    /// Pods, 0 to 1000; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
}

/// What the operator says of a Fn.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct FnStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Ready, and what it stands on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The revision that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub revision: Option<String>,
    /// The newest revision, which serves once a runner has loaded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub latest_revision: Option<String>,
    /// Where it is invoked from inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub url: Option<String>,
    /// Ready pods of a dedicated Fn's Deployment, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,
    /// Label selector of those pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,
}
