//! Root filesystems of Debian: the base images, and the one that the broker runs in. Made from
//! Debian's packages, since no registry of images is needed then.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, Key, remove};
use crate::run::{command, output, run, step};

/// A root filesystem, and the image that is made of it.
#[derive(Debug)]
pub(crate) struct Root {
    /// The image's name; also the name of the cache's entry.
    pub(crate) name: &'static str,
    /// Debian's suite, which is the image's tag too.
    pub(crate) suite: &'static str,
    /// Unpacked alone, or installed with the packages' own scripts.
    variant: Variant,
    packages: &'static [&'static str],
}

#[derive(Debug, Clone, Copy)]
enum Variant {
    /// Only what is named and what it depends on, with no package manager: smaller, and less to abuse.
    Extract,
    /// With essential packages, for those whose installation does more than unpack.
    Install,
}

/// For programs that link glibc.
pub(crate) const DEBIAN: Root = Root {
    name: "funcatron-base",
    suite: "trixie",
    variant: Variant::Extract,
    packages: &["base-files", "libc6", "libgcc-s1", "ca-certificates"],
};

/// For the Python host, and for functions in Python.
pub(crate) const PYTHON: Root = Root {
    name: "funcatron-base-python",
    suite: "trixie",
    variant: Variant::Extract,
    packages: &["base-files", "dash", "coreutils", "python3", "ca-certificates"],
};

/// What Python that root holds, by its two first numbers.
pub(crate) const PYTHON_VERSION: &str = "3.13";

/// For the Node host.
pub(crate) const NODE: Root = Root {
    name: "funcatron-base-node",
    suite: "trixie",
    variant: Variant::Extract,
    packages: &["base-files", "dash", "coreutils", "nodejs", "ca-certificates"],
};

/// RabbitMQ 4.3, which Debian has in testing.
pub(crate) const RABBITMQ: Root = Root {
    name: "rabbitmq-base",
    suite: "forky",
    variant: Variant::Install,
    packages: &["rabbitmq-server", "ca-certificates"],
};

/// Every root, in the order in which they are needed.
pub(crate) const ALL: [&Root; 4] = [&RABBITMQ, &DEBIAN, &PYTHON, &NODE];

/// Run with the root as `$1`; mmdebstrap has no hook after unpacking alone. An unpacked root has had no scripts run, so what they
/// would have left is made here: users for those who look up their own id, and trusted authorities.
const COMPLETE: &str = r#"set -eu
if [ ! -e "$1/etc/passwd" ]; then
    printf '%s\n' root:x:0:0:root:/root:/usr/sbin/nologin nonroot:x:65532:65532:nonroot:/tmp:/usr/sbin/nologin >"$1/etc/passwd"
    printf '%s\n' root:x:0: nonroot:x:65532: >"$1/etc/group"
fi
if [ ! -s "$1/etc/ssl/certs/ca-certificates.crt" ]; then
    mkdir -p "$1/etc/ssl/certs"
    cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"
fi
rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/usr/share/info/* "$1"/var/log/* "$1"/etc/resolv.conf "$1"/etc/hostname
"#;

impl Root {
    /// The image's full name.
    pub(crate) fn image(&self) -> String {
        format!("localhost/{}:{}", self.name, self.suite)
    }

    /// What the root depends on.
    pub(crate) fn key(&self) -> Key {
        let key = Key::new("2").with(COMPLETE).with(self.suite).with(self.variant.word());
        self.packages.iter().fold(key, |key, package| key.with(package))
    }

    /// The root as a tar file in the cache.
    pub(crate) fn tar(&self, cache: &Cache) -> Result<PathBuf> {
        let entry = format!("{}.tar", self.name);
        cache.entry(&entry, &self.key(), |tar| {
            let what = format!("root of Debian {} with {}", self.suite, self.packages.join(", "));
            step(&what, || self.bootstrap(tar))
        })
    }

    /// The root as a folder in the cache.
    pub(crate) fn folder(&self, cache: &Cache) -> Result<PathBuf> {
        let tar = self.tar(cache)?;
        cache.entry(self.name, &self.key(), |folder| {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
            run(command("tar", ["--extract", "--numeric-owner", "--preserve-permissions", "--file"])
                .arg(&tar)
                .arg("--directory")
                .arg(folder))
        })
    }

    fn bootstrap(&self, tar: &Path) -> Result<()> {
        let root = tar.with_extension("root");
        remove(&root)?;
        let include = format!("--include={}", self.packages.join(","));
        let variant = format!("--variant={}", self.variant.word());
        let mut mmdebstrap = command("mmdebstrap", ["--quiet", "--format=directory", &variant, &include]);
        // A root that a crash left half made is made again: nothing need reach the disk at once.
        mmdebstrap.arg("--dpkgopt=force-unsafe-io");
        // A mirror's index may be older than its word says; the signature is checked all the same.
        mmdebstrap.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
        output(mmdebstrap.arg(self.suite).arg(&root))?;
        output(command("sh", ["-c", COMPLETE, "complete"]).arg(&root))?;
        let mut pack = command("tar", ["--create", "--numeric-owner", "--file"]);
        output(pack.arg(tar).arg("--directory").arg(&root).arg("."))?;
        remove(&root)
    }
}

impl Variant {
    fn word(self) -> &'static str {
        match self {
            Self::Extract => "extract",
            Self::Install => "minbase",
        }
    }
}
