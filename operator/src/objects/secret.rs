//! The Secret with an App's broker URL. Written, never read.

use std::collections::BTreeMap;

use funcatron_crds::names::{BROKER_URL_KEY, PART_BROKER};
use funcatron_crds::{App, names};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::{labels, metadata, owner};

/// Builds it.
pub(crate) fn build(app: &App, url: String) -> Secret {
    let (namespace, name) = (app.namespace().unwrap_or_default(), app.name_any());
    Secret {
        metadata: metadata(
            names::broker_secret(&name),
            &namespace,
            labels(PART_BROKER, &namespace, &name),
            owner(app),
        ),
        string_data: Some(BTreeMap::from([(BROKER_URL_KEY.to_owned(), url)])),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}
