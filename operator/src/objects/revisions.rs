//! Revisions as `apps/v1` ControllerRevisions owned by their Fn: digests and limits, never code.

use std::collections::BTreeSet;

use funcatron_crds::names::{LABEL_FN, LABEL_REVISION};
use funcatron_crds::{Digest, EnvEntry, Function, ObjectKind, RevisionName, RunDocument};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use super::shared::ConfigObject;
use super::{labels, metadata, owner};

/// `funcatron.dev/part` of a revision.
pub(crate) const PART_REVISION: &str = "revision";

/// What stays known of a revision when its Fn has moved on.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Its App; a Fn may move to another.
    pub(crate) app: String,
    /// Its runtime; absent: an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) runtime: Option<String>,
    /// Its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// Its run document.
    pub(crate) run: Digest,
    /// Its code; absent: an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<Digest>,
    /// Calls at once in one process.
    pub(crate) concurrency: u32,
    /// Longest time from submit to answer.
    pub(crate) timeout_ms: u64,
    /// Secrets it reads its environment from.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) secrets: BTreeSet<String>,
    /// ConfigMaps it reads its environment from.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) config_maps: BTreeSet<String>,
}

impl Record {
    /// Of a revision's run document.
    pub(crate) fn of(document: &RunDocument) -> Self {
        let objects = objects(&document.env);
        let named = |wanted: ObjectKind| {
            objects.iter().filter(|(kind, _)| *kind == wanted).map(|(_, name)| name.clone()).collect()
        };
        Self {
            app: document.app.clone(),
            runtime: document.runtime.clone(),
            image: document.image.clone(),
            run: document.digest(),
            code: document.code.clone(),
            concurrency: document.concurrency,
            timeout_ms: document.timeout_ms,
            secrets: named(ObjectKind::Secret),
            config_maps: named(ObjectKind::ConfigMap),
        }
    }

    /// What its runners must have mounted.
    pub(crate) fn objects(&self) -> impl Iterator<Item = ConfigObject> + '_ {
        let secrets = self.secrets.iter().map(|name| (ObjectKind::Secret, name.clone()));
        let config_maps = self.config_maps.iter().map(|name| (ObjectKind::ConfigMap, name.clone()));
        secrets.chain(config_maps)
    }
}

/// The objects that an environment is read from.
fn objects(env: &[EnvEntry]) -> BTreeSet<ConfigObject> {
    let of = |entry: &EnvEntry| match entry {
        EnvEntry::Value { .. } => None,
        EnvEntry::Key { object, object_name, .. } | EnvEntry::All { object, object_name, .. } => {
            Some((*object, object_name.clone()))
        }
    };
    env.iter().filter_map(of).collect()
}

/// A revision as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Its name.
    pub(crate) name: RevisionName,
    /// Later ones have higher numbers.
    pub(crate) number: i64,
    /// What it runs.
    pub(crate) record: Record,
}

/// Builds the ControllerRevision.
pub(crate) fn build(
    function: &Function,
    revision: &RevisionName,
    number: i64,
    record: &Record,
) -> ControllerRevision {
    let namespace = function.namespace().unwrap_or_default();
    let mut labels = labels(PART_REVISION, &namespace, &record.app);
    labels.insert(LABEL_FN.to_owned(), function.name_any());
    labels.insert(LABEL_REVISION.to_owned(), revision.as_str().to_owned());
    let data = serde_json::to_value(record).expect("a record of strings and numbers is always JSON");
    ControllerRevision {
        metadata: metadata(revision.as_str().to_owned(), &namespace, labels, owner(function)),
        data: Some(RawExtension(data)),
        revision: number,
    }
}

/// Reads one back; `None` where it is none of ours or was tampered with.
pub(crate) fn read(object: &ControllerRevision) -> Option<Stored> {
    let name = RevisionName::parse(&object.name_any()).ok()?;
    let record = serde_json::from_value(object.data.as_ref()?.0.clone()).ok()?;
    Some(Stored { name, number: object.revision, record })
}
