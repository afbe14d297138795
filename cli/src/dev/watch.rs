//! Tells when anything in the watched folders has changed, once for a burst of changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// An editor writes a file in several steps; what comes within this time is one change.
const QUIET: Duration = Duration::from_millis(150);
/// Something writes in the folder without end, a log perhaps: changes beside it are still seen.
const QUIET_WAIT_MAX: Duration = Duration::from_millis(600);

/// Which folders are watched, and whether with all that is below them.
pub(crate) type Watched = BTreeMap<PathBuf, RecursiveMode>;

/// Watches folders.
pub(crate) struct FolderWatch {
    watcher: RecommendedWatcher,
    changes: mpsc::Receiver<()>,
    watched: Watched,
    /// A change was seen and not told yet.
    changing: bool,
}

impl FolderWatch {
    pub(crate) fn new() -> Result<Self, notify::Error> {
        // One waiting change says as much as many.
        let (sender, changes) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: Result<notify::Event, notify::Error>| {
            let matters = event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_)));
            if matters {
                let _ = sender.try_send(());
            }
        })?;
        Ok(Self { watcher, changes, watched: Watched::new(), changing: false })
    }

    /// Watches exactly these from now on.
    pub(crate) fn watch(&mut self, folders: Watched) -> Result<(), notify::Error> {
        for (gone, _) in self.watched.iter().filter(|(folder, mode)| folders.get(*folder) != Some(mode)) {
            // A folder that was deleted is watched no more anyway.
            let _ = self.watcher.unwatch(gone);
        }
        for (new, mode) in folders.iter().filter(|(folder, mode)| self.watched.get(*folder) != Some(mode)) {
            self.watcher.watch(new, *mode)?;
        }
        self.watched = folders;
        Ok(())
    }

    /// Returns once something has changed and then nothing more for a moment. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if !self.changing {
            if self.changes.recv().await.is_none() {
                return std::future::pending().await;
            }
            self.changing = true;
        }
        let quiet =
            async { while let Ok(Some(())) = tokio::time::timeout(QUIET, self.changes.recv()).await {} };
        // Elapsed or not, there is something to read.
        let _ = tokio::time::timeout(QUIET_WAIT_MAX, quiet).await;
        self.changing = false;
    }
}

/// The folder to watch for a path that may be a file: editors replace files, and a watch on one ends with it.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_owned();
    }
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_of_changes_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = FolderWatch::new().unwrap();
        watch.watch(Watched::from([(folder.path().to_owned(), RecursiveMode::NonRecursive)])).unwrap();
        for text in ["a", "b", "c"] {
            std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        }
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap();
        assert!(tokio::time::timeout(QUIET * 2, watch.changed()).await.is_err());
    }

    #[tokio::test]
    async fn a_change_is_told_though_the_wait_for_it_was_given_up_half_way() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = FolderWatch::new().unwrap();
        watch.watch(Watched::from([(folder.path().to_owned(), RecursiveMode::NonRecursive)])).unwrap();
        std::fs::write(folder.path().join("a.yaml"), "a").unwrap();
        while !watch.changing {
            assert!(tokio::time::timeout(QUIET / 3, watch.changed()).await.is_err());
        }
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_change_below_a_folder_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("code")).unwrap();
        let mut watch = FolderWatch::new().unwrap();
        watch.watch(Watched::from([(folder.path().to_owned(), RecursiveMode::Recursive)])).unwrap();
        std::fs::write(folder.path().join("code/func.py"), "x").unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap();
    }

    #[test]
    fn a_file_is_watched_by_its_folder() {
        assert_eq!(folder_of(Path::new("fn.yaml")), PathBuf::from("."));
        assert_eq!(folder_of(Path::new("examples/fn.yaml")), PathBuf::from("examples"));
    }
}
