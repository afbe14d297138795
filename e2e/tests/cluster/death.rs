//! kill -9 of a runner under load: idempotent calls all answer 200, others 502 at worst, and of those none runs twice.

use std::time::Duration;

use anyhow::ensure;
use e2e::client::{Load, LoadPlan, LoadResult};
use e2e::cluster::{self, GATEWAY};
use e2e::kubectl::{apply, get, kubectl};
use e2e::wait::until;

use crate::node;

const NAMESPACE: &str = "e2e-death";
const HOST: &str = "death.example.com";

/// Each run of a POST leaves its number in a file of its pod's host container.
const MANIFESTS: &str = r#"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {name: death}
spec: {hostnames: [death.example.com], runners: {min: 2}}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: counted}
spec:
  app: death
  runtime: python
  concurrency: 8
  timeout: 20s
  source:
    inline: |
      import os
      import time

      def handler(event, context):
          time.sleep(0.05)
          if event["httpMethod"] == "POST":
              with open("/tmp/runs", "a") as runs:
                  runs.write(event["body"] + "\n")
          return "ran"
---
apiVersion: funcatron.dev/v1alpha1
kind: Route
metadata: {name: death}
spec:
  app: death
  rules: [{backends: [{fn: counted}]}]
"#;

fn pods() -> anyhow::Result<Vec<String>> {
    let list = get(NAMESPACE, &["pods", "--selector=funcatron.dev/runtime=python"])?;
    let items = list["items"].as_array().into_iter().flatten();
    Ok(items.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

/// Restarts of a pod's runner container.
fn restarts(pod: &str) -> anyhow::Result<u64> {
    let pod = get(NAMESPACE, &[&format!("pod/{pod}")])?;
    let mut statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let runner = statuses.find(|status| status["name"] == "runner");
    Ok(runner.and_then(|status| status["restartCount"].as_u64()).unwrap_or(0))
}

/// The runner is the container's first process, which no signal from inside its namespace kills: its node does.
fn kill_runner(pod: &str) -> anyhow::Result<()> {
    node::kill(&node::runner_of(NAMESPACE, pod)?)
}

fn under_load(method: &str, runners: &[String]) -> LoadResult {
    let url = format!("{GATEWAY}/");
    let load =
        Load::start(&LoadPlan { method, url: &url, host: HOST, rate: 40, seconds: 20, body: "{n}" }).unwrap();
    for pod in runners {
        let before = restarts(pod).unwrap();
        until("calls are under way", Duration::from_secs(5), || {
            ensure!(runs().map(|runs| !runs.is_empty()).unwrap_or(false) || method == "GET", "none yet");
            Ok(())
        });
        kill_runner(pod).unwrap();
        until("the killed runner is back", Duration::from_secs(30), || {
            ensure!(restarts(pod)? > before, "not restarted");
            kubectl(&[
                "--namespace",
                NAMESPACE,
                "wait",
                "--for=condition=Ready",
                &format!("pod/{pod}"),
                "--timeout=1s",
            ])
        });
    }
    load.finish().unwrap()
}

/// What ran, over all pods.
fn runs() -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for pod in pods()? {
        let cat = [
            "--namespace",
            NAMESPACE,
            "exec",
            &pod,
            "--container",
            "host",
            "--",
            "sh",
            "-c",
            "cat /tmp/runs || true",
        ];
        all.extend(kubectl(&cat)?.lines().map(str::to_owned));
    }
    Ok(all)
}

#[test]
fn a_killed_runner_loses_no_idempotent_call_and_runs_no_other_twice() {
    if !cluster::is_built() {
        println!(
            "not run: runners of a cluster of your own cannot be killed from here; the built cluster runs it"
        );
        return;
    }
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    apply(NAMESPACE, MANIFESTS).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    let runners = until("two runners", Duration::from_secs(30), || {
        let pods = pods()?;
        ensure!(pods.len() == 2, "{pods:?}");
        Ok(pods)
    });
    let idempotent = under_load("GET", &runners);
    println!("death, GET: {:?}, slowest {:.0} ms", idempotent.statuses, idempotent.longest_ms);
    assert_eq!(idempotent.count("200"), 800, "{idempotent:?}");

    let others = under_load("POST", &runners);
    println!("death, POST: {:?}, slowest {:.0} ms", others.statuses, others.longest_ms);
    assert_eq!(others.count("200") + others.count("502"), 800, "{others:?}");
    let mut ran = runs().unwrap();
    let total = ran.len();
    ran.sort();
    ran.dedup();
    assert_eq!(ran.len(), total, "something ran twice");
    assert!(ran.len() as u64 >= others.count("200"), "{} ran, {others:?}", ran.len());
}
