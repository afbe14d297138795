//! Where the object store is: `file:///path` or `s3://bucket/prefix`. Credentials of S3 are the environment's.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

/// What was not written to its end in this time never will be: no upload takes as long.
const UNFINISHED_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// What the local store puts before the number of a file that is being written.
const UNFINISHED: char = '#';

/// Why there is no object store.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsAddressError {
    /// Another kind of store, or none.
    #[error("the object store's address is neither file:///path nor s3://bucket/prefix")]
    Form,
    /// The folder cannot be made or read.
    #[error("the object store's folder {0} is of no use")]
    Folder(PathBuf, #[source] std::io::Error),
    /// It cannot be set up.
    #[error("the object store cannot be set up")]
    Store(#[from] object_store::Error),
}

/// Where the object store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectsAddress {
    /// A folder.
    Folder(PathBuf),
    /// A bucket, and what stands before each name in it.
    S3 {
        /// The bucket.
        bucket: String,
        /// May be empty.
        prefix: String,
    },
}

impl ObjectsAddress {
    /// Reads an address.
    pub fn parse(address: &str) -> Result<Self, ObjectsAddressError> {
        if let Some(path) = address.strip_prefix("file://") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Folder(path)) } else { Err(ObjectsAddressError::Form) };
        }
        let rest = address.strip_prefix("s3://").ok_or(ObjectsAddressError::Form)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/').to_owned();
        if bucket.is_empty() || prefix.starts_with('/') || Path::parse(&prefix).is_err() {
            return Err(ObjectsAddressError::Form);
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix })
    }

    /// The store, and what stands before each name in it.
    pub(super) fn open(self) -> Result<(Arc<dyn ObjectStore>, Path), ObjectsAddressError> {
        match self {
            Self::Folder(folder) => {
                let failed = |error| ObjectsAddressError::Folder(folder.clone(), error);
                std::fs::create_dir_all(&folder).map_err(failed)?;
                clear_unfinished(&folder).map_err(failed)?;
                // A call is accepted once its body is here: it must survive a power cut.
                let store = LocalFileSystem::new_with_prefix(&folder)?.with_fsync(true);
                Ok((Arc::new(store), Path::default()))
            }
            Self::S3 { bucket, prefix } => {
                // One provider of cryptography for the process; whoever came first is as good.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let store = AmazonS3Builder::from_env().with_bucket_name(bucket).build()?;
                Ok((Arc::new(store), Path::from(prefix)))
            }
        }
    }
}

/// Takes away what an earlier process did not write to its end; another replica may be writing what is younger.
fn clear_unfinished(folder: &FilePath) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            // Another replica may have taken it away.
            let _ = clear_unfinished(&entry.path());
        } else if kind.is_file() && entry.file_name().to_string_lossy().contains(UNFINISHED) {
            let age = SystemTime::now().duration_since(entry.metadata()?.modified()?).unwrap_or_default();
            if age > UNFINISHED_AGE_MAX {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_folder_or_a_bucket() {
        let folder = ObjectsAddress::parse("file:///var/lib/funcatron/objects").unwrap();
        assert_eq!(folder, ObjectsAddress::Folder("/var/lib/funcatron/objects".into()));
        for (address, prefix) in [("s3://b", ""), ("s3://b/", ""), ("s3://b/a/c/", "a/c")] {
            let s3 = ObjectsAddress::S3 { bucket: "b".into(), prefix: prefix.into() };
            assert_eq!(ObjectsAddress::parse(address).unwrap(), s3, "{address}");
        }
        for odd in ["", "/data", "file://data", "s3://", "s3:///a", "s3://b//a", "gs://b", "http://b"] {
            assert!(matches!(ObjectsAddress::parse(odd), Err(ObjectsAddressError::Form)), "{odd}");
        }
    }

    #[test]
    fn what_was_not_written_to_its_end_is_cleared_away_once_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("team-a/shop");
        std::fs::create_dir_all(&below).unwrap();
        let (old, young, whole) = (below.join("1#1"), below.join("2#1"), below.join("3"));
        let long_ago = SystemTime::now() - UNFINISHED_AGE_MAX - Duration::from_secs(1);
        for (file, is_old) in [(&old, true), (&young, false), (&whole, true)] {
            let file = std::fs::File::create(file).unwrap();
            if is_old {
                file.set_modified(long_ago).unwrap();
            }
        }
        ObjectsAddress::Folder(folder.path().to_owned()).open().unwrap();
        assert!(!old.exists() && young.exists() && whole.exists());
    }
}
