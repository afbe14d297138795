//! An unchanged cluster causes no write: the operator is restarted, and the audit log holds its Lease's requests alone.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use e2e::cluster::{self, SYSTEM};
use e2e::kubectl::{get, kubectl};
use e2e::wait::until;
use serde_json::Value;

const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
const OPERATOR: &str = "system:serviceaccount:funcatron-system:funcatron-operator";

/// The operator's writes so far, each as verb and object, with its count; Lease requests are left out.
fn writes(log: &str) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut found = BTreeMap::new();
    for line in std::fs::read_to_string(log)?.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let verb = event["verb"].as_str().unwrap_or_default();
        let resource = event["objectRef"]["resource"].as_str().unwrap_or_default();
        let ours = event["user"]["username"] == OPERATOR && event["stage"] == "ResponseComplete";
        if ours && WRITES.contains(&verb) && resource != "leases" {
            let (namespace, name) = (&event["objectRef"]["namespace"], &event["objectRef"]["name"]);
            *found.entry(format!("{verb} {resource} {namespace} {name}")).or_default() += 1;
        }
    }
    Ok(found)
}

fn leader() -> anyhow::Result<String> {
    let lease = get(SYSTEM, &["lease", "funcatron-operator"])?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_restarted_operator_writes_nothing_on_an_unchanged_cluster() {
    const NAMESPACE: &str = "e2e-quiet";
    let Some(log) = std::env::var("FUNCATRON_AUDIT_LOG").ok().filter(|_| cluster::is_built()) else {
        println!(
            "not run: this cluster's audit log cannot be read (a cluster of your own); the built cluster runs it"
        );
        return;
    };
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    cluster::apply_example(NAMESPACE, "shop").unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(60));
    let before = until("the operator has settled", Duration::from_secs(90), || {
        let first = writes(&log)?;
        std::thread::sleep(Duration::from_secs(5));
        let second = writes(&log)?;
        ensure!(first == second, "it still writes: {:?}", difference(&second, &first));
        Ok(second)
    });
    let old = leader().unwrap();
    kubectl(&["--namespace", SYSTEM, "rollout", "restart", "deployment/funcatron-operator"]).unwrap();
    cluster::rolled_out(SYSTEM, "deployment/funcatron-operator", Duration::from_secs(90)).unwrap();
    until("another operator leads", Duration::from_secs(60), || {
        let new = leader()?;
        ensure!(!new.is_empty() && new != old, "{new} leads");
        Ok(())
    });
    // Longer than every poll and the first backoffs of a reconciler: what would be written is written by then.
    std::thread::sleep(Duration::from_secs(20));
    cluster::all_ready(NAMESPACE, Duration::from_secs(5));
    let after = writes(&log).unwrap();
    assert_eq!(difference(&after, &before), BTreeMap::new(), "writes after the restart");
}

fn difference(after: &BTreeMap<String, u32>, before: &BTreeMap<String, u32>) -> BTreeMap<String, u32> {
    let more = |(what, n): (&String, &u32)| {
        let new = n - before.get(what).copied().unwrap_or(0);
        (new > 0).then(|| (what.clone(), new))
    };
    after.iter().filter_map(more).collect()
}
