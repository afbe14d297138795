//! The Deployment of one revision of an image Fn: `function` runs the user's image unchanged, under Fn's contract or as a
//! plain HTTP server.

use std::collections::BTreeMap;

use funcatron_crds::names::{LABEL_APP, LABEL_FN, LABEL_NAMESPACE, LABEL_PART, LABEL_REVISION, PART_RUNNER};
use funcatron_crds::{App, Contract, EnvEntry, Function, ObjectKind, RunDocument, names};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    ConfigMapEnvSource, ConfigMapKeySelector, Container, EnvFromSource, EnvVar, EnvVarSource,
    SecretEnvSource, SecretKeySelector, Volume, VolumeMount,
};
use kube::ResourceExt;

use super::pods::{self, Pod, env, mount, scratch};
use super::{labels, metadata, owner};
use crate::config::OperatorConfig;

/// Where Fn's agents and functions meet.
const SOCKET_DIR: &str = "/tmp/iofs";
const SOCKET: &str = "/tmp/iofs/lsnr.sock";
/// Tells a plain HTTP server where to listen, as Cloud Run and Knative have it …
const PORT: &str = "PORT";
/// … and the port that they choose as well.
const HTTP_PORT: &str = "8080";
/// The user that Fn's agents run functions as.
const FUNCTION_UID: i64 = 1000;
/// What Fn tells a function whose memory nobody limited, in MB: its own default.
const FN_MEMORY_DEFAULT_MB: u64 = 128;
const BYTES_PER_MB: u64 = 1 << 20;

/// Labels that select the pods of one revision.
pub(crate) fn selector(document: &RunDocument) -> BTreeMap<String, String> {
    let RunDocument { namespace, app, fn_name, revision, .. } = document;
    let mut selector = fn_selector(namespace, app, fn_name);
    selector.insert(LABEL_REVISION.to_owned(), revision.as_str().to_owned());
    selector
}

/// Labels that select the pods of all revisions of a Fn: the scale subresource's selector.
pub(crate) fn fn_selector(namespace: &str, app: &str, fn_name: &str) -> BTreeMap<String, String> {
    [(LABEL_PART, PART_RUNNER), (LABEL_NAMESPACE, namespace), (LABEL_APP, app), (LABEL_FN, fn_name)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Builds the Deployment of the Fn's newest revision.
pub(crate) fn build(
    config: &OperatorConfig,
    app: &App,
    function: &Function,
    document: &RunDocument,
    durable: bool,
) -> Deployment {
    let namespace = &document.namespace;
    let mut labels = labels(PART_RUNNER, namespace, &document.app);
    labels.extend(selector(document));
    let metadata = metadata(names::dedicated_runner(&document.revision), namespace, labels, owner(function));
    let replicas = function.spec.scale.as_ref().and_then(|scale| scale.replicas).unwrap_or(1);
    let (volumes, mounts) = meeting_place(document.contract);
    let pod = Pod {
        sidecar: Some(function_container(app, function, document, &mounts)),
        runner: pods::runner(config, namespace, &document.app, runner_env(document, durable), mounts),
        volumes: [volumes, vec![scratch("function-tmp")]].concat(),
        pull_secrets: function.spec.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
    };
    pods::deployment(config, metadata, replicas, selector(document), pod)
}

/// Where runner and function meet: in a directory, or at a port that both have, being in one pod.
fn meeting_place(contract: Contract) -> (Vec<Volume>, Vec<VolumeMount>) {
    match contract {
        Contract::Http => (Vec::new(), Vec::new()),
        Contract::Fn | Contract::Command => (vec![scratch("iofs")], vec![mount("iofs", SOCKET_DIR)]),
    }
}

fn runner_env(document: &RunDocument, durable: bool) -> pods::Env {
    let endpoint = match document.contract {
        Contract::Http => vec![env("FUNCATRON_CONTRACT", "http"), env("FUNCATRON_PORT", HTTP_PORT)],
        Contract::Fn | Contract::Command => vec![env("FUNCATRON_SOCKET", SOCKET)],
    };
    let subject =
        vec![env("FUNCATRON_FN", &document.fn_name), env("FUNCATRON_REVISION", document.revision.as_str())];
    let bounds = vec![
        env("FUNCATRON_CONCURRENCY", document.concurrency.to_string()),
        env("FUNCATRON_TIMEOUT_MS", document.timeout_ms.to_string()),
        env("FUNCATRON_MAX_ATTEMPTS", document.attempts_max.to_string()),
        env("FUNCATRON_DURABLE", durable.to_string()),
    ];
    [subject, endpoint, bounds].concat()
}

fn function_container(
    app: &App,
    function: &Function,
    document: &RunDocument,
    meeting_place: &[VolumeMount],
) -> Container {
    let contract = contract_env(app, function, document);
    let (mut variables, sources) = split(&document.env);
    // Names that begin with FN_ were refused in the user's own; an App may have a PORT for others of its Fns. No variable
    // stands twice.
    if document.contract == Contract::Http {
        variables.retain(|variable| variable.name != PORT);
    }
    Container {
        name: "function".to_owned(),
        image: document.image.clone(),
        env: Some([variables, contract].concat()),
        env_from: Some(sources),
        resources: pods::resources(function.spec.resources.as_ref()),
        security_context: Some(pods::restricted(FUNCTION_UID, false)),
        volume_mounts: Some([&[mount("function-tmp", "/tmp")], meeting_place].concat()),
        ..Container::default()
    }
}

/// The platform's own variables; nobody else may set them. A plain server is told nothing of Fn's contract, by which some
/// libraries choose what they speak.
fn contract_env(app: &App, function: &Function, document: &RunDocument) -> Vec<EnvVar> {
    let memory_mb = document.memory_bytes.map_or(FN_MEMORY_DEFAULT_MB, |bytes| bytes / BYTES_PER_MB);
    let listener = match document.contract {
        Contract::Http => vec![env(PORT, HTTP_PORT)],
        Contract::Fn | Contract::Command => {
            vec![env("FN_LISTENER", format!("unix:{SOCKET}")), env("FN_FORMAT", "http-stream")]
        }
    };
    let about = vec![
        env("FN_FN_ID", function.uid().unwrap_or_default()),
        env("FN_APP_ID", app.uid().unwrap_or_default()),
        env("FN_FN_NAME", &document.fn_name),
        env("FN_APP_NAME", &document.app),
        env("FN_MEMORY", memory_mb.to_string()),
        env("FN_TYPE", "sync"),
    ];
    [listener, about].concat()
}

/// Kubernetes sets `envFrom` before `env`, as `merged_env` orders them, and its kubelet resolves both.
fn split(entries: &[EnvEntry]) -> (Vec<EnvVar>, Vec<EnvFromSource>) {
    let mut variables = vec![];
    let mut sources = vec![];
    for entry in entries {
        match entry {
            // A dollar would be read as a reference to another variable; a doubled one is a dollar.
            EnvEntry::Value { name, value } => variables.push(env(name, value.replace('$', "$$"))),
            EnvEntry::Key { name, object, object_name, key, optional } => {
                variables.push(key_variable(name, *object, object_name, key, *optional));
            }
            EnvEntry::All { prefix, object, object_name, optional } => {
                sources.push(source(prefix, *object, object_name, *optional));
            }
        }
    }
    (variables, sources)
}

fn key_variable(name: &str, object: ObjectKind, object_name: &str, key: &str, optional: bool) -> EnvVar {
    let (object_name, key, optional) = (object_name.to_owned(), key.to_owned(), optional.then_some(true));
    let value_from = match object {
        ObjectKind::Secret => EnvVarSource {
            secret_key_ref: Some(SecretKeySelector { name: object_name, key, optional }),
            ..EnvVarSource::default()
        },
        ObjectKind::ConfigMap => EnvVarSource {
            config_map_key_ref: Some(ConfigMapKeySelector { name: object_name, key, optional }),
            ..EnvVarSource::default()
        },
    };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(value_from) }
}

fn source(prefix: &str, object: ObjectKind, object_name: &str, optional: bool) -> EnvFromSource {
    let (name, optional) = (object_name.to_owned(), optional.then_some(true));
    let prefix = (!prefix.is_empty()).then(|| prefix.to_owned());
    match object {
        ObjectKind::Secret => EnvFromSource {
            prefix,
            secret_ref: Some(SecretEnvSource { name, optional }),
            ..EnvFromSource::default()
        },
        ObjectKind::ConfigMap => EnvFromSource {
            prefix,
            config_map_ref: Some(ConfigMapEnvSource { name, optional }),
            ..EnvFromSource::default()
        },
    }
}
