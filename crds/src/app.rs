//! `App`: the boundary of trust, configuration and shared runners for its Fns.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{EnvFromSource, EnvVar, ResourceLimits};

/// Groups Fns that trust one another: they may share a pod, a broker user and configuration.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(group = "funcatron.dev", version = "v1alpha1", kind = "App", namespaced, status = "AppStatus")]
#[kube(category = "funcatron", shortname = "fapp", plural = "apps")]
#[serde(rename_all = "camelCase")]
pub struct AppSpec {
    /// Hostnames its Routes answer on; absent: the gateway's own hostname, below `/<namespace>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Environment of every Fn of the App; a Fn's own wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// ConfigMaps and Secrets whose keys become environment; `env` wins over them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,
    /// Size of the shared runners, for each runtime that a Fn of the App names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runners: Option<AppRunners>,
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
    pub min: Option<i32>,
    /// Resources of the host container of each runner pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceLimits>,
}

/// Bounds on the App's traffic.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct AppLimits {
    /// Largest request body in bytes; default 6 MiB, at most 15 MiB (the broker's message limit less headroom).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<i64>,
}

/// What the operator says of an App.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct AppStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, and what it stands on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Fns that name this App.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fns: Option<i32>,
    /// Id (no secret) of the key from which the App's broker password was derived: says that its Secret is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_key_id: Option<String>,
}
