//! A Swagger 2.0 document built like kube-apiserver's own: its paths, methods, parameters, schemas and size.

use serde_json::{Map, Value, json};

/// Groups, each with kinds: those of a plain cluster come to about a thousand operations.
const GROUPS: [(&str, &[&str]); 16] = [
    ("api/v1", &["pods", "services", "secrets", "configmaps", "events", "endpoints", "limitranges"]),
    ("apis/apps/v1", &["deployments", "replicasets", "statefulsets", "daemonsets", "controllerrevisions"]),
    ("apis/batch/v1", &["jobs", "cronjobs"]),
    ("apis/autoscaling/v1", &["horizontalpodautoscalers"]),
    ("apis/autoscaling/v2", &["horizontalpodautoscalers"]),
    ("apis/networking.k8s.io/v1", &["ingresses", "networkpolicies", "ingressclasses"]),
    ("apis/rbac.authorization.k8s.io/v1", &["roles", "rolebindings"]),
    ("apis/policy/v1", &["poddisruptionbudgets"]),
    ("apis/coordination.k8s.io/v1", &["leases"]),
    ("apis/discovery.k8s.io/v1", &["endpointslices"]),
    ("apis/events.k8s.io/v1", &["events"]),
    ("apis/storage.k8s.io/v1", &["csistoragecapacities", "storageclasses", "volumeattachments"]),
    ("apis/resource.k8s.io/v1", &["resourceclaims", "resourceclaimtemplates", "deviceclasses"]),
    ("apis/resource.k8s.io/v1beta1", &["resourceclaims", "resourceclaimtemplates", "deviceclasses"]),
    ("apis/node.k8s.io/v1", &["runtimeclasses"]),
    ("apis/flowcontrol.apiserver.k8s.io/v1", &["flowschemas", "prioritylevelconfigurations"]),
];

pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for (group, kinds) in GROUPS {
        // The API server's discovery paths end on a slash.
        add(&mut paths, format!("/{group}/"), &["get"]);
        for kind in kinds {
            add_kind(&mut paths, group, kind);
        }
    }
    for methods in
        ["/api/", "/apis/", "/version/", "/logs/", "/logs/{logpath}", "/.well-known/openid-configuration/"]
    {
        add(&mut paths, methods.to_owned(), &["get"]);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.3"},
        "paths": paths,
        "definitions": definitions(),
        "parameters": {
            "pretty": {"name": "pretty", "in": "query", "type": "string", "uniqueItems": true},
            "body": {"name": "body", "in": "body", "required": true, "schema": {"type": "object"}},
            "path": {"name": "path", "in": "path", "type": "string", "required": true, "uniqueItems": true}
        },
        "security": [{"BearerToken": []}]
    })
}

fn add_kind(paths: &mut Map<String, Value>, group: &str, kind: &str) {
    let one = &["get", "put", "patch", "delete"][..];
    let many = &["get", "post", "delete"][..];
    let all = &["get", "put", "post", "delete", "options", "head", "patch"][..];
    let namespaced = format!("/{group}/namespaces/{{namespace}}/{kind}");
    add(paths, format!("/{group}/{kind}"), &["get"]);
    add(paths, namespaced.clone(), many);
    add(paths, format!("{namespaced}/{{name}}"), one);
    add(paths, format!("{namespaced}/{{name}}/status"), &["get", "put", "patch"]);
    add(paths, format!("{namespaced}/{{name}}/proxy"), all);
    add(paths, format!("{namespaced}/{{name}}/proxy/{{path}}"), all);
    add(paths, format!("/{group}/watch/{kind}"), &["get"]);
    add(paths, format!("/{group}/watch/namespaces/{{namespace}}/{kind}"), &["get"]);
    add(paths, format!("/{group}/watch/namespaces/{{namespace}}/{kind}/{{name}}"), &["get"]);
}

fn add(paths: &mut Map<String, Value>, path: String, methods: &[&str]) {
    let mut shared = vec![json!({"$ref": "#/parameters/pretty"})];
    for name in ["name", "namespace", "logpath"] {
        if path.contains(&format!("{{{name}}}")) {
            let description = "name of the thing, object name and auth scope, such as for teams and projects";
            let parameter = json!({"name": name, "in": "path", "required": true, "type": "string", "description": description});
            shared.push(parameter);
        }
    }
    if path.contains("{path}") {
        shared.push(json!({"$ref": "#/parameters/path"}));
    }
    let mut item = Map::new();
    for method in methods {
        item.insert((*method).to_owned(), operation(method, &path));
    }
    item.insert("parameters".to_owned(), Value::Array(shared));
    paths.insert(path, Value::Object(item));
}

fn operation(method: &str, path: &str) -> Value {
    let types =
        ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"];
    let queries: Vec<Value> = ["continue", "fieldSelector", "labelSelector", "limit", "resourceVersion"]
        .iter()
        .map(|name| json!({"name": name, "in": "query", "type": "string", "uniqueItems": true, "description":
            "The option should be set when retrieving more results from the server. Since this value is server \
             defined, clients may only use the value from a previous query result with identical parameters."}))
        .collect();
    json!({
        "operationId": operation_id(method, path),
        "description": "read the specified object, or what else the operation does to it",
        "consumes": types, "produces": types, "schemes": ["https"], "tags": ["core_v1"],
        "parameters": queries,
        "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/io.k8s.Kind0"}},
                      "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": method,
        "x-kubernetes-group-version-kind": {"group": "", "kind": "Kind", "version": "v1"}
    })
}

pub(crate) fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(['/', '{', '}', '.', '-']).filter(|word| !word.is_empty());
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    let slash = if path.ends_with('/') { "Discovery" } else { "" };
    words.fold(method.to_owned(), |id, word| id + &capital(word)) + slash
}

fn definitions() -> Value {
    let text = "Standard object's metadata, or a field whose meaning takes a paragraph to tell, as most do. ";
    let definitions = (0..700).map(|kind| {
        let property = |at| (format!("field{at}"), json!({"description": text, "type": "string"}));
        let properties: Map<String, Value> = (0..14).map(property).collect();
        (
            format!("io.k8s.Kind{kind}"),
            json!({"description": text, "type": "object", "properties": properties}),
        )
    });
    Value::Object(definitions.collect())
}
