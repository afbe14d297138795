//! Bodies that pass the broker by, on a real cluster: the runner's stream finds the very gateway that waits.

use std::time::Duration;

use e2e::client::request;
use e2e::cluster::{self, INTERNAL};
use e2e::kubectl::{apply, get, kubectl};
use e2e::wait::until;

const NAMESPACE: &str = "e2e-direct";
const MANIFESTS: &str = r#"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {name: direct}
spec: {}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: twice}
spec:
  app: direct
  runtime: python
  source:
    inline: |
      def handler(event, context):
          return event["body"] * 2
"#;

/// Far beyond what a message carries for a call that has a choice.
const BODY_BYTES: usize = 300_000;

#[test]
fn a_large_body_comes_and_goes_whole_whichever_gateway_has_it() {
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    apply(NAMESPACE, MANIFESTS).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    let gateways = get(cluster::SYSTEM, &["deployment/funcatron-gateway"]).unwrap();
    let replicas = gateways["spec"]["replicas"].as_u64().unwrap();
    scale(2);
    let body: String = (0..BODY_BYTES).map(|n| char::from(b'a' + u8::try_from(n % 26).unwrap())).collect();
    for _ in 0..10 {
        let answer = request("POST", &format!("{INTERNAL}/invoke/{NAMESPACE}/twice"), &[], &body).unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 2 * BODY_BYTES));
        assert!(answer.body == format!("{body}{body}"), "the answer's bytes differ");
    }
    scale(replicas);
}

fn scale(replicas: u64) {
    let gateway = "deployment/funcatron-gateway";
    let to = format!("--replicas={replicas}");
    kubectl(&["--namespace", cluster::SYSTEM, "scale", gateway, &to]).unwrap();
    until("the gateways are there", Duration::from_secs(60), || {
        cluster::rolled_out(cluster::SYSTEM, gateway, Duration::from_secs(30))
    });
}
