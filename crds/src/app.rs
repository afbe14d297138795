//! `App`: the boundary of trust, configuration and shared runners for its Fns.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{EnvFromSource, EnvVar, ResourceLimits, Span, schema};

/// Groups Fns that trust one another: they may share a pod, a broker user and configuration.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(group = "funcatron.dev", version = "v1alpha1", kind = "App", namespaced, status = "AppStatus")]
#[kube(category = "funcatron", shortname = "fapp", plural = "apps", derive = "PartialEq")]
#[kube(doc = "Groups Fns that trust one another: they may share a pod, a broker user and configuration.")]
#[kube(validation = Rule::new(schema::NAME_RULE).message(schema::NAME_MESSAGE))]
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
#[kube(printcolumn(name = "Fns", type_ = "integer", json_path = ".status.fns"))]
#[kube(printcolumn(name = "Hostnames", type_ = "string", json_path = ".spec.hostnames", priority = 1))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct AppSpec {
    /// Hostnames its Routes answer on; absent: the gateway's own hostname, below `/<namespace>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::hostnames")]
    pub hostnames: Vec<String>,
    /// Environment of every Fn of the App; a Fn's own wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub env: Vec<EnvVar>,
    /// ConfigMaps and Secrets whose keys become environment; `env` wins over them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub env_from: Vec<EnvFromSource>,
    /// Size of the shared runners, for each runtime that a Fn of the App names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runners: Option<AppRunners>,
    /// Which calls the ledger keeps: those that nobody waits for (`Async`, the default), or `All`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordedCalls>,
    /// How long they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<AppRetention>,
    /// What the App may ask of the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<AppLimits>,
}

/// How many shared runners, and how large each is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct AppRunners {
    /// Runner pods for each runtime in use, 1 to 100; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub min: Option<i32>,
    /// Resources of the host container of each runner pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceLimits>,
}

/// Which calls the ledger keeps.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RecordedCalls {
    /// Those that nobody waits for.
    #[default]
    Async,
    /// Those too for which somebody waits.
    All,
}

/// How long what the platform keeps is kept.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct AppRetention {
    /// Calls, after their end, 1m to 8760h; default: the ledger's own, mostly 72h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('8760h')")
            .message("retention.calls: 1m to 8760h: write it like 30m, 72h or 720h")
    )]
    pub calls: Option<Span>,
}

/// Bounds on the App's traffic.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct AppLimits {
    /// Largest request body in bytes; default 6291456, at most 1 TiB. One that may not stream past the broker (a Route's
    /// `direct: Never`) has at most 15 MiB, the broker's message limit less headroom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_099_511_627_776_i64))]
    pub body_bytes: Option<i64>,
    /// Calls in flight at once in each gateway, 1 to 100,000; beyond them callers are answered 429; default 5000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrency: Option<i32>,
}

/// What the operator says of an App.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct AppStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Ready, and what it stands on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Fns that name this App.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub fns: Option<i32>,
    /// Id (no secret) of the key from which the App's broker password was derived: says that its Secret is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub credentials_key_id: Option<String>,
}
