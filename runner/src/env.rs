//! A revision's environment: plain values from its run document, keys from the projected volumes.
//!
//! Holds secret values on their way to the host. Never logs one, and names in its errors only objects and keys.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use funcatron_crds::{EnvEntry, ObjectKind, RESERVED_PREFIXES};

/// A Secret or ConfigMap holds 1 MiB; more than this in one variable starts no process (Linux's MAX_ARG_STRLEN).
const VALUE_BYTES_MAX: u64 = 128 * 1024;

/// Why an environment cannot be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvError {
    /// What the Fn needs is not there (yet).
    #[error("key `{key}` of {kind} `{object}` is missing")]
    KeyMissing { kind: &'static str, object: String, key: String },
    /// The whole object is not there (yet).
    #[error("{kind} `{object}` is missing")]
    ObjectMissing { kind: &'static str, object: String },
    #[error(
        "key `{key}` of {kind} `{object}` is no UTF-8 text of up to {VALUE_BYTES_MAX} bytes without a zero byte"
    )]
    NotText { kind: &'static str, object: String, key: String },
    #[error("{kind} `{object}` cannot be read: {source}")]
    Read { kind: &'static str, object: String, source: io::Error },
}

impl EnvError {
    /// Whether the user has yet to make something.
    pub(crate) const fn is_missing(&self) -> bool {
        matches!(self, Self::KeyMissing { .. } | Self::ObjectMissing { .. })
    }
}

/// Builds the environment that `entries` describe, a later one winning over an earlier of the same name.
///
/// Values refer to earlier variables as `$(NAME)`, and `$$` is a dollar sign, as in a container's environment.
pub(crate) fn resolve(config_dir: &Path, entries: &[EnvEntry]) -> Result<BTreeMap<String, String>, EnvError> {
    let mut env = BTreeMap::new();
    for entry in entries {
        match entry {
            EnvEntry::Value { name, value } => {
                let value = expand(value, &env);
                env.insert(name.clone(), value);
            }
            EnvEntry::Key { name, object, object_name, key, optional } => {
                let object = Object::new(config_dir, *object, object_name);
                match object.key(key)? {
                    Some(value) => drop(env.insert(name.clone(), value)),
                    None if *optional => {}
                    None => return Err(object.key_missing(key)),
                }
            }
            EnvEntry::All { prefix, object, object_name, optional } => {
                let object = Object::new(config_dir, *object, object_name);
                match object.all()? {
                    Some(pairs) => env.extend(whole(prefix, pairs)),
                    None if *optional => {}
                    None => return Err(EnvError::ObjectMissing { kind: object.kind, object: object.name() }),
                }
            }
        }
    }
    Ok(env)
}

/// A whole object's variables; what its keys cannot set is the platform's own.
fn whole(prefix: &str, pairs: Vec<(String, String)>) -> impl Iterator<Item = (String, String)> {
    let named = pairs.into_iter().map(move |(key, value)| (format!("{prefix}{key}"), value));
    named.filter(|(name, _)| !RESERVED_PREFIXES.iter().any(|reserved| name.starts_with(reserved)))
}

/// One projected Secret or ConfigMap: a directory with a file for each key.
struct Object<'a> {
    kind: &'static str,
    object_name: &'a str,
    path: PathBuf,
}

impl<'a> Object<'a> {
    fn new(config_dir: &Path, object: ObjectKind, object_name: &'a str) -> Self {
        let (kind, folder) = match object {
            ObjectKind::Secret => ("Secret", "secrets"),
            ObjectKind::ConfigMap => ("ConfigMap", "configmaps"),
        };
        Self { kind, object_name, path: config_dir.join(folder).join(object_name) }
    }

    fn name(&self) -> String {
        self.object_name.to_owned()
    }

    fn key_missing(&self, key: &str) -> EnvError {
        EnvError::KeyMissing { kind: self.kind, object: self.name(), key: key.to_owned() }
    }

    fn key(&self, key: &str) -> Result<Option<String>, EnvError> {
        if !is_file_name(self.object_name) || !is_file_name(key) {
            return Ok(None);
        }
        let file = match std::fs::File::open(self.path.join(key)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.unreadable(source)),
        };
        let mut bytes = Vec::new();
        file.take(VALUE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|source| self.unreadable(source))?;
        let fits = bytes.len() as u64 <= VALUE_BYTES_MAX && !bytes.contains(&0);
        match String::from_utf8(bytes) {
            Ok(text) if fits => Ok(Some(text)),
            _ => Err(EnvError::NotText { kind: self.kind, object: self.name(), key: key.to_owned() }),
        }
    }

    /// All keys that can be names of variables, as `envFrom` does it.
    fn all(&self) -> Result<Option<Vec<(String, String)>>, EnvError> {
        if !is_file_name(self.object_name) {
            return Ok(None);
        }
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.unreadable(source)),
        };
        let mut pairs = Vec::new();
        for entry in entries {
            let key = entry.map_err(|source| self.unreadable(source))?.file_name().into_string();
            // The kubelet keeps its own entries under names with two dots.
            let Ok(key) = key else { continue };
            if key.starts_with("..") || !is_variable(&key) {
                continue;
            }
            if let Some(value) = self.key(&key)? {
                pairs.push((key, value));
            }
        }
        Ok(Some(pairs))
    }

    fn unreadable(&self, source: io::Error) -> EnvError {
        EnvError::Read { kind: self.kind, object: self.name(), source }
    }
}

/// Names come from a document that tenants shape: one that could leave its folder names nothing.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with("..") && name != "." && !name.contains(['/', '\0'])
}

fn is_variable(key: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    !key.is_empty() && !key.as_bytes()[0].is_ascii_digit() && key.bytes().all(inner)
}

/// `$(NAME)` stands for an earlier variable and for itself where there is none; `$$` for a dollar sign.
fn expand(value: &str, env: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let named = tail.strip_prefix('(').and_then(|tail| tail.split_once(')'));
        rest = match (tail.strip_prefix('$'), named) {
            (Some(tail), _) => {
                expanded.push('$');
                tail
            }
            (None, Some((name, tail))) if env.contains_key(name) => {
                expanded.push_str(&env[name]);
                tail
            }
            _ => {
                expanded.push('$');
                tail
            }
        };
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
