//! Reads the folders that `source.path` names: files of a Fn's bundle, bounded as bundles are.

use std::collections::BTreeMap;
use std::path::Path;

use funcatron_crds::bundle::{FILES_MAX, UNPACKED_BYTES_MAX};
use notify::RecursiveMode;

use super::manifests::{Key, Manifests};
use super::watch::Watched;

/// The files of each Fn's folder.
pub(crate) type Folders = BTreeMap<Key, BTreeMap<String, Vec<u8>>>;

/// What the tools of Python, Node and git leave in a folder; no part of a Fn's code.
const LEFT_OUT: [&str; 3] = ["__pycache__", ".git", ".pytest_cache"];

/// Reads every folder; one that cannot be read is left out, which the plan then tells.
pub(crate) fn read(manifests: &Manifests) -> (Folders, Watched) {
    let mut folders = Folders::new();
    let mut watched = Watched::new();
    for (key, function) in &manifests.fns {
        let Some(path) = function.object.spec.source.as_ref().and_then(|source| source.path.as_deref())
        else {
            continue;
        };
        let folder = super::watch::folder_of(&function.origin.file).join(path);
        let mut files = BTreeMap::new();
        let mut room = UNPACKED_BYTES_MAX;
        if folder.is_dir() && collect(&folder, &folder, &mut files, &mut room).is_ok() {
            folders.insert(key.clone(), files);
            watched.insert(folder, RecursiveMode::Recursive);
        }
    }
    (folders, watched)
}

fn collect(
    root: &Path,
    folder: &Path,
    files: &mut BTreeMap<String, Vec<u8>>,
    room: &mut usize,
) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if LEFT_OUT.iter().any(|left_out| entry.file_name() == *left_out) {
            continue;
        }
        if kind.is_dir() {
            collect(root, &path, files, room)?;
        } else if kind.is_file() {
            let size = usize::try_from(entry.metadata()?.len()).unwrap_or(usize::MAX);
            if size > *room || files.len() >= FILES_MAX {
                return Err(std::io::Error::other("the folder holds more than a bundle may"));
            }
            *room -= size;
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.insert(name, std::fs::read(&path)?);
        }
    }
    Ok(())
}
