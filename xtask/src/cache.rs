//! What has been built, kept outside the checkout under a key made of all that it was built from.
//! An entry either is whole or is not there: it is made beside its place and renamed into it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The cache of this user: `$HOME/.cache/funcatron`.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache's folder, made if it is not there.
    pub(crate) fn open() -> Result<Self> {
        let home = std::env::var_os("HOME").context("HOME is not set, and the cache lives below it")?;
        let root = Path::new(&home).join(".cache/funcatron");
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        Ok(Self { root })
    }

    /// The folder that everything is in.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A folder of the cache that no key guards.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(folder)
    }

    /// The entry `name` for this key; `make` fills the path that it is given when there is none yet,
    /// and entries of the same name with another key are then removed. Whoever asks for it meanwhile waits.
    pub(crate) fn entry(
        &self,
        name: &str,
        key: &Key,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let entry = self.root.join(format!("{name}-{}", key.hex()));
        if entry.exists() {
            return Ok(entry);
        }
        let lock = self.folder("locks")?.join(name);
        let lock = fs::File::create(&lock).with_context(|| format!("create {}", lock.display()))?;
        lock.lock().with_context(|| format!("wait for another who makes {name}"))?;
        if entry.exists() {
            return Ok(entry);
        }
        let unfinished = self.root.join(format!("unfinished-{name}"));
        remove(&unfinished)?;
        make(&unfinished)?;
        for stale in self.entries(name)? {
            remove(&stale)?;
        }
        fs::rename(&unfinished, &entry).with_context(|| format!("keep {}", entry.display()))?;
        Ok(entry)
    }

    fn entries(&self, name: &str) -> Result<Vec<PathBuf>> {
        let listed = fs::read_dir(&self.root).with_context(|| format!("list {}", self.root.display()))?;
        let is_ours = |path: &PathBuf| {
            let file = path.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
            file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')).is_some_and(|key| {
                key.len() == KEY_HEX_LEN && key.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
        };
        Ok(listed.filter_map(|found| Some(found.ok()?.path())).filter(is_ours).collect())
    }
}

/// Enough of a SHA-256 to never meet by chance, short enough to read in a path.
const KEY_HEX_LEN: usize = 16;

/// A hash over everything that goes into a build. Parts are length-prefixed, so that none can pose as
/// two.
#[derive(Debug, Clone, Default)]
pub(crate) struct Key {
    hash: Sha256,
}

impl Key {
    /// The key of nothing; `version` is raised when the way of building changes.
    pub(crate) fn new(version: &str) -> Self {
        Self::default().with(version)
    }

    /// Adds a text.
    pub(crate) fn with(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        self.hash.update((part.len() as u64).to_le_bytes());
        self.hash.update(part);
        self
    }

    /// Adds a file's content, or every file below a folder with its path, in order of path.
    pub(crate) fn with_files(mut self, path: &Path) -> Result<Self> {
        if !path.is_dir() {
            let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            return Ok(self.with(content));
        }
        let mut children = fs::read_dir(path)
            .with_context(|| format!("list {}", path.display()))?
            .map(|child| Ok(child?.path()))
            .collect::<Result<Vec<_>>>()?;
        children.sort();
        for child in children {
            if is_by_product(&child) {
                continue;
            }
            self = self.with(child.file_name().unwrap_or_default().to_string_lossy().as_bytes());
            self = self.with_files(&child)?;
        }
        Ok(self)
    }

    /// The key as it stands in paths.
    pub(crate) fn hex(&self) -> String {
        let digest = self.hash.clone().finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        hex.chars().take(KEY_HEX_LEN).collect()
    }
}

/// What tests and interpreters leave in a source folder.
pub(crate) fn is_by_product(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    matches!(name.as_ref(), "__pycache__" | ".pytest_cache" | "node_modules" | ".venv")
        || name.ends_with(".egg-info")
        || name.ends_with(".pyc")
}

/// Removes a file or a folder that may not be there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let Ok(kind) = fs::symlink_metadata(path) else { return Ok(()) };
    let removed = if kind.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| format!("remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_apart_where_parts_end() {
        assert_ne!(Key::new("1").with("ab").with("c").hex(), Key::new("1").with("a").with("bc").hex());
    }

    #[test]
    fn an_entry_is_made_once_and_replaces_that_of_another_key() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { root: folder.path().to_owned() };
        let make = |path: &Path| Ok(fs::write(path, "made")?);
        let first = cache.entry("thing", &Key::new("1"), make).unwrap();
        let again = cache.entry("thing", &Key::new("1"), |_| anyhow::bail!("made twice")).unwrap();
        assert_eq!(first, again);
        let other = cache.entry("thing", &Key::new("2"), make).unwrap();
        assert!(other.exists() && !first.exists());
    }

    #[test]
    fn an_entry_that_could_not_be_made_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { root: folder.path().to_owned() };
        let half = |path: &Path| {
            fs::write(path, "half")?;
            anyhow::bail!("broken off")
        };
        cache.entry("thing", &Key::new("1"), half).unwrap_err();
        let made = cache.entry("thing", &Key::new("1"), |path| Ok(fs::write(path, "whole")?)).unwrap();
        assert_eq!(fs::read_to_string(made).unwrap(), "whole");
    }

    #[test]
    fn a_key_follows_content_and_path_but_not_by_products() {
        let folder = tempfile::tempdir().unwrap();
        let key = || Key::new("1").with_files(folder.path()).unwrap().hex();
        fs::write(folder.path().join("a"), "one").unwrap();
        let first = key();
        fs::create_dir(folder.path().join("__pycache__")).unwrap();
        fs::write(folder.path().join("__pycache__/x"), "x").unwrap();
        assert_eq!(first, key());
        fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert_ne!(first, key());
    }
}
