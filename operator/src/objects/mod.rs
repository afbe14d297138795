//! The Kubernetes objects that the operator makes, built from validated input. Pure: takes no client and no clock,
//! and cannot fail.

pub(crate) mod bridge;
pub(crate) mod config_maps;
pub(crate) mod dedicated;
pub(crate) mod network;
pub(crate) mod pods;
pub(crate) mod revisions;
pub(crate) mod secret;
pub(crate) mod shared;

use std::collections::BTreeMap;

use funcatron_crds::names::{LABEL_APP, LABEL_NAMESPACE, LABEL_PART};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::PartialObjectMeta;

/// Kubernetes' recommended label for who made an object; our watches select by it.
pub(crate) const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value on everything of ours.
pub(crate) const MANAGED_BY: &str = "funcatron-operator";

/// The labels of every object of an App, in whichever namespace it lives.
pub(crate) fn labels(part: &str, namespace: &str, app: &str) -> BTreeMap<String, String> {
    [(LABEL_MANAGED_BY, MANAGED_BY), (LABEL_PART, part), (LABEL_NAMESPACE, namespace), (LABEL_APP, app)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// A name, a namespace, labels, and who it goes with.
pub(crate) fn metadata(
    name: String,
    namespace: &str,
    labels: BTreeMap<String, String>,
    owner: Option<OwnerReference>,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The one owner of an object in the same namespace: it goes when the owner does.
pub(crate) fn owner<K>(kind: &K) -> Option<OwnerReference>
where
    K: kube::Resource<DynamicType = ()>,
{
    kind.controller_owner_ref(&())
}

/// What a metadata watch keeps of an object.
pub(crate) fn meta_only<K>(metadata: ObjectMeta) -> PartialObjectMeta<K> {
    PartialObjectMeta { types: None, metadata, _phantom: std::marker::PhantomData }
}

#[cfg(test)]
pub(crate) mod tests;
