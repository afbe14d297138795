//! The product under faults: installed by its chart, with one App whose function tells what it runs.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::cluster::{Namespace, SYSTEM, all_ready, install_with, rolled_out};
use e2e::kubectl::{apply, get, helm, kubectl, kubectl_with};
use e2e::wait::within;
use serde_json::{Value, json};

use crate::load::HOSTNAME;
use crate::schedule::Part;

/// Where the App is.
pub(crate) const NAMESPACE: &str = "e2e-faults";
/// The App.
pub(crate) const APP: &str = "faults";
/// The tag that the images have besides that of their content: an upgrade goes from one to the other.
const OTHER_TAG: &str = "dev";
/// Cold images, and a first load, on two cores.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// A gateway that leaves takes at most a minute; one container that dies again waits for ten seconds.
const SETTLED_WITHIN: Duration = Duration::from_secs(180);
/// The user of the product's images.
const USER: u32 = 65_532;
const VOLUME: &str = "funcatron-faults-ledger";
const DATABASE_SECRET: &str = "funcatron-faults-database";

/// An installed product.
pub(crate) struct Product {
    /// Gone with it.
    namespace: Namespace,
    pub(crate) gateway: SocketAddr,
    pub(crate) ledger: SocketAddr,
    tag: String,
    values: Vec<(String, String)>,
}

impl Product {
    /// Installs it, with SQLite on a volume that outlives pods, and makes the App whose function tells `counter`.
    pub(crate) fn install(run: &Path, counter: SocketAddr) -> Result<Self> {
        let namespace = Namespace::fresh(NAMESPACE)?;
        make_volume(&run.join("ledger"))?;
        let values = vec![("ledger.persistence.enabled".to_owned(), "true".to_owned())];
        let mut product = Self {
            namespace,
            gateway: SocketAddr::from(([0, 0, 0, 0], 80)),
            ledger: SocketAddr::from(([0, 0, 0, 0], 80)),
            tag: OTHER_TAG.to_owned(),
            values,
        };
        product.put()?;
        product.gateway = service("funcatron-gateway")?;
        product.ledger = service("funcatron-ledger")?;
        apply(NAMESPACE, &manifests(counter))?;
        all_ready(NAMESPACE, READY_WITHIN);
        product.settled()?;
        Ok(product)
    }

    fn put(&self) -> Result<()> {
        let values: Vec<(&str, &str)> =
            self.values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        install_with(&self.tag, &values)
    }

    /// Every part gets images under the other tag, which are others for Kubernetes.
    pub(crate) fn upgrade(&mut self) -> Result<()> {
        let content = e2e::cluster::tag();
        self.tag = if self.tag == content { OTHER_TAG.to_owned() } else { content };
        self.put()?;
        within("every pod has the new images", SETTLED_WITHIN, || {
            let old = pods()?.into_iter().find(|pod| !self.is_current(pod));
            ensure!(old.is_none(), "{} is of the old tag", old.map(|pod| name(&pod)).unwrap_or_default());
            Ok(())
        })?;
        self.settled()
    }

    /// The broker is not ours to upgrade.
    fn is_current(&self, pod: &Value) -> bool {
        let images = ["containers", "initContainers"].map(|kind| pod["spec"][kind].as_array().cloned());
        let mut images = images.into_iter().flatten().flatten();
        images.all(|container| {
            let image = container["image"].as_str().unwrap_or_default();
            image.contains("rabbitmq") || image.ends_with(&format!(":{}", self.tag))
        })
    }

    /// Restarts a part pod by pod, as an admin does.
    pub(crate) fn restart(&self, part: Part) -> Result<()> {
        let (namespace, deployment) = match part {
            Part::Gateway => (SYSTEM, "deployment/funcatron-gateway".to_owned()),
            Part::Operator => (SYSTEM, "deployment/funcatron-operator".to_owned()),
            Part::Ledger => (SYSTEM, "deployment/funcatron-ledger".to_owned()),
            Part::Runners => (NAMESPACE, format!("deployment/{APP}-python-runners")),
        };
        kubectl(&["--namespace", namespace, "rollout", "restart", &deployment])?;
        rolled_out(namespace, &deployment, SETTLED_WITHIN)?;
        self.settled()
    }

    /// The ledger keeps its calls in PostgreSQL from now on.
    pub(crate) fn use_database(&mut self, url: &str) -> Result<()> {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"url": url},
            "metadata": {"name": DATABASE_SECRET, "namespace": SYSTEM}});
        kubectl_with(&["apply", "--server-side", "--filename", "-"], &secret.to_string())?;
        self.values = vec![("ledger.database.existingSecret".to_owned(), DATABASE_SECRET.to_owned())];
        self.put()?;
        self.settled()
    }

    /// Waits until every pod is Ready and none is leaving.
    pub(crate) fn settled(&self) -> Result<()> {
        within("every pod is Ready", SETTLED_WITHIN, || {
            for pod in pods()? {
                let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
                let mut ready = conditions.filter(|c| c["type"] == "Ready" && c["status"] == "True");
                ensure!(ready.next().is_some(), "{} is not Ready: {}", name(&pod), pod["status"]["phase"]);
                ensure!(pod["metadata"]["deletionTimestamp"].is_null(), "{} is leaving", name(&pod));
            }
            Ok(())
        })
    }

    /// Removes it and what was made for it beside its namespace.
    pub(crate) fn remove(self) -> Result<()> {
        let Self { namespace, .. } = self;
        // First, since the operator takes away what the broker and its finalizers hold.
        drop(namespace);
        helm(&["uninstall", "funcatron", "--namespace", SYSTEM, "--wait", "--timeout", "120s"])?;
        remove_volume()?;
        kubectl(&["delete", "namespace", SYSTEM, "--wait", "--timeout=120s"]).map(drop)
    }
}

/// All pods of the product and of the App.
fn pods() -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for namespace in [SYSTEM, NAMESPACE] {
        let list = get(namespace, &["pods"])?;
        all.extend(list["items"].as_array().cloned().unwrap_or_default());
    }
    ensure!(!all.is_empty(), "no pods");
    Ok(all)
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// A Service's address within the cluster, which its node reaches as pods do.
fn service(name: &str) -> Result<SocketAddr> {
    let service = get(SYSTEM, &[&format!("service/{name}")])?;
    let address = service["spec"]["clusterIP"].as_str().context("the Service has no address")?;
    let address: IpAddr = address.parse().with_context(|| format!("{address} is no address"))?;
    Ok(SocketAddr::new(address, 80))
}

/// A volume for the ledger's file, since the cluster provides none: it outlives pods, not the cluster.
fn make_volume(folder: &Path) -> Result<()> {
    remove_volume()?;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    chown(folder, Some(USER), Some(USER)).with_context(|| format!("hand over {}", folder.display()))?;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": VOLUME}, "spec": {
        "capacity": {"storage": "8Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": folder},
        "claimRef": {"namespace": SYSTEM, "name": "funcatron-ledger"}}});
    kubectl_with(&["apply", "--server-side", "--filename", "-"], &volume.to_string()).map(drop)
}

fn remove_volume() -> Result<()> {
    let gone = ["--ignore-not-found", "--wait", "--timeout=60s"];
    let claim = ["--namespace", SYSTEM, "delete", "persistentvolumeclaim", "funcatron-ledger"];
    let pods = ["--namespace", SYSTEM, "delete", "deployment", "funcatron-ledger"];
    // A claim stays as long as a pod uses it.
    for delete in [&pods[..], &claim, &["delete", "persistentvolume", VOLUME]] {
        kubectl(&[delete, &gone].concat())?;
    }
    Ok(())
}

fn manifests(counter: SocketAddr) -> String {
    let code = include_str!("function.py");
    let code: String = code.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        r#"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {{name: {APP}}}
spec: {{hostnames: [{HOSTNAME}], runners: {{min: 2}}}}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {{name: counted}}
spec:
  app: {APP}
  runtime: python
  concurrency: 8
  timeout: 60s
  env:
  - {{name: COUNTER_HOST, value: "{}"}}
  - {{name: COUNTER_PORT, value: "{}"}}
  source:
    inline: |
{code}
---
apiVersion: funcatron.dev/v1alpha1
kind: Route
metadata: {{name: counted}}
spec:
  app: {APP}
  rules: [{{backends: [{{fn: counted}}]}}]
"#,
        counter.ip(),
        counter.port()
    )
}
