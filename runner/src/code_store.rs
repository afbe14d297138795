//! Code on the pod's disk, by digest: fetched once, kept for whoever loads it again. Written so that the host's user
//! can read it and nobody can change it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use funcatron_crds::Digest;
use funcatron_crds::bundle::{self, BundleError};
use parking_lot::Mutex;

use crate::fetch::{FetchError, Fetcher};

/// Bundles kept on disk that no loaded revision uses: at most 10 MB each.
const UNUSED_KEPT_MAX: usize = 16;
/// Unfinished directories begin with this; a digest does not.
const UNFINISHED: &str = ".unfinished-";

/// Why code is not at hand.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodeError {
    #[error("fetch code: {0}")]
    Fetch(#[from] FetchError),
    #[error("unpack code: {0}")]
    Unpack(#[from] BundleError),
    #[error("write code: {0}")]
    Write(#[from] io::Error),
}

/// A directory with code, kept on disk for as long as this lives.
#[derive(Debug, Clone)]
pub(crate) struct Code {
    pub path: PathBuf,
    _in_use: Arc<()>,
}

/// All code on this pod.
#[derive(Debug)]
pub(crate) struct CodeStore {
    directory: PathBuf,
    unfinished: AtomicU64,
    /// By hex digest, in use while the weak reference can be raised; `u64` counts uses, the least recent goes first.
    known: Mutex<HashMap<String, (u64, Weak<()>)>>,
}

impl CodeStore {
    /// Makes the directory, and clears away what an earlier process left unfinished.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let mut known = HashMap::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_name().into_string() {
                Ok(name) if name.starts_with(UNFINISHED) => remove(&entry.path())?,
                Ok(name) => drop(known.insert(name, (0, Weak::new()))),
                Err(_) => {}
            }
        }
        Ok(Self {
            directory: directory.to_path_buf(),
            unfinished: AtomicU64::new(1),
            known: Mutex::new(known),
        })
    }

    /// The code of that digest, fetched from `url` where it is not here yet.
    pub(crate) async fn get(
        self: &Arc<Self>,
        fetcher: &Fetcher,
        url: &str,
        digest: &Digest,
    ) -> Result<Code, CodeError> {
        if let Some(code) = self.find(digest) {
            return Ok(code);
        }
        let packed = fetcher.get(url, digest, bundle::PACKED_BYTES_MAX).await?;
        let (store, digest) = (Arc::clone(self), digest.clone());
        let written = tokio::task::spawn_blocking(move || {
            store.put(&digest, &bundle::unpack(&packed)?)?;
            Ok(store.lease(&digest))
        });
        written.await.unwrap_or_else(|stopped| Err(CodeError::Write(io::Error::other(stopped))))
    }

    fn find(&self, digest: &Digest) -> Option<Code> {
        let known = self.known.lock().contains_key(digest.hex());
        known.then(|| self.lease(digest))
    }

    fn lease(&self, digest: &Digest) -> Code {
        let mut known = self.known.lock();
        let use_number = known.values().map(|(use_number, _)| *use_number).max().unwrap_or(0) + 1;
        let (last_use, lease) = known.entry(digest.hex().to_owned()).or_insert((0, Weak::new()));
        *last_use = use_number;
        let in_use = lease.upgrade().unwrap_or_default();
        *lease = Arc::downgrade(&in_use);
        Code { path: self.directory.join(digest.hex()), _in_use: in_use }
    }

    fn put(&self, digest: &Digest, files: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
        self.make_room();
        let unfinished = self.unfinished();
        write(&unfinished, files)?;
        let finished = self.directory.join(digest.hex());
        match fs::rename(&unfinished, &finished) {
            Ok(()) => Ok(()),
            // Another load of the same code was faster.
            Err(_) if finished.is_dir() => remove(&unfinished),
            Err(error) => Err(error),
        }
    }

    /// What goes is out of the way before the lock is given back, and removed after: whoever looks for code waits for
    /// no disk.
    fn make_room(&self) {
        let mut known = self.known.lock();
        let mut unused: Vec<(u64, String)> = known
            .iter()
            .filter(|(_, (_, lease))| lease.strong_count() == 0)
            .map(|(name, (last_use, _))| (*last_use, name.clone()))
            .collect();
        unused.sort_unstable();
        let surplus = unused.len().saturating_sub(UNUSED_KEPT_MAX - 1);
        let mut going = Vec::with_capacity(surplus);
        for (_, name) in unused.into_iter().take(surplus) {
            known.remove(&name);
            let aside = self.unfinished();
            going.push(fs::rename(self.directory.join(&name), &aside).map(|()| aside));
        }
        drop(known);
        for gone in going {
            if let Err(error) = gone.and_then(|aside| remove(&aside)) {
                tracing::warn!(%error, "could not remove unused code");
            }
        }
    }

    /// A directory that a later process clears away.
    fn unfinished(&self) -> PathBuf {
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        self.directory.join(format!("{UNFINISHED}{number}"))
    }
}

fn write(directory: &Path, files: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    let mut directories = vec![directory.to_path_buf()];
    fs::create_dir(directory)?;
    for (name, content) in files {
        let path = directory.join(name);
        for parent in path.ancestors().skip(1).take_while(|parent| *parent != directory) {
            if !directories.iter().any(|known| known == parent) {
                directories.push(parent.to_path_buf());
            }
        }
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        fs::write(&path, content)?;
        fs::set_permissions(&path, Permissions::from_mode(0o444))?;
    }
    directories.iter().try_for_each(|path| fs::set_permissions(path, Permissions::from_mode(0o555)))
}

/// Removes a directory that was made unwritable.
fn remove(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => remove(&entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_dir(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(body: &str) -> BTreeMap<String, Vec<u8>> {
        BTreeMap::from([("func.py".into(), body.into()), ("lib/a/b.py".into(), b"x = 1".to_vec())])
    }

    fn store(dir: &Path) -> CodeStore {
        CodeStore::open(dir).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn code_can_be_read_and_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"1");
        let store = store(dir.path());
        store.put(&digest, &files("one")).unwrap();
        let code = store.lease(&digest);
        assert_eq!(fs::read(code.path.join("lib/a/b.py")).unwrap(), b"x = 1");
        assert_eq!(mode(&code.path), 0o555);
        assert_eq!(mode(&code.path.join("lib/a")), 0o555);
        assert_eq!(mode(&code.path.join("func.py")), 0o444);
        remove(&code.path).unwrap();
    }

    #[test]
    fn code_survives_the_runner_and_leftovers_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"1");
        store(dir.path()).put(&digest, &files("one")).unwrap();
        write(&dir.path().join(format!("{UNFINISHED}9")), &files("half")).unwrap();
        let reopened = store(dir.path());
        assert!(reopened.find(&digest).is_some());
        assert!(!dir.path().join(format!("{UNFINISHED}9")).exists());
        remove(&dir.path().join(digest.hex())).unwrap();
    }

    #[test]
    fn unused_code_is_bounded_and_used_code_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let used = Digest::of(b"used");
        store.put(&used, &files("used")).unwrap();
        let lease = store.lease(&used);
        for number in 0..UNUSED_KEPT_MAX * 2 {
            let digest = Digest::of(number.to_string().as_bytes());
            store.put(&digest, &files("unused")).unwrap();
            drop(store.lease(&digest));
        }
        assert!(lease.path.join("func.py").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), UNUSED_KEPT_MAX + 1);
        assert!(store.find(&Digest::of(b"0")).is_none(), "the least recently used went first");
        for entry in fs::read_dir(dir.path()).unwrap() {
            remove(&entry.unwrap().path()).unwrap();
        }
    }

    #[test]
    fn the_same_code_twice_is_one_directory() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let digest = Digest::of(b"1");
        store.put(&digest, &files("one")).unwrap();
        store.put(&digest, &files("one")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove(&dir.path().join(digest.hex())).unwrap();
    }
}
