//! Where bundles come from: code and run documents by digest. Whatever a source hands out bears the digest it was asked
//! for. Never decides who may have a bundle: that is the signed address's.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use funcatron_crds::Digest;
use parking_lot::RwLock;
use thiserror::Error;

/// Why a bundle could not be looked up.
#[derive(Debug, Error)]
pub enum FetchBundleError {
    /// The API server refused or is gone.
    #[error("could not read the bundle's ConfigMap")]
    Kubernetes(#[source] kube::Error),
    /// The API server did not answer in time.
    #[error("the API server did not answer in time")]
    TimedOut,
    /// What stands under its name is something else.
    #[error("the bundle's ConfigMap holds other bytes than its name says")]
    Mismatch,
}

/// Hands out bundles by digest.
#[async_trait]
pub trait BundleSource: Send + Sync {
    /// An App's bundle of that digest; `None` where there is none.
    async fn fetch(
        &self,
        namespace: &str,
        app: &str,
        digest: &Digest,
    ) -> Result<Option<Bytes>, FetchBundleError>;
}

/// Bundles kept in memory, for `dev`; whoever puts them takes them out again.
#[derive(Debug, Default)]
pub struct MemoryBundles(RwLock<HashMap<(String, String, Digest), Bytes>>);

impl MemoryBundles {
    /// Keeps an App's bundle under its digest, which is returned.
    pub fn put(&self, namespace: &str, app: &str, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        self.0.write().insert((namespace.to_owned(), app.to_owned(), digest.clone()), bytes);
        digest
    }

    /// Keeps of an App's bundles only those that `wanted` names.
    pub fn retain(&self, namespace: &str, app: &str, wanted: impl Fn(&Digest) -> bool) {
        self.0.write().retain(|(of, name, digest), _| {
            (of, name) != (&namespace.to_owned(), &app.to_owned()) || wanted(digest)
        });
    }
}

#[async_trait]
impl BundleSource for MemoryBundles {
    async fn fetch(
        &self,
        namespace: &str,
        app: &str,
        digest: &Digest,
    ) -> Result<Option<Bytes>, FetchBundleError> {
        let key = (namespace.to_owned(), app.to_owned(), digest.clone());
        Ok(self.0.read().get(&key).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bundle_is_its_own_apps_alone_and_goes_when_unwanted() {
        let bundles = MemoryBundles::default();
        let digest = bundles.put("team-a", "shop", Bytes::from_static(b"code"));
        let other = bundles.put("team-a", "site", Bytes::from_static(b"code"));
        assert_eq!(digest, other);
        let fetched = bundles.fetch("team-a", "shop", &digest).await.unwrap();
        assert_eq!(fetched.as_deref(), Some(&b"code"[..]));
        assert_eq!(bundles.fetch("team-b", "shop", &digest).await.unwrap(), None);
        bundles.retain("team-a", "shop", |_| false);
        assert_eq!(bundles.fetch("team-a", "shop", &digest).await.unwrap(), None);
        assert!(bundles.fetch("team-a", "site", &digest).await.unwrap().is_some());
    }
}
