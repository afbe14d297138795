//! The smallest thing that runs, and one Fn with several operations.

use std::time::Duration;

use e2e::client::{get as http_get, request};
use e2e::cluster::{self, GATEWAY};
use e2e::kubectl::{apply, kubectl};

const NAMESPACE: &str = "e2e-first";

#[test]
fn the_first_fn_answers_at_the_url_that_kubectl_prints() {
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    let manifest = cluster::root().join("examples/fn.yaml");
    kubectl(&["--namespace", NAMESPACE, "apply", "--filename", manifest.to_str().unwrap()]).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    let printed = kubectl(&["--namespace", NAMESPACE, "get", "fns", "--no-headers"]).unwrap();
    let url = printed.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let answer = request("POST", url, &[], "Ada").unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "Hello, Ada!"), "{answer:?}");
}

const OPERATIONS: &str = r#"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {name: ops}
spec: {hostnames: [ops.example.com]}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: pets}
spec:
  app: ops
  runtime: python
  source:
    inline: |
      def handler(event, context):
          return {"operation": event["operationId"], "path": event["pathParameters"]}
---
apiVersion: funcatron.dev/v1alpha1
kind: Route
metadata: {name: pets}
spec:
  app: ops
  fn: pets
  openapi:
    inline: |
      openapi: 3.1.0
      info: {title: Pets, version: "1"}
      paths:
        /pets: {get: {operationId: listPets, responses: {"200": {description: all}}}}
        /pets/{petId}: {get: {operationId: getPet, responses: {"200": {description: one}}}}
        /pets/mine: {get: {operationId: myPets, responses: {"200": {description: mine}}}}
"#;

#[test]
fn a_fn_with_several_operations_is_told_which() {
    const NAMESPACE: &str = "e2e-operations";
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    apply(NAMESPACE, OPERATIONS).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    for (path, operation, pet) in
        [("/pets", "listPets", None), ("/pets/7%2F8", "getPet", Some("7/8")), ("/pets/mine", "myPets", None)]
    {
        let answer = http_get(&format!("{GATEWAY}{path}"), "ops.example.com").unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let body = answer.json().unwrap();
        assert_eq!(body["operation"], operation, "{path}");
        assert_eq!(body["path"]["petId"].as_str(), pet, "{path}");
    }
}
