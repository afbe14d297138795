//! Checks a manifest as the API server would: the CRD's own schema, closed against unknown fields, and its CEL
//! rules. Never reads files.

use std::sync::Arc;

use cel::{Context, ExecutionError, Program};
use funcatron_crds::parse_duration;
use jsonschema::Validator;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value};

/// Most problems told of one manifest: more than a screen helps nobody.
const PROBLEMS_MAX: usize = 20;

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finding {
    /// JSON pointer of the field.
    pub(crate) pointer: String,
    pub(crate) message: String,
}

/// The schema of one kind.
pub(crate) struct Schema {
    validator: Validator,
    schema: Value,
}

/// Why a CRD of ours cannot be used: a fault of this program, not of the user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SchemaError {
    #[error("the CRD {0} has no schema")]
    Missing(String),
    #[error("the schema of {0} is not valid: {1}")]
    Invalid(String, String),
}

impl Schema {
    pub(crate) fn of(crd: &CustomResourceDefinition) -> Result<Self, SchemaError> {
        let name = crd.spec.names.kind.clone();
        let schema = crd
            .spec
            .versions
            .first()
            .and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref())
            .and_then(|schema| serde_json::to_value(schema).ok())
            .ok_or_else(|| SchemaError::Missing(name.clone()))?;
        let schema = with_folders(with_object_fields(schema));
        let validator = jsonschema::options()
            .build(&closed(schema.clone()))
            .map_err(|error| SchemaError::Invalid(name, error.to_string()))?;
        Ok(Self { validator, schema })
    }

    /// Everything wrong with a manifest, in the order of its fields.
    pub(crate) fn check(&self, manifest: &Value) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self
            .validator
            .iter_errors(manifest)
            .map(|error| Finding { pointer: error.instance_path().to_string(), message: error.to_string() })
            .take(PROBLEMS_MAX)
            .collect();
        if findings.is_empty() {
            check_rules(&self.schema, manifest, &mut String::new(), &mut findings);
        }
        findings
    }
}

/// The API server knows these of every object; the CRD does not say them.
fn with_object_fields(mut schema: Value) -> Value {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("apiVersion".into(), serde_json::json!({"type": "string"}));
        properties.insert("kind".into(), serde_json::json!({"type": "string"}));
        properties.insert(
            "metadata".into(),
            serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "required": ["name"], "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}}}),
        );
    }
    schema
}

/// A Fn's `source.path` is `dev`'s alone: the CRD does not have it, nor does its rule count it. The plan counts.
fn with_folders(mut schema: Value) -> Value {
    let source = schema.pointer_mut("/properties/spec/properties/source").and_then(Value::as_object_mut);
    if let Some(source) = source.filter(|source| source.contains_key("x-kubernetes-validations")) {
        source.remove("x-kubernetes-validations");
        if let Some(fields) = source.get_mut("properties").and_then(Value::as_object_mut) {
            fields.insert("path".into(), serde_json::json!({"type": "string", "minLength": 1}));
        }
    }
    schema
}

/// Refuses fields that the schema does not name, as strict field validation does.
fn closed(schema: Value) -> Value {
    match schema {
        Value::Object(map) => {
            let open = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            let close = map.contains_key("properties") && !map.contains_key("additionalProperties") && !open;
            let mut map: Map<String, Value> =
                map.into_iter().map(|(key, value)| (key, closed(value))).collect();
            if close {
                map.insert("additionalProperties".into(), Value::Bool(false));
            }
            Value::Object(map)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(closed).collect()),
        other => other,
    }
}

/// Runs the rules of every schema node on the value that stands there.
fn check_rules(schema: &Value, value: &Value, pointer: &mut String, findings: &mut Vec<Finding>) {
    if findings.len() >= PROBLEMS_MAX {
        return;
    }
    for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        findings.extend(check_rule(rule, value, pointer));
    }
    let depth = pointer.len();
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let child = schema.pointer("/properties").and_then(|properties| properties.get(name));
                let Some(child) = child.or_else(|| schema.get("additionalProperties")) else { continue };
                pointer.push('/');
                pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
                check_rules(child, field, pointer, findings);
                pointer.truncate(depth);
            }
        }
        Value::Array(items) => {
            let Some(child) = schema.get("items") else { return };
            for (index, item) in items.iter().enumerate() {
                pointer.push_str(&format!("/{index}"));
                check_rules(child, item, pointer, findings);
                pointer.truncate(depth);
            }
        }
        _ => {}
    }
}

fn check_rule(rule: &Value, value: &Value, pointer: &str) -> Option<Finding> {
    let text = rule.get("rule")?.as_str()?;
    // A transition rule speaks of a change; a file has no past.
    if text.contains("oldSelf") {
        return None;
    }
    let holds = Program::compile(text).ok().and_then(|program| {
        let mut context = Context::default();
        context.add_variable("self", value.clone()).ok()?;
        // Kubernetes' CEL has it, and this one without its calendar has not; milliseconds compare alike.
        let _ = context.add_function("duration", |text: Arc<String>| {
            let length = parse_duration(&text).and_then(|length| i64::try_from(length.as_millis()).ok());
            length.ok_or_else(|| ExecutionError::function_error("duration", "no duration"))
        });
        program.execute(&context).ok()
    });
    if holds == Some(cel::Value::Bool(true)) {
        return None;
    }
    let message = rule.get("message").and_then(Value::as_str).unwrap_or(text);
    Some(Finding { pointer: pointer.to_owned(), message: message.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::{App, Function, Route, Trigger};
    use kube::CustomResourceExt;
    use serde_json::json;

    fn rules(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(map) => {
                let here =
                    map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
                found.extend(here.filter_map(|rule| rule["rule"].as_str().map(str::to_owned)));
                map.values().for_each(|child| rules(child, found));
            }
            Value::Array(items) => items.iter().for_each(|child| rules(child, found)),
            _ => {}
        }
    }

    #[test]
    fn every_rule_of_the_crds_is_one_that_dev_can_run() {
        for crd in [App::crd(), Function::crd(), Route::crd(), Trigger::crd()] {
            let mut found = Vec::new();
            rules(&serde_json::to_value(&crd).unwrap(), &mut found);
            assert!(!found.is_empty(), "{} has rules", crd.spec.names.kind);
            for rule in found {
                assert!(Program::compile(&rule).is_ok(), "{}: {rule}", crd.spec.names.kind);
            }
        }
    }

    fn fn_manifest(spec: Value) -> Value {
        let mut manifest =
            json!({"apiVersion": "funcatron.dev/v1alpha1", "kind": "Fn", "metadata": {"name": "a"}});
        manifest["spec"] = spec;
        manifest
    }

    #[test]
    fn a_good_fn_has_no_findings() {
        let schema = Schema::of(&Function::crd()).unwrap();
        let spec = json!({"app": "shop", "runtime": "python", "source": {"inline": "def handler(ctx, data): pass"},
            "env": [{"name": "A", "value": "1"}], "timeout": "10s", "concurrency": 2});
        assert_eq!(schema.check(&fn_manifest(spec)), vec![]);
    }

    #[test]
    fn a_folder_is_a_source_here() {
        let schema = Schema::of(&Function::crd()).unwrap();
        let spec = json!({"app": "shop", "runtime": "python", "source": {"path": "code"}});
        assert_eq!(schema.check(&fn_manifest(spec)), vec![]);
    }

    #[test]
    fn an_unknown_field_is_named() {
        let schema = Schema::of(&Function::crd()).unwrap();
        let findings = schema.check(&fn_manifest(json!({"app": "shop", "image": "a/b:1", "imge": "x"})));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("imge"), "{findings:?}");
        assert_eq!(findings[0].pointer, "/spec");
    }

    #[test]
    fn a_wrong_type_is_found_at_its_field() {
        let schema = Schema::of(&Function::crd()).unwrap();
        let findings =
            schema.check(&fn_manifest(json!({"app": "shop", "image": "a/b:1", "concurrency": "two"})));
        assert_eq!(findings[0].pointer, "/spec/concurrency");
    }

    #[test]
    fn a_rule_speaks_its_message() {
        let schema = Schema::of(&Function::crd()).unwrap();
        let both = json!({"app": "shop", "image": "a/b:1", "runtime": "python", "source": {"inline": "x"}});
        let findings = schema.check(&fn_manifest(both));
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(
            findings[0].message.contains("image") && findings[0].message.contains("runtime"),
            "{findings:?}"
        );
    }
}
