//! Changing a Fn under load loses no request, and a revision that does not load never serves.

use std::time::Duration;

use anyhow::ensure;
use e2e::client::{Load, LoadPlan, get as http_get};
use e2e::cluster::{self, GATEWAY};
use e2e::kubectl::{apply, condition};
use e2e::wait::until;

fn manifests(host: &str, code: &str) -> String {
    format!(
        r#"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {{name: roll}}
spec: {{hostnames: [{host}]}}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {{name: page}}
spec:
  app: roll
  runtime: python
  concurrency: 4
  source:
    inline: |
      {code}
---
apiVersion: funcatron.dev/v1alpha1
kind: Route
metadata: {{name: page}}
spec:
  app: roll
  rules:
  - backends: [{{fn: page}}]
"#
    )
}

fn answers(host: &str, version: &str) -> String {
    manifests(host, &format!("def handler(event, context): return '{version}'"))
}

#[test]
fn a_change_under_load_fails_no_request() {
    const NAMESPACE: &str = "e2e-roll";
    const HOST: &str = "roll.example.com";
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    apply(NAMESPACE, &answers(HOST, "one")).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    let plan =
        LoadPlan { method: "GET", url: &format!("{GATEWAY}/"), host: HOST, rate: 50, seconds: 30, body: "" };
    let load = Load::start(&plan).unwrap();
    for version in ["two", "three"] {
        apply(NAMESPACE, &answers(HOST, version)).unwrap();
        until("the new version answers", Duration::from_secs(12), || {
            let answer = http_get(&format!("{GATEWAY}/"), HOST)?;
            ensure!(answer.body == version, "{answer:?}");
            Ok(())
        });
    }
    let result = load.finish().unwrap();
    println!(
        "rollover: {:?} in all, slowest {:.0} ms, {:?}",
        result.statuses, result.longest_ms, result.bodies
    );
    assert_eq!(result.count("200"), 1500, "{result:?}");
    for version in ["one", "two", "three"] {
        assert!(result.bodies.contains_key(version), "{version} served during the load: {result:?}");
    }
}

#[test]
fn a_handler_that_fails_to_import_never_takes_traffic() {
    const NAMESPACE: &str = "e2e-import";
    const HOST: &str = "import.example.com";
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    apply(NAMESPACE, &answers(HOST, "good")).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    let plan =
        LoadPlan { method: "GET", url: &format!("{GATEWAY}/"), host: HOST, rate: 20, seconds: 15, body: "" };
    let load = Load::start(&plan).unwrap();
    apply(NAMESPACE, &manifests(HOST, "import no_such_module")).unwrap();
    let ready = until("Ready says why", Duration::from_secs(30), || {
        let ready = condition(NAMESPACE, "fn/page", "Ready")?;
        ensure!(ready.status == "False", "{ready:?}");
        ensure!(ready.message.contains("no_such_module"), "{ready:?}");
        Ok(ready)
    });
    println!("Ready: {} {}", ready.reason, ready.message);
    let result = load.finish().unwrap();
    assert_eq!(result.count("200"), 300, "{result:?}");
    assert_eq!(result.bodies.keys().collect::<Vec<_>>(), ["good"], "the last good revision serves");

    apply(NAMESPACE, &answers(HOST, "better")).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    assert_eq!(http_get(&format!("{GATEWAY}/"), HOST).unwrap().body, "better");
}
