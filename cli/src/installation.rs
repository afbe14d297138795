//! The installation's id: a chart value, else taken from the cluster's own id.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};

/// The namespace whose uid stands for the cluster.
const CLUSTER_NAMESPACE: &str = "kube-system";
/// Digits of that uid: enough to tell the clusters of one broker apart.
const ID_LENGTH: usize = 8;

/// The id that was given, or the first digits of the uid of kube-system.
pub(crate) async fn find(given: &str, client: &Client) -> anyhow::Result<String> {
    if !given.is_empty() {
        return Ok(given.to_owned());
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = namespaces.get(CLUSTER_NAMESPACE).await.with_context(|| {
        format!("cannot read namespace {CLUSTER_NAMESPACE}, whose uid names the installation; or set its id")
    })?;
    let uid = namespace.metadata.uid.context("namespace kube-system has no uid")?;
    Ok(uid.chars().take(ID_LENGTH).collect())
}
