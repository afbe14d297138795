//! Calls that nobody waits for, on a real cluster: accepted, run, kept; each ends once, whatever its runner does.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::client::{Answer, request};
use e2e::cluster::{self, INTERNAL, SYSTEM};
use e2e::kubectl::{apply, get, kubectl};
use e2e::wait::until;
use serde_json::Value;

use crate::node;

const NAMESPACE: &str = "e2e-later";
const CALLS: usize = 40;
const MANIFESTS: &str = r#"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {name: later}
spec: {runners: {min: 2}, retention: {calls: 1h}}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: slow}
spec:
  app: later
  runtime: python
  timeout: 20s
  async: {retry: {maxAttempts: 10}}
  source:
    inline: |
      import time

      def handler(event, context):
          time.sleep(0.1)
          return {"statusCode": 201, "body": event["body"]}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: broken}
spec:
  app: later
  runtime: python
  async: {retry: {maxAttempts: 2}}
  source:
    inline: |
      def handler(event, context):
          raise ValueError("not today")
"#;

fn call(fn_name: &str, body: &str) -> anyhow::Result<Answer> {
    let url = format!("{INTERNAL}/invoke/{NAMESPACE}/{fn_name}");
    let answer = request("POST", &url, &[("prefer", "respond-async")], body)?;
    ensure!(answer.status == 202, "{answer:?}");
    Ok(answer)
}

/// The call at a location, once it has ended.
fn ended(location: &str, within: Duration) -> Value {
    until(&format!("{location} has ended"), within, || {
        let answer = request("GET", location, &[], "")?;
        ensure!(answer.status == 200, "{answer:?}");
        let call = answer.json()?;
        let status = call["status"].as_str().context("no status")?;
        ensure!(!["queued", "running"].contains(&status), "{call}");
        Ok(call)
    })
}

fn runners() -> anyhow::Result<Vec<String>> {
    let list = get(NAMESPACE, &["pods", "--selector=funcatron.dev/runtime=python"])?;
    let items = list["items"].as_array().into_iter().flatten();
    let pods: Vec<String> =
        items.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect();
    ensure!(pods.len() == 2, "{pods:?}");
    Ok(pods)
}

#[test]
fn a_call_that_nobody_waits_for_ends_once_whatever_its_runner_does() {
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    apply(NAMESPACE, MANIFESTS).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));

    let first = call("slow", "one").unwrap();
    let location = first.headers["location"].clone();
    let done = ended(&location, Duration::from_secs(30));
    assert_eq!((&done["status"], &done["attempts"]), (&"success".into(), &1.into()), "{done}");
    let result = request("GET", &format!("{location}/result"), &[], "").unwrap();
    assert_eq!((result.status, result.body.as_str()), (201, "one"));

    let dead = ended(&call("broken", "").unwrap().headers["location"], Duration::from_secs(30));
    assert_eq!((&dead["status"], &dead["attempts"]), (&"dead".into(), &2.into()), "{dead}");

    let calls: Vec<Answer> = (0..CALLS).map(|n| call("slow", &n.to_string()).unwrap()).collect();
    if cluster::is_built() {
        for pod in until("two runners", Duration::from_secs(30), runners) {
            node::kill(&node::runner_of(NAMESPACE, &pod).unwrap()).unwrap();
        }
    }
    let mut numbers = BTreeSet::new();
    for answer in &calls {
        let done = ended(&answer.headers["location"], Duration::from_secs(120));
        assert_eq!(done["status"], "success", "{done}");
        numbers.insert(done["number"].as_u64().unwrap());
    }
    assert_eq!(numbers.len(), CALLS, "each has a number of its own");
    assert_eq!(numbers.last(), Some(&(CALLS as u64 + 2)), "and none is left out: {numbers:?}");

    let of_app = |app: &str, query: &str| {
        let service = format!("/api/v1/namespaces/{SYSTEM}/services/funcatron-ledger:80/proxy");
        kubectl(&["get", "--raw", &format!("{service}/v1/namespaces/{NAMESPACE}/apps/{app}/calls{query}")])
    };
    let listed: Value = serde_json::from_str(&of_app("later", "?fn=broken").unwrap()).unwrap();
    assert_eq!(listed["calls"].as_array().map(Vec::len), Some(1), "{listed}");
    assert!(of_app("nobodys", "").is_err());
    let hidden = format!("{INTERNAL}/v1/namespaces/{NAMESPACE}/apps/later/calls");
    let hidden = request("GET", &hidden, &[], "").unwrap();
    assert_eq!(hidden.status, 404, "tenants' functions reach this listener: {hidden:?}");
}
