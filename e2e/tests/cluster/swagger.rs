//! kube-apiserver's own Swagger, over a thousand operations in three megabytes, as gzip in a ConfigMap, behind one Fn.

use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use e2e::client::ask;
use e2e::cluster::{self, GATEWAY};
use e2e::kubectl::{apply, get, kubectl};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

const NAMESPACE: &str = "e2e-swagger";
const HOST: &str = "swagger.example.com";

/// Method, concrete path, operationId of every operation.
fn operations(document: &Value) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if let Some(id) = operation["operationId"].as_str() {
                // Every parameter gets a value that no template has as a segment of its own.
                let path: Vec<String> = template
                    .split('/')
                    .map(|part| if part.starts_with('{') { "value-1".to_owned() } else { part.to_owned() })
                    .collect();
                found.push((method.to_uppercase(), path.join("/"), id.to_owned()));
            }
        }
    }
    found
}

#[test]
fn each_path_of_the_api_servers_swagger_finds_its_own_operation() {
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    let text = kubectl(&["get", "--raw", "/openapi/v2"]).unwrap();
    let operations = operations(&serde_json::from_str(&text).unwrap());
    assert!(operations.len() > 1000, "{} operations in {} bytes", operations.len(), text.len());
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(text.as_bytes()).unwrap();
    let packed = base64::engine::general_purpose::STANDARD.encode(gzip.finish().unwrap());
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "swagger"},
        "binaryData": {"swagger.json.gz": packed}});
    apply(NAMESPACE, &map.to_string()).unwrap();
    apply(NAMESPACE, MANIFESTS).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(60));
    let counted = get(NAMESPACE, &["route.funcatron.dev", "api"]).unwrap()["status"]["operations"].clone();
    assert_eq!(counted, operations.len());

    let requests: Vec<Value> =
        operations.iter().map(|(method, path, _)| json!([method, format!("{GATEWAY}/kube{path}")])).collect();
    let answers = ask(&json!({"do": "many", "host": HOST, "requests": requests})).unwrap();
    let wrong: Vec<String> = operations
        .iter()
        .zip(answers["answers"].as_array().unwrap())
        .filter(|((method, _, id), answer)| {
            let found = if method == "HEAD" { answer["header"].as_str() } else { answer["body"].as_str() };
            answer["status"] != 200 || found != Some(id)
        })
        .map(|((method, path, id), answer)| format!("{method} {path}: wanted {id}, got {answer}"))
        .collect();
    println!("swagger: {} operations of {} bytes, {} wrong", operations.len(), text.len(), wrong.len());
    assert!(wrong.is_empty(), "{} wrong, such as {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
}

const MANIFESTS: &str = r#"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {name: kube}
spec: {hostnames: [swagger.example.com]}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: api}
spec:
  app: kube
  runtime: node
  concurrency: 32
  source:
    inline: |
      exports.handler = async (event) => ({
        statusCode: 200,
        headers: { "content-type": "text/plain", "x-operation": event.operationId },
        body: event.operationId,
      });
---
apiVersion: funcatron.dev/v1alpha1
kind: Route
metadata: {name: api}
spec:
  app: kube
  fn: api
  basePath: /kube
  openapi: {configMapKeyRef: {name: swagger, key: swagger.json.gz}}
"#;
