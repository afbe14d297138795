//! The Deployment of an App's bridge: one container with the App's broker credentials and, as files, the addresses of
//! the brokers that its Triggers name. The operator itself reads none of those Secrets.

use std::collections::BTreeMap;

use funcatron_crds::names::{LABEL_APP, LABEL_NAMESPACE, LABEL_PART, PART_BRIDGE};
use funcatron_crds::{App, BridgedQueue, SecretKeyRef, names};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    Container, KeyToPath, ProjectedVolumeSource, SecretProjection, Volume, VolumeMount, VolumeProjection,
};
use kube::ResourceExt;

use super::pods::{self, Pod, env, mount};
use super::{labels, metadata, owner};
use crate::config::OperatorConfig;

/// Where the brokers' addresses are, each in a file named like its Trigger.
const BROKER_DIR: &str = "/run/funcatron/brokers";
const BROKERS: &str = "brokers";

/// What is bridged, and which key of a Secret says where.
pub(crate) type Bridged = (BridgedQueue, SecretKeyRef);

/// Labels that select the pod.
pub(crate) fn selector(namespace: &str, app: &str) -> BTreeMap<String, String> {
    [(LABEL_PART, PART_BRIDGE), (LABEL_NAMESPACE, namespace), (LABEL_APP, app)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Builds the Deployment.
pub(crate) fn build(config: &OperatorConfig, app: &App, bridged: &[Bridged]) -> Deployment {
    let (namespace, name) = (app.namespace().unwrap_or_default(), app.name_any());
    let labels = labels(PART_BRIDGE, &namespace, &name);
    let metadata = metadata(names::bridge(&name), &namespace, labels, owner(app));
    let queues: Vec<&BridgedQueue> = bridged.iter().map(|(queue, _)| queue).collect();
    // Names and numbers are always JSON.
    let queues = serde_json::to_string(&queues).unwrap_or_default();
    let own = vec![env("FUNCATRON_BRIDGE_QUEUES", queues), env("FUNCATRON_BRIDGE_BROKERS", BROKER_DIR)];
    let brokers = VolumeMount { read_only: Some(true), ..mount(BROKERS, BROKER_DIR) };
    let pod = Pod {
        sidecar: None,
        runner: Container {
            name: "bridge".to_owned(),
            args: Some(vec!["bridge".to_owned()]),
            ..pods::runner(config, &namespace, &name, own, vec![brokers])
        },
        volumes: vec![addresses(bridged)],
        pull_secrets: vec![],
    };
    pods::deployment(config, metadata, 1, selector(&namespace, &name), pod)
}

/// One folder for all; a Secret that is not there is its own Trigger's trouble.
fn addresses(bridged: &[Bridged]) -> Volume {
    let sources = bridged.iter().map(|(queue, SecretKeyRef { name, key })| VolumeProjection {
        secret: Some(SecretProjection {
            name: name.clone(),
            items: Some(vec![KeyToPath { key: key.clone(), path: queue.trigger.clone(), mode: None }]),
            optional: Some(true),
        }),
        ..VolumeProjection::default()
    });
    let projected = ProjectedVolumeSource { sources: Some(sources.collect()), default_mode: None };
    Volume { name: BROKERS.to_owned(), projected: Some(projected), ..Volume::default() }
}
