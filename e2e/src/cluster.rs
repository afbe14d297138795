//! The installation under test: the chart, installed by helm once for all tests of a run.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::client;
use crate::kubectl::{get, helm, kubectl, kubectl_with};
use crate::wait::until;

/// Where the chart is installed.
pub const SYSTEM: &str = "funcatron-system";
/// The gateway's own hostname in the tests.
pub const GATEWAY_HOSTNAME: &str = "gateway.example.com";
/// The public Service, from inside the cluster.
pub const GATEWAY: &str = "http://funcatron-gateway.funcatron-system.svc";
/// The internal Service.
pub const INTERNAL: &str = "http://funcatron-internal.funcatron-system.svc";

/// A cold broker and image imports on two cores.
const INSTALL_WITHIN: Duration = Duration::from_secs(180);

static READY: OnceLock<()> = OnceLock::new();

/// Installs the chart at the first call, and waits until it is up.
///
/// # Panics
/// When the installation fails: no test can go on without it.
#[allow(clippy::panic, reason = "no test can go on without the installation")]
pub fn ready() {
    READY.get_or_init(|| {
        if let Err(error) = install() {
            panic!("the chart cannot be installed: {error:#}");
        }
    });
}

/// The checkout's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The tag of the images under test.
pub fn tag() -> String {
    std::env::var("FUNCATRON_IMAGE_TAG").unwrap_or_else(|_| "dev".to_owned())
}

/// Where the images under test are: on the built cluster's node, or in a registry that a cluster of the user's own can
/// pull from.
pub fn registry() -> String {
    std::env::var("FUNCATRON_IMAGE_REGISTRY").unwrap_or_else(|_| "localhost".to_owned())
}

/// `kubectl apply -f examples/<folder>`, as it stands; only for a registry of the user's own the image is renamed.
pub fn apply_example(namespace: &str, folder: &str) -> anyhow::Result<()> {
    let folder = root().join("examples").join(folder);
    if registry() == "localhost" {
        let path = folder.to_str().context("the example's path is not UTF-8")?;
        kubectl(&["--namespace", namespace, "apply", "--filename", path])?;
        return Ok(());
    }
    let image = format!("{}/invoice-fdk:{}", registry(), tag());
    for entry in std::fs::read_dir(&folder)? {
        let manifest = std::fs::read_to_string(entry?.path())?.replace("localhost/invoice-fdk:dev", &image);
        kubectl_with(&["--namespace", namespace, "apply", "--filename", "-"], &manifest)?;
    }
    Ok(())
}

/// Whether the cluster was built for this run, so that its audit log can be read.
pub fn is_built() -> bool {
    std::env::var("FUNCATRON_TEST_CLUSTER").as_deref() == Ok("built")
}

fn install() -> anyhow::Result<()> {
    let tag = tag();
    install_with(&tag, &[])?;
    client::start(&format!("{}/funcatron-host-python:{tag}", registry()))
}

/// Installs the chart, or upgrades to it, with images of this tag and further values, and waits until it is up.
pub fn install_with(tag: &str, values: &[(&str, &str)]) -> anyhow::Result<()> {
    let (chart, registry) = (root().join("charts/funcatron"), registry());
    let chart = chart.to_str().context("the chart's path is not UTF-8")?;
    let mut args: Vec<String> =
        ["upgrade", "--install", "funcatron", chart, "--namespace", SYSTEM, "--create-namespace"]
            .map(str::to_owned)
            .to_vec();
    let mut set = |name: &str, value: &str| args.extend(["--set".to_owned(), format!("{name}={value}")]);
    set("image.repository", &format!("{registry}/funcatron"));
    set("image.tag", tag);
    for runtime in ["python", "node"] {
        set(&format!("hosts.{runtime}.repository"), &format!("{registry}/funcatron-host-{runtime}"));
        set(&format!("hosts.{runtime}.tag"), tag);
    }
    set("broker.bundled.enabled", "true");
    set("broker.bundled.image.repository", &format!("{registry}/rabbitmq"));
    set("broker.bundled.image.tag", "4.3");
    set("gateway.hostname", GATEWAY_HOSTNAME);
    set("gateway.replicas", "2");
    set("operator.replicas", "1");
    for (name, value) in values {
        set(name, value);
    }
    // What a cluster of the user's own needs to pull these images.
    if let Ok(values) = std::env::var("FUNCATRON_E2E_VALUES") {
        args.extend(["--values".to_owned(), values]);
    }
    helm(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
    for rollout in [
        "statefulset/funcatron-broker",
        "deployment/funcatron-operator",
        "deployment/funcatron-gateway",
        "deployment/funcatron-ledger",
    ] {
        rolled_out(SYSTEM, rollout, INSTALL_WITHIN)?;
    }
    Ok(())
}

/// Waits until a rollout is complete; on failure tells what the pods say.
pub fn rolled_out(namespace: &str, what: &str, within: Duration) -> anyhow::Result<()> {
    let timeout = format!("--timeout={}s", within.as_secs());
    kubectl(&["--namespace", namespace, "rollout", "status", what, &timeout])
        .map(drop)
        .with_context(|| kubectl(&["--namespace", namespace, "describe", "pods"]).unwrap_or_default())
}

/// A namespace of a test's own, with Pod Security `restricted` enforced; it goes when the test ends, so that the next
/// one finds room on the node and its hostnames free.
#[derive(Debug)]
pub struct Namespace(&'static str);

impl Namespace {
    /// Makes it; what an earlier run left in it is gone.
    pub fn fresh(name: &'static str) -> anyhow::Result<Self> {
        kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait", "--timeout=120s"])?;
        kubectl(&["create", "namespace", name])?;
        kubectl(&["label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted"])?;
        Ok(Self(name))
    }
}

impl Drop for Namespace {
    #[allow(clippy::print_stderr, reason = "a failed test tells what its namespace held")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let events =
                kubectl(&["--namespace", self.0, "get", "events,pods,fns,routes.funcatron.dev,triggers"]);
            let operator =
                kubectl(&["--namespace", SYSTEM, "logs", "deployment/funcatron-operator", "--tail=20"]);
            let short: Vec<String> =
                operator.unwrap_or_default().lines().map(|line| line.chars().take(300).collect()).collect();
            eprintln!("{}\n{}", events.unwrap_or_default(), short.join("\n"));
        }
        if let Err(error) = kubectl(&["delete", "namespace", self.0, "--wait", "--timeout=120s"]) {
            eprintln!("namespace {} was not deleted: {error:#}", self.0);
        }
    }
}

/// Waits until every object of ours in a namespace is Ready.
pub fn all_ready(namespace: &str, within: Duration) {
    until("every App, Fn, Route and Trigger is Ready", within, || {
        let list = get(namespace, &["apps.funcatron.dev,fns,routes.funcatron.dev,triggers"])?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        ensure!(!items.is_empty(), "nothing there");
        let not_ready: Vec<String> = items.iter().filter(|item| !is_ready(item)).map(describe).collect();
        ensure!(not_ready.is_empty(), "not Ready:\n{}", not_ready.join("\n"));
        Ok(())
    });
}

fn is_ready(object: &Value) -> bool {
    let current = object.pointer("/status/observedGeneration") == object.pointer("/metadata/generation");
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    current && conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn describe(object: &Value) -> String {
    let (kind, name) =
        (object["kind"].as_str().unwrap_or("?"), object["metadata"]["name"].as_str().unwrap_or("?"));
    format!("{kind} {name}: {}", object["status"]["conditions"])
}
