//! Bundles out of ConfigMaps of the system namespace, which only the operator writes. Fetched by name when asked for,
//! never watched; checked by digest; kept on disk, so that a wake needs no API server mostly.

use std::io;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use funcatron_crds::{Digest, names};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::bundles::{BundleSource, FetchBundleError};
use crate::disk_cache::DiskCache;

/// Requests at once to the API server: a thousand runners that start must not be its thousand clients.
const FETCHES_MAX: usize = 8;
/// A runner that waits longer than this asks again.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Bundles of a cluster.
pub struct KubernetesBundles {
    config_maps: Api<ConfigMap>,
    cache: DiskCache,
    turns: Semaphore,
}

impl KubernetesBundles {
    /// Reads ConfigMaps of `system_namespace`; keeps at most `bytes_max` bytes in `folder`.
    pub fn open(client: Client, system_namespace: &str, folder: &Path, bytes_max: u64) -> io::Result<Self> {
        Ok(Self {
            config_maps: Api::namespaced(client, system_namespace),
            cache: DiskCache::open(folder, bytes_max)?,
            turns: Semaphore::new(FETCHES_MAX),
        })
    }

    async fn read(&self, name: &str, digest: &Digest) -> Result<Option<Bytes>, FetchBundleError> {
        let found = self.config_maps.get_opt(name).await.map_err(FetchBundleError::Kubernetes)?;
        let Some(mut found) = found else { return Ok(None) };
        let content = found.binary_data.as_mut().and_then(|data| data.remove(names::BUNDLE_KEY));
        let bytes = Bytes::from(content.ok_or(FetchBundleError::Mismatch)?.0);
        // The name holds half of the digest only, and a ConfigMap can be edited.
        if Digest::of(&bytes) == *digest { Ok(Some(bytes)) } else { Err(FetchBundleError::Mismatch) }
    }
}

#[async_trait]
impl BundleSource for KubernetesBundles {
    async fn fetch(
        &self,
        namespace: &str,
        app: &str,
        digest: &Digest,
    ) -> Result<Option<Bytes>, FetchBundleError> {
        let name = names::bundle(namespace, app, digest);
        if let Some(bytes) = self.cache.get(&name, digest).await {
            return Ok(Some(bytes));
        }
        let fetch = async {
            // Never closed; an error would only mean a fetch without a turn.
            let _turn = self.turns.acquire().await;
            self.read(&name, digest).await
        };
        let found = timeout(FETCH_TIMEOUT, fetch).await.map_err(|_| FetchBundleError::TimedOut)??;
        if let Some(bytes) = &found {
            self.cache.put(&name, bytes).await;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use base64::Engine;
    use http::{Request, Response, StatusCode};
    use kube::client::Body;

    use super::*;

    /// An API server with one ConfigMap, or none; counts what it is asked.
    fn client(content: Option<&'static [u8]>, asked: &Arc<AtomicUsize>) -> Client {
        let asked = Arc::clone(asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            asked.fetch_add(1, Ordering::Relaxed);
            let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            async move {
                let (status, json) = match content {
                    Some(content) => {
                        let content = base64::prelude::BASE64_STANDARD.encode(content);
                        let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
                            "metadata": {"name": name}, "binaryData": {"content": content}});
                        (StatusCode::OK, object)
                    }
                    None => {
                        let status = serde_json::json!({"apiVersion": "v1", "kind": "Status",
                            "status": "Failure", "reason": "NotFound", "code": 404, "message": "none"});
                        (StatusCode::NOT_FOUND, status)
                    }
                };
                let body = Body::from(serde_json::to_vec(&json).unwrap());
                Ok::<_, std::convert::Infallible>(Response::builder().status(status).body(body).unwrap())
            }
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_bundle_is_fetched_once_and_then_kept() {
        let (folder, asked) = (tempfile::tempdir().unwrap(), Arc::new(AtomicUsize::new(0)));
        let bundles =
            KubernetesBundles::open(client(Some(b"code"), &asked), "sys", folder.path(), 100).unwrap();
        for _ in 0..3 {
            let fetched = bundles.fetch("team-a", "shop", &Digest::of(b"code")).await.unwrap();
            assert_eq!(fetched.as_deref(), Some(&b"code"[..]));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_bears_another_digest_is_refused() {
        let (folder, asked) = (tempfile::tempdir().unwrap(), Arc::new(AtomicUsize::new(0)));
        let bundles =
            KubernetesBundles::open(client(Some(b"evil"), &asked), "sys", folder.path(), 100).unwrap();
        let fetched = bundles.fetch("team-a", "shop", &Digest::of(b"code")).await;
        assert!(matches!(fetched, Err(FetchBundleError::Mismatch)));
    }

    #[tokio::test]
    async fn a_bundle_that_is_not_there_is_none() {
        let (folder, asked) = (tempfile::tempdir().unwrap(), Arc::new(AtomicUsize::new(0)));
        let bundles = KubernetesBundles::open(client(None, &asked), "sys", folder.path(), 100).unwrap();
        assert_eq!(bundles.fetch("team-a", "shop", &Digest::of(b"code")).await.unwrap(), None);
    }
}
