//! A folder of bytes by name, bounded: the least recently used goes first. What it hands out was checked against its
//! digest. Failing to keep something is no error of its own: it is fetched again.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use funcatron_crds::Digest;
use parking_lot::Mutex;
use tracing::warn;

/// A file that is still being written; one left by a crash is removed at the next start.
const UNFINISHED: &str = ".part";

/// The folder, and what is in it.
#[derive(Debug)]
pub(crate) struct DiskCache {
    folder: PathBuf,
    bytes_max: u64,
    index: Mutex<Index>,
    writes: AtomicU64,
}

/// Which names are kept, how large each is and when it was last used.
#[derive(Debug, Default)]
struct Index {
    kept: HashMap<String, Kept>,
    bytes: u64,
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    bytes: u64,
    used: u64,
}

impl Index {
    fn touch(&mut self, name: &str) -> bool {
        self.clock += 1;
        let clock = self.clock;
        self.kept.get_mut(name).map(|kept| kept.used = clock).is_some()
    }

    fn forget(&mut self, name: &str) {
        if let Some(kept) = self.kept.remove(name) {
            self.bytes -= kept.bytes;
        }
    }

    /// Enters a name and says which must go for it.
    fn keep(&mut self, name: &str, bytes: u64, bytes_max: u64) -> Vec<String> {
        self.forget(name);
        self.clock += 1;
        self.kept.insert(name.to_owned(), Kept { bytes, used: self.clock });
        self.bytes += bytes;
        let mut gone = Vec::new();
        while self.bytes > bytes_max {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { break };
            self.forget(&oldest);
            gone.push(oldest);
        }
        gone
    }
}

impl DiskCache {
    /// Opens a folder and takes over what is in it; makes it where it is missing.
    pub(crate) fn open(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut index = Index::default();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let (name, metadata) = (entry.file_name(), entry.metadata()?);
            let Some(name) = name.to_str().filter(|name| metadata.is_file() && !name.ends_with(UNFINISHED))
            else {
                let _ = std::fs::remove_file(entry.path());
                continue;
            };
            for gone in index.keep(name, metadata.len(), bytes_max) {
                std::fs::remove_file(folder.join(gone))?;
            }
        }
        Ok(Self { folder: folder.to_owned(), bytes_max, index: Mutex::new(index), writes: AtomicU64::new(0) })
    }

    /// What is kept under a name, if it bears that digest.
    pub(crate) async fn get(&self, name: &str, digest: &Digest) -> Option<Bytes> {
        if !self.index.lock().touch(name) {
            return None;
        }
        let read = tokio::fs::read(self.folder.join(name)).await;
        match read {
            Ok(bytes) if Digest::of(&bytes) == *digest => Some(bytes.into()),
            Ok(_) => {
                warn!(name, "a cached bundle has rotted");
                self.index.lock().forget(name);
                None
            }
            Err(_) => {
                self.index.lock().forget(name);
                None
            }
        }
    }

    /// Keeps bytes under a name.
    pub(crate) async fn put(&self, name: &str, bytes: &Bytes) {
        let size = bytes.len() as u64;
        if size > self.bytes_max {
            return;
        }
        // Two that write the same name at once must not write into one another's file.
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let part = self.folder.join(format!("{name}.{number}{UNFINISHED}"));
        if let Err(error) = self.write(&part, name, bytes).await {
            warn!(%error, name, "could not cache a bundle");
            let _ = tokio::fs::remove_file(part).await;
            return;
        }
        let gone = self.index.lock().keep(name, size, self.bytes_max);
        for name in gone {
            let _ = tokio::fs::remove_file(self.folder.join(name)).await;
        }
    }

    async fn write(&self, part: &Path, name: &str, bytes: &Bytes) -> io::Result<()> {
        tokio::fs::write(part, bytes).await?;
        tokio::fs::rename(part, self.folder.join(name)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn keep(cache: &DiskCache, name: &str, bytes: &'static [u8]) -> Digest {
        cache.put(name, &Bytes::from_static(bytes)).await;
        Digest::of(bytes)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn the_least_recently_used_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(folder.path(), 8).unwrap();
        let a = keep(&cache, "a", b"aaaa").await;
        let b = keep(&cache, "b", b"bbbb").await;
        assert!(cache.get("a", &a).await.is_some());
        let c = keep(&cache, "c", b"cccc").await;
        assert!(cache.get("b", &b).await.is_none());
        assert!(cache.get("a", &a).await.is_some() && cache.get("c", &c).await.is_some());
        assert_eq!(names(folder.path()), ["a", "c"]);
    }

    #[tokio::test]
    async fn what_rotted_on_disk_is_not_handed_out() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(folder.path(), 100).unwrap();
        let a = keep(&cache, "a", b"aaaa").await;
        std::fs::write(folder.path().join("a"), b"evil").unwrap();
        assert!(cache.get("a", &a).await.is_none());
    }

    #[tokio::test]
    async fn a_restart_takes_over_what_is_whole_and_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(folder.path(), 100).unwrap();
        let a = keep(&cache, "a", b"aaaa").await;
        std::fs::write(folder.path().join("b.7.part"), b"half").unwrap();
        drop(cache);
        let cache = DiskCache::open(folder.path(), 100).unwrap();
        assert!(cache.get("a", &a).await.is_some());
        assert_eq!(names(folder.path()), ["a"]);
        drop(cache);
        DiskCache::open(folder.path(), 3).unwrap();
        assert!(names(folder.path()).is_empty());
    }

    #[tokio::test]
    async fn what_is_larger_than_the_cache_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(folder.path(), 3).unwrap();
        let a = keep(&cache, "a", b"aaaa").await;
        assert!(cache.get("a", &a).await.is_none() && names(folder.path()).is_empty());
    }
}
