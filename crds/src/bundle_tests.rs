//! What packing promises, and what hostile archives try.

use super::*;
use crate::Digest;

fn files(list: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    list.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect()
}

/// An archive as an attacker writes it: names go into the header unchecked.
fn raw(entries: &[(&[u8], tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    gzip(&tar.into_inner().unwrap(), Compression::best()).unwrap()
}

#[test]
fn what_is_packed_is_unpacked() {
    let long = format!("{}/b.py", "d".repeat(200));
    let files = files(&[("func.py", b"x = 1"), ("lib/a.py", b""), (&long, b"\0\xff")]);
    assert_eq!(unpack(&pack(&files).unwrap()).unwrap(), files);
}

/// The digest of code is part of a revision: should this ever change, every Fn of every user rolls.
#[test]
fn packed_bytes_never_change() {
    let files =
        files(&[("func.py", b"def handler(ctx, data):\n    return 'hello'\n"), ("lib/a.py", b"A = 1\n")]);
    let digest = Digest::of(&pack(&files).unwrap());
    assert_eq!(digest.as_str(), "sha256:e02d63c07f6fb4e4701c5c5ba7cdab5a10bf7255efdca1c8d66434ca5c3bb068");
}

#[test]
fn what_does_not_fit_as_it_is_fits_compressed() {
    let files = files(&[("big.js", &[b'a'; 1_200_000])]);
    let packed = pack(&files).unwrap();
    assert!(packed.len() < 10_000);
    assert_eq!(unpack(&packed).unwrap(), files);
}

#[test]
fn what_fits_neither_way_is_refused() {
    let mut noise = 1_u64;
    let content: Vec<u8> = (0..1_200_000)
        .map(|_| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 56) as u8
        })
        .collect();
    assert!(matches!(pack(&files(&[("n", &content)])), Err(BundleError::PackedTooLarge(_))));
    assert!(matches!(unpack(&content), Err(BundleError::PackedTooLarge(_))));
    let huge = vec![0; UNPACKED_BYTES_MAX + 1];
    assert!(matches!(pack(&files(&[("n", &huge)])), Err(BundleError::UnpackedTooLarge)));
}

#[test]
fn a_bundle_has_files_but_not_too_many() {
    assert!(matches!(pack(&BTreeMap::new()), Err(BundleError::Empty)));
    let many: BTreeMap<_, _> = (0..=FILES_MAX).map(|i| (format!("f{i}"), vec![])).collect();
    assert!(matches!(pack(&many), Err(BundleError::TooManyFiles)));
    let names: Vec<String> = many.keys().cloned().collect();
    let entries: Vec<_> =
        names.iter().map(|n| (n.as_bytes(), tar::EntryType::Regular, b"".as_slice())).collect();
    assert!(matches!(unpack(&raw(&entries)), Err(BundleError::TooManyFiles)));
    assert!(matches!(unpack(&raw(&[])), Err(BundleError::Empty)));
    let fits: BTreeMap<_, _> = many.into_iter().take(FILES_MAX).collect();
    assert_eq!(unpack(&pack(&fits).unwrap()).unwrap(), fits);
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let long = "a".repeat(NAME_BYTES_MAX + 1);
    for name in [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "./a",
        "a/.",
        "..",
        "a\\..\\b",
        "a\nb",
        "a\0b",
        &long,
    ] {
        assert!(matches!(pack(&files(&[(name, b"x")])), Err(BundleError::Name(_))), "{name:?}");
        if name.len() < 100 && !name.contains('\0') && !name.is_empty() {
            let archive = raw(&[(name.as_bytes(), tar::EntryType::Regular, b"x")]);
            assert!(matches!(unpack(&archive), Err(BundleError::Name(_))), "{name:?}");
        }
    }
    assert!(matches!(unpack(&raw(&[(b"\xff", tar::EntryType::Regular, b"")])), Err(BundleError::Name(_))));
}

#[test]
fn only_plain_files_are_unpacked() {
    use tar::EntryType;
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Continuous,
        EntryType::GNUSparse,
    ] {
        let archive = raw(&[(b"f", EntryType::Regular, b"x"), (b"l", kind, b"")]);
        assert!(unpack(&archive).is_err(), "{kind:?}");
    }
    let link = raw(&[(b"l", EntryType::Symlink, b"")]);
    assert!(matches!(unpack(&link), Err(BundleError::NotAFile(_))));
    let folder = raw(&[(b"lib/", EntryType::Directory, b""), (b"lib/a", EntryType::Regular, b"x")]);
    assert_eq!(unpack(&folder).unwrap(), files(&[("lib/a", b"x")]));
}

#[test]
fn a_name_is_taken_once() {
    use tar::EntryType::Regular;
    let twice = raw(&[(b"f", Regular, b"x"), (b"f", Regular, b"y")]);
    assert!(matches!(unpack(&twice), Err(BundleError::NameTaken(_))));
    let folder = raw(&[(b"f", Regular, b"x"), (b"f/g", Regular, b"y")]);
    assert!(matches!(unpack(&folder), Err(BundleError::NameTaken(_))));
    assert!(matches!(
        pack(&files(&[("f", b""), ("f-1", b""), ("f/g", b"")])),
        Err(BundleError::NameTaken(_))
    ));
}

#[test]
fn a_bomb_is_refused_before_it_unfolds() {
    use tar::EntryType::Regular;
    let huge = vec![0; UNPACKED_BYTES_MAX / 2 + 1];
    let bomb = raw(&[(b"a", Regular, &huge), (b"b", Regular, &huge)]);
    assert!(bomb.len() < PACKED_BYTES_MAX / 10);
    assert!(matches!(unpack(&bomb), Err(BundleError::UnpackedTooLarge)));
    let folders = vec![(b"d/".as_slice(), tar::EntryType::Directory, b"".as_slice()); 50_000];
    assert!(unpack(&raw(&folders)).is_err(), "endless folders");
    let long_name = vec![b'a'; 60_000_000];
    let names = raw(&[(b"n", tar::EntryType::GNULongName, &long_name), (b"a", Regular, b"x")]);
    assert!(names.len() < PACKED_BYTES_MAX);
    assert!(unpack(&names).is_err(), "endless name");
}

#[test]
fn a_size_that_lies_is_refused() {
    let mut header = tar::Header::new_gnu();
    header.set_path("f").unwrap();
    header.set_size(u64::MAX / 2);
    header.set_cksum();
    let lie = gzip(header.as_bytes(), Compression::none()).unwrap();
    assert!(matches!(unpack(&lie), Err(BundleError::UnpackedTooLarge | BundleError::Read(_))));
    header.set_size(5000);
    header.set_cksum();
    let short = gzip(header.as_bytes(), Compression::none()).unwrap();
    assert!(matches!(unpack(&short), Err(BundleError::Read(_))));
}

#[test]
fn other_bytes_are_refused() {
    let mut cut = pack(&files(&[("f", &[1; 5000])])).unwrap();
    cut.truncate(2000);
    assert!(matches!(unpack(&cut), Err(BundleError::Read(_))));
    assert!(unpack(b"no gzip").is_err());
    assert!(unpack(b"").is_err());
    assert!(unpack(&gzip(&[b'x'; 5000], Compression::none()).unwrap()).is_err());
}

#[test]
fn inline_source_has_its_runtimes_file_name() {
    assert_eq!(inline_file_name("python"), Some("func.py"));
    assert_eq!(inline_file_name("node"), Some("func.js"));
    assert_eq!(inline_file_name("ruby"), None);
}
