//! Tables and bundles as ConfigMaps of the system namespace. Across namespaces nothing can own them: the operator
//! deletes them itself.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::{Compression, GzBuilder};
use funcatron_crds::names::{
    BUNDLE_KEY, LABEL_ROUTE, PART_APP_TABLE, PART_BUNDLE, PART_ROUTE_TABLE, TABLE_GZIP_KEY, TABLE_KEY,
    TABLE_PLAIN_BYTES_MAX,
};
use funcatron_crds::{Digest, names};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;

use super::{labels, metadata};

/// Part of a table's ConfigMap: text while small, gzip when large.
pub(crate) enum Content {
    /// Goes into `data`.
    Text(String),
    /// Goes into `binaryData`.
    Gzip(Vec<u8>),
}

impl Content {
    /// Compresses what is large; without a time, so that the same text gives the same bytes.
    pub(crate) fn of(text: String) -> Self {
        if text.len() <= TABLE_PLAIN_BYTES_MAX {
            return Self::Text(text);
        }
        let mut encoder = GzBuilder::new().write(vec![], Compression::default());
        match encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()) {
            Ok(packed) => Self::Gzip(packed),
            // A Vec takes every write; the text itself is still a right answer.
            Err(_) => Self::Text(text),
        }
    }
}

/// A Route's table.
pub(crate) fn route_table(
    system_namespace: &str,
    namespace: &str,
    app: &str,
    route: &str,
    content: Content,
) -> ConfigMap {
    let mut labels = labels(PART_ROUTE_TABLE, namespace, app);
    labels.insert(LABEL_ROUTE.to_owned(), route.to_owned());
    table(names::route_table(namespace, route), system_namespace, labels, content)
}

/// An App's table.
pub(crate) fn app_table(system_namespace: &str, namespace: &str, app: &str, content: Content) -> ConfigMap {
    let labels = labels(PART_APP_TABLE, namespace, app);
    table(names::app_table(namespace, app), system_namespace, labels, content)
}

/// Bytes by their digest; they never change, so Kubernetes need not watch them.
pub(crate) fn bundle(
    system_namespace: &str,
    namespace: &str,
    app: &str,
    digest: &Digest,
    bytes: &[u8],
) -> ConfigMap {
    let labels = labels(PART_BUNDLE, namespace, app);
    ConfigMap {
        metadata: metadata(names::bundle(namespace, app, digest), system_namespace, labels, None),
        binary_data: Some(BTreeMap::from([(BUNDLE_KEY.to_owned(), ByteString(bytes.to_vec()))])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

fn table(name: String, namespace: &str, labels: BTreeMap<String, String>, content: Content) -> ConfigMap {
    let mut map = ConfigMap { metadata: metadata(name, namespace, labels, None), ..ConfigMap::default() };
    match content {
        Content::Text(text) => map.data = Some(BTreeMap::from([(TABLE_KEY.to_owned(), text)])),
        Content::Gzip(bytes) => {
            let entry = (TABLE_GZIP_KEY.to_owned(), ByteString(bytes));
            map.binary_data = Some(BTreeMap::from([entry]));
        }
    }
    map
}
