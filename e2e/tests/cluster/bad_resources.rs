//! Bad manifests: refused at once with a message that names the field and the fix, or not Ready with a reason that
//! helps; what served before serves on.

use std::time::Duration;

use anyhow::ensure;
use e2e::client::get as http_get;
use e2e::cluster::{self, GATEWAY};
use e2e::kubectl::{Condition, apply, condition, refusal};
use e2e::wait::until;

const APP: &str = r#"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {name: bad}
spec: {hostnames: [HOST]}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: good}
spec:
  app: bad
  runtime: python
  source: {inline: "def handler(event, context): return 'good'"}
---
apiVersion: funcatron.dev/v1alpha1
kind: Route
metadata: {name: good}
spec:
  app: bad
  basePath: /good
  openapi:
    inline: |
      openapi: 3.0.3
      info: {title: t, version: "1"}
      paths: {/x: {get: {operationId: good, responses: {"200": {description: d}}}}}
"#;

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: funcatron.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

fn not_ready(namespace: &str, object: &str, kind: &str, words: &[&str]) -> Condition {
    until("it is not Ready and says why", Duration::from_secs(20), || {
        let found = condition(namespace, object, kind)?;
        ensure!(found.status == "False", "{object} {kind}: {found:?}");
        let text = format!("{} {}", found.reason, found.message);
        ensure!(words.iter().all(|word| text.contains(word)), "{object}: {words:?} in {text}");
        Ok(found)
    })
}

#[test]
fn the_api_server_refuses_what_breaks_the_schema_and_names_it() {
    const NAMESPACE: &str = "e2e-refused";
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    let source = "source: {inline: x}";
    let cases: Vec<(String, &[&str])> = vec![
        (object("Fn", "a", "{app: x, image: a/b:1, imge: y}"), &["imge"]),
        (
            object("Fn", "a", &format!("{{app: x, runtime: python, image: a/b:1, {source}}}")),
            &["image", "runtime"],
        ),
        (object("Fn", "a", "{app: x}"), &["image", "runtime"]),
        (object("Fn", "a", "{app: x, runtime: python}"), &["source"]),
        (
            object("Fn", "a", &format!("{{app: x, runtime: python, {source}, scale: {{replicas: 2}}}}")),
            &["scale"],
        ),
        (object("Fn", "a", &format!("{{app: x, runtime: python, {source}, timeout: soon}}")), &["timeout"]),
        (
            object("Fn", "a", &format!("{{app: x, runtime: python, {source}, concurrency: 0}}")),
            &["concurrency"],
        ),
        (object("Fn", "a", &format!("{{app: other/x, runtime: python, {source}}}")), &["app"]),
        (object("Route", "a", "{app: x}"), &["openapi", "rules"]),
        (object("Route", "a", "{app: x, hostnames: ['*'], rules: [{backends: [{fn: a}]}]}"), &["hostnames"]),
        (
            object(
                "Route",
                "a",
                "{app: x, rules: [{matches: [{path: {type: Regex, value: /a}}], backends: [{fn: a}]}]}",
            ),
            &["type", "Exact", "PathPrefix"],
        ),
        (object("Trigger", "a", "{app: x, fn: a}"), &["queue", "http"]),
        (object("Trigger", "a", "{app: x, fn: a, schedule: {}}"), &["schedule", "cron"]),
        (
            object("Trigger", "a", "{app: x, fn: a, schedule: {cron: '@daily', startingDeadline: 1s}}"),
            &["startingDeadline", "10s to 8760h"],
        ),
        (object("App", &"a".repeat(41), "{}"), &["40"]),
    ];
    for (manifest, words) in cases {
        let refused = refusal(NAMESPACE, &manifest).unwrap_or_else(|error| panic!("{manifest}\n{error:#}"));
        for word in words {
            assert!(refused.contains(word), "{word:?} in the refusal of\n{manifest}\n{refused}");
        }
    }
    let large = format!("{{app: x, runtime: python, source: {{inline: \"{}\"}}}}", "x".repeat(300 * 1024));
    let refused = refusal(NAMESPACE, &object("Fn", "large", &large)).unwrap();
    assert!(
        refused.contains("spec.source.inline") && refused.contains("262144"),
        "{}",
        &refused[refused.len().saturating_sub(500)..]
    );
}

#[test]
fn what_names_something_missing_says_so_and_the_others_serve() {
    const NAMESPACE: &str = "e2e-missing";
    const HOST: &str = "missing.example.com";
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    apply(NAMESPACE, &APP.replace("HOST", HOST)).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    let source = "source: {inline: x}";
    let bad = [
        object("Fn", "stray", &format!("{{app: nobody, runtime: python, {source}}}")),
        object("Fn", "cobol", &format!("{{app: bad, runtime: cobol, {source}}}")),
        object(
            "Fn",
            "files",
            "{app: bad, runtime: python, source: {files: {configMapRef: {name: no-such-map}}}}",
        ),
        object(
            "Fn",
            "keyless",
            &format!(
                "{{app: bad, runtime: python, {source}, env: [{{name: A, valueFrom: {{secretKeyRef: {{name: no-such-secret, key: k}}}}}}]}}"
            ),
        ),
        object(
            "Route",
            "to-nobody",
            "{app: bad, hostnames: [nobody.example.com], rules: [{backends: [{fn: no-such-fn}]}]}",
        ),
        object("Trigger", "to-nobody", "{app: bad, fn: no-such-fn, http: {source: /x}}"),
    ];
    apply(NAMESPACE, &bad.join("---\n")).unwrap();
    not_ready(NAMESPACE, "fn/stray", "Ready", &["AppNotFound", "nobody"]);
    not_ready(NAMESPACE, "fn/cobol", "Ready", &["RuntimeNotFound", "cobol", "python"]);
    not_ready(NAMESPACE, "fn/files", "Ready", &["no-such-map"]);
    not_ready(NAMESPACE, "fn/keyless", "Ready", &["no-such-secret"]);
    not_ready(NAMESPACE, "route.funcatron.dev/to-nobody", "ResolvedRefs", &["no-such-fn"]);
    not_ready(NAMESPACE, "trigger/to-nobody", "Ready", &["no-such-fn"]);
    assert_eq!(http_get(&format!("{GATEWAY}/good/x"), HOST).unwrap().body, "good");
}

#[test]
fn a_reference_to_another_namespace_reaches_nothing() {
    const NAMESPACE: &str = "e2e-cross-a";
    const OTHER: &str = "e2e-cross-b";
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    let _other = cluster::Namespace::fresh(OTHER).unwrap();
    apply(NAMESPACE, &APP.replace("HOST", "cross.example.com")).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    // Same names, other namespace: App and Fn are sought in their own namespace alone.
    apply(OTHER, &object("Fn", "thief", "{app: bad, runtime: python, source: {inline: x}}")).unwrap();
    apply(OTHER, &object("Trigger", "thief", "{app: bad, fn: good, http: {source: /x}}")).unwrap();
    not_ready(OTHER, "fn/thief", "Ready", &["AppNotFound"]);
    not_ready(OTHER, "trigger/thief", "Ready", &["AppNotFound"]);
}

#[test]
fn a_broken_document_is_told_and_the_last_good_one_serves() {
    const NAMESPACE: &str = "e2e-documents";
    const HOST: &str = "documents.example.com";
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    let good = APP.replace("HOST", HOST);
    apply(NAMESPACE, &good).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    let route = good.rsplit_once("---\n").unwrap().1;
    let twice = route.replace(
        r#"{/x: {get: {operationId: good, responses: {"200": {description: d}}}}}"#,
        r#"{/x: {get: {operationId: good, responses: {"200": {description: d}}}}, /y: {get: {operationId: good, responses: {"200": {description: d}}}}}"#,
    );
    assert_ne!(twice, route);
    for (broken, words) in [
        (route.replace("openapi: 3.0.3", "openapi: 7.0"), vec!["7.0"]),
        (route.replace("paths:", "pathes:"), vec!["paths"]),
        (route.replace("/x: {get", "/x: {get: ]["), vec!["line"]),
        (twice, vec!["good", "~1x", "~1y"]),
    ] {
        apply(NAMESPACE, &broken).unwrap();
        not_ready(NAMESPACE, "route.funcatron.dev/good", "Accepted", &words);
        assert_eq!(http_get(&format!("{GATEWAY}/good/x"), HOST).unwrap().body, "good");
    }
}

#[test]
fn a_claim_stays_with_its_oldest_route() {
    const NAMESPACE: &str = "e2e-claims";
    const HOST: &str = "claims.example.com";
    cluster::ready();
    let _namespace = cluster::Namespace::fresh(NAMESPACE).unwrap();
    let good = APP.replace("HOST", HOST);
    apply(NAMESPACE, &good).unwrap();
    cluster::all_ready(NAMESPACE, Duration::from_secs(30));
    // A creation time has seconds; the newcomer comes in a later one.
    std::thread::sleep(Duration::from_millis(1100));
    let route = good.rsplit_once("---\n").unwrap().1;
    apply(NAMESPACE, &route.replace("metadata: {name: good}", "metadata: {name: a-newcomer}")).unwrap();
    not_ready(NAMESPACE, "route.funcatron.dev/a-newcomer", "Accepted", &["Conflict", "good", HOST]);
    assert_eq!(condition(NAMESPACE, "route.funcatron.dev/good", "Ready").unwrap().status, "True");
    assert_eq!(http_get(&format!("{GATEWAY}/good/x"), HOST).unwrap().body, "good");
}
