//! The file that tells a probe that this runner serves. Runner pods accept no connection, so a probe looks at a file.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use tracing::{info, warn};

/// Stands while the runner serves; gone once it drains, however that began.
#[derive(Debug)]
pub(crate) struct ReadyFile {
    path: PathBuf,
    written: bool,
}

impl ReadyFile {
    /// Removes what an earlier process left: it says nothing of this one.
    pub(crate) fn new(path: PathBuf) -> Self {
        let file = Self { path, written: false };
        file.remove();
        file
    }

    /// Writes it, once.
    pub(crate) fn write(&mut self) {
        if self.written {
            return;
        }
        match fs::write(&self.path, "ready\n") {
            Ok(()) => {
                self.written = true;
                info!("ready");
            }
            Err(error) => warn!(%error, path = %self.path.display(), "cannot write ready file"),
        }
    }

    fn remove(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                warn!(%error, path = %self.path.display(), "cannot remove ready file");
            }
            _ => {}
        }
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        self.remove();
    }
}
