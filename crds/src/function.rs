//! `Fn`: code or an image, and how it is run. The Rust type is `Function`, since `Fn` is Rust's own.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ConfigMapRef, EnvFromSource, EnvVar, LocalObjectReference, ResourceLimits, Timeout};

/// A function: code for a runtime, hosted by its App's shared runners, or an image with a Deployment of its own.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(group = "funcatron.dev", version = "v1alpha1", kind = "Fn", root = "Function", plural = "fns")]
#[kube(namespaced, status = "FnStatus", category = "funcatron", shortname = "ffn")]
#[serde(rename_all = "camelCase")]
pub struct FnSpec {
    /// The App it belongs to, in the same namespace.
    pub app: String,
    /// The runtime that hosts its `source`: `python` or `node`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Its code; goes with `runtime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<FnSource>,
    /// What is called in the code, in the runtime's own form; default `handler`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// A container image that speaks Fn's http-stream contract; instead of `runtime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Its environment, over its App's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Whole ConfigMaps and Secrets as environment; `env` wins over them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,
    /// Of one host process (shared) or of the container (image).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceLimits>,
    /// Longest time from submit to answer; default 30s, 1ms to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// Calls at once in one host process, 1 to 1000; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<i32>,
    /// Size of an image Fn's Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<FnScale>,
}

/// Where code comes from. Exactly one field is set.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct FnSource {
    /// One file's text, at most 262,144 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    pub config_map_ref: ConfigMapRef,
}

/// Replicas of a dedicated Fn.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
pub struct FnScale {
    /// Pods, 0 to 1000; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
}

/// What the operator says of a Fn.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct FnStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, and what it stands on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The revision that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The newest revision, which serves once a runner has loaded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_revision: Option<String>,
    /// Where it is invoked from inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Ready pods of a dedicated Fn's Deployment, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Label selector of those pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}
