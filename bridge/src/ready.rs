//! The file that is there while the bridge is ready: a pod that accepts no connection is asked so.

use std::path::{Path, PathBuf};

use tracing::warn;

/// Keeps the file; it goes with this.
#[derive(Debug)]
pub(crate) struct Ready(PathBuf);

impl Ready {
    pub(crate) fn new(file: &Path) -> Self {
        if let Err(error) = std::fs::write(file, []) {
            warn!(file = %file.display(), %error, "cannot say that this bridge is ready");
        }
        Self(file.to_owned())
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // It may not have been written.
        let _ = std::fs::remove_file(&self.0);
    }
}
