//! Bundles: a Fn's files as one gzipped tar. Packing gives the same bytes for the same files, for ever; unpacking
//! trusts nothing. Never touches a file system: it turns maps into bytes and back.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};
use thiserror::Error;

/// A bundle rides in one ConfigMap, which holds 1 MiB.
pub const PACKED_BYTES_MAX: usize = 1_000_000;
/// What a packed bundle may unfold to, over all its files.
pub const UNPACKED_BYTES_MAX: usize = 10_000_000;
/// Files in one bundle.
pub const FILES_MAX: usize = 1000;
/// Longest file name: a ConfigMap's longest key and more.
pub const NAME_BYTES_MAX: usize = 255;

/// A tar's own overhead for each file: header, padding, and a long name's header and block.
const OVERHEAD_BYTES_MAX: usize = 4 * 512;
/// gzip's word for "unknown", so that bytes do not tell where they were packed.
const GZIP_OS_UNKNOWN: u8 = 255;

/// Why files are no bundle, or bytes none.
#[derive(Debug, Error)]
pub enum BundleError {
    /// Nothing to run.
    #[error("no files")]
    Empty,
    /// Too many files.
    #[error("more than 1000 files")]
    TooManyFiles,
    /// Unpacked too large.
    #[error("more than 10,000,000 bytes unpacked")]
    UnpackedTooLarge,
    /// Packed too large.
    #[error("{0} bytes packed; a bundle may have 1,000,000")]
    PackedTooLarge(usize),
    /// A name that leaves the bundle's folder or is none.
    #[error("file name {0:?} is refused: names are relative paths of plain segments, at most 255 bytes")]
    Name(String),
    /// The same name twice, or a file where another needs a folder.
    #[error("file name {0:?} is taken twice")]
    NameTaken(String),
    /// A link, device or anything else but a file.
    #[error("{0:?} is no plain file")]
    NotAFile(String),
    /// Not a gzipped tar.
    #[error("cannot read the bundle")]
    Read(#[source] std::io::Error),
    /// The packer failed.
    #[error("cannot pack the bundle")]
    Pack(#[source] std::io::Error),
}

/// The file that an inline source of that runtime becomes; `None` where the runtime is not known.
pub fn inline_file_name(runtime: &str) -> Option<&'static str> {
    match runtime {
        "python" => Some("func.py"),
        "node" => Some("func.js"),
        _ => None,
    }
}

/// Packs files by name. Sorted, without times, owners or the like. Bytes are stored as they are while they fit, since
/// a compressor's output may change with its version, and with the digest every revision; only what does not fit is
/// compressed.
pub fn pack(files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>, BundleError> {
    check_files(files)?;
    let tar = tar_of(files).map_err(BundleError::Pack)?;
    let mut packed = gzip(&tar, Compression::none()).map_err(BundleError::Pack)?;
    if packed.len() > PACKED_BYTES_MAX {
        packed = gzip(&tar, Compression::best()).map_err(BundleError::Pack)?;
    }
    if packed.len() > PACKED_BYTES_MAX {
        return Err(BundleError::PackedTooLarge(packed.len()));
    }
    Ok(packed)
}

fn check_files(files: &BTreeMap<String, Vec<u8>>) -> Result<(), BundleError> {
    if files.is_empty() {
        return Err(BundleError::Empty);
    }
    if files.len() > FILES_MAX {
        return Err(BundleError::TooManyFiles);
    }
    if files.values().map(Vec::len).sum::<usize>() > UNPACKED_BYTES_MAX {
        return Err(BundleError::UnpackedTooLarge);
    }
    files.keys().try_for_each(|name| check_name(name))?;
    check_folders(files)
}

fn tar_of(files: &BTreeMap<String, Vec<u8>>) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o444);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_slice())?;
    }
    tar.into_inner()
}

fn gzip(bytes: &[u8], level: Compression) -> std::io::Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().operating_system(GZIP_OS_UNKNOWN).write(Vec::new(), level);
    gzip.write_all(bytes)?;
    gzip.finish()
}

/// Unpacks what `pack` or any tar made, and refuses whatever could leave the folder it is written to, or fill it.
pub fn unpack(packed: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, BundleError> {
    if packed.len() > PACKED_BYTES_MAX {
        return Err(BundleError::PackedTooLarge(packed.len()));
    }
    let stream_max = UNPACKED_BYTES_MAX + FILES_MAX * OVERHEAD_BYTES_MAX;
    let mut files = BTreeMap::new();
    let mut room = UNPACKED_BYTES_MAX;
    let mut tar = tar::Archive::new(GzDecoder::new(packed).take(stream_max as u64));
    for entry in tar.entries().map_err(BundleError::Read)? {
        let mut entry = entry.map_err(BundleError::Read)?;
        let Some(name) = file_name(&entry)? else { continue };
        if files.len() == FILES_MAX {
            return Err(BundleError::TooManyFiles);
        }
        let content = read_within(&mut entry, room)?;
        room -= content.len();
        if files.insert(name.clone(), content).is_some() {
            return Err(BundleError::NameTaken(name));
        }
    }
    if files.is_empty() {
        return Err(BundleError::Empty);
    }
    check_folders(&files)?;
    Ok(files)
}

/// `None` for a folder, which follows from its files.
fn file_name<R: Read>(entry: &tar::Entry<'_, R>) -> Result<Option<String>, BundleError> {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    match entry.header().entry_type() {
        tar::EntryType::Directory => Ok(None),
        tar::EntryType::Regular => check_name(&name).map(|()| Some(name)),
        _ => Err(BundleError::NotAFile(name)),
    }
}

fn read_within<R: Read>(entry: &mut tar::Entry<'_, R>, room: usize) -> Result<Vec<u8>, BundleError> {
    let mut content = Vec::new();
    let size = entry.size();
    if size > room as u64 {
        return Err(BundleError::UnpackedTooLarge);
    }
    entry.take(size).read_to_end(&mut content).map_err(BundleError::Read)?;
    if content.len() as u64 != size {
        return Err(BundleError::Read(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(content)
}

/// Relative, of plain segments, and printable: a name that needs no thought on any host.
fn check_name(name: &str) -> Result<(), BundleError> {
    let plain = |segment: &str| !matches!(segment, "" | "." | "..");
    let printable = name.chars().all(|c| !c.is_control() && c != '\\' && c != char::REPLACEMENT_CHARACTER);
    if name.len() <= NAME_BYTES_MAX && printable && name.split('/').all(plain) {
        Ok(())
    } else {
        Err(BundleError::Name(name.chars().take(NAME_BYTES_MAX).collect()))
    }
}

/// No file stands where another needs a folder.
fn check_folders(files: &BTreeMap<String, Vec<u8>>) -> Result<(), BundleError> {
    for name in files.keys() {
        let taken = name.match_indices('/').map(|(end, _)| &name[..end]).find(|f| files.contains_key(*f));
        if let Some(folder) = taken {
            return Err(BundleError::NameTaken(folder.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
