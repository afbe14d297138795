//! Deleting an App leaves nothing of it behind, and its sibling serves on.

use std::time::Duration;

use anyhow::ensure;
use e2e::client::{Load, LoadPlan, request};
use e2e::cluster::{self, INTERNAL, SYSTEM};
use e2e::kubectl::{apply, condition, get, kubectl};
use e2e::wait::until;
use serde_json::Value;

use crate::broker;

const NAMESPACE: &str = "e2e-leaving";

fn app(name: &str) -> String {
    format!(
        r#"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {{name: {name}}}
spec: {{}}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {{name: {name}-fn}}
spec:
  app: {name}
  runtime: python
  source: {{inline: "def handler(event, context): return 'here'"}}
---
apiVersion: funcatron.dev/v1alpha1
kind: Trigger
metadata: {{name: {name}-events}}
spec: {{app: {name}, fn: {name}-fn, queue: {{exchange: events}}}}
---
apiVersion: funcatron.dev/v1alpha1
kind: Trigger
metadata: {{name: {name}-hook}}
spec: {{app: {name}, fn: {name}-fn, http: {{source: /}}}}
---
"#
    )
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    items.map(|item| format!("{} {}", item["kind"], item["metadata"]["name"])).collect()
}

#[test]
fn deleting_an_app_leaves_nothing_and_its_sibling_serves_on() {
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    apply(NAMESPACE, &format!("{}{}", app("going"), app("staying"))).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(45));
    let prefix = format!("{}.{NAMESPACE}.going", broker::installation());
    assert!(!broker::queues(&format!("{prefix}.")).unwrap().is_empty(), "there is something to leave behind");
    assert_eq!(broker::users(&prefix).unwrap(), std::slice::from_ref(&prefix));

    let url = format!("{INTERNAL}/invoke/{NAMESPACE}/staying-fn");
    let host = "funcatron-internal.funcatron-system.svc";
    let sibling =
        Load::start(&LoadPlan { method: "POST", url: &url, host, rate: 10, seconds: 20, body: "" }).unwrap();
    kubectl(&["--namespace", NAMESPACE, "delete", "apps.funcatron.dev", "going", "--timeout=60s"]).unwrap();
    until("nothing of the App is left", Duration::from_secs(60), || {
        let selector = "--selector=funcatron.dev/app=going";
        let mine =
            names(&get(NAMESPACE, &["deployments,pods,secrets,networkpolicies,configmaps", selector])?);
        ensure!(mine.is_empty(), "in its namespace: {mine:?}");
        let selector = format!("{selector},funcatron.dev/namespace={NAMESPACE}");
        let tables = names(&get(SYSTEM, &["configmaps", &selector])?);
        ensure!(tables.is_empty(), "in the system namespace: {tables:?}");
        let (queues, users) = (broker::queues(&format!("{prefix}."))?, broker::users(&prefix)?);
        ensure!(queues.is_empty() && users.is_empty(), "on the broker: {queues:?} {users:?}");
        let exchanges = broker::exchanges(&format!("{prefix}."))?;
        ensure!(exchanges.is_empty(), "on the broker: {exchanges:?}");
        Ok(())
    });
    for object in ["fn/going-fn", "trigger/going-events", "trigger/going-hook"] {
        let ready = until("what named the App says so", Duration::from_secs(20), || {
            let ready = condition(NAMESPACE, object, "Ready")?;
            ensure!(ready.status == "False", "{object}: {ready:?}");
            Ok(ready)
        });
        assert_eq!(ready.reason, "AppNotFound", "{object}: {ready:?}");
    }
    let gone = request("POST", &format!("{INTERNAL}/invoke/{NAMESPACE}/going-fn"), &[], "").unwrap();
    assert!([404, 503].contains(&gone.status), "{gone:?}");
    let result = sibling.finish().unwrap();
    assert_eq!(result.count("200"), 200, "the sibling serves on: {result:?}");

    apply(NAMESPACE, &app("going")).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(45));
}
