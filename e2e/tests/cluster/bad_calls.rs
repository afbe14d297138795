//! Functions and callers that misbehave: each gets its answer, and nobody else notices.

use std::time::{Duration, Instant};

use e2e::client::{ask, get as http_get, raw, request};
use e2e::cluster::{self, GATEWAY};
use e2e::kubectl::{apply, get, kubectl};
use e2e::wait::until;
use serde_json::{Value, json};

const NAMESPACE: &str = "e2e-calls";
const HOST: &str = "calls.example.com";

const MANIFESTS: &str = r#"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {name: calls}
spec: {hostnames: [calls.example.com], limits: {bodyBytes: 100000}}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: well}
spec:
  app: calls
  runtime: python
  source: {inline: "def handler(event, context): return 'well'"}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: sick}
spec:
  app: calls
  runtime: python
  timeout: 2s
  source:
    inline: |
      import os
      import sys
      import time

      def handler(event, context):
          act = (event["queryStringParameters"] or {}).get("act")
          if act == "raise":
              raise ValueError("secret detail of the trace")
          if act == "exit":
              os._exit(3)
          if act == "hang":
              time.sleep(3600)
          if act == "flood":
              for _ in range(20000):
                  print("x" * 500)
              return "flooded"
          if act == "garbage":
              return object()
          return "sick but here"
---
apiVersion: funcatron.dev/v1alpha1
kind: Route
metadata: {name: calls}
spec:
  app: calls
  rules:
  - {matches: [{path: {value: /well}}], backends: [{fn: well}]}
  - {matches: [{path: {value: /sick}}], backends: [{fn: sick}]}
"#;

fn sick(act: &str) -> e2e::client::Answer {
    http_get(&format!("{GATEWAY}/sick?act={act}"), HOST).unwrap()
}

fn is_problem(answer: &e2e::client::Answer) {
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{answer:?}");
    let body = answer.json().unwrap();
    assert!(body["message"].is_string() && body["status"] == answer.status, "{answer:?}");
    assert!(answer.headers.contains_key("fn-call-id"), "{answer:?}");
}

#[test]
fn whoever_misbehaves_is_answered_and_nobody_else_notices() {
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    apply(NAMESPACE, MANIFESTS).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    functions_that_misbehave();
    bodies_above_the_limit();
    a_client_that_leaves();
    malformed_http();
    let pods = get(NAMESPACE, &["pods"]).unwrap();
    let restarts: Vec<&Value> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|pod| pod["status"]["containerStatuses"].as_array().into_iter().flatten())
        .map(|container| &container["restartCount"])
        .collect();
    assert!(restarts.iter().all(|count| **count == 0), "no container died of it: {restarts:?}");
}

fn functions_that_misbehave() {
    for (act, status) in [("raise", 502), ("exit", 502), ("hang", 504), ("garbage", 502)] {
        let began = Instant::now();
        let answer = sick(act);
        assert_eq!(answer.status, status, "{act}: {answer:?}");
        assert!(began.elapsed() < Duration::from_secs(8), "{act} took {:?}", began.elapsed());
        assert!(!answer.body.contains("secret detail") && !answer.body.contains("Traceback"), "{answer:?}");
        is_problem(&answer);
        assert_eq!(http_get(&format!("{GATEWAY}/well"), HOST).unwrap().status, 200, "after {act}");
        until("it answers again", Duration::from_secs(15), || {
            let answer = sick("");
            if answer.status == 200 { Ok(()) } else { Err(answer) }
        });
    }
    assert_eq!(sick("flood").status, 200);
    let logs = kubectl(&[
        "--namespace",
        NAMESPACE,
        "logs",
        "deployment/calls-python-runners",
        "--container",
        "host",
    ])
    .unwrap();
    assert!(logs.contains("secret detail of the trace"), "the trace is in the log");
}

fn bodies_above_the_limit() {
    let large = |repeat: u32| {
        ask(&json!({"do": "request", "method": "POST", "url": format!("{GATEWAY}/well"), "headers": [["Host", HOST]],
            "body": "x", "repeat": repeat}))
        .unwrap()
    };
    assert_eq!(large(100_000)["status"], 200);
    let refused = large(100_001);
    // The client may still be writing when it is refused; then its connection ends.
    assert!(refused["status"] == 413 || refused["error"].is_string(), "{refused}");
    let chunked = format!(
        "POST /well HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n20000\r\n{}\r\n0\r\n\r\n",
        "x".repeat(0x20000)
    );
    let answer = raw("funcatron-gateway.funcatron-system.svc", 80, &chunked).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{}", &answer[..answer.len().min(200)]);
}

fn a_client_that_leaves() {
    let left =
        ask(&json!({"do": "leave", "url": format!("{GATEWAY}/sick?act=hang"), "host": HOST, "after": 0.3}))
            .unwrap();
    assert_eq!(left["left"], true);
    assert_eq!(http_get(&format!("{GATEWAY}/well"), HOST).unwrap().status, 200);
    until("the Fn answers the next caller", Duration::from_secs(15), || {
        let answer = sick("");
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    });
}

fn malformed_http() {
    let cases = [
        ("GET /well HTTP/1.1\r\n\r\n", "400"),
        ("GET /well HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", "400"),
        ("NONSENSE\r\n\r\n", "400"),
        (
            "POST /well HTTP/1.1\r\nHost: calls.example.com\r\nContent-Length: 5\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello",
            "400",
        ),
        ("GET /well/../well HTTP/1.1\r\nHost: calls.example.com\r\nConnection: close\r\n\r\n", "404"),
    ];
    for (bytes, status) in cases {
        let answer = raw("funcatron-gateway.funcatron-system.svc", 80, bytes).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{bytes:?} was answered {answer:?}");
    }
    let huge = format!(
        "GET /well HTTP/1.1\r\nHost: {HOST}\r\nX: {}\r\nConnection: close\r\n\r\n",
        "x".repeat(200_000)
    );
    let answer = raw("funcatron-gateway.funcatron-system.svc", 80, &huge).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer:?}");
    assert_eq!(request("GET", &format!("{GATEWAY}/well"), &[("Host", HOST)], "").unwrap().status, 200);
}
