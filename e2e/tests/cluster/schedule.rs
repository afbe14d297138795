//! A schedule on a real cluster: the clock strikes, the function is called, and the status tells.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::cluster;
use e2e::kubectl::{apply, get, kubectl};
use e2e::wait::until;

const NAMESPACE: &str = "e2e-schedule";
const MANIFESTS: &str = r#"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {name: clock}
spec: {}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: tick}
spec:
  app: clock
  runtime: python
  source:
    inline: |
      def handler(ctx, data):
          print("tick of", ctx.Headers()["ce-time"], "called", ctx.CallID())
---
apiVersion: funcatron.dev/v1alpha1
kind: Trigger
metadata: {name: minutely}
spec: {app: clock, fn: tick, schedule: {cron: "* * * * *", timeZone: Europe/Berlin}}
"#;

#[test]
fn a_schedule_of_each_minute_calls_its_fn_and_tells_what_fired_and_what_will() {
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    apply(NAMESPACE, MANIFESTS).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    let status = until("it has fired", Duration::from_secs(70), || {
        let status = get(NAMESPACE, &["trigger", "minutely"])?["status"].clone();
        ensure!(status["lastFired"].is_string() && status["nextFiring"].is_string(), "{status}");
        Ok(status)
    });
    let (last, next) = (status["lastFired"].as_str().unwrap(), status["nextFiring"].as_str().unwrap());
    assert!(last < next && last.ends_with(":00Z"), "{status}");
    until("the function was called for that minute, once", Duration::from_secs(20), || {
        let logs = kubectl(&[
            "--namespace",
            NAMESPACE,
            "logs",
            "deployment/clock-python-runners",
            "--container",
            "host",
        ])?;
        let id = status["lastCall"]["id"].as_str().context("no call")?;
        let calls = logs.matches(&format!("tick of {last} called {id}")).count();
        ensure!(calls == 1, "{calls} calls of {last}: {logs}");
        Ok(())
    });
}
