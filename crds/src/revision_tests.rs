//! What a revision's name depends on, and what it must not.

use serde_json::{Value, json};

use super::*;

fn spec(change: Value) -> FnSpec {
    let mut spec = json!({"app": "shop", "runtime": "python", "source": {"inline": "x"}});
    merge(&mut spec, change);
    serde_json::from_value(spec).unwrap()
}

/// JSON merge patch (RFC 7396) of one level.
fn merge(into: &mut Value, change: Value) {
    let Value::Object(change) = change else { panic!("a patch is an object") };
    for (key, value) in change {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(&key);
        } else {
            into[key] = value;
        }
    }
}

fn code() -> Option<Digest> {
    Some(Digest::of(b"code"))
}

fn build(change: Value) -> Result<RunDocument, RevisionError> {
    RunDocument::build("team-a", "list-orders", &AppSpec::default(), &spec(change), code())
}

fn name(change: Value) -> String {
    build(change).unwrap().revision.to_string()
}

fn refusal(change: Value) -> String {
    build(change).unwrap_err().to_string()
}

/// Should this ever change without a new scheme version, an upgrade of the platform rolls every Fn of every user.
#[test]
fn an_upgrade_rolls_nothing() {
    assert_eq!(name(json!({})), "list-orders-33499ea3");
    let full = json!({
        "handler": "orders.list", "timeout": "90s", "concurrency": 4,
        "resources": {"limits": {"memory": "128Mi"}},
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}},
        ],
        "envFrom": [{"prefix": "X_", "configMapRef": {"name": "c", "optional": true}}],
    });
    assert_eq!(name(full), "list-orders-1736807c");
    let image = json!({"runtime": null, "source": null, "image": "registry/invoice:1.4"});
    assert_eq!(name(image), "list-orders-6556241a");
    let http = json!({"runtime": null, "source": null, "image": "registry/invoice:1.4", "contract": "http"});
    assert_eq!(name(http), "list-orders-d5e40a71");
}

/// Whom the end of a call is told runs no other code.
#[test]
fn a_callback_rolls_nothing() {
    let told = json!({"async": {"onSuccess": {"fn": "mail"}, "onFailure": {"url": "https://a.b"}}});
    assert_eq!(name(told), name(json!({})));
}

/// The waits are the broker's, and a call's age travels with it.
#[test]
fn how_long_a_call_waits_rolls_nothing() {
    let waits = json!({"async": {"retry": {"backoff": "5s", "maxAge": "1h"}}});
    assert_eq!(name(waits), name(json!({})));
}

/// An event says nothing of its attempts, and its runner can ask nobody.
#[test]
fn attempts_are_part_of_what_is_run() {
    let document = |attempts| build(json!({"async": {"retry": {"maxAttempts": attempts}}})).unwrap();
    assert_eq!(document(json!(7)).attempts_max, 7);
    assert_eq!(document(json!(null)).attempts_max, DEFAULT_ATTEMPTS);
    let text = String::from_utf8(document(json!(7)).to_bytes()).unwrap();
    assert!(text.ends_with(r#","timeoutMs":30000,"maxAttempts":7}"#), "{text}");
    assert_eq!(serde_json::from_str::<RunDocument>(&text).unwrap(), document(json!(7)));
}

#[test]
fn the_document_is_canonical_json() {
    let document =
        build(json!({"env": [{"name": "A", "value": "1"}], "resources": {"limits": {"memory": "1Mi"}}}));
    let document = document.unwrap();
    let text = String::from_utf8(document.to_bytes()).unwrap();
    let (revision, code) = (&document.revision, Digest::of(b"code"));
    let expected = format!(
        r#"{{"version":1,"namespace":"team-a","app":"shop","fn":"list-orders","revision":"{revision}","#
    ) + &format!(r#""runtime":"python","handler":"handler","code":"{code}","#)
        + r#""env":[{"value":{"name":"A","value":"1"}}],"memoryBytes":1048576,"concurrency":1,"timeoutMs":30000}"#;
    assert_eq!(text, expected);
    assert_eq!(serde_json::from_str::<RunDocument>(&text).unwrap(), document);
    assert_eq!(document.digest(), Digest::of(text.as_bytes()));
}

#[test]
fn defaults_written_out_are_no_change() {
    let written = json!({"handler": "handler", "timeout": "30s", "concurrency": 1, "async": {"retry": {"maxAttempts": 4}}});
    assert_eq!(name(written), name(json!({})));
    assert_eq!(name(json!({"timeout": "60s"})), name(json!({"timeout": "1m"})));
    let image = |contract| name(json!({"runtime": null, "source": null, "image": "i", "contract": contract}));
    assert_eq!(image(json!("fn")), image(json!(null)));
    assert_ne!(image(json!("http")), image(json!("fn")));
    let memory = |m: &str| name(json!({"resources": {"limits": {"memory": m}}}));
    assert_eq!(memory("1Gi"), memory("1024Mi"));
}

#[test]
fn whatever_the_user_changes_is_a_new_revision() {
    let base = name(json!({}));
    for change in [
        json!({"handler": "other"}),
        json!({"timeout": "31s"}),
        json!({"concurrency": 2}),
        json!({"async": {"retry": {"maxAttempts": 5}}}),
        json!({"runtime": "node"}),
        json!({"app": "other"}),
        json!({"resources": {"limits": {"memory": "64Mi"}}}),
        json!({"env": [{"name": "A", "value": ""}]}),
        json!({"envFrom": [{"secretRef": {"name": "a"}}]}),
    ] {
        assert_ne!(name(change.clone()), base, "{change}");
    }
    let app = AppSpec {
        env: vec![crate::EnvVar { name: "A".into(), value: Some("1".into()), ..Default::default() }],
        ..Default::default()
    };
    let of = |ns, fn_name, app: &AppSpec, code| {
        RunDocument::build(ns, fn_name, app, &spec(json!({})), code).unwrap().revision.to_string()
    };
    assert_eq!(of("team-a", "list-orders", &AppSpec::default(), code()), base);
    assert_ne!(of("team-a", "list-orders", &app, code()), base);
    assert_ne!(of("team-b", "list-orders", &AppSpec::default(), code()), base);
    assert_ne!(of("team-a", "list-orders", &AppSpec::default(), Some(Digest::of(b"new"))), base);
}

#[test]
fn what_is_not_run_is_no_part_of_a_revision() {
    let app = AppSpec { hostnames: vec!["shop.example.com".into()], ..Default::default() };
    let other = RunDocument::build("team-a", "list-orders", &app, &spec(json!({})), code()).unwrap();
    assert_eq!(other.revision.as_str(), name(json!({})));
    let image = |scale| name(json!({"runtime": null, "source": null, "image": "i", "scale": scale}));
    assert_eq!(image(json!({"replicas": 1})), image(json!({"replicas": 9})));
}

#[test]
fn an_image_has_neither_handler_nor_code() {
    let document = build(json!({"runtime": null, "source": null, "image": "i"})).unwrap();
    assert_eq!((document.handler.as_str(), document.code), ("", None));
}

#[test]
fn a_refusal_names_the_field() {
    for (change, start) in [
        (json!({"runtime": null}), "spec: set exactly one of `runtime`"),
        (json!({"image": "i"}), "spec: set exactly one of `runtime`"),
        (json!({"source": null}), "spec.source: is missing"),
        (json!({"runtime": null, "image": "i"}), "spec.source: goes with `runtime` only"),
        (json!({"runtime": null, "source": null, "image": "i", "handler": "h"}), "spec.handler: goes with"),
        (
            json!({"runtime": null, "source": null, "image": "i", "contract": "command"}),
            "spec.contract: `command` is not there yet",
        ),
        (json!({"timeout": "soon"}), "spec.timeout: `soon` is no duration"),
        (json!({"timeout": "2h"}), "spec.timeout: `2h` is out of bounds"),
        (json!({"concurrency": 0}), "spec.concurrency: 0 is out of bounds"),
        (json!({"concurrency": 1001}), "spec.concurrency: 1001"),
        (json!({"concurrency": -1}), "spec.concurrency: -1"),
        (json!({"resources": {"limits": {"memory": "much"}}}), "spec.resources.limits.memory: `much`"),
        (json!({"resources": {"limits": {"memory": "128m"}}}), "spec.resources.limits.memory: `128m`"),
        (json!({"env": [{"name": "A"}]}), "Fn spec.env[0]: set exactly one"),
    ] {
        let refused = refusal(change);
        assert!(refused.starts_with(start), "{refused}");
    }
}

#[test]
fn a_revisions_name_is_its_fns_and_eight_digits() {
    let name = RevisionName::parse("list-orders-0123abcd").unwrap();
    assert_eq!(name.fn_name(), "list-orders");
    let longest = RevisionName::new(&"a".repeat(40), "0123abcd").unwrap();
    assert_eq!(longest.as_str().len(), 49);
    let long = format!("{}-0123abcd", "a".repeat(41));
    for text in [
        "",
        "-0123abcd",
        "a-0123abc",
        "a-0123abcde",
        "a-0123ABCD",
        "A-0123abcd",
        "a.b-0123abcd",
        "--0123abcd",
        &long,
    ] {
        assert!(RevisionName::parse(text).is_err(), "{text}");
        assert!(serde_json::from_value::<RevisionName>(text.into()).is_err(), "{text}");
    }
}
