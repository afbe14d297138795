//! Writes to the API server: only what differs from what stands. Never reads a Secret.

use std::fmt::Debug;

use funcatron_crds::{Digest, FIELD_MANAGER};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What an object of ours was built from: equal says that nothing need be written.
pub(crate) const ANNOTATION_HASH: &str = "funcatron.dev/hash";

/// A write that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// The API server refused it or could not be reached.
    #[error("cannot apply {kind} {name}")]
    Apply {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// Its words.
        #[source]
        source: Box<kube::Error>,
    },
    /// It would not go.
    #[error("cannot delete {kind} {name}")]
    Delete {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// The API server's words.
        #[source]
        source: Box<kube::Error>,
    },
    /// A status could not be written.
    #[error("cannot write the status of {kind} {name}")]
    Status {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// The API server's words.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Whether the API server refused because the object's namespace is on its way out: all of it goes soon.
pub(crate) fn is_leaving(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

impl ApplyError {
    /// Whether the namespace is being deleted, so that nothing can be made in it and nothing need be.
    pub(crate) fn is_leaving(&self) -> bool {
        let (Self::Apply { source, .. } | Self::Delete { source, .. } | Self::Status { source, .. }) = self;
        is_leaving(source)
    }

    /// The API server's own words, for a status; connection trouble is not the user's.
    pub(crate) fn refusal(&self) -> Option<String> {
        let (Self::Apply { source, .. } | Self::Delete { source, .. } | Self::Status { source, .. }) = self;
        match source.as_ref() {
            kube::Error::Api(status) if (400..500).contains(&status.code) => {
                Some(format!("{self}: {}", status.message))
            }
            _ => None,
        }
    }
}

/// The hash of an object as it would be written.
fn hash(object: &impl Serialize) -> String {
    let json = serde_json::to_vec(object).expect("Kubernetes objects are always JSON");
    Digest::of(&json).hex()[..32].to_owned()
}

/// Writes down what an object was built from.
pub(crate) fn stamped<K: Resource + Serialize>(mut object: K) -> K {
    let hash = hash(&object);
    object.annotations_mut().insert(ANNOTATION_HASH.to_owned(), hash);
    object
}

/// Whether what stands was built from the same.
pub(crate) fn is_current<O: Resource, D: Resource>(observed: &O, desired: &D) -> bool {
    let stamp = |annotations: Option<&std::collections::BTreeMap<String, String>>| {
        annotations.and_then(|annotations| annotations.get(ANNOTATION_HASH)).cloned()
    };
    let observed = observed.meta();
    let wanted = stamp(desired.meta().annotations.as_ref());
    wanted.is_some()
        && stamp(observed.annotations.as_ref()) == wanted
        && observed.deletion_timestamp.is_none()
}

/// Applies an object, server-side, with our field manager.
pub(crate) async fn apply<K>(client: &Client, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&name, &parameters, &Patch::Apply(object)).await.map_err(|source| ApplyError::Apply {
        kind: K::kind(&()).into_owned(),
        name: format!("{namespace}/{name}"),
        source: Box::new(source),
    })
}

/// Deletes an object; one that is not there is fine.
pub(crate) async fn delete<K>(client: &Client, namespace: &str, name: &str) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(ApplyError::Delete {
            kind: K::kind(&()).into_owned(),
            name: format!("{namespace}/{name}"),
            source: Box::new(source),
        }),
    }
}

/// Writes a whole status. The caller has found it to differ.
pub(crate) async fn write_status<K, S>(client: &Client, object: &K, status: &S) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    S: Serialize,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let patch = serde_json::json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name},
        "status": status,
    });
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&name, &parameters, &Patch::Apply(patch)).await {
        Ok(_) => Ok(()),
        // Deleted meanwhile: nobody is left to tell.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(ApplyError::Status {
            kind: K::kind(&()).into_owned(),
            name: format!("{namespace}/{name}"),
            source: Box::new(source),
        }),
    }
}

/// Writes a status over the very version that `object` is of, status included, and returns what then stands. `None`:
/// someone else has written since, or deleted it.
pub(crate) async fn replace_status<K>(client: &Client, object: &K) -> Result<Option<K>, ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Serialize
        + Clone
        + Debug,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match api.replace_status(&name, &parameters, object).await {
        Ok(written) => Ok(Some(written)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(source) => Err(ApplyError::Status {
            kind: K::kind(&()).into_owned(),
            name: format!("{namespace}/{name}"),
            source: Box::new(source),
        }),
    }
}

/// Sets the whole list of finalizers, unless the object changed meanwhile.
pub(crate) async fn write_finalizers<K>(
    client: &Client,
    object: &K,
    finalizers: &[String],
) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let patch = serde_json::json!({
        "metadata": {"finalizers": finalizers, "resourceVersion": object.resource_version()},
    });
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(ApplyError::Apply {
            kind: K::kind(&()).into_owned(),
            name: format!("{namespace}/{name}"),
            source: Box::new(source),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn map(value: &str) -> ConfigMap {
        let data = [("key".to_owned(), value.to_owned())].into();
        stamped(ConfigMap { data: Some(data), ..ConfigMap::default() })
    }

    #[test]
    fn the_same_input_is_current_and_another_is_not() {
        assert!(is_current(&map("a"), &map("a")));
        assert!(!is_current(&map("a"), &map("b")));
    }

    #[test]
    fn what_carries_no_stamp_or_is_going_is_never_current() {
        assert!(!is_current(&ConfigMap::default(), &map("a")));
        assert!(!is_current(&ConfigMap::default(), &ConfigMap::default()));
        let mut going = map("a");
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(!is_current(&going, &map("a")));
    }
}
