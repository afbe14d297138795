//! The Deployment of an App's shared runners for one runtime: `runner` holds the credentials and the configuration,
//! `host` runs the code and holds neither.

use std::collections::{BTreeMap, BTreeSet};

use funcatron_crds::names::{LABEL_APP, LABEL_NAMESPACE, LABEL_PART, LABEL_RUNTIME, PART_RUNNER};
use funcatron_crds::{App, AppRunners, Digest, ObjectKind, names};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMapVolumeSource, Container, SecretVolumeSource, Volume, VolumeMount};
use kube::ResourceExt;

use super::pods::{self, Pod, env, mount, scratch};
use super::{labels, metadata, owner};
use crate::config::OperatorConfig;

/// Where sockets, code and configuration are, as both containers know it.
const RUN_DIR: &str = "/run/funcatron";
const CONTROL_SOCKET: &str = "/run/funcatron/control.sock";
const CODE_DIR: &str = "/run/funcatron/code";
const WORKER_DIR: &str = "/run/funcatron/w";
const CONFIG_DIR: &str = "/run/funcatron/config";
/// Hex digits of a volume's name: an object's name may be longer than a volume's.
const VOLUME_HEX: usize = 12;

/// A Secret or ConfigMap whose keys the App's Fns read.
pub(crate) type ConfigObject = (ObjectKind, String);

/// Labels that select the pods.
pub(crate) fn selector(namespace: &str, app: &str, runtime: &str) -> BTreeMap<String, String> {
    [(LABEL_PART, PART_RUNNER), (LABEL_NAMESPACE, namespace), (LABEL_APP, app), (LABEL_RUNTIME, runtime)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Builds the Deployment; `objects` are what any Fn of this runtime reads its environment from.
pub(crate) fn build(
    config: &OperatorConfig,
    app: &App,
    runtime: &str,
    host_image: &str,
    objects: &BTreeSet<ConfigObject>,
) -> Deployment {
    let (namespace, name) = (app.namespace().unwrap_or_default(), app.name_any());
    let AppRunners { min, resources } = app.spec.runners.clone().unwrap_or_default();
    let mut labels = labels(PART_RUNNER, &namespace, &name);
    labels.insert(LABEL_RUNTIME.to_owned(), runtime.to_owned());
    let metadata = metadata(names::shared_runners(&name, runtime), &namespace, labels, owner(app));
    let (config_volumes, config_mounts) = config_volumes(objects);
    let runner_mounts = [vec![mount("run", RUN_DIR)], config_mounts].concat();
    let pod = Pod {
        sidecar: Some(host(config, host_image, resources.as_ref())),
        runner: pods::runner(config, &namespace, &name, runner_env(runtime), runner_mounts),
        volumes: [vec![scratch("run"), scratch("host-tmp")], config_volumes].concat(),
        pull_secrets: vec![],
    };
    let selector = selector(&namespace, &name, runtime);
    pods::deployment(config, metadata, min.unwrap_or(1), selector, pod)
}

fn runner_env(runtime: &str) -> pods::Env {
    vec![
        env("FUNCATRON_RUNTIME", runtime),
        env("FUNCATRON_CONTROL_SOCKET", CONTROL_SOCKET),
        env("FUNCATRON_CODE_DIR", CODE_DIR),
        env("FUNCATRON_WORKER_DIR", WORKER_DIR),
        env("FUNCATRON_CONFIG_DIR", CONFIG_DIR),
    ]
}

fn host(
    config: &OperatorConfig,
    image: &str,
    resources: Option<&funcatron_crds::ResourceLimits>,
) -> Container {
    Container {
        name: "host".to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: config.image_pull_policy.clone(),
        env: Some(vec![
            env("FUNCATRON_CONTROL_SOCKET", CONTROL_SOCKET),
            env("FUNCATRON_CODE_DIR", CODE_DIR),
            env("FUNCATRON_WORKER_DIR", WORKER_DIR),
        ]),
        resources: pods::resources(resources),
        security_context: Some(pods::restricted(pods::PLATFORM_UID, true)),
        volume_mounts: Some(vec![mount("run", RUN_DIR), mount("host-tmp", "/tmp")]),
        ..Container::default()
    }
}

/// One volume for each object, since a projected volume would put the keys of all into one folder.
fn config_volumes(objects: &BTreeSet<ConfigObject>) -> (Vec<Volume>, Vec<VolumeMount>) {
    objects.iter().map(|(kind, name)| config_volume(*kind, name)).unzip()
}

fn config_volume(kind: ObjectKind, name: &str) -> (Volume, VolumeMount) {
    let hash = &Digest::of(name.as_bytes()).hex()[..VOLUME_HEX].to_owned();
    // Optional: a missing object is one Fn's trouble (its runner reports the key), not the whole App's.
    let (volume, folder) = match kind {
        ObjectKind::Secret => {
            let source = SecretVolumeSource {
                secret_name: Some(name.to_owned()),
                optional: Some(true),
                ..SecretVolumeSource::default()
            };
            let name = format!("secret-{hash}");
            (Volume { name, secret: Some(source), ..Volume::default() }, "secrets")
        }
        ObjectKind::ConfigMap => {
            let source = ConfigMapVolumeSource {
                name: name.to_owned(),
                optional: Some(true),
                ..ConfigMapVolumeSource::default()
            };
            let name = format!("configmap-{hash}");
            (Volume { name, config_map: Some(source), ..Volume::default() }, "configmaps")
        }
    };
    let mut mount = mount(&volume.name, &format!("{CONFIG_DIR}/{folder}/{name}"));
    mount.read_only = Some(true);
    (volume, mount)
}
