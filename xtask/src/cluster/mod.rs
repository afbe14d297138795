//! A whole Kubernetes on this machine, of one node, without Docker: built, started, waited for, and
//! removed so that nothing of it stays. All that it writes lies in one run directory.

mod components;
mod leftovers;
mod network;
mod pki;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub(crate) use self::components::{audit_log, no_proxy};
use self::components::{ctr, kubectl};
use crate::cache::Cache;
use crate::golang;
use crate::images::{Builder, Built};
use crate::run::{daemon, output, step, wait_for};
use crate::tools;

/// Everything of a running cluster: configuration, keys, data, logs, programs.
const RUN: &str = "/var/lib/funcatron-cluster";
const NODE: &str = "funcatron-node";
const NODE_DEVICE: &str = "funcatron-node";
const BRIDGE: &str = "funcatron-pods";
// Private addresses that few networks use, so that a cluster hides nothing from its machine.
const NODE_IP: &str = "10.215.0.1";
const POD_CIDR: &str = "10.213.0.0/16";
const SERVICE_CIDR: &str = "10.214.0.0/16";
const API_SERVICE_IP: &str = "10.214.0.1";
const DNS_IP: &str = "10.214.0.10";
// Beside an etcd or an API server that the machine may run already.
const ETCD_PORT: u16 = 12379;
const API_SERVER_PORT: u16 = 16443;

/// Each part starts in seconds; a machine that builds at the same time takes longer.
const START_DEADLINE: Duration = Duration::from_secs(180);

/// A running cluster of ours.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// An administrator's.
    pub(crate) kubeconfig: PathBuf,
    /// With kubectl and helm in it.
    pub(crate) programs: PathBuf,
}

/// Builds what is not built and starts what does not run.
pub(crate) fn up(cache: &Cache, checkout: &Path) -> Result<Cluster> {
    if !tools::is_root() {
        bail!("a cluster on this machine takes root; or set KUBECONFIG to one that you have");
    }
    tools::require(&[tools::FOR_CLUSTER, tools::FOR_IMAGES, tools::FOR_ROOTS])?;
    let programs = golang::programs(cache, checkout)?;
    let images = Builder::new(cache, checkout, &programs)?.for_node()?;
    let run = Path::new(RUN);
    if !runs(&programs) {
        down()?;
        fs::create_dir_all(run.join("logs")).with_context(|| format!("create {RUN}"))?;
        components::link(run, &programs)?;
        components::configure(run, checkout)?;
        step("certificates", || pki::write(run))?;
        step("node's network", network::up)?;
        start(&images)?;
    }
    Ok(Cluster { kubeconfig: pki::admin_kubeconfig(run), programs })
}

/// Ends everything that `up` started and removes everything that it wrote.
pub(crate) fn down() -> Result<()> {
    leftovers::remove(Path::new(RUN))
}

/// Gives the node these images; those that it has already cost nothing.
pub(crate) fn import(images: &[Built]) -> Result<()> {
    let known = Path::new(RUN).join("images");
    fs::create_dir_all(&known).with_context(|| format!("create {}", known.display()))?;
    for image in images {
        let mark = known.join(image.name.replace(['/', ':'], "_"));
        let name = image.alias.as_deref().unwrap_or_default();
        let content = format!("{} {name}", image.key);
        if fs::read_to_string(&mark).is_ok_and(|marked| marked == content) {
            continue;
        }
        step(&format!("{} imported", image.name), || {
            output(ctr().args(["images", "import"]).arg(&image.archive))?;
            if let Some(alias) = &image.alias {
                output(ctr().args(["images", "tag", "--force", &image.name, alias]))?;
            }
            fs::write(&mark, &content).with_context(|| format!("write {}", mark.display()))
        })?;
    }
    Ok(())
}

/// Whether there is one, working or not.
pub(crate) fn is_running() -> bool {
    Path::new(RUN).exists()
}

/// Where everything of a cluster is, its programs among it.
pub(crate) fn run_folder() -> &'static str {
    RUN
}

/// The node's address, which this machine has alone and pods reach.
pub(crate) fn node_address() -> &'static str {
    NODE_IP
}

/// The folders in which components and pods leave what they print.
pub(crate) fn logs() -> [PathBuf; 2] {
    ["logs", "pod-logs"].map(|folder| Path::new(RUN).join(folder))
}

/// Whether a cluster of these very programs runs and answers.
fn runs(programs: &Path) -> bool {
    let links_here =
        fs::read_link(Path::new(RUN).join("bin/kubelet")).is_ok_and(|link| link.starts_with(programs));
    links_here && node_is_ready().is_ok() && dns_is_available().is_ok()
}

fn start(images: &[Built]) -> Result<()> {
    begin("containerd", components::containerd())?;
    begin("etcd", components::etcd())?;
    begin("kube-apiserver", components::api_server())?;
    ready("containerd ready", || output(ctr().arg("version")).map(|_| ()))?;
    import(images)?;
    ready("API server ready", || output(kubectl().args(["get", "--raw", "/readyz"])).map(|_| ()))?;
    begin("kube-controller-manager", components::controller_manager())?;
    begin("kube-scheduler", components::scheduler())?;
    begin("kubelet", components::kubelet())?;
    begin("kube-proxy", components::proxy())?;
    ready("node Ready", node_is_ready)?;
    output(kubectl().args(["apply", "--server-side", "-f", &format!("{RUN}/coredns.yaml")]))?;
    ready("CoreDNS Available", dns_is_available)
}

fn begin(name: &str, mut program: Command) -> Result<()> {
    daemon(&mut program, &log(name)).with_context(|| format!("start {name}"))
}

fn ready(what: &str, met: impl Fn() -> Result<()>) -> Result<()> {
    step(what, || wait_for(what, START_DEADLINE, met))
        .with_context(|| format!("the components' logs are in {RUN}/logs"))
}

fn log(name: &str) -> PathBuf {
    Path::new(RUN).join("logs").join(format!("{name}.log"))
}

fn node_is_ready() -> Result<()> {
    condition(&["node", NODE], "Ready")
}

fn dns_is_available() -> Result<()> {
    condition(&["--namespace=kube-system", "deployment", "coredns"], "Available")
}

fn condition(object: &[&str], condition: &str) -> Result<()> {
    let path = format!("-o=jsonpath={{.status.conditions[?(@.type==\"{condition}\")].status}}");
    let status = output(kubectl().arg("get").args(object).args([&path, "--request-timeout=5s"]))?;
    if status != "True" {
        bail!("{} has condition {condition} {status:?}", object.join(" "));
    }
    Ok(())
}
