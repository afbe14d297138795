//! What every schema keeps to, walked field by field.

use std::collections::BTreeSet;

use super::*;

/// Visits each schema below `schema` with its path: properties, items and values of maps.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), visit);
    }
    for (key, tail) in [("items", "[]"), ("additionalProperties", ".*")] {
        if let Some(inner) = schema.get(key) {
            walk(inner, &format!("{path}{tail}"), visit);
        }
    }
}

fn walk_all(mut visit: impl FnMut(&str, &Value)) {
    for definition in definitions() {
        walk(definition.schema(), definition.kind, &mut visit);
    }
}

fn schema_at(kind: &str, pointer: &str) -> Value {
    let definition = definitions().into_iter().find(|d| d.kind == kind).unwrap();
    definition.schema().pointer(pointer).unwrap_or_else(|| panic!("{kind} has no {pointer}")).clone()
}

#[test]
fn everything_is_bounded() {
    let mut fields = 0;
    walk_all(|path, schema| {
        fields += 1;
        let has = |key: &str| schema.get(key).is_some();
        let bounded = match schema["type"].as_str() {
            Some("string") => has("maxLength") || has("enum"),
            Some("array") => has("maxItems") && has("items") && has("x-kubernetes-list-type"),
            Some("integer") => has("minimum"),
            Some("boolean") => true,
            Some("object") if has("additionalProperties") => has("maxProperties"),
            Some("object") => has("properties"),
            Some(_) => false,
            None => has("x-kubernetes-int-or-string") && has("maxLength") && has("pattern"),
        };
        assert!(bounded, "{path} is unbounded: {schema}");
        assert!(!has("x-kubernetes-preserve-unknown-fields"), "{path} takes unknown fields");
    });
    assert!(fields > 100, "only {fields} were walked");
}

#[test]
fn each_integer_of_a_spec_has_a_most() {
    walk_all(|path, schema| {
        if schema["type"] == "integer" && path.contains(".spec.") {
            assert!(schema.get("maximum").is_some(), "{path}");
        }
    });
}

#[test]
fn each_field_is_described() {
    walk_all(|path, schema| {
        let inner = path.ends_with("[]") || path.ends_with(".*") || path.matches('.').count() < 2;
        let text = schema["description"].as_str().unwrap_or_default();
        assert!(inner || text.ends_with('.'), "{path}: {text:?}");
    });
}

#[test]
fn each_rule_says_what_to_do() {
    let mut rules = 0;
    walk_all(|path, schema| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            rules += 1;
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(message.len() > 20 && !message.contains('\n'), "{path}: {rule}");
        }
    });
    assert!(rules > 30, "only {rules} rules");
}

/// Nothing is accepted and ignored.
#[test]
fn what_does_not_work_yet_is_no_field() {
    let absent = BTreeSet::from([
        "traffic",
        "url",
        "oci",
        "bundle",
        "isolation",
        "validate",
        "properties",
        "suspend",
        "preload",
        "idleTimeout",
        "path",
        "max",
        "callsPerSecond",
        "queueLength",
        "pools",
        "target",
        "mode",
        "tag",
    ]);
    walk_all(|path, schema| {
        for name in schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name) {
            let of_match = path == "Route.spec.rules[].matches[]" && name == "path";
            let of_trigger = path == "Trigger.spec" && name == "suspend";
            let of_callback = path.starts_with("Fn.spec.async.on") && name == "url";
            let in_spec = path.contains(".spec") && !of_match && !of_trigger && !of_callback;
            assert!(!in_spec || !absent.contains(name.as_str()), "{path}.{name}");
        }
    });
    assert!(schema_at("Fn", "/properties/spec/properties/source/properties").get("path").is_none());
    let limits = schema_at("App", "/properties/spec/properties/limits/properties");
    assert_eq!(limits.as_object().unwrap().keys().collect::<Vec<_>>(), ["bodyBytes", "concurrency"]);
}

#[test]
fn conditions_are_a_map_by_type() {
    for definition in definitions() {
        let conditions = &definition.schema()["properties"]["status"]["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{}", definition.kind);
        assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]), "{}", definition.kind);
    }
}

#[test]
fn a_variable_is_set_once() {
    for kind in ["App", "Fn"] {
        let env = schema_at(kind, "/properties/spec/properties/env");
        assert_eq!(env["x-kubernetes-list-map-keys"], json!(["name"]), "{kind}");
    }
}

#[test]
fn a_fn_scales_and_tells_its_status_apart() {
    let definition = definitions().into_iter().find(|d| d.kind == "Fn").unwrap();
    let expected = json!({
        "scale": {
            "specReplicasPath": ".spec.scale.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
        "status": {},
    });
    assert_eq!(definition.value["spec"]["versions"][0]["subresources"], expected);
}

#[test]
fn columns_tell_and_point_at_fields() {
    for definition in definitions() {
        let columns = definition.value["spec"]["versions"][0]["additionalPrinterColumns"].clone();
        let columns = columns.as_array().unwrap();
        for name in ["Ready", "Reason", "Age"] {
            assert!(columns.iter().any(|c| c["name"] == name), "{} {name}", definition.kind);
        }
        for column in columns {
            let path = column["jsonPath"].as_str().unwrap();
            let field = path.split(['[', '?']).next().unwrap().replace('.', "/properties/");
            let known = path.starts_with(".metadata.") || definition.schema().pointer(&field).is_some();
            assert!(known, "{} {path}", definition.kind);
        }
    }
}

#[test]
fn kinds_are_found_by_category_and_names_of_our_own() {
    for (definition, short) in definitions().iter().zip(["fapp", "ffn", "froute", "ftrigger"]) {
        let names = &definition.value["spec"]["names"];
        assert_eq!(names["plural"], definition.plural);
        assert_eq!(names["categories"], json!(["funcatron"]));
        assert_eq!(names["shortNames"], json!([short]));
        assert_eq!(definition.value["spec"]["scope"], "Namespaced");
        assert!(definition.value["spec"]["versions"][0]["subresources"].get("status").is_some());
    }
}

#[test]
fn no_field_may_be_null() {
    let text = serde_json::to_string(&definitions().iter().map(|d| &d.value).collect::<Vec<_>>()).unwrap();
    assert!(!text.contains("null"));
}
