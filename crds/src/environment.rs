//! A Fn's environment: what App and Fn say, merged. Holds the names of keys, never a Secret's value.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{AppSpec, EnvFromSource, EnvVar, FnSpec};

/// Names that begin so are the platform's own (`FN_` is Fn's contract).
pub const RESERVED_PREFIXES: [&str; 2] = ["FN_", "FUNCATRON_"];

/// The kind of a named object.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Confidential.
    Secret,
    /// Plain.
    ConfigMap,
}

/// One step in building an environment; a later one of the same name wins. Part of every revision's hash: the forms
/// below never change.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum EnvEntry {
    /// A plain value.
    Value {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
    },
    /// One key of an object in the App's namespace.
    Key {
        /// The variable.
        name: String,
        /// What holds the key.
        object: ObjectKind,
        /// The object's name.
        object_name: String,
        /// The key.
        key: String,
        /// Whether it may be missing.
        optional: bool,
    },
    /// All keys of an object in the App's namespace that are names of variables.
    All {
        /// Put before each key; may be empty.
        prefix: String,
        /// What holds the keys.
        object: ObjectKind,
        /// The object's name.
        object_name: String,
        /// Whether the object may be missing.
        optional: bool,
    },
}

/// Why an environment cannot be built. Each names the field.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EnvError {
    /// Neither or both of value and valueFrom, or of the references within.
    #[error("{kind} {field}: set exactly one of {choices}")]
    ExactlyOne {
        /// `App` or `Fn`.
        kind: &'static str,
        /// The path within it.
        field: String,
        /// What there is to choose from.
        choices: &'static str,
    },
    /// A name that is none, or not the user's to set.
    #[error("{kind} {field}: `{name}` {problem}")]
    Name {
        /// `App` or `Fn`.
        kind: &'static str,
        /// The path within it.
        field: String,
        /// The variable.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// App's envFrom, Fn's envFrom, App's env, Fn's env; a later one wins, and a Fn's variable takes its App's place. What
/// `check_env` refuses is left out.
pub fn merged_env(app: &AppSpec, spec: &FnSpec) -> Vec<EnvEntry> {
    let own: BTreeSet<&str> = spec.env.iter().map(|var| var.name.as_str()).collect();
    let inherited = app.env.iter().filter(|var| !own.contains(var.name.as_str()));
    let whole = app.env_from.iter().chain(&spec.env_from).filter_map(entry_of_source);
    whole.chain(inherited.chain(&spec.env).filter_map(entry_of_variable)).collect()
}

fn entry_of_variable(var: &EnvVar) -> Option<EnvEntry> {
    let name = var.name.clone();
    let Some(from) = &var.value_from else {
        return Some(EnvEntry::Value { name, value: var.value.clone()? });
    };
    let (object, selector) = match (&from.secret_key_ref, &from.config_map_key_ref) {
        (Some(selector), None) => (ObjectKind::Secret, selector),
        (None, Some(selector)) => (ObjectKind::ConfigMap, selector),
        _ => return None,
    };
    Some(EnvEntry::Key {
        name,
        object,
        object_name: selector.name.clone(),
        key: selector.key.clone(),
        optional: selector.optional.unwrap_or(false),
    })
}

fn entry_of_source(source: &EnvFromSource) -> Option<EnvEntry> {
    let (object, reference) = match (&source.secret_ref, &source.config_map_ref) {
        (Some(reference), None) => (ObjectKind::Secret, reference),
        (None, Some(reference)) => (ObjectKind::ConfigMap, reference),
        _ => return None,
    };
    Some(EnvEntry::All {
        prefix: source.prefix.clone().unwrap_or_default(),
        object,
        object_name: reference.name.clone(),
        optional: reference.optional.unwrap_or(false),
    })
}

/// What the API server checks by the CRDs' rules, for manifests that come from a file.
pub fn check_env(kind: &'static str, env: &[EnvVar], env_from: &[EnvFromSource]) -> Result<(), EnvError> {
    for (i, var) in env.iter().enumerate() {
        check_name(kind, format!("spec.env[{i}].name"), &var.name)?;
        let problem = match (&var.value, &var.value_from) {
            (Some(_), None) => None,
            (None, Some(from)) => (from.secret_key_ref.is_some() == from.config_map_key_ref.is_some())
                .then_some((".valueFrom", "`secretKeyRef` and `configMapKeyRef`")),
            _ => Some(("", "`value` and `valueFrom`")),
        };
        if let Some((tail, choices)) = problem {
            return Err(EnvError::ExactlyOne { kind, field: format!("spec.env[{i}]{tail}"), choices });
        }
    }
    for (i, source) in env_from.iter().enumerate() {
        if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            check_name(kind, format!("spec.envFrom[{i}].prefix"), prefix)?;
        }
        if source.secret_ref.is_some() == source.config_map_ref.is_some() {
            let choices = "`configMapRef` and `secretRef`";
            return Err(EnvError::ExactlyOne { kind, field: format!("spec.envFrom[{i}]"), choices });
        }
    }
    Ok(())
}

fn check_name(kind: &'static str, field: String, name: &str) -> Result<(), EnvError> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let problem = if name.is_empty() || name.as_bytes()[0].is_ascii_digit() || !name.bytes().all(inner) {
        "is no name of a variable: letters, digits, `_`, `-` and `.`, not beginning with a digit"
    } else if RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        "is reserved: names with FN_ and FUNCATRON_ are the platform's own"
    } else {
        return Ok(());
    };
    Err(EnvError::Name { kind, field, name: name.chars().take(100).collect(), problem })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn merged(app: Value, spec: Value) -> Vec<Value> {
        let (app, spec) = (serde_json::from_value(app).unwrap(), serde_json::from_value(spec).unwrap());
        merged_env(&app, &spec).iter().map(|entry| serde_json::to_value(entry).unwrap()).collect()
    }

    #[test]
    fn a_fns_variable_takes_its_apps_place_and_case_is_kept() {
        let app =
            json!({"env": [{"name": "GREETING", "value": "app"}, {"name": "Greeting", "value": "other"}]});
        let spec = json!({"app": "shop", "env": [{"name": "GREETING", "value": "fn"}]});
        assert_eq!(
            merged(app, spec),
            [
                json!({"value": {"name": "Greeting", "value": "other"}}),
                json!({"value": {"name": "GREETING", "value": "fn"}}),
            ]
        );
    }

    #[test]
    fn whole_objects_come_before_variables_and_the_apps_before_the_fns() {
        let app = json!({
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}}],
            "envFrom": [{"configMapRef": {"name": "shop"}}],
        });
        let spec = json!({
            "app": "shop",
            "env": [{"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": true}}}],
            "envFrom": [{"prefix": "X_", "secretRef": {"name": "own", "optional": true}}],
        });
        assert_eq!(
            merged(app, spec),
            [
                json!({"all": {"prefix": "", "object": "ConfigMap", "objectName": "shop", "optional": false}}),
                json!({"all": {"prefix": "X_", "object": "Secret", "objectName": "own", "optional": true}}),
                json!({"key": {"name": "A", "object": "Secret", "objectName": "db", "key": "url", "optional": false}}),
                json!({"key": {"name": "B", "object": "ConfigMap", "objectName": "c", "key": "k", "optional": true}}),
            ]
        );
    }

    fn refusal(env: Value, env_from: Value) -> String {
        let (env, env_from): (Vec<EnvVar>, Vec<EnvFromSource>) =
            (serde_json::from_value(env).unwrap(), serde_json::from_value(env_from).unwrap());
        check_env("Fn", &env, &env_from).map_or_else(|e| e.to_string(), |()| "none".to_owned())
    }

    #[test]
    fn a_refusal_names_the_field() {
        let one = refusal(json!([{"name": "A", "value": ""}, {"name": "B"}]), json!([]));
        assert_eq!(one, "Fn spec.env[1]: set exactly one of `value` and `valueFrom`");
        let both = refusal(json!([]), json!([{"secretRef": {"name": "a"}, "configMapRef": {"name": "a"}}]));
        assert_eq!(both, "Fn spec.envFrom[0]: set exactly one of `configMapRef` and `secretRef`");
        let from = refusal(json!([{"name": "A", "valueFrom": {}}]), json!([]));
        assert!(from.starts_with("Fn spec.env[0].valueFrom: "), "{from}");
        for name in ["FN_FORMAT", "FUNCATRON_APP", "1A", "", "A B", "A=B", "Ä"] {
            let refused = refusal(json!([{"name": name, "value": "x"}]), json!([]));
            assert!(refused.starts_with(&format!("Fn spec.env[0].name: `{name}` is")), "{refused}");
        }
        for name in ["FNORD", "fn_x", "a.b-c_1", "_"] {
            assert_eq!(refusal(json!([{"name": name, "value": "x"}]), json!([])), "none");
        }
        assert!(
            refusal(json!([]), json!([{"prefix": "FN_", "secretRef": {"name": "a"}}])).contains("prefix")
        );
    }
}
