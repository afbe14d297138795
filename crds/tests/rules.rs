//! The CEL rules say yes and no where they should, with the message that they carry. (That the API server takes them,
//! and within its budget, is shown on a real one by the cluster tests.)
#![allow(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

use std::sync::Arc;

use cel::{Context, ExecutionError, Program};
use funcatron_crds::{definitions, parse_duration};
use serde_json::{Value, json};

/// Messages of the rules that fail on `value` and below.
fn failures(schema: &Value, value: &Value, messages: &mut Vec<String>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let text = rule["rule"].as_str().unwrap();
        if !text.contains("oldSelf") && !holds(text, value) {
            messages.push(rule["message"].as_str().unwrap().to_owned());
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let of_map = schema.get("additionalProperties");
        if let Some(inner) = schema["properties"].get(name).or(of_map) {
            failures(inner, field, messages);
        }
    }
    for item in value.as_array().into_iter().flatten() {
        failures(&schema["items"], item, messages);
    }
}

fn holds(rule: &str, value: &Value) -> bool {
    let mut context = Context::default();
    context.add_variable("self", value.clone()).unwrap();
    // Where the library brings its own, that one serves.
    let _ = context.add_function("duration", |text: Arc<String>| {
        let length = parse_duration(&text).map(|d| i64::try_from(d.as_millis()).unwrap());
        length.ok_or_else(|| ExecutionError::function_error("duration", "no duration"))
    });
    let result = Program::compile(rule).unwrap().execute(&context);
    result.is_ok_and(|value| value == cel::Value::Bool(true))
}

fn of(kind: &str, name: &str, spec: Value) -> Vec<String> {
    let definition = definitions().into_iter().find(|d| d.kind == kind).unwrap();
    let mut messages = Vec::new();
    let mut object = json!({"metadata": {"name": name}});
    object["spec"] = spec;
    failures(definition.schema(), &object, &mut messages);
    messages
}

#[track_caller]
fn accepted(kind: &str, spec: Value) {
    assert_eq!(of(kind, "x", spec), Vec::<String>::new());
}

#[track_caller]
fn refused(kind: &str, spec: Value, message: &str) {
    let messages = of(kind, "x", spec);
    assert!(messages.iter().any(|m| m.contains(message)), "{messages:?}");
}

#[test]
fn names_are_short_labels() {
    for kind in ["App", "Fn", "Route", "Trigger"] {
        for name in ["a".repeat(41), "a.b".to_owned()] {
            assert!(
                of(kind, &name, json!({})).iter().any(|m| m.starts_with("metadata.name: ")),
                "{kind} {name}"
            );
        }
        assert!(!of(kind, &"a".repeat(40), json!({})).iter().any(|m| m.starts_with("metadata.name: ")));
    }
}

#[test]
fn hostnames_are_gateway_apis() {
    accepted("App", json!({"hostnames": ["shop.example.com", "*.example.com", "localhost", "1a.example"]}));
    accepted("Route", json!({"openapi": {"inline": "x"}, "hostnames": [format!("{}.com", "a".repeat(63))]}));
    let long = format!("{}.com", "a".repeat(64));
    for name in [
        "*", "*.", "a.*.com", "**.com", "10.0.0.1", "::1", "Shop.com", "a:80", "-a.com", "a-.com", "a..b",
        "a.", &long,
    ] {
        refused("App", json!({"hostnames": [name]}), "a hostname is");
    }
}

#[test]
fn environment_is_the_users_and_says_one_thing() {
    accepted(
        "App",
        json!({
            "env": [{"name": "A", "value": ""}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}],
            "envFrom": [{"prefix": "FNX_", "secretRef": {"name": "a"}}],
        }),
    );
    for kind in ["App", "Fn"] {
        refused(kind, json!({"env": [{"name": "A"}]}), "`value` and `valueFrom`");
        refused(
            kind,
            json!({"env": [{"name": "A", "value": "", "valueFrom": {}}]}),
            "`value` and `valueFrom`",
        );
        refused(
            kind,
            json!({"env": [{"name": "A", "valueFrom": {}}]}),
            "`secretKeyRef` and `configMapKeyRef`",
        );
        refused(kind, json!({"env": [{"name": "FN_FORMAT", "value": ""}]}), "the platform's own");
        refused(kind, json!({"env": [{"name": "FUNCATRON_APP", "value": ""}]}), "the platform's own");
        refused(kind, json!({"envFrom": [{"prefix": "FN_", "secretRef": {}}]}), "the platform's own");
        refused(kind, json!({"envFrom": [{}]}), "`configMapRef` and `secretRef`");
    }
}

#[test]
fn a_fn_is_code_or_an_image() {
    let code = json!({"runtime": "python", "source": {"inline": "x"}, "handler": "h", "timeout": "1h"});
    accepted("Fn", code);
    accepted("Fn", json!({"image": "i", "scale": {"replicas": 0}, "imagePullSecrets": [], "concurrency": 4}));
    refused("Fn", json!({}), "exactly one of `runtime`");
    refused(
        "Fn",
        json!({"runtime": "a", "source": {"inline": "x"}, "image": "i"}),
        "exactly one of `runtime`",
    );
    refused("Fn", json!({"runtime": "a"}), "spec.source: ");
    refused("Fn", json!({"image": "i", "source": {"inline": "x"}}), "spec.source: ");
    refused("Fn", json!({"image": "i", "handler": "h"}), "spec.handler: ");
    refused("Fn", json!({"runtime": "a", "source": {"inline": "x"}, "scale": {}}), "spec.scale: ");
    refused(
        "Fn",
        json!({"runtime": "a", "source": {"inline": "x"}, "imagePullSecrets": []}),
        "spec.imagePullSecrets: ",
    );
    refused("Fn", json!({"runtime": "a", "source": {}}), "`inline` and `files`");
    refused("Fn", json!({"runtime": "a", "source": {"inline": "", "files": {}}}), "`inline` and `files`");
}

#[test]
fn an_image_says_what_it_speaks_and_code_does_not() {
    for contract in ["fn", "http"] {
        accepted("Fn", json!({"image": "i", "contract": contract}));
    }
    refused(
        "Fn",
        json!({"image": "i", "contract": "command"}),
        "`command` is not there yet; use `fn` or `http`",
    );
    refused(
        "Fn",
        json!({"runtime": "a", "source": {"inline": "x"}, "contract": "fn"}),
        "spec.contract: goes with `image` only",
    );
    let with_port =
        |contract| json!({"image": "i", "contract": contract, "env": [{"name": "PORT", "value": "1"}]});
    accepted("Fn", with_port("fn"));
    refused("Fn", with_port("http"), "PORT is the platform's own");
}

#[test]
fn waits_and_ages_of_calls_that_run_later_are_bounded() {
    let fn_of = |detached: Value| json!({"image": "i", "async": detached});
    let backoff = |length: &str| fn_of(json!({"retry": {"backoff": length}}));
    let dead_letter = |age: &str| fn_of(json!({"deadLetter": {"maxAge": age}}));
    for length in ["100ms", "1s", "1h"] {
        accepted("Fn", backoff(length));
    }
    for length in ["99ms", "0s", "1h1ms", "soon"] {
        refused("Fn", backoff(length), "backoff: 100ms to 1h");
    }
    accepted("Fn", fn_of(json!({"deadLetter": {}})));
    for age in ["1m", "8760h"] {
        accepted("Fn", dead_letter(age));
    }
    for age in ["59s", "8761h", "a year"] {
        refused("Fn", dead_letter(age), "maxAge: 1m to 8760h");
    }
}

#[test]
fn a_callback_is_a_fn_or_a_url() {
    let with =
        |callback: Value| json!({"image": "i", "async": {"onSuccess": callback, "onFailure": callback}});
    accepted("Fn", with(json!({"fn": "mail"})));
    for url in [
        "https://example.com",
        "http://hook.corp:8080/a/b?c=d@e",
        "https://example.com?x=1",
        "https://[2001:db8::1]:8443/x",
        "https://8.8.8.8/",
    ] {
        accepted("Fn", with(json!({"url": url})));
    }
    refused("Fn", with(json!({})), "exactly one of `fn` and `url`");
    refused("Fn", with(json!({"fn": "a", "url": "https://a.b"})), "exactly one of `fn` and `url`");
    for url in [
        "example.com/x",
        "ftp://example.com",
        "https://",
        "https:///x",
        "https://user@example.com/",
        "https://u:p@example.com/",
        "https://example.com/#part",
        "https://example.com/a b",
        "javascript:alert(1)",
    ] {
        refused("Fn", with(json!({"url": url})), "without user and fragment");
    }
}

#[test]
fn timeouts_are_bounded() {
    for timeout in ["0s", "61m", "1h1ms", "soon"] {
        refused("Fn", json!({"timeout": timeout}), "a timeout is 1ms to 1h");
        refused("Route", json!({"operations": {"a": {"timeout": timeout}}}), "a timeout is 1ms to 1h");
    }
    accepted("Route", json!({"openapi": {"inline": "x"}, "operations": {"a": {"timeout": "1ms"}}}));
}

#[test]
fn a_route_is_a_document_or_rules() {
    accepted(
        "Route",
        json!({"openapi": {"inline": "x"}, "fn": "a", "basePath": "/v1", "operations": {"a": {}}}),
    );
    accepted("Route", json!({"rules": [{"backends": [{"fn": "a", "weight": 0}, {"fn": "b"}]}]}));
    let rules = json!([{"backends": [{"fn": "a"}]}]);
    refused("Route", json!({}), "exactly one of `openapi` and `rules`");
    refused(
        "Route",
        json!({"openapi": {"inline": "x"}, "rules": rules}),
        "exactly one of `openapi` and `rules`",
    );
    refused("Route", json!({"openapi": {}}), "exactly one of `inline` and `configMapKeyRef`");
    refused("Route", json!({"rules": rules, "fn": "a"}), "spec.fn: ");
    refused("Route", json!({"rules": rules, "basePath": "/"}), "spec.basePath: ");
    refused("Route", json!({"rules": rules, "operations": {"a": {}}}), "spec.operations: goes with");
    refused("Route", json!({"operations": {"a".repeat(256): {}}}), "1 to 255 characters");
    refused("Route", json!({"rules": [{"backends": [{"fn": "a", "weight": 0}]}]}), "a weight above 0");
}

#[test]
fn paths_have_one_meaning() {
    let trigger = |source: &str| json!({"fn": "a", "http": {"source": source}});
    for path in ["/", "/hook", "/hook/", "/a.b/..c/~%20'()@:", "/.well-known/x"] {
        accepted("Trigger", trigger(path));
        accepted("Route", json!({"openapi": {"inline": "x"}, "basePath": path}));
    }
    for path in [
        "",
        "hook",
        "//",
        "/a//b",
        "/a/../b",
        "/..",
        "/./a",
        "/%2e%2E/a",
        "/.%2e",
        "/a?b",
        "/a#b",
        "/a b",
        "/ä",
        "/{id}",
    ] {
        refused("Trigger", trigger(path), "a path begins with `/`");
        let rule = json!({"backends": [{"fn": "a"}], "matches": [{"path": {"value": path}}]});
        refused("Route", json!({"rules": [rule]}), "a path begins with `/`");
    }
}

#[test]
fn a_trigger_is_a_queue_a_path_or_times() {
    let one = "exactly one of `queue`, `http` and `schedule`";
    accepted("Trigger", json!({"fn": "a", "queue": {"exchange": "b"}, "suspend": true}));
    accepted("Trigger", json!({"fn": "a", "schedule": {"cron": "@daily"}}));
    refused("Trigger", json!({"fn": "a", "queue": {"exchange": "replies"}}), "choose another name");
    let broker = json!({"secretKeyRef": {"name": "rabbit", "key": "url"}});
    accepted("Trigger", json!({"fn": "a", "queue": {"broker": broker, "name": "orders", "prefetch": 7}}));
    for queue in [
        json!({}),
        json!({"broker": broker}),
        json!({"name": "orders"}),
        json!({"exchange": "b", "broker": broker, "name": "orders"}),
        json!({"exchange": "b", "prefetch": 7}),
        json!({"broker": broker, "name": "orders", "bindingKey": "#"}),
    ] {
        refused("Trigger", json!({"fn": "a", "queue": queue}), "either `exchange`");
    }
    refused("Trigger", json!({"fn": "a"}), one);
    refused("Trigger", json!({"queue": {}, "http": {"source": "/"}}), one);
    refused("Trigger", json!({"queue": {}, "schedule": {}}), one);
    refused("Trigger", json!({"queue": {}, "schedule": {}, "http": {"source": "/"}}), one);
    for is_async in [true, false] {
        accepted("Trigger", json!({"fn": "a", "async": is_async, "http": {"source": "/"}}));
        for source in ["queue", "schedule"] {
            refused("Trigger", json!({"async": is_async, source: {}}), "spec.async: goes with `http` only");
        }
    }
}

#[test]
fn a_schedules_lengths_are_bounded() {
    let schedule = |field: &str, length: &str| json!({"schedule": {"cron": "@daily", field: length}});
    for length in ["0s", "90s", "1h"] {
        accepted("Trigger", schedule("jitter", length));
    }
    refused("Trigger", schedule("jitter", "1h1s"), "a jitter is 0s to 1h");
    for length in ["10s", "10m", "8760h"] {
        accepted("Trigger", schedule("startingDeadline", length));
    }
    for length in ["9s", "8761h"] {
        refused("Trigger", schedule("startingDeadline", length), "a startingDeadline is 10s to 8760h");
    }
}

#[test]
fn an_app_is_for_life() {
    for kind in ["Fn", "Route", "Trigger"] {
        let definition = definitions().into_iter().find(|d| d.kind == kind).unwrap();
        let app = &definition.schema()["properties"]["spec"]["properties"]["app"];
        assert_eq!(app["x-kubernetes-validations"][0]["rule"], "self == oldSelf", "{kind}");
        assert!(
            definition.schema()["properties"]["spec"]["required"].as_array().unwrap().contains(&json!("app"))
        );
    }
}
