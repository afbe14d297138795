//! Where a function listens. A function's container makes its socket itself, so the path is checked as hostile
//! input each time before it is used.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use tokio::net::UnixStream;

/// `sun_path` holds 108 bytes, one of them the closing zero (unix(7)).
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why no connection was made. No byte of a request has left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the socket's path has {0} bytes, more than {SOCKET_PATH_BYTES_MAX}")]
    TooLong(usize),
    #[error("the socket is a symbolic link out of its directory")]
    LinkLeaves,
    #[error("the path is not a socket")]
    NotASocket,
    #[error("the socket cannot be looked at")]
    Inspect(#[source] io::Error),
    #[error("nobody accepts there")]
    Connect(#[source] io::Error),
    #[error("the connection could not be set up")]
    Handshake(#[source] hyper::Error),
}

/// Connects to the function at `path`.
pub(crate) async fn connect(path: &Path) -> Result<UnixStream, ConnectError> {
    let real = resolve(path)?;
    UnixStream::connect(real).await.map_err(ConnectError::Connect)
}

impl ConnectError {
    /// Whether nobody listens there: on a socket, what a process leaves that was killed.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// Removes a socket that nobody listens on, and the link to it: some function libraries cannot start over it.
pub(crate) fn remove_stale(path: &Path) -> Result<(), ConnectError> {
    let real = resolve(path)?;
    std::fs::remove_file(path).map_err(ConnectError::Inspect)?;
    match real == path {
        true => Ok(()),
        false => std::fs::remove_file(real).map_err(ConnectError::Inspect),
    }
}

/// The socket behind `path`, which may be a symbolic link within its own directory (function libraries bind a
/// private name first, set its mode, then link it into place).
fn resolve(path: &Path) -> Result<PathBuf, ConnectError> {
    let real = match path.symlink_metadata().map_err(ConnectError::Inspect)?.file_type() {
        kind if kind.is_symlink() => sibling(path, &path.read_link().map_err(ConnectError::Inspect)?)
            .ok_or(ConnectError::LinkLeaves)?,
        _ => path.to_path_buf(),
    };
    let length = real.as_os_str().as_bytes().len();
    if length > SOCKET_PATH_BYTES_MAX {
        return Err(ConnectError::TooLong(length));
    }
    // A link to a link is no socket either, so a chain cannot lead away.
    match real.symlink_metadata().map_err(ConnectError::Inspect)?.file_type().is_socket() {
        true => Ok(real),
        false => Err(ConnectError::NotASocket),
    }
}

fn sibling(link: &Path, target: &Path) -> Option<PathBuf> {
    let directory = link.parent()?;
    let name = match target.is_absolute() {
        true => target.strip_prefix(directory).ok()?,
        false => target,
    };
    let mut parts = name.components().filter(|part| *part != Component::CurDir);
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(file)), None) => Some(directory.join(file)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_link_within_its_directory_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(dir.path().join("private.sock")).unwrap();
        let link = dir.path().join("lsnr.sock");
        for target in
            [PathBuf::from("private.sock"), "./private.sock".into(), dir.path().join("private.sock")]
        {
            symlink(&target, &link).unwrap();
            assert_eq!(resolve(&link).unwrap(), dir.path().join("private.sock"));
            std::fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn a_link_out_of_its_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(outside.path().join("other.sock")).unwrap();
        let link = dir.path().join("lsnr.sock");
        let relative = PathBuf::from("..").join(outside.path().file_name().unwrap()).join("other.sock");
        for target in [outside.path().join("other.sock"), relative] {
            symlink(&target, &link).unwrap();
            assert!(matches!(resolve(&link), Err(ConnectError::LinkLeaves)));
            std::fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn a_chain_of_links_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(dir.path().join("private.sock")).unwrap();
        symlink("private.sock", dir.path().join("middle")).unwrap();
        symlink("middle", dir.path().join("lsnr.sock")).unwrap();
        assert!(matches!(resolve(&dir.path().join("lsnr.sock")), Err(ConnectError::NotASocket)));
    }

    #[test]
    fn a_plain_file_is_no_socket() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lsnr.sock"), "").unwrap();
        assert!(matches!(resolve(&dir.path().join("lsnr.sock")), Err(ConnectError::NotASocket)));
    }

    #[test]
    fn a_path_beyond_the_kernels_limit_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("s".repeat(SOCKET_PATH_BYTES_MAX));
        std::fs::write(&long, "").unwrap();
        assert!(matches!(resolve(&long), Err(ConnectError::TooLong(_))));
    }
}
