//! The values that Fns take from Secrets and ConfigMaps. Pure; a missing one is a problem naming object and key.

use std::collections::BTreeMap;

use funcatron_crds::{EnvEntry, ObjectKind};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::super::manifests::{Key, Manifests};

/// Where a runner finds one value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConfigFile {
    pub(crate) object: ObjectKind,
    pub(crate) name: String,
    pub(crate) key: String,
}

/// All values that `entries` ask for, or the first that is missing.
pub(super) fn values(
    manifests: &Manifests,
    namespace: &str,
    entries: &[EnvEntry],
) -> Result<BTreeMap<ConfigFile, Vec<u8>>, String> {
    let mut files = BTreeMap::new();
    for entry in entries {
        match entry {
            EnvEntry::Value { .. } => {}
            EnvEntry::Key { object, object_name, key, optional, name } => {
                let data = data_of(manifests, namespace, *object, object_name);
                match data.and_then(|mut data| data.remove(key)) {
                    Some(value) => insert(&mut files, *object, object_name, key, value),
                    None if *optional => {}
                    None => {
                        return Err(format!(
                            "{name} needs key {key} of {object:?} {object_name}, which is not in this folder; add a \
                             manifest with it, or mark it optional"
                        ));
                    }
                }
            }
            EnvEntry::All { object, object_name, optional, .. } => {
                match data_of(manifests, namespace, *object, object_name) {
                    Some(data) => {
                        for (key, value) in data {
                            insert(&mut files, *object, object_name, &key, value);
                        }
                    }
                    None if *optional => {}
                    None => {
                        return Err(format!(
                            "envFrom needs {object:?} {object_name}, which is not in this folder; add its manifest, \
                             or mark it optional"
                        ));
                    }
                }
            }
        }
    }
    Ok(files)
}

fn insert(
    files: &mut BTreeMap<ConfigFile, Vec<u8>>,
    object: ObjectKind,
    name: &str,
    key: &str,
    value: Vec<u8>,
) {
    files.insert(ConfigFile { object, name: name.to_owned(), key: key.to_owned() }, value);
}

fn data_of(
    manifests: &Manifests,
    namespace: &str,
    object: ObjectKind,
    name: &str,
) -> Option<BTreeMap<String, Vec<u8>>> {
    let key = Key::new(namespace, name);
    match object {
        ObjectKind::Secret => manifests.secrets.get(&key).map(|secret| secret_data(&secret.object)),
        ObjectKind::ConfigMap => manifests.config_maps.get(&key).map(|map| config_map_data(&map.object)),
    }
}

/// A ConfigMap's values by key, text and binary alike.
pub(super) fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}

/// A Secret's values by key; `stringData` wins, as on a cluster.
fn secret_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    let binary = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    let text =
        secret.string_data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    binary.chain(text).collect()
}
