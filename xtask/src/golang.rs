//! Builds the cluster's Go programs: Kubernetes' components, CoreDNS, the pause program and Helm.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key};
use crate::run::{command, output, step};

/// The Kubernetes version that clients see; must be the one in `e2e/cluster/go.mod`.
const KUBERNETES: (&str, &str, &str) = ("1", "36", "3");

/// What is built, as Go's packages. Longest first: a second package waits for what the first compiles.
const PACKAGES: [&str; 4] = ["./cmd/kube", "./cmd/coredns", "helm.sh/helm/v4/cmd/helm", "./cmd/pause"];

/// The programs of the one binary that goes by several names.
pub(crate) const COMPONENTS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
];

/// The folder with the built programs: `kube` and a link to it per component, `coredns`, `helm`, `pause`.
pub(crate) fn programs(cache: &Cache, checkout: &Path) -> Result<PathBuf> {
    let module = checkout.join("e2e/cluster");
    let flags = linker_flags();
    let mut key = Key::new("1").with(go_version(&module)?).with(&flags);
    for part in ["go.mod", "go.sum", "cmd"] {
        key = key.with(part).with_files(&module.join(part))?;
    }
    cache.entry("go", &key, |folder| {
        step("Kubernetes, CoreDNS and Helm built", || build(&module, folder, &flags))
    })
}

fn build(module: &Path, folder: &Path, flags: &str) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    println!("  building Kubernetes, CoreDNS and Helm: minutes the first time");
    let mut out = folder.as_os_str().to_owned();
    out.push("/");
    // Tests may run beside it, and some of them look at the clock.
    let mut go = command("nice", ["-n", "10", "go", "build", "-trimpath", "-ldflags", flags, "-o"]);
    go.arg(out).args(PACKAGES).current_dir(module).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "auto");
    output(&mut go)?;
    for component in COMPONENTS {
        let link = folder.join(component);
        std::os::unix::fs::symlink("kube", &link).with_context(|| format!("link {}", link.display()))?;
    }
    Ok(())
}

/// Clients refuse a server whose version does not parse, so the linker sets it.
fn linker_flags() -> String {
    let (major, minor, patch) = KUBERNETES;
    ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"]
        .iter()
        .map(|package| {
            format!(
                " -X {package}.gitVersion=v{major}.{minor}.{patch} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
            )
        })
        .fold("-s -w".to_owned(), |flags, more| flags + &more)
}

fn go_version(module: &Path) -> Result<String> {
    let mut go = command("go", ["env", "GOVERSION"]);
    go.current_dir(module).env("GOTOOLCHAIN", "auto");
    match output(&mut go) {
        Ok(version) => Ok(version),
        Err(why) => bail!("the test cluster is built with Go 1.21 or newer; install it first ({why:#})"),
    }
}
