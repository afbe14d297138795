//! The programs of a node and of the control plane: their configuration files and command lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{API_SERVER_PORT, BRIDGE, DNS_IP, ETCD_PORT, NODE, NODE_IP, POD_CIDR, RUN, SERVICE_CIDR, pki};
use crate::golang::COMPONENTS;
use crate::overlay;
use crate::run::command;

/// Links every program into the run directory, so that `down` finds by its name whatever was started
/// from there.
pub(super) fn link(run: &Path, programs: &Path) -> Result<()> {
    let bin = run.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    let ours = COMPONENTS.iter().map(|name| (*name, programs.join(name)));
    let debian = ["containerd", "ctr"].map(|name| (name, Path::new("/usr/bin").join(name)));
    for (name, target) in ours.chain(debian) {
        let link = bin.join(name);
        crate::cache::remove(&link)?;
        std::os::unix::fs::symlink(&target, &link).with_context(|| format!("link {}", link.display()))?;
    }
    Ok(())
}

/// Fills the configuration files of the checkout in and writes them into the run directory.
pub(super) fn configure(run: &Path, checkout: &Path) -> Result<()> {
    let forward = resolvers(run)?;
    let values = [
        ("RUN", RUN),
        ("NODE", NODE),
        ("NODE_IP", NODE_IP),
        ("DNS_IP", DNS_IP),
        ("POD_CIDR", POD_CIDR),
        ("BRIDGE", BRIDGE),
        ("SNAPSHOTTER", if overlay::works_below(run) { "overlayfs" } else { "native" }),
        ("RESTRICT_OOM", if may_raise_limits()? { "false" } else { "true" }),
        ("FORWARD", &forward),
    ];
    let folder = checkout.join("e2e/cluster/config");
    fs::create_dir_all(run.join("cni")).context("create the folder of network configurations")?;
    for (file, target) in [
        ("audit.yaml", "audit.yaml"),
        ("kubelet.yaml", "kubelet.yaml"),
        ("containerd.toml", "containerd.toml"),
        ("cni.conflist", "cni/10-funcatron.conflist"),
        ("kube-proxy.yaml", "kube-proxy.yaml"),
        ("coredns.yaml", "coredns.yaml"),
    ] {
        let source = folder.join(file);
        let template = fs::read_to_string(&source).with_context(|| format!("read {}", source.display()))?;
        let text =
            values.iter().fold(template, |text, (name, value)| text.replace(&format!("@{name}@"), value));
        fs::write(run.join(target), text).with_context(|| format!("write {target}"))?;
    }
    Ok(())
}

/// Pods and CoreDNS ask the machine's own resolvers, but for those on loopback, which no pod reaches.
/// Gives CoreDNS' directive, which is none on a machine without such a resolver.
fn resolvers(run: &Path) -> Result<String> {
    let machine = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let kept: Vec<&str> = machine
        .lines()
        .filter(|line| line.strip_prefix("nameserver").is_some_and(|address| !is_loopback(address.trim())))
        .collect();
    fs::write(run.join("resolv.conf"), kept.join("\n") + "\n").context("write the pods' resolv.conf")?;
    Ok(if kept.is_empty() { String::new() } else { "forward . /etc/resolv.conf".to_owned() })
}

fn is_loopback(address: &str) -> bool {
    address.starts_with("127.") || address == "::1"
}

/// Whether this process has CAP_SYS_RESOURCE, number 24.
fn may_raise_limits() -> Result<bool> {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let status = fs::read_to_string("/proc/self/status").context("read own capabilities")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0");
    let set = u64::from_str_radix(effective.trim(), 16).context("parse own capabilities")?;
    Ok(set & CAP_SYS_RESOURCE != 0)
}

fn program(name: &str) -> Command {
    let bin = Path::new(RUN).join("bin");
    let mut program = command(bin.join(name), [] as [&str; 0]);
    // containerd looks for its shim here first; the rest find Debian's sbin.
    program.env(
        "PATH",
        format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()),
    );
    program
}

fn pki_file(file: &str) -> String {
    format!("{RUN}/pki/{file}")
}

fn kubeconfig(file: &str) -> String {
    format!("{RUN}/kubeconfig/{file}")
}

/// kubectl, as administrator.
pub(super) fn kubectl() -> Command {
    let mut kubectl = program("kubectl");
    kubectl.env("KUBECONFIG", pki::admin_kubeconfig(Path::new(RUN)));
    kubectl
}

/// containerd's own client, in Kubernetes' namespace.
pub(super) fn ctr() -> Command {
    let mut ctr = program("ctr");
    ctr.args(["--address", &format!("{RUN}/containerd.sock"), "--namespace", "k8s.io"]);
    ctr
}

/// What a proxy must not be asked for: the node, its pods and its Services.
pub(crate) fn no_proxy() -> String {
    let machine = std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy")).unwrap_or_default();
    format!("{NODE_IP},{POD_CIDR},{SERVICE_CIDR},127.0.0.1,localhost,{machine}")
}

/// Where the API server writes who changed what.
pub(crate) fn audit_log() -> PathBuf {
    Path::new(RUN).join("logs/audit.log")
}

pub(super) fn containerd() -> Command {
    let mut containerd = program("containerd");
    containerd.args(["--config", &format!("{RUN}/containerd.toml")]);
    containerd
}

pub(super) fn etcd() -> Command {
    let mut etcd = program("etcd");
    let url = format!("https://127.0.0.1:{ETCD_PORT}");
    let peer = format!("https://127.0.0.1:{}", ETCD_PORT + 1);
    etcd.args(["--name", "default", "--data-dir", &format!("{RUN}/etcd")]);
    etcd.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    etcd.args(["--initial-cluster", &format!("default={peer}")]);
    // A test cluster does not outlive its machine's power.
    etcd.args(["--unsafe-no-fsync=true", "--client-cert-auth=true", "--log-level=warn"]);
    let (ca, cert, key) = (pki_file("ca.crt"), pki_file("etcd.crt"), pki_file("etcd.key"));
    etcd.args(["--trusted-ca-file", &ca, "--cert-file", &cert, "--key-file", &key]);
    etcd.args(["--peer-trusted-ca-file", &ca, "--peer-cert-file", &cert, "--peer-key-file", &key]);
    etcd
}

pub(super) fn api_server() -> Command {
    let mut server = program("kube-apiserver");
    let files = [
        ("--client-ca-file", "ca.crt"),
        ("--tls-cert-file", "apiserver.crt"),
        ("--tls-private-key-file", "apiserver.key"),
        ("--etcd-cafile", "ca.crt"),
        ("--etcd-certfile", "apiserver-etcd-client.crt"),
        ("--etcd-keyfile", "apiserver-etcd-client.key"),
        ("--kubelet-certificate-authority", "ca.crt"),
        ("--kubelet-client-certificate", "apiserver-kubelet-client.crt"),
        ("--kubelet-client-key", "apiserver-kubelet-client.key"),
        ("--service-account-key-file", "service-account.pub"),
        ("--service-account-signing-key-file", "service-account.key"),
    ];
    for (option, file) in files {
        server.arg(format!("{option}={}", pki_file(file)));
    }
    server.args([
        format!("--etcd-servers=https://127.0.0.1:{ETCD_PORT}"),
        format!("--bind-address={NODE_IP}"),
        format!("--advertise-address={NODE_IP}"),
        format!("--secure-port={API_SERVER_PORT}"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--anonymous-auth=false".to_owned(),
        // Pod Security decides who may, not this switch.
        "--allow-privileged=true".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        // Every API there is, as on a cluster whose admins try things: its Swagger is as large as Swaggers come.
        "--runtime-config=api/all=true".to_owned(),
        format!("--audit-policy-file={RUN}/audit.yaml"),
        format!("--audit-log-path={}", audit_log().display()),
        "--profiling=false".to_owned(),
        // A deleted cluster has no watcher to be kind to.
        "--shutdown-delay-duration=0s".to_owned(),
    ]);
    server
}

pub(super) fn controller_manager() -> Command {
    let mut manager = program("kube-controller-manager");
    manager.args([
        format!("--kubeconfig={}", kubeconfig("kube-controller-manager")),
        format!("--root-ca-file={}", pki_file("ca.crt")),
        format!("--cluster-signing-cert-file={}", pki_file("ca.crt")),
        format!("--cluster-signing-key-file={}", pki_file("ca.key")),
        format!("--service-account-private-key-file={}", pki_file("service-account.key")),
        "--use-service-account-credentials=true".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        // A node that stops reporting is noticed within a test's patience.
        "--node-monitor-grace-period=20s".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
        "--profiling=false".to_owned(),
    ]);
    manager
}

pub(super) fn scheduler() -> Command {
    let mut scheduler = program("kube-scheduler");
    scheduler.args([
        format!("--kubeconfig={}", kubeconfig("kube-scheduler")),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        "--profiling=false".to_owned(),
    ]);
    scheduler
}

pub(super) fn kubelet() -> Command {
    let mut kubelet = program("kubelet");
    kubelet.args([
        format!("--config={RUN}/kubelet.yaml"),
        format!("--kubeconfig={}", kubeconfig("kubelet")),
        format!("--root-dir={RUN}/kubelet"),
        format!("--cert-dir={RUN}/pki"),
        format!("--tls-cert-file={}", pki_file("kubelet-server.crt")),
        format!("--tls-private-key-file={}", pki_file("kubelet-server.key")),
        format!("--hostname-override={NODE}"),
        format!("--node-ip={NODE_IP}"),
    ]);
    kubelet
}

pub(super) fn proxy() -> Command {
    let mut proxy = program("kube-proxy");
    proxy.arg(format!("--config={RUN}/kube-proxy.yaml"));
    proxy
}
