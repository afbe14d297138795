//! The programs of the system that the tests stand on: says which are missing and, as root on Debian,
//! installs them.

use std::path::Path;
use std::sync::Mutex;

use anyhow::{Result, bail};

use crate::run::{command, output, run, step, succeeds};

/// A program and the Debian package that brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    /// Looked for on the PATH, or, with a slash, as a file.
    pub(crate) program: &'static str,
    /// Where it comes from.
    pub(crate) package: &'static str,
}

/// What a broker under chroot needs.
pub(crate) const FOR_ROOTS: &[Tool] = &[
    Tool { program: "mmdebstrap", package: "mmdebstrap" },
    Tool { program: "unshare", package: "util-linux" },
];

/// What the ledger's tests need: a PostgreSQL of their own.
pub(crate) const FOR_LEDGER: &[Tool] = &[Tool { program: "pg_ctlcluster", package: "postgresql" }];

/// What counting instructions needs.
pub(crate) const FOR_COUNTS: &[Tool] = &[
    Tool { program: "valgrind", package: "valgrind" },
    Tool { program: "git", package: "git" },
    Tool { program: "tar", package: "tar" },
];

/// What building images needs.
pub(crate) const FOR_IMAGES: &[Tool] = &[Tool { program: "buildah", package: "buildah" }];

/// What a node needs.
pub(crate) const FOR_CLUSTER: &[Tool] = &[
    Tool { program: "containerd", package: "containerd" },
    Tool { program: "runc", package: "runc" },
    Tool { program: "/usr/lib/cni/bridge", package: "containernetworking-plugins" },
    Tool { program: "iptables", package: "iptables" },
    Tool { program: "conntrack", package: "conntrack" },
    Tool { program: "ip", package: "iproute2" },
    Tool { program: "ss", package: "iproute2" },
    Tool { program: "mount", package: "mount" },
];

/// Debian's Python comes without its environments; others' come with them.
const FOR_PYTHON: &[Tool] = &[Tool { program: "python3", package: "python3" }];
const ENVIRONMENTS: &str = "python3-venv";

/// apt serves one caller at a time.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Makes all of them available, or says what to install.
pub(crate) fn require(tools: &[&[Tool]]) -> Result<()> {
    // A poisoned lock guards nothing that could be broken.
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let missing = tools.iter().copied().flatten().filter(|tool| !is_there(tool.program));
    let mut packages: Vec<&str> = missing.map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() { Ok(()) } else { provide(&packages) }
}

/// Makes Python and its virtual environments available, or says what to install.
pub(crate) fn require_python() -> Result<()> {
    require(&[FOR_PYTHON])?;
    if succeeds(&mut command("python3", ["-c", "import ensurepip, venv"])) {
        return Ok(());
    }
    provide(&[ENVIRONMENTS])
}

fn provide(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !is_root() || !is_there("apt-get") {
        bail!("missing on this machine; install first: {list}");
    }
    println!("  installing from Debian: {list}");
    step("apt-get install", || install(packages))
}

/// Whether this runs as root.
pub(crate) fn is_root() -> bool {
    output(&mut command("id", ["-u"])).is_ok_and(|id| id.trim() == "0")
}

fn install(packages: &[&str]) -> Result<()> {
    let apt = |arguments: &[&str]| {
        let mut apt = command("apt-get", ["-qq", "-o=Dpkg::Use-Pty=0", "-o=DPkg::Lock::Timeout=120"]);
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        apt
    };
    let add = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    // A machine whose package lists are fresh needs no update; one that has none fails at once.
    if succeeds(&mut apt(&add)) {
        return Ok(());
    }
    run(&mut apt(&["update"]))?;
    output(&mut apt(&add)).map(|_| ())
}

fn is_there(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps what only root needs in sbin, which a plain user's PATH lacks.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.into_iter().any(|folder| folder.join(program).is_file())
}
